"""Tables as text: percent, SI units and rounding are decided here and nowhere else."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import pandas as pd
from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from contextbench.config.files import ConfigError, nearest
from contextbench.system.files import write_text
from contextbench.system.text import one_line, printable

ABSENT = "–"
MEBI = 2**20
NOTE_WIDTH = 78  # characters that a narrow table is widened to, so that notes are readable
GROUP_PREFIX = "iou_"  # of columns with the mean IoU of a group of classes
COUNTS = (
    "parameters",
    "macs",
    "flops",
    "context_parameters",
    "context_macs",
    "inference_memory_bytes",
    "training_memory_bytes",
    "interval_resamples",
    "interval_images",
    "interval_block",
)


@dataclass(frozen=True)
class Column:
    """How one column is printed: `value * scale` in `unit`, with its better direction."""

    name: str
    title: str
    unit: str
    scale: float
    better: Literal["high", "low"] | None  # None: no value is marked as the best
    decimals: int | None = None  # None: as many as the values need
    short: str = ""  # title where there is little room, if it differs
    group: str = ""  # title shared with neighbouring columns
    extra: bool = False  # printed only where it is asked for


SCORES = (
    Column("miou", "mIoU", "%", 100, "high", 1),
    Column("miou_seed_sd", "over seeds", "", 100, None, 1),
    Column("groups", "group", "", 1, None),
    Column("difference_to_best", "difference", "points", 100, None, 1, short="diff."),
    Column("holm_p_value", "p-value", "", 1, None, 3, extra=True),
    Column("pixel_accuracy", "pixel accuracy", "%", 100, "high", 1, short="pixel acc."),
    Column("mean_accuracy", "mean accuracy", "%", 100, "high", 1, extra=True),
    Column("frequency_weighted_iou", "fw IoU", "%", 100, "high", 1, extra=True),
)
COSTS = (
    Column("parameters", "params", "M", 1e-6, "low"),
    Column("macs", "MACs", "G", 1e-9, "low"),
    Column("flops", "FLOPs", "G", 1e-9, "low", extra=True),
    Column("context_parameters", "context params", "M", 1e-6, "low", extra=True),
    Column("context_macs", "context MACs", "G", 1e-9, "low", extra=True),
    Column("inference_memory_bytes", "memory", "MiB", 1 / MEBI, "low", short="mem."),
    Column("training_memory_bytes", "training memory", "MiB", 1 / MEBI, "low", short="train mem."),
    Column("latency_ms", "latency", "ms", 1, "low", short="lat."),
    Column("latency_ratio", "latency", "×{baseline}", 1, "low", 2, short="lat."),
    Column("train_latency_ms", "training step", "ms", 1, "low", short="train step", extra=True),
    Column("train_latency_ratio", "training step", "×{baseline}", 1, "low", 2, short="train step"),
)
COLUMNS = (*SCORES, *COSTS, Column("train_seconds", "training", "s", 1, "low", 0, short="train"))
"""How a comparison is printed; IoU of groups of classes follow the scores."""


def group_columns(table: pd.DataFrame) -> list[str]:
    """Names of the columns that hold the mean IoU of a group of classes."""
    return [str(name) for name in table.columns if str(name).startswith(GROUP_PREFIX)]


def write_csv(table: pd.DataFrame, path: Path, counts: Collection[str] = COUNTS) -> None:
    """Write `csv_text` of every column."""
    write_text(path, csv_text(table, counts))


def csv_text(table: pd.DataFrame, counts: Collection[str] = COUNTS) -> str:
    """Base units and full precision; counts as integers, NaN as nothing."""
    return str(counted(table, counts).to_csv(index=False, lineterminator="\n"))


def counted(table: pd.DataFrame, counts: Collection[str] = COUNTS) -> pd.DataFrame:
    """The table with its counts as integers, which NaN had made fractions of."""
    return table.astype({name: "Int64" for name in counts if name in table})


def select(table: pd.DataFrame, label: str, names: Sequence[str] | None) -> pd.DataFrame:
    """The columns of these names after `label`, all if None. Raises `ConfigError` for others."""
    if names is None:
        return table
    for name in names:
        if name not in table:
            raise ConfigError(f"there is no column {name!r}; {nearest(name, map(str, table))}")
    return table[[label, *(name for name in names if name != label)]]


def chosen_columns(names: Sequence[str], known: Mapping[str, Column]) -> list[Column]:
    """Columns by name. Raises `ConfigError` for a name that is not `known`."""
    for name in names:
        if name not in known:
            raise ConfigError(f"column {name!r} cannot be printed; {nearest(name, known)}")
    return [known[name] for name in names]


def sort_rows(
    table: pd.DataFrame, order: str, known: Mapping[str, Column], label: str
) -> pd.DataFrame:
    """Rows by one of the `known` columns, the best first, or by the text of `label`.

    A minus sign before the name turns the order around; without a better direction it starts with
    the lowest. Rows without a value come last. Raises `ConfigError` for other names.
    """
    name = order.removeprefix("-")
    if name not in known and name != label:
        raise ConfigError(f"cannot sort by {name!r}; {nearest(name, [label, *known])}")
    highest_first = name != label and known[name].better == "high"
    ascending = highest_first == order.startswith("-")
    return table.sort_values(
        name, ascending=ascending, na_position="last", kind="stable", ignore_index=True
    )


def cell_texts(table: pd.DataFrame, column: Column) -> list[str]:
    """Every cell of a column in its unit, with the same number of decimals."""
    values = [float(value) * column.scale for value in table[column.name]]
    decimals = _decimals(values) if column.decimals is None else column.decimals
    return [fixed(value, decimals) for value in values]


def fixed(value: float, decimals: int) -> str:
    """A number with a minus sign that is one, and none before zero; `ABSENT` for NaN."""
    return ABSENT if math.isnan(value) else f"{value:z.{decimals}f}".replace("-", "−")


def best_of(texts: Sequence[str], values: Sequence[float], better: str | None) -> list[bool]:
    """Cells that print the best value; none where there is nothing to compare."""
    known = [value for value in values if not math.isnan(value)]
    if better is None or len(set(texts) - {ABSENT}) < 2:
        return [False] * len(texts)
    winner = texts[values.index(max(known) if better == "high" else min(known))]
    return [text == winner for text in texts]


@dataclass(frozen=True)
class ConsoleTable:
    """Rows for a terminal, the first column left-aligned, the others right; notes below.

    Where not all columns fit, the last are left out, which a note says; the first, which says what
    a row is, never. `wrapped` columns break between words; `gap` are the spaces between columns.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str | Text]]
    notes: Sequence[str] = ()
    title: str | None = None
    wrapped: Collection[int] = ()
    gap: int = 2

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widths = self.widths()
        kept = len(widths)
        while kept > 1 and needed_width(widths[:kept], self.gap) > options.max_width:
            kept -= 1
        missing = [" ".join(name.split()) for name in self.header[kept:]]
        notes = [*self.notes, *([left_out(missing)] if missing else [])]
        yield self._table(widths[:kept], notes, options.max_width)

    def widths(self) -> list[int]:
        """Characters that each column needs at least."""
        return [
            max([_widest(name), *(self._least(index, row[index]) for row in self.rows)])
            for index, name in enumerate(self.header)
        ]

    def _least(self, index: int, cell: str | Text) -> int:
        text = one_line(str(cell))
        words = text.split() if index in self.wrapped else [text]
        return max(map(cell_len, words), default=0)

    def _table(self, widths: Sequence[int], notes: Sequence[str], room: int) -> Table:
        table = Table(
            title=self.title, title_justify="left", box=box.SIMPLE_HEAD,
            padding=(0, self.gap - 1, 0, 0), show_edge=False, pad_edge=False,
        )  # fmt: skip
        for index, least in enumerate(widths):
            table.add_column(
                Text(printable(self.header[index])),
                justify="right" if index else "left",
                no_wrap=index not in self.wrapped and index > 0,
                min_width=least,
                overflow="fold",
            )
        for row in self.rows:
            # Text is taken literally where plain strings would be read as markup.
            cells = (Text(one_line(cell)) if isinstance(cell, str) else cell for cell in row)
            table.add_row(*islice(cells, len(widths)))
        if notes:
            table.caption, table.caption_justify = Text("\n".join(notes)), "left"
            table.min_width = min(NOTE_WIDTH, room, max(map(cell_len, notes)))
        return table


def needed_width(widths: Sequence[int], gap: int) -> int:
    """Characters of a line of columns that need so many each."""
    return sum(widths) + gap * (len(widths) - 1)


def left_out(columns: Sequence[str]) -> str:
    """What a table says of columns that its terminal has no room for."""
    return f"Left out for want of width: {'; '.join(columns)}."


def _widest(title: str) -> int:
    return max(map(cell_len, printable(title).splitlines()), default=0)


def markdown_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, left: Collection[int] = (0,)
) -> str:
    """A table in Markdown; columns that are not in `left` are right-aligned."""
    ruler = [":--" if index in left else "--:" for index in range(len(header))]
    lines = [[_escaped(cell) for cell in line] for line in (header, *rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], ruler, *lines[1:]))


def bullets(lines: Sequence[str]) -> str:
    """A list in Markdown."""
    return "\n".join(f"- {_escaped(line)}" for line in lines)


def _decimals(values: Sequence[float]) -> int:
    """Three significant digits for the largest value and at least two for the smallest."""
    positive = [value for value in values if value > 0 and math.isfinite(value)]
    if not positive:
        return 0
    low, high = (math.floor(math.log10(value)) for value in (min(positive), max(positive)))
    return min(3, max(0, 2 - high, 1 - low))


def _escaped(text: str) -> str:
    return one_line(text.replace("\n", " ")).replace("|", "\\|")
