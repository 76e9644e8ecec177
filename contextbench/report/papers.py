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
from rich.table import Table

from contextbench.config import ConfigError, nearest
from contextbench.files import write_text
from contextbench.published import PublishedCost, TableRow, TableSpec
from contextbench.report.forms import (
    FORMS,
    form_cost,
    median_ratio,
    number,
    reason_of_forms,
    samples,
    timed_on,
)
from contextbench.report.render import (
    ABSENT,
    MEBI,
    Column,
    bullets,
    cell_texts,
    console_table,
    markdown_table,
    write_csv,
)
from contextbench.results import FormCost, HeadProfileRecord, RecordError

TOLERANCE = 0.01
SCOPE = "context"
CLOSE = " ✓"
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
    Column("published_parameters", "params, published", "M", 1e-6, None, 1, short="params pub."),
    Column("parameters", "params", "M", 1e-6, None, 2, short="params ours"),
    Column("parameters_ratio", "params", "×published", 1, None, 3),
    Column("published_flops", "FLOPs, published", "G", 1e-9, None, 0, short="FLOPs pub."),
    Column("flops", "FLOPs", "G", 1e-9, None, 1, short="FLOPs ours"),
    Column("flops_ratio", "FLOPs", "×published", 1, None, 3),
    Column("fast_flops", "FLOPs, fast form", "G", 1e-9, None, 1),
    Column("published_memory_bytes", "memory, published", "MiB", 1 / MEBI, None, 0, "mem. pub."),
    Column("memory_bytes", "memory", "MiB", 1 / MEBI, None, 0, short="mem. ours"),
    Column("memory_ratio", "memory", "×published", 1, None, 3),
    Column("fast_memory_bytes", "memory, fast form", "MiB", 1 / MEBI, None, 0, short="mem. fast"),
    Column("published_time_ratio", "time, published", "×{baseline}", 1, None, 2, short="time pub."),
    Column("latency_ratio", "time, fast form", "×{baseline}", 1, None, 2, short="time fast"),
)
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


def paper_console(table: pd.DataFrame) -> Table:
    """The main columns for a terminal, footnotes and legend below."""
    shown = [column for column in _shown(table) if column.short is not None]
    numbers = _note_numbers(table)
    labels = [
        f"{label} [{', '.join(str(numbers[note]) for note in notes)}]" if notes else str(label)
        for label, notes in zip(table["label"], _notes(table), strict=True)
    ]
    header = ["", *(f"{c.short} {_unit(c, table)}".replace(" ", "\n") for c in shown)]
    footnotes = [f"[{index}] {note}" for note, index in numbers.items()]
    notes = [*footnotes, *_legend(table)]
    return console_table(header, _cells(table, labels, shown), notes, wrapped=(0,))


def paper_markdown(table: pd.DataFrame) -> str:
    """Every column, notes as footnotes, then how to read it."""
    shown = _shown(table)
    numbers = _note_numbers(table)
    labels = [
        " ".join([str(label), *(f"[^{numbers[note]}]" for note in notes)])
        for label, notes in zip(table["label"], _notes(table), strict=True)
    ]
    header = ["method", *(f"{c.title} {_unit(c, table)}" for c in shown), "what is counted"]
    rows = [
        [*cells, str(counts)]
        for cells, counts in zip(_cells(table, labels, shown), table["counts"], strict=True)
    ]
    footnotes = [f"[^{index}]: {note}" for note, index in numbers.items()]
    text = markdown_table(header, rows, left=(0, len(header) - 1))
    return "\n\n".join([text, bullets(_legend(table)), *footnotes]) + "\n"


def write_paper(spec: TableSpec, table: pd.DataFrame, folder: Path) -> list[Path]:
    """Write NAME.csv in full precision and NAME.md below `folder`; return the paths."""
    csv, markdown = folder / f"{spec.name}.csv", folder / f"{spec.name}.md"
    write_csv(table.assign(notes=[" ".join(notes) for notes in table["notes"]]), csv, COUNTS)
    write_text(markdown, f"# {spec.title}\n\n{paper_markdown(table)}")
    return [csv, markdown]


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


def _shown(table: pd.DataFrame) -> list[Column]:
    """The columns with at least one value."""
    return [column for column in COLUMNS if table[column.name].notna().any()]


def _unit(column: Column, table: pd.DataFrame) -> str:
    return column.unit.format(baseline=table["baseline"].iloc[0])


def _cells(table: pd.DataFrame, labels: Sequence[str], shown: Sequence[Column]) -> list[list[str]]:
    columns = [_flagged(table, column) for column in shown]
    return [list(cells) for cells in zip(labels, *columns, strict=True)]


def _flagged(table: pd.DataFrame, column: Column) -> list[str]:
    """Texts of a column; counts of ours that agree with the published ones have a mark."""
    texts = cell_texts(table, column)
    if column.name not in FLAGS:
        return texts
    flags = table[FLAGS[column.name]].fillna(False)
    return [text + CLOSE * bool(flag) for text, flag in zip(texts, flags, strict=True)]


def _notes(table: pd.DataFrame) -> list[tuple[str, ...]]:
    """Of every row: why it has no numbers, then what differs from the published ones."""
    return [
        (*([str(why)] if why else []), *notes)
        for why, notes in zip(table["reason"], table["notes"], strict=True)
    ]


def _note_numbers(table: pd.DataFrame) -> dict[str, int]:
    """Notes by first appearance: one that several rows share has one number."""
    distinct = dict.fromkeys(note for notes in _notes(table) for note in notes)
    return {note: number for number, note in enumerate(distinct, start=1)}


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
