"""One size stands for all images, and one verdict on the crop, whatever their order."""

from pathlib import Path

import numpy as np
import pytest

from contextbench.config.protocols import DatasetConfig
from contextbench.data import SegmentationDataset, build_dataset
from contextbench.data.base import DataError
from contextbench.data.sizes import check_crops, image_sizes
from tests.data.trees import write_image, write_mask

DESCRIPTION = """
classes: [a, b]
values: [0, 1]
splits: [train]
image_suffix: .png
"""

SMALL, USUAL, LARGE = (20, 30), (40, 60), (80, 60)


def opened(root: Path, *sizes: tuple[int, int]) -> SegmentationDataset:
    """Images of these sizes, in the order of their names."""
    root.mkdir()
    (root / "dataset.yaml").write_text(DESCRIPTION)
    for number, size in enumerate(sizes):
        write_image(root / "images" / "train" / f"{number:03}.png", size)
        write_mask(root / "masks" / "train" / f"{number:03}.png", np.zeros(size, dtype=np.uint8))
    return build_dataset(DatasetConfig(name="folder", root=str(root)), "train", None)


@pytest.mark.parametrize("order", [(SMALL, USUAL, USUAL, LARGE), (LARGE, USUAL, SMALL, USUAL)])
def test_the_median_image_stands_for_all(
    tmp_path: Path, order: tuple[tuple[int, int], ...]
) -> None:
    sizes = image_sizes(opened(tmp_path / "data", *order))
    assert (sizes.smallest, sizes.median, sizes.largest) == (SMALL, USUAL, LARGE)
    assert sizes.differ
    assert sizes.described == "Images are from 20x30 to 80x60, the median is 40x60"


def test_of_two_middle_images_the_smaller_one_is_the_median(tmp_path: Path) -> None:
    assert image_sizes(opened(tmp_path / "data", LARGE, SMALL)).median == SMALL


@pytest.mark.parametrize("order", [(SMALL, USUAL), (USUAL, SMALL)])
def test_a_small_image_does_not_refuse_a_crop_that_others_fill(
    tmp_path: Path, order: tuple[tuple[int, int], ...]
) -> None:
    check_crops(opened(tmp_path / "data", *order), (40, 40), (1.0, 1.0))


@pytest.mark.parametrize(("order", "name"), [((SMALL, USUAL), "001"), ((USUAL, SMALL), "000")])
def test_a_crop_that_no_image_fills_is_refused_with_the_largest(
    tmp_path: Path, order: tuple[tuple[int, int], ...], name: str
) -> None:
    with pytest.raises(DataError, match=f"that is {name} of 2$"):
        check_crops(opened(tmp_path / "data", *order), (100, 100), (1.0, 1.0))


def test_an_image_whose_header_is_damaged_is_left_to_whoever_decodes_it(tmp_path: Path) -> None:
    dataset = opened(tmp_path / "data", USUAL, LARGE)
    (tmp_path / "data" / "images" / "train" / "000.png").write_bytes(b"no picture")
    sizes = image_sizes(dataset)
    assert (sizes.median, sizes.differ) == (LARGE, False)
    (tmp_path / "data" / "images" / "train" / "001.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="000"):
        image_sizes(dataset)
