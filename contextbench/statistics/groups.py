"""What is left of many comparisons: corrected p-values, groups of equals, detectable differences.

Sources: Holm, A simple sequentially rejective multiple test procedure, 1979; Piepho, An algorithm
for a letter-based representation of all-pairwise comparisons, 2004 (the aim, not the algorithm).
"""

from collections.abc import Iterable, Sequence
from statistics import NormalDist


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number: p_(i) times the tests left, never falling, at most 1."""
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for position, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, (len(p_values) - position) * p_values[index])
        corrected[index] = min(1.0, highest)
    return corrected


def group_letters(names: Sequence[str], separated: Iterable[frozenset[str]]) -> dict[str, str]:
    """Letters such that two names share one exactly if their pair is not `separated`.

    Each letter is a largest set of names without a separated pair, in the order of `names`.
    """
    apart = set(separated)
    groups: list[frozenset[str]] = []
    for name in names:
        # The sets that hold `name` are those so far, less what is separated from it.
        compatible = {
            frozenset(n for n in group if frozenset((n, name)) not in apart) | {name}
            for group in [*groups, frozenset[str]()]
        }
        groups = _largest([*groups, *compatible])
    groups.sort(key=lambda group: sorted(names.index(name) for name in group))
    return {
        name: "".join(_letter(i) for i, group in enumerate(groups) if name in group)
        for name in names
    }


def smallest_difference(standard_error: float, level: float = 0.95, power: float = 0.8) -> float:
    """The true difference that a two-sided test at `level` finds with probability `power`.

    (z_(1 + level)/2 + z_power) times the standard error, for an estimate that is about normal. Of
    one comparison: with many, after Holm's correction, it is larger.
    """
    normal = NormalDist()
    return (normal.inv_cdf((1 + level) / 2) + normal.inv_cdf(power)) * standard_error


def _largest(groups: Iterable[frozenset[str]]) -> list[frozenset[str]]:
    """The sets that no other one contains."""
    distinct = list(dict.fromkeys(groups))
    return [group for group in distinct if not any(group < other for other in distinct)]


def _letter(index: int) -> str:
    """a to z, then numbers in brackets."""
    return chr(ord("a") + index) if index < 26 else f"({index + 1})"
