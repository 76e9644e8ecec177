"""Where heads predict different classes for the same pixels, and who is right there: numbers.

Axes: (H, W) image pixels. Pixels without a label are left out of all counts.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from contextbench.records.examples import IGNORE, Examples

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


@dataclass(frozen=True)
class PairCounts:
    """Labelled pixels on which two heads differ, and who is right on them."""

    first: str
    second: str
    labelled: int
    first_right: int  # the first is right, so the second is wrong
    second_right: int
    neither_right: int  # both wrong, with different classes

    @property
    def differing(self) -> int:
        """Pixels on which the two predict different classes."""
        return self.first_right + self.second_right + self.neither_right

    @property
    def differing_share(self) -> float:
        """Of the labelled pixels; NaN without any."""
        return _share(self.differing, self.labelled)

    @property
    def first_right_share(self) -> float:
        """Of the differing pixels; NaN without any. So are the next two."""
        return _share(self.first_right, self.differing)

    @property
    def second_right_share(self) -> float:
        return _share(self.second_right, self.differing)

    @property
    def neither_right_share(self) -> float:
        return _share(self.neither_right, self.differing)


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


def pair_counts(truth: ByteArray, predictions: Mapping[str, ByteArray]) -> list[PairCounts]:
    """Every pair of heads on one image, in the order given. Raises as `disagreement` does."""
    found = disagreement(truth, predictions)
    counts = []
    for i, j in itertools.combinations(range(len(found.heads)), 2):
        first, second = found.heads[i], found.heads[j]
        differ = (predictions[first] != predictions[second]) & found.labelled
        mine, theirs = int((found.right[i] & differ).sum()), int((found.right[j] & differ).sum())
        neither = int(differ.sum()) - mine - theirs
        labelled = int(found.labelled.sum())
        counts.append(PairCounts(first, second, labelled, mine, theirs, neither))
    return counts


def summarise(examples: Examples) -> list[PairCounts]:
    """Every pair of heads over all pixels of all examples, in the order of the heads."""
    per_image = [
        pair_counts(truth, {name: maps[i] for name, maps in examples.predictions.items()})
        for i, truth in enumerate(examples.truths)
        if examples.predictions
    ]
    return [_added(counts) for counts in zip(*per_image, strict=True)]


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


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def _added(counts: Sequence[PairCounts]) -> PairCounts:
    """The same pair over several images."""
    names = ("labelled", "first_right", "second_right", "neither_right")
    sums = {name: sum(getattr(each, name) for each in counts) for name in names}
    return PairCounts(counts[0].first, counts[0].second, **sums)


def _window_sums(values: npt.NDArray[np.int64], reach: int) -> npt.NDArray[np.int64]:
    """(H, W) sums over the square that reaches `reach` pixels to each side, cut at the edges."""
    sums = values
    for axis, size in enumerate(values.shape):
        total = np.concatenate([np.zeros_like(sums.take([0], axis)), sums.cumsum(axis)], axis)
        place = np.arange(size)
        above = np.minimum(place + reach + 1, size)
        sums = total.take(above, axis) - total.take(np.maximum(place - reach, 0), axis)
    return sums
