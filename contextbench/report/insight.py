"""Which head solves which group of classes, seed by seed, with intervals: numbers from records.

The groups are those that the dataset declares (`labels.groups` of the records). IoU of a group, or
another metric that is chosen, is the mean over its classes. A head is judged by its difference to a
baseline, over other trainings and other images at once, corrected by Holm for all heads of the
group. Beside that stands what guessing within the group scores.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from contextbench.config.files import nearest
from contextbench.report.collection import Collection
from contextbench.statistics.chance import Chance, chance
from contextbench.statistics.intervals import (
    Interval,
    Ranking,
    Resampling,
    SeedSpread,
    holm,
    miou_interval,
    rank,
)
from contextbench.statistics.scores import CLASS_METRICS, METRIC_NAMES, ClassMetric
from contextbench.system.errors import UserError

Verdict = Literal["solves", "better", "undecided", "worse", "no verdict"]

SOLVED = 0.5  # share of what the baseline lacks to an IoU of 1 that a solution must add
GROUPED_DATASETS = ("probe",)  # of those that come with the package


class InsightError(UserError, ValueError):
    """Records that cannot be judged group by group. The message says why, and which can."""


@dataclass(frozen=True)
class Comparison:
    """A head against the baseline on one group."""

    difference: Interval  # IoU of the head minus that of the baseline; no ends: one training
    holm_p_value: float  # two-sided, corrected for the heads of the group; NaN: too few trainings
    seed_wins: int  # pairs of one seed of each in which the head is better
    seed_losses: int
    seed_pairs: int
    verdict: Verdict


@dataclass(frozen=True)
class Cell:
    """One head on one group."""

    iou: Interval  # mean over seeds; the interval is that of the test set
    spread: SeedSpread
    seeds: Mapping[int, Interval]  # seed -> its IoU with the interval of the test set
    comparison: Comparison | None  # None for the baseline
    at_chance: bool  # the interval of every training begins at or below the level of guessing


@dataclass(frozen=True)
class Insight:
    """Every head on every group."""

    subject: str  # dataset and protocol
    baseline: str
    groups: Mapping[str, Sequence[str]]  # name -> its classes
    chance: Mapping[str, Chance]  # group -> IoU of guessing within it
    heads: Sequence[str]  # the baseline, then by mIoU over all classes, best first
    cells: Mapping[tuple[str, str], Cell]  # (head, group)
    images: int
    resampling: Resampling
    cautions: Sequence[str]  # what limits the numbers, one sentence each
    metric: ClassMetric = "iou"  # that all scores are of

    @property
    def metric_name(self) -> str:
        return METRIC_NAMES[self.metric]

    @property
    def comparisons(self) -> int:
        """Number of differences to the baseline that have a verdict."""
        compared = (cell.comparison for cell in self.cells.values())
        return sum(each is not None and each.verdict != "no verdict" for each in compared)

    def heads_with(self, verdict: Verdict, group: str) -> list[str]:
        """Heads that got a verdict on a group."""
        judged = ((head, self.cells[head, group].comparison) for head in self.heads)
        return [head for head, each in judged if each is not None and each.verdict == verdict]


def judge(
    collection: Collection,
    *,
    baseline: str = "fcn",
    resampling: Resampling = Resampling(),
    metric: ClassMetric = "iou",
) -> Insight:
    """Every head on every group of classes, against `baseline`, by the mean of `metric`.

    Heads without counts per image are left out and named in `cautions`. Raises `InsightError`
    where the dataset has no groups or `baseline` or another head is missing, and `RecordError`
    where the heads were not evaluated on the same images.
    """
    _check(collection, baseline)
    labels, areas, measure = collection.labels, collection.areas, CLASS_METRICS[metric]
    ranked = partial(
        rank, areas, sampling=collection.sampling, resampling=resampling, measure=measure
    )
    overall = ranked()
    heads = [baseline, *(each.head for each in overall.heads if each.head != baseline)]
    rankings = {group: ranked(classes=members) for group, members in labels.groups.items()}
    comparisons = {group: _comparisons(each, baseline) for group, each in rankings.items()}
    labelled = next(iter(areas[baseline].values())).labelled.sum(axis=0)
    levels = {group: chance(labelled, members, measure) for group, members in labels.groups.items()}
    cells = {}
    for (group, ranking), head in itertools.product(rankings.items(), heads):
        own = ranking.of(head)
        seeds = {
            seed: miou_interval(
                [areas[head][seed]],
                sampling=collection.sampling,
                resampling=resampling,
                classes=labels.groups[group],
                measure=measure,
            )
            for seed in sorted(areas[head])
        }
        level = levels[group].highest
        guessing = all(each.low <= level for each in seeds.values())
        compared = comparisons[group].get(head)
        cells[head, group] = Cell(own.miou, own.seeds, seeds, compared, guessing)
    return Insight(
        subject=collection.subject,
        baseline=baseline,
        groups={g: [labels.classes[k] for k in members] for g, members in labels.groups.items()},
        chance=levels,
        heads=heads,
        cells=cells,
        images=overall.images,
        resampling=resampling,
        cautions=[*collection.warnings, *_unjudged(collection), *_limits(rankings)],
        metric=metric,
    )


def _check(collection: Collection, baseline: str) -> None:
    heads = collection.areas
    if not collection.labels.groups:
        raise InsightError(
            f"the records of {collection.subject} have no groups of classes to judge heads by; of "
            f"the datasets that come with contextbench, these have: {', '.join(GROUPED_DATASETS)}"
        )
    if baseline not in heads:
        raise InsightError(
            f"baseline {baseline!r} has no counts per image here; {nearest(baseline, heads)}"
        )
    if len(heads) == 1:
        raise InsightError(f"there is no head to compare with the baseline {baseline}")


def _comparisons(ranking: Ranking, baseline: str) -> dict[str, Comparison]:
    """Every other head against the baseline, corrected for these: a group is its own question."""
    pairs = {head: ranking.pair(head, baseline) for head in ranking.names if head != baseline}
    tested = [head for head, pair in pairs.items() if pair.tested]
    corrected = dict(zip(tested, holm([pairs[head].p_value for head in tested]), strict=True))
    return {
        head: _comparison(ranking, head, baseline, corrected.get(head, math.nan)) for head in pairs
    }


def _comparison(ranking: Ranking, head: str, baseline: str, holm_p_value: float) -> Comparison:
    own, other = ranking.of(head), ranking.of(baseline)
    difference = ranking.difference(head, baseline)
    contests = list(itertools.product(own.seeds.values, other.seeds.values))
    wins, losses = sum(a > b for a, b in contests), sum(a < b for a, b in contests)
    verdict: Verdict = "no verdict" if math.isnan(holm_p_value) else "undecided"
    if holm_p_value < 1 - ranking.resampling.level:
        lacking = 1 - other.miou.estimate
        verdict = "worse" if difference.estimate < 0 else "better"
        if difference.low >= SOLVED * lacking:
            verdict = "solves"
    return Comparison(difference, holm_p_value, wins, losses, len(contests), verdict)


def _unjudged(collection: Collection) -> Iterable[str]:
    names = sorted({run.head_name for run in collection.runs} - collection.areas.keys())
    if names:
        yield f"Not judged, for want of counts per image: {', '.join(names)}."


def _limits(rankings: Mapping[str, Ranking]) -> list[str]:
    """What limits the intervals; with the group where it does not limit all of them."""
    groups: dict[str, list[str]] = {}
    for group, ranking in rankings.items():
        for sentence in ranking.limits:
            groups.setdefault(sentence, []).append(group)
    return [
        sentence if len(named) == len(rankings) else f"Group {', '.join(named)}: {sentence}"
        for sentence, named in groups.items()
    ]
