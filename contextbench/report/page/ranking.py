"""Who is ahead, by how much, and how sure that is: the sentences at the head of a comparison."""

import math

import pandas as pd

from contextbench.report.rankings import typical_resolution
from contextbench.report.words import (
    LISTED,
    between,
    counted,
    enumerated,
    level_text,
    percent,
    points,
)
from contextbench.statistics.intervals import Ranking

POWER = "80 %"  # of `PairStatistics.smallest_difference`


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
    level = level_text(ranking.resampling.level)
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


def _leader(best: str, reached: str, ranking: Ranking) -> str:
    tied, others = ranking.best_group[1:], ranking.heads[1:]
    if tied:
        every = len(tied) == len(others) > 1
        return (
            f"{best} has the highest mIoU, {reached}, but these {counted(ranking.images, 'image')} "
            f"do not separate it from {'any other head' if every else enumerated(tied)}."
        )
    closest = ranking.pair(best, others[0].head)
    rest = "the other head" if len(others) == 1 else "every other head"
    return (
        f"{best} is ahead of {rest} with a mIoU of {reached}; the closest, {others[0].head}, is "
        f"{points(abs(closest.difference.estimate))} points behind."
    )


def _resolution(ranking: Ranking) -> str:
    smallest = typical_resolution(ranking)
    if math.isnan(smallest):
        return ""
    typical = "" if len(ranking.pairs) == 1 else ", for the median pair of heads"
    return (
        f"A difference of about {points(smallest)} points is the smallest that this split "
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
