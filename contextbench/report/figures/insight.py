"""Every seed of every head on every group of classes, with intervals, as one figure."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from contextbench.report.figures.style import (
    BODY,
    GREY,
    INK,
    SMALL,
    TWO_COLUMNS,
    new_figure,
    style_axes,
)
from contextbench.report.insight import Cell, Insight
from contextbench.report.looks import head_style
from contextbench.report.words import fixed, level_text

PANELS = 4  # in a row
ROW_HEIGHT = 0.29  # inches a head
SEED_SPAN = 0.56  # of a row's height, over which its seeds are spread
TICKS = (0, 25, 50, 75, 100)


def insight_figure(insight: Insight) -> Figure:
    """A panel a group, a row a head: a marker a seed with its interval, a bar at their mean, and
    the verdict beside it."""
    names = list(insight.groups)
    columns = min(PANELS, len(names))
    rows = math.ceil(len(names) / columns)
    height = rows * (0.55 + ROW_HEIGHT * len(insight.heads))
    name = insight.metric_name
    title = f"{name[0].upper()}{name[1:]} of groups of classes by seed: {insight.subject}"
    figure = new_figure(TWO_COLUMNS, height, title, _caption(insight))
    panels = figure.subplots(rows, columns, sharey=True, sharex=True, squeeze=False)
    for axes in panels.flat[len(names) :]:
        axes.set_visible(False)
    for axes, group in zip(panels.flat, names, strict=False):
        _draw_panel(axes, group, insight)
    return figure


def _draw_panel(axes: Axes, group: str, insight: Insight) -> None:
    style_axes(axes, f"{insight.metric_name} (%)", "")
    axes.set_title(group, size=BODY, weight="bold", color=INK, loc="left")
    axes.grid(visible=False, axis="y")
    axes.set_xlim(0, 100)
    axes.set_xticks(TICKS)
    axes.set_yticks(range(len(insight.heads)), insight.heads)
    axes.set_ylim(len(insight.heads) - 0.4, -0.6)
    baseline = 100 * insight.cells[insight.baseline, group].iou.estimate
    if not math.isnan(baseline):
        axes.axvline(baseline, color=GREY, linewidth=0.7, linestyle=":", zorder=1)
    for row, head in enumerate(insight.heads):
        _draw_cell(axes, row, head, insight.cells[head, group])


def _draw_cell(axes: Axes, row: int, head: str, cell: Cell) -> None:
    style = head_style(head)
    span = SEED_SPAN / 2 if len(cell.seeds) > 1 else 0.0
    places = np.linspace(row - span, row + span, len(cell.seeds))  # the first on top
    for place, seed in zip(places, cell.seeds.values(), strict=True):
        estimate, low, high = (100 * value for value in seed)
        axes.hlines(place, low, high, color=style.colour, linewidth=1.0, zorder=2)
        axes.plot(
            estimate, place, color=style.colour, marker=style.marker, markersize=3.8,
            markeredgewidth=0.2, markeredgecolor="white", zorder=3,
        )  # fmt: skip
    mean = 100 * cell.iou.estimate
    if len(cell.seeds) > 1 and not math.isnan(mean):
        axes.vlines(mean, row - 0.4, row + 0.4, color=INK, linewidth=1.1, zorder=2.5)
    verdict = f"\n{cell.comparison.verdict}" if cell.comparison else ""
    # Beside the axes, where no marker can be.
    axes.annotate(
        f"{fixed(mean)}{verdict}", (1.02, row), xycoords=("axes fraction", "data"), ha="left",
        va="center", size=SMALL, color=INK, linespacing=1.0, annotation_clip=False,
    )  # fmt: skip


def _caption(insight: Insight) -> str:
    level = level_text(insight.resampling.level)
    seeds = sorted({seed for cell in insight.cells.values() for seed in cell.seeds})
    interval = f"with its {level} interval over the {insight.images} images of the split"
    baseline = f"{insight.baseline}, which heads are compared with"
    if len(seeds) == 1:
        return f"Marker: seed {seeds[0]}, {interval}. Dotted: {baseline}."
    return (
        f"Marker: a seed (from above: {', '.join(map(str, seeds))}), {interval}. Upright bar and "
        f"number: mean over seeds. Dotted: mean of {baseline}."
    )
