"""Draws of the images of a split with replacement, one by one or in blocks of neighbours. No torch.

Sources: Efron and Tibshirani, An Introduction to the Bootstrap, 1993; Politis and Romano, A
circular block-resampling procedure for stationary data, 1992; Politis and White, Automatic
block-length selection for the dependent bootstrap, 2004, with the correction of Patton, Politis and
White, 2009.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

DRAWS_AT_ONCE = 500  # bounds memory: 20 MB of weights for 5000 images
SHORTEST_SERIES = 8  # fewer values say nothing of their dependence
FEWEST_UNITS = 8  # images, blocks or clusters, below which intervals have no ends
LONGER = 2  # times the length that is best for a standard error: intervals hold better


@dataclass(frozen=True)
class Resampling:
    """How often the images of a split are drawn again, and for which level of intervals.

    Raises ValueError for fewer than 100 draws, and for a level that is not between 0 and 1.
    """

    resamples: int = 10_000
    level: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.resamples < 100 or not 0 < self.level < 1:
            raise ValueError(
                "resamples must be at least 100 and level between 0 and 1, got "
                f"{self.resamples} and {self.level}"
            )


@dataclass(frozen=True)
class Draws:
    """Draws of `images` images with replacement, in blocks of neighbours that wrap around.

    With `clusters`, the cluster of each image, 0 .. C - 1, as many clusters are drawn as there
    are, each with all its images, and `block` is 1.
    Iterating gives a slice of the draws and their weights (draws, images): how often each image is
    in each draw. Every draw has `images` images, or C clusters; equal arguments give equal draws.
    """

    images: int
    block: int
    resampling: Resampling
    clusters: tuple[int, ...] | None = None

    @property
    def units(self) -> int:
        """Independent parts of the split: clusters, whole blocks, or images."""
        return self.images // self.block if self.clusters is None else max(self.clusters) + 1

    def __iter__(self) -> Iterator[tuple[slice, FloatArray]]:
        generator = np.random.default_rng(self.resampling.seed)
        drawn = self.images if self.clusters is None else self.units
        for first in range(0, self.resampling.resamples, DRAWS_AT_ONCE):
            count = min(DRAWS_AT_ONCE, self.resampling.resamples - first)
            weights = _weights(generator, count, drawn, self.block)
            whole = weights if self.clusters is None else weights[:, list(self.clusters)]
            yield slice(first, first + count), whole


def _weights(generator: np.random.Generator, count: int, number: int, block: int) -> FloatArray:
    """(count, number): how often each of `number` neighbours is in each of `count` draws."""
    blocks = math.ceil(number / block)
    starts = generator.integers(number, size=(count, blocks, 1))
    drawn = (starts + np.arange(block)) % number
    drawn = drawn.reshape(count, -1)[:, :number]  # the last block may be cut
    drawn += number * np.arange(count)[:, None]
    weights = np.bincount(drawn.ravel(), minlength=count * number)
    return weights.reshape(count, -1).astype(np.float64)


def block_length(series: FloatArray) -> int:
    """Length of circular blocks for dependent values (series, images) in order of time.

    That of the series with the longest blocks, rounded; 1 where neighbours are not alike.
    """
    return max(round(optimal_block_length(row)) for row in series)


def longer_blocks(length: int, images: int) -> int:
    """`LONGER` times the `length`, for intervals, as far as `FEWEST_UNITS` blocks are left.

    Blocks of one image, and those of which there are too few already, stay as they are.
    """
    if length == 1 or images // length < FEWEST_UNITS:
        return length
    return min(LONGER * length, images // FEWEST_UNITS)


def optimal_block_length(values: FloatArray) -> float:
    """Politis and White's length of circular blocks for a series (n,): at least 1.

    b = (2 G^2 / D)^(1/3) n^(1/3), at most 3 sqrt(n) and n / 3, from the covariances R(k) under a
    flat-top window w over the lags |k| <= 2 m: G = sum w |k| R(k), D = 4/3 (sum w R(k))^2.
    A series of fewer than `SHORTEST_SERIES` values, or of equal ones, gives 1.
    """
    n = len(values)
    if n < SHORTEST_SERIES or np.ptp(values) == 0:
        return 1.0
    centred = values - values.mean()
    covariance = np.correlate(centred, centred, mode="full")[n - 1 :] / n
    window = min(2 * _first_uncorrelated(covariance / covariance[0]), _highest_lag(n))
    lags = np.arange(1, window + 1)
    flat_top = np.minimum(1.0, 2 * (1 - lags / window))
    g = 2 * float((flat_top * lags * covariance[lags]).sum())
    spectrum = float(covariance[0] + 2 * (flat_top * covariance[lags]).sum())
    if spectrum <= 0:  # not the estimate of a spectrum: the covariances swing from sign to sign
        return 1.0
    length: float = (2 * g**2 / (4 / 3 * spectrum**2) * n) ** (1 / 3)
    return min(max(1.0, length), 3 * math.sqrt(n), n / 3)


def _first_uncorrelated(correlation: FloatArray) -> int:
    """m, the first of several lags in a row with a correlation within that of white noise.

    The paper's m is the lag before. One more keeps a single strong lag from being left out, and
    blocks of autoregressive series closer to their best length.
    """
    n = len(correlation)
    small = np.abs(correlation) < 2 * math.sqrt(math.log10(n) / n)
    run = _run(n)
    for lag in range(1, _highest_lag(n) - run + 2):
        if small[lag : lag + run].all():
            return lag
    return _highest_lag(n)


def _run(n: int) -> int:
    return max(5, math.ceil(math.sqrt(math.log10(n))))


def _highest_lag(n: int) -> int:
    return min(n - 1, math.ceil(math.sqrt(n)) + _run(n))
