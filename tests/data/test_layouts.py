"""Every official layout as generated files, the right ones and the wrong ones."""

import os
import re
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from contextbench.data import DATASETS, build_dataset, dataset_source
from contextbench.data.base import IGNORE, DataError
from contextbench.data.labels import bit_palette
from contextbench.data.paired import IncompleteSplit, MissingFiles, PairedDataset
from tests.data import trees

Tree = Callable[[Path], Path]

# name, options, tree, split, number of images, raw values (at the start of the mask), train ids
LAYOUTS: dict[str, tuple[str, dict[str, Any], Tree, str, int]] = {
    "camvid": ("camvid", {}, trees.camvid, "test", 2),
    "cityscapes": ("cityscapes", {}, trees.cityscapes, "train", 2),
    "cityscapes train ids": (
        "cityscapes",
        {"masks": "labelTrainIds"},
        lambda root: trees.cityscapes(root, ("labelIds", "labelTrainIds")),
        "val",
        1,
    ),
    "ade20k": ("ade20k", {}, trees.ade20k, "val", 2),
    "ade20k archive": (
        "ade20k",
        {},
        lambda root: trees.ade20k(root / "ADEChallengeData2016").parent,
        "train",
        2,
    ),
    "voc": ("voc", {}, trees.voc, "train", 2),
    "voc devkit": ("voc", {}, lambda root: trees.voc(root / "VOCdevkit").parent, "val", 1),
    "voc trainval": ("voc", {}, trees.voc, "trainval", 3),
    "context 59": ("pascal_context", {"classes": 59}, trees.pascal_context, "train", 2),
    "context 60": ("pascal_context", {"classes": 60}, trees.pascal_context, "train", 2),
    "context folder": (
        "pascal_context",
        {"classes": 59},
        lambda root: trees.pascal_context(root, "Context"),
        "val",
        1,
    ),
    "context tensors": (
        "pascal_context",
        {"classes": 59},
        lambda root: trees.pascal_context(root, "pth"),
        "train",
        2,
    ),
    "context pictures": (
        "pascal_context",
        {"classes": 60},
        lambda root: trees.pascal_context(root, "pictures"),
        "val",
        1,
    ),
    "coco 10k": ("coco_stuff", {"release": "10k"}, trees.coco_stuff_10k, "train", 2),
    "coco 10k converted": (
        "coco_stuff",
        {"release": "10k", "masks": "labelTrainIds"},
        lambda root: trees.coco_stuff_10k(root, converted=True),
        "test",
        1,
    ),
    "coco 164k": (
        "coco_stuff",
        {"release": "164k"},
        lambda root: trees.coco_stuff_164k(root, encodings=("original", "labelTrainIds")),
        "train",
        2,
    ),
    "coco 164k converted": (
        "coco_stuff",
        {"release": "164k", "masks": "labelTrainIds"},
        lambda root: trees.coco_stuff_164k(root, encodings=("original", "labelTrainIds")),
        "val",
        1,
    ),
    "lip": ("lip", {}, trees.lip, "train", 2),
    "lip archive": ("lip", {}, lambda root: trees.lip(root, unpacked=False), "val", 1),
    "folder": ("folder", {}, trees.folder, "val", 3),
}


def moved(tree: Tree, *moves: tuple[str, str]) -> Tree:
    """The tree with folders or files elsewhere, each move (from, to)."""

    def made(root: Path) -> Path:
        tree(root)
        for source, target in moves:
            (root / target).parent.mkdir(parents=True, exist_ok=True)
            (root / source).rename(root / target)
        return root

    return made


LIP_IMAGES = ("train_images", "val_images")
COCO_LARGE = {"release": "164k"}

# As archives are unpacked and other code bases arrange them.
LAYOUTS |= {
    "lip doubled": (
        "lip",
        {},
        moved(
            lambda root: trees.lip(root, unpacked=False),
            *((f"TrainVal_images/{n}", f"x/{n}") for n in LIP_IMAGES),
            *((f"x/{n}", f"TrainVal_images/TrainVal_images/{n}") for n in LIP_IMAGES),
        ),
        "train",
        2,
    ),
    "ade20k doubled": (
        "ade20k",
        {},
        lambda root: trees.ade20k(root / "ADEChallengeData2016/ADEChallengeData2016") and root,
        "val",
        2,
    ),
    "context as released": (
        "pascal_context",
        {"classes": 59},
        lambda root: trees.pascal_context(root, "trainval"),
        "train",
        2,
    ),
    "context as released, unpacked at the top": (
        "pascal_context",
        {"classes": 60},
        moved(
            lambda root: trees.pascal_context(root, "trainval"), ("VOC2010/trainval", "trainval")
        ),
        "val",
        1,
    ),
    "coco 10k lists": (
        "coco_stuff",
        {"release": "10k"},
        moved(trees.coco_stuff_10k, ("imageLists", "imagesLists")),
        "train",
        2,
    ),
    **{
        f"coco 164k in {folder}": (
            "coco_stuff",
            COCO_LARGE,
            moved(
                trees.coco_stuff_164k,
                *((f"images/{split}", split) for split in ("train2017", "val2017")),
                ("annotations", folder),
            ),
            "train",
            2,
        )
        for folder in ("stuffthingmaps", "stuffthingmaps_trainval2017")
    },
}


def config(name: str, root: Path, options: dict[str, Any]) -> SimpleNamespace:
    return SimpleNamespace(name=name, root=str(root), options=options)


def opened(name: str, root: Path, split: str, **options: Any) -> PairedDataset:
    """A split of a small tree, whose official number of images is another one."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "[\\s\\S]*the official split has")
        dataset = build_dataset(config(name, root, options), split, None)
    assert isinstance(dataset, PairedDataset)
    return dataset


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONTEXTBENCH_DATA", raising=False)


@pytest.mark.parametrize("case", LAYOUTS)
def test_every_layout_is_read(case: str, tmp_path: Path) -> None:
    name, options, tree, split, count = LAYOUTS[case]
    dataset = opened(name, tree(tmp_path), split, **options)
    assert len(dataset) == count
    assert len({sample.name for sample in dataset}) == count
    present = set(range(len(dataset.labels.classes)))
    for sample in dataset:
        assert sample.image.shape == (3, *sample.labels.shape)
        assert set(sample.labels.unique().tolist()) - {IGNORE} == present


@pytest.mark.parametrize("case", LAYOUTS)
def test_other_numbers_of_images_are_a_warning_with_both(case: str, tmp_path: Path) -> None:
    name, options, tree, split, count = LAYOUTS[case]
    source = dataset_source(config(name, tree(tmp_path), options))
    official = source.facts.splits[split]
    if official is None:
        source.open(split)  # without a warning, which would be an error
        return
    with pytest.warns(UserWarning, match=f"{split}: {count} images.*split has {official}"):
        source.open(split)


@pytest.mark.parametrize("case", LAYOUTS)
def test_a_folder_that_is_not_there_is_named_with_the_layout(case: str, tmp_path: Path) -> None:
    name, options, _, split, _ = LAYOUTS[case]
    nowhere = tmp_path / "nowhere"
    expected = rf"{nowhere}.*does not exist; expected .*--data-root|there is no|cannot be read"
    with pytest.raises(ValueError, match=expected):
        build_dataset(config(name, nowhere, options), split, None)


@pytest.mark.parametrize(
    "place",
    [
        "SBD/benchmark_RELEASE/dataset",
        "benchmark_RELEASE/dataset",
        "VOCaug/dataset",
        "VOCdevkit/VOCaug/dataset",
    ],
)
@pytest.mark.parametrize("masks", ["sbd", "SegmentationClassAug"])
def test_sbd_is_found_where_its_archive_and_others_put_it(
    tmp_path: Path, place: str, masks: str
) -> None:
    root = moved(trees.voc, ("SBD/dataset", "x"), ("x", place))(tmp_path)
    dataset = opened("voc", root, "train_aug", augmented_masks=masks)
    assert len(dataset) == 4
    assert set(dataset[2].labels.unique().tolist()) == {0, 20}
    assert dataset.pairs[2].mask.is_relative_to(root / place) == (masks == "sbd")


def test_every_place_that_was_tried_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFiles, match=r"also looked for: TrainVal_images/train_images, Train"):
        opened("lip", tmp_path, "train")
    shutil.rmtree(trees.voc(tmp_path) / "SBD")
    with pytest.raises(MissingFiles) as caught:
        opened("voc", tmp_path, "train_aug", augmented_masks="sbd")
    for place in ("SBD/benchmark_RELEASE/dataset/cls", "VOCaug/dataset/cls", "option `sbd`"):
        assert place in str(caught.value)
    trees.pascal_context(tmp_path / "context", "trainval")
    shutil.rmtree(tmp_path / "context/VOC2010/trainval")
    with pytest.raises(MissingFiles, match=r"trainval/\*\.mat as released .*VOC2010/trainval"):
        opened("pascal_context", tmp_path / "context", "train", classes=59)


def test_masks_of_context_as_released_become_the_converted_ones(tmp_path: Path) -> None:
    """All 459 labels and 0; the numbers of the 59 classes are written out in `trees`."""
    root = trees.pascal_context(tmp_path, "trainval")
    path = root / "VOC2010/trainval/2008_000002.mat"
    labels = np.arange(460, dtype=np.uint16).reshape(20, 23)
    trees.write_mat(path, LabelMap=labels)
    trees.write_image(root / "VOC2010/JPEGImages/2008_000002.jpg", (20, 23))
    for classes, shift, other in ((59, 0, IGNORE), (60, 1, 0)):
        sample = opened("pascal_context", root, "train", classes=classes)[0]
        expected = [
            trees.CONTEXT_NUMBERS.index(n) + shift if n in trees.CONTEXT_NUMBERS else other
            for n in range(460)
        ]
        assert sample.labels.flatten().tolist() == expected
    trees.write_mat(path, LabelMap=labels + 1)
    with pytest.raises(DataError, match=r"000002\.mat: label value\(s\) \[460\].*0-459"):
        opened("pascal_context", root, "train", classes=59)[0]


def test_official_masks_are_drawn_on_pixels_as_they_are_stored(tmp_path: Path) -> None:
    """An orientation in a photograph turns neither it nor its mask, as in other code bases."""
    root = trees.ade20k(tmp_path)
    path = root / "images/training/ADE_train_00000001.jpg"
    pixels = np.random.default_rng(0).integers(0, 256, (10, 16, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    read = []
    for options in ({}, {"exif": exif}):
        Image.fromarray(pixels).save(path, **options)
        read.append(opened("ade20k", root, "train")[0].image)
    assert torch.equal(*read)
    assert opened("ade20k", root, "train").image_size(0) == (10, 16)


def test_official_counts_are_those_of_the_publications() -> None:
    given = {
        "cityscapes": ({}, {"train": 2975, "val": 500}),
        "ade20k": ({}, {"train": 20210, "val": 2000}),
        "voc": ({}, {"train": 1464, "val": 1449, "trainval": 2913, "train_aug": 10582}),
        "pascal_context": ({"classes": 60}, {"train": 4998, "val": 5105}),
        "coco_stuff": ({"release": "164k"}, {"train": 118287, "val": 5000}),
        "lip": ({}, {"train": 30462, "val": 10000}),
        "camvid": ({}, {"train": 367, "val": 101, "test": 233}),
    }
    for name, (options, counts) in given.items():
        facts = dataset_source(config(name, Path("nowhere"), options)).facts
        assert facts.splits == counts
    ten = dataset_source(config("coco_stuff", Path("nowhere"), {"release": "10k"})).facts
    assert ten.splits == {"train": 9000, "test": 1000}


@pytest.mark.parametrize("name", sorted(set(DATASETS) - {"folder"}))
def test_classes_have_names_and_colours_of_their_own(name: str) -> None:
    options = {"pascal_context": {"classes": 59}, "coco_stuff": {"release": "10k"}}.get(name, {})
    labels = dataset_source(config(name, Path("nowhere"), options)).facts.labels
    counts = {"cityscapes": 19, "ade20k": 150, "voc": 21, "pascal_context": 59}
    counts |= {"coco_stuff": 171, "lip": 20, "camvid": 11, "probe": 13}
    assert len(labels.classes) == len(set(labels.classes)) == counts[name]
    assert len(labels.palette) == len(set(labels.palette)) == counts[name]


# --- what the raw values mean -------------------------------------------------------------------


def train_ids(dataset: PairedDataset, raw: list[int]) -> list[int]:
    values = np.array([raw], dtype=np.uint8)
    return dataset.source.table.apply(values, Path("mask.png"))[0].tolist()


def test_cityscapes_label_ids_and_train_ids_give_the_same_labels(tmp_path: Path) -> None:
    root = trees.cityscapes(tmp_path, ("labelIds", "labelTrainIds"))
    by_label = opened("cityscapes", root, "train")
    assert train_ids(by_label, [7, 8, 11, 26, 33]) == [0, 1, 2, 13, 18]
    ignored = [0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30]
    assert train_ids(by_label, ignored) == [IGNORE] * len(ignored)
    by_train = opened("cityscapes", root, "train", masks="labelTrainIds")
    assert train_ids(by_train, [0, 18, 255]) == [0, 18, IGNORE]
    assert by_label[0].name == "aachen/aachen_000000_000019"


def test_cityscapes_encodings_cannot_be_taken_for_each_other(tmp_path: Path) -> None:
    root = trees.cityscapes(tmp_path, ("labelTrainIds",))
    with pytest.raises(DataError, match=r"no masks \*_gtFine_labelIds.*options\.masks to label"):
        opened("cityscapes", root, "train")
    for path in (root / "gtFine").rglob("*_labelTrainIds.png"):
        path.rename(path.with_name(path.name.replace("TrainIds", "Ids")))
    with pytest.raises(DataError, match=r"labelIds\.png: undeclared.* 255;.*labelTrainIds"):
        opened("cityscapes", root, "train")[0]
    wrong = trees.cityscapes(tmp_path / "other", ("labelIds",))
    for path in (wrong / "gtFine").rglob("*_labelIds.png"):
        path.rename(path.with_name(path.name.replace("Ids", "TrainIds")))
    with pytest.raises(DataError, match=r"labelTrainIds\.png: undeclared.* 19-33;"):
        opened("cityscapes", wrong, "train", masks="labelTrainIds")[0]


@pytest.mark.parametrize("name", ["cityscapes", "ade20k", "voc", "lip"])
def test_splits_without_published_labels_say_so(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"split 'test' has no labels.* predict RUN --split test"):
        build_dataset(config(name, tmp_path, {}), "test", None)


def test_the_coarse_split_of_cityscapes_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"unknown split 'train_extra'; allowed are train, val"):
        build_dataset(config("cityscapes", tmp_path, {}), "train_extra", None)


def test_ade_zero_is_ignored_and_the_shift_happens_once(tmp_path: Path) -> None:
    dataset = opened("ade20k", trees.ade20k(tmp_path), "train")
    assert train_ids(dataset, [0, 1, 2, 150]) == [IGNORE, 0, 1, 149]
    assert dataset.labels.classes[0] == "wall"
    assert dataset.labels.classes[149] == "flag"
    shifted = tmp_path / "annotations/training/ADE_train_00000001.png"
    trees.write_mask(shifted, trees.filled([255, 0, 149], (10, 16)))  # 0 became 255 before
    with pytest.raises(DataError, match=r"00001\.png: undeclared.* 255;.*shifted before"):
        dataset[0]


def test_the_full_ade_release_is_refused_by_the_mode_of_its_masks(tmp_path: Path) -> None:
    root = trees.ade20k(tmp_path)
    path = root / "annotations/training/ADE_train_00000001.png"
    trees.write_image(path, (10, 16))
    with pytest.raises(DataError, match=r"00001\.png: mask has mode RGB; index masks.*L or P"):
        opened("ade20k", root, "train")[0]


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_images_of_another_mode_become_rgb(tmp_path: Path, mode: str) -> None:
    root = trees.ade20k(tmp_path)
    path = root / "images/training/ADE_train_00000001.jpg"
    trees.write_image(path, (10, 16), mode)
    with Image.open(path) as file:
        assert file.mode == mode
    assert opened("ade20k", root, "train")[0].image.shape == (3, 10, 16)


def test_voc_palette_masks_keep_their_indices_and_void_is_ignored(tmp_path: Path) -> None:
    root = trees.voc(tmp_path)
    dataset = opened("voc", root, "train")
    with Image.open(dataset.pairs[0].mask) as file:
        assert file.mode == "P"
    expected = trees.filled([*range(21), 255])
    np.testing.assert_array_equal(dataset[0].labels.numpy(), expected)
    with Image.open(dataset.pairs[0].mask) as file:
        file.convert("RGB").save(dataset.pairs[0].mask)
    with pytest.raises(DataError, match="mask has mode RGB"):
        dataset[0]


def test_voc_masks_that_were_converted_to_grey_are_refused(tmp_path: Path) -> None:
    root = trees.voc(tmp_path)
    dataset = opened("voc", root, "val")
    flat = [value for colour in bit_palette(256) for value in colour]
    path = trees.write_mask(dataset.pairs[0].mask, trees.filled([0, 1, 15]), palette=flat)
    with Image.open(path) as file:
        file.convert("L").save(path)  # person, (192, 128, 128), becomes 147
    with pytest.raises(DataError, match=r"undeclared.*147.*converted to grey"):
        dataset[0]


@pytest.mark.parametrize("masks", ["SegmentationClassAug", "sbd"])
@pytest.mark.parametrize("layout", [("SegmentationClassAug", "SBD"), ("SBD",), ("Aug only",)])
def test_the_augmented_list_is_voc_train_and_sbd_without_voc_val(
    tmp_path: Path, masks: str, layout: tuple[str, ...]
) -> None:
    augmented = ("SegmentationClassAug",) if layout == ("Aug only",) else layout
    root = trees.voc(tmp_path, augmented=augmented)
    if {"SegmentationClassAug": "SegmentationClassAug", "sbd": "SBD"}[masks] not in augmented:
        with pytest.raises(MissingFiles, match=r"(SegmentationClassAug|SBD/dataset/cls) does not"):
            opened("voc", root, "train_aug", augmented_masks=masks)
        return
    dataset = opened("voc", root, "train_aug", augmented_masks=masks)
    assert {"2007_000033"} == set(trees.VOC_IDS["val"]) & set(trees.SBD_IDS["train"])  # leaks
    expected = ["2007_000032", "2007_000039", "2008_000002", "2008_000003"]
    assert [pair.name for pair in dataset.pairs] == expected
    assert "2007_000039" in trees.SBD_IDS["train"]
    own, added = dataset[1].labels, dataset[2].labels
    assert IGNORE in own  # VOC's own mask has a void contour
    assert set(added.unique().tolist()) == {0, 20}


def test_augmented_masks_never_reach_validation(tmp_path: Path) -> None:
    root = trees.voc(tmp_path)
    (root / "VOC2012/SegmentationClass/2007_000033.png").unlink()
    with pytest.raises(IncompleteSplit, match=r"1 images without mask \(2007_000033\)"):
        opened("voc", root, "val")


def test_images_that_only_sbd_has_are_found_there(tmp_path: Path) -> None:
    root = trees.voc(tmp_path)
    moved = root / "SBD/dataset/img/2008_000002.jpg"
    moved.parent.mkdir()
    (root / "VOC2012/JPEGImages/2008_000002.jpg").rename(moved)
    assert opened("voc", root, "train_aug").pairs[2].image == moved


def test_matlab_masks_without_scipy_name_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = opened("coco_stuff", trees.coco_stuff_10k(tmp_path), "train", release="10k")
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(DataError, match=r"contextbench\[stats\]"):
        dataset[0]


@pytest.mark.parametrize("content", [b"", b"MATLAB 5.0 MAT-file" + bytes(200), bytes(600)])
def test_damaged_matlab_files_are_named(tmp_path: Path, content: bytes) -> None:
    dataset = opened("coco_stuff", trees.coco_stuff_10k(tmp_path), "train", release="10k")
    dataset.pairs[0].mask.write_bytes(content)
    with pytest.raises(DataError, match=r"COCO_train2014_1\.mat: "):
        dataset[0]


def test_matlab_files_without_the_field_are_named(tmp_path: Path) -> None:
    root = trees.voc(tmp_path)
    dataset = opened("voc", root, "train_aug", augmented_masks="sbd")
    trees.write_mat(dataset.pairs[2].mask, GTcls={"Boundaries": 1})
    with pytest.raises(DataError, match=r"000002\.mat: has no field GTcls\.Segmentation"):
        dataset[2]
    trees.write_mat(dataset.pairs[2].mask, GTinst=1)
    with pytest.raises(DataError, match=r"000002\.mat: has no variable GTcls"):
        dataset[2]


def test_context_59_ignores_background_and_60_scores_it(tmp_path: Path) -> None:
    root = trees.pascal_context(tmp_path)
    fifty_nine = opened("pascal_context", root, "train", classes=59)
    assert train_ids(fifty_nine, [0, 1, 59]) == [IGNORE, 0, 58]
    assert fifty_nine.labels.classes[0] == "aeroplane"
    sixty = opened("pascal_context", root, "train", classes=60)
    assert train_ids(sixty, [0, 1, 59]) == [0, 1, 59]
    assert sixty.labels.classes[:2] == ("background", "aeroplane")
    assert fifty_nine.fingerprint() != sixty.fingerprint()
    with pytest.raises(DataError, match=r"undeclared.* 60; declared: 0-59"):
        train_ids(sixty, [60])


@pytest.mark.parametrize("given", [None, 58, "59", True])
def test_context_has_no_default_number_of_classes(tmp_path: Path, given: object) -> None:
    with pytest.raises(DataError, match=rf"classes is {re.escape(repr(given))}: state 59 or 60"):
        dataset_source(config("pascal_context", tmp_path, {"classes": given}))


def test_all_layouts_of_context_hold_the_same_masks(tmp_path: Path) -> None:
    read = [
        opened("pascal_context", trees.pascal_context(tmp_path / kind, kind), "train", classes=59)
        for kind in ("SegmentationClassContext", "Context", "pth", "pictures")
    ]
    for dataset in read[1:]:
        assert [sample.name for sample in dataset] == ["2008_000002", "2008_000003"]
        assert torch.equal(dataset[1].labels, read[0][1].labels)


class Harmful:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.folder),))


def test_nothing_in_a_file_of_masks_is_run(tmp_path: Path) -> None:
    root = trees.pascal_context(tmp_path, "pth")
    torch.save({2008000002: Harmful(tmp_path / "harm")}, root / "VOC2010/train.pth")
    with pytest.raises(DataError, match=r"train\.pth: cannot be read as masks by id"):
        opened("pascal_context", root, "train", classes=59)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    "content", [[torch.zeros(2, 2)], {"2008_000002": torch.zeros(2, 2)}, {1: 2}]
)
def test_a_file_of_masks_holds_masks_by_id(tmp_path: Path, content: object) -> None:
    root = trees.pascal_context(tmp_path, "pth")
    torch.save(content, root / "VOC2010/train.pth")
    with pytest.raises(DataError, match=r"train\.pth: must hold a dictionary"):
        opened("pascal_context", root, "train", classes=59)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.full((8, 8), 300), r"2008000002: label value\(s\) \[300\]"),
        (torch.full((8, 8), 0.5), r"label value\(s\) \[0\.5\]"),
        (torch.zeros(3, 8, 8), r"shape \[3, 8, 8\]"),
        (Image.new("RGB", (8, 8)), r"2008000002: mask has mode RGB"),
    ],
)
def test_masks_in_one_file_must_be_index_masks(tmp_path: Path, mask: Any, message: str) -> None:
    root = trees.pascal_context(tmp_path, "pth")
    torch.save({2008000002: mask, 2008000003: mask}, root / "VOC2010/train.pth")
    with pytest.raises(DataError, match=message):
        opened("pascal_context", root, "train", classes=60)[0]


def test_coco_label_n_is_the_same_class_in_both_releases(tmp_path: Path) -> None:
    ten = opened("coco_stuff", trees.coco_stuff_10k(tmp_path / "a"), "train", release="10k")
    large = opened("coco_stuff", trees.coco_stuff_164k(tmp_path / "b"), "train", release="164k")
    for train_id, number in enumerate(trees.COCO_LABELS):  # 171 of them, ascending
        assert train_ids(ten, [number]) == [train_id]
        assert train_ids(large, [number - 1]) == [train_id]
    assert train_ids(ten, [0]) == train_ids(large, [255]) == [IGNORE]
    names = ten.labels.classes
    assert [names[i] for i in (0, 11, 79, 80, 170)] == [
        *("person", "stop sign", "toothbrush", "banner", "wood")
    ]


def test_coco_masks_of_another_encoding_are_refused(tmp_path: Path) -> None:
    ten = opened("coco_stuff", trees.coco_stuff_10k(tmp_path / "a"), "train", release="10k")
    large = opened("coco_stuff", trees.coco_stuff_164k(tmp_path / "b"), "train", release="164k")
    for number in sorted(trees.NEVER_USED):
        with pytest.raises(DataError, match=rf" {number}; .*version 1\.0"):
            train_ids(ten, [number])
        with pytest.raises(DataError, match=rf" {number - 1}; .*not of release 164k"):
            train_ids(large, [number - 1])
    for dataset, beyond in ((ten, 183), (ten, 255), (large, 182)):  # 183: the challenge of 2017
        with pytest.raises(DataError, match=f"undeclared label value.* {beyond};"):
            train_ids(dataset, [beyond])


@pytest.mark.parametrize(("release", "other"), [("10k", [1, 171, 255]), ("164k", [0, 1, 171])])
def test_converted_coco_masks_of_the_other_release_are_refused(
    tmp_path: Path, release: str, other: list[int]
) -> None:
    make = {
        "10k": lambda root: trees.coco_stuff_10k(root, converted=True),
        "164k": lambda root: trees.coco_stuff_164k(root, encodings=("labelTrainIds",)),
    }[release]
    options = {"release": release, "masks": "labelTrainIds"}
    dataset = opened("coco_stuff", make(tmp_path), "train", **options)
    first = {"10k": 1, "164k": 0}[release]
    assert train_ids(dataset, [first, first + 170]) == [0, 170]
    with pytest.raises(DataError, match=f"undeclared label value.* {other[-1]};"):
        train_ids(dataset, other)


def test_version_1_0_of_coco_10k_is_told_by_its_list_of_names(tmp_path: Path) -> None:
    dataset = opened("coco_stuff", trees.coco_stuff_10k(tmp_path), "train", release="10k")
    labels = trees.filled([2, 81, 172], trees.COCO_SIZE)  # all of them labels of v1.1 as well
    path = dataset.pairs[0].mask
    trees.write_mat(path, S=labels, names=np.array(["name"] * 182, dtype=object))
    assert set(dataset[0].labels.unique().tolist()) <= set(range(171))
    trees.write_mat(path, S=labels, names=np.array(["name"] * 172, dtype=object))
    with pytest.raises(DataError, match=r"COCO_train2014_1\.mat: is of version 1\.0"):
        dataset[0]


@pytest.mark.parametrize("given", [None, "10K", ["10k"]])
def test_coco_has_no_default_release(tmp_path: Path, given: object) -> None:
    with pytest.raises(DataError, match=r"release is .*: state 10k or 164k"):
        dataset_source(config("coco_stuff", tmp_path, {"release": given}))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cityscapes", {"masks": "color"}),
        ("coco_stuff", {"release": "10k", "masks": "trainIds"}),
        ("voc", {"augmented_masks": "mat"}),
    ],
)
def test_unknown_values_of_options_name_the_allowed_ones(
    tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    with pytest.raises(DataError, match=rf"{name}: \w*masks '\w+' must be one of "):
        dataset_source(config(name, tmp_path, options))


def test_lip_scores_background_and_swaps_sides(tmp_path: Path) -> None:
    dataset = opened("lip", trees.lip(tmp_path), "train")
    assert train_ids(dataset, [0, 19]) == [0, 19]
    classes = dataset.labels.classes
    swapped = {tuple(sorted((classes[a], classes[b]))) for a, b in dataset.labels.swap}
    assert swapped == {(f"left-{part}", f"right-{part}") for part in ("arm", "leg", "shoe")}
    with pytest.raises(DataError, match="undeclared"):
        train_ids(dataset, [20])


def test_lip_archives_with_the_folder_twice_are_read(tmp_path: Path) -> None:
    root = trees.lip(tmp_path, unpacked=False)
    inner = root / "TrainVal_parsing_annotations/TrainVal_parsing_annotations"
    (root / "TrainVal_parsing_annotations").rename(root / "x")
    inner.parent.mkdir()
    (root / "x").rename(inner)
    assert len(opened("lip", root, "val")) == 1


def test_converted_masks_beside_the_originals_are_not_masks_of_their_own(tmp_path: Path) -> None:
    root = trees.coco_stuff_164k(tmp_path, encodings=("original", "labelTrainIds"))
    dataset = opened("coco_stuff", root, "train", release="164k")
    assert not [pair for pair in dataset.pairs if "labelTrainIds" in pair.mask.name]
