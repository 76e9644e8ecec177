"""Heads in their two forms: finding costs in a record of heads alone, statistics of its samples."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from contextbench.records.comparability import device_name
from contextbench.records.profiles import FormCost, HeadProfileRecord, Timing

FORMS = ("reference", "fast")
RATIO_LEVEL = 0.95
Direction = Literal["forward", "forward_backward"]
Mode = Literal["eager", "compile"]


def form_cost(
    record: HeadProfileRecord, head: str, implementation: str, size: tuple[int, int]
) -> FormCost | None:
    """The cost of one form of a head at a feature size (height, width); None if not recorded."""
    for cost in record.costs:
        place = (cost.head, cost.implementation, cost.height, cost.width)
        if place == (head, implementation, *size):
            return cost
    return None


def samples(cost: FormCost | None, scope: str, direction: Direction = "forward") -> list[float]:
    """Eager times in ms, one a round; empty where this was not timed."""
    found = timing_of(cost, scope, direction, "eager")
    return [] if found is None else found.latency_ms


def timing_of(cost: FormCost | None, scope: str, direction: Direction, mode: Mode) -> Timing | None:
    """What was timed of a form, or was to be; None where it was not asked for."""
    for timing in cost.timings if cost else ():
        if (timing.scope, timing.direction, timing.mode) == (scope, direction, mode):
            return timing
    return None


class Predicted(NamedTuple):
    """What is known of a form without running it; NaN for what is missing."""

    parameters: float
    macs: float
    weights_bytes: float
    activation_peak_bytes: float  # without weights and input


def predicted(cost: FormCost | None, scope: str) -> Predicted:
    """The counts of a scope."""
    counts, memory = (cost.counts.get(scope), cost.memory.get(scope)) if cost else (None, None)
    return Predicted(
        *((float(counts.parameters), float(counts.macs)) if counts else [math.nan] * 2),
        *(
            (float(memory.weights_bytes), float(memory.activation_peak_bytes))
            if memory
            else [math.nan] * 2
        ),
    )


def forms_of(record: HeadProfileRecord) -> list[str]:
    """The forms that were asked for, in the record's order."""
    return list(dict.fromkeys(cost.implementation for cost in record.costs))


def is_timed(record: HeadProfileRecord) -> bool:
    """Whether any form of any head has times."""
    return any(timing.latency_ms for cost in record.costs for timing in cost.timings)


def quartiles(times: Sequence[float]) -> tuple[float, float, float]:
    """First quartile, median, third quartile; NaN without samples."""
    if not times:
        return (math.nan, math.nan, math.nan)
    first, middle, third = np.quantile(times, (0.25, 0.5, 0.75)).tolist()
    return (first, middle, third)


def median(times: Sequence[float]) -> float:
    """NaN without samples."""
    return quartiles(times)[1]


def median_ratio(times: Sequence[float], baseline: Sequence[float]) -> float:
    """Median over rounds of time / baseline of that round: drift of the machine cancels.

    What failed midway has fewer rounds; those it has are the first ones.
    """
    return median([mine / theirs for mine, theirs in zip(times, baseline, strict=False)])


def median_ratio_ends(
    times: Sequence[float], baseline: Sequence[float]
) -> tuple[float, float, float]:
    """Ends of an interval for the median of the rounds' ratios, and its level; NaN where none is.

    The k-th smallest and the k-th largest of n ratios, with the largest k for which the interval
    covers the median with a probability of `RATIO_LEVEL` at least, whatever the distribution: that
    is 1 - 2 P(X < k), X being the heads of n fair coins. Fewer than 6 rounds have none.
    """
    ratios = sorted(mine / theirs for mine, theirs in zip(times, baseline, strict=False))
    n, outside, place = len(ratios), 0.0, 0  # outside: 2 P(X < place)
    while (more := outside + 2 * math.comb(n, place) / 2**n) <= 1 - RATIO_LEVEL:
        outside, place = more, place + 1
    if not place:
        return (math.nan, math.nan, math.nan)
    return ratios[place - 1], ratios[-place], 1 - outside


def reason(cost: FormCost | None) -> str:
    """Why a form has no numbers, or not all; empty where nothing is amiss."""
    if cost is None:
        return "not in the record"
    return cost.failure.cause if cost.failure else ""


def reason_of_forms(costs: Mapping[str, FormCost | None]) -> str:
    """The reason of all forms where it is one, and else of each form that has one."""
    reasons = {form: reason(cost) for form, cost in costs.items()}
    distinct = set(reasons.values())
    if len(distinct) == 1:
        return distinct.pop()
    return "; ".join(f"{form}: {why}" for form, why in reasons.items() if why)


def number(value: int | None) -> float:
    """NaN for what is missing."""
    return math.nan if value is None else float(value)


def timed_on(record: HeadProfileRecord) -> str:
    """Rounds, device, number format and layout of the times, for a legend."""
    dtype = record.precision.get("dtype", "unknown number format")
    layout = record.precision.get("memory_format")
    said = f", {layout}" if layout == "channels_last" else ""
    return f"{record.rounds} interleaved rounds on {device_name(record.environment)}, {dtype}{said}"
