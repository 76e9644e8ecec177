"""A table whose cells are texts, ready to be set in any format: a terminal, Markdown or LaTeX.

Texts are data and are escaped by whoever sets them; what carries meaning (best, tied, footnotes) is
said in fields, not in the texts.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from contextbench.config.files import ConfigError
from contextbench.report.tables.render import (
    ConsoleTable,
    bullets,
    left_out,
    markdown_table,
    needed_width,
)
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
GAP = 1  # characters between two columns of a terminal


@dataclass(frozen=True)
class Heading:
    """A column: its name in files, and what is printed above it."""

    name: str
    title: str
    unit: str = ""
    group: str = ""  # title shared with neighbouring columns
    short: str = ""  # title where there is little room, if it differs

    @property
    def words(self) -> str:
        """All on one line."""
        return " ".join(part for part in (self.group, self.title, self.unit) if part)

    @property
    def short_title(self) -> str:
        return self.short or self.title

    def is_called(self, text: str) -> bool:
        """Whether a table prints this above the column, with or without group and unit."""
        titles = (self.title, self.short_title)
        groups, units = {"", self.group}, {"", self.unit}
        return _folded(text) in {
            _folded(f"{group} {title} {unit}")
            for group in groups
            for title in titles
            for unit in units
        }


@dataclass(frozen=True)
class Cell:
    """One value as it is printed."""

    text: str
    detail: str = ""  # after the value, never in bold: an interval, a spread
    best: bool = False
    tied: bool = False  # cannot be separated from the best
    notes: tuple[str, ...] = ()  # footnotes, as texts


class Remark(NamedTuple):
    """A sentence on how to read the columns of these names, or all."""

    text: str
    columns: Collection[str] = ()


@dataclass(frozen=True)
class Sheet:
    """Rows of cells below headings; the first column says what a row is."""

    headings: Sequence[Heading]
    rows: Sequence[Sequence[Cell]]
    remarks: Sequence[Remark] = ()
    left: Collection[str] = ()  # names of left-aligned columns besides the first
    dropped_first: Sequence[str] = ()  # what a narrow terminal leaves out, in turn; then the last

    @property
    def footnotes(self) -> dict[str, int]:
        """Text of every footnote with its number, counted from 1 row by row."""
        notes = dict.fromkeys(note for row in self.rows for cell in row for note in cell.notes)
        return {note: number for number, note in enumerate(notes, start=1)}

    @property
    def explanations(self) -> list[str]:
        """The remarks on columns that are here."""
        names = {heading.name for heading in self.headings}
        return [text for text, columns in self.remarks if not columns or names & set(columns)]

    def without(self, names: Collection[str]) -> "Sheet":
        """The same without some columns."""
        kept = [i for i, heading in enumerate(self.headings) if heading.name not in names]
        return replace(
            self,
            headings=[self.headings[i] for i in kept],
            rows=[[row[i] for i in kept] for row in self.rows],
        )


def column_names(asked: Iterable[str], headings: Sequence[Heading]) -> list[str]:
    """Names of columns that may be given as tables head them, in any case; each once.

    What no column is called is returned as it is. Raises `ConfigError` for a heading that several
    columns have.
    """
    return list(dict.fromkeys(_column_name(text, headings) for text in asked))


def _column_name(text: str, headings: Sequence[Heading]) -> str:
    by_name = [each.name for each in headings if _folded(each.name) == _folded(text)]
    found = by_name or [each.name for each in headings if each.is_called(text)]
    if len(found) > 1:
        raise ConfigError(f"several columns are headed {text!r}; name one of {', '.join(found)}")
    return found[0] if found else text


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def sheet_markdown(sheet: Sheet, warnings: Sequence[str] = ()) -> str:
    """The table with the best in bold, footnotes, then `warnings` and remarks as lists."""
    header = [markdown_text(heading.words) for heading in sheet.headings]
    numbers = sheet.footnotes
    rows = [[_markdown_cell(cell, numbers) for cell in row] for row in sheet.rows]
    left = {i for i, h in enumerate(sheet.headings) if i == 0 or h.name in sheet.left}
    lists = [
        bullets([markdown_text(line) for line in lines])
        for lines in (warnings, sheet.explanations)
        if lines
    ]
    footnotes = [f"[^{number}]: {markdown_text(note)}" for note, number in numbers.items()]
    return "\n\n".join([markdown_table(header, rows, left=left), *footnotes, *lists]) + "\n"


def markdown_text(text: str) -> str:
    """Data as Markdown: what would be markup or HTML is escaped, but for pipes and backticks.

    Pipes are escaped by whoever builds the table; backticks mark code in this package's texts.
    """
    return MARKUP.sub(r"\\\g<0>", one_line(" ".join(text.split())))


@dataclass(frozen=True)
class Terminal:
    """A sheet for a terminal: the columns that fit, footnotes and remarks below."""

    sheet: Sheet

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        sheet, dropped = _fitting(_printable(self.sheet), options.max_width)
        footnotes = [f"{_superscript([n])} {note}" for note, n in sheet.footnotes.items()]
        missing = [left_out(dropped)] if dropped else []
        yield replace(_table(sheet), notes=[*footnotes, *sheet.explanations, *missing])


def _printable(sheet: Sheet) -> Sheet:
    """With all names spelled out as the terminal will show them, so that columns are aligned."""
    headings = [
        replace(h, title=one_line(h.title), group=one_line(h.group)) for h in sheet.headings
    ]
    rows = [
        [replace(cell, text=one_line(cell.text), detail=one_line(cell.detail)) for cell in row]
        for row in sheet.rows
    ]
    return replace(sheet, headings=headings, rows=rows)


def _markdown_cell(cell: Cell, numbers: dict[str, int]) -> str:
    text = markdown_text(cell.text)
    parts = [f"**{text}**" if cell.best else text, markdown_text(cell.detail), DAGGER * cell.tied]
    references = [f"[^{numbers[note]}]" for note in cell.notes]
    return " ".join(part for part in (*parts, *references) if part)


def _fitting(sheet: Sheet, width: int) -> tuple[Sheet, list[str]]:
    """What is left when columns are dropped until the rest fits, and the dropped headings.

    The first column stays, since without it nobody knows what a row is.
    """
    names = [heading.name for heading in sheet.headings[1:]]
    wanted = [name for name in sheet.dropped_first if name in names]
    dropped: list[str] = []
    for name in (*wanted, *(name for name in reversed(names) if name not in wanted)):
        if needed_width(_table(sheet.without(dropped)).widths(), GAP) <= width:
            break
        dropped.append(name)
    lost = [heading.words for heading in sheet.headings if heading.name in dropped]
    return sheet.without(dropped), lost


def _table(sheet: Sheet) -> ConsoleTable:
    """The whole sheet; labels may be broken between words, which is better than a column less."""
    columns = [_padded(sheet, index) for index in range(len(sheet.headings))]
    header = [_terminal_header(heading) for heading in sheet.headings]
    rows = [[column[row] for column in columns] for row in range(len(sheet.rows))]
    return ConsoleTable(header, rows, wrapped=(0,), gap=GAP)


def _padded(sheet: Sheet, index: int) -> list[Text]:
    """Cells of a column, so that numbers stay aligned beside details and marks of any width."""
    heading, numbers = sheet.headings[index], sheet.footnotes
    cells = [row[index] for row in sheet.rows]
    value = max((len(cell.text) for cell in cells), default=0)
    rest = [
        " " * bool(cell.detail)
        + cell.detail
        + DAGGER * cell.tied
        + _superscript([numbers[note] for note in cell.notes])
        for cell in cells
    ]
    if index == 0 or heading.name in sheet.left:
        return [
            Text(cell.text + after, justify="left") for cell, after in zip(cells, rest, strict=True)
        ]
    room = " " * (_widest(heading) - value - max(map(len, rest), default=0))
    return [
        Text(room, justify="left")
        .append(cell.text.rjust(value), style="bold" if cell.best else "")
        .append(after)
        for cell, after in zip(cells, rest, strict=True)
    ]


def _terminal_header(heading: Heading) -> str:
    """One word a line."""
    return "\n".join(f"{heading.group} {heading.short_title} {heading.unit}".split())


def _widest(heading: Heading) -> int:
    return max(map(len, _terminal_header(heading).splitlines()), default=0)


def _superscript(numbers: Sequence[int]) -> str:
    return ",".join(str(number).translate(SUPERSCRIPTS) for number in numbers)
