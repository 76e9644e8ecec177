"""Raw mask values become train ids through one table, and damaged files are named."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from contextbench.data.base import IGNORE, DataError, LabelSet
from contextbench.data.labels import (
    LabelTable,
    bit_palette,
    colourise,
    in_ranges,
    read_pair,
)
from contextbench.data.pictures import as_indices, read_image, read_indices

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


@pytest.mark.parametrize(
    "palette", [bit_palette(2), bit_palette(256)[1:], ((224, 224, 192), (224, 224, 64))]
)
def test_ignored_pixels_have_a_colour_that_no_class_has(palette: tuple) -> None:
    """Also where a class is black, and where a class has the colour itself."""
    drawn = colourise(np.array([[0, IGNORE]], dtype=np.uint8), palette)
    assert tuple(drawn[0, 0].tolist()) == palette[0]
    assert tuple(drawn[0, 1].tolist()) not in palette[:IGNORE]


def test_colourise_draws_classes_in_their_colours_and_ignored_pixels_as_voc_does() -> None:
    labels = np.array([[0, 1, IGNORE]], dtype=np.uint8)
    drawn = colourise(labels, [(1, 2, 3), (4, 5, 6)])
    assert drawn.dtype == np.uint8
    assert drawn.tolist() == [[[1, 2, 3], [4, 5, 6], [224, 224, 192]]]


def test_the_bit_palette_is_that_of_voc() -> None:
    """The first colours as VOC documents them, and the rule written out bit by bit."""
    palette = bit_palette(256)
    assert palette[:5] == ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128))
    assert palette[20] == (0, 64, 128)
    assert palette[255] == (224, 224, 192)
    assert len(set(palette)) == 256
    for number in (77, 200):
        channels = [0, 0, 0]
        for k in range(8):
            for j in range(3):
                if 3 * k + j < 8 and number & 2 ** (3 * k + j):
                    channels[j] |= 2 ** (7 - k)
        assert palette[number] == tuple(channels)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([], ""),
        ([5], "5"),
        ([5, 6], "5, 6"),
        ([0, 1, 2, 5, 255], "0-2, 5, 255"),
        ([3, 4, 5], "3-5"),
    ],
)
def test_runs_of_values_are_shortened(values: list[int], text: str) -> None:
    assert in_ranges(values) == text


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int64, np.float64])
def test_whole_numbers_of_any_type_are_indices(dtype: type) -> None:
    values = as_indices(RAW.astype(dtype), Path("m"))
    assert values.dtype == np.uint8
    np.testing.assert_array_equal(values, RAW)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([[-1, 3]]), r"m\.mat: label value\(s\) \[-1\]"),
        (np.array([[256, 3]]), r"\[256\]"),
        (np.array([[0.25, 3]]), r"\[0\.25\]"),
        (np.zeros((2, 2, 3)), r"float64 of shape \[2, 2, 3\]"),
        (np.array([["a"]]), "<U1 of shape"),
    ],
)
def test_other_values_are_no_indices(values: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        as_indices(values, Path("m.mat"))


def test_the_hint_ends_the_message() -> None:
    with pytest.raises(DataError, match=r"declared: 7; look again$"):
        LabelTable({7: 0}, hint="look again").apply(RAW, Path("m.png"))


def test_histograms_count_each_raw_value() -> None:
    assert TABLE.histogram(RAW) == {0: 1, 7: 3, 200: 1, 255: 1}
    assert [TABLE.train_id(value) for value in (7, 0, 8)] == [0, IGNORE, None]


@pytest.mark.parametrize("swap", [((0, 0),), ((0, 1), (1, 2)), ((0, 3),), ((-1, 1),)])
def test_pairs_to_swap_must_be_different_existing_classes(swap: tuple) -> None:
    with pytest.raises(DataError, match="pairs of different train ids"):
        LabelSet(("a", "b", "c"), ((0, 0, 0),) * 3, swap=swap)


def test_mirrored_exchanges_the_pairs_only_and_is_its_own_inverse() -> None:
    labels = LabelSet(tuple("abcde"), ((0, 0, 0),) * 5, swap=((1, 3), (4, 2)))
    assert labels.mirrored == (0, 3, 4, 1, 2)
    assert tuple(labels.mirrored[k] for k in labels.mirrored) == (0, 1, 2, 3, 4)
    assert LabelSet(("a", "b"), ((0, 0, 0),) * 2).mirrored == (0, 1)
