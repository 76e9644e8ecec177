"""mIoU against cost: a point a head, error bars, the Pareto front, names beside the points."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from matplotlib.text import Annotation

from contextbench.report.geometry import FloatArray, pareto_front, place_labels
from contextbench.report.render import MEBI
from contextbench.report.style import (
    BODY,
    GREY,
    INK,
    ONE_COLUMN,
    TWO_COLUMNS,
    head_style,
    new_figure,
    scale_axis,
    style_axes,
)

Cost = Literal["macs", "latency_ms", "inference_memory_bytes", "parameters"]

LABEL_PADDING = (6.0, 1.0)  # pixels of air around a label
FRONT_CAPTION = "Step line: Pareto front, the heads that no other head beats in both cost and mIoU."


class CostAxis(NamedTuple):
    """A cost as an axis: `value * scale` has the unit of the label."""

    label: str
    scale: float


COSTS: dict[Cost, CostAxis] = {
    "macs": CostAxis("Multiply-accumulates (G)", 1e-9),
    "latency_ms": CostAxis("Latency of a forward pass (ms)", 1.0),
    "inference_memory_bytes": CostAxis("Peak memory at inference (MiB)", 1 / MEBI),
    "parameters": CostAxis("Parameters (M)", 1e-6),
}


def plottable(table: pd.DataFrame, cost: Cost) -> pd.DataFrame:
    """The rows that have both a score and this cost."""
    return table[table["miou"].notna() & table[cost].notna()]


def tradeoff(table: pd.DataFrame, cost: Cost, title: str) -> Figure:
    """mIoU against one cost, one point a head, with the Pareto front. One column wide."""
    figure = new_figure(ONE_COLUMN, 3.0, title, _tradeoff_caption(table, [cost]))
    axes = figure.subplots()
    _draw_tradeoff(axes, table, cost)
    _label_points(figure, {cost: axes}, table)
    return figure


def tradeoff_grid(table: pd.DataFrame, title: str) -> Figure:
    """mIoU against every cost. Two columns wide."""
    figure = new_figure(TWO_COLUMNS, 5.4, title, _tradeoff_caption(table, list(COSTS)))
    grid = figure.subplots(2, 2, sharey=True)
    panels = dict(zip(COSTS, grid.flat, strict=True))
    for cost, axes in panels.items():
        _draw_tradeoff(axes, table, cost)
    for axes in grid[:, 1]:
        axes.set_ylabel("")
    _label_points(figure, panels, table)
    return figure


def _tradeoff_caption(table: pd.DataFrame, costs: Sequence[Cost]) -> str:
    """What is drawn, of how many seeds, measured on what, and what is left out."""
    sentences = [FRONT_CAPTION]
    first = table.iloc[0]
    if (table["seeds"] > 1).any():
        sentences.append("Vertical bars: lowest to highest of the seeds.")
    if first["input"]:
        sentences.append(f"Costs of the {first['scope']} at input {first['input']}.")
    rounds = int(table["latency_rounds"].max())
    if "latency_ms" in costs and rounds:
        device = first["device"]
        sentences.append(f"Latency: median of {rounds} rounds on {device}, with quartiles.")
    if "inference_memory_bytes" in costs:
        sentences.append("Memory: predicted.")
    shown = set.union(*(set(plottable(table, cost)["head"]) for cost in costs))
    missing = [
        f"{head} ({str(status).replace('_', ' ')})" if status != "done" else str(head)
        for head, status in zip(table["head"], table["status"], strict=True)
        if head not in shown
    ]
    if missing:
        sentences.append(f"Not shown, for want of numbers: {', '.join(missing)}.")
    return " ".join(sentences)


def _draw_tradeoff(axes: Axes, table: pd.DataFrame, cost: Cost) -> None:
    rows = plottable(table, cost)
    style_axes(axes, COSTS[cost].label, "mIoU (%)")
    axes.margins(0.14)
    if rows.empty:
        axes.set_xticks([])
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", size=BODY)
        return
    for row in rows.to_dict("records"):
        style = head_style(str(row["head"]))
        x, y = _point(row, cost)
        axes.errorbar(
            [x], [y], xerr=_x_error(row, cost), yerr=_y_error(row), color=style.colour,
            elinewidth=0.8, capsize=1.5, capthick=0.8, linestyle="none", zorder=3,
        )  # fmt: skip
        axes.plot(
            [x], [y], color=style.colour, marker=style.marker, markersize=6,
            markeredgecolor="white", markeredgewidth=0.4, zorder=4,
        )  # fmt: skip
    scale_axis(axes, "x", [COSTS[cost].scale * value for value in rows[cost]])
    _draw_front(axes, [_point(row, cost) for row in rows.to_dict("records")])


def _point(row: Mapping[Any, Any], cost: Cost) -> tuple[float, float]:
    return COSTS[cost].scale * float(row[cost]), 100 * float(row["miou"])


def _y_error(row: Mapping[Any, Any]) -> list[list[float]] | None:
    if row["seeds"] < 2:
        return None
    middle, low, high = (100 * float(row[name]) for name in ("miou", "miou_min", "miou_max"))
    return [[max(0.0, middle - low)], [max(0.0, high - middle)]]


def _x_error(row: Mapping[Any, Any], cost: Cost) -> list[list[float]] | None:
    if cost != "latency_ms":
        return None
    middle, low, high = (row[name] for name in ("latency_ms", "latency_q1_ms", "latency_q3_ms"))
    return [[middle - low], [high - middle]]


def _draw_front(axes: Axes, points: Sequence[tuple[float, float]]) -> None:
    """The best mIoU that a budget buys, up to the right edge."""
    costs, mious = zip(*points, strict=True)
    front = [points[i] for i in pareto_front(costs, mious)]
    right = axes.get_xlim()[1]
    x, y = zip(*front, (right, front[-1][1]), strict=True)
    axes.step(x, y, where="post", color=GREY, linewidth=0.9, linestyle=(0, (4, 2)), zorder=2)
    axes.set_xlim(right=right)


def _label_points(figure: Figure, panels: Mapping[Cost, Axes], table: pd.DataFrame) -> None:
    """Name every point beside it, once the layout is known."""
    figure.draw_without_rendering()
    for cost, axes in panels.items():
        rows = plottable(table, cost)
        if rows.empty:
            continue
        points = [_point(row, cost) for row in rows.to_dict("records")]
        anchors = np.asarray(axes.transData.transform(points), dtype=np.float64)
        texts = [_label(axes, str(name), at) for name, at in zip(rows["head"], points, strict=True)]
        sizes = np.array([text.get_window_extent().size for text in texts]) + LABEL_PADDING
        obstacles = np.array(list(_obstacles(figure, axes, anchors)))
        centres = place_labels(anchors, sizes, obstacles, axes.get_window_extent().extents)
        gaps = np.hypot(*np.clip(np.abs(centres - anchors) - sizes / 2, 0, None).T)
        for text, (x, y), far in zip(texts, centres - anchors, gaps > sizes[:, 1], strict=True):
            text.set_position((72 / figure.dpi * float(x), 72 / figure.dpi * float(y)))
            cast(FancyArrowPatch, text.arrow_patch).set_visible(bool(far))


def _label(axes: Axes, name: str, point: tuple[float, float]) -> Annotation:
    """A name, placed later in points from its marker, with a hair line for long ways."""
    return axes.annotate(
        name, point, xytext=(0, 0), textcoords="offset points", ha="center", va="center",
        size=BODY, color=INK, zorder=5, in_layout=False,
        arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.5, "shrinkA": 0,
                    "shrinkB": 4, "relpos": (0.5, 0.5)},
    )  # fmt: skip


def _obstacles(figure: Figure, axes: Axes, anchors: FloatArray) -> Iterator[tuple[float, ...]]:
    """Boxes in pixels that labels should not cover: markers, error bars and the front."""
    half = 4 * figure.dpi / 72
    for x, y in anchors:
        yield (x - half, y - half, x + half, y + half)
    for collection in axes.collections:
        for path in collection.get_paths():
            yield from _boxes_along(axes.transData.transform(path.vertices))
    for line in axes.get_lines():
        if line.get_drawstyle() == "steps-post":
            x, y = line.get_data()
            corners = np.column_stack((np.repeat(x, 2)[1:], np.repeat(y, 2)[:-1]))
            yield from _boxes_along(axes.transData.transform(corners))


def _boxes_along(vertices: FloatArray) -> Iterator[tuple[float, ...]]:
    """One thin box for each of the segments, which are all horizontal or vertical."""
    for start, end in itertools.pairwise(vertices):
        low, high = np.minimum(start, end) - 1, np.maximum(start, end) + 1
        yield (*low.tolist(), *high.tolist())
