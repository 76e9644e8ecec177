"""A paper's complexity table with our heads beside it: published, measured, and their ratio.

Everything is in the scope `context`, which papers count. Parameters and FLOPs are those of the
reference form, the paper's formula; what the fast form executes has columns of its own. Absolute
times are left out: a paper's device is not ours, so both sides are ratios to one row.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from contextbench.papers.published import PublishedCost, TableRow, TableSpec
from contextbench.records.profiles import HeadProfileRecord
from contextbench.records.stored import RecordError
from contextbench.report.columns import Cell, Column, chosen_columns, number_cells
from contextbench.report.samples import (
    FORMS,
    Predicted,
    form_cost,
    median_ratio,
    number,
    predicted,
    reason_of_forms,
    samples,
    timed_on,
)
from contextbench.report.tables.printing import PrintedTable
from contextbench.report.tables.sheet import Remark, Sheet
from contextbench.report.words import ABSENT, MEBI

TOLERANCE = 0.01
SCOPE = "context"
CLOSE = "✓"
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
COUNTED = Column("counts", "what is counted")
COUNTS = [
    column.name for column in COLUMNS if column.unit in ("M", "G", "MiB")
]  # whole numbers in files
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


def printed_paper(spec: TableSpec, table: pd.DataFrame) -> PrintedTable:
    """A frame of `paper_table`, with what differs from the paper as footnotes."""
    numbers = [column.name for column in COLUMNS if table[column.name].notna().any()]
    return PrintedTable(
        name=spec.name,
        frame=table,
        label="label",
        known=_printable(table),
        build=_sheet,
        caption=f"{spec.title}.",
        counts=COUNTS,
        of_page=[name for name in numbers if not name.startswith("fast_")],
        of_markdown=[*numbers, COUNTED.name],
        heading=spec.title,
    )


def _printable(table: pd.DataFrame) -> dict[str, Column]:
    baseline = str(table["baseline"].iloc[0])
    return {column.name: column.with_baseline(baseline) for column in (*COLUMNS, COUNTED)}


def _sheet(table: pd.DataFrame, columns: Sequence[str] | None) -> Sheet:
    """Ready to be set; without `columns` all numbers that there are."""
    numbers = [column.name for column in COLUMNS if table[column.name].notna().any()]
    shown = chosen_columns(numbers if columns is None else columns, _printable(table))
    cells = [_cells(table, column) for column in shown]
    notes = [
        (*filter(None, (why,)), *noted)
        for why, noted in zip(table["reason"], table["notes"], strict=True)
    ]
    labels = [Cell(str(text), notes=n) for text, n in zip(table["label"], notes, strict=True)]
    return Sheet(
        headings=[Column("label", "method"), *shown],
        rows=list(zip(labels, *cells, strict=True)),
        remarks=[Remark(line) for line in _legend(table)],
        left=(COUNTED.name,),
        dropped_first=DROPPED_FIRST if columns is None else (),
    )


def _row(
    row: TableRow,
    spec: TableSpec,
    published: Mapping[str, PublishedCost],
    record: HeadProfileRecord,
) -> dict[str, Any]:
    size = (spec.features.height, spec.features.width)
    costs = {form: form_cost(record, row.name, form, size) for form in FORMS}
    reference, fast = (predicted(costs[form], SCOPE) for form in ("reference", "fast"))
    baseline = form_cost(record, spec.baseline, "fast", size)
    printed = _printed(row, published)
    return {
        "row": row.name,
        "label": row.label,
        "head": row.head,
        "method": row.method or "",
        **_against(printed, "parameters", reference.parameters),
        **_against(printed, "flops", 2 * reference.macs),
        "fast_flops": 2 * fast.macs,
        **_against(printed, "memory_bytes", _memory(reference)),
        "fast_memory_bytes": _memory(fast),
        "published_time_ratio": _time_ratio(printed, spec, published),
        "latency_ratio": median_ratio(samples(costs["fast"], SCOPE), samples(baseline, SCOPE)),
        "reason": reason_of_forms(costs),
        "counts": row.counts,
        "notes": row.notes,
    }


def _printed(row: TableRow, published: Mapping[str, PublishedCost]) -> PublishedCost | None:
    """What `load_published` has found of a row."""
    return None if row.method is None else published[row.method]


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


def _memory(counts: Predicted) -> float:
    """Weights and activations: the published figures leave the input out."""
    return counts.weights_bytes + counts.activation_peak_bytes


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


def _cells(table: pd.DataFrame, column: Column) -> list[Cell]:
    """A column of cells; counts of ours that agree with the published ones have a mark."""
    if column.name == COUNTED.name:
        return [Cell(str(text)) for text in table[column.name]]
    cells = number_cells(table, column)
    if column.name not in FLAGS:
        return cells
    flags = table[FLAGS[column.name]].fillna(False)
    return [
        replace(cell, detail=CLOSE * bool(flag)) for cell, flag in zip(cells, flags, strict=True)
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
