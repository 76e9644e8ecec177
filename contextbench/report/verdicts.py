"""What a ranking says of its heads in sentences, which everything that shows it repeats."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from contextbench.report.words import between, enumerated, grouped, level_text, percent
from contextbench.statistics.intervals import HeadStatistics, Ranking
from contextbench.statistics.methods import POWER, TRAININGS

LETTERS = "Heads that share a letter are not separated, over trainings and images."

if TYPE_CHECKING:
    import pandas as pd


def headline(table: "pd.DataFrame", ranking: Ranking | None) -> list[str]:
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
    left_out = [head for head in map(str, scored["head"]) if head not in ranking.names]
    return [
        verdict_sentence(ranking),
        f"{first.head} reaches {reached}.",
        models_sentence(ranking),
        f"Not compared, for want of counts per image: {enumerated(left_out)}." if left_out else "",
        bottleneck_sentence(ranking),
        smallest_sentence(ranking),
    ]


def verdict_sentence(ranking: Ranking) -> str:
    """Whether the best head is better than others, or why nothing can be said."""
    best, *others = ranking.heads
    if math.isnan(best.miou.estimate):
        return "No head has a score."
    if not others:
        return f"{best.head} is the only head."
    if ranking.claims == "heads" and best.groups:
        return _judged(ranking)
    return f"{best.head} has the highest mIoU {_unjudged(ranking)}"


def models_sentence(ranking: Ranking) -> str:
    """What images alone say of the trained models; empty where heads are judged."""
    best, *others = ranking.heads
    if ranking.claims == "heads" or not others or math.isnan(best.miou.low):
        return ""
    alike = [h.head for h in others if not ranking.pair(best.head, h.head).models.separated]
    if not alike:
        return f"Of these trained models, that of {best.head} is separated from every other one."
    if len(alike) == len(others):
        return f"Of these trained models, none is separated from that of {best.head}."
    return f"Of these trained models, not separated from that of {best.head}: {', '.join(alike)}."


def bottleneck_sentence(ranking: Ranking) -> str:
    """Which of seeds and images limits a comparison more; empty where it is not known."""
    known = [pair.parts.bottleneck for pair in ranking.pairs if pair.parts.bottleneck]
    if not known:
        return ""
    seeds = known.count("seeds")
    which = "for every pair" if len(known) > 1 else "for this pair"
    if seeds == len(known):
        return f"Trainings add more to the uncertainty than images {which}: more seeds help most."
    if seeds == 0:
        return f"Images add more to the uncertainty than trainings {which}: more images help most."
    return (
        f"Trainings add more to the uncertainty than images for {seeds} of {len(known)} pairs, "
        "images for the others."
    )


def smallest_sentence(ranking: Ranking) -> str:
    """Smallest true differences that such trainings and images would show; empty: one head."""
    known = sorted(
        100 * pair.smallest_difference
        for pair in ranking.pairs
        if not math.isnan(pair.smallest_difference)
    )
    if not known:
        return "Smallest difference that would be shown: none." if len(ranking.heads) > 1 else ""
    reach = f"{known[0]:.1f}" if len(known) == 1 else f"{known[0]:.1f} to {known[-1]:.1f}"
    pairs = "" if len(known) == 1 else ", by pair"
    return (
        f"Smallest true difference that as many trainings and images show with a power of "
        f"{POWER:g}, corrected for {ranking.tests} pairs (Holm): {reach} points{pairs}."
    )


def draws_of(ranking: Ranking) -> str:
    """How often and how the images were drawn."""
    images = f"{grouped(ranking.resampling.resamples)} draws of {ranking.images} images"
    if ranking.clusters is not None:
        return f"{images} in {ranking.clusters} clusters"
    return images if ranking.block == 1 else f"{images} in blocks of {ranking.block} neighbours"


def _judged(ranking: Ranking) -> str:
    best, *others = ranking.heads
    judged = [h for h in others if ranking.pair(best.head, h.head).tested]
    alike = [h.head for h in judged if not ranking.pair(best.head, h.head).separated]
    left_out = [h.head for h in others if h not in judged]
    every = "every other head" if not left_out else "every other head with enough trainings"
    if not alike:
        sentence = f"{best.head} is better than {every}, over other trainings and images."
    elif len(alike) == len(judged):
        sentence = f"No head is separated from {best.head}, which has the highest mIoU."
    else:
        sentence = f"{best.head} has the highest mIoU; not separated from it: {', '.join(alike)}."
    return sentence + (f" No verdict on {', '.join(left_out)}." if left_out else "")


def _unjudged(ranking: Ranking) -> str:
    """Why there is no verdict on the best head."""
    if elsewhere := [each.head for each in ranking.heads if each.seeds.elsewhere]:
        names = ", ".join(elsewhere)
        were = "was" if len(elsewhere) == 1 else "were"
        return (
            f"of these trained models, and no verdict on methods: {names} {were} trained elsewhere."
        )
    if {each.seeds.n for each in ranking.heads} == {1}:
        return "in this one training: nothing is said of heads, which another may order otherwise."
    few = _with_few(ranking.heads)
    if few:
        return f"but no verdict: fewer than {TRAININGS} trainings of {', '.join(few)}."
    return f"but no verdict: {ranking.images} images are too few."


def _with_few(heads: Sequence[HeadStatistics]) -> list[str]:
    return [each.head for each in heads if each.seeds.n < TRAININGS]
