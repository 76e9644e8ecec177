"""A paper's complexity table with our heads beside it: published, measured, and their ratio.

Everything is in the scope `context`, which papers count. Parameters and FLOPs are those of the
reference form, the paper's formula; what the fast form executes has columns of its own. Absolute
times are left out: a paper's device is not ours, so both sides are ratios to one row.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from contextbench.config.files import ConfigError, nearest
from contextbench.papers.published import PublishedCost, TableRow, TableSpec
from contextbench.records.profiles import FormCost, HeadProfileRecord
from contextbench.records.stored import RecordError
from contextbench.report.tables.forms import (
    FORMS,
    form_cost,
    median_ratio,
    number,
    reason_of_forms,
    samples,
    timed_on,
)
from contextbench.report.tables.latex import sheet_latex
from contextbench.report.tables.render import (
    ABSENT,
    MEBI,
    Column,
    cell_texts,
    chosen_columns,
    csv_text,
    select,
)
from contextbench.report.tables.sheet import Cell, Heading, Remark, Sheet, Terminal, sheet_markdown
from contextbench.system.files import write_text

TOLERANCE = 0.01
SCOPE = "context"
CLOSE = "✓"
COUNTS = (
    "published_parameters",
    "parameters",
    "published_flops",
    "flops",
    "fast_flops",
    "published_memory_bytes",
    "memory_bytes",
    "fast_memory_bytes",
)

COLUMNS = (
    Column("published_parameters", "published", "M", 1e-6, None, 1, "pub.", "params"),
    Column("parameters", "ours", "M", 1e-6, None, 2, group="params"),
    Column("parameters_ratio", "ratio", "×", 1, None, 3, "", "params"),
    Column("published_flops", "published", "G", 1e-9, None, 0, "pub.", "FLOPs"),
    Column("flops", "ours", "G", 1e-9, None, 1, group="FLOPs"),
    Column("flops_ratio", "ratio", "×", 1, None, 3, "", "FLOPs"),
    Column("fast_flops", "ours, fast form", "G", 1e-9, None, 1, "fast", "FLOPs"),
    Column("published_memory_bytes", "published", "MiB", 1 / MEBI, None, 0, "pub.", "memory"),
    Column("memory_bytes", "ours", "MiB", 1 / MEBI, None, 0, group="memory"),
    Column("memory_ratio", "ratio", "×", 1, None, 3, "", "memory"),
    Column("fast_memory_bytes", "ours, fast form", "MiB", 1 / MEBI, None, 0, "fast", "memory"),
    Column("published_time_ratio", "published", "×{baseline}", 1, None, 2, "pub.", "time"),
    Column("latency_ratio", "ours, fast form", "×{baseline}", 1, None, 2, "fast", "time"),
)
COUNTED = Column("counts", "what is counted", "", 1, None)
OF_PAPERS = (
    "published_parameters", "parameters", "parameters_ratio", "published_flops", "flops",
    "flops_ratio", "published_memory_bytes", "memory_bytes", "memory_ratio", "published_time_ratio",
    "latency_ratio",
)  # fmt: skip
DROPPED_FIRST = (
    "fast_flops", "memory_ratio", "parameters_ratio", "flops_ratio", "published_time_ratio",
    "latency_ratio", "fast_memory_bytes",
)  # fmt: skip
FLAGS = {
    "parameters": "parameters_within_1_percent",
    "flops": "flops_within_1_percent",
}


def paper_table(
    spec: TableSpec, published: Mapping[str, PublishedCost], record: HeadProfileRecord
) -> pd.DataFrame:
    """One row for each of `spec`, in its order; base units, ratios are ours / published.

    `record` holds both forms of `spec.heads()` at the table's feature size. Memory is weights and
    activations at the predicted peak, without the input. A head that failed or is not in the
    record is a row with its `reason`. Raises `RecordError` for a record of other features.
    """
    given = (record.channels, record.classes)
    if given != (spec.features.channels, spec.classes):
        raise RecordError(
            f"table {spec.name!r} is about {spec.features.channels} channels and {spec.classes} "
            f"classes; the record has {record.channels} and {record.classes}"
        )
    rows = [_row(row, spec, published, record) for row in spec.rows]
    table = pd.DataFrame(rows).assign(**_provenance(spec, published, record))
    return table.astype(dict.fromkeys(FLAGS.values(), "boolean"))


def printable(table: pd.DataFrame) -> dict[str, Column]:
    """Every column that can be printed, by name."""
    return {column.name: column for column in (*COLUMNS, COUNTED) if column.name in table}


def paper_sheet(table: pd.DataFrame, columns: Sequence[str] | None = None) -> Sheet:
    """The table ready to be set, with what differs from the paper as footnotes.

    `columns` are names of columns, in the order wanted; None: all numbers that there are. Raises
    `ConfigError` for names that are not printed.
    """
    shown = _numbers(table) if columns is None else chosen_columns(columns, printable(table))
    cells = [_cells(table, column) for column in shown]
    rows = [
        [Cell(str(label), notes=notes), *(column[row] for column in cells)]
        for row, (label, notes) in enumerate(zip(table["label"], _notes(table), strict=True))
    ]
    return Sheet(
        headings=[Heading("label", "method"), *(_heading(column, table) for column in shown)],
        rows=rows,
        remarks=[Remark(line) for line in _legend(table)],
        left=(COUNTED.name,),
        dropped_first=DROPPED_FIRST if columns is None else (),
    )


def headings(table: pd.DataFrame) -> list[Heading]:
    """Of every column that can be printed."""
    return [_heading(column, table) for column in printable(table).values()]


def paper_console(table: pd.DataFrame, columns: Sequence[str] | None = None) -> Terminal:
    """The columns that fit a terminal, footnotes and legend below."""
    return Terminal(paper_sheet(table, columns))


def paper_markdown(table: pd.DataFrame, columns: Sequence[str] | None = None) -> str:
    """A table in Markdown; None: every number, and what is counted."""
    names = [*(column.name for column in _numbers(table)), COUNTED.name]
    return sheet_markdown(paper_sheet(table, names if columns is None else columns))


def paper_latex(spec: TableSpec, table: pd.DataFrame, columns: Sequence[str] | None = None) -> str:
    """A table in LaTeX; None: the columns that fit on a page."""
    shown = {column.name for column in _numbers(table)}
    names = [name for name in OF_PAPERS if name in shown] if columns is None else columns
    return sheet_latex(paper_sheet(table, names), caption=f"{spec.title}.", label=spec.name)


def paper_csv(table: pd.DataFrame, columns: Sequence[str] | None = None) -> str:
    """Base units and full precision; None: every column."""
    joined = table.assign(notes=[" ".join(notes) for notes in table["notes"]])
    return csv_text(select(joined, "label", columns), COUNTS)


def write_paper(
    spec: TableSpec, table: pd.DataFrame, folder: Path, columns: Sequence[str] | None = None
) -> list[Path]:
    """Write NAME.csv in full precision, NAME.md and NAME.tex below `folder`; return the paths."""
    texts = {
        folder / f"{spec.name}.csv": paper_csv(table),
        folder / f"{spec.name}.md": f"# {spec.title}\n\n{paper_markdown(table, columns)}",
        folder / f"{spec.name}.tex": paper_latex(spec, table, columns),
    }
    for path, text in texts.items():
        write_text(path, text)
    return list(texts)


def _row(
    row: TableRow,
    spec: TableSpec,
    published: Mapping[str, PublishedCost],
    record: HeadProfileRecord,
) -> dict[str, Any]:
    size = (spec.features.height, spec.features.width)
    costs = {form: form_cost(record, row.name, form, size) for form in FORMS}
    reference, fast = costs["reference"], costs["fast"]
    baseline = form_cost(record, spec.baseline, "fast", size)
    printed = _printed(row, published)
    return {
        "row": row.name,
        "label": row.label,
        "head": row.head,
        "method": row.method or "",
        **_against(printed, "parameters", _parameters(reference)),
        **_against(printed, "flops", _flops(reference)),
        "fast_flops": _flops(fast),
        **_against(printed, "memory_bytes", _memory(reference)),
        "fast_memory_bytes": _memory(fast),
        "published_time_ratio": _time_ratio(printed, spec, published),
        "latency_ratio": median_ratio(samples(fast, SCOPE), samples(baseline, SCOPE)),
        "reason": reason_of_forms(costs),
        "counts": row.counts,
        "notes": row.notes,
    }


def _printed(row: TableRow, published: Mapping[str, PublishedCost]) -> PublishedCost | None:
    if row.method is None:
        return None
    if row.method not in published:
        raise ConfigError(
            f"row {row.name!r}: method {row.method!r} is not published; "
            f"{nearest(row.method, published)}"
        )
    return published[row.method]


def _against(printed: PublishedCost | None, name: str, measured: float) -> dict[str, Any]:
    """Published and measured value, their ratio and, for counts, whether it is close to 1."""
    value = number(getattr(printed, name)) if printed else math.nan
    ratio = measured / value
    columns: dict[str, Any] = {
        f"published_{name}": value,
        name: measured,
        f"{name.removesuffix('_bytes')}_ratio": ratio,
    }
    if name in FLAGS:
        # Differences of whole numbers are exact where `ratio - 1` is not.
        close = abs(measured - value) <= TOLERANCE * value
        columns[FLAGS[name]] = None if math.isnan(ratio) else close
    return columns


def _parameters(cost: FormCost | None) -> float:
    return float(cost.counts[SCOPE].parameters) if cost and SCOPE in cost.counts else math.nan


def _flops(cost: FormCost | None) -> float:
    return 2.0 * cost.counts[SCOPE].macs if cost and SCOPE in cost.counts else math.nan


def _memory(cost: FormCost | None) -> float:
    """Weights and activations: the published figures leave the input out."""
    if cost is None or SCOPE not in cost.memory:
        return math.nan
    memory = cost.memory[SCOPE]
    return float(memory.weights_bytes + memory.activation_peak_bytes)


def _time_ratio(
    printed: PublishedCost | None, spec: TableSpec, published: Mapping[str, PublishedCost]
) -> float:
    (row,) = (row for row in spec.rows if row.name == spec.baseline)
    baseline = _printed(row, published)
    if printed is None or baseline is None or not printed.time_ms or not baseline.time_ms:
        return math.nan
    return printed.time_ms / baseline.time_ms


def _provenance(
    spec: TableSpec, published: Mapping[str, PublishedCost], record: HeadProfileRecord
) -> dict[str, Any]:
    used = [cost for row in spec.rows if (cost := _printed(row, published))]
    (baseline,) = (row.label for row in spec.rows if row.name == spec.baseline)
    timed = any(samples(cost, SCOPE) for cost in record.costs)
    return {
        "features": str(spec.features),
        "classes": spec.classes,
        "baseline": baseline,
        "dtype": record.precision.get("dtype", ""),
        "timed_on": timed_on(record) if timed else "",
        "published_on": ", ".join(dict.fromkeys(cost.gpu for cost in used)),
        "published_status": ", ".join(dict.fromkeys(cost.status for cost in used)),
        "published_source": "; ".join(dict.fromkeys(cost.source for cost in used)),
    }


def _numbers(table: pd.DataFrame) -> list[Column]:
    """The columns of numbers with at least one value."""
    return [column for column in COLUMNS if table[column.name].notna().any()]


def _heading(column: Column, table: pd.DataFrame) -> Heading:
    unit = column.unit.format(baseline=table["baseline"].iloc[0])
    return Heading(column.name, column.title, unit, column.group, column.short)


def _cells(table: pd.DataFrame, column: Column) -> list[Cell]:
    """A column of cells; counts of ours that agree with the published ones have a mark."""
    if column == COUNTED:
        return [Cell(str(text)) for text in table[column.name]]
    texts = cell_texts(table, column)
    if column.name not in FLAGS:
        return [Cell(text) for text in texts]
    flags = table[FLAGS[column.name]].fillna(False)
    return [Cell(text, CLOSE * bool(flag)) for text, flag in zip(texts, flags, strict=True)]


def _notes(table: pd.DataFrame) -> list[tuple[str, ...]]:
    """Of every row: why it has no numbers, then what differs from the published ones."""
    return [
        (*([str(why)] if why else []), *notes)
        for why, notes in zip(table["reason"], table["notes"], strict=True)
    ]


def _legend(table: pd.DataFrame) -> list[str]:
    """Sources, and which form and scope each column is counted on."""
    first = table.iloc[0]
    baseline = first["baseline"]
    lines = [
        f"Published: {first['published_source']}; {first['published_status']}.",
        f"Ours: scope `{SCOPE}`, 1x{first['features']}, {first['classes']} classes, "
        f"{first['dtype']}. {ABSENT}: not published, or no number (footnote).",
        "Parameters and FLOPs, 2 x MACs of convolutions and matrix products: reference form, which "
        "is the paper's formula, unless the fast form is named. ✓: within "
        f"{100 * TOLERANCE:g} % of the published figure.",
        "Ratio: ours / published.",
        "Memory: predicted peak of the weights and activations of the reference form and of the "
        "fast form, input left out. The published MB are MiB.",
    ]
    time = f"Time: ratio to {baseline}. Published: on {first['published_on']}."
    if first["timed_on"]:
        time += (
            " Ours: forward pass of the fast form, median over rounds of the ratio within a round, "
            f"{first['timed_on']}."
        )
    return [*lines, time]
