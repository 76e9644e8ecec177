"""The table of all scores and costs, with what its cells are sorted by."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from contextbench.report.page.plots import Mark
from contextbench.report.tables.layout import comparison_sheet, printable
from contextbench.report.tables.sheet import Cell, Heading

TEXTUAL = frozenset({"groups"})  # sorted as text; all others as numbers


@dataclass(frozen=True)
class ScoreCell:
    """A cell, its value to sort by (None: always last) and the numbers of its footnotes."""

    cell: Cell
    value: float | str | None
    notes: Sequence[int]


@dataclass(frozen=True)
class ScoreRow:
    """One head; a failed one says so beside its name."""

    mark: Mark
    cells: Sequence[ScoreCell]
    status: str  # empty for `done`


@dataclass(frozen=True)
class ScoreTable:
    """Columns after the head's name, with rows, footnotes and remarks."""

    headings: Sequence[Heading]
    textual: frozenset[str]
    rows: Sequence[ScoreRow]
    footnotes: Sequence[str]
    remarks: Sequence[str]


def score_table(table: pd.DataFrame, marks: Mapping[str, Mark]) -> ScoreTable:
    """Every column of `comparison_table` that has a value, one row a head."""
    names = [
        name
        for name in printable(table)
        if name == "miou" or (table[name].notna() & (table[name] != "")).any()
    ]
    sheet = comparison_sheet(table, names)
    numbers = sheet.footnotes
    rows = [
        ScoreRow(
            mark=marks[str(table["head"].iloc[i])],
            cells=[
                ScoreCell(cell, _value(table, name, i), [numbers[note] for note in cell.notes])
                for name, cell in zip(names, cells[1:], strict=True)
            ],
            status=_status(str(table["status"].iloc[i])),
        )
        for i, cells in enumerate(sheet.rows)
    ]
    return ScoreTable(sheet.headings[1:], TEXTUAL, rows, list(numbers), sheet.explanations)


def _value(table: pd.DataFrame, name: str, row: int) -> float | str | None:
    value = table[name].iloc[row]
    if name in TEXTUAL:
        return str(value) or None
    return None if math.isnan(value) else float(value)


def _status(status: str) -> str:
    return "" if status == "done" else status.replace("_", " ")
