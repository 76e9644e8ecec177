"""Where heads predict different classes for the same pixels, and who is right there: numbers.

Axes: (H, W) image pixels. Pixels without a label are left out of all counts.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from contextbench.records.examples import IGNORE

ByteArray = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]

AROUND = 16  # a pixel's surroundings reach this part of the image's shorter side


@dataclass(frozen=True)
class Disagreement:
    """What several heads make of one image, pixel by pixel."""

    heads: tuple[str, ...]
    labelled: BoolArray  # (H, W)
    distinct: ByteArray  # (H, W) different classes that the heads predict; 0 where not labelled
    right: BoolArray  # (heads, H, W) the label is predicted

    @property
    def all_right(self) -> BoolArray:
        """(H, W) every head is right."""
        every: BoolArray = np.logical_and.reduce(self.right)
        return every

    @property
    def all_wrong(self) -> BoolArray:
        """(H, W) no head is right, for whatever is labelled."""
        none: BoolArray = self.labelled & ~np.logical_or.reduce(self.right)
        return none

    @property
    def split(self) -> BoolArray:
        """(H, W) some heads are right and some wrong."""
        return self.labelled & ~self.all_right & ~self.all_wrong

    def right_alone(self, head: str) -> BoolArray:
        """(H, W) `head` is right where all others are wrong; with one head, where it is right."""
        mine: BoolArray = self.right[self.heads.index(head)] & (self.right.sum(axis=0) == 1)
        return mine


def disagreement(truth: ByteArray, predictions: Mapping[str, ByteArray]) -> Disagreement:
    """Compare the predictions of one image; truth and predictions: (H, W) train ids.

    Raises ValueError without predictions or for different sizes.
    """
    sizes = {name: mask.shape for name, mask in predictions.items()}
    if not sizes or set(sizes.values()) != {truth.shape}:
        raise ValueError(f"predictions of the labels' size {truth.shape} are needed, got {sizes}")
    labelled = truth != IGNORE
    stacked = np.stack(list(predictions.values()))
    ordered = np.sort(stacked, axis=0)
    distinct = 1 + (ordered[1:] != ordered[:-1]).sum(axis=0)
    return Disagreement(
        heads=tuple(predictions),
        labelled=labelled,
        distinct=np.where(labelled, distinct, 0).astype(np.uint8),
        right=(stacked == truth) & labelled,
    )


def disputed_pixel(truth: ByteArray, predictions: Mapping[str, ByteArray]) -> tuple[int, int]:
    """The (y, x) at which to compare heads: inside the largest dispute rather than on its border.

    Of the labelled pixels with different predictions, the one in whose surroundings (a square of
    twice 1/16 of the shorter side, plus one) the classes beyond one sum up to most; of equal ones
    the nearest to the centre, then the first by rows. Without dispute, the centre of the image.
    """
    height, width = truth.shape
    centre = height // 2, width // 2
    excess = disagreement(truth, predictions).distinct.clip(1).astype(np.int64) - 1
    if not excess.any():
        return centre
    summed = _window_sums(excess, min(height, width) // AROUND)
    around = np.where(excess > 0, summed, -1)
    best = np.argwhere(around == around.max())  # by rows
    distance = ((best - centre) ** 2).sum(axis=1)
    y, x = best[distance.argmin()].tolist()
    return y, x


def _window_sums(values: npt.NDArray[np.int64], reach: int) -> npt.NDArray[np.int64]:
    """(H, W) sums over the square that reaches `reach` pixels to each side, cut at the edges."""
    sums = values
    for axis, size in enumerate(values.shape):
        total = np.concatenate([np.zeros_like(sums.take([0], axis)), sums.cumsum(axis)], axis)
        place = np.arange(size)
        above = np.minimum(place + reach + 1, size)
        sums = total.take(above, axis) - total.take(np.maximum(place - reach, 0), axis)
    return sums
