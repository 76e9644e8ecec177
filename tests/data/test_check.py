"""The check collects every fault with its file, and its counts are those of a loop over pixels."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from contextbench.data.base import IGNORE, DataError, LabelSet, Sample
from contextbench.data.check import check_dataset, check_overlap, contact_sheet
from contextbench.data.probe import ContextProbe


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
    assert report.images == 2
    assert report.histogram.dtype == np.int64
    assert report.histogram.tolist() == [
        sum(v == train_id for v in pixels) for train_id in range(3)
    ]
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
    text = "\n".join(report.problems)
    assert "x.png: gone" in text
    assert "broken: image is torch.float32" in text
    assert "shape: image [3, 2, 2] and labels [2, 3]" in text
    assert "beyond: train ids [3, 7], but only 0 .. 2" in text
    assert "first: this name occurs twice" in text
    assert "every pixel is ignored in empty" in text
    assert len(report.problems) == 6
    assert report.entirely_ignored == ["empty"]
    assert report.images == 4


def test_a_limit_reads_the_first_images_only() -> None:
    report = check_dataset(Listed(FIRST, DataError("never read")), "val", limit=1)
    assert (report.images, report.problems) == (1, [])


def test_a_split_without_readable_images_is_reported() -> None:
    report = check_dataset(Listed(DataError("gone")), "val")
    assert (report.images, report.ignored_share, report.problems) == (0, 0.0, ["gone"])


def test_the_report_is_json() -> None:
    written = json.loads(json.dumps(check_dataset(Listed(FIRST, SECOND), "val").as_dict()))
    assert written["pixels"] == {"a": 4, "b": 2, "c": 0}
    assert written["sizes"] == {"1x2": 1, "2x3": 1}
    assert written["absent_classes"] == ["c"]


def test_shared_names_and_identical_pixels_are_found() -> None:
    copy = FIRST._replace(name="copy")
    train = check_dataset(Listed(FIRST, SECOND), "train")
    val = check_dataset(Listed(copy, SECOND._replace(image=SECOND.image + 9)), "val")
    problems = check_overlap(train, val)
    assert problems == [
        "val/copy has the same pixels as train/first",
        "second is in train and in val",
    ]


def test_splits_of_the_probe_do_not_overlap() -> None:
    reports = [
        check_dataset(ContextProbe(length=3, size=(64, 64), seed=0, split=split), split)
        for split in ("train", "val", "test")
    ]
    assert check_overlap(*reports) == []
    assert [report.problems for report in reports] == [[], [], []]


def test_identical_pixels_within_one_split_are_found() -> None:
    report = check_dataset(Listed(FIRST, FIRST._replace(name="again")), "val")
    assert check_overlap(report) == ["val/again has the same pixels as val/first"]


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
    assert sheet[200, 480 + 300].tolist() == [0, 0, 0]
    assert sheet[20, 960 + 20].tolist() == [177, 50, 50]  # half image, half colour, rounded down
