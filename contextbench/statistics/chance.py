"""What a group of classes scores without being told apart. From labels alone, no torch.

Of a model that knows where the group is but not which of its g classes a pixel has; q_k is the
share of class k in the group's labelled pixels:

    constant   one class everywhere: IoU q_k for it, 0 for the others; at best max q_k / g
    random     each class with chance 1 / g: IoU q_k / (1 + q_k (g - 1)), their mean

since of class k there are q_k pixels, 1 / g of all are predicted as k and q_k / g of them rightly.
Other measures than IoU take the same shares.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from contextbench.statistics.scores import Measure, class_iou


@dataclass(frozen=True)
class Chance:
    """Mean IoU, or other measure, of two ways of guessing; NaN for a group without labels."""

    constant: float
    random: float

    @property
    def highest(self) -> float:
        """The better of both."""
        return max(self.constant, self.random)


def chance(labelled: ArrayLike, classes: Sequence[int], measure: Measure = class_iou) -> Chance:
    """The levels of a group, from labelled pixels of every class (K,); others are left out."""
    counts = np.asarray(labelled, dtype=np.float64)[list(classes)]
    counts = counts[counts > 0]
    if not counts.size:
        return Chance(float("nan"), float("nan"))
    # Every pixel g times, so that counts of random guesses are whole.
    pixels, g = counts * counts.size, counts.size
    alone = np.eye(g)  # (guessed class, class)
    constant = measure(alone * pixels, alone * pixels.sum(), np.broadcast_to(pixels, (g, g)))
    random = measure(counts, np.full(g, counts.sum()), pixels)
    return Chance(float(constant.mean(axis=1).max()), float(random.mean()))
