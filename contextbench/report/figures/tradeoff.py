"""mIoU against cost: a point a head, its uncertainty, the Pareto front, names beside the points."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from matplotlib.text import Annotation, Text

from contextbench.report.figures.geometry import FloatArray, pareto_front, place_labels
from contextbench.report.figures.style import (
    BODY,
    GREY,
    INK,
    LONGEST,
    ONE_COLUMN,
    TWO_COLUMNS,
    head_style,
    new_figure,
    scale_axis,
    shortened,
    style_axes,
)
from contextbench.report.ranking_text import best_sentence, draws_of, not_separated
from contextbench.report.tables.render import MEBI
from contextbench.statistics.intervals import Interval, Ranking

Cost = Literal["macs", "latency_ms", "inference_memory_bytes", "parameters"]
Row = Mapping[Any, Any]  # of a comparison's table

LABEL_PADDING = (6.0, 1.0)  # pixels of air around a label
FRONT_CAPTION = "Step line: Pareto front, the heads that no other head beats in both cost and mIoU"


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


def tradeoff(
    table: pd.DataFrame,
    cost: Cost,
    title: str,
    *,
    ranking: Ranking | None = None,
    width: float = ONE_COLUMN,
) -> Figure:
    """mIoU against one cost, one point a head, with the Pareto front.

    With a `ranking`, bars are intervals of mIoU and the front is dotted between heads that the
    split cannot separate. `width` in inches.
    """
    figure = new_figure(width, 2.5, title, _tradeoff_caption(table, [cost], ranking))
    axes = figure.subplots()
    _draw_tradeoff(axes, table, cost, ranking)
    _label_points(figure, {cost: axes}, table)
    return figure


def tradeoff_grid(
    table: pd.DataFrame,
    title: str,
    *,
    ranking: Ranking | None = None,
    width: float = TWO_COLUMNS,
) -> Figure:
    """mIoU against every cost: two panels beside each other, or one in a single column."""
    columns = 2 if width > ONE_COLUMN else 1
    rows = len(COSTS) // columns
    caption = _tradeoff_caption(table, list(COSTS), ranking)
    figure = new_figure(width, 2.3 * rows, title, caption)
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    panels = dict(zip(COSTS, grid.flat, strict=True))
    for cost, axes in panels.items():
        _draw_tradeoff(axes, table, cost, ranking)
    for axes in grid[:, 1:].flat:
        axes.set_ylabel("")
    _label_points(figure, panels, table)
    return figure


def _tradeoff_caption(table: pd.DataFrame, costs: Sequence[Cost], ranking: Ranking | None) -> str:
    """What is drawn, of how many seeds, measured on what, and what is left out."""
    sentences = [*_score_sentences(table, ranking), *_cost_sentences(table, costs)]
    shown = set.union(*(set(plottable(table, cost)["head"]) for cost in costs))
    missing = [
        f"{head} ({str(status).replace('_', ' ')})" if status != "done" else str(head)
        for head, status in zip(table["head"], table["status"], strict=True)
        if head not in shown
    ]
    if missing:
        sentences.append(f"Not shown, for want of numbers: {', '.join(missing)}.")
    return " ".join(sentences)


def _score_sentences(table: pd.DataFrame, ranking: Ranking | None) -> Iterator[str]:
    several = ranking is not None and len(ranking.heads) > 1
    separation = "; dotted between heads that this split cannot separate" if several else ""
    yield f"{FRONT_CAPTION}{separation}."
    if ranking is not None:
        level = f"{ranking.resampling.level:.0%}"
        yield (
            f"Vertical bars, behind the markers where short: {level} interval of mIoU over "
            f"{draws_of(ranking)}. Heads share the draws, so bars that overlap may belong to "
            "heads that differ."
        )
    if ranking is not None and several:
        yield best_sentence(ranking)
    if (table["seeds"] > 1).any():
        yield "Small dots: lowest and highest of the seeds."


def _cost_sentences(table: pd.DataFrame, costs: Sequence[Cost]) -> Iterator[str]:
    first = table.iloc[0]
    if first["input"]:
        yield f"Costs of the {first['scope']} at input {first['input']}."
    rounds = int(table["latency_rounds"].max())
    if "latency_ms" in costs and rounds:
        yield f"Latency: median of {rounds} rounds on {first['device']}, bars at the quartiles."
    if "inference_memory_bytes" in costs:
        yield "Memory: predicted, so without a spread."
    if "macs" in costs or "parameters" in costs:
        yield "Counts are exact."


def _draw_tradeoff(axes: Axes, table: pd.DataFrame, cost: Cost, ranking: Ranking | None) -> None:
    rows = plottable(table, cost)
    style_axes(axes, COSTS[cost].label, "mIoU (%)")
    axes.margins(0.1)
    if rows.empty:
        axes.set_xticks([])
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", size=BODY)
        return
    intervals = {} if ranking is None else {each.head: each.miou for each in ranking.heads}
    for row in rows.to_dict("records"):
        _draw_point(axes, row, cost, intervals.get(str(row["head"])))
    scale_axis(axes, "x", [COSTS[cost].scale * value for value in rows[cost]])
    _draw_front(axes, rows, cost, ranking)


def _draw_point(axes: Axes, row: Row, cost: Cost, interval: Interval | None) -> None:
    """A marker over its bars: thin with dots for seeds, thick for the interval, and quartiles."""
    style = head_style(str(row["head"]))
    x, y = _point(row, cost)
    if row["seeds"] > 1:
        seeds = [100 * row["miou_min"], 100 * row["miou_max"]]
        axes.plot(
            [x, x], seeds, color=style.colour, linewidth=0.6, linestyle=":", marker=".",
            markersize=3.5, markeredgewidth=0, zorder=3,
        )  # fmt: skip
    if interval is not None:
        ends = [100 * interval.low, 100 * interval.high]
        axes.plot([x, x], ends, color=style.colour, linewidth=1.4, solid_capstyle="butt", zorder=3)
    if cost == "latency_ms":
        quartiles = [row["latency_q1_ms"], row["latency_q3_ms"]]
        axes.plot(
            quartiles, [y, y], color=style.colour, linewidth=0.8, marker="|", markersize=3.5,
            markeredgewidth=0.8, zorder=3,
        )  # fmt: skip
    axes.plot(
        [x], [y], color=style.colour, marker=style.marker, markersize=5.5,
        markeredgecolor="white", markeredgewidth=0.4, zorder=4,
    )  # fmt: skip


def _point(row: Row, cost: Cost) -> tuple[float, float]:
    return COSTS[cost].scale * float(row[cost]), 100 * float(row["miou"])


def _draw_front(axes: Axes, rows: pd.DataFrame, cost: Cost, ranking: Ranking | None) -> None:
    """The best mIoU that a budget buys, up to the right edge; a line a step."""
    points = [_point(row, cost) for row in rows.to_dict("records")]
    heads = list(rows["head"])
    front = pareto_front(*zip(*points, strict=True))
    right = axes.get_xlim()[1]
    for i, j in itertools.pairwise(front):
        (x, y), (next_x, next_y) = points[i], points[j]
        alike = ranking is not None and not_separated(ranking, heads[i], heads[j])
        _draw_step(axes, [x, next_x, next_x], [y, y, next_y], alike=alike)
    x, y = points[front[-1]]
    _draw_step(axes, [x, right], [y, y], alike=False)
    axes.set_xlim(right=right)


def _draw_step(axes: Axes, x: Sequence[float], y: Sequence[float], *, alike: bool) -> None:
    line = (0, (1, 2)) if alike else "-"
    axes.plot(x, y, color=GREY, linewidth=0.8, linestyle=line, zorder=2)


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
        sizes = np.array([Text.get_window_extent(text).size for text in texts]) + LABEL_PADDING
        obstacles = np.array(list(_obstacles(figure, axes, anchors)))
        centres = place_labels(anchors, sizes, obstacles, axes.get_window_extent().extents)
        gaps = np.hypot(*np.clip(np.abs(centres - anchors) - sizes / 2, 0, None).T)
        for text, (x, y), far in zip(texts, centres - anchors, gaps > sizes[:, 1], strict=True):
            text.set_position((72 / figure.dpi * float(x), 72 / figure.dpi * float(y)))
            cast(FancyArrowPatch, text.arrow_patch).set_visible(bool(far))


def _label(axes: Axes, name: str, point: tuple[float, float]) -> Annotation:
    """A name, placed later in points from its marker, with a hair line for long ways."""
    return axes.annotate(
        shortened(name, LONGEST), point, xytext=(0, 0), textcoords="offset points", ha="center",
        va="center", size=BODY, color=INK, zorder=5, in_layout=False, parse_math=False,
        arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.5, "shrinkA": 0,
                    "shrinkB": 4, "relpos": (0.5, 0.5)},
    )  # fmt: skip


def _obstacles(figure: Figure, axes: Axes, anchors: FloatArray) -> Iterator[tuple[float, ...]]:
    """Boxes in pixels that labels should not cover: markers, bars and the front."""
    half = 4 * figure.dpi / 72
    for x, y in anchors:
        yield (x - half, y - half, x + half, y + half)
    for line in axes.get_lines():
        yield from _boxes_along(axes.transData.transform(line.get_xydata()))


def _boxes_along(vertices: FloatArray) -> Iterator[tuple[float, ...]]:
    """One thin box for each of the segments, which are all horizontal or vertical."""
    for start, end in itertools.pairwise(vertices):
        low, high = np.minimum(start, end) - 1, np.maximum(start, end) + 1
        yield (*low.tolist(), *high.tolist())
