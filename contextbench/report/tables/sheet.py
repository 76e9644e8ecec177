"""A table whose cells are texts, ready to be set in any format: a terminal, Markdown or LaTeX.

Texts are data and are escaped by whoever sets them; what carries meaning (best, tied, footnotes) is
said in fields, not in the texts.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.constrain import Constrain
from rich.table import Table
from rich.text import Text

from contextbench.report.columns import Cell, Column
from contextbench.system.text import one_line

DAGGER = "†"
SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
MARKUP = re.compile(
    r"[\\*~$]"
    r"|<(?=[A-Za-z/!?])"  # tags
    r"|(?<!\w)_|_(?!\w)"  # underscores inside words are text
    r"|&(?=#?\w+;)"  # entities
    r"|\[(?=\^|[^\]]*\][(\[:])"  # footnotes and links
)
LEAST_TEXT = 16  # characters of a word in a column of text that are not broken
NOTE_WIDTH = 78  # characters that notes may be wider than a narrow table
WIDEST_GAP = 2  # characters between two columns of a terminal; 1 where that is one too many


class Remark(NamedTuple):
    """A sentence on how to read the columns of these names, or all."""

    text: str
    columns: Collection[str] = ()


@dataclass(frozen=True)
class Sheet:
    """Rows of cells below headings; the first column says what a row is.

    On a terminal it has the columns that fit, and names the others below. Columns of text may be
    broken; the first is never left out, since without it nobody knows what a row is.
    """

    headings: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    remarks: Sequence[Remark] = ()
    left: Collection[str] = ()  # names of left-aligned columns, of text, besides the first
    dropped_first: Sequence[str] = ()  # what a narrow terminal leaves out, in turn; then the last
    title: str = ""

    @classmethod
    def plain(
        cls,
        header: Sequence[str],
        rows: Iterable[Sequence[str]],
        remarks: Iterable[str] = (),
        *,
        left: Collection[str] = (),
        title: str = "",
    ) -> "Sheet":
        """Of texts alone."""
        return cls(
            [Column(name, " ".join(name.split())) for name in header],
            [[Cell(text) for text in row] for row in rows],
            [Remark(text) for text in remarks],
            left=left,
            title=title,
        )

    @cached_property
    def footnotes(self) -> dict[str, int]:
        """Text of every footnote with its number, counted from 1 row by row."""
        notes = dict.fromkeys(note for row in self.rows for cell in row for note in cell.notes)
        return {note: number for number, note in enumerate(notes, start=1)}

    def numbers(self, cell: Cell) -> list[int]:
        """Of the footnotes of a cell."""
        return [self.footnotes[note] for note in cell.notes]

    @property
    def explanations(self) -> list[str]:
        """The remarks on columns that are here."""
        names = {heading.name for heading in self.headings}
        return [text for text, columns in self.remarks if not columns or names & set(columns)]

    def is_text(self, index: int) -> bool:
        """Whether a column is left-aligned."""
        return index == 0 or self.headings[index].name in self.left

    def without(self, names: Collection[str]) -> "Sheet":
        """The same without some columns."""
        kept = [i for i, heading in enumerate(self.headings) if heading.name not in names]
        return replace(
            self,
            headings=[self.headings[i] for i in kept],
            rows=[[row[i] for i in kept] for row in self.rows],
        )

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        sheet, dropped = self._fitting(options.max_width)
        footnotes = [f"{_superscript([n])} {note}" for note, n in sheet.footnotes.items()]
        missing = [f"Left out for want of width: {'; '.join(dropped)}."] if dropped else []
        notes = [*footnotes, *sheet.explanations, *missing]
        gap = WIDEST_GAP if sheet._width(WIDEST_GAP) <= options.max_width else 1
        table = Table(
            title=Text(self.title) if self.title else None, title_justify="left",
            box=box.SIMPLE_HEAD, padding=(0, gap - 1, 0, 0), show_edge=False, pad_edge=False,
        )  # fmt: skip
        columns = [sheet._texts(index) for index in range(len(sheet.headings))]
        for index in range(len(columns)):
            text = sheet.is_text(index)
            table.add_column(
                Text(sheet._header(index)), justify="left" if text else "right", no_wrap=not text,
                min_width=sheet._least(index), overflow="fold",
            )  # fmt: skip
        for row in zip(*columns, strict=True):
            table.add_row(*row)
        yield table
        if notes:
            width = max(NOTE_WIDTH, sheet._width(gap))
            yield Constrain(Text("\n".join(notes), style="table.caption"), width)

    def _fitting(self, width: int) -> tuple["Sheet", list[str]]:
        """What is left when columns of numbers are dropped until the rest fits; lost headings."""
        names = [h.name for i, h in enumerate(self.headings) if not self.is_text(i)]
        wanted = [name for name in self.dropped_first if name in names]
        dropped: list[str] = []
        for name in (*wanted, *(name for name in reversed(names) if name not in wanted)):
            if self.without(dropped)._width(1) <= width:
                break
            dropped.append(name)
        return self.without(dropped), [h.words for h in self.headings if h.name in dropped]

    def _width(self, gap: int) -> int:
        """Characters that a line needs."""
        columns = range(len(self.headings))
        return sum(map(self._least, columns)) + gap * (len(columns) - 1)

    def _least(self, index: int) -> int:
        """Characters that a column needs, spelled out as the terminal will show it."""
        texts = [str(text) for text in self._texts(index)]
        words = [word for text in texts for word in text.split()] if self.is_text(index) else texts
        least = max(map(cell_len, words), default=0)
        if self.is_text(index):
            least = min(least, LEAST_TEXT)
        return max(least, *map(cell_len, self._header(index).splitlines()), 0)

    def _header(self, index: int) -> str:
        """One word a line."""
        heading = self.headings[index]
        parts = map(one_line, (heading.group, heading.short_title, heading.unit))
        return "\n".join(" ".join(parts).split())

    def _texts(self, index: int) -> list[Text]:
        """Cells of a column, so that numbers stay aligned beside details and marks of any width."""
        cells = [
            replace(row[index], text=one_line(row[index].text), detail=one_line(row[index].detail))
            for row in self.rows
        ]
        after = [
            " " * bool(cell.detail)
            + cell.detail
            + DAGGER * cell.tied
            + _superscript(self.numbers(cell))
            for cell in cells
        ]
        if self.is_text(index):
            return [Text(cell.text + rest) for cell, rest in zip(cells, after, strict=True)]
        value = max((cell_len(cell.text) for cell in cells), default=0)
        heading = max(map(cell_len, self._header(index).splitlines()), default=0)
        room = " " * (heading - value - max(map(len, after), default=0))
        return [
            Text(room, justify="left")
            .append(cell.text.rjust(value), style="bold" if cell.best else "")
            .append(rest)
            for cell, rest in zip(cells, after, strict=True)
        ]


def sheet_markdown(sheet: Sheet, warnings: Sequence[str] = ()) -> str:
    """The table with the best in bold, footnotes, then `warnings` and remarks as lists."""
    header = [markdown_text(heading.words) for heading in sheet.headings]
    ruler = [":--" if sheet.is_text(index) else "--:" for index in range(len(header))]
    rows = [[_markdown_cell(cell, sheet.numbers(cell)) for cell in row] for row in sheet.rows]
    cells = [[_escaped(cell) for cell in line] for line in (header, *rows)]
    table = [f"| {' | '.join(line)} |" for line in (cells[0], ruler, *cells[1:])]
    lists = [markdown_list(lines) for lines in (warnings, sheet.explanations) if lines]
    footnotes = [f"[^{n}]: {markdown_text(note)}" for note, n in sheet.footnotes.items()]
    return "\n\n".join(["\n".join(table), *footnotes, *lists]) + "\n"


def markdown_list(lines: Iterable[str]) -> str:
    """Data as a list in Markdown."""
    return "\n".join(f"- {_escaped(markdown_text(line))}" for line in lines)


def markdown_text(text: str) -> str:
    """Data as Markdown: what would be markup or HTML is escaped, but for pipes and backticks.

    Pipes are escaped by whoever builds the table; backticks mark code in this package's texts.
    """
    return MARKUP.sub(r"\\\g<0>", one_line(" ".join(text.split())))


def _markdown_cell(cell: Cell, numbers: Sequence[int]) -> str:
    text = markdown_text(cell.text)
    parts = [f"**{text}**" if cell.best else text, markdown_text(cell.detail), DAGGER * cell.tied]
    references = [f"[^{number}]" for number in numbers]
    return " ".join(part for part in (*parts, *references) if part)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def _superscript(numbers: Sequence[int]) -> str:
    return ",".join(str(number).translate(SUPERSCRIPTS) for number in numbers)
