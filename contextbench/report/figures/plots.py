"""Plots on axes, drawn from the descriptions that the page draws."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from contextbench.records.profiles import HeadProfileRecord
from contextbench.report.figures.style import (
    BODY,
    GREY,
    ONE_COLUMN,
    SMALL,
    TITLE,
    TWO_COLUMNS,
    inked,
    new_figure,
    style_axes,
    text_height,
    wrapped,
)
from contextbench.report.looks import head_style
from contextbench.report.plots import (
    Curve,
    Curves,
    Frame,
    Label,
    Point,
    Tick,
    Tradeoff,
    curve_plot,
    room_for,
)
from contextbench.report.samples import timed_on
from contextbench.report.tables.scaling import (
    MEASURES,
    SCOPE,
    Measure,
    by_head,
    curve_of,
    scaling_table,
)
from contextbench.report.tradeoffs import MAIN, label_of, plottable, sentences, tradeoff_of
from contextbench.report.training import Course
from contextbench.statistics.intervals import Ranking

LEFT, RIGHT, ABOVE, BELOW = 40.0, 6.0, 6.0, 27.0  # points around the axes of a panel
PANEL = 2.4  # inches, height of a trade-off


def tradeoff(
    table: pd.DataFrame,
    cost: str,
    title: str,
    *,
    ranking: Ranking | None = None,
    width: float = ONE_COLUMN,
) -> Figure:
    """mIoU against one cost, one point a head, with the Pareto front; `width` in inches.

    With a `ranking`, bars are intervals of mIoU and the front is dotted between heads that the
    split cannot separate.
    """
    return _tradeoffs(table, [cost], title, ranking, width, 1)


def tradeoff_grid(
    table: pd.DataFrame,
    title: str,
    *,
    ranking: Ranking | None = None,
    width: float = TWO_COLUMNS,
) -> Figure:
    """mIoU against every main cost: two panels beside each other, or one in a single column."""
    return _tradeoffs(table, MAIN, title, ranking, width, 2 if width > ONE_COLUMN else 1)


def course_figure(course: Course, title: str, *, width: float = ONE_COLUMN) -> Figure:
    """A curve of every head over its training."""
    height = 0.5 + max(1.9, room_for(len(course.curves), SMALL) / 72)
    figure = new_figure(width, height, title, " ".join(course.sentences))
    (frame,) = _frames(figure, title, height, 1, 1, SMALL)
    _draw_curves(figure, course.plot(frame))
    return figure


def scaling_figure(record: HeadProfileRecord, implementation: str = "fast") -> Figure:
    """A panel for each measure that has values, log-log, a named curve a head. Two columns wide."""
    table = scaling_table(record)
    heads = by_head(table[table["implementation"] == implementation])
    panels = {
        measure: {
            head: curve for head, costs in heads.items() if len(curve := curve_of(costs, measure))
        }
        for measure in MEASURES
    }
    panels = {measure: curves for measure, curves in panels.items() if curves}
    most = max(map(len, panels.values()), default=0)
    title = f"Cost against feature size: {implementation} form, {record.channels} channels"
    height = 0.6 + max(1.8, room_for(most, SMALL) / 72)
    caption = _scaling_caption(record, panels, heads)
    figure = new_figure(TWO_COLUMNS, height, title, caption)
    frames = _frames(figure, title, height, 1, max(1, len(panels)), SMALL)
    for frame, (measure, curves) in zip(frames, panels.items(), strict=False):
        _draw_scaling(figure, frame, measure, curves)
    return figure


def _tradeoffs(
    table: pd.DataFrame,
    costs: Sequence[str],
    title: str,
    ranking: Ranking | None,
    width: float,
    columns: int,
) -> Figure:
    rows = -(-len(costs) // columns)
    height = PANEL * rows
    figure = new_figure(width, height, title, " ".join(sentences(table, costs, ranking)))
    for cost, frame in zip(costs, _frames(figure, title, height, rows, columns, BODY), strict=True):
        if plottable(table, cost).empty:
            axes = figure.add_axes(_box(figure, frame))
            style_axes(axes, label_of(cost), "mIoU (%)")
            axes.set(xticks=[], yticks=[])
            axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", size=BODY)
        else:
            _draw_tradeoff(figure, tradeoff_of(table, cost, frame, ranking=ranking))
    return figure


def _frames(
    figure: Figure, title: str, height: float, rows: int, columns: int, font: float
) -> Iterator[Frame]:
    """Panels row by row, `height` inches in all; a frame counts from the figure's top left."""
    width, full = (72 * size for size in figure.get_size_inches().tolist())
    top = 72 * text_height(wrapped(title, width / 72, TITLE), TITLE)
    wide, tall = width / columns, 72 * height / rows
    for row in range(rows):
        for column in range(columns):
            x, y = column * wide, top + row * tall
            yield Frame("panel", width, full, x + LEFT, y + ABOVE, x + wide - RIGHT,
                        y + tall - BELOW, font, 5)  # fmt: skip


def _box(figure: Figure, frame: Frame) -> tuple[float, float, float, float]:
    """Left, bottom, width and height of the axes as shares of the figure."""
    width, height = (72 * size for size in figure.get_size_inches().tolist())
    return (
        frame.left / width,
        1 - frame.bottom / height,
        (frame.right - frame.left) / width,
        (frame.bottom - frame.top) / height,
    )


def _axes(figure: Figure, plot: Tradeoff | Curves) -> Axes:
    """Axes with the scales and ticks of a plot, at its frame."""
    figure.set_layout_engine("none")
    axes = figure.add_axes(_box(figure, plot.frame))
    style_axes(axes, plot.x.label, plot.y.label)
    for name, part, axis in (("x", axes.xaxis, plot.x), ("y", axes.yaxis, plot.y)):
        axes.set(**{f"{name}scale": "log" if axis.logarithmic else "linear"})
        axes.set(**{f"{name}lim": (axis.low, axis.high)})
        part.set_ticks([tick.value for tick in axis.ticks], [tick.text for tick in axis.ticks])
        part.set_minor_locator(NullLocator())
    return axes


def _draw_tradeoff(figure: Figure, plot: Tradeoff) -> None:
    axes = _axes(figure, plot)
    for step in plot.front:
        line = (0, (1, 2)) if step.dotted else "-"
        axes.plot(*zip(*step.corners, strict=True), color=GREY, linewidth=0.8, linestyle=line,
                  zorder=2)  # fmt: skip
    for point, label in zip(plot.points, plot.labels, strict=True):
        _draw_point(axes, point)
        at = (plot.x(point.cost), plot.y(point.score))
        _name(axes, point.head, label, (point.cost, point.score), at, "center", BODY)


def _draw_point(axes: Axes, point: Point) -> None:
    """A marker over its bars: thin with dots for seeds, thick for the interval, and quartiles."""
    style = head_style(point.head)
    x, y = point.cost, point.score
    if point.seeds:
        axes.plot(
            [x] * len(point.seeds), point.seeds, color=style.colour, linewidth=0.6, linestyle=":",
            marker=".", markersize=3.5, markeredgewidth=0, zorder=3,
        )  # fmt: skip
    if point.score_ends is not None:
        axes.plot(
            [x, x], point.score_ends, color=style.colour, linewidth=1.4, solid_capstyle="butt",
            zorder=3,
        )  # fmt: skip
    if point.cost_ends is not None:
        axes.plot(
            point.cost_ends, [y, y], color=style.colour, linewidth=0.8, marker="|", markersize=3.5,
            markeredgewidth=0.8, zorder=3,
        )  # fmt: skip
    axes.plot(
        [x], [y], color=style.colour, marker=style.marker, markersize=5.5,
        markeredgecolor="white", markeredgewidth=0.4, zorder=4,
    )  # fmt: skip


def _name(
    axes: Axes,
    head: str,
    label: Label,
    point: tuple[float, float],
    at: tuple[float, float],
    align: str,
    size: float,
) -> None:
    """A name in its head's colour; `point` in data units lies `at` a place of the picture."""
    colour = head_style(head).colour
    leader = {"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 2,
              "relpos": (0.5 if align == "center" else 0, 0.5)}  # fmt: skip
    axes.annotate(
        label.text, point, xytext=(label.x - at[0], at[1] - label.y), textcoords="offset points",
        ha=align, va="center", size=size,
        color=inked(colour), zorder=5, annotation_clip=False, parse_math=False,
        arrowprops=leader if label.leader else None,
    )  # fmt: skip


def _draw_curves(figure: Figure, plot: Curves) -> None:
    """Named lines, marked ones with bars, others with a band; what they are the mean of is thin."""
    axes = _axes(figure, plot)
    for curve, label in zip(plot.curves, plot.labels, strict=True):
        style = head_style(curve.head)
        line: dict[str, Any] = {"color": style.colour, "linestyle": style.line}
        for single in curve.singles:
            axes.plot(*single.T, linewidth=0.5, alpha=0.6, **line)
        if curve.marked:
            line |= {"marker": style.marker, "markersize": 3.5, "markeredgewidth": 0, "zorder": 3}
        if curve.has_range and curve.marked:
            axes.vlines(curve.x, curve.low, curve.high, color=style.colour, linewidth=0.8, zorder=2)
        elif curve.has_range:
            axes.fill_between(
                curve.x, curve.low, curve.high, color=style.colour, alpha=0.18, linewidth=0
            )
        axes.plot(curve.x, curve.y, linewidth=1.4 if curve.singles else 1.0, **line)
        at = (plot.x(curve.end[0]), plot.y(curve.end[1]))
        _name(axes, curve.head, label, curve.end, at, "left", SMALL)


def _scaling(head: str, measure: Measure, costs: pd.DataFrame) -> Curve:
    """In the unit of the axis; ends are the quartiles of latency, or the values themselves."""
    low = high = values = MEASURES[measure].scale * costs[measure].to_numpy()
    if measure == "latency_ms":
        low, high = costs["latency_q1_ms"].to_numpy(), costs["latency_q3_ms"].to_numpy()
    return Curve(head, costs["pixels"].to_numpy(), values, low, high, marked=True)


def _draw_scaling(
    figure: Figure, frame: Frame, measure: Measure, costs: Mapping[str, pd.DataFrame]
) -> None:
    """Curves with markers, quartiles of latency as bars, one tick a size."""
    sizes = (
        pd.concat([*costs.values()])
        .sort_values(["height", "width"])
        .drop_duplicates("pixels", keep="last")
    )
    square = bool((sizes["height"] == sizes["width"]).all())
    ticks = [
        Tick(height * width, str(height) if square else f"{height}×{width}")
        for height, width in sizes[["height", "width"]].to_numpy().tolist()
    ]
    column = MEASURES[measure]
    labels = (
        "Height and width of features" if square else "Height × width of features",
        f"{column.title[0].upper()}{column.title[1:]} ({column.unit})",
    )
    curves = [_scaling(head, measure, each) for head, each in costs.items()]
    _draw_curves(figure, curve_plot(curves, labels, frame, logarithmic=(True, True), x_ticks=ticks))


def _scaling_caption(
    record: HeadProfileRecord,
    panels: Mapping[Measure, Mapping[str, pd.DataFrame]],
    heads: Iterable[str],
) -> str:
    lines = [f"Scope {SCOPE}, batch 1."]
    if "activation_peak_bytes" in panels:
        lines.append("Activations: predicted peak without weights and input.")
    if "latency_ms" in panels:
        lines.append(f"Latency: forward pass, median and quartiles of {timed_on(record)}.")
    shown = {head for curves in panels.values() for head in curves}
    missing = [head for head in heads if head not in shown]
    if missing:
        lines.append(f"Not shown, for want of numbers: {', '.join(missing)}.")
    return " ".join(lines)
