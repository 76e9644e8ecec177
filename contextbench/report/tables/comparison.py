"""How a comparison is printed: which columns, in which units, with which marks and explanations."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pandas as pd

from contextbench.report.columns import (
    COSTS,
    COUNTS,
    SCORES,
    TRAINING,
    Cell,
    Column,
    best_of,
    chosen_columns,
    number_cells,
)
from contextbench.report.comparison import GROUP_PREFIX, group_columns
from contextbench.report.tables.printing import PrintedTable
from contextbench.report.tables.sheet import DAGGER, Remark, Sheet
from contextbench.report.weights import weights_sentence
from contextbench.report.words import ABSENT, ends, fixed, level_text, p_value, percent
from contextbench.statistics.intervals import Interval
from contextbench.statistics.scores import METRIC_NAMES, ClassMetric

DROPPED_FIRST = (
    "train_seconds", "training_memory_bytes", "train_latency_ratio", "pixel_accuracy",
    "difference_to_best", "inference_memory_bytes", "latency_ms", "parameters", "latency_ratio",
)  # fmt: skip
SINGLE = "n = 1"
PER_CLASS = ("class", "labelled_fraction")
RATIOS = ("latency_ratio", "train_latency_ratio")
LATENCIES = ("latency_ms", "latency_ratio", "train_latency_ms", "train_latency_ratio")

Row = Any  # of a frame: what it holds is told by the column


def printed_comparison(
    table: pd.DataFrame, warnings: Sequence[str] = (), end: str = ""
) -> PrintedTable:
    """A frame of `comparison_table` or `cost_table`; `warnings` stand with it.

    `end` is what names have beyond those of the first view.
    """
    first = table.iloc[0]
    fitting = ("miou", "miou_seed_sd", *group_columns(table), "parameters", "macs", "latency_ratio")
    return PrintedTable(
        name=f"table{end}",
        frame=table,
        label="head",
        known=printable(table),
        build=comparison_sheet,
        caption=f"Context heads on {first.get('dataset')}, protocol {first['protocol']}.",
        counts=COUNTS,
        of_page=[name for name in fitting if name in table and _has_values(table, name)],
        warnings=warnings,
        reference=f"{first['protocol']}{end}",
    )


def printable(table: pd.DataFrame) -> dict[str, Column]:
    """Every column that can be printed, by name."""
    groups = [
        Column(name, name.removeprefix(GROUP_PREFIX), "%", 100, "high", 1, group="IoU")
        for name in group_columns(table)
    ]
    baseline = _label(str(table["latency_baseline"].iloc[0]))
    known = (*SCORES, *groups, *COSTS, TRAINING)
    return {each.name: each.with_baseline(baseline) for each in known if each.name in table}


def comparison_sheet(table: pd.DataFrame, columns: Sequence[str] | None = None) -> Sheet:
    """A table of `comparison_table` or `cost_table`, ready to be set.

    `columns` are names of columns, in the order wanted; None: all that have a value, but for a few
    that are rarely wanted. The best value of a column is in bold. Where groups are not among the
    columns, a dagger marks heads that cannot be separated from the best.
    Raises `ConfigError` for names that are not printed.
    """
    shown = _chosen(table, columns)
    daggers = all(column.name != "groups" for column in shown)
    cells = [_cells(table, column, daggers) for column in shown]
    rows = [
        _with_reasons([Cell(str(row["head"])), *(column[i] for column in cells)], shown, row)
        for i, (_, row) in enumerate(table.iterrows())
    ]
    return Sheet(
        headings=[Column("head", "head"), *shown],
        rows=rows,
        remarks=_legend(table, rows),
        left=("groups", "models_groups"),
        dropped_first=() if columns else (*DROPPED_FIRST, *reversed(group_columns(table))),
    )


def all_scores(table: pd.DataFrame) -> Sheet:
    """Every column that has a value."""
    known = printable(table)
    named = [n for n in known if n == "miou" or (table[n].notna() & (table[n] != "")).any()]
    return comparison_sheet(table, named)


def printed_classes(
    table: pd.DataFrame, metric: ClassMetric, subject: str, end: str = ""
) -> PrintedTable:
    """A frame of `per_class_table`, which is of that metric."""
    heads = [str(name) for name in table.columns if name not in PER_CLASS]
    first = Column("labelled_fraction", "labelled pixels", "%", 100, "high", 1)
    name = METRIC_NAMES[metric]
    return PrintedTable(
        name=f"classes-{metric}{end}",
        frame=table,
        label="class",
        known={each.name: each for each in (first, *(_percent(head) for head in heads))},
        build=partial(per_class_sheet, metric=metric),
        caption=f"{name} of every class, mean over seeds: {subject}.",
        counts=(),
        of_page=["labelled_fraction", *heads],
        heading=f"{name} of every class: {subject}",
    )


def _percent(head: str) -> Column:
    return Column(head, head, "%", 100, "high", 1)


def per_class_sheet(
    table: pd.DataFrame, columns: Sequence[str] | None = None, *, metric: ClassMetric = "iou"
) -> Sheet:
    """IoU of every class (rows) for every head (columns) in percent, the best of a row in bold.

    `table` is that of `per_class_table`, of this metric; `columns` chooses, all if None.
    """
    if columns is not None:
        chosen_columns(columns, {str(name): _percent(str(name)) for name in table.columns})
        table = table[["class", *(name for name in columns if name != "class")]]
    heads = [str(name) for name in table.columns if name not in PER_CLASS]
    rows = []
    for _, row in table.iterrows():
        values = [float(row[head]) for head in heads]
        texts = [percent(value) for value in values]
        best = best_of(texts, values, "high")
        marked = [Cell(text, best=is_best) for text, is_best in zip(texts, best, strict=True)]
        pixels = [Cell(percent(row["labelled_fraction"]))] if "labelled_fraction" in table else []
        rows.append([Cell(str(row["class"])), *pixels, *marked])
    first = [Column("class", METRIC_NAMES[metric], "%")]
    if "labelled_fraction" in table:
        first.append(Column("labelled_fraction", "labelled pixels", "%"))
    return Sheet([*first, *(Column(head, head) for head in heads)], rows)


def _chosen(table: pd.DataFrame, names: Sequence[str] | None) -> list[Column]:
    known = printable(table)
    if names is not None:
        return chosen_columns(names, known)
    return [
        column
        for name, column in known.items()
        if name == "miou" or (not column.extra and _has_values(table, name))
    ]


def _has_values(table: pd.DataFrame, name: str) -> bool:
    """Whether a column says anything of this table."""
    if name == "miou_seed_sd":
        return bool((table["seeds"] > 0).any())
    if name in ("groups", "models_groups"):
        said = int((table[name] != "").sum()) > 1
        return said and (name == "groups" or not (table["groups"] != "").any())
    if name == "difference_to_best":
        return int(table[name].notna().sum()) > 1
    return bool(table[name].notna().any())


def _label(head: str) -> str:
    return head.upper() if head == "fcn" else head


def _cells(table: pd.DataFrame, column: Column, daggers: bool) -> list[Cell]:
    """A column of cells; `daggers` mark what cannot be separated from the best."""
    name, records = column.name, [row for _, row in table.iterrows()]
    if name in ("groups", "models_groups"):
        return [Cell(row[name] or ABSENT, value=row[name] or None) for row in records]
    cells = number_cells(table, column)
    if name in TEXTS:
        cells = [
            replace(cell, text=TEXTS[name](row)) for cell, row in zip(cells, records, strict=True)
        ]
    if name in DETAILS:
        cells = [
            replace(cell, detail=DETAILS[name](row))
            for cell, row in zip(cells, records, strict=True)
        ]
    if name == "miou" and daggers:
        cells = [
            replace(cell, tied=_is_tied(row)) for cell, row in zip(cells, records, strict=True)
        ]
    return _with_devices(cells, table) if name == TRAINING.name else cells


def _ends(name: str) -> Callable[[Row], str]:
    """Of an interval in percent, or nothing."""
    return lambda row: ends(Interval(math.nan, row[f"{name}_low"], row[f"{name}_high"]))


def _ratio_ends(name: str) -> Callable[[Row], str]:
    """Of an interval, or nothing: the baseline has none to itself."""

    def written(row: Row) -> str:
        interval = Interval(math.nan, row[f"{name}_low"], row[f"{name}_high"])
        return "" if interval[1:] == (1, 1) else ends(interval, write=lambda each: fixed(each, 2))

    return written


def _is_tied(row: Row) -> bool:
    """Whether a head that is not the best, which has no test, cannot be separated from it."""
    return row["separable_from_best"] is False and not math.isnan(row["holm_p_value"])


def _seeds(row: Row) -> str:
    """Standard deviation and number of the seeds; `n = 1` for one, which has no spread."""
    if row["seeds"] < 2:
        return SINGLE if row["seeds"] else ABSENT
    return f"± {percent(row['miou_seed_sd'])} ({row['seeds']})"


TEXTS: dict[str, Callable[[Row], str]] = {
    "miou_seed_sd": _seeds,
    "holm_p_value": lambda row: p_value(float(row["holm_p_value"])),
}
DETAILS = {
    "miou": _ends("miou"),
    "difference_to_best": _ends("difference"),
    **{name: _ratio_ends(name) for name in RATIOS},
}


def _with_devices(cells: Sequence[Cell], table: pd.DataFrame) -> list[Cell]:
    """Times of several devices each get a footnote with theirs."""
    devices = [str(device) for device in table["train_device"]]
    if len(set(devices) - {""}) < 2:
        return list(cells)
    return [
        replace(cell, notes=(f"Trained on {device}.",)) if device else cell
        for cell, device in zip(cells, devices, strict=True)
    ]


def _with_reasons(cells: Sequence[Cell], columns: Sequence[Column], row: Row) -> list[Cell]:
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
        text = f"{DAGGER}: not separated from the best head, over trainings and images."
        remarks.append(Remark(f"{text} {_test_of(table)}", ["miou"]))
    if any(cell.text == ABSENT for row in rows for cell in row):
        remarks.append(Remark(f"{ABSENT}: no value."))
    return remarks


def _legend_of_scores(table: pd.DataFrame) -> list[Remark]:
    if "miou" not in table:
        return []
    remarks = [Remark(str(text)) for text in table["verdict"].iloc[:1] if text]
    if "tuning" in table:
        remarks.append(Remark(str(table["tuning"].iloc[0])))
    remarks.append(Remark(_seed_sentence(table), ["miou_seed_sd"]))
    weights = dict(zip(table["head"], table["weights"], strict=True))
    if text := weights_sentence(weights):
        remarks.append(Remark(text, ["miou"]))
    if not math.isnan(table["interval_level"].iloc[0]):
        remarks.append(Remark(_interval_sentence(table.iloc[0]), ["miou", "difference_to_best"]))
        text = "Group: heads that share a letter are not separated, over trainings and images."
        remarks.append(Remark(f"{text} {_test_of(table)}", ["groups"]))
    text = (
        "These models: letters of the trained models over images alone, which say nothing of heads."
    )
    remarks.append(Remark(text, ["models_groups"]))
    text = "Difference: to the best head; brackets: over other trainings and other images."
    remarks.append(Remark(text, ["difference_to_best"]))
    text = f"p-value: that a head is no different from the best. {_test_of(table)}"
    remarks.append(Remark(text, ["holm_p_value"]))
    smallest = float(table["smallest_difference"].iloc[0])
    if not math.isnan(smallest):
        text = (
            "Smallest true difference in mIoU that as many trainings and images show with a power "
            f"of 0.8, corrected for all pairs: {percent(smallest)} points, median over pairs."
        )
        remarks.append(Remark(text, ["miou", "groups", "difference_to_best"]))
    return remarks


def _test_of(table: pd.DataFrame) -> str:
    level = 1 - float(table["interval_level"].iloc[0])
    return (
        "Two-sided test with Holm's correction over all pairs"
        f"{'' if math.isnan(level) else f', at {100 * level:.2g} %'}."
    )


def _interval_sentence(first: Row) -> str:
    block = int(first["interval_block"])
    blocks = f", in blocks of {block} neighbouring frames" if block > 1 else ""
    resamples = f"{int(first['interval_resamples']):,}".replace(",", " ")
    return (
        f"Brackets of mIoU: {level_text(first['interval_level'])} interval over test images "
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
