"""What the fast form of each head saves against the reference form, and how far it is from its
floor: the time of its convolutions and matrix products, each run alone.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import pandas as pd
from rich.console import Group, RenderableType
from rich.text import Text

from contextbench.records.profiles import FormCost, HeadProfileRecord
from contextbench.report.tables.forms import (
    FORMS,
    Direction,
    form_cost,
    median,
    median_ratio,
    number,
    reason_of_forms,
    samples,
    timed_on,
)
from contextbench.report.tables.render import (
    MEBI,
    Column,
    ConsoleTable,
    bullets,
    cell_texts,
    markdown_table,
    write_csv,
)
from contextbench.system.files import write_text

SCOPES = {
    "core": "Core: the part of the context module that differs between the forms",
    "context": "Context module",
    "head": "Whole head",
}
WHOLE = ("parameters", "_macs", "_bytes")  # ends of the names of columns that hold integers
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)
COLUMNS = (
    Column("parameters", "params", "M", 1e-6, None),
    Column("reference_macs", "MACs reference", "G", 1e-9, None),
    Column("fast_macs", "MACs fast", "G", 1e-9, None),
    Column("forward_reference_ms", "forward reference", "ms", 1, None),
    Column("forward_fast_ms", "forward fast", "ms", 1, None),
    Column("forward_speedup", "speed-up", "×", 1, None, 2),
    Column("floor_ms", "floor", "ms", 1, None),
    Column("floor_fraction", "floor / fast", "%", 100, None, 0),
    Column("forward_backward_reference_ms", "forward + backward reference", "ms", 1, None),
    Column("forward_backward_fast_ms", "forward + backward fast", "ms", 1, None),
    Column("forward_backward_speedup", "speed-up", "×", 1, None, 2),
    Column("reference_activation_peak_bytes", "activations reference", "MiB", 1 / MEBI, None),
    Column("fast_activation_peak_bytes", "activations fast", "MiB", 1 / MEBI, None),
    Column("reference_measured_bytes", "measured reference", "MiB", 1 / MEBI, None),
    Column("fast_measured_bytes", "measured fast", "MiB", 1 / MEBI, None),
)


def form_table(record: HeadProfileRecord) -> pd.DataFrame:
    """One row for each head and feature size: columns `SCOPE_NAME` for each scope and each name in
    `COLUMNS`, in base units, NaN if missing.

    Times are medians over rounds of one pass at batch 1; `speedup` is the median over rounds of
    reference / fast within a round; `floor` is the sum of the median times of the convolutions and
    matrix products of the fast form's forward pass, each run alone. Activations are the predicted
    peak without weights and input, `measured` what the device counted of the same.
    """
    places = dict.fromkeys((cost.head, cost.height, cost.width) for cost in record.costs)
    rows = [_row(record, *place) for place in places]
    return pd.DataFrame(rows).assign(
        channels=record.channels,
        classes=record.classes,
        timed_on=timed_on(record) if record.rounds else "",
    )


def form_console(table: pd.DataFrame) -> RenderableType:
    """For a terminal, a table for each scope that has numbers."""
    parts: list[RenderableType] = []
    for scope, header, rows in _sections(table):
        parts += [ConsoleTable(header, rows, title=SCOPES[scope]), Text()]
    return Group(*parts, Text("\n".join(_legend(table))))


def form_markdown(table: pd.DataFrame) -> str:
    """A section for each scope that has numbers, then how to read it."""
    sections = [
        f"## {SCOPES[scope]}\n\n{markdown_table(header, rows)}"
        for scope, header, rows in _sections(table)
    ]
    return "\n\n".join([*sections, bullets(_legend(table))]) + "\n"


def write_forms(record: HeadProfileRecord, folder: Path) -> list[Path]:
    """Write `forms.csv` in full precision and `forms.md` below `folder`; return the paths."""
    table = form_table(record)
    csv, markdown = folder / "forms.csv", folder / "forms.md"
    counts = [name for name in map(str, table.columns) if name.endswith(WHOLE)]
    write_csv(table, csv, counts)
    title = "# Fast and reference form of every head"
    text = f"{title}\n\n{form_markdown(table)}\n{uncounted_markdown(record)}"
    write_text(markdown, text)
    return [csv, markdown]


def uncounted_markdown(record: HeadProfileRecord) -> str:
    """Operators of the context module that compute something and are in no MAC count."""
    forms = [form for form in FORMS if any(c.implementation == form for c in record.costs)]
    rows = []
    for head in dict.fromkeys(cost.head for cost in record.costs):
        first = {form: _first_counted(record, head, form) for form in forms}
        rows.append([head, *(", ".join(first[form]) for form in forms)])
    return f"## Operators in no count\n\n{markdown_table(['head', *forms], rows, left=range(3))}\n"


def _first_counted(record: HeadProfileRecord, head: str, form: str) -> list[str]:
    """Uncounted operators of a form, at the first feature size where it could be counted."""
    for cost in record.costs:
        if (cost.head, cost.implementation) == (head, form) and "context" in cost.counts:
            return cost.counts["context"].uncounted
    return []


def _row(record: HeadProfileRecord, head: str, height: int, width: int) -> dict[str, Any]:
    costs = {form: form_cost(record, head, form, (height, width)) for form in FORMS}
    row: dict[str, Any] = {"head": head, "height": height, "width": width}
    for scope in SCOPES:
        for direction in DIRECTIONS:
            times = {form: samples(cost, scope, direction) for form, cost in costs.items()}
            for form in FORMS:
                row[f"{scope}_{direction}_{form}_ms"] = median(times[form])
            row[f"{scope}_{direction}_speedup"] = median_ratio(times["reference"], times["fast"])
        floor = _floor(costs["fast"], scope, record)
        row[f"{scope}_floor_ms"] = floor
        row[f"{scope}_floor_fraction"] = floor / row[f"{scope}_forward_fast_ms"]
        row |= {f"{scope}_{name}": value for name, value in _predicted(costs, scope).items()}
    for form, cost in costs.items():
        measured = cost.measured_activation_peak_bytes if cost else None
        row[f"context_{form}_measured_bytes"] = number(measured)
    recorded = {cost.implementation for cost in record.costs}
    return {**row, "reason": reason_of_forms({f: c for f, c in costs.items() if f in recorded})}


def _predicted(costs: Mapping[str, FormCost | None], scope: str) -> dict[str, float]:
    """Parameters, which all forms share, and MACs and activations of each form."""
    columns: dict[str, float] = {}
    for form, cost in costs.items():
        counts = cost.counts.get(scope) if cost else None
        memory = cost.memory.get(scope) if cost else None
        columns[f"{form}_macs"] = float(counts.macs) if counts else math.nan
        columns[f"{form}_activation_peak_bytes"] = (
            float(memory.activation_peak_bytes) if memory else math.nan
        )
        if counts:
            columns["parameters"] = float(counts.parameters)
    return {"parameters": math.nan, **columns}


def _floor(cost: FormCost | None, scope: str, record: HeadProfileRecord) -> float:
    """NaN where the operators are not known or one of them was not timed."""
    if cost is None or scope not in cost.products:
        return math.nan
    times = record.operators_ms
    return math.fsum(
        count * median(times.get(operator, [])) for operator, count in cost.products[scope].items()
    )


def _sections(table: pd.DataFrame) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Scope, header and rows, for each scope that has numbers."""
    several = len(table[["height", "width"]].drop_duplicates()) > 1
    for scope in SCOPES:
        columns = [
            Column(f"{scope}_{c.name}", c.title, c.unit, c.scale, None, c.decimals) for c in COLUMNS
        ]
        shown = [c for c in columns if c.name in table and table[c.name].notna().any()]
        if not shown:
            continue
        labels = [
            f"{row['head']} {row['height']}x{row['width']}" if several else str(row["head"])
            for row in table.to_dict("records")
        ]
        texts = [cell_texts(table, column) for column in shown]
        header = ["head", *(f"{column.title} {column.unit}" for column in shown)]
        yield scope, header, [list(row) for row in zip(labels, *texts, strict=True)]


def _legend(table: pd.DataFrame) -> list[str]:
    """What the columns mean, on what they were measured, and what failed."""
    sizes = ", ".join(
        f"{h}x{w}" for h, w in table[["height", "width"]].drop_duplicates().itertuples(index=False)
    )
    first = table.iloc[0]
    lines = [f"Features: {first['channels']} channels, {sizes}; {first['classes']} classes."]
    if first["timed_on"]:
        lines += [
            f"Times: batch 1, medians of {first['timed_on']}; speed-up: median over rounds of "
            "reference / fast within a round."
        ]
    if _any(table, "_floor_ms"):
        lines.append(
            "Floor: convolutions and matrix products of the fast form's forward pass, each run "
            "alone in the same rounds, summed."
        )
    lines.append("Activations: predicted peak of a forward pass, without weights and input.")
    if _any(table, "_measured_bytes"):
        lines.append("Measured: what the device's allocator handed out of the same.")
    failed = table[table["reason"] != ""].to_dict("records")
    return [*lines, *(f"{r['head']} {r['height']}x{r['width']}: {r['reason']}" for r in failed)]


def _any(table: pd.DataFrame, ending: str) -> bool:
    """Whether a column whose name ends like this has a value."""
    return any(table[name].notna().any() for name in table if str(name).endswith(ending))
