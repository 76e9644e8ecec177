"""What the trade-off plots and the learning curves of the report page show."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from contextbench.records.profiles import HeadCost
from contextbench.report.collection import Collection, Histories
from contextbench.report.figures.geometry import FloatArray
from contextbench.report.page.plots import (
    SIZES,
    Curves,
    Datum,
    Mark,
    Series,
    Tradeoff,
    curves,
    is_wide,
    tradeoff,
)
from contextbench.report.page.ranking import seed_scores
from contextbench.report.page.text import between, percent, significant
from contextbench.report.tables.forms import quartiles
from contextbench.report.tables.render import COLUMNS
from contextbench.statistics.intervals import Interval

COSTS = {
    "latency_ms": "Latency of a forward pass",
    "macs": "Multiply-accumulates",
    "parameters": "Parameters",
    "inference_memory_bytes": "Peak memory at inference",
    "training_memory_bytes": "Peak memory of a training step",
    "train_latency_ms": "Time of a training step",
    "train_seconds": "Training time of one run",
    "context_macs": "Multiply-accumulates of the context module",
    "context_parameters": "Parameters of the context module",
}
"""Cost column of the comparison table -> what it is called; the first one that exists is shown."""

PREDICTED = {"inference_memory_bytes", "training_memory_bytes"}
SMOOTHING = 20  # a curve is averaged over this part of its entries
CURVE_POINTS = 120  # of a drawn curve


@dataclass(frozen=True)
class CostPlots:
    """All pictures of one cost."""

    name: str
    label: str
    logarithmic: bool  # which of the scales is shown at first
    pictures: Sequence[Tradeoff]
    missing: Sequence[str]  # heads without this number


@dataclass(frozen=True)
class LossPlots:
    """The learning curves in all sizes."""

    pictures: Sequence[Curves]
    window: str  # what the curves were averaged over
    several_seeds: bool
    notes: Sequence[str]  # entries that could not be drawn


def cost_plots(
    collection: Collection, table: pd.DataFrame, marks: Mapping[str, Mark]
) -> list[CostPlots]:
    """The trade-off of every cost that some head with a score has."""
    plots = []
    for name in COSTS:
        rows = table[table["miou"].notna() & table[name].notna()]
        if len(rows):
            data = [_datum(row, name, collection, marks) for row in rows.to_dict("records")]
            missing = [str(head) for head in table["head"] if head not in set(rows["head"])]
            plots.append(_plots_of(name, data, missing))
    return plots


def loss_plots(histories: Histories, marks: Mapping[str, Mark]) -> LossPlots | None:
    """Smoothed losses of every head that has any; None without."""
    notes: list[str] = []
    series, windows = [], []
    for head, mark in marks.items():
        entries = histories.get(head, {})
        losses = {seed: _finite(head, seed, entries[seed], notes) for seed in sorted(entries)}
        found = [each for each in losses.values() if each]
        if found:
            series.append(_series(mark, found))
            windows.append(_window(found[0]))
    if not series:
        return None
    several = max(len(seeds) for seeds in histories.values()) > 1
    pictures = [curves(series, "Training step", "Main loss (nats)", size) for size in SIZES]
    return LossPlots(pictures, windows[0], several, notes)


def _plots_of(name: str, data: Sequence[Datum], missing: Sequence[str]) -> CostPlots:
    unit = _column(name)[0]
    label = f"{COSTS[name]}{', predicted' if name in PREDICTED else ''} ({unit})"
    costs = [datum.cost for datum in data]
    scales = [False, True] if min(costs) > 0 else [False]
    pictures = [
        tradeoff(data, label, size, logarithmic=logarithmic)
        for logarithmic in scales
        for size in SIZES
    ]
    return CostPlots(name, label, is_wide(costs), pictures, missing)


def _column(name: str) -> tuple[str, float]:
    """Unit of a cost, and what its values are multiplied with."""
    column = next(column for column in COLUMNS if column.name == name)
    return column.unit, column.scale


def _datum(
    row: Mapping[Any, Any], name: str, collection: Collection, marks: Mapping[str, Mark]
) -> Datum:
    unit, scale = _column(name)
    head = str(row["head"])
    low, high = _cost_range(head, name, collection)
    interval = Interval(row["miou"], row["miou_low"], row["miou_high"])
    seeds = seed_scores(collection.ranking).get(head, ())
    lines = [head, f"mIoU {percent(row['miou'])} %"]
    if not math.isnan(interval.low):
        lines[-1] += f" ({between(interval)})"
    lines.append(f"{COSTS[name]}: {significant(scale * row[name])} {unit}")
    if not math.isnan(low):
        lines[-1] += f" (quartiles {significant(low)}\N{EN DASH}{significant(high)})"
    lines.append(f"Seeds: {int(row['seeds'])}")
    return Datum(
        mark=marks[head],
        cost=scale * row[name],
        cost_range=(scale * low, scale * high),
        score=100 * row["miou"],
        score_range=(100 * interval.low, 100 * interval.high),
        seeds=[100 * value for value in seeds],
        tip="\n".join(lines),
    )


def _cost_range(head: str, name: str, collection: Collection) -> tuple[float, float]:
    """Quartiles of what was timed; NaN for all else."""
    profile = collection.profile
    cost = (profile.heads.get(head) if profile else None) or HeadCost(counts={})
    timed = {"latency_ms": cost.latency_ms, "train_latency_ms": cost.train_latency_ms}
    low, _, high = quartiles(timed.get(name, []))
    return low, high


def _finite(
    head: str, seed: int, entries: Sequence[Mapping[str, Any]], notes: list[str]
) -> dict[float, float]:
    """Main loss at each step; what is no number is left out, and noted."""
    losses = {}
    for entry in entries:
        step, loss = entry.get("step"), entry.get("main")
        if _is_number(step) and _is_number(loss):
            losses[float(step)] = float(loss)  # type: ignore[arg-type]
    # A step that was logged again after a resume is in `losses` once.
    left_out = len({entry.get("step") for entry in entries} - set(losses))
    if left_out:
        entries_are = "1 entry" if left_out == 1 else f"{left_out} entries"
        verb = "is no number and" if left_out == 1 else "are no numbers and"
        notes.append(f"{head} seed {seed}: {entries_are} of its history {verb} left out.")
    return losses


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _window(losses: Mapping[float, float]) -> str:
    steps = sorted(losses)
    span = (steps[-1] - steps[0]) / max(1, len(steps) - 1) * max(1, len(steps) // SMOOTHING)
    return f"{span:.0f} steps" if span > 1 else "one step"


def _series(mark: Mark, seeds: Sequence[Mapping[float, float]]) -> Series:
    """Mean, lowest and highest of the smoothed losses at the steps that all seeds have."""
    steps = sorted(set.intersection(*(set(losses) for losses in seeds)) or set(seeds[0]))
    smooth = np.stack(
        [_smoothed(np.array([losses.get(s, math.nan) for s in steps])) for losses in seeds]
    )
    shown = np.unique(np.linspace(0, len(steps) - 1, CURVE_POINTS).round().astype(int))
    middle = smooth.mean(axis=0)
    tip = f"{mark.name}\nfinal loss {significant(float(middle[-1]))}"
    if len(seeds) > 1:
        low, high = (
            significant(float(each)) for each in (smooth[:, -1].min(), smooth[:, -1].max())
        )
        tip += f" ({low}\N{EN DASH}{high} over {len(seeds)} seeds)"
    return Series(
        mark=mark,
        steps=np.array(steps)[shown],
        middle=middle[shown],
        low=smooth.min(axis=0)[shown],
        high=smooth.max(axis=0)[shown],
        tip=tip,
    )


def _smoothed(losses: FloatArray) -> FloatArray:
    """Centred moving average; at the ends over the entries that there are."""
    kernel = np.ones(max(1, len(losses) // SMOOTHING))
    total = np.convolve(losses, kernel, mode="same")
    smooth: FloatArray = total / np.convolve(np.ones(len(losses)), kernel, mode="same")
    return smooth
