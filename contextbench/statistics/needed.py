"""How many trainings and images would show a difference between heads, from measured variances.

What is asked is the chance `methods.POWER` that the test of `methods` separates a pair at the first
level of Holm's correction. Deviations and errors over images are taken as they were measured; the
first of few trainings are themselves uncertain, by a factor of two or more for three.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from contextbench.statistics import student
from contextbench.statistics.draws import FEWEST_UNITS
from contextbench.statistics.intervals import Ranking
from contextbench.statistics.methods import POWER, TRAININGS, Bottleneck, Parts

MOST_SEEDS = 10_000
MOST_GROWTH = 1e6  # of images


@dataclass(frozen=True)
class Needed:
    """What would show a difference between two heads. None: no number is enough."""

    first: str
    second: str
    chance: float  # that the trainings and images there are show it
    bottleneck: Bottleneck
    seeds: int | None  # of each head, with the images there are
    images: int | None  # with the seeds there are
    both: tuple[int, int]  # seeds and images, where both grow by the same factor


def needed(ranking: Ranking, difference: float) -> list[Needed]:
    """Every pair of a ranking; `difference` > 0 as a fraction.

    Raises ValueError where a head was trained once or there is no pair with a variance.
    """
    own = [each for each in ranking.heads if not each.seeds.elsewhere]
    once = [each.head for each in own if each.seeds.n < 2]
    if once:
        raise ValueError(
            f"{', '.join(once)}: one training, whose deviation is not known; it takes at least two"
        )
    pairs = [pair for pair in ranking.pairs if not math.isnan(pair.parts.df)]
    if not pairs:
        raise ValueError("there are no two heads whose scores vary over seeds and images")
    alpha = (1 - ranking.resampling.level) / len(ranking.pairs)
    per_unit = ranking.images / ranking.units
    return [
        _needed(pair.first, pair.second, pair.parts, difference, alpha, per_unit) for pair in pairs
    ]


def _needed(
    first: str, second: str, parts: Parts, difference: float, alpha: float, per_unit: float
) -> Needed:
    def enough(seeds: int | None, units: int | None) -> bool:
        return chance_of(parts.with_more(seeds, units), difference, alpha) >= POWER

    def images(units: int) -> int:
        return math.ceil(units * per_unit)

    now = min(parts.seeds)
    most = int(parts.units * MOST_GROWTH)
    more_units = _least(lambda n: enough(None, n), FEWEST_UNITS, most)
    if now < TRAININGS:  # which no images make up for
        more_units = None

    def grown(thousandths: int) -> tuple[int, int]:
        factor = thousandths / 1000
        units = max(FEWEST_UNITS, math.ceil(parts.units * factor))
        return max(TRAININGS, math.ceil(now * factor)), units

    growth = _least(lambda n: enough(*grown(n)), 1, int(1000 * MOST_GROWTH))
    seeds, units = grown(growth or int(1000 * MOST_GROWTH))
    return Needed(
        first,
        second,
        chance=chance_of(parts, difference, alpha) if now >= TRAININGS else 0.0,
        bottleneck=parts.bottleneck or "seeds",
        seeds=_least(lambda n: enough(n, None), TRAININGS, MOST_SEEDS),
        images=None if more_units is None else images(more_units),
        both=(seeds, images(units)),
    )


def chance_of(parts: Parts, difference: float, alpha: float) -> float:
    """The chance that a test at `alpha` shows a true difference."""
    if parts.error == 0 or math.isnan(parts.df):
        return 0.0
    return student.power(difference / parts.error, parts.df, alpha)


def _least(enough: Callable[[int], bool], low: int, most: int) -> int | None:
    """The smallest number from `low` to `most` that is enough, which all larger ones are too."""
    high = low
    while not enough(high):
        if high >= most:
            return None
        low, high = high + 1, min(2 * high, most)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return high
