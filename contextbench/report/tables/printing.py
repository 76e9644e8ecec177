"""A frame that can be printed: in every format, by the columns asked for, and into files."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from contextbench.report.columns import (
    Column,
    column_names,
    counted,
    csv_text,
    select,
    sort_rows,
)
from contextbench.report.tables.latex import sheet_latex
from contextbench.report.tables.sheet import Sheet, sheet_markdown
from contextbench.system.files import write_text

Names = Sequence[str] | None
"""Names of columns, in the order wanted; None: those that a format has unless told otherwise."""


@dataclass(frozen=True)
class PrintedTable:
    """Numbers in base units, and how they are set. Unknown names raise `ConfigError`."""

    name: str  # of files and of the label in LaTeX
    frame: pd.DataFrame
    label: str  # the column that says what a row is
    known: Mapping[str, Column]  # what can be printed
    build: Callable[[pd.DataFrame, Names], Sheet]
    caption: str
    counts: Collection[str]  # columns of integers
    of_page: Sequence[str]  # columns that fit on a page
    of_markdown: Names = None
    heading: str = ""  # of the Markdown file
    warnings: Sequence[str] = ()
    reference: str = ""  # label in LaTeX, `name` if empty

    def called(self, names: Names) -> Names:
        """Columns by name that may be called as they are headed."""
        return names and column_names(names, self.known.values())

    def sorted_by(self, order: str | None) -> "PrintedTable":
        """With rows in the order of a column, a minus sign before it: the other way round."""
        if order is None:
            return self
        sign = "-" * order.startswith("-")
        (name,) = column_names([order.removeprefix("-")], self.known.values())
        return replace(self, frame=sort_rows(self.frame, sign + name, self.known, self.label))

    def sheet(self, names: Names = None) -> Sheet:
        """For a terminal."""
        return self.build(self.frame, names)

    def markdown(self, names: Names = None) -> str:
        """With notes, warnings and how to read it."""
        return sheet_markdown(
            self.sheet(self.of_markdown if names is None else names), self.warnings
        )

    def latex(self, names: Names = None) -> str:
        """With booktabs; None: the columns that fit on a page."""
        return sheet_latex(
            self.sheet(self.of_page if names is None else names),
            caption=self.caption,
            label=self.reference or self.name,
            warnings=self.warnings,
        )

    def csv(self, names: Names = None) -> str:
        """Base units in full precision; None: every column."""
        return csv_text(select(self.frame, self.label, names), self.counts)

    def rows(self, names: Names = None) -> pd.DataFrame:
        """For JSON: base units, counts as integers."""
        return counted(select(self.frame, self.label, names), self.counts)

    def write(self, folder: Path, names: Names = None) -> list[Path]:
        """Write NAME.csv with every column, NAME.md and NAME.tex below `folder`; the paths."""
        title = f"# {self.heading}\n\n" if self.heading else ""
        texts = {
            folder / f"{self.name}.csv": self.csv(),
            folder / f"{self.name}.md": title + self.markdown(names),
            folder / f"{self.name}.tex": self.latex(names),
        }
        for path, text in texts.items():
            write_text(path, text)
        return list(texts)
