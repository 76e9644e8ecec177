"""How far scores and their differences could have fallen otherwise. No torch.

Two sources of chance are kept apart. *Test set*: other images of the same kind would give other
scores; the images of the split are drawn again, with replacement, and every head is scored on the
same draws, so that what they share cancels in a difference (paired bootstrap). *Training*: another
seed gives another model; this is the spread over the seeds that were run, and nothing is inferred
from a single one.

Sources: Efron and Tibshirani, An Introduction to the Bootstrap, 1993 (percentile intervals, section
13.3); Politis and Romano, A circular block-resampling procedure, 1992; Politis and White 2004 with
the correction of Patton, Politis and White 2009 (length of the blocks); Holm 1979.
Ours: mIoU of a draw divides the summed counts of its images once, as an evaluation does. A class
that a draw lacks is left out of its mean, as an absent class is everywhere here.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from contextbench.metrics import scores
from contextbench.results import Areas, RecordError

FloatArray = npt.NDArray[np.float64]

POWER = 0.8  # of the smallest difference: the chance that a true one of this size is seen
DRAWS_AT_ONCE = 500  # bounds memory; 20 MB of weights for 5000 images


@dataclass(frozen=True)
class Resampling:
    """How often and how the images of a split are drawn again. ValueError for other values."""

    resamples: int = 10_000
    level: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.resamples < 100 or not 0 < self.level < 1:
            raise ValueError(
                "resamples must be at least 100 and level between 0 and 1, got "
                f"{self.resamples} and {self.level}"
            )


class Interval(NamedTuple):
    """An estimate between the ends of its interval; fractions, not percent."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class SeedSpread:
    """Scores of the seeds that were run, each over the whole split."""

    values: tuple[float, ...]

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def deviation(self) -> float:
        """Standard deviation of one training; NaN for a single seed."""
        return stdev(self.values) if self.n > 1 else math.nan

    @property
    def standard_error(self) -> float:
        """Of the mean over these seeds; NaN for a single seed."""
        return self.deviation / math.sqrt(self.n)


@dataclass(frozen=True)
class HeadStatistics:
    """One head of a ranking."""

    head: str
    miou: Interval  # mean over its seeds; the interval is that of the test set
    seeds: SeedSpread
    groups: str  # letters; heads that share one cannot be separated by this split
    rank_shares: tuple[float, ...]  # share of the draws in which it takes each place, best first


@dataclass(frozen=True)
class PairStatistics:
    """Two heads over the same draws; `first` is the one with the higher mIoU."""

    first: str
    second: str
    difference: Interval  # mIoU of the first minus that of the second; test set
    p_value: float  # two-sided, that the difference is none
    holm_p_value: float  # the same, corrected for all pairs of the ranking
    separated: bool  # by the corrected p-value
    smallest_difference: float  # that a split like this shows with the power `POWER`
    seed_wins: int  # pairs of one seed of each in which the first is better
    seed_pairs: int


@dataclass(frozen=True)
class Ranking:
    """Heads by mIoU, best first, and what the split can say of every pair."""

    heads: tuple[HeadStatistics, ...]
    pairs: tuple[PairStatistics, ...]
    images: int
    block: int  # neighbouring frames that are drawn together; 1: single images
    resampling: Resampling
    missing_classes: Mapping[int, float]  # train id -> share of draws that lack it; 0 left out

    def pair(self, one: str, other: str) -> PairStatistics:
        """The pair of two heads, in either order. Raises KeyError for heads not ranked."""
        for pair in self.pairs:
            if {pair.first, pair.second} == {one, other}:
                return pair
        raise KeyError(f"{one}, {other}")

    @property
    def best_group(self) -> tuple[str, ...]:
        """The best head and those that this split cannot separate from it."""
        best = self.heads[0].head
        others = (h.head for h in self.heads[1:] if not self.pair(best, h.head).separated)
        return (best, *others)


def rank(
    areas: Mapping[str, Mapping[int, Areas]],
    *,
    video: bool = False,
    resampling: Resampling = Resampling(),
    classes: Sequence[int] | None = None,
) -> Ranking:
    """Rank heads by mIoU over the images that all their seeds were evaluated on.

    `areas`: head -> seed -> counts per image. `video`: the images, by name, are frames in order of
    time, and neighbours are drawn together. `classes`: train ids that the mean is over, all if
    None.
    Raises `RecordError` unless all counts are of the same images and classes.
    """
    counts = _aligned(areas, classes)
    block = block_length(_influences(counts)) if video else 1
    draws = Draws(_images(counts), block, resampling)
    sampled = {head: np.zeros(resampling.resamples) for head in counts}
    missing = np.zeros(next(iter(counts.values())).shape[-1])
    for part, weights in draws:
        for head, seeds in counts.items():
            iou = _iou(weights, seeds)  # (seeds, draws, classes)
            sampled[head][part] = _mean_of_present(iou).mean(axis=0)
        missing += np.isnan(iou).any(axis=0).sum(axis=0)
    return _ranking(counts, sampled, block, resampling, _shares(missing, resampling, classes))


def miou_interval(
    areas: Sequence[Areas],
    *,
    video: bool = False,
    resampling: Resampling = Resampling(),
    classes: Sequence[int] | None = None,
) -> Interval:
    """The test-set interval of one head's mIoU, mean over its seeds. Arguments as for `rank`."""
    ranking = rank(
        {"": dict(enumerate(areas))}, video=video, resampling=resampling, classes=classes
    )
    return ranking.heads[0].miou


@dataclass(frozen=True)
class Draws:
    """Draws of `images` images with replacement, in blocks of neighbours that wrap around.

    Iterating gives a slice of the draws and their weights (draws, images): how often each image is
    in each draw. Every draw has `images` images; equal arguments give equal draws.
    """

    images: int
    block: int
    resampling: Resampling

    def __iter__(self) -> Iterator[tuple[slice, FloatArray]]:
        generator = np.random.default_rng(self.resampling.seed)
        blocks = math.ceil(self.images / self.block)
        for first in range(0, self.resampling.resamples, DRAWS_AT_ONCE):
            count = min(DRAWS_AT_ONCE, self.resampling.resamples - first)
            starts = generator.integers(self.images, size=(count, blocks, 1))
            drawn = (starts + np.arange(self.block)) % self.images
            drawn = drawn.reshape(count, -1)[:, : self.images]  # the last block may be cut
            drawn += self.images * np.arange(count)[:, None]
            weights = np.bincount(drawn.ravel(), minlength=count * self.images)
            yield slice(first, first + count), weights.reshape(count, -1).astype(np.float64)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number: p_(i) times the tests left, never falling, at most 1."""
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for position, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, (len(p_values) - position) * p_values[index])
        corrected[index] = min(1.0, highest)
    return corrected


def group_letters(names: Sequence[str], separated: Iterable[frozenset[str]]) -> dict[str, str]:
    """Letters such that two names share one exactly if their pair is not `separated`.

    Each letter is a largest set of names without a separated pair, in the order of `names`.
    """
    apart = set(separated)
    groups: list[frozenset[str]] = []
    for name in names:
        # The sets that hold `name` are those so far, less what is separated from it.
        compatible = {
            frozenset(n for n in group if frozenset((n, name)) not in apart) | {name}
            for group in [*groups, frozenset[str]()]
        }
        groups = _largest([*groups, *compatible])
    groups.sort(key=lambda group: sorted(names.index(name) for name in group))
    return {
        name: "".join(_letter(i) for i, group in enumerate(groups) if name in group)
        for name in names
    }


def smallest_difference(standard_error: float, level: float = 0.95, power: float = POWER) -> float:
    """The true difference that a test at `level` sees with `power`, for a normal estimate."""
    normal = NormalDist()
    return (normal.inv_cdf((1 + level) / 2) + normal.inv_cdf(power)) * standard_error


def block_length(series: FloatArray) -> int:
    """Length of circular blocks for dependent values (series, images) in order of time.

    Politis and White's automatic choice, b = (2 G^2 / D)^(1/3) n^(1/3), D = 4/3 g(0)^2; the longest
    of the series, at most a third of the images, and 1 where neighbours are not alike.
    """
    n: int = series.shape[1]
    longest = max(1, n // 3)
    return min(longest, max(math.ceil(_politis_white(row)) for row in series))


def _politis_white(values: FloatArray) -> float:
    n = len(values)
    centred = values - values.mean()
    if n < 8 or not centred.any():
        return 1.0
    # Covariances at all lags; a flat top window up to twice the last lag that still matters.
    covariance = np.correlate(centred, centred, mode="full")[n - 1 :] / n
    last = _last_correlated(covariance / covariance[0])
    lags = np.arange(1, min(2 * last, n - 1) + 1)
    window = np.minimum(1.0, 2 * (1 - lags / max(1, 2 * last)))
    g = 2 * float((window * lags * covariance[lags]).sum())
    spectrum = float(covariance[0] + 2 * (window * covariance[lags]).sum())
    if spectrum <= 0:
        return 1.0
    return max(1.0, float((2 * g**2 / (4 / 3 * spectrum**2) * n) ** (1 / 3)))


def _last_correlated(correlation: FloatArray) -> int:
    """The lag after which several correlations in a row are within those of white noise."""
    n = len(correlation)
    run = max(5, math.ceil(math.sqrt(math.log10(n))))
    limit = min(n - 1, math.ceil(math.sqrt(n)) + run)
    small = np.abs(correlation[1 : limit + 1]) < 2 * math.sqrt(math.log10(n) / n)
    for lag in range(len(small)):
        if small[lag : lag + run].all():
            return lag
    return limit


def _aligned(
    areas: Mapping[str, Mapping[int, Areas]], classes: Sequence[int] | None
) -> dict[str, FloatArray]:
    """head -> (seeds, 3, images, classes): intersection, predicted, labelled; images by name."""
    every = [(head, seed, each) for head, seeds in areas.items() for seed, each in seeds.items()]
    if not every:
        raise RecordError("there are no counts per image to resample")
    first_head, first_seed, first = every[0]
    order = sorted(first.names)
    chosen = slice(None) if classes is None else list(classes)
    aligned: dict[str, list[FloatArray]] = {}
    for head, seed, each in every:
        if sorted(each.names) != order or each.labelled.shape[1] != first.labelled.shape[1]:
            raise RecordError(
                f"{head} seed {seed} and {first_head} seed {first_seed} were not evaluated on the "
                "same images and classes: their difference has no interval"
            )
        rows = np.argsort(each.names)
        stacked = np.stack([each.intersection, each.predicted, each.labelled])
        aligned.setdefault(head, []).append(stacked[:, rows][..., chosen].astype(np.float64))
    return {head: np.stack(seeds) for head, seeds in aligned.items()}


def _images(counts: Mapping[str, FloatArray]) -> int:
    images: int = next(iter(counts.values())).shape[2]
    return images


def _iou(weights: FloatArray, seeds: FloatArray) -> FloatArray:
    """(draws, images) weights on (seeds, 3, images, classes) counts: (seeds, draws, classes).

    NaN for a class that a draw lacks. Sums of whole numbers are exact in float64 up to 2^53.
    """
    correct, predicted, labelled = np.moveaxis(weights @ seeds, 1, 0)
    union = predicted + labelled - correct
    quotient = np.full(union.shape, np.nan)
    np.divide(correct, union, out=quotient, where=union > 0)
    return quotient


def _mean_of_present(iou: FloatArray) -> FloatArray:
    """Mean over the last axis of what is not NaN; NaN where nothing is left."""
    present = ~np.isnan(iou)
    number = present.sum(axis=-1)
    total = np.where(present, iou, 0).sum(axis=-1)
    mean = np.full(total.shape, np.nan)
    np.divide(total, number, out=mean, where=number > 0)
    return mean


def _influences(counts: Mapping[str, FloatArray]) -> FloatArray:
    """(heads, images): the first-order effect of each image on mIoU, mean over seeds."""
    rows = []
    for seeds in counts.values():
        correct, predicted, labelled = np.moveaxis(seeds, 1, 0)  # each (seeds, images, classes)
        union = predicted + labelled - correct
        total = union.sum(axis=1, keepdims=True)
        iou = np.divide(
            correct.sum(axis=1, keepdims=True), total, out=np.zeros_like(total), where=total > 0
        )
        effect = np.divide(correct - iou * union, total, out=np.zeros_like(union), where=total > 0)
        rows.append(effect.mean(axis=(0, 2)))
    return np.stack(rows)


def _ranking(
    counts: Mapping[str, FloatArray],
    sampled: Mapping[str, FloatArray],
    block: int,
    resampling: Resampling,
    missing: Mapping[int, float],
) -> Ranking:
    spreads = {head: SeedSpread(_whole_split(seeds)) for head, seeds in counts.items()}
    # Where a seed has no score, neither has its head, which then comes last.
    means = {head: fmean(spread.values) for head, spread in spreads.items()}
    order = sorted(counts, key=lambda head: (math.isnan(means[head]), -means[head], head))
    pairs = _pairs(order, means, spreads, sampled, resampling)
    letters = group_letters(order, (frozenset((p.first, p.second)) for p in pairs if p.separated))
    places = _rank_shares([sampled[head] for head in order])
    heads = tuple(
        HeadStatistics(
            head=head,
            miou=_interval(means[head], sampled[head], resampling.level),
            seeds=spreads[head],
            groups=letters[head],
            rank_shares=shares,
        )
        for head, shares in zip(order, places, strict=True)
    )
    return Ranking(heads, pairs, _images(counts), block, resampling, missing)


def _whole_split(seeds: FloatArray) -> tuple[float, ...]:
    return tuple(scores(*(seed.sum(axis=1).astype(np.int64))).miou for seed in seeds)


def _pairs(
    order: Sequence[str],
    means: Mapping[str, float],
    spreads: Mapping[str, SeedSpread],
    sampled: Mapping[str, FloatArray],
    resampling: Resampling,
) -> tuple[PairStatistics, ...]:
    names = list(itertools.combinations(order, 2))
    drawn = [sampled[one] - sampled[other] for one, other in names]
    p_values = [_p_value(differences) for differences in drawn]
    corrected = holm(p_values)
    pairs = []
    for (one, other), differences, p, holm_p in zip(names, drawn, p_values, corrected, strict=True):
        contests = list(itertools.product(spreads[one].values, spreads[other].values))
        pairs.append(
            PairStatistics(
                first=one,
                second=other,
                difference=_interval(means[one] - means[other], differences, resampling.level),
                p_value=p,
                holm_p_value=holm_p,
                separated=holm_p < 1 - resampling.level,
                smallest_difference=smallest_difference(
                    float(np.nanstd(differences, ddof=1)), resampling.level
                ),
                seed_wins=sum(a > b for a, b in contests),
                seed_pairs=len(contests),
            )
        )
    return tuple(pairs)


def _p_value(differences: FloatArray) -> float:
    """Twice the smaller tail beyond zero, zero itself counted, at least 2 / (resamples + 1)."""
    n = len(differences)
    tail = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return min(1.0, 2 * (tail + 1) / (n + 1))


def _interval(estimate: float, sampled: FloatArray, level: float) -> Interval:
    known = sampled[~np.isnan(sampled)]
    if not known.size:
        return Interval(estimate, math.nan, math.nan)
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high))


def _rank_shares(sampled: Sequence[FloatArray]) -> list[tuple[float, ...]]:
    """Share of the draws in each place, head by head in the given order; the earlier wins ties."""
    places = np.argsort(np.argsort(-np.stack(sampled), axis=0, kind="stable"), axis=0)
    heads = len(sampled)
    return [tuple((np.bincount(row, minlength=heads) / row.size).tolist()) for row in places]


def _shares(
    missing: FloatArray, resampling: Resampling, classes: Sequence[int] | None
) -> dict[int, float]:
    ids = range(len(missing)) if classes is None else classes
    shares = (missing / resampling.resamples).tolist()
    return {k: share for k, share in zip(ids, shares, strict=True) if share > 0}


def _largest(groups: Iterable[frozenset[str]]) -> list[frozenset[str]]:
    """The sets that no other one contains."""
    distinct = list(dict.fromkeys(groups))
    return [group for group in distinct if not any(group < other for other in distinct)]


def _letter(index: int) -> str:
    """a to z, then numbers in brackets."""
    return chr(ord("a") + index) if index < 26 else f"({index + 1})"
