"""A contact sheet of a dataset: image, colour mask and overlay beside each other.

Axes: (H, W) image pixels.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from contextbench.data.base import IGNORE, DataError, LabelSet, Sample, SegmentationDataset
from contextbench.data.labels import colourise, ignored_colour
from contextbench.system.files import write_atomic

_HEIGHT = 240  # pixels of a picture in the sheet
_OVERLAY_SHARE = 0.5  # of the mask's colour


def contact_sheet(dataset: SegmentationDataset, path: Path, count: int = 8) -> None:
    """Write a PNG with `count` images spread over the split, unreadable ones left out.

    Ignored pixels have a colour that no class has. Raises `DataError` where none is readable,
    `OutputError`.
    """
    rows = [_row(sample, dataset.labels) for sample in _readable(dataset, count)]
    if not rows:
        raise DataError(f"{path}: none of the images for the contact sheet can be read")
    sheet = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)))
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    write_atomic(path, lambda file: sheet.save(file, format="PNG"))


def _readable(dataset: SegmentationDataset, count: int) -> Iterator[Sample]:
    for index in spread(len(dataset), count):
        try:
            yield dataset[index]
        except DataError:
            continue  # which the check has reported


def spread(length: int, count: int | None) -> list[int]:
    """`count` indices at equal distances in 0 .. length - 1; all of them for None."""
    count = length if count is None else min(count, length)
    return [index * length // count for index in range(count)]


def _row(sample: Sample, labels: LabelSet) -> Image.Image:
    image = np.ascontiguousarray(sample.image.numpy().transpose(1, 2, 0))  # (H, W, 3)
    mask = colourise(sample.labels.numpy(), labels.palette)
    overlay = (image * (1 - _OVERLAY_SHARE) + mask * _OVERLAY_SHARE).astype(np.uint8)
    overlay[sample.labels.numpy() == IGNORE] = ignored_colour(labels.palette)
    return _beside([image, mask, overlay])


def _beside(pictures: Sequence[NDArray[np.uint8]]) -> Image.Image:
    """One (H, W, 3) picture after another, from left to right, at the sheet's height."""
    row = Image.fromarray(np.concatenate(pictures, axis=1))
    width = max(1, row.width * _HEIGHT // row.height)
    return row.resize((width, _HEIGHT), Image.Resampling.NEAREST)
