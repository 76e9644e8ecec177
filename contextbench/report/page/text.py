"""Numbers as they are printed on the report page: fractions become percent here."""

import math
from collections.abc import Sequence

from contextbench.report.figures.style import signed
from contextbench.report.tables.render import ABSENT
from contextbench.statistics.intervals import Interval


def percent(value: float) -> str:
    """A fraction in percent, without the sign."""
    return ABSENT if math.isnan(value) else f"{100 * value:.1f}"


def points(value: float) -> str:
    """A size of fractions in percentage points, with as many decimals as it takes to be seen."""
    decimals = 1 if 100 * value >= 0.05 or value == 0 else 2
    return f"{100 * value:.{decimals}f}"


def between(interval: Interval) -> str:
    """The ends of an interval of fractions, in percent."""
    if math.isnan(interval.low):
        return ABSENT
    return f"{percent(interval.low)}\N{EN DASH}{percent(interval.high)}"


def signed_between(interval: Interval) -> str:
    """The ends of an interval of differences, in percentage points."""
    if math.isnan(interval.low):
        return ABSENT
    return f"{signed(100 * interval.low)} to {signed(100 * interval.high)}"


def p_value(value: float) -> str:
    """A p-value, small ones as a bound; nothing where there is none."""
    if math.isnan(value):
        return ""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def significant(value: float, digits: int = 3) -> str:
    """A number with so many significant digits, without an exponent where it is not needed."""
    if math.isnan(value):
        return ABSENT
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    if not -4 <= exponent <= 5:
        return f"{value:.{digits - 1}e}"
    return f"{value:.{max(0, digits - 1 - exponent)}f}"


def enumerated(names: Sequence[str]) -> str:
    """a, b and c."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def grouped(number: int) -> str:
    """A whole number with a space between thousands."""
    return f"{number:,}".replace(",", "\N{NO-BREAK SPACE}")


def counted(number: int, noun: str) -> str:
    """1 image, 2 images; 2 classes for a noun that ends in s."""
    plural = "es" if noun.endswith("s") else "s"
    return f"{grouped(number)} {noun}{'' if number == 1 else plural}"
