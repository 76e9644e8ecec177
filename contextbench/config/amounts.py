"""Amounts of memory as people write them: `24GiB`, `24GB`."""

import re
from fractions import Fraction

from contextbench.config.files import ConfigError
from contextbench.system.reading import given

UNITS = {
    "B": 1,
    **{f"{letter}B": 1000**power for power, letter in enumerate("kMGT", 1)},
    **{f"{letter}iB": 1024**power for power, letter in enumerate("KMGT", 1)},
}
MOST_BYTES = 2**50


def bytes_of(text: str, option: str) -> int:
    """Whole bytes in `24GiB`, 24 times 2^30, or `24GB`, 24 times 10^9. Raises `ConfigError`."""
    match = re.fullmatch(r"([0-9]{1,20}(?:\.[0-9]{1,20})?) ?([A-Za-z]+)", text.strip())
    if match is None or match[2] not in UNITS:
        raise ConfigError(
            f"{option} {given(text)}: write a number and its unit, like 24GiB (24 x 2^30 bytes) or "
            f"24GB (24 x 10^9 bytes); units are {', '.join(UNITS)}"
        )
    amount = int(Fraction(match[1]) * UNITS[match[2]])
    if not 1 <= amount <= MOST_BYTES:
        raise ConfigError(
            f"{option} {given(text)}: allowed are 1 byte to {MOST_BYTES // 2**40} TiB"
        )
    return amount


def amount_text(amount: int) -> str:
    """Three digits or so, in a unit of 1024: `24 GiB`, `1.5 MiB`."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if amount >= UNITS[unit]:
            return f"{float(f'{amount / UNITS[unit]:.4g}'):g} {unit}"
    return f"{amount} B"
