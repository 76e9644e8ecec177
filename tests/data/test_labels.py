"""Raw mask values become train ids through one table, and damaged files are named."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from contextbench.data.base import IGNORE, DataError
from contextbench.data.labels import LabelTable, colourise, read_image, read_indices, read_pair

TABLE = LabelTable({7: 0, 200: 1}, ignored=(0, 255))
RAW = np.array([[7, 200, 0], [255, 7, 7]], dtype=np.uint8)
TRAIN_IDS = [[0, 1, IGNORE], [IGNORE, 0, 0]]


def save(path: Path, pixels: np.ndarray, mode: str | None = None) -> Path:
    image = Image.fromarray(pixels)
    if mode == "P":
        image = image.copy()
        image.putpalette([255 - value // 3 for value in range(768)])  # far from the identity
    image.save(path)
    return path


def test_the_table_maps_each_raw_value_to_its_declared_train_id() -> None:
    before = RAW.copy()
    assert TABLE.apply(RAW, Path("m.png")).tolist() == TRAIN_IDS
    np.testing.assert_array_equal(RAW, before)


def test_an_undeclared_value_is_an_error_that_names_file_and_value() -> None:
    with pytest.raises(DataError, match=r"some/mask\.png.* 8, 9; declared: 0, 7, 200, 255"):
        TABLE.apply(np.array([[7, 8, 9]], dtype=np.uint8), Path("some/mask.png"))


@pytest.mark.parametrize(("train_ids", "ignored"), [({1: 0}, (1,)), ({256: 0}, ()), ({0: -1}, ())])
def test_a_contradictory_or_impossible_table_is_refused(
    train_ids: dict[int, int], ignored: tuple[int, ...]
) -> None:
    with pytest.raises(DataError):
        LabelTable(train_ids, ignored=ignored)


def test_tables_that_differ_have_different_fingerprints() -> None:
    assert TABLE.fingerprint_bytes() != LabelTable({7: 0, 200: 1}, ignored=(0,)).fingerprint_bytes()


@pytest.mark.parametrize("mode", ["L", "P"])
def test_index_masks_keep_their_indices(tmp_path: Path, mode: str) -> None:
    path = save(tmp_path / "mask.png", RAW, mode)
    with Image.open(path) as file:
        assert file.mode == mode
    np.testing.assert_array_equal(read_indices(path), RAW)


def test_a_colour_mask_is_refused_with_its_mode(tmp_path: Path) -> None:
    path = save(tmp_path / "mask.png", np.zeros((2, 2, 3), dtype=np.uint8))
    with pytest.raises(DataError, match=r"mask\.png.*mode RGB.*L or P"):
        read_indices(path)


def test_grey_images_become_rgb(tmp_path: Path) -> None:
    image = read_image(save(tmp_path / "grey.png", RAW))
    torch.testing.assert_close(image, torch.from_numpy(RAW).expand(3, 2, 3))


def test_channels_come_first_in_the_order_red_green_blue(tmp_path: Path) -> None:
    pixels = np.array([[[1, 2, 3], [4, 5, 6]]], dtype=np.uint8)
    image = read_image(save(tmp_path / "rgb.png", pixels))
    assert image.tolist() == [[[1, 4]], [[2, 5]], [[3, 6]]]


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_truncated_image_is_an_error_that_names_the_file(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = save(tmp_path / f"broken{suffix}", noise)
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(DataError, match=f"broken{suffix}"):
        read_image(path)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_what_is_no_image_is_an_error_that_names_the_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"odd\.png"):
        read_indices(path)


def test_a_pair_of_different_sizes_is_an_error_with_both(tmp_path: Path) -> None:
    image = save(tmp_path / "image.png", np.zeros((4, 6, 3), dtype=np.uint8))
    mask = save(tmp_path / "mask.png", RAW)
    with pytest.raises(DataError, match=r"mask\.png.* 2x3 .*image\.png.* 4x6"):
        read_pair("a", image, mask, TABLE)


def test_a_pair_is_read_as_a_sample(tmp_path: Path) -> None:
    image = save(tmp_path / "image.png", np.full((2, 3, 3), 9, dtype=np.uint8))
    sample = read_pair("a", image, save(tmp_path / "mask.png", RAW), TABLE)
    assert sample.name == "a"
    assert sample.image.shape == (3, 2, 3)
    assert sample.image.dtype == sample.labels.dtype == torch.uint8
    assert sample.labels.tolist() == TRAIN_IDS


def test_colourise_draws_classes_in_their_colours_and_ignored_pixels_black() -> None:
    labels = np.array([[0, 1, IGNORE]], dtype=np.uint8)
    drawn = colourise(labels, [(1, 2, 3), (4, 5, 6)])
    assert drawn.dtype == np.uint8
    assert drawn.tolist() == [[[1, 2, 3], [4, 5, 6], [0, 0, 0]]]
