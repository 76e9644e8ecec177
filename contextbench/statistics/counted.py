"""Counters of a view as counts that `rank_counts` takes, and what their sums are worth. No torch.

So intervals, pairs and letters of these come from the code that those of mIoU come from.
Axes: S seeds, N images, K classes; counts are (S, parts, N, items), and a measure takes the sums of
each part over the images, items last, and gives values whose mean is the score.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contextbench.config.sampling import Sampling
from contextbench.records.counters import BINS, CONFIDENCE, CounterName
from contextbench.records.counts import Areas
from contextbench.records.stored import IntArray, RecordError
from contextbench.statistics.counts import aligned
from contextbench.statistics.draws import FloatArray, Resampling
from contextbench.statistics.intervals import Ranking, rank_counts
from contextbench.statistics.scores import Measure, class_iou, class_recall

AreasOfHeads = Mapping[str, Mapping[int, Areas]]
"""head -> seed -> counts per image"""


def band_ranking(
    areas: AreasOfHeads,
    name: CounterName,
    band: int,
    *,
    sampling: Sampling,
    resampling: Resampling = Resampling(),
) -> Ranking:
    """Heads by mIoU of what is near boundaries. Raises `RecordError` as `rank` does."""

    def within(each: Areas) -> IntArray:
        k = each.labelled.shape[1]
        first = 3 * k * band
        found = each.further[name].merged(
            lambda at: np.where((at >= first) & (at < first + 3 * k), at - first, -1), 3 * k
        )
        return found.reshape(-1, 3, k).transpose(1, 0, 2)

    return _ranked(areas, within, None, class_iou, sampling, resampling)


def calibration_ranking(
    areas: AreasOfHeads, *, sampling: Sampling, resampling: Resampling = Resampling()
) -> Ranking:
    """Heads by 1 less their expected calibration error, so that the best is the first."""
    return _ranked(areas, _bins, [0], calibrated, sampling, resampling)


def bin_totals(areas: Areas) -> FloatArray:
    """(3, BINS): right pixels, pixels and sums of confidence over all images."""
    totals = areas.further["calibration"].total().astype(np.float64)
    totals[2] /= CONFIDENCE
    return totals


def _bins(each: Areas) -> IntArray:
    return each.further["calibration"].dense().transpose(1, 0, 2)


def calibrated(
    right: NDArray[Any], pixels: NDArray[Any], confidence: NDArray[Any]
) -> NDArray[np.float64]:
    """(..., 1): 1 - sum over bins of |right - confidence| / pixels; NaN without a pixel."""
    total = pixels.sum(axis=-1, keepdims=True)
    gap = np.abs(right - confidence / CONFIDENCE).sum(axis=-1, keepdims=True)
    found = np.full(total.shape, np.nan)
    np.divide(total - gap, total, out=found, where=total > 0)
    return found


def confusion_ranking(
    areas: AreasOfHeads,
    unit_of: Sequence[int],
    label: int,
    prediction: int,
    *,
    sampling: Sampling,
    resampling: Resampling = Resampling(),
) -> Ranking:
    """Heads by the share of a unit's labelled pixels that is predicted as another unit.

    `unit_of`: the unit of each class, a class itself or a group of them.
    """
    units = np.asarray(unit_of)

    def pair(each: Areas) -> IntArray:
        k = len(units)
        found = each.further["confusion"].merged(
            lambda at: np.where((units[at // k] == label) & (units[at % k] == prediction), 0, -1),
            1,
        )
        labelled = each.labelled[:, units == label].sum(axis=1, keepdims=True)
        return np.stack([found, found, labelled])

    return _ranked(areas, pair, [0], class_recall, sampling, resampling)


def loss_ranking(
    clean: AreasOfHeads,
    corrupted: AreasOfHeads,
    *,
    sampling: Sampling,
    resampling: Resampling = Resampling(),
) -> Ranking:
    """Heads by the change of their mIoU from clean to corrupted images, the smallest loss first.

    Clean and corrupted counts are those of the same trained models and images.
    """
    one, other = (aligned(each, None) for each in (clean, corrupted))
    names = _names(clean)
    if one.keys() != other.keys() or names != _names(corrupted):
        raise RecordError("clean and corrupted images are not those of the same runs")
    stacked = {head: np.concatenate([one[head], other[head]], axis=1) for head in one}
    ids = range(next(iter(one.values())).shape[-1])
    return rank_counts(
        stacked, names, ids, sampling=sampling, resampling=resampling,
        bounds=(-1.0, 1.0), measure=_change,
    )  # fmt: skip


def _change(*sums: NDArray[Any]) -> NDArray[np.float64]:
    change: NDArray[np.float64] = class_iou(*sums[3:]) - class_iou(*sums[:3])
    return change


def pixels_by_confidence(totals: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Accuracy, mean confidence and share of the pixels of each bin, NaN in an empty one."""
    right, pixels, confidence = totals
    known = pixels > 0
    accuracy, mean = np.full((2, BINS), np.nan)
    np.divide(right, pixels, out=accuracy, where=known)
    np.divide(confidence, pixels, out=mean, where=known)
    return accuracy, mean, pixels / max(1.0, pixels.sum())


def _ranked(
    areas: AreasOfHeads,
    counts: Callable[[Areas], IntArray],
    ids: Sequence[int] | None,
    measure: Measure,
    sampling: Sampling,
    resampling: Resampling,
) -> Ranking:
    found = aligned(areas, None, counts=counts)
    items = range(next(iter(found.values())).shape[-1]) if ids is None else ids
    return rank_counts(
        found, _names(areas), items, sampling=sampling, resampling=resampling, measure=measure
    )


def _names(areas: AreasOfHeads) -> list[str]:
    return sorted(next(iter(next(iter(areas.values())).values())).names)
