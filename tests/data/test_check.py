"""The check collects every fault with its file, and its counts are those of a loop over pixels."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from contextbench.data.base import IGNORE, DataError, LabelSet, Sample
from contextbench.data.check import DatasetReport, check_config, check_dataset, check_overlap
from contextbench.data.paired import MissingFiles, PairedDataset
from contextbench.data.probe import ContextProbe
from contextbench.data.sheet import contact_sheet, spread
from tests.data import trees


class Listed:
    """Samples given as a list; an error in the list is raised when it is read."""

    labels = LabelSet(("a", "b", "c"), ((255, 0, 0), (0, 255, 0), (0, 0, 255)))

    def __init__(self, *entries: Sample | DataError) -> None:
        self.entries = entries

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Sample:
        entry = self.entries[index]
        if isinstance(entry, DataError):
            raise entry
        return entry

    def fingerprint(self) -> str:
        return "listed"


def sample(name: str, labels: list[list[int]], level: int = 0) -> Sample:
    mask = torch.tensor(labels, dtype=torch.uint8)
    return Sample(name, torch.full((3, *mask.shape), level, dtype=torch.uint8), mask)


FIRST = sample("first", [[0, 0, 1], [IGNORE, 1, 0]])
SECOND = sample("second", [[0, IGNORE]], level=1)


def test_counts_are_those_of_a_loop_over_pixels() -> None:
    report = check_dataset(Listed(FIRST, SECOND), "val")
    pixels = [v for s in (FIRST, SECOND) for v in s.labels.flatten().tolist()]
    assert (report.images, report.checked) == (2, 2)
    assert report.pixels.dtype == np.int64
    assert report.pixels.tolist() == [sum(v == train_id for v in pixels) for train_id in range(3)]
    assert report.shares == {"a": 4 / 6, "b": 2 / 6, "c": 0}
    assert report.ignored_share == 2 / 8
    assert dict(report.sizes) == {(2, 3): 1, (1, 2): 1}
    assert report.absent_classes == ("c",)
    assert report.problems == []


def test_every_fault_is_collected_and_the_rest_is_still_counted() -> None:
    broken = Sample("broken", torch.zeros(3, 2, 2), torch.zeros(2, 2, dtype=torch.uint8))
    shape = Sample("shape", torch.zeros(3, 2, 2).byte(), torch.zeros(2, 3).byte())
    beyond = sample("beyond", [[3, 7]], level=2)
    empty = sample("empty", [[IGNORE, IGNORE]], level=3)
    entries = (DataError("x.png: gone"), broken, shape, beyond, empty, FIRST, FIRST)
    report = check_dataset(Listed(*entries), "val")
    assert report.problems == [
        "x.png: gone",
        "broken: image is torch.float32, labels torch.uint8; both must be uint8",
        "shape: image [3, 2, 2] and labels [2, 3] must be (3, H, W) and (H, W)",
        "beyond: train ids [3, 7], but only 0 .. 2",
        "first: this name occurs twice",
        "every pixel is ignored in empty",
    ]
    assert report.entirely_ignored == ["empty"]
    assert (report.images, sum(report.sizes.values())) == (7, 4)


def test_a_limit_reads_images_spread_over_the_split() -> None:
    entries = [sample(str(number), [[0]], level=number) for number in range(10)]
    report = check_dataset(Listed(*entries), "val", limit=3)
    assert (report.images, report.checked) == (10, 3)
    assert list(report.digests) == ["0", "3", "6"]
    assert spread(10, None) == list(range(10))
    assert spread(2, 8) == [0, 1]


def test_a_split_without_readable_images_is_reported() -> None:
    report = check_dataset(Listed(DataError("gone")), "val")
    assert (report.ignored_share, report.problems) == (0.0, ["gone"])


def test_the_report_is_json() -> None:
    written = json.loads(json.dumps(check_dataset(Listed(FIRST, SECOND), "val").as_dict()))
    assert written["pixels"] == {"a": 4, "b": 2, "c": 0}
    assert written["sizes"] == {"1x2": 1, "2x3": 1}
    assert written["absent_classes"] == ["c"]


def test_shared_names_and_identical_pixels_are_found() -> None:
    copy = FIRST._replace(name="copy")
    train = check_dataset(Listed(FIRST, SECOND), "train")
    val = check_dataset(Listed(copy, SECOND._replace(image=SECOND.image + 9)), "val")
    assert check_overlap(train, val) == [
        "val/copy has the same pixels as train/first",
        "second is in train and in val",
    ]
    assert check_overlap(train, val, expected={frozenset(("train", "val"))}) == []


def test_names_alone_are_no_leak_where_every_split_has_its_own() -> None:
    train = check_dataset(Listed(FIRST, SECOND), "train")
    other = SECOND._replace(image=SECOND.image + 9)
    val = check_dataset(Listed(FIRST, other), "val")
    found = check_overlap(train, val, names_tell=False)
    assert found == ["first is in train and in val"]  # by its pixels


def test_splits_of_the_probe_do_not_overlap() -> None:
    reports = [
        check_dataset(ContextProbe(length=3, size=(64, 64), seed=0, split=split), split)
        for split in ("train", "val", "test")
    ]
    assert check_overlap(*reports) == []
    assert [report.problems for report in reports] == [[], [], []]


def test_identical_pixels_within_one_split_are_a_note() -> None:
    report = check_dataset(Listed(FIRST, FIRST._replace(name="again")), "val")
    assert report.notes == ["again has the same pixels as first"]
    assert check_overlap(report) == []


@dataclass(frozen=True)
class Config:
    """What a protocol says of its dataset."""

    name: str
    root: str
    train: str = "train"
    evaluate: str = "val"
    options: dict[str, Any] = field(default_factory=dict)


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONTEXTBENCH_DATA", raising=False)


def checked(name: str, root: Path, **settings: Any) -> DatasetReport:
    return check_config(Config(name, str(root), **settings), None)


def problems(report: DatasetReport) -> dict[str, list[str]]:
    return {split.split: split.problems for split in report.splits if split.problems}


def test_a_sound_dataset_has_all_its_splits_looked_at(tmp_path: Path) -> None:
    report = checked("folder", trees.folder(tmp_path))
    assert report.sound
    assert [split.split for split in report.splits] == ["train", "val"]
    raw = trees.filled([0, 1, 2, 3, 7])
    for split in report.splits:
        assert split.raw_values == {str(v): 3 * int((raw == v).sum()) for v in (0, 1, 2, 3, 7)}
        assert split.pixels.tolist() == [3 * np.isin(raw, v).sum() for v in ([1], [2, 3], [7])]
        assert split.ignored_share == (raw == 0).mean()
        assert (dict(split.image_modes), dict(split.mask_modes)) == ({"RGB": 3}, {"L": 3})


def test_every_fault_of_every_file_is_reported(tmp_path: Path) -> None:
    root = trees.folder(tmp_path)
    masks, images = root / "masks/train", root / "images/train"
    for number, value in ((10, 4), (11, 99), (12, 7)):
        trees.write_image(images / f"{number}_photo.jpg")
        trees.write_mask(masks / f"{number}_labels.png", trees.filled([1, value]))
    trees.write_mask(masks / "12_labels.png", trees.filled([1, 200], (3, 4)))  # two faults
    trees.write_image(masks / "0002_labels.png")
    (images / "monday/0001_photo.jpg").write_bytes(b"no picture")
    trees.write_mask(masks / "tuesday/0001_labels.png", trees.filled([0]))
    (root / "images/val/0102_photo.jpg").unlink()
    found = problems(checked("folder", root))
    assert set(found) == {"train", "val"}
    assert found["val"] == ["0102: has no image"]
    expected = [
        "0002_labels.png: mask has mode RGB",
        "10_labels.png: undeclared label value(s) 4;",
        "11_labels.png: undeclared label value(s) 99;",
        "12_labels.png: mask is 3x4 but its image",
        "12_labels.png: undeclared label value(s) 200;",
        "monday/0001_photo.jpg: cannot be read",
        "every pixel is ignored in tuesday/0001",
    ]
    assert len(found["train"]) == len(expected)
    for line, part in zip(found["train"], expected, strict=True):
        assert part in line


def test_a_fault_in_one_split_does_not_hide_those_of_others(tmp_path: Path) -> None:
    root = trees.folder(tmp_path)
    trees.write_image(root / "images/train/0002_PHOTO.JPG")
    trees.write_mask(root / "masks/val/0102_labels.png", trees.filled([9]))
    found = problems(checked("folder", root))
    assert "same stem" in found["train"][0]
    assert "undeclared label value(s) 9" in found["val"][0]


def test_a_class_that_never_occurs_is_a_problem(tmp_path: Path) -> None:
    """Two-class masks of 0 and 255 whose 255 is not declared: the foreground vanishes."""
    text = "classes: [background, thing]\nvalues: [0, 1]\nsplits: [train, val]"
    trees.write_list(tmp_path / "dataset.yaml", [text])
    for split in ("train", "val"):
        trees.write_image(tmp_path / f"images/{split}/{split}.jpg")
        trees.write_mask(tmp_path / f"masks/{split}/{split}.png", trees.filled([0, 255]))
    report = checked("folder", tmp_path)
    assert problems(report) == {}
    assert report.never == [
        "class 'thing' occurs in no mask: is its raw value declared?; raw values that occur: 0, 255"
    ]
    assert not report.sound
    assert report.splits[0].absent_classes == ("thing",)
    trees.write_mask(tmp_path / "masks/val/val.png", trees.filled([0, 1]))
    assert checked("folder", tmp_path).sound  # absent from one split only


def test_an_image_in_two_splits_is_found_by_name_and_by_pixels(tmp_path: Path) -> None:
    root = trees.lip(tmp_path)
    for kind, suffix in (("images", "jpg"), ("segmentations", "png")):
        copied = (root / f"train_{kind}/77_1.{suffix}").read_bytes()
        (root / f"val_{kind}/77_1.{suffix}").write_bytes(copied)
        (root / f"val_{kind}/other.{suffix}").write_bytes(
            (root / f"train_{kind}/77_2.{suffix}").read_bytes()
        )
    assert checked("lip", root).overlap == [
        "77_1 is in train and in val",
        "val/other has the same pixels as train/77_2",
    ]


def test_counts_that_are_not_official_are_notes(tmp_path: Path) -> None:
    report = checked("lip", trees.lip(tmp_path))
    assert report.sound
    assert "2 images" in report.splits[0].notes[0]
    assert "official split has 30462" in report.splits[0].notes[0]


def test_folders_that_are_numbered_in_each_split_are_sound(tmp_path: Path) -> None:
    root = trees.folder(tmp_path)
    for split in ("train", "val"):
        trees.write_image(root / f"images/{split}/7_photo.jpg")
        trees.write_mask(root / f"masks/{split}/7_labels.png", trees.filled([0, 1, 2, 3, 7]))
    report = checked("folder", root)
    assert report.sound
    assert report.notes == ["1 names, such as 7, are in train and in val, with other pixels"]
    assert report.as_dict()["notes"] == report.notes
    copy = (root / "images/train/7_photo.jpg").read_bytes()
    (root / "images/val/7_photo.jpg").write_bytes(copy)
    report = checked("folder", root)
    assert (report.notes, report.overlap) == ([], ["7 is in train and in val"])


def write_palette(path: Path, indices: list[int], *order: tuple[int, int, int]) -> None:
    flat = [value for colour in order for value in colour]
    trees.write_mask(path, trees.filled(indices), palette=flat)


RED, GREEN, BLUE, GREY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 9, 9)


@pytest.mark.parametrize(
    ("second", "indices", "expected"),
    [
        ((RED, GREEN, BLUE), [0, 1, 2], None),
        ((RED, GREEN), [0, 1], None),  # cut after its last colour
        ((RED, GREEN, GREY), [0, 1], None),  # differs where no pixel is
        ((RED, GREEN, GREY), [0, 1, 2], "note"),
        ((GREEN, RED, BLUE), [0, 1, 2], "problem"),
    ],
)
def test_another_order_of_the_palette_is_told_from_another_colour(
    tmp_path: Path, second: tuple, indices: list[int], expected: str | None
) -> None:
    text = "classes: [a, b, c]\nvalues: [0, 1, 2]\nsplits: [train, val]"
    trees.write_list(tmp_path / "dataset.yaml", [text])
    for split, number in (("train", 1), ("train", 2), ("val", 3)):
        trees.write_image(tmp_path / f"images/{split}/{number}.jpg")
        write_palette(tmp_path / f"masks/{split}/{number}.png", [0, 1, 2], RED, GREEN, BLUE)
    write_palette(tmp_path / "masks/train/2.png", indices, *second)
    report = checked("folder", tmp_path)
    lines = {"problem": report.splits[0].problems, "note": report.splits[0].notes}
    found = {kind: [line for line in each if "palettes" in line] for kind, each in lines.items()}
    if expected is None:
        assert found == {"problem": [], "note": []}
        return
    index, colours = (2, "#0000ff in 1 and #090909") if expected == "note" else (0, "#ff0000 in 1")
    assert f"palettes of masks differ: index {index} is {colours}" in found[expected][0]
    assert report.sound == (expected == "note")


def test_how_files_were_read_is_noted(tmp_path: Path) -> None:
    """Orientation, opaque alpha, few and many bits, other endings: one line for each kind."""
    text = "classes: [a, b]\nvalues: [0, 1]\nimage_suffix: .png\nsplits: [train, val]"
    trees.write_list(tmp_path / "dataset.yaml", [text])
    folder, masks = tmp_path / "images/train", tmp_path / "masks/train"
    for number in range(4):
        trees.write_image(folder / f"{number}.png")
        trees.write_mask(masks / f"{number}.png", trees.filled([0, 1]))
    trees.write_image(tmp_path / "images/val/9.png")
    trees.write_mask(tmp_path / "masks/val/9.png", trees.filled([0, 1]))
    exif = Image.Exif()
    exif[0x0112] = 3
    with Image.open(folder / "0.png") as file:
        file.save(folder / "0.png", exif=exif)
    with Image.open(folder / "1.png") as file:
        file.convert("RGBA").save(folder / "1.png")
    Image.fromarray(trees.filled([0, 1]).astype(bool)).save(masks / "2.png")
    Image.fromarray(trees.filled([0, 1]).astype(np.uint16)).save(masks / "3.png")
    for left in ("a.jpg", "b.JPEG", "notes.txt"):
        (folder / left).write_bytes(b"x")
    (folder / "Thumbs.db").write_bytes(b"x")
    report = checked("folder", tmp_path)
    assert report.sound, problems(report)
    assert report.splits[0].notes == [
        f"{folder}: 1 .jpeg, 1 .jpg not read, as only .png is",
        "1 images have an EXIF orientation, which is applied",
        "1 images are of mode RGBA and are read as RGB",
        "1 images have transparency that no pixel uses: it is left out",
        "1 masks store values up to 1, and are read as stored, not stretched to 255",
        "1 masks have 16 bits a pixel; all values fit into 8",
    ]


def test_lossy_deep_and_damaged_files_are_listed_one_by_one(tmp_path: Path) -> None:
    text = "classes: [a, b]\nvalues: [0, 1]\nmask_suffix: .jpg\nsplits: [train, val]"
    trees.write_list(tmp_path / "dataset.yaml", [text])
    for split, names in {"train": "abc", "val": "d"}.items():
        for name in names:
            trees.write_image(tmp_path / f"images/{split}/{name}.jpg")
            trees.write_mask(tmp_path / f"masks/{split}/{name}.jpg", trees.filled([0, 1]))
    (tmp_path / "images/train/b.jpg").write_bytes(b"P6 65535 65535 255\n")
    Image.fromarray(np.zeros(trees.SIZE, np.uint16)).save(
        tmp_path / "images/train/c.jpg", format="PNG"
    )
    found = problems(checked("folder", tmp_path))
    assert len(found["train"]) == 5
    assert sum("is a mask stored with loss (JPEG)" in line for line in found["train"]) == 3
    assert any("b.jpg: has more than 178 million pixels" in line for line in found["train"])
    assert any("c.jpg: has 16 bits a sample" in line for line in found["train"])
    assert len(found["val"]) == 1


def test_a_loop_of_links_is_read_once(tmp_path: Path) -> None:
    root = trees.folder(tmp_path)
    for kind in ("images", "masks"):
        (root / kind / "train/again").symlink_to(".")
        (root / kind / "train/wednesday").symlink_to("tuesday")
    report = checked("folder", root)
    assert report.sound, problems(report)
    assert report.splits[0].images == 3
    train = root / "images/train"
    notes = report.splits[0].notes
    assert f"{train}/again is a link to {train}, which is read once" in notes
    assert f"{train}/wednesday is a link to {train}/tuesday, which is read once" in notes


def test_verifying_names_files_that_changed_behind_their_dates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = trees.folder(tmp_path)
    config = Config("folder", str(root))
    path = root / "images/train/0002_photo.jpg"
    with monkeypatch.context() as patch:
        patch.setattr(PairedDataset, "verify", lambda self: [path] * (self.split == "train"))
        report = check_config(config, None, verify=True)
    assert not report.sound
    assert f"{path}: its content has changed" in report.splits[0].problems[0]
    report = check_config(config, None, verify=True)
    assert report.sound
    assert any("all files were read again" in note for note in report.splits[0].notes)


def test_unions_of_splits_are_no_leaks_but_training_on_val_is(tmp_path: Path) -> None:
    root = trees.voc(tmp_path)
    augmented = checked("voc", root, train="train_aug")
    assert [split.split for split in augmented.splits] == ["train_aug", "val", "train"]
    assert augmented.overlap == []
    assert checked("voc", root).overlap == []
    leak = checked("voc", root, train="trainval")
    assert leak.overlap == ["2007_000033 is in trainval and in val"]


def test_images_of_another_size_than_the_official_one_are_a_problem(tmp_path: Path) -> None:
    found = problems(checked("cityscapes", trees.cityscapes(tmp_path)))
    assert found["train"] == [
        "train: 2 of 2 images are not of the official size 1024x2048 (height x width)"
    ]
    assert checked("camvid", trees.camvid(tmp_path / "camvid")).sound


def test_modes_of_images_are_noted(tmp_path: Path) -> None:
    root = trees.ade20k(tmp_path)
    trees.write_image(root / "images/training/ADE_train_00000001.jpg", (10, 16), "L")
    report = checked("ade20k", root)
    assert "1 images are of mode L and are read as RGB" in report.splits[0].notes
    assert report.sound


@pytest.mark.parametrize(
    ("tree", "options", "mode"),
    [
        (trees.coco_stuff_10k, {"release": "10k"}, ".mat"),
        (lambda root: trees.pascal_context(root, "pth"), {"classes": 59}, ".pth"),
    ],
)
def test_masks_that_are_no_pictures_are_checked_too(
    tmp_path: Path, tree: Any, options: dict[str, Any], mode: str
) -> None:
    name = "coco_stuff" if mode == ".mat" else "pascal_context"
    evaluate = "test" if mode == ".mat" else "val"
    report = checked(name, tree(tmp_path), evaluate=evaluate, options=options)
    assert report.sound
    assert dict(report.splits[0].mask_modes) == {mode: 2}


def test_other_splits_may_be_missing_but_not_those_of_the_protocol(tmp_path: Path) -> None:
    root = trees.camvid(tmp_path, splits=("train", "val"))
    assert [split.split for split in checked("camvid", root).splits] == ["train", "val"]
    with pytest.raises(MissingFiles, match=r"camvid: folder .*/test does not exist"):
        checked("camvid", root, evaluate="test")
    with pytest.raises(DataError, match="unknown split 'valid'"):
        checked("camvid", root, evaluate="valid")


def test_a_sample_cannot_show_that_a_class_never_occurs(tmp_path: Path) -> None:
    root = trees.folder(tmp_path)
    for path in (root / "masks").rglob("*_labels.png"):
        trees.write_mask(path, trees.filled([1]))
    assert len(checked("folder", root).never) == 2
    assert check_config(Config("folder", str(root)), None, limit=2).never == []


def test_the_sheet_is_drawn_from_what_can_be_read(tmp_path: Path) -> None:
    root, path = trees.folder(tmp_path), tmp_path / "sheet.png"
    for name in ("0102", "monday/0101"):
        trees.write_mask(root / f"masks/val/{name}_labels.png", trees.filled([9]))
    config = Config("folder", str(root))
    check_config(config, None, sheet=path)
    with Image.open(path) as sheet:
        assert sheet.size == (240 * 3 * 8 // 6, 240)  # one image left
    path.unlink()
    trees.write_mask(root / "masks/val/tuesday/0101_labels.png", trees.filled([9]))
    report = check_config(config, None, sheet=path)
    assert "none of the images for the contact sheet can be read" in report.splits[1].problems[-1]
    assert not path.exists()


def test_all_reports_are_json(tmp_path: Path) -> None:
    report = checked("voc", trees.voc(tmp_path))
    written = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert [split["split"] for split in written["splits"]] == ["train", "val"]
    assert list(written["splits"][0]["raw_values"])[:3] == ["0", "1", "2"]


def test_the_contact_sheet_shows_image_mask_and_overlay(tmp_path: Path) -> None:
    labels = torch.tensor([[0, 1], [2, IGNORE]]).byte().repeat_interleave(60, 0)
    labels = labels.repeat_interleave(120, 1)  # (120, 240): drawn at twice its size
    image: Tensor = torch.full((3, 120, 240), 100, dtype=torch.uint8)
    contact_sheet(Listed(*[Sample(str(i), image, labels) for i in range(3)]), tmp_path / "s.png", 2)
    with Image.open(tmp_path / "s.png") as file:
        sheet = np.asarray(file)
    assert sheet.shape == (2 * 240, 3 * 480, 3)
    assert sheet[20, 20].tolist() == [100, 100, 100]
    assert sheet[20, 480 + 20].tolist() == [255, 0, 0]
    assert sheet[200, 480 + 300].tolist() == [224, 224, 192]  # ignored: VOC's void
    assert sheet[200, 960 + 300].tolist() == [224, 224, 192]
    assert sheet[20, 960 + 20].tolist() == [177, 50, 50]  # half image, half colour, rounded down
