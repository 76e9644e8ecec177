"""Segmentation scores from integer pixel counts. Fractions, not percent.

For class k: intersection I_k (pixels of class k predicted as k), predicted P_k, labelled L_k, all
over labelled pixels only. IoU_k = I_k / (P_k + L_k - I_k). Counts stay int64 until one division at
the end. A class absent from both predictions and labels has no IoU: it is NaN, left out of every
mean and listed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from contextbench.records.watched import Watched


@dataclass(frozen=True)
class Scores:
    """What a set of predictions scores. NaN where there is nothing to divide by."""

    miou: float  # mean IoU over classes that are present
    pixel_accuracy: float  # correct pixels of all labelled pixels
    mean_accuracy: float  # mean over labelled classes of I_k / L_k
    frequency_weighted_iou: float  # IoU weighted by the share of labelled pixels
    iou_per_class: tuple[float, ...]  # NaN for absent classes
    absent: tuple[int, ...]  # train ids in neither predictions nor labels


def scores(intersection: ArrayLike, predicted: ArrayLike, labelled: ArrayLike) -> Scores:
    """Scores of counts per class (K,), or of counts per image and class (images, K), summed.

    Raises ValueError for counts that no prediction can have, such as fractions or I_k > L_k.
    """
    correct, guessed, truth = _totals(intersection, predicted, labelled)
    union = guessed + truth - correct
    iou = _divide(correct, union)
    return Scores(
        miou=_mean(iou),
        pixel_accuracy=float(_divide(correct.sum(), truth.sum())),
        mean_accuracy=_mean(_divide(correct, truth)),
        frequency_weighted_iou=float(_divide(np.nansum(truth * iou), truth.sum())),
        iou_per_class=tuple(iou.tolist()),
        absent=tuple(np.flatnonzero(union == 0).tolist()),
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
    """Mean IoU of each group of train ids over its present classes; NaN if all are absent."""
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
    """Mean of what is not NaN; NaN, without a warning, where nothing is left."""
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else float("nan")
