"""IoU of every class and of every group of classes, as tables of coloured cells."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from contextbench.records.stored import RecordError
from contextbench.report.collection import Collection
from contextbench.report.figures.style import signed
from contextbench.report.page.plots import Mark
from contextbench.report.page.text import between, percent
from contextbench.report.tables.comparison import per_class_table
from contextbench.report.tables.render import GROUP_PREFIX, group_columns
from contextbench.statistics.intervals import Interval, rank

BASELINE = "fcn"  # what differences refer to, where it was run


@dataclass(frozen=True)
class HeatCell:
    """A score and its difference to the baseline, as texts and as parts of the largest ones."""

    value: float | None  # None where there is none
    text: str
    difference: float | None
    difference_text: str
    share: float  # of the largest difference in the table, from -1 to 1
    detail: str = ""  # interval


@dataclass(frozen=True)
class HeatRow:
    """A class, or a head, with its cells."""

    name: str
    colour: str | None  # of a class
    mark: Mark | None  # of a head
    labelled: float | None
    labelled_text: str
    cells: Sequence[HeatCell]


@dataclass(frozen=True)
class Heat:
    """A table of IoU; `heads` are its columns, or `groups` where heads are its rows."""

    heads: Sequence[Mark]
    groups: Sequence[str]
    rows: Sequence[HeatRow]
    baseline: str
    largest: str  # difference, as text


def class_heat(collection: Collection, marks: Mapping[str, Mark]) -> Heat | None:
    """Classes as rows, heads as columns; None where no head has a score."""
    table = per_class_table(collection.runs)
    heads = [name for name in marks if table[name].notna().any()]
    if not heads:
        return None
    baseline = _baseline(heads)
    differences = table[heads].sub(table[baseline], axis=0)
    largest = _largest(differences)
    rows = []
    for k, name in enumerate(table["class"]):
        red, green, blue = collection.runs[0].labels.palette[k]
        labelled = float(table["labelled_fraction"].iloc[k])
        cells = [
            _cell(float(table[head].iloc[k]), float(differences[head].iloc[k]), largest)
            for head in heads
        ]
        colour = f"rgb({red} {green} {blue})"
        rows.append(HeatRow(str(name), colour, None, _known(labelled), percent(labelled), cells))
    return Heat([marks[head] for head in heads], [], rows, baseline, percent(largest))


def group_heat(
    collection: Collection, table: pd.DataFrame, marks: Mapping[str, Mark]
) -> Heat | None:
    """Heads as rows, groups of classes as columns, with intervals; None without groups."""
    columns = group_columns(table)
    scored = table[table["miou"].notna()]
    if not columns or scored.empty:
        return None
    baseline = _baseline([str(head) for head in scored["head"]])
    reference = scored[scored["head"] == baseline][columns].iloc[0]
    differences = scored[columns].sub(reference, axis=1)
    largest = _largest(differences)
    intervals = {name: _intervals(collection, name) for name in columns}
    rows = []
    for (_, values), (_, gaps) in zip(scored.iterrows(), differences.iterrows(), strict=True):
        head = str(values["head"])
        cells = [
            _cell(float(values[name]), float(gaps[name]), largest, intervals[name].get(head))
            for name in columns
        ]
        rows.append(HeatRow(head, None, marks[head], None, "", cells))
    names = [name.removeprefix(GROUP_PREFIX) for name in columns]
    return Heat([], names, rows, baseline, percent(largest))


def _intervals(collection: Collection, column: str) -> dict[str, Interval]:
    """Head -> interval of a group's mean IoU; empty where there are none."""
    if collection.ranking is None:
        return {}
    members = collection.runs[0].labels.groups[column.removeprefix(GROUP_PREFIX)]
    try:
        ranking = rank(collection.areas, sampling=collection.sampling, classes=members)
    except RecordError:
        return {}
    return {each.head: each.miou for each in ranking.heads}


def _baseline(heads: Sequence[str]) -> str:
    """The plain head, or else the best one."""
    return BASELINE if BASELINE in heads else heads[0]


def _largest(differences: pd.DataFrame) -> float:
    values = differences.abs().to_numpy().ravel()
    return max((float(value) for value in values if not math.isnan(value)), default=0.0)


def _cell(
    value: float, difference: float, largest: float, interval: Interval | None = None
) -> HeatCell:
    share = 0.0 if math.isnan(difference) or not largest else difference / largest
    return HeatCell(
        value=_known(value),
        text=percent(value),
        difference=_known(difference),
        difference_text=signed(100 * difference),
        share=round(share, 3),
        detail=between(interval) if interval and not math.isnan(interval.low) else "",
    )


def _known(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)
