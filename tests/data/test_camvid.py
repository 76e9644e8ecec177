"""CamVid on folders made here: pairs by stem, the label table, and what is said when files lack."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from contextbench.data import camvid
from contextbench.data.base import IGNORE, DataError
from contextbench.data.camvid import CamVid

# Of three images, which is fewer than the official split has; the tests of that expect it.
pytestmark = pytest.mark.filterwarnings("ignore:.*official split has")
OFFICIAL = 101  # images of val


def write_pair(root: Path, stem: str, *, split: str = "val", suffix: str = ".png") -> None:
    for folder in (root / split, root / f"{split}annot"):
        folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 6, 3), 50, dtype=np.uint8)).save(root / split / f"{stem}{suffix}")
    mask = np.arange(24, dtype=np.uint8).reshape(4, 6) % 12
    Image.fromarray(mask).save(root / f"{split}annot" / f"{stem}.png")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for stem in ("c_03", "a_01", "b_02"):
        write_pair(tmp_path, stem)
    return tmp_path


def test_values_0_to_10_are_classes_and_11_is_ignored(root: Path) -> None:
    sample = CamVid(root).open("val")[0]
    assert sample.name == "a_01"
    assert sample.labels.tolist() == [[*range(6)], [*range(6, 11), IGNORE]] * 2
    torch.testing.assert_close(sample.image, torch.full((3, 4, 6), 50, dtype=torch.uint8))


def test_the_order_is_that_of_the_stems(root: Path) -> None:
    assert [sample.name for sample in CamVid(root).open("val")] == ["a_01", "b_02", "c_03"]


def test_jpeg_images_are_read_too(tmp_path: Path) -> None:
    for stem, suffix in (("a", ".jpg"), ("b", ".png"), ("c", ".JPG")):
        write_pair(tmp_path, stem, suffix=suffix)
    assert [tuple(sample.image.shape) for sample in CamVid(tmp_path).open("val")] == [(3, 4, 6)] * 3


def test_classes_and_palette_match_the_published_order() -> None:
    labels = camvid.LABELS
    assert labels.classes == (
        *("sky", "building", "pole", "road", "pavement", "tree"),
        *("sign-symbol", "fence", "car", "pedestrian", "bicyclist"),
    )
    assert len(labels.palette) == len(set(labels.palette)) == 11
    assert labels.palette[4] == (60, 40, 222)


def test_the_official_number_of_images_is_silent_and_one_more_is_a_warning(tmp_path: Path) -> None:
    for number in range(OFFICIAL):
        write_pair(tmp_path, f"{number:03}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(CamVid(tmp_path).open("val")) == OFFICIAL
    write_pair(tmp_path, "more")
    with pytest.warns(UserWarning, match=r"val: 102 images.*official split has 101"):
        CamVid(tmp_path).open("val")


def test_fewer_images_are_a_warning_with_both_numbers(root: Path) -> None:
    with pytest.warns(UserWarning, match=r"val: 3 images.*official split has 101"):
        CamVid(root).open("val")


def test_missing_partners_are_listed(root: Path) -> None:
    (root / "val" / "a_01.png").unlink()
    (root / "valannot" / "b_02.png").unlink()
    expected = r"1 masks without image \(a_01\); 1 images without mask \(b_02\)"
    with pytest.raises(DataError, match=expected):
        CamVid(root).open("val")


def test_a_missing_folder_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere/train does not exist.*--data-root"):
        CamVid(tmp_path / "nowhere").open("train")


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "val").mkdir()
    (tmp_path / "valannot").mkdir()
    with pytest.raises(DataError, match="no images"):
        CamVid(tmp_path).open("val")


def test_two_images_of_one_stem_are_an_error(root: Path) -> None:
    write_pair(root, "a_01", suffix=".jpg")
    with pytest.raises(DataError, match="same stem"):
        CamVid(root).open("val")


def test_an_unknown_split_is_an_error_that_names_the_splits(root: Path) -> None:
    with pytest.raises(DataError, match=r"'valid'.*train, val, test"):
        CamVid(root).open("valid")


def test_a_list_file_decides_the_split_by_file_names_only(root: Path) -> None:
    write_pair(root, "extra")
    lines = [f"/home/author/val/{s}.png /home/author/valannot/{s}.png" for s in ("b_02", "a_01")]
    (root / "val.txt").write_text("\n".join([*lines, "c_03.png", ""]))
    assert [sample.name for sample in CamVid(root).open("val")] == ["a_01", "b_02", "c_03"]


def test_a_listed_image_that_is_missing_is_an_error(root: Path) -> None:
    (root / "val.txt").write_text("a_01.png\nz_99.png\n")
    with pytest.raises(DataError, match=r"masks? without image \(z_99\).*without mask \(z_99\)"):
        CamVid(root).open("val")


def test_an_undeclared_label_value_names_file_and_value(root: Path) -> None:
    path = root / "valannot" / "a_01.png"
    Image.fromarray(np.full((4, 6), 12, dtype=np.uint8)).save(path)
    with pytest.raises(DataError, match=r"a_01\.png.*value\(s\) 12; declared: 0-11"):
        CamVid(root).open("val")[0]


def test_the_fingerprint_covers_masks_and_file_names_but_not_the_place(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    original = CamVid(root).open("val").fingerprint()
    elsewhere = tmp_path_factory.mktemp("copy")
    for stem in ("a_01", "b_02", "c_03"):
        write_pair(elsewhere, stem)
    assert CamVid(elsewhere).open("val").fingerprint() == original
    Image.fromarray(np.zeros((4, 6), dtype=np.uint8)).save(elsewhere / "valannot" / "b_02.png")
    assert CamVid(elsewhere).open("val").fingerprint() != original
    (root / "val" / "a_01.png").rename(root / "val" / "a_02.png")
    (root / "valannot" / "a_01.png").rename(root / "valannot" / "a_02.png")
    assert CamVid(root).open("val").fingerprint() != original
