"""What the fast form of each head saves against the reference form, and how far it is from its
floor: the time of its convolutions and matrix products, each run alone.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pandas as pd
from rich.console import Group
from rich.text import Text

from contextbench.records.profiles import FormCost, HeadProfileRecord
from contextbench.report.columns import Cell, Column, number_cells, write_csv
from contextbench.report.samples import (
    FORMS,
    Direction,
    form_cost,
    forms_of,
    median,
    median_ratio,
    number,
    predicted,
    reason_of_forms,
    samples,
    timed_on,
    timing_of,
)
from contextbench.report.tables.sheet import Sheet, markdown_list, sheet_markdown
from contextbench.report.words import MEBI
from contextbench.system.files import write_text

SCOPES = {
    "core": "Core: the part of the context module that differs between the forms",
    "context": "Context module",
    "head": "Whole head",
}


def _compiled_columns(direction: Direction, title: str) -> list[Column]:
    """Of compiled code beside the eager one, for each form."""
    return [
        column
        for form in FORMS
        for column in (
            Column(f"{direction}_{form}_compiled_ms", f"{title} {form}, compiled", "ms"),
            Column(f"{direction}_{form}_compiled_speedup", "eager / compiled", "×", decimals=2),
            Column(f"{direction}_{form}_compile_seconds", "compiling", "s", decimals=1),
        )
    ]


WHOLE = ("parameters", "_macs", "_bytes")  # ends of the names of columns that hold integers
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)
COLUMNS = (
    Column("parameters", "params", "M", 1e-6),
    *(Column(f"{form}_macs", f"MACs {form}", "G", 1e-9) for form in FORMS),
    *(Column(f"forward_{form}_ms", f"forward {form}", "ms") for form in FORMS),
    Column("forward_speedup", "speed-up", "×", decimals=2),
    *_compiled_columns("forward", "forward"),
    Column("floor_ms", "floor", "ms"),
    Column("floor_fraction", "floor / fast", "%", 100, decimals=0),
    *(Column(f"forward_backward_{form}_ms", f"forward + backward {form}", "ms") for form in FORMS),
    Column("forward_backward_speedup", "speed-up", "×", decimals=2),
    *_compiled_columns("forward_backward", "forward + backward"),
    *(
        Column(f"{form}_activation_peak_bytes", f"activations {form}", "MiB", 1 / MEBI)
        for form in FORMS
    ),
    *(Column(f"{form}_measured_bytes", f"measured {form}", "MiB", 1 / MEBI) for form in FORMS),
    *(
        Column(f"{form}_compiled_measured_bytes", f"measured {form}, compiled", "MiB", 1 / MEBI)
        for form in FORMS
    ),
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


def form_console(table: pd.DataFrame) -> Group:
    """For a terminal, a table for each scope that has numbers."""
    parts = [part for sheet in _sheets(table) for part in (sheet, Text())]
    return Group(*parts, Text("\n".join(_legend(table))))


def form_markdown(table: pd.DataFrame) -> str:
    """A section for each scope that has numbers, then how to read it."""
    sections = [f"## {sheet.title}\n\n{sheet_markdown(sheet)}".strip() for sheet in _sheets(table)]
    return "\n\n".join([*sections, markdown_list(_legend(table))]) + "\n"


def write_forms(record: HeadProfileRecord, folder: Path) -> list[Path]:
    """Write `forms.csv` in full precision and `forms.md` below `folder`; return the paths."""
    table = form_table(record)
    csv, markdown = folder / "forms.csv", folder / "forms.md"
    write_csv(table, csv, [name for name in map(str, table.columns) if name.endswith(WHOLE)])
    title = "# Fast and reference form of every head"
    write_text(markdown, f"{title}\n\n{form_markdown(table)}\n{uncounted_markdown(record)}")
    return [csv, markdown]


def uncounted_markdown(record: HeadProfileRecord) -> str:
    """Operators of the context module that compute something and are in no MAC count."""
    forms = [form for form in FORMS if form in forms_of(record)]
    rows = [
        [head, *(", ".join(_first_counted(record, head, form)) for form in forms)]
        for head in dict.fromkeys(cost.head for cost in record.costs)
    ]
    table = sheet_markdown(Sheet.plain(["head", *forms], rows, left=forms))
    return f"## Operators in no count\n\n{table}"


def _first_counted(record: HeadProfileRecord, head: str, form: str) -> list[str]:
    """Uncounted operators of a form, at the first feature size where it could be counted."""
    return next(
        (
            cost.counts["context"].uncounted
            for cost in record.costs
            if (cost.head, cost.implementation) == (head, form) and "context" in cost.counts
        ),
        [],
    )


def _row(record: HeadProfileRecord, head: str, height: int, width: int) -> dict[str, Any]:
    costs = {form: form_cost(record, head, form, (height, width)) for form in FORMS}
    row: dict[str, Any] = {"head": head, "height": height, "width": width}
    for scope in SCOPES:
        for direction in DIRECTIONS:
            times = {form: samples(cost, scope, direction) for form, cost in costs.items()}
            for form in FORMS:
                row[f"{scope}_{direction}_{form}_ms"] = median(times[form])
            row[f"{scope}_{direction}_speedup"] = median_ratio(times["reference"], times["fast"])
            if _is_compiled(record):
                for form, cost in costs.items():
                    row |= _compiled(f"{scope}_{direction}_{form}", cost, scope, direction)
        floor = _floor(costs["fast"], scope, record)
        row[f"{scope}_floor_ms"] = floor
        if any(cost.layouts for cost in record.costs):  # older records do not say
            known = "" if math.isnan(floor) else _layouts(costs["fast"], scope)
            row[f"{scope}_floor_layouts"] = known
        row[f"{scope}_floor_fraction"] = floor / row[f"{scope}_forward_fast_ms"]
        row |= {f"{scope}_{name}": value for name, value in _counts(costs, scope).items()}
    for form, cost in costs.items():
        measured = cost.measured_activation_peak_bytes if cost else None
        row[f"context_{form}_measured_bytes"] = number(measured)
        if _is_compiled(record):
            timing = timing_of(cost, "context", "forward", "compile")
            measured = timing.measured_activation_peak_bytes if timing else None
            row[f"context_{form}_compiled_measured_bytes"] = number(measured)
    recorded = {form: cost for form, cost in costs.items() if form in forms_of(record)}
    why = {"compiled_reason": _not_compiled(recorded)} if _is_compiled(record) else {}
    return {**row, "reason": reason_of_forms(recorded), **why}


def _is_compiled(record: HeadProfileRecord) -> bool:
    """Whether compiled code was asked for."""
    return any(timing.mode == "compile" for cost in record.costs for timing in cost.timings)


def _compiled(
    name: str, cost: FormCost | None, scope: str, direction: Direction
) -> dict[str, float]:
    """Columns of compiled code, which begin with `name`; NaN where there is none."""
    timing = timing_of(cost, scope, direction, "compile")
    times = timing.latency_ms if timing else []
    seconds = timing.compile_seconds if timing else None
    return {
        f"{name}_compiled_ms": median(times),
        f"{name}_compiled_speedup": median_ratio(samples(cost, scope, direction), times),
        f"{name}_compile_seconds": math.nan if seconds is None else seconds,
    }


def _not_compiled(costs: Mapping[str, FormCost | None]) -> str:
    """Why forms have no times of compiled code; each reason once."""
    timings = (timing for cost in costs.values() if cost for timing in cost.timings)
    return "; ".join(dict.fromkeys(each.failure.cause for each in timings if each.failure))


def _counts(costs: Mapping[str, FormCost | None], scope: str) -> dict[str, float]:
    """Parameters, which all forms share, and MACs and activations of each form."""
    counts = {form: predicted(cost, scope) for form, cost in costs.items()}
    known = [each.parameters for each in counts.values() if not math.isnan(each.parameters)]
    columns = {"parameters": known[-1] if known else math.nan}
    for form, each in counts.items():
        columns[f"{form}_macs"] = each.macs
        columns[f"{form}_activation_peak_bytes"] = each.activation_peak_bytes
    return columns


def _floor(cost: FormCost | None, scope: str, record: HeadProfileRecord) -> float:
    """NaN where the operators are not known or one of them was not timed."""
    if cost is None or scope not in cost.products:
        return math.nan
    times = record.operators_ms
    return math.fsum(
        count * median(times.get(operator, [])) for operator, count in cost.products[scope].items()
    )


def _layouts(cost: FormCost | None, scope: str) -> str:
    """Of the operands of the products, each as in the pass."""
    known = cost.layouts.get(scope, []) if cost else []
    orders = [layout for layout in known if layout.startswith("axes")]
    named = [layout for layout in known if layout not in orders]
    return ", ".join([*named, *(["transposed"] if orders else [])]) or "as counted"


def _sheets(table: pd.DataFrame) -> Iterator[Sheet]:
    """A table for each scope that has numbers."""
    several = len(_sizes(table)) > 1
    labels = [_label(row) if several else row["head"] for row in table.to_dict("records")]
    for scope, title in SCOPES.items():
        columns = [replace(column, name=f"{scope}_{column.name}") for column in COLUMNS]
        shown = [c for c in columns if _is_shown(table, c.name)]
        cells = [[Cell(label) for label in labels], *(number_cells(table, c) for c in shown)]
        if shown:
            headings = [Column("head", "head"), *shown]
            yield Sheet(headings, list(zip(*cells, strict=True)), title=title)


def _is_shown(table: pd.DataFrame, name: str) -> bool:
    """Whether a column has a value, or has none although it was asked for."""
    if name not in table:
        return False
    asked = name.endswith("_compiled_ms") and table["compiled_reason"].ne("").any()
    eager = name.replace("_compiled_ms", "_ms")
    return bool(table[name].notna().any() or (asked and table[eager].notna().any()))


def _sizes(table: pd.DataFrame) -> list[str]:
    pairs = table[["height", "width"]].drop_duplicates().itertuples(index=False)
    return [f"{height}x{width}" for height, width in pairs]


def _label(row: Mapping[Any, Any]) -> str:
    return f"{row['head']} {row['height']}x{row['width']}"


def _legend(table: pd.DataFrame) -> list[str]:
    """What the columns mean, on what they were measured, and what failed."""
    first = table.iloc[0]
    sizes = ", ".join(_sizes(table))
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
        lines += _floor_layouts(table)
    lines.append("Activations: predicted peak of a forward pass, without weights and input.")
    if _any(table, "_measured_bytes"):
        lines.append("Measured: what the device's allocator handed out of the same.")
    rows = table.to_dict("records")
    lines += [f"{_label(row)}: {row['reason']}" for row in rows if row["reason"]]
    if "compiled_reason" in table:
        lines.append(
            "Compiled: the same rounds; eager / compiled: median over rounds; compiling: seconds "
            "of the first call, with nothing compiled on disk."
        )
        lines += _by_reason(rows)
    return lines


def _by_reason(rows: Sequence[Mapping[Any, Any]]) -> Iterator[str]:
    """What could not be compiled, a line for each reason."""
    for reason in dict.fromkeys(row["compiled_reason"] for row in rows if row["compiled_reason"]):
        named = ", ".join(_label(row) for row in rows if row["compiled_reason"] == reason)
        yield f"Not compiled, {named}: {reason}"


def _floor_layouts(table: pd.DataFrame) -> Iterator[str]:
    """Which layouts the floors of which rows are of, as seen in the largest scope that has one."""
    scopes = [f"{scope}_floor_layouts" for scope in ("head", "context")]
    rows: dict[str, list[str]] = {}
    several = len(_sizes(table)) > 1
    for row in table.to_dict("records"):
        if seen := next((row[name] for name in scopes if row.get(name)), ""):
            rows.setdefault(seen, []).append(_label(row) if several else row["head"])
    for layouts, labels in rows.items():
        yield f"Operands of floors, laid out as in the pass: {layouts} in {', '.join(labels)}."


def _any(table: pd.DataFrame, ending: str) -> bool:
    """Whether a column whose name ends like this has a value."""
    return any(table[name].notna().any() for name in table if str(name).endswith(ending))
