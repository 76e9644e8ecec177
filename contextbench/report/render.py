"""Tables as text: percent, SI units and rounding are decided here and nowhere else."""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
from rich import box
from rich.table import Table
from rich.text import Text

from contextbench.files import write_text

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
    short: str | None = None  # title on a terminal; None: not shown there


COLUMNS = (
    Column("miou", "mIoU", "%", 100, "high", 1, short="mIoU"),
    Column("pixel_accuracy", "pixel accuracy", "%", 100, "high", 1),
    Column("mean_accuracy", "mean accuracy", "%", 100, "high", 1),
    Column("frequency_weighted_iou", "fw IoU", "%", 100, "high", 1),
    Column("parameters", "params", "M", 1e-6, "low", short="params"),
    Column("macs", "MACs", "G", 1e-9, "low", short="MACs"),
    Column("context_parameters", "context params", "M", 1e-6, "low"),
    Column("context_macs", "context MACs", "G", 1e-9, "low"),
    Column("inference_memory_bytes", "memory", "MiB", 1 / MEBI, "low", short="mem."),
    Column("training_memory_bytes", "training memory", "MiB", 1 / MEBI, "low"),
    Column("latency_ms", "latency", "ms", 1, "low", short="lat."),
    Column("latency_ratio", "latency", "×{baseline}", 1, "low", 2, short=""),
    Column("train_latency_ms", "training step", "ms", 1, "low"),
    Column("train_latency_ratio", "training step", "×{baseline}", 1, "low", 2),
    Column("train_seconds", "training", "s", 1, "low", 0),
)


def group_columns(table: pd.DataFrame) -> list[str]:
    """Names of the columns that hold the mean IoU of a group of classes."""
    return [str(name) for name in table.columns if str(name).startswith(GROUP_PREFIX)]


def write_csv(table: pd.DataFrame, path: Path, counts: Collection[str] = COUNTS) -> None:
    """Write every column in base units and full precision; counts as integers, NaN as nothing."""
    whole = {name: "Int64" for name in counts if name in table}
    write_text(path, table.astype(whole).to_csv(index=False, lineterminator="\n"))


def render_console(table: pd.DataFrame) -> Table:
    """The main columns for a terminal, the best of each in bold, notes below."""
    shown = [column for column in _columns(table) if column.short is not None]
    cells = [_marked(table, column) for column in shown]
    header = ["head", *(_console_header(column, table) for column in shown)]
    rows: list[list[str | Text]] = [
        [str(head), *(Text(text, style="bold" if best else "") for text, best in _row(cells, row))]
        for row, head in enumerate(table["head"])
    ]
    # On a narrow terminal the spread of mIoU goes below it.
    wrapped = [i for i, column in enumerate(shown, start=1) if column.name == "miou"]
    return console_table(header, rows, _notes(table), wrapped=wrapped)


def render_markdown(table: pd.DataFrame, warnings: Sequence[str]) -> str:
    """Every printed column, the best of each in bold, then notes, warnings and how to read it."""
    shown = _columns(table)
    cells = [_marked(table, column) for column in shown]
    header = ["head", *(f"{column.title} {_unit(column, table)}" for column in shown)]
    rows = [[str(head), *_bold(_row(cells, row))] for row, head in enumerate(table["head"])]
    lists = [bullets(lines) for lines in (_notes(table), warnings, _legend(table)) if lines]
    return "\n\n".join([markdown_table(header, rows), *lists]) + "\n"


def per_class_markdown(table: pd.DataFrame) -> str:
    """IoU of every class (rows) for every head (columns) in percent, the best of a row in bold.

    `table` is that of `tables.per_class_table`.
    """
    heads = [str(name) for name in table.columns if name not in ("class", "labelled_fraction")]
    rows = []
    for _, row in table.iterrows():
        values = [float(row[head]) for head in heads]
        texts = [_text(100 * value, 1) for value in values]
        marked = _bold(zip(texts, _best(texts, values, "high"), strict=True))
        rows.append([str(row["class"]), _text(100 * float(row["labelled_fraction"]), 1), *marked])
    return markdown_table(["IoU %", "labelled pixels %", *heads], rows) + "\n"


def cell_texts(table: pd.DataFrame, column: Column) -> list[str]:
    """Every cell of a column in its unit, with the same number of decimals."""
    values = _scaled(table, column)
    decimals = _decimals(values) if column.decimals is None else column.decimals
    return [_text(value, decimals) for value in values]


def console_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str | Text]],
    notes: Sequence[str] = (),
    *,
    title: str | None = None,
    wrapped: Collection[int] = (),
) -> Table:
    """Rows for a terminal, the first column left-aligned, the others right; notes below.

    `wrapped` columns break between words where the terminal is narrow.
    """
    console = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0),
        show_edge=False, pad_edge=False,
    )  # fmt: skip
    for index, name in enumerate(header):
        words = [word for row in rows for word in str(row[index]).split()]
        longest = max(map(len, words), default=0)
        console.add_column(
            name,
            justify="right" if index else "left",
            no_wrap=index not in wrapped,
            min_width=longest if index or index in wrapped else None,
        )
    for row in rows:
        # Text is taken literally where plain strings would be read as markup.
        console.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    if notes:
        console.caption, console.caption_justify = Text("\n".join(notes)), "left"
        console.min_width = min(NOTE_WIDTH, max(map(len, notes)))
    return console


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


def _columns(table: pd.DataFrame) -> list[Column]:
    """mIoU and the columns with at least one value; groups of classes follow the scores."""
    groups = [
        Column(name, title, "%", 100, "high", 1, short=title)
        for name in group_columns(table)
        for title in [f"IoU {name.removeprefix(GROUP_PREFIX)}"]
    ]
    scores = [column for column in COLUMNS if column.better == "high"]
    costs = [column for column in COLUMNS if column.better == "low"]
    known = [column for column in (*scores, *groups, *costs) if column.name in table]
    return [c for c in known if c.name == "miou" or table[c.name].notna().any()]


def _unit(column: Column, table: pd.DataFrame) -> str:
    if "latency_baseline" not in table or not len(table):
        return column.unit.format(baseline="baseline")
    return column.unit.format(baseline=_label(table["latency_baseline"].iloc[0]))


def _console_header(column: Column, table: pd.DataFrame) -> str:
    """One word a line."""
    return f"{column.short} {_unit(column, table)}".strip().replace(" ", "\n")


def _label(head: str) -> str:
    return head.upper() if head == "fcn" else head


def _marked(table: pd.DataFrame, column: Column) -> list[tuple[str, bool]]:
    """Text of every cell of a column, and whether it is the best."""
    texts = cell_texts(table, column)
    best = _best(texts, _scaled(table, column), column.better)
    if column.name == "miou" and "seeds" in table:
        texts = [text + _spread(table, row) for row, text in enumerate(texts)]
    return list(zip(texts, best, strict=True))


def _scaled(table: pd.DataFrame, column: Column) -> list[float]:
    return [float(value) * column.scale for value in table[column.name]]


def _best(texts: Sequence[str], values: Sequence[float], better: str | None) -> list[bool]:
    """Cells that print the best value; none where there is nothing to compare."""
    known = [value for value in values if not math.isnan(value)]
    if better is None or len(set(texts) - {ABSENT}) < 2:
        return [False] * len(texts)
    winner = texts[values.index(max(known) if better == "high" else min(known))]
    return [text == winner for text in texts]


def _spread(table: pd.DataFrame, row: int) -> str:
    if table["seeds"].iloc[row] < 2:
        return ""
    low, high = (100 * float(table[name].iloc[row]) for name in ("miou_min", "miou_max"))
    return f" [{low:.1f}–{high:.1f}]"


def _decimals(values: Sequence[float]) -> int:
    """Three significant digits for the largest value and at least two for the smallest."""
    positive = [value for value in values if value > 0 and math.isfinite(value)]
    if not positive:
        return 0
    low, high = (math.floor(math.log10(value)) for value in (min(positive), max(positive)))
    return min(3, max(0, 2 - high, 1 - low))


def _text(value: float, decimals: int) -> str:
    return ABSENT if math.isnan(value) else f"{value:.{decimals}f}"


def _bold(cells: Iterable[tuple[str, bool]]) -> list[str]:
    return [f"**{text}**" if best else text for text, best in cells]


def _row(columns: Sequence[Sequence[tuple[str, bool]]], row: int) -> list[tuple[str, bool]]:
    return [column[row] for column in columns]


def _notes(table: pd.DataFrame) -> list[str]:
    known = [name for name in ("note", "cost_note") if name in table]
    return [
        f"{row['head']}: {row[name]}" for _, row in table.iterrows() for name in known if row[name]
    ]


def _legend(table: pd.DataFrame) -> list[str]:
    """What the columns mean, as far as they are shown."""
    shown = {column.name for column in _columns(table)}
    lines = []
    if "miou" in shown:
        lines.append("Scores: mean over seeds, with [lowest–highest] where there are several.")
    if "inference_memory_bytes" in shown:
        lines.append("Memory: predicted peak, weights and input included.")
    if "latency_ms" in shown:
        first = table.iloc[0]
        lines.append(
            f"Latency: median of {int(table['latency_rounds'].max())} interleaved rounds on "
            f"{first['device']}, input {first['input']}; ×{_label(first['latency_baseline'])}: "
            "median over rounds of the ratio within a round."
        )
    return lines


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
