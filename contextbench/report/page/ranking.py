"""Who is ahead, by how much, and how sure that is: the sentences at the head of a comparison."""

import math

import pandas as pd

from contextbench.report.verdicts import (
    bottleneck_sentence,
    models_sentence,
    smallest_sentence,
    verdict_sentence,
)
from contextbench.report.words import between, enumerated, level_text, percent
from contextbench.statistics.intervals import Ranking


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
        verdict_sentence(ranking),
        f"{first.head} reaches {reached}.",
        models_sentence(ranking),
        f"Not compared, for want of counts per image: {enumerated(left_out)}." if left_out else "",
        bottleneck_sentence(ranking),
        smallest_sentence(ranking),
    ]
