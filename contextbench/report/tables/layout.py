"""How a comparison is printed: which columns, in which units, with which marks and explanations."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from contextbench.report.tables.latex import sheet_latex
from contextbench.report.tables.render import (
    ABSENT,
    COLUMNS,
    COSTS,
    GROUP_PREFIX,
    SCORES,
    Column,
    best_of,
    cell_texts,
    chosen_columns,
    csv_text,
    fixed,
    group_columns,
)
from contextbench.report.tables.sheet import (
    DAGGER,
    Cell,
    Heading,
    Remark,
    Sheet,
    Terminal,
    sheet_markdown,
)
from contextbench.system.files import write_text

DROPPED_FIRST = (
    "train_seconds", "training_memory_bytes", "train_latency_ratio", "pixel_accuracy",
    "difference_to_best", "inference_memory_bytes", "latency_ms", "parameters", "latency_ratio",
)  # fmt: skip
OF_PAPERS = ("miou", "miou_seed_sd", "parameters", "macs", "latency_ratio")
SINGLE = "n = 1"
RATIOS = ("latency_ratio", "train_latency_ratio")
LATENCIES = ("latency_ms", "latency_ratio", "train_latency_ms", "train_latency_ratio")


def comparison_sheet(table: pd.DataFrame, columns: Sequence[str] | None = None) -> Sheet:
    """A table of `tables.comparison_table` or `tables.cost_table`, ready to be set.

    `columns` are names of columns, in the order wanted; None: all that have a value, but for a few
    that are rarely wanted. The best value of a column is in bold. Where groups are not among the
    columns, a dagger marks heads that cannot be separated from the best.
    Raises `ConfigError` for names that are not printed.
    """
    shown = _chosen(table, columns)
    names = [column.name for column in shown]
    cells = [_cells(table, column, "groups" not in names) for column in shown]
    rows = [
        _with_reasons([Cell(str(row["head"])), *(column[i] for column in cells)], shown, row)
        for i, (_, row) in enumerate(table.iterrows())
    ]
    return Sheet(
        headings=[Heading("head", "head"), *(_heading(column, table) for column in shown)],
        rows=rows,
        remarks=_legend(table, rows),
        left=("groups",),
        dropped_first=() if columns else (*DROPPED_FIRST, *reversed(group_columns(table))),
    )


def paper_columns(table: pd.DataFrame) -> list[str]:
    """The columns that fit on a page."""
    with_groups = [OF_PAPERS[0], OF_PAPERS[1], *group_columns(table), *OF_PAPERS[2:]]
    return [name for name in with_groups if name in table and _has_values(table, name)]


def printable(table: pd.DataFrame) -> dict[str, Column]:
    """Every column that can be printed, by name."""
    groups = [
        Column(name, name.removeprefix(GROUP_PREFIX), "%", 100, "high", 1, group="IoU")
        for name in group_columns(table)
    ]
    known = (*SCORES, *groups, *COLUMNS[len(SCORES) :])
    return {column.name: column for column in known if column.name in table}


def headings(table: pd.DataFrame) -> list[Heading]:
    """Of every column that can be printed."""
    return [_heading(column, table) for column in printable(table).values()]


def render_console(table: pd.DataFrame, columns: Sequence[str] | None = None) -> Terminal:
    """The columns that fit, the best of each in bold, footnotes and how to read it below."""
    return Terminal(comparison_sheet(table, columns))


def render_markdown(
    table: pd.DataFrame, warnings: Sequence[str], columns: Sequence[str] | None = None
) -> str:
    """The printed columns, the best of each in bold, then notes, warnings and how to read it."""
    return sheet_markdown(comparison_sheet(table, columns), warnings)


def render_latex(
    table: pd.DataFrame, warnings: Sequence[str], columns: Sequence[str] | None = None
) -> str:
    """A LaTeX table with booktabs; None: the columns that fit on a page."""
    first = table.iloc[0]
    names = columns if columns is not None else paper_columns(table)
    return sheet_latex(
        comparison_sheet(table, names),
        caption=f"Context heads on {first['dataset']}, protocol {first['protocol']}.",
        label=str(first["protocol"]),
        warnings=warnings,
    )


def write_tables(
    table: pd.DataFrame,
    warnings: Sequence[str],
    folder: Path,
    columns: Sequence[str] | None = None,
) -> list[Path]:
    """Write table.csv with every column, table.md and table.tex below `folder`; the paths."""
    texts = {
        folder / "table.csv": csv_text(table),
        folder / "table.md": render_markdown(table, warnings, columns),
        folder / "table.tex": render_latex(table, warnings, columns),
    }
    for path, text in texts.items():
        write_text(path, text)
    return list(texts)


def per_class_sheet(table: pd.DataFrame) -> Sheet:
    """IoU of every class (rows) for every head (columns) in percent, the best of a row in bold.

    `table` is that of `tables.per_class_table`.
    """
    heads = [str(name) for name in table.columns if name not in ("class", "labelled_fraction")]
    rows = []
    for _, row in table.iterrows():
        values = [float(row[head]) for head in heads]
        texts = [fixed(100 * value, 1) for value in values]
        best = best_of(texts, values, "high")
        labelled = fixed(100 * float(row["labelled_fraction"]), 1)
        marked = [Cell(text, best=is_best) for text, is_best in zip(texts, best, strict=True)]
        rows.append([Cell(str(row["class"])), Cell(labelled), *marked])
    first = [Heading("class", "IoU", "%"), Heading("labelled_fraction", "labelled pixels", "%")]
    return Sheet([*first, *(Heading(head, head) for head in heads)], rows)


def per_class_markdown(table: pd.DataFrame) -> str:
    """`per_class_sheet` as Markdown."""
    return sheet_markdown(per_class_sheet(table))


def _chosen(table: pd.DataFrame, names: Sequence[str] | None) -> list[Column]:
    known = printable(table)
    if names is None:
        return [
            column
            for name, column in known.items()
            if name == "miou" or (not column.extra and _has_values(table, name))
        ]
    return chosen_columns(names, known)


def _has_values(table: pd.DataFrame, name: str) -> bool:
    """Whether a column says anything of this table."""
    if name == "miou_seed_sd":
        return bool((table["seeds"] > 0).any())
    if name == "groups":
        return int((table[name] != "").sum()) > 1
    if name == "difference_to_best":
        return int(table[name].notna().sum()) > 1
    return bool(table[name].notna().any())


def _heading(column: Column, table: pd.DataFrame) -> Heading:
    unit = column.unit
    if "{baseline}" in unit:
        unit = unit.format(baseline=_label(str(table["latency_baseline"].iloc[0])))
    return Heading(column.name, column.title, unit, column.group, column.short)


def _label(head: str) -> str:
    return head.upper() if head == "fcn" else head


def _cells(table: pd.DataFrame, column: Column, daggers: bool) -> list[Cell]:
    """A column of cells; `daggers` mark what cannot be separated from the best."""
    records = [row for _, row in table.iterrows()]
    if column.name in TEXTS:
        return [Cell(TEXTS[column.name](row)) for row in records]
    texts = cell_texts(table, column)
    best = best_of(texts, [float(value) for value in table[column.name]], column.better)
    cells = [Cell(text, best=is_best) for text, is_best in zip(texts, best, strict=True)]
    if column.name == "miou":
        return [
            replace(cell, detail=_ends(row, "miou"), tied=daggers and _is_tied(row))
            for cell, row in zip(cells, records, strict=True)
        ]
    if column.name == "difference_to_best":
        return [
            replace(cell, detail=_ends(row, "difference"))
            for cell, row in zip(cells, records, strict=True)
        ]
    if column.name in RATIOS:
        return [
            replace(cell, detail=_ratio_ends(row, column.name))
            for cell, row in zip(cells, records, strict=True)
        ]
    if column.name == "train_seconds":
        return _with_devices(cells, [str(device) for device in table["train_device"]])
    return cells


def _ends(row: "pd.Series[Any]", name: str) -> str:
    """An interval in percent, or nothing."""
    low, high = (100 * float(row[f"{name}_{end}"]) for end in ("low", "high"))
    return "" if math.isnan(low) else f"[{fixed(low, 1)}, {fixed(high, 1)}]"


def _ratio_ends(row: "pd.Series[Any]", name: str) -> str:
    """An interval, or nothing: the baseline has none to itself."""
    low, high = float(row[f"{name}_low"]), float(row[f"{name}_high"])
    if math.isnan(low) or low == high == 1:
        return ""
    return f"[{fixed(low, 2)}, {fixed(high, 2)}]"


def _is_tied(row: "pd.Series[Any]") -> bool:
    """Whether a head that is not the best, which has no test, cannot be separated from it."""
    return row["separable_from_best"] is False and not math.isnan(row["holm_p_value"])


def _seeds(row: "pd.Series[Any]") -> str:
    """Standard deviation and number of the seeds; `n = 1` for one, which has no spread."""
    if row["seeds"] < 2:
        return SINGLE if row["seeds"] else ABSENT
    return f"± {fixed(100 * row['miou_seed_sd'], 1)} ({row['seeds']})"


def _p_value(row: "pd.Series[Any]") -> str:
    value = float(row["holm_p_value"])
    return "< 0.001" if value < 0.001 else fixed(value, 3)


TEXTS: dict[str, Callable[["pd.Series[Any]"], str]] = {
    "miou_seed_sd": _seeds,
    "groups": lambda row: str(row["groups"]) or ABSENT,
    "holm_p_value": _p_value,
}


def _with_devices(cells: Sequence[Cell], devices: Sequence[str]) -> list[Cell]:
    """Times of several devices each get a footnote with theirs."""
    if len(set(devices) - {""}) < 2:
        return list(cells)
    return [
        replace(cell, notes=(f"Trained on {device}.",)) if device else cell
        for cell, device in zip(cells, devices, strict=True)
    ]


def _with_reasons(
    cells: Sequence[Cell], columns: Sequence[Column], row: "pd.Series[Any]"
) -> list[Cell]:
    """A row with footnotes where values are missing, or else at its first score or cost.

    `cells` are the label and those of `columns`; where there are no columns, the label is marked.
    """
    costs = {column.name for column in COSTS}
    marked = list(cells)
    for name, is_cost in (("note", False), ("cost_note", True)):
        if row.get(name):
            own = [i for i, c in enumerate(columns, start=1) if (c.name in costs) == is_cost]
            absent = [i for i in own if cells[i].text == ABSENT]
            note = f"{row['head']}: {row[name]}"
            for i in absent or own[:1] or ([] if columns else [0]):
                marked[i] = replace(marked[i], notes=(*marked[i].notes, note))
    return marked


def _legend(table: pd.DataFrame, rows: Sequence[Sequence[Cell]]) -> list[Remark]:
    """What columns and marks mean."""
    remarks = [*_legend_of_scores(table), *_legend_of_costs(table)]
    if any(cell.tied for row in rows for cell in row):
        text = f"{DAGGER}: these images do not separate this head from the best one."
        remarks.append(Remark(f"{text} {_test_of(table)}", ["miou"]))
    if any(cell.text == ABSENT for row in rows for cell in row):
        remarks.append(Remark(f"{ABSENT}: no value."))
    return remarks


def _legend_of_scores(table: pd.DataFrame) -> list[Remark]:
    if "miou" not in table:
        return []
    remarks = [Remark(_seed_sentence(table), ["miou_seed_sd"])]
    if not math.isnan(table["interval_level"].iloc[0]):
        remarks.append(Remark(_interval_sentence(table.iloc[0]), ["miou", "difference_to_best"]))
        text = "Group: these images do not separate heads that share a letter."
        remarks.append(Remark(f"{text} {_test_of(table)}", ["groups"]))
    text = "Difference: to the best head, paired over images."
    remarks.append(Remark(text, ["difference_to_best"]))
    text = f"p-value: that a head is no different from the best. {_test_of(table)}"
    remarks.append(Remark(text, ["holm_p_value"]))
    smallest = float(table["smallest_difference"].iloc[0])
    if not math.isnan(smallest):
        text = (
            "Smallest difference in mIoU that such images show with a power of 0.8: "
            f"{fixed(100 * smallest, 1)} points, median over pairs of heads."
        )
        remarks.append(Remark(text, ["miou", "groups", "difference_to_best"]))
    return remarks


def _test_of(table: pd.DataFrame) -> str:
    level = 1 - float(table["interval_level"].iloc[0])
    return (
        "Two-sided paired test with Holm's correction over all pairs"
        f"{'' if math.isnan(level) else f', at {100 * level:.2g} %'}."
    )


def _interval_sentence(first: "pd.Series[Any]") -> str:
    block = int(first["interval_block"])
    blocks = f", in blocks of {block} neighbouring frames" if block > 1 else ""
    resamples = f"{int(first['interval_resamples']):,}".replace(",", " ")
    return (
        f"Brackets: {100 * first['interval_level']:g} % interval over test images "
        f"({resamples} resamples of {int(first['interval_images'])} images{blocks}), which says "
        "nothing of another training."
    )


def _seed_sentence(table: pd.DataFrame) -> str:
    parts = []
    if (table["seeds"] > 1).any():
        parts.append(
            "Scores are means over seeds; ±: standard deviation of mIoU between them, in points "
            "(number of seeds)."
        )
    if (table["seeds"] == 1).any():
        parts.append(f"{SINGLE}: one training, whose spread is unknown.")
    return " ".join(parts)


def _legend_of_costs(table: pd.DataFrame) -> list[Remark]:
    text = "Memory: predicted peak, weights and input included."
    remarks = [Remark(text, ["inference_memory_bytes", "training_memory_bytes"])]
    rounds = int(table["latency_rounds"].max())
    if rounds:
        first = table.iloc[0]
        text = (
            f"Latency: median of {rounds} interleaved rounds on {first['device']}, input "
            f"{first['input']}; ×{_label(str(first['latency_baseline']))}: median over rounds of "
            f"the ratio within a round.{_ratio_sentence(table)}"
        )
        remarks.append(Remark(text, LATENCIES))
    return remarks


def _ratio_sentence(table: pd.DataFrame) -> str:
    """What the brackets of ratios are, and which heads they leave undecided."""
    level = float(table["latency_ratio_level"].max())
    if math.isnan(level):
        return ""
    baseline = str(table["latency_baseline"].iloc[0])
    holds_one = (table["latency_ratio_low"] <= 1) & (table["latency_ratio_high"] >= 1)
    undecided = [str(head) for head in table["head"][holds_one] if head != baseline]
    text = f" Brackets of ratios: {100 * level:.3g} % interval over rounds"
    if undecided:
        text += f"; it holds 1, so is not resolved, for {', '.join(undecided)}"
    return f"{text}."
