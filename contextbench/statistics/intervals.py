"""How far scores and their differences could have fallen otherwise. No torch.

Two sources of chance. *Images*: other images of the same kind would give other scores; those of
the split are drawn again, with replacement, and every head is scored on the same draws, so that
what they share cancels in a difference (paired bootstrap). *Trainings*: another seed gives another
model. A pair of heads is compared over both at once (`methods`), which takes at least two trainings
of each for an interval and three for a verdict. `PairStatistics.models` compares the models that
were trained, over images alone, and says nothing of heads.

Sources: Efron and Tibshirani, An Introduction to the Bootstrap, 1993; Hesterberg, What Teachers
Should Know About the Bootstrap, 2015 (expanded percentiles). The draws are those of `draws`,
corrections and letters those of `groups`, and docs/statistics.md has all formulas in one place.
Ours: mIoU of a draw divides the summed counts of its images once, as an evaluation does, over the
classes that the drawn images are labelled with. p-values over images have a floor that follows from
the number of blocks (`_image_test`).
"""

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import NormalDist, fmean, stdev
from typing import Literal, NamedTuple

import numpy as np

from contextbench.config.sampling import INDEPENDENT, Sampling, SamplingError
from contextbench.records.counts import Areas
from contextbench.records.stored import RecordError
from contextbench.statistics import student
from contextbench.statistics.counts import (
    aligned,
    effects,
    effects_on,
    iou_of_draws,
    trained_elsewhere,
)
from contextbench.statistics.draws import (
    FEWEST_UNITS,
    Draws,
    FloatArray,
    Resampling,
    block_length,
    longer_blocks,
)
from contextbench.statistics.groups import group_letters, holm, smallest_difference
from contextbench.statistics.methods import TRAININGS, Parts
from contextbench.statistics.scores import Measure, class_iou, mean_of_present

__all__ = [
    "HeadStatistics",
    "Interval",
    "ModelsTest",
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

ENOUGH_UNITS = 20  # intervals from fewer hold the truth less often than they say
LISTED = 5  # pairs or classes that a sentence names before it counts the rest

Claims = Literal["heads", "intervals", "models"]


class Interval(NamedTuple):
    """An estimate between the ends of its interval; fractions, not percent. NaN: not known."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class SeedSpread:
    """Scores of the seeds that were run, in order of seed, each over the whole split.

    Models that were trained `elsewhere`, however many, are no trainings of one method: how they
    spread says nothing of it.
    """

    values: tuple[float, ...]
    elsewhere: bool = False

    @property
    def n(self) -> int:
        """Trainings of the method; one, without a deviation, for models from elsewhere."""
        return 1 if self.elsewhere else len(self.values)

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
    miou: Interval  # mean over its seeds; the interval is that of these models on other images
    seeds: SeedSpread
    groups: str  # letters; heads that share one are not separated. Empty: no verdict on this head
    rank_shares: tuple[float, ...]  # share of the draws in which it takes each place, best first
    models_groups: str = ""  # letters of the trained models, over images alone
    stray: int = 0  # pixels of all seeds predicted as a class that no image is labelled with


@dataclass(frozen=True)
class ModelsTest:
    """Two heads' trained models, over other images alone. It says nothing of other trainings."""

    difference: Interval
    p_value: float  # two-sided, that these models do not differ
    holm_p_value: float  # the same, corrected for all pairs of the ranking
    separated: bool  # by the corrected p-value
    smallest_difference: float  # that a split like this shows of such a pair alone; NaN: none
    at_floor: bool = False  # no smaller p-value could come out: it is an upper bound


@dataclass(frozen=True)
class PairStatistics:
    """Two heads, over other trainings and other images; `first` has the higher mIoU."""

    first: str
    second: str
    difference: Interval  # mIoU of the first minus that of the second; no ends: not known
    p_value: float  # two-sided, that the heads do not differ; NaN: no verdict
    holm_p_value: float  # the same, corrected for all pairs of the ranking that have one
    separated: bool  # by the corrected p-value; False without a verdict
    smallest_difference: float  # shown with a power of 0.8 at Holm's first level; NaN: none
    seed_wins: int  # pairs of one seed of each in which the first is better
    seed_pairs: int
    models: ModelsTest
    parts: Parts

    @property
    def tested(self) -> bool:
        """Whether there is a verdict on these heads."""
        return not math.isnan(self.holm_p_value)


@dataclass(frozen=True)
class Ranking:
    """Heads by mIoU, best first, and what can be said of every pair."""

    heads: tuple[HeadStatistics, ...]
    pairs: tuple[PairStatistics, ...]
    images: int
    block: int  # neighbouring frames that are drawn together; 1: single images
    resampling: Resampling
    missing_classes: Mapping[int, float]  # train id -> share of draws without a label of it
    clusters: int | None = None  # that are drawn with all their images; None: there are none
    unlabelled: tuple[int, ...] = ()  # train ids that no image is labelled with, left out

    @property
    def units(self) -> int:
        """Independent parts of the split: clusters, whole blocks, or images."""
        return self.images // self.block if self.clusters is None else self.clusters

    @property
    def claims(self) -> Claims:
        """What may be said: verdicts on heads, intervals alone, or nothing but of these models."""
        if any(pair.tested for pair in self.pairs):
            return "heads"
        known = any(not math.isnan(pair.difference.low) for pair in self.pairs)
        return "intervals" if known else "models"

    @property
    def tests(self) -> int:
        """Pairs that p-values are corrected for."""
        return sum(pair.tested for pair in self.pairs)

    @property
    def names(self) -> list[str]:
        """Of the heads, best first."""
        return [each.head for each in self.heads]

    def find(self, head: str) -> HeadStatistics | None:
        """One head; None where it is not ranked."""
        return next((each for each in self.heads if each.head == head), None)

    def of(self, head: str) -> HeadStatistics:
        """One head. Raises KeyError where it is not ranked."""
        found = self.find(head)
        if found is None:
            raise KeyError(head)
        return found

    def pair(self, one: str, other: str) -> PairStatistics:
        """The pair of two heads, in either order. Raises KeyError for heads not ranked."""
        for pair in self.pairs:
            if {pair.first, pair.second} == {one, other}:
                return pair
        raise KeyError(f"{one}, {other}")

    def difference(self, head: str, reference: str, *, models: bool = False) -> Interval:
        """mIoU of a head minus that of another; the interval turns around with the sign.

        `models`: the interval of the trained models over images alone.
        """
        if head == reference:
            return Interval(0.0, 0.0, 0.0)
        pair = self.pair(head, reference)
        known = pair.models.difference if models else pair.difference
        return known if pair.first == head else Interval(-known.estimate, -known.high, -known.low)

    def not_separated(self, head: str) -> list[str]:
        """The heads that are not told apart from one, best first; none where it is not ranked."""
        pairs = [{pair.first, pair.second} for pair in self.pairs if not pair.separated]
        return [name for name in self.names if {head, name} in pairs]

    @property
    def best_group(self) -> tuple[str, ...]:
        """The best head and those not separated from it, for want of a verdict too."""
        best = self.heads[0].head
        others = (h.head for h in self.heads[1:] if not self.pair(best, h.head).separated)
        return (best, *others)

    @property
    def limits(self) -> tuple[str, ...]:
        """What limits the intervals, one sentence each; empty where nothing does."""
        sentences = (
            _few_units(self),
            _from_elsewhere(self.heads),
            _few_trainings(self.heads),
            _no_variance(self.heads),
            _rare_classes(self.missing_classes),
        )
        return tuple(sentence for sentence in sentences if sentence)

    @property
    def cautions(self) -> tuple[str, ...]:
        """`limits`, and what limits the order of the heads."""
        few = _few_resamples(self)
        return (*self.limits, *([few] if few else []))


def rank(
    areas: Mapping[str, Mapping[int, Areas]],
    *,
    sampling: Sampling = INDEPENDENT,
    resampling: Resampling = Resampling(),
    classes: Sequence[int] | None = None,
    measure: Measure = class_iou,
) -> Ranking:
    """Rank heads by mIoU over the images that all their seeds were evaluated on.

    `areas`: head -> seed -> counts per image. `sampling`: which images are drawn together: frames
    with their neighbours by name, clusters as wholes. `classes`: train ids that the mean is over,
    all if None. `measure`: what is averaged in place of IoU; `miou` is then the mean of that.
    Raises `RecordError` unless all counts are of the same images and classes, and for images that
    are in no cluster.
    """
    counts = aligned(areas, classes)
    names = sorted(next(iter(next(iter(areas.values())).values())).names)
    ids = range(next(iter(counts.values())).shape[-1]) if classes is None else classes
    return rank_counts(
        counts,
        names,
        ids,
        sampling=sampling,
        resampling=resampling,
        measure=measure,
        elsewhere=trained_elsewhere(areas),
    )


def rank_counts(
    counts: Mapping[str, FloatArray],
    names: Sequence[str],
    ids: Sequence[int],
    *,
    sampling: Sampling = INDEPENDENT,
    resampling: Resampling = Resampling(),
    bounds: tuple[float, float] = (0.0, 1.0),
    measure: Measure = class_iou,
    elsewhere: Collection[str] = (),
) -> Ranking:
    """`rank` of counts (S, 3, N, K) of each head, as `aligned` makes them.

    `names` are those of the N images, in order; `ids` the train ids of the K classes, or of what
    `measure` gives; `bounds` what scores cannot pass; `elsewhere` heads whose models were imported.
    """
    draws = draws_of(counts, names, sampling, resampling, measure)
    sampled, missing = resampled(counts, draws, measure)
    seeds = {
        head: SeedSpread(whole_split(stacked, measure), head in elsewhere)
        for head, stacked in counts.items()
    }
    # Where a seed has no score, neither has its head, which then comes last.
    means = {head: fmean(spread.values) for head, spread in seeds.items()}
    order = sorted(counts, key=lambda head: (math.isnan(means[head]), -means[head], head))
    pairs = _pairs({head: (means[head], seeds[head], sampled[head]) for head in order}, draws)
    shares = _rank_shares(np.stack([sampled[head] for head in order]))
    letters = _letters(order, pairs)
    models = group_letters(
        order, (frozenset((p.first, p.second)) for p in pairs if p.models.separated)
    )
    first = next(iter(counts.values()))  # labels are those of every head
    absent = np.isnan(iou_of_draws(np.ones((1, draws.images)), first, measure)[0, 0])
    heads = tuple(
        HeadStatistics(
            head=head,
            miou=_symmetric(means[head], sampled[head], draws, bounds),
            seeds=seeds[head],
            groups=letters.get(head, ""),
            rank_shares=tuple(places.tolist()),
            models_groups=models[head],
            stray=int(counts[head][:, 1][..., np.flatnonzero(absent)].sum()),
        )
        for head, places in zip(order, shares, strict=True)
    )
    lacked = {k: share for k, share in zip(ids, missing.tolist(), strict=True) if 0 < share < 1}
    return Ranking(
        heads,
        pairs,
        draws.images,
        draws.block,
        resampling,
        lacked,
        None if draws.clusters is None else draws.units,
        tuple(k for k, left_out in zip(ids, absent.tolist(), strict=True) if left_out),
    )


def draws_of(
    counts: Mapping[str, FloatArray],
    names: Sequence[str],
    sampling: Sampling,
    resampling: Resampling,
    measure: Measure = class_iou,
) -> Draws:
    """How the images of counts are drawn: one by one, in clusters, or in blocks of frames."""
    block = 1
    if sampling.frames == "ordered":
        block = longer_blocks(block_length(_series(counts, measure)), len(names))
    return Draws(len(names), block, resampling, _clusters(sampling, names))


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
    measure: Measure = class_iou,
) -> Interval:
    """The test-set interval of one head's mIoU, mean over its seeds. Arguments as for `rank`."""
    ranking = rank(
        {"": dict(enumerate(areas))},
        sampling=sampling,
        resampling=resampling,
        classes=classes,
        measure=measure,
    )
    return ranking.heads[0].miou


def resampled(
    counts: Mapping[str, FloatArray], draws: Draws, measure: Measure = class_iou
) -> tuple[dict[str, FloatArray], FloatArray]:
    """mIoU of each head in each draw, mean over seeds; for each class, the share of draws that are
    not labelled with it."""
    sampled = {head: np.empty(draws.resampling.resamples) for head in counts}
    missing: FloatArray = np.zeros(())
    for part, weights in draws:
        for head, seeds in counts.items():
            iou = iou_of_draws(weights, seeds, measure)  # (seeds, draws, classes)
            sampled[head][part] = mean_of_present(iou).mean(axis=0)
        missing = missing + np.isnan(iou[0]).sum(axis=0)  # labels are those of every head
    return sampled, missing / draws.resampling.resamples


def whole_split(seeds: FloatArray, measure: Measure = class_iou) -> tuple[float, ...]:
    """mIoU of every seed over all images."""
    every_image = np.ones((1, seeds.shape[2]))
    return tuple(mean_of_present(iou_of_draws(every_image, seeds, measure))[:, 0].tolist())


def _series(counts: Mapping[str, FloatArray], measure: Measure) -> FloatArray:
    """(heads and pairs, images): effects of each image on scores and on their differences.

    Both, since what two heads share may be independent where their difference is not.
    """
    own = effects if measure is class_iou else partial(effects_on, measure)
    heads = [own(seeds) for seeds in counts.values()]
    return np.stack([*heads, *(a - b for a, b in itertools.combinations(heads, 2))])


def _pairs(
    heads: Mapping[str, tuple[float, SeedSpread, FloatArray]], draws: Draws
) -> tuple[PairStatistics, ...]:
    """All pairs of heads, best first; each head with its mIoU, that of its seeds and its draws."""
    names = list(itertools.combinations(heads, 2))
    models = _models(
        [heads[one][0] - heads[other][0] for one, other in names],
        [heads[one][2] - heads[other][2] for one, other in names],
        draws,
    )
    parts = [
        _parts(heads[one][1], heads[other][1], heads[one][2] - heads[other][2], draws)
        for one, other in names
    ]
    estimates = [each.difference.estimate for each in models]
    p_values = [_verdict(part, estimate) for part, estimate in zip(parts, estimates, strict=True)]
    tested = [i for i, p in enumerate(p_values) if not math.isnan(p)]
    corrected = dict(zip(tested, holm([p_values[i] for i in tested]), strict=True))
    alpha = 1 - draws.resampling.level
    pairs = []
    for i, (one, other) in enumerate(names):
        contests = list(itertools.product(heads[one][1].values, heads[other][1].values))
        reach = parts[i].reach(draws.resampling.level) if _enough(draws) else math.nan
        pairs.append(
            PairStatistics(
                one,
                other,
                difference=_around(estimates[i], reach),
                p_value=p_values[i],
                holm_p_value=corrected.get(i, math.nan),
                separated=corrected.get(i, 1.0) < alpha,
                smallest_difference=(
                    parts[i].smallest_difference(alpha / len(tested))
                    if i in corrected
                    else math.nan
                ),
                seed_wins=sum(a > b for a, b in contests),
                seed_pairs=len(contests),
                models=models[i],
                parts=parts[i],
            )
        )
    return tuple(pairs)


def _around(estimate: float, reach: float) -> Interval:
    if math.isnan(reach):
        return Interval(estimate, math.nan, math.nan)
    return Interval(estimate, estimate - reach, estimate + reach)


def _letters(order: Sequence[str], pairs: Sequence[PairStatistics]) -> dict[str, str]:
    """Letters of the heads that there is a verdict on."""
    judged = {name for pair in pairs if pair.tested for name in (pair.first, pair.second)}
    apart = (frozenset((pair.first, pair.second)) for pair in pairs if pair.separated)
    return group_letters([head for head in order if head in judged], apart)


def _verdict(parts: Parts, difference: float) -> float:
    """The p-value of a pair of heads; NaN for too few trainings or units."""
    if min(parts.seeds) < TRAININGS or parts.units < FEWEST_UNITS or math.isnan(difference):
        return math.nan
    return parts.p_value(difference)


def _parts(one: SeedSpread, other: SeedSpread, differences: FloatArray, draws: Draws) -> Parts:
    return Parts(
        deviations=(one.deviation, other.deviation),
        seeds=(one.n, other.n),
        image_error=_standard_error(differences, draws),
        units=draws.units,
    )


def _models(
    estimates: Sequence[float], sampled: Sequence[FloatArray], draws: Draws
) -> list[ModelsTest]:
    """The trained models of every pair, given the differences and their draws."""
    tests = [_image_test(differences, draws.units) for differences in sampled]
    level = draws.resampling.level
    return [
        ModelsTest(
            difference=_expanded(estimate, differences, draws),
            p_value=p,
            holm_p_value=corrected,
            separated=corrected < 1 - level,
            smallest_difference=_smallest(differences, draws, len(tests)),
            at_floor=at_floor,
        )
        for estimate, differences, (p, at_floor), corrected in zip(
            estimates, sampled, tests, holm([p for p, _ in tests]), strict=True
        )
    ]


def _image_test(differences: FloatArray, units: int) -> tuple[float, bool]:
    """Two-sided p-value over images, and whether no smaller one could have come out.

    It goes with the expanded percentile interval: with q the smaller share of draws beyond zero,
    zero itself counted in both and one draw added, P(|T| > z_q sqrt((m - 1) / m)) for Student's T
    of m - 1 degrees of freedom, m units. Draws without a score are left out.
    It is at least 2^(1 - m): whichever head were better in each of so few independent blocks, a
    test that swaps the heads within blocks could reach no less.
    """
    known = differences[~np.isnan(differences)]
    if units < 2 or not known.size:
        return 1.0, True
    tail = min(int((known <= 0).sum()), int((known >= 0).sum()))
    share = (tail + 1) / (known.size + 1)
    floor = 2.0 ** (1 - units)
    if share >= 0.5:
        return 1.0, False
    distance = NormalDist().inv_cdf(1 - share) * math.sqrt((units - 1) / units)
    p = float(student.two_sided(distance, units - 1))
    return max(p, floor), tail == 0 or p <= floor


def _smallest(differences: FloatArray, draws: Draws, pairs: int) -> float:
    """What the test of these models shows; NaN where none of its p-values is small enough."""
    level = draws.resampling.level
    if _lowest(draws.resampling, draws.units) * pairs >= 1 - level or not _enough(draws):
        return math.nan
    return smallest_difference(_standard_error(differences, draws), level)


def _lowest(resampling: Resampling, units: int) -> float:
    """The p-value of a difference that no draw contradicts."""
    return _image_test(np.ones(resampling.resamples), units)[0]


def _enough(draws: Draws) -> bool:
    return draws.units >= FEWEST_UNITS


def _symmetric(
    estimate: float, sampled: FloatArray, draws: Draws, bounds: tuple[float, float]
) -> Interval:
    """Estimate and t times its error to both sides, within `bounds`: the interval of a score.

    Percentiles of the draws lie too low where rare classes are confused with others, since the
    draws are low once more by what the sample is low already.
    """
    error = _standard_error(sampled, draws)
    if math.isnan(error) or not _enough(draws):
        return Interval(estimate, math.nan, math.nan)
    reach = student.quantile((1 + draws.resampling.level) / 2, draws.units - 1) * error
    low, high = bounds
    return Interval(estimate, max(low, estimate - reach), min(high, estimate + reach))


def _expanded(estimate: float, sampled: FloatArray, draws: Draws) -> Interval:
    """The percentile interval of a difference, at the percentiles that Student's t asks for.

    Without ends where no draw has a score, and for fewer than `FEWEST_UNITS` units.
    """
    known = sampled[~np.isnan(sampled)]
    units = draws.units
    if not known.size or not _enough(draws):
        return Interval(estimate, math.nan, math.nan)
    t = student.quantile((1 + draws.resampling.level) / 2, units - 1)
    share = NormalDist().cdf(-t * math.sqrt(units / (units - 1)))
    low, high = np.quantile(known, [share, 1 - share])
    return Interval(estimate, float(low), float(high))


def _standard_error(sampled: FloatArray, draws: Draws) -> float:
    """That of a score or difference: the deviation of its draws, with m - 1 for m units."""
    known = sampled[~np.isnan(sampled)]
    if known.size < 2 or draws.units < 2:
        return math.nan
    return float(known.std(ddof=1)) * math.sqrt(draws.units / (draws.units - 1))


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
    if ranking.units >= ENOUGH_UNITS:
        return ""
    few = f"Few {_units(ranking)} ({ranking.units})"
    if ranking.units < FEWEST_UNITS:
        return f"{few}: below {FEWEST_UNITS} there are no intervals and no verdicts."
    return f"{few}: intervals from fewer than {ENOUGH_UNITS} hold the truth less often than stated."


def _units(ranking: Ranking) -> str:
    """What is drawn, in words."""
    if ranking.clusters is not None:
        return "clusters of images"
    return "images" if ranking.block == 1 else f"blocks of {ranking.block} frames"


def _from_elsewhere(heads: Sequence[HeadStatistics]) -> str:
    names = [each.head for each in heads if each.seeds.elsewhere]
    if not names:
        return ""
    return (
        f"No verdict on {_listed(names)}: trained elsewhere, which says something of these models "
        "and nothing of a method."
    )


def _few_trainings(heads: Sequence[HeadStatistics]) -> str:
    own = [each for each in heads if not each.seeds.elsewhere]
    few = [each for each in own if each.seeds.n < TRAININGS]
    if not few or len(heads) < 2:
        return ""
    names = "every head" if len(few) == len(heads) else _listed([each.head for each in few])
    single = all(each.seeds.n == 1 for each in few)
    count = "one training" if single else f"fewer than {TRAININGS} trainings"
    return f"No verdict on {names}: {count}, so another one may change the order."


def _no_variance(heads: Sequence[HeadStatistics]) -> str:
    equal = [each.head for each in heads if each.seeds.n > 1 and each.seeds.deviation == 0]
    if not equal:
        return ""
    return (
        f"All trainings of {_listed(equal)} score exactly the same, as copies of one training do: "
        "what another one would change may be understated."
    )


def _rare_classes(missing: Mapping[int, float]) -> str:
    rare = [f"train id {k} ({share:.1%})" for k, share in missing.items()]
    if not rare:
        return ""
    return f"Classes without a label in some draws, left out of their means: {_listed(rare)}."


def _few_resamples(ranking: Ranking) -> str:
    """Where not even a difference that no draw contradicts separates two trained models."""
    resampling, pairs = ranking.resampling, len(ranking.pairs)
    lowest = _lowest(resampling, ranking.units)
    if ranking.units < FEWEST_UNITS or lowest * pairs < 1 - resampling.level:
        return ""
    return (
        f"{resampling.resamples} draws of {ranking.units} {_units(ranking)} are too few to "
        f"separate the trained models of any of {pairs} pairs: the lowest p-value is "
        f"{lowest:.2g} before correction."
    )


def _listed(parts: Sequence[str]) -> str:
    more = len(parts) - LISTED
    return "; ".join([*parts[:LISTED], *([f"and {more} more"] if more > 0 else [])])
