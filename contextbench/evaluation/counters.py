"""Counting what a view asks for beside the pixels of classes, one image at a time.

Axes: K classes, (H, W) label pixels, height first. Ignored pixels are in none of the counts.

Boundaries: a pixel is within d of the boundary of its mask where a pixel of another value, or the
end of the image, is at most d rows and columns away. So it is for the masks of all classes at once,
and the same as eroding each of them d times with 3 x 3 pixels, which is how Cheng et al. (Boundary
IoU, CVPR 2021, arXiv:2103.16562) define the band of a mask. Ours: several classes, and ignored
pixels, which are taken from the prediction as from the label: both masks end where they begin. The
trimap (Kohli, Ladicky and Torr, 2009) is about the labels alone, and the image's end is no boundary
there.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from contextbench.config.evaluation import EvaluateConfig
from contextbench.data.base import IGNORE
from contextbench.records.counters import BINS, CONFIDENCE, CounterName


class Seen(NamedTuple):
    """What is known of an image when it is counted."""

    table: Tensor  # (K, K) labelled pixels, by label and prediction
    prediction: Tensor  # (H, W) train ids
    labels: Tensor  # (H, W) uint8
    confidence: Tensor | None  # (H, W) float32, where it is counted
    config: EvaluateConfig


def count(name: CounterName, seen: Seen) -> Tensor:
    """The integers of one image, int64, of the shape that `records.counters.wanted` says."""
    return _COUNT[name](seen)


def _confusion(seen: Seen) -> Tensor:
    return seen.table


def _calibration(seen: Seen) -> Tensor:
    assert seen.confidence is not None
    valid = seen.labels != IGNORE
    parts = (seen.confidence[valid].clamp(0, 1) * CONFIDENCE).round().long()
    bins = (parts * BINS // CONFIDENCE).clamp(max=BINS - 1)
    right = seen.prediction[valid] == seen.labels[valid]
    counted = parts.new_zeros(3, BINS)
    for row, values in zip(counted, (right.long(), torch.ones_like(parts), parts), strict=True):
        row.index_add_(0, bins, values)
    return counted


def _boundary(seen: Seen) -> Tensor:
    bands = seen.config.boundary
    assert bands is not None
    height, width = seen.labels.shape
    widths = [*bands.pixels]
    if bands.diagonal is not None:
        widths.insert(0, max(1, round(bands.diagonal * math.hypot(height, width))))
    ignored = seen.labels == IGNORE
    masks = torch.where(ignored, IGNORE, seen.prediction).to(torch.uint8)
    each = [
        _counted(
            seen.labels,
            masks,
            _near_another(seen.labels, width, ends=True) & ~ignored,
            _near_another(masks, width, ends=True) & ~ignored,
            len(seen.table),
        )
        for width in widths
    ]
    return torch.stack(each)


def _trimap(seen: Seen) -> Tensor:
    prediction, valid = seen.prediction.to(torch.uint8), seen.labels != IGNORE
    bands = (_near_another(seen.labels, width, ends=False) & valid for width in seen.config.trimap)
    return torch.stack(
        [_counted(seen.labels, prediction, band, band, len(seen.table)) for band in bands]
    )


_COUNT: dict[CounterName, Callable[[Seen], Tensor]] = {
    "confusion": _confusion,
    "calibration": _calibration,
    "boundary": _boundary,
    "trimap": _trimap,
}


def _counted(
    labels: Tensor, prediction: Tensor, of_labels: Tensor, of_prediction: Tensor, classes: int
) -> Tensor:
    """(3, K): pixels that are right and in both bands, predicted in theirs, labelled in theirs."""
    right = of_labels & of_prediction & (labels == prediction)
    pairs = ((labels, right), (prediction, of_prediction), (labels, of_labels))
    return torch.stack([torch.bincount(each[band], minlength=classes) for each, band in pairs])


def _near_another(values: Tensor, distance: int, *, ends: bool) -> Tensor:
    """(H, W): whether another value is within so many rows and columns; `ends` of the image too."""
    lowest, highest = values, values
    for dim in (0, 1):
        lowest = _extreme(lowest, distance, dim, torch.minimum, IGNORE)
        highest = _extreme(highest, distance, dim, torch.maximum, 0)
    near = lowest != highest
    if ends:
        for dim in (0, 1):
            length = values.shape[dim]
            reach = min(distance, length)
            near.narrow(dim, 0, reach).fill_(True)
            near.narrow(dim, length - reach, reach).fill_(True)
    return near


def _extreme(
    values: Tensor,
    distance: int,
    dim: int,
    pick: Callable[[Tensor, Tensor], Tensor],
    neutral: int,
) -> Tensor:
    """Of the 2 `distance` + 1 values around each one, by doubling windows."""
    ends = (distance, distance)
    best = F.pad(values, (0, 0, *ends) if dim == 0 else ends, value=neutral)
    covered, length = 1, 2 * distance + 1
    while covered < length:
        step = min(covered, length - covered)
        kept = best.shape[dim] - step
        best = pick(best.narrow(dim, 0, kept), best.narrow(dim, step, kept))
        covered += step
    return best
