"""What is wrong with a dataset, found before training: every fault, not only the first.

Axes: (H, W) image pixels, K classes.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from contextbench.data.base import IGNORE, DataError, LabelSet, Sample, SegmentationDataset
from contextbench.data.labels import RAW_VALUES, colourise

_SHEET_HEIGHT = 240  # pixels of a picture in the contact sheet
_OVERLAY_SHARE = 0.5  # of the mask's colour


@dataclass
class SplitReport:
    """What one split holds. Shares are fractions; `histogram` counts pixels of each train id."""

    split: str
    classes: tuple[str, ...]
    images: int = 0  # readable ones
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)  # (H, W) -> images
    histogram: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    ignored_pixels: int = 0
    entirely_ignored: list[str] = field(default_factory=list)  # image names
    problems: list[str] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)  # image name -> digest of its pixels

    @property
    def ignored_share(self) -> float:
        """Ignored pixels over all pixels; 0 for a split without readable images."""
        pixels = int(self.histogram.sum()) + self.ignored_pixels
        return self.ignored_pixels / pixels if pixels else 0.0

    @property
    def absent_classes(self) -> tuple[str, ...]:
        """Classes that no pixel has."""
        pairs = zip(self.classes, self.histogram, strict=True)
        return tuple(name for name, count in pairs if not count)

    def as_dict(self) -> dict[str, Any]:
        """Everything but the digests, in types that JSON knows."""
        return {
            "split": self.split,
            "images": self.images,
            "sizes": {f"{h}x{w}": count for (h, w), count in sorted(self.sizes.items())},
            "pixels": dict(zip(self.classes, self.histogram.tolist(), strict=True)),
            "ignored_share": self.ignored_share,
            "entirely_ignored": list(self.entirely_ignored),
            "absent_classes": list(self.absent_classes),
            "problems": list(self.problems),
        }


def check_dataset(
    dataset: SegmentationDataset, split: str, limit: int | None = None
) -> SplitReport:
    """Read every image of a split, or the first `limit`, and report what was found."""
    classes = dataset.labels.classes
    report = SplitReport(split, classes, histogram=np.zeros(len(classes), dtype=np.int64))
    if len(classes) != len(dataset.labels.palette):
        report.problems.append(f"{len(classes)} classes, {len(dataset.labels.palette)} colours")
    count = len(dataset) if limit is None else min(limit, len(dataset))
    for index in range(count):
        try:
            _add(report, dataset[index])
        except DataError as error:
            report.problems.append(str(error))
    report.problems += [f"every pixel is ignored in {name}" for name in report.entirely_ignored]
    return report


def _add(report: SplitReport, sample: Sample) -> None:
    faults = _form_faults(sample)
    if faults:
        report.problems += [f"{sample.name}: {fault}" for fault in faults]
        return
    counts = torch.bincount(sample.labels.flatten(), minlength=RAW_VALUES).numpy()
    classes = len(report.classes)
    beyond = [value for value in range(classes, IGNORE) if counts[value]]
    if beyond:
        report.problems.append(f"{sample.name}: train ids {beyond}, but only 0 .. {classes - 1}")
    if counts[IGNORE] == counts.sum():
        report.entirely_ignored.append(sample.name)
    if sample.name in report.digests:
        report.problems.append(f"{sample.name}: this name occurs twice")
    report.images += 1
    report.sizes[(sample.labels.shape[0], sample.labels.shape[1])] += 1
    report.histogram += counts[:classes]
    report.ignored_pixels += int(counts[IGNORE])
    report.digests[sample.name] = _digest(sample)


def _form_faults(sample: Sample) -> list[str]:
    image, labels = sample.image, sample.labels
    faults = []
    if image.dtype != torch.uint8 or labels.dtype != torch.uint8:
        faults.append(f"image is {image.dtype}, labels {labels.dtype}; both must be uint8")
    if image.shape != (3, *labels.shape) or labels.ndim != 2:
        shapes = f"image {list(image.shape)} and labels {list(labels.shape)}"
        faults.append(f"{shapes} must be (3, H, W) and (H, W)")
    return faults


def _digest(sample: Sample) -> str:
    digest = hashlib.sha256(str(tuple(sample.image.shape)).encode())
    digest.update(sample.image.contiguous().numpy().tobytes())
    return digest.hexdigest()


def check_overlap(*reports: SplitReport) -> list[str]:
    """Images in more than one place: a name in two splits, or identical pixels anywhere."""
    names: dict[str, str] = {}  # image name -> split
    pixels: dict[str, tuple[str, str]] = {}  # digest -> split, image name
    problems = []
    for report in reports:
        for name, digest in report.digests.items():
            if name in names:
                problems.append(f"{name} is in {names[name]} and in {report.split}")
            elif digest in pixels:
                split, other = pixels[digest]
                problems.append(f"{report.split}/{name} has the same pixels as {split}/{other}")
            names.setdefault(name, report.split)
            pixels.setdefault(digest, (report.split, name))
    return problems


def contact_sheet(dataset: SegmentationDataset, path: Path, count: int = 8) -> None:
    """Write a PNG with `count` images spread over the split: image, colour mask and overlay."""
    count = min(count, len(dataset))
    samples = [dataset[index * len(dataset) // count] for index in range(count)]
    rows = [_row(sample, dataset.labels) for sample in samples]
    sheet = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)))
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    sheet.save(path, format="PNG")


def _row(sample: Sample, labels: LabelSet) -> Image.Image:
    image = np.ascontiguousarray(sample.image.numpy().transpose(1, 2, 0))  # (H, W, 3)
    mask = colourise(sample.labels.numpy(), labels.palette)
    overlay = (image * (1 - _OVERLAY_SHARE) + mask * _OVERLAY_SHARE).astype(np.uint8)
    overlay[sample.labels.numpy() == IGNORE] = 0
    return _beside([image, mask, overlay])


def _beside(pictures: Sequence[NDArray[np.uint8]]) -> Image.Image:
    """One (H, W, 3) picture after another, from left to right, at the sheet's height."""
    row = Image.fromarray(np.concatenate(pictures, axis=1))
    width = max(1, row.width * _SHEET_HEIGHT // row.height)
    return row.resize((width, _SHEET_HEIGHT), Image.Resampling.NEAREST)
