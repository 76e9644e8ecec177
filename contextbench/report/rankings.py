"""What a ranking says of its heads, in numbers that all who print it share."""

import math
from statistics import median

from contextbench.report.words import grouped
from contextbench.statistics.intervals import HeadStatistics, Interval, Ranking


def statistics_of(ranking: Ranking | None, head: str) -> HeadStatistics | None:
    """One head; None where it is not ranked."""
    return next((each for each in ranking.heads if each.head == head), None) if ranking else None


def statistics_in(ranking: Ranking, head: str) -> HeadStatistics:
    """One head, which has to be ranked."""
    found = statistics_of(ranking, head)
    assert found is not None, head
    return found


def difference_to(ranking: Ranking, head: str, reference: str, *, models: bool = False) -> Interval:
    """mIoU of a head minus that of another; the interval turns around with the sign.

    `models`: the interval of the trained models over images alone.
    """
    if head == reference:
        return Interval(0.0, 0.0, 0.0)
    pair = ranking.pair(head, reference)
    known = pair.models.difference if models else pair.difference
    return known if pair.first == head else Interval(-known.estimate, -known.high, -known.low)


def not_separated(ranking: Ranking | None, one: str, other: str) -> bool:
    """Whether two heads are not told apart; False for heads that are not ranked."""
    return ranking is not None and any(
        {pair.first, pair.second} == {one, other} and not pair.separated for pair in ranking.pairs
    )


def seed_scores(statistics: HeadStatistics | None) -> tuple[float, ...]:
    """mIoU of each seed of a head; none where it is not ranked."""
    return tuple(statistics.seeds.values) if statistics else ()


def several_seeds(ranking: Ranking) -> bool:
    """Whether any head was trained more than once."""
    return any(each.seeds.n > 1 for each in ranking.heads)


def typical_resolution(ranking: Ranking) -> float:
    """The smallest difference that as many trainings and images show, median over the pairs; NaN
    without verdicts."""
    known = [p.smallest_difference for p in ranking.pairs if not math.isnan(p.smallest_difference)]
    return median(known) if known else math.nan


def draws_of(ranking: Ranking) -> str:
    """How often and how the images were drawn."""
    images = f"{grouped(ranking.resampling.resamples)} draws of {ranking.images} images"
    if ranking.clusters is not None:
        return f"{images} in {ranking.clusters} clusters"
    return images if ranking.block == 1 else f"{images} in blocks of {ranking.block} neighbours"
