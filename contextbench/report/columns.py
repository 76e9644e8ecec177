"""Columns of tables: how each is called and printed, and what may be asked of a frame by name."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from contextbench.config.files import ConfigError, nearest
from contextbench.report.words import ABSENT, MEBI, fixed
from contextbench.system.files import write_text

COUNTS = (
    "parameters", "macs", "flops", "context_parameters", "context_macs", "inference_memory_bytes",
    "training_memory_bytes", "interval_resamples", "interval_images", "interval_block",
)  # fmt: skip


@dataclass(frozen=True)
class Column:
    """A column: its name in files, what is printed above it, and `value * scale` in `unit`."""

    name: str
    title: str
    unit: str = ""
    scale: float = 1.0
    better: Literal["high", "low"] | None = None  # None: no value is the best
    decimals: int | None = None  # None: as many as the values need
    short: str = ""  # title where there is little room, if it differs
    group: str = ""  # title shared with neighbouring columns
    extra: bool = False  # printed only where it is asked for
    exact: bool = False  # counted or computed, not measured: the best value is marked

    @property
    def words(self) -> str:
        """All that stands above it on one line."""
        return " ".join(part for part in (self.group, self.title, self.unit) if part)

    @property
    def short_title(self) -> str:
        return self.short or self.title

    def is_called(self, text: str) -> bool:
        """Whether a table prints this above the column, with or without group and unit."""
        titles, groups, units = (self.title, self.short_title), ("", self.group), ("", self.unit)
        called = [
            f"{group} {title} {unit}" for group in groups for title in titles for unit in units
        ]
        return _folded(text) in map(_folded, called)

    def with_baseline(self, baseline: str) -> "Column":
        """With the head that ratios refer to in its unit."""
        return replace(self, unit=self.unit.replace("{baseline}", baseline))


@dataclass(frozen=True)
class Cell:
    """One value as it is printed."""

    text: str
    detail: str = ""  # after the value, never in bold: an interval, a spread
    best: bool = False
    tied: bool = False  # cannot be separated from the best
    notes: tuple[str, ...] = ()  # footnotes, as texts
    value: float | str | None = None  # what rows are sorted by; None: always last


SCORES = (
    Column("miou", "mIoU", "%", 100, "high", 1),
    Column("miou_seed_sd", "over seeds", scale=100),
    Column("groups", "letters of heads", short="heads' letters"),
    Column("difference_to_best", "difference", "points", 100, decimals=1, short="diff."),
    Column("models_groups", "letters of these models", short="models' letters"),
    Column("holm_p_value", "p-value", decimals=3, extra=True),
    Column("pixel_accuracy", "pixel accuracy", "%", 100, "high", 1, short="pixel acc."),
    Column("mean_accuracy", "mean accuracy", "%", 100, "high", 1, extra=True),
    Column("frequency_weighted_iou", "fw IoU", "%", 100, "high", 1, extra=True),
    Column("mean_f1", "F1", "%", 100, "high", 1, extra=True),
    Column("mean_precision", "precision", "%", 100, "high", 1, extra=True),
)
COSTS = (
    Column("parameters", "params", "M", 1e-6, "low", exact=True),
    Column("macs", "MACs", "G", 1e-9, "low", exact=True),
    Column("flops", "FLOPs", "G", 1e-9, "low", extra=True, exact=True),
    Column("context_parameters", "context params", "M", 1e-6, "low", extra=True, exact=True),
    Column("context_macs", "context MACs", "G", 1e-9, "low", extra=True, exact=True),
    Column("inference_memory_bytes", "memory", "MiB", 1 / MEBI, "low", short="mem.", exact=True),
    Column(
        "training_memory_bytes",
        "training memory",
        "MiB",
        1 / MEBI,
        "low",
        short="train mem.",
        exact=True,
    ),
    Column("latency_ms", "latency", "ms", 1, "low", short="lat."),
    Column("latency_ratio", "latency", "×{baseline}", 1, "low", 2, short="lat."),
    Column("train_latency_ms", "training step", "ms", 1, "low", short="train step", extra=True),
    Column("train_latency_ratio", "training step", "×{baseline}", 1, "low", 2, short="train step"),
)
COMPILED = (
    Column("compiled_latency_ms", "compiled", "ms"),
    Column("compiled_speedup", "eager / compiled", "×", decimals=2),
    Column("compile_seconds", "compiling", "s", decimals=1),
    Column("compiled_train_latency_ms", "training step, compiled", "ms"),
    Column("compiled_train_speedup", "eager / compiled", "×", decimals=2),
    Column("train_compile_seconds", "compiling", "s", decimals=1),
)
"""Of a profile of models in both modes."""
TRAINING = Column("train_seconds", "training", "s", 1, "low", 0, short="train")
COST_COLUMNS = {column.name: column for column in (*COSTS, TRAINING)}
"""Columns of a comparison; IoU of groups of classes follow the scores."""


def number_cells(table: pd.DataFrame, column: Column) -> list[Cell]:
    """A column in its unit with the same number of decimals, the best in bold if it is exact."""
    values = [float(value) for value in table[column.name]]
    scaled = [value * column.scale for value in values]
    decimals = _decimals(scaled) if column.decimals is None else column.decimals
    texts = [fixed(value, decimals) for value in scaled]
    best = ""  # nothing to compare
    if column.exact and len(set(texts) - {ABSENT}) > 1:
        known = [value for value in values if not math.isnan(value)]
        best = texts[values.index(max(known) if column.better == "high" else min(known))]
    return [
        Cell(text, best=text == best, value=None if math.isnan(value) else value)
        for text, value in zip(texts, values, strict=True)
    ]


def column_names(asked: Iterable[str], columns: Iterable[Column]) -> list[str]:
    """Names of columns that may be given as tables head them, in any case; each once.

    What no column is called is returned as it is. Raises `ConfigError` for a heading that several
    columns have.
    """
    known = list(columns)
    return list(dict.fromkeys(_column_name(text, known) for text in asked))


def _column_name(text: str, columns: Sequence[Column]) -> str:
    by_name = [each.name for each in columns if _folded(each.name) == _folded(text)]
    found = by_name or [each.name for each in columns if each.is_called(text)]
    if len(found) > 1:
        raise ConfigError(f"several columns are headed {text!r}; name one of {', '.join(found)}")
    return found[0] if found else text


def chosen_columns(names: Sequence[str], known: Mapping[str, Column]) -> list[Column]:
    """Columns by name. Raises `ConfigError` for a name that is not `known`."""
    for name in names:
        if name not in known:
            raise ConfigError(f"column {name!r} cannot be printed; {nearest(name, known)}")
    return [known[name] for name in names]


def select(table: pd.DataFrame, label: str, names: Sequence[str] | None) -> pd.DataFrame:
    """The columns of these names after `label`, all if None. Raises `ConfigError` for others."""
    if names is None:
        return table
    for name in names:
        if name not in table:
            raise ConfigError(f"there is no column {name!r}; {nearest(name, map(str, table))}")
    return table[[label, *(name for name in names if name != label)]]


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


def counted(table: pd.DataFrame, counts: Collection[str] = COUNTS) -> pd.DataFrame:
    """The table with its counts as integers, which NaN had made fractions of."""
    return table.astype({name: "Int64" for name in counts if name in table})


def csv_text(table: pd.DataFrame, counts: Collection[str] = COUNTS) -> str:
    """Base units and full precision; counts as integers, NaN as nothing, lists in one cell."""
    joined = counted(table, counts).map(_joined)
    return str(joined.to_csv(index=False, lineterminator="\n"))


def write_csv(table: pd.DataFrame, path: Path, counts: Collection[str] = COUNTS) -> None:
    """Write `csv_text` of every column."""
    write_text(path, csv_text(table, counts))


def _joined(value: Any) -> Any:
    return " ".join(value) if isinstance(value, tuple) else value


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _decimals(values: Sequence[float]) -> int:
    """Three significant digits for the largest value and at least two for the smallest."""
    positive = [value for value in values if value > 0 and math.isfinite(value)]
    if not positive:
        return 0
    low, high = (math.floor(math.log10(value)) for value in (min(positive), max(positive)))
    return min(3, max(0, 2 - high, 1 - low))
