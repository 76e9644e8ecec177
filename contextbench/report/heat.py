"""IoU of every class and of every group of classes, and what each head adds to a plain one."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd

from contextbench.report.collection import Collection
from contextbench.report.comparison import GROUP_PREFIX, group_columns
from contextbench.report.geometry import FloatArray
from contextbench.statistics.intervals import HeadStatistics, Interval

BASELINE = "fcn"  # what differences refer to, where it was run


@dataclass(frozen=True)
class Heat:
    """Scores of rows and columns, fractions; NaN where there is none."""

    rows: Sequence[str]
    columns: Sequence[str]
    values: FloatArray  # (rows, columns)
    differences: FloatArray  # to the baseline's
    baseline: str  # a head
    labelled: Sequence[float] = ()  # share of the pixels that each row has, where rows are classes
    statistics: Mapping[tuple[str, str], HeadStatistics] = field(default_factory=dict)

    @property
    def largest(self) -> float:
        """The largest difference to the baseline, whatever its sign."""
        return max((abs(v) for v in self.differences.flat if not math.isnan(v)), default=0.0)

    @property
    def leading(self) -> npt.NDArray[np.bool_]:
        """(rows, columns) heads that share a letter with the best of their group, where others do
        not: none without a test."""
        marked = np.zeros(self.values.shape, dtype=bool)
        for place, column in enumerate(self.columns if self.statistics else ()):
            letters = [self.statistics[row, column].groups if (row, column) in self.statistics
                       else "" for row in self.rows]  # fmt: skip
            best = set(letters[int(np.nanargmax(self.values[:, place]))])
            alike = [bool(best & set(each)) for each in letters]
            marked[:, place] = alike if not all(alike) else False
        return marked

    def interval(self, row: str, column: str) -> Interval | None:
        """Of a score over test images; None where it is not known."""
        found = self.statistics.get((row, column))
        return None if found is None or math.isnan(found.miou.low) else found.miou


def class_heat(per_class: pd.DataFrame) -> Heat | None:
    """Classes as rows, heads that have scores as columns; None where no head has."""
    heads = [str(name) for name in per_class.columns[2:] if per_class[name].notna().any()]
    if not heads:
        return None
    base = _baseline(heads)
    values = per_class[heads].to_numpy(dtype=np.float64)
    return Heat(
        rows=[str(name) for name in per_class["class"]],
        columns=heads,
        values=values,
        differences=values - values[:, [heads.index(base)]],
        baseline=base,
        labelled=per_class["labelled_fraction"].tolist(),
    )


def group_heat(collection: Collection) -> Heat | None:
    """Heads that have scores as rows, groups of classes as columns; None without either."""
    table = collection.table[collection.table["miou"].notna()]
    columns = group_columns(table)
    if not columns or table.empty:
        return None
    heads = [str(head) for head in table["head"]]
    base = _baseline(heads)
    groups = [name.removeprefix(GROUP_PREFIX) for name in columns]
    values = table[columns].to_numpy(dtype=np.float64)
    statistics = {
        (head, group): found
        for group, ranking in collection.group_rankings.items()
        for head in heads
        if (found := ranking.find(head))
    }
    differences = values - values[[heads.index(base)]]
    return Heat(heads, groups, values, differences, base, statistics=statistics)


def _baseline(heads: Sequence[str]) -> str:
    """The plain head, or else the lowest, to which others add."""
    return BASELINE if BASELINE in heads else heads[-1]
