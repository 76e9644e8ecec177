"""How far scores and their differences could have fallen otherwise. No torch.

Two sources of chance are kept apart. *Test set*: other images of the same kind would give other
scores; the images of the split are drawn again, with replacement, and every head is scored on the
same draws, so that what they share cancels in a difference (paired bootstrap). *Training*: another
seed gives another model; this is the spread over the seeds that were run, and nothing is inferred
from a single one.

Sources: Efron and Tibshirani, An Introduction to the Bootstrap, 1993 (percentile intervals, section
13.3). The draws are those of `resampling`, corrections and letters those of `separation`, and
docs/statistics.md has all formulas in one place.
Ours: mIoU of a draw divides the summed counts of its images once, as an evaluation does. A class
that a draw lacks is left out of its mean, as an absent class is everywhere here. p-values have a
floor that follows from the number of blocks (`_p_value`).
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import NamedTuple

import numpy as np

from contextbench.config.sampling import INDEPENDENT, Sampling, SamplingError
from contextbench.records.counts import Areas
from contextbench.records.stored import RecordError
from contextbench.statistics.counts import aligned, effects, iou_of_draws, mean_of_present
from contextbench.statistics.draws import Draws, FloatArray, Resampling, block_length
from contextbench.statistics.groups import group_letters, holm, smallest_difference

__all__ = [
    "HeadStatistics",
    "Interval",
    "PairStatistics",
    "Ranking",
    "Resampling",
    "SeedSpread",
    "group_letters",
    "holm",
    "miou_interval",
    "rank",
    "rank_counts",
    "smallest_difference",
]

ENOUGH_BLOCKS = 20  # 95 % intervals from fewer cover less than about 93 % (docs/statistics.md)
LISTED = 5  # pairs or classes that a sentence names before it counts the rest


class Interval(NamedTuple):
    """An estimate between the ends of its interval; fractions, not percent. NaN: not known."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class SeedSpread:
    """Scores of the seeds that were run, in order of seed, each over the whole split."""

    values: tuple[float, ...]

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def deviation(self) -> float:
        """Standard deviation of one training; NaN for a single seed, or one without a score."""
        known = self.n > 1 and not any(map(math.isnan, self.values))
        return stdev(self.values) if known else math.nan

    @property
    def standard_error(self) -> float:
        """Of the mean over these seeds; NaN where the deviation is."""
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
    p_value: float  # two-sided, that these models do not differ; test set
    holm_p_value: float  # the same, corrected for all pairs of the ranking
    separated: bool  # by the corrected p-value
    smallest_difference: float  # that a split like this shows with a power of 0.8
    seed_wins: int  # pairs of one seed of each in which the first is better
    seed_pairs: int

    @property
    def every_seed_wins(self) -> bool:
        """Whether every seed of the first is better than every seed of the second."""
        return self.seed_wins == self.seed_pairs


@dataclass(frozen=True)
class Ranking:
    """Heads by mIoU, best first, and what the split can say of every pair."""

    heads: tuple[HeadStatistics, ...]
    pairs: tuple[PairStatistics, ...]
    images: int
    block: int  # neighbouring frames that are drawn together; 1: single images
    resampling: Resampling
    missing_classes: Mapping[int, float]  # train id -> share of draws in which a head has no IoU
    clusters: int | None = None  # that are drawn with all their images; None: there are none

    @property
    def units(self) -> int:
        """Independent parts of the split: clusters, whole blocks, or images."""
        return self.images // self.block if self.clusters is None else self.clusters

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

    @property
    def limits(self) -> tuple[str, ...]:
        """What limits the intervals, one sentence each; empty where nothing does."""
        sentences = (
            _few_units(self),
            _single_seeds(self.heads),
            _rare_classes(self.missing_classes),
        )
        return tuple(sentence for sentence in sentences if sentence)

    @property
    def cautions(self) -> tuple[str, ...]:
        """`limits`, and what limits the order of the heads."""
        sentences = (
            _disagreeing_seeds(self.pairs),
            _few_resamples(self.resampling, len(self.pairs)),
        )
        return (*self.limits, *(sentence for sentence in sentences if sentence))


def rank(
    areas: Mapping[str, Mapping[int, Areas]],
    *,
    sampling: Sampling = INDEPENDENT,
    resampling: Resampling = Resampling(),
    classes: Sequence[int] | None = None,
) -> Ranking:
    """Rank heads by mIoU over the images that all their seeds were evaluated on.

    `areas`: head -> seed -> counts per image. `sampling`: which images are drawn together: frames
    with their neighbours by name, clusters as wholes. `classes`: train ids that the mean is over,
    all if None.
    Raises `RecordError` unless all counts are of the same images and classes, and for images that
    are in no cluster.
    """
    counts = aligned(areas, classes)
    names = sorted(next(iter(next(iter(areas.values())).values())).names)
    ids = range(next(iter(counts.values())).shape[-1]) if classes is None else classes
    return rank_counts(counts, names, ids, sampling=sampling, resampling=resampling)


def rank_counts(
    counts: Mapping[str, FloatArray],
    names: Sequence[str],
    ids: Sequence[int],
    *,
    sampling: Sampling = INDEPENDENT,
    resampling: Resampling = Resampling(),
) -> Ranking:
    """`rank` of counts (S, 3, N, K) of each head, as `aligned` makes them.

    `names` are those of the N images, in order; `ids` the train ids of the K classes.
    """
    block = block_length(_series(counts)) if sampling.frames == "ordered" else 1
    draws = Draws(len(names), block, resampling, _clusters(sampling, names))
    sampled, missing = _resampled(counts, draws)
    seeds = {head: SeedSpread(_whole_split(stacked)) for head, stacked in counts.items()}
    # Where a seed has no score, neither has its head, which then comes last.
    means = {head: fmean(spread.values) for head, spread in seeds.items()}
    order = sorted(counts, key=lambda head: (math.isnan(means[head]), -means[head], head))
    pairs = _pairs({head: (means[head], seeds[head], sampled[head]) for head in order}, draws)
    letters = group_letters(order, (frozenset((p.first, p.second)) for p in pairs if p.separated))
    shares = _rank_shares(np.stack([sampled[head] for head in order]))
    heads = tuple(
        HeadStatistics(
            head=head,
            miou=_interval(means[head], sampled[head], draws),
            seeds=seeds[head],
            groups=letters[head],
            rank_shares=tuple(places.tolist()),
        )
        for head, places in zip(order, shares, strict=True)
    )
    lacked = {k: share for k, share in zip(ids, missing.tolist(), strict=True) if share > 0}
    clusters = None if draws.clusters is None else draws.units
    return Ranking(heads, pairs, draws.images, block, resampling, lacked, clusters)


def _clusters(sampling: Sampling, names: Sequence[str]) -> tuple[int, ...] | None:
    try:
        clusters = sampling.clusters(names)
    except SamplingError as error:
        raise RecordError(str(error)) from None
    return None if clusters is None else tuple(clusters)


def miou_interval(
    areas: Sequence[Areas],
    *,
    sampling: Sampling = INDEPENDENT,
    resampling: Resampling = Resampling(),
    classes: Sequence[int] | None = None,
) -> Interval:
    """The test-set interval of one head's mIoU, mean over its seeds. Arguments as for `rank`."""
    ranking = rank(
        {"": dict(enumerate(areas))}, sampling=sampling, resampling=resampling, classes=classes
    )
    return ranking.heads[0].miou


def _resampled(
    counts: Mapping[str, FloatArray], draws: Draws
) -> tuple[dict[str, FloatArray], FloatArray]:
    """mIoU of each head in each draw, mean over seeds; for each class, the share of draws in which
    a head has no IoU of it."""
    sampled = {head: np.empty(draws.resampling.resamples) for head in counts}
    missing = np.zeros(next(iter(counts.values())).shape[-1])
    for part, weights in draws:
        absent = np.zeros((len(weights), len(missing)), dtype=bool)
        for head, seeds in counts.items():
            iou = iou_of_draws(weights, seeds)  # (seeds, draws, classes)
            sampled[head][part] = mean_of_present(iou).mean(axis=0)
            absent |= np.isnan(iou).any(axis=0)
        missing += absent.sum(axis=0)
    return sampled, missing / draws.resampling.resamples


def _whole_split(seeds: FloatArray) -> tuple[float, ...]:
    """mIoU of every seed over all images."""
    every_image = np.ones((1, seeds.shape[2]))
    return tuple(mean_of_present(iou_of_draws(every_image, seeds))[:, 0].tolist())


def _series(counts: Mapping[str, FloatArray]) -> FloatArray:
    """(heads and pairs, images): effects of each image on scores and on their differences.

    Both, since what two heads share may be independent where their difference is not.
    """
    heads = [effects(seeds) for seeds in counts.values()]
    return np.stack([*heads, *(a - b for a, b in itertools.combinations(heads, 2))])


def _pairs(
    heads: Mapping[str, tuple[float, SeedSpread, FloatArray]], draws: Draws
) -> tuple[PairStatistics, ...]:
    """All pairs of heads, best first; each head with its mIoU, that of its seeds and its draws."""
    names = list(itertools.combinations(heads, 2))
    drawn = [heads[one][2] - heads[other][2] for one, other in names]
    p_values = [_p_value(differences, draws) for differences in drawn]
    level = draws.resampling.level
    pairs = []
    for names_of_pair, differences, p, holm_p in zip(
        names, drawn, p_values, holm(p_values), strict=True
    ):
        (mean, seeds, _), (other_mean, other_seeds, _) = (heads[name] for name in names_of_pair)
        contests = list(itertools.product(seeds.values, other_seeds.values))
        pairs.append(
            PairStatistics(
                *names_of_pair,
                difference=_interval(mean - other_mean, differences, draws),
                p_value=p,
                holm_p_value=holm_p,
                separated=holm_p < 1 - level,
                smallest_difference=smallest_difference(_standard_error(differences, draws), level),
                seed_wins=sum(a > b for a, b in contests),
                seed_pairs=len(contests),
            )
        )
    return tuple(pairs)


def _p_value(differences: FloatArray, draws: Draws) -> float:
    """Twice the smaller tail beyond zero, zero itself counted in both; draws without a score left
    out.

    At least 2 / (draws + 1), since that many were drawn, and 2^(1 - blocks): whichever head were
    better in each of so few independent blocks, a test that swaps the heads within blocks could
    reach no less.
    """
    known = differences[~np.isnan(differences)]
    tail = min(int((known <= 0).sum()), int((known >= 0).sum()))
    share = 2 * (tail + 1) / (known.size + 1)
    return min(1.0, max(share, 2.0 ** (1 - draws.units)))


def _interval(estimate: float, sampled: FloatArray, draws: Draws) -> Interval:
    """The percentile interval; without ends where no draw has a score, or one block is all."""
    known = sampled[~np.isnan(sampled)]
    if not known.size or draws.units < 2:
        return Interval(estimate, math.nan, math.nan)
    level = draws.resampling.level
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high))


def _standard_error(sampled: FloatArray, draws: Draws) -> float:
    known = sampled[~np.isnan(sampled)]
    enough = known.size > 1 and draws.units > 1
    return float(known.std(ddof=1)) if enough else math.nan


def _rank_shares(sampled: FloatArray) -> FloatArray:
    """(heads, draws) scores to (heads, places): the share of the draws in each place.

    Heads with equal scores share their places; one without a score is behind all that have one.
    """
    scores = np.where(np.isnan(sampled), -np.inf, sampled)
    better = (scores[None] > scores[:, None]).sum(axis=1)  # (heads, draws)
    equal = (scores[None] == scores[:, None]).sum(axis=1)  # itself included
    places = [
        ((better <= place) & (place < better + equal)) / equal for place in range(len(scores))
    ]
    shares: FloatArray = np.stack(places, axis=1).mean(axis=2)
    return shares


def _few_units(ranking: Ranking) -> str:
    if ranking.units >= ENOUGH_BLOCKS:
        return ""
    what = "images" if ranking.block == 1 else f"blocks of {ranking.block} frames"
    return (
        f"Few {what if ranking.clusters is None else 'clusters of images'} ({ranking.units}): "
        f"intervals from fewer than {ENOUGH_BLOCKS} are too narrow, and no p-value is below "
        f"{2.0 ** (1 - ranking.units):.2g}."
    )


def _single_seeds(heads: Sequence[HeadStatistics]) -> str:
    single = [each.head for each in heads if each.seeds.n == 1]
    if not single:
        return ""
    names = "every head" if len(single) == len(heads) else ", ".join(single)
    return f"Spread over seeds of {names}: n = 1, so another training may change the order."


def _disagreeing_seeds(pairs: Sequence[PairStatistics]) -> str:
    doubtful = [
        f"{pair.first} over {pair.second} ({pair.seed_wins} of {pair.seed_pairs})"
        for pair in pairs
        if pair.separated and not pair.every_seed_wins
    ]
    if not doubtful:
        return ""
    return (
        "Separated as trained, but not in every pair of seeds, so that another training may "
        f"change the order: {_listed(doubtful)}."
    )


def _rare_classes(missing: Mapping[int, float]) -> str:
    rare = [f"train id {k} ({share:.1%})" for k, share in missing.items() if share < 1]
    if not rare:
        return ""
    return f"Classes without an IoU in some draws, left out of their means: {_listed(rare)}."


def _few_resamples(resampling: Resampling, pairs: int) -> str:
    lowest = 2 / (resampling.resamples + 1)
    if not pairs or lowest * pairs < 1 - resampling.level:
        return ""
    return (
        f"{resampling.resamples} draws are too few to separate any of {pairs} pairs: the lowest "
        f"p-value is {lowest:.2g} before correction."
    )


def _listed(parts: Sequence[str]) -> str:
    more = len(parts) - LISTED
    return "; ".join([*parts[:LISTED], *([f"and {more} more"] if more > 0 else [])])
