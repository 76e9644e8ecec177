"""Who is ahead, by how much, and how sure that is."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import pandas as pd

from contextbench.report.figures.style import signed
from contextbench.report.page.plots import Mark, Scale, Tick, axis_of
from contextbench.report.page.text import (
    between,
    counted,
    enumerated,
    p_value,
    percent,
    points,
    signed_between,
)
from contextbench.report.ranking_text import draws_of
from contextbench.statistics.intervals import Interval, Ranking

POWER = "80 %"  # of `PairStatistics.smallest_difference`
LISTED = 4  # heads that a sentence names before it counts the rest


@dataclass(frozen=True)
class Place:
    """One head of the ranking; positions are in percent of the width of the axis."""

    mark: Mark
    place: int
    groups: str
    miou: str
    interval: str
    at: float
    bar: tuple[float, float] | None
    seeds: Sequence[float]
    difference: str
    difference_interval: str
    p_value: str
    spread: str  # of the seeds
    tip: str


@dataclass(frozen=True)
class Standings:
    """The ranking, and how stable it is."""

    places: Sequence[Place]
    ticks: Sequence[Tick]
    unranked: Sequence[tuple[Mark, str]]  # heads without a score, and why
    shares: Sequence[tuple[Mark, Sequence[float]]]  # of the draws, for each place
    level: str  # of the intervals, e.g. "95 %"; empty without
    method: str  # how intervals were made

    @property
    def several_seeds(self) -> bool:
        return any(each.seeds for each in self.places)


def headline(table: pd.DataFrame, ranking: Ranking | None) -> list[str]:
    """What the numbers say, in a few sentences."""
    scored = table[table["miou"].notna()]
    if scored.empty:
        return ["No head has a score yet."]
    best = str(scored["head"].iloc[0])
    if ranking is None or math.isnan(ranking.heads[0].miou.low):
        return [f"{best} has the highest mIoU, {percent(scored['miou'].iloc[0])} %; there are no "
                "intervals to compare it with the others."]  # fmt: skip
    first = ranking.heads[0]
    level = f"{100 * ranking.resampling.level:g} %"
    reached = f"{percent(first.miou.estimate)} % ({level} interval {between(first.miou)})"
    if len(ranking.heads) == 1:
        return [f"{first.head} reaches a mIoU of {reached}; no other head has a score."]
    compared = {each.head for each in ranking.heads}
    left_out = [head for head in map(str, scored["head"]) if head not in compared]
    return [
        _leader(first.head, reached, ranking),
        f"Not compared, for want of counts per image: {enumerated(left_out)}." if left_out else "",
        _trainings(ranking),
        _resolution(ranking),
    ]


def standings(table: pd.DataFrame, ranking: Ranking | None, marks: Mapping[str, Mark]) -> Standings:
    """The heads of `comparison_table`, best first."""
    scored = table[table["miou"].notna()]
    unranked = [
        (marks[str(row["head"])], str(row["note"]) or "not evaluated")
        for row in table[table["miou"].isna()].to_dict("records")
    ]
    if scored.empty:
        return Standings([], [], unranked, [], "", "")
    seeds = seed_scores(ranking)
    scale, ticks = axis_of(100 * value for value in _drawn_values(scored, seeds))
    places = [
        _place(place, row, seeds.get(str(row["head"]), ()), marks[str(row["head"])], scale)
        for place, row in enumerate(scored.to_dict("records"), start=1)
    ]
    if ranking is None:
        return Standings(places, ticks, unranked, [], "", "")
    shares = [(marks[each.head], each.rank_shares) for each in ranking.heads]
    level = f"{100 * ranking.resampling.level:g} %"
    method = f"{draws_of(ranking)}, with replacement; every head is scored on the same draws."
    return Standings(places, ticks, unranked, shares, level, method)


def seed_scores(ranking: Ranking | None) -> dict[str, tuple[float, ...]]:
    """Head -> mIoU of each of its seeds."""
    return {each.head: tuple(each.seeds.values) for each in ranking.heads} if ranking else {}


def _place(
    place: int, row: Mapping[Any, Any], seeds: Sequence[float], mark: Mark, scale: Scale
) -> Place:
    miou = Interval(row["miou"], row["miou_low"], row["miou_high"])
    difference = Interval(*(row[f"difference_{end}"] for end in ("to_best", "low", "high")))
    known = not math.isnan(miou.low)
    return Place(
        mark=mark,
        place=place,
        groups=str(row["groups"]),
        miou=percent(miou.estimate),
        interval=between(miou),
        at=scale(100 * miou.estimate),
        bar=(scale(100 * miou.low), scale(100 * miou.high)) if known else None,
        seeds=[scale(100 * value) for value in seeds] if len(seeds) > 1 else [],
        difference=signed(100 * difference.estimate) if place > 1 else "",
        difference_interval=signed_between(difference) if place > 1 else "",
        p_value=p_value(row["holm_p_value"]) if place > 1 else "",
        spread=_spread(int(row["seeds"]), float(row["miou_seed_sd"])),
        tip=_tip(mark.name, miou, seeds),
    )


def _leader(best: str, reached: str, ranking: Ranking) -> str:
    tied, others = ranking.best_group[1:], ranking.heads[1:]
    if tied:
        every = len(tied) == len(others) > 1
        return (
            f"{best} has the highest mIoU, {reached}, but these {_images(ranking)} do not separate "
            f"it from {'any other head' if every else enumerated(tied)}."
        )
    closest = ranking.pair(best, others[0].head)
    rest = "the other head" if len(others) == 1 else "every other head"
    return (
        f"{best} is ahead of {rest} with a mIoU of {reached}; the closest, {others[0].head}, is "
        f"{points(abs(closest.difference.estimate))} points behind."
    )


def _resolution(ranking: Ranking) -> str:
    known = [p.smallest_difference for p in ranking.pairs if not math.isnan(p.smallest_difference)]
    if not known:
        return ""
    typical = "" if len(known) == 1 else ", for the median pair of heads"
    return (
        f"A difference of about {points(median(known))} points is the smallest that this split "
        f"would show ({POWER} power{typical})."
    )


def _trainings(ranking: Ranking) -> str:
    """What the intervals do not cover: another training."""
    if {each.seeds.n for each in ranking.heads} == {1}:
        return "Each head was trained once: another training may change the order."
    best = ranking.heads[0].head
    pairs = {each.head: ranking.pair(best, each.head) for each in ranking.heads[1:]}
    unsure = {head: p for head, p in pairs.items() if p.separated and not p.every_seed_wins}
    if not unsure:
        return ""
    listed = [f"{head} ({p.seed_wins} of {p.seed_pairs})" for head, p in unsure.items()]
    if len(listed) > LISTED:
        listed = [*listed[: LISTED - 1], f"{len(listed) - LISTED + 1} more"]
    return (
        f"Seed by seed, {best} does not always beat {enumerated(listed)}: another training may "
        "change the order."
    )


def _images(ranking: Ranking) -> str:
    return counted(ranking.images, "image")


def _drawn_values(scored: pd.DataFrame, seeds: Mapping[str, Sequence[float]]) -> list[float]:
    values = [float(v) for name in ("miou", "miou_low", "miou_high") for v in scored[name]]
    return [*values, *(value for each in seeds.values() for value in each)]


def _spread(seeds: int, deviation: float) -> str:
    if seeds < 2 or math.isnan(deviation):
        return f"n = {seeds}"
    return f"± {points(deviation)} (n = {seeds})"


def _tip(head: str, interval: Interval, seeds: Sequence[float]) -> str:
    lines = [head, f"mIoU {percent(interval.estimate)} % ({between(interval)})"]
    if len(seeds) > 1:
        lines.append(f"seeds {', '.join(percent(value) for value in seeds)}")
    return "\n".join(lines)
