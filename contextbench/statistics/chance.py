"""What a group of classes scores without being told apart. From labels alone, no torch.

Of a model that knows where the group is but not which of its g classes a pixel has; q_k is the
share of class k in the group's labelled pixels:

    constant   one class everywhere, the largest: IoU q_k for it, 0 for the others; max q_k / g
    random     each class with chance 1 / g: IoU q_k / (1 + q_k (g - 1)), their mean

since of class k there are q_k pixels, 1 / g of all are predicted as k and q_k / g of them rightly.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Chance:
    """Mean IoU of two ways of guessing; NaN where no pixel of the group is labelled."""

    constant: float
    random: float

    @property
    def highest(self) -> float:
        """The better of both."""
        return max(self.constant, self.random)


def chance(labelled: ArrayLike, classes: Sequence[int]) -> Chance:
    """The levels of a group, from labelled pixels of every class (K,); others are left out."""
    counts = np.asarray(labelled, dtype=np.float64)[list(classes)]
    counts = counts[counts > 0]
    if not counts.size:
        return Chance(float("nan"), float("nan"))
    shares, g = counts / counts.sum(), counts.size
    return Chance(float(shares.max() / g), float((shares / (1 + shares * (g - 1))).mean()))
