"""Is one head better than another: over other trainings and other images at once. No torch.

Two heads with S_1 and S_2 trainings, whose scores have the variances v_1 and v_2, unpaired:

    d = difference of their means,    V = v_1 / S_1 + v_2 / S_2 + e^2,    T = d / sqrt(V)

with e the standard error of d over images, paired, with the same trained models. T is compared with
Student's distribution with Satterthwaite's degrees of freedom (1946; Welch 1947 without images).
Ours: in these degrees, and only there, the part of S trainings counts (S + 2) / (S - 1) times. A
variance from few values is more often too small than too large, and then the images, of which
there are many, would lend their degrees of freedom to trainings, of which there are few.
docs/statistics.md has the error rates with and without.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from contextbench.statistics import student
from contextbench.statistics.draws import FloatArray

TRAININGS = 3  # of each head, from which on two heads are said to differ or not
POWER = 0.8  # chance of finding what `smallest_difference` is
EXTRA = 3.0  # c = (S - 1 + EXTRA) / (S - 1)

Bottleneck = Literal["seeds", "images"]


@dataclass(frozen=True)
class Parts:
    """What adds up to the variance of the difference between two heads' mean scores."""

    deviations: tuple[float, float]  # of one training of each head; NaN for a single training
    seeds: tuple[int, int]  # trainings of each head
    image_error: float  # e, over the units below
    units: int  # independent images, blocks or clusters

    @property
    def of_trainings(self) -> float:
        """The variance that other trainings add; NaN where it is not known."""
        return sum(s**2 / n for s, n in zip(self.deviations, self.seeds, strict=True))

    @property
    def of_images(self) -> float:
        """The variance that other images add."""
        return self.image_error**2

    @property
    def error(self) -> float:
        """The standard error of the difference; NaN where a part of it is not known."""
        return math.sqrt(self.of_trainings + self.of_images)

    @property
    def bottleneck(self) -> Bottleneck | None:
        """Which of both adds more; None where it is not known."""
        if math.isnan(self.error):
            return None
        return "seeds" if self.of_trainings > self.of_images else "images"

    @cached_property
    def df(self) -> float:
        """Degrees of freedom; NaN where a part is not known, and without any variance."""
        if math.isnan(self.error) or self.error == 0:
            return math.nan
        means = np.array([s**2 / n for s, n in zip(self.deviations, self.seeds, strict=True)])
        seeds, units = (np.array(each, dtype=np.float64) for each in (self.seeds, [self.units]))
        return float(degrees(means, seeds, np.array([self.of_images]), units))

    def p_value(self, difference: float) -> float:
        """Two-sided, that two heads do not differ; NaN where it is not known.

        Without any variance there is no test, but for a difference of 0.
        """
        if self.error == 0:
            return 1.0 if difference == 0 else math.nan
        return float(student.two_sided(difference / self.error, self.df))

    def reach(self, level: float) -> float:
        """Half the length of the interval of the difference."""
        if self.error == 0:
            return 0.0
        if math.isnan(self.df):
            return math.nan
        return student.quantile((1 + level) / 2, self.df) * self.error

    def smallest_difference(self, alpha: float) -> float:
        """The true difference that a test at `alpha` shows with a chance of `POWER`."""
        if math.isnan(self.df):
            return math.nan
        return student.detectable(self.df, alpha, POWER) * self.error

    def with_more(self, seeds: int | None = None, units: int | None = None) -> "Parts":
        """The parts that as many trainings of each head, or images, would be expected to give."""
        more = self.units if units is None else units
        return replace(
            self,
            seeds=self.seeds if seeds is None else (seeds, seeds),
            units=more,
            image_error=self.image_error * math.sqrt(self.units / more),
        )


def degrees(
    trainings: FloatArray, seeds: FloatArray, images: FloatArray, units: FloatArray
) -> FloatArray:
    """Satterthwaite's degrees of freedom of independent variances of means.

    `trainings` (heads, ...) over `seeds` trainings each, `images` (splits, ...) over `units` each.
    """
    counted = trainings * (seeds - 1 + EXTRA) / (seeds - 1)
    total = counted.sum(axis=0) + images.sum(axis=0)
    squares = (counted**2 / (seeds - 1)).sum(axis=0) + (images**2 / (units - 1)).sum(axis=0)
    df: FloatArray = total**2 / squares
    return df
