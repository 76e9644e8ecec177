"""Numbers and names as they are printed: percent, points, digits and signs are decided here."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

from contextbench.statistics.intervals import Interval

ABSENT = "–"
MEBI = 2**20
LEAST_P = 0.001  # smallest p-value that is printed


def fixed(value: float, decimals: int = 1) -> str:
    """A number with a minus sign that is one, and none before zero; `ABSENT` for NaN."""
    return ABSENT if math.isnan(value) else f"{value:z.{decimals}f}".replace("-", "−")


def percent(value: float, decimals: int = 1) -> str:
    """A fraction in percent, without the sign."""
    return fixed(100 * value, decimals)


def signed(value: float, decimals: int = 1) -> str:
    """A difference with its sign, no change without."""
    text = fixed(value, decimals)
    return text if value <= 0 or not text.strip("0.") or text == ABSENT else f"+{text}"


def signed_points(value: float) -> str:
    """A difference of fractions in percentage points."""
    return signed(100 * value)


def points(value: float) -> str:
    """A size of fractions in percentage points, with as many decimals as it takes to be seen."""
    return percent(value, 1 if 100 * value >= 0.05 or value == 0 else 2)


def ends(
    interval: Interval,
    form: str = "[{}, {}]",
    write: Callable[[float], str] = percent,
    unknown: str = "",
) -> str:
    """The ends of an interval of fractions; `unknown` where there are none."""
    if math.isnan(interval.low):
        return unknown
    return form.format(write(interval.low), write(interval.high))


between = partial(ends, form="{}–{}", unknown=ABSENT)
signed_between = partial(ends, form="{} to {}", write=signed_points, unknown=ABSENT)


def level_text(level: float) -> str:
    """95 %."""
    return f"{100 * level:g} %"


def p_value(p: float, *, at_floor: bool = False) -> str:
    """A p-value; with ≤ where it is smaller than printed, or no smaller one could have come out."""
    if at_floor or p < LEAST_P:
        return f"≤ {max(math.ceil(p / LEAST_P) * LEAST_P, LEAST_P):.3f}"
    return fixed(p, 3)


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


def status_text(status: str) -> str:
    """How a run ended, for a reader."""
    return status.replace("_", " ")


def duration(hours: float) -> str:
    """Two digits, in what a reader plans with."""
    for unit, length in (("days", 24), ("hours", 1), ("minutes", 1 / 60)):
        if hours >= 2 * length:
            return f"{float(f'{hours / length:.2g}'):g} {unit}"
    return f"{float(f'{3600 * hours:.2g}'):g} seconds"


def plain(value: Any) -> Any:
    """For JSON: data classes and named tuples as mappings, null where there is no number."""
    if is_dataclass(value):
        return {each.name: plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value
