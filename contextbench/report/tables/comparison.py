"""How a comparison is printed: which columns, in which units, with which marks and explanations."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pandas as pd

from contextbench.report.columns import (
    COMPILED,
    COSTS,
    COUNTS,
    SCORES,
    TRAINING,
    Cell,
    Column,
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
LETTERS = ("groups", "models_groups")
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
    known = (*SCORES, *groups, *COSTS, *COMPILED, TRAINING)
    return {each.name: each.with_baseline(baseline) for each in known if each.name in table}


def comparison_sheet(table: pd.DataFrame, columns: Sequence[str] | None = None) -> Sheet:
    """A table of `comparison_table` or `cost_table`, ready to be set.

    `columns` are names of columns, in the order wanted; None: all that have a value, but for a few
    that are rarely wanted. What is told apart from the rest as the best is in bold. Where groups
    are not among the columns, a dagger marks heads that cannot be separated from the best.
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
        remarks=_legend(table, dict(zip((each.name for each in shown), cells, strict=True))),
        left=LETTERS,
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
    known, name = _class_columns(table), METRIC_NAMES[metric]
    return PrintedTable(
        name=f"classes-{metric}{end}",
        frame=table,
        label="class",
        known=known,
        build=partial(per_class_sheet, metric=metric),
        caption=f"{name} of every class, mean over seeds: {subject}.",
        counts=(),
        of_page=list(known),
        heading=f"{name} of every class: {subject}",
    )


def _class_columns(table: pd.DataFrame) -> dict[str, Column]:
    heads = [str(name) for name in table.columns if name not in PER_CLASS]
    pixels = Column("labelled_fraction", "labelled pixels", "%", 100, "high", 1)
    heads_columns = (Column(head, head, "", 100, "high", 1) for head in heads)
    return {each.name: each for each in (pixels, *heads_columns)}


def per_class_sheet(
    table: pd.DataFrame, columns: Sequence[str] | None = None, *, metric: ClassMetric = "iou"
) -> Sheet:
    """IoU of every class (rows) for every head (columns) in percent.

    `table` is that of `per_class_table`, of this metric; `columns` chooses, all if None. Nothing is
    in bold: single classes are not tested.
    """
    known = _class_columns(table)
    named = [*known] if columns is None else [name for name in columns if name != "class"]
    shown = chosen_columns(named, known)
    labels = [Cell(str(name)) for name in table["class"]]
    rows = zip(labels, *(number_cells(table, column) for column in shown), strict=True)
    return Sheet([Column("class", METRIC_NAMES[metric], "%"), *shown], list(rows))


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
    if name in LETTERS:
        said = int((table[name] != "").sum()) > 1
        return said and (name == "groups" or not (table["groups"] != "").any())
    if name == "difference_to_best":
        return int(table[name].notna().sum()) > 1
    return bool(table[name].notna().any())


def _label(head: str) -> str:
    return head.upper() if head == "fcn" else head


def _cells(table: pd.DataFrame, column: Column, daggers: bool) -> list[Cell]:
    """A column of cells; `daggers` mark what cannot be separated from the best."""
    name, rows = column.name, [row for _, row in table.iterrows()]
    if name in LETTERS:
        return [Cell(row[name] or ABSENT, value=row[name] or None) for row in rows]
    numbers = number_cells(table, column)
    bold = [cell.best for cell in numbers] if column.exact else _told_apart(table, name)
    devices = set(table["train_device"]) - {""} if name == TRAINING.name else ()
    return [
        Cell(
            text=TEXTS[name](row) if name in TEXTS else cell.text,
            detail=DETAILS[name](row) if name in DETAILS else "",
            best=best,
            tied=daggers and name == "miou" and _is_tied(row),
            notes=(f"Trained on {row['train_device']}.",)
            if len(devices) > 1 and row["train_device"]
            else (),
            value=cell.value,
        )
        for cell, row, best in zip(numbers, rows, bold, strict=True)
    ]


def _told_apart(table: pd.DataFrame, name: str) -> list[bool]:
    """Rows that are the best or not told apart from it; none where nothing is, or nobody can tell.

    mIoU is told apart by the test that letters are of, latencies by intervals of their ratios.
    """
    alike, ratio = [False] * len(table), name.replace("_ms", "_ratio")
    if name == "miou":
        alike = (~table["separable_from_best"]).fillna(False).tolist()
    elif name in LATENCIES and table[ratio].notna().any():
        low, high = (table[f"{ratio}_{end}"].tolist() for end in ("low", "high"))
        best = int(table[ratio].argmin())  # NaN left out
        alike = [value <= high[best] for value in low]
    return alike if sum(alike) < table[name].notna().sum() else [False] * len(table)


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


def _with_reasons(cells: Sequence[Cell], columns: Sequence[Column], row: Row) -> list[Cell]:
    """A row with footnotes where values are missing, or else at its first score or cost.

    `cells` are the label and those of `columns`; where there are no columns, the label is marked.
    """
    costs = {column.name for column in (*COSTS, *COMPILED)}
    marked = list(cells)
    for name, is_cost in (("note", False), ("cost_note", True)):
        if row.get(name):
            own = [i for i, c in enumerate(columns, start=1) if (c.name in costs) == is_cost]
            absent = [i for i in own if cells[i].text == ABSENT]
            note = f"{row['head']}: {row[name]}"
            for i in absent or own[:1] or ([] if columns else [0]):
                marked[i] = replace(marked[i], notes=(*marked[i].notes, note))
    return marked


def _legend(table: pd.DataFrame, cells: Mapping[str, Sequence[Cell]]) -> list[Remark]:
    """What columns and marks mean; `cells` by the name of their column."""
    remarks = [*_legend_of_scores(table), *_legend_of_costs(table), *_bold_remarks(cells)]
    if any(cell.tied for cell in cells.get("miou", ())):
        text = f"{DAGGER}: not separated from the best head, over trainings and images."
        remarks.append(Remark(f"{text} {_test_of(table)}", ["miou"]))
    if any(cell.text == ABSENT for column in cells.values() for cell in column):
        remarks.append(Remark(f"{ABSENT}: no value."))
    return remarks


def _bold_remarks(cells: Mapping[str, Sequence[Cell]]) -> Iterator[Remark]:
    marked = {name for name, column in cells.items() if any(cell.best for cell in column)}
    meanings = {
        "mIoU, heads that are not separated from the best one, where others are": {"miou"},
        "counts and predicted memory, the lowest": {each.name for each in COSTS if each.exact},
        "latencies, the lowest and those whose interval of the ratio meets its own": {*LATENCIES},
    }
    shown = [text for text, names in meanings.items() if names & marked]
    if shown:
        yield Remark(f"Bold: of {'; of '.join(shown)}.")


def _legend_of_scores(table: pd.DataFrame) -> list[Remark]:
    if "miou" not in table:
        return []
    scored = [*(each.name for each in SCORES), *group_columns(table)]
    first = table.iloc[0]
    remarks = [Remark(str(first["verdict"]))] if first["verdict"] else []
    if "tuning" in table:
        remarks.append(Remark(str(first["tuning"])))
    remarks += _seed_remarks(table, scored)
    if text := weights_sentence(dict(zip(table["head"], table["weights"], strict=True))):
        remarks.append(Remark(text, scored))
    if not math.isnan(first["interval_level"]):
        remarks.append(Remark(_interval_sentence(first), ["miou", "difference_to_best"]))
        text = (
            "Letters of heads: heads that share one are not separated, over trainings and images."
        )
        remarks.append(Remark(f"{text} {_test_of(table)}", ["groups"]))
    remarks += [
        Remark(
            "Letters of these models: of the trained models over images alone, which say nothing "
            "of heads.",
            ["models_groups"],
        ),
        Remark(
            f"Difference: to the best head{_brackets_of_differences(table)}.",
            ["difference_to_best"],
        ),
        Remark(
            f"p-value: that a head is no different from the best. {_test_of(table)}",
            ["holm_p_value"],
        ),
    ]
    smallest = float(first["smallest_difference"])
    if not math.isnan(smallest):
        text = (
            "Smallest true difference in mIoU that as many trainings and images show with a power "
            f"of 0.8, corrected for all pairs: {percent(smallest)} points, median over pairs."
        )
        remarks.append(Remark(text, ["miou", "groups", "difference_to_best"]))
    return remarks


def _brackets_of_differences(table: pd.DataFrame) -> str:
    """The best head's own row never has bounds, so that all rows are asked."""
    bounded = table["difference_low"].notna().any()
    return "; brackets: over other trainings and other images" if bounded else ""


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


def _seed_remarks(table: pd.DataFrame, scored: Sequence[str]) -> Iterator[Remark]:
    if (table["seeds"] > 1).any():
        yield Remark("Scores are means over seeds.", scored)
        text = "±: standard deviation of mIoU between seeds, in points (number of seeds)."
        yield Remark(text, ["miou_seed_sd"])
    if (table["seeds"] == 1).any():
        yield Remark(f"{SINGLE}: one training, whose spread is unknown.", scored)


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
