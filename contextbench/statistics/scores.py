"""Segmentation scores from integer pixel counts. Fractions, not percent.

For class k: intersection I_k (pixels of class k predicted as k), predicted P_k, labelled L_k, all
over labelled pixels only. Counts stay int64 until one division at the end:

    IoU I / (P + L - I),    F1 or Dice 2 I / (P + L),    precision I / P,    recall I / L

A class without a labelled pixel has none of these, whatever was predicted: it is NaN, left out of
every mean and listed, and pixels predicted as it are counted as `stray`. They lower the IoU of the
classes that they were taken from. A labelled class that is never predicted has precision 0, as it
has F1 0. Every mIoU of this package divides in `class_iou`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from contextbench.records.watched import Watched

Measure = Callable[[NDArray[Any], NDArray[Any], NDArray[Any]], NDArray[np.float64]]
"""Of intersection, predicted and labelled pixels, classes last: values whose mean is a score."""

ClassMetric = Literal["iou", "f1", "precision", "recall"]


@dataclass(frozen=True)
class Scores:
    """What a set of predictions scores. NaN where there is nothing to divide by."""

    miou: float  # mean IoU over labelled classes
    pixel_accuracy: float  # correct pixels of all labelled pixels
    mean_accuracy: float  # mean over labelled classes of I_k / L_k
    frequency_weighted_iou: float  # IoU weighted by the share of labelled pixels
    iou_per_class: tuple[float, ...]  # NaN for classes without a labelled pixel
    absent: tuple[int, ...]  # train ids without a labelled pixel
    stray: int  # pixels predicted as those
    mean_f1: float = float("nan")  # mean F1, or Dice, over labelled classes
    mean_precision: float = float("nan")  # mean over labelled classes of I_k / P_k


def class_iou(
    intersection: NDArray[Any], predicted: NDArray[Any], labelled: NDArray[Any]
) -> NDArray[np.float64]:
    """I / (P + L - I) of counts of equal shape, classes last; NaN where nothing is labelled."""
    return _of_labelled(intersection, predicted + labelled - intersection, labelled)


def class_f1(
    intersection: NDArray[Any], predicted: NDArray[Any], labelled: NDArray[Any]
) -> NDArray[np.float64]:
    """2 I / (P + L), which is also called Dice; otherwise as `class_iou`."""
    return _of_labelled(2 * intersection, predicted + labelled, labelled)


def class_precision(
    intersection: NDArray[Any], predicted: NDArray[Any], labelled: NDArray[Any]
) -> NDArray[np.float64]:
    """I / P, and 0 for a labelled class that is never predicted; otherwise as `class_iou`."""
    return _of_labelled(intersection, np.maximum(predicted, 1), labelled)


def class_recall(
    intersection: NDArray[Any], _predicted: NDArray[Any], labelled: NDArray[Any]
) -> NDArray[np.float64]:
    """I / L; otherwise as `class_iou`."""
    return _of_labelled(intersection, labelled, labelled)


CLASS_METRICS: dict[ClassMetric, Measure] = {
    "iou": class_iou,
    "f1": class_f1,
    "precision": class_precision,
    "recall": class_recall,
}
METRIC_NAMES: dict[ClassMetric, str] = {
    "iou": "IoU",
    "f1": "F1",
    "precision": "precision",
    "recall": "recall",
}


def _of_labelled(
    above: NDArray[Any], below: NDArray[Any], labelled: NDArray[Any]
) -> NDArray[np.float64]:
    quotient = np.full(np.shape(labelled), np.nan)
    np.divide(above, below, out=quotient, where=labelled > 0)
    return quotient


def mean_of_present(iou: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the last axis of what is not NaN; NaN where nothing is left."""
    present = ~np.isnan(iou)
    number = present.sum(axis=-1)
    total = np.where(present, iou, 0).sum(axis=-1)
    mean = np.full(total.shape, np.nan)
    np.divide(total, number, out=mean, where=number > 0)
    return mean


def scores(intersection: ArrayLike, predicted: ArrayLike, labelled: ArrayLike) -> Scores:
    """Scores of counts per class (K,), or of counts per image and class (images, K), summed.

    Raises ValueError for counts that no prediction can have, such as fractions or I_k > L_k.
    """
    correct, guessed, truth = _totals(intersection, predicted, labelled)
    iou = class_iou(correct, guessed, truth)
    absent = truth == 0
    return Scores(
        miou=_mean(iou),
        pixel_accuracy=float(_divide(correct.sum(), truth.sum())),
        mean_accuracy=_mean(_divide(correct, truth)),
        frequency_weighted_iou=float(_divide(np.nansum(truth * iou), truth.sum())),
        iou_per_class=tuple(iou.tolist()),
        absent=tuple(np.flatnonzero(absent).tolist()),
        stray=int(guessed[absent].sum()),
        mean_f1=_mean(class_f1(correct, guessed, truth)),
        mean_precision=_mean(class_precision(correct, guessed, truth)),
    )


def watched_miou(entry: Watched) -> float:
    """mIoU of a watched step; NaN where it has no counts, or no class is in them."""
    totals = entry.totals
    if totals is None:
        return float("nan")
    return scores(totals.intersection, totals.predicted, totals.labelled).miou


def group_iou(
    iou_per_class: Sequence[float], groups: Mapping[str, Sequence[int]]
) -> dict[str, float]:
    """Mean IoU of each group of train ids over its labelled classes; NaN without any."""
    iou = np.asarray(iou_per_class, dtype=np.float64)
    return {name: _mean(iou[list(members)]) for name, members in groups.items()}


def _totals(*counts: ArrayLike) -> list[NDArray[np.int64]]:
    arrays = [np.asarray(each) for each in counts]
    if any(array.dtype.kind not in "iu" for array in arrays):
        raise ValueError(f"counts must be integers, not {[str(a.dtype) for a in arrays]}")
    if arrays[0].ndim not in (1, 2) or any(a.shape != arrays[0].shape for a in arrays):
        raise ValueError(f"counts must be (K,) or (images, K), not {[a.shape for a in arrays]}")
    totals = [np.atleast_2d(array).sum(axis=0, dtype=np.int64) for array in arrays]
    correct, guessed, truth = totals
    wrong = (correct < 0) | (correct > np.minimum(guessed, truth))
    if wrong.any() or guessed.sum() != truth.sum():
        raise ValueError(
            "inconsistent counts: an intersection exceeds its class, or the predicted and the "
            f"labelled pixels differ in number ({guessed.sum()} and {truth.sum()})"
        )
    return totals


def _divide(numerator: ArrayLike, denominator: ArrayLike) -> NDArray[np.float64]:
    """Quotients, with NaN instead of a division by zero."""
    above = np.asarray(numerator, dtype=np.float64)
    below = np.asarray(denominator, dtype=np.float64)
    quotient = np.full(above.shape, np.nan)
    np.divide(above, below, out=quotient, where=below != 0)
    return quotient


def _mean(values: NDArray[np.float64]) -> float:
    return float(mean_of_present(values))
