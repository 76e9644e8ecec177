"""Figures of a comparison: tables and records in, `Figure` objects out.

Every figure can be read alone: its title names dataset and protocol, its axes their units, and a
line below says what is drawn, on which device.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, cast

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Patch
from matplotlib.text import Annotation
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from contextbench.metrics import scores
from contextbench.report.geometry import pareto_front, place_labels
from contextbench.report.render import GROUP_PREFIX, MEBI, group_columns
from contextbench.report.style import (
    BODY,
    CHARACTER,
    GREY,
    INK,
    ONE_COLUMN,
    SMALL,
    TWO_COLUMNS,
    head_style,
    new_figure,
    save,
    style_axes,
)
from contextbench.report.tables import per_class_table
from contextbench.results import LabelInfo, RunRecord

__all__ = [
    "COSTS",
    "Cost",
    "group_table_plot",
    "head_style",
    "loss_curves",
    "pareto_front",
    "per_class_heatmap",
    "plottable",
    "prediction_grid",
    "save",
    "tradeoff",
    "tradeoff_grid",
]

Cost = Literal["macs", "latency_ms", "inference_memory_bytes", "parameters"]
FloatArray = npt.NDArray[np.float64]
ByteArray = npt.NDArray[np.uint8]

WIDE_RANGE = 10.0  # largest over smallest value beyond which an axis is logarithmic
SMOOTHING = 20  # a loss curve is averaged over this part of its entries
LABEL_PADDING = (6.0, 1.0)  # pixels of air around a label
HEAT_ROWS = 40  # classes below each other before the next block starts
IGNORE = 255
CELL, MARGIN, GAP, LINE = 1.5, 0.1, 0.03, 0.17  # inches: widest image, edges, between, text below
GRID_CAPTION = "Below a prediction: mIoU over the classes that this image shows or is given."
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
    panels = dict(zip(COSTS, figure.subplots(2, 2, sharey=True).flat, strict=True))
    for cost, axes in panels.items():
        _draw_tradeoff(axes, table, cost)
        axes.label_outer(remove_inner_ticks=False)
        axes.tick_params(labelbottom=True)
        axes.set_xlabel(COSTS[cost].label)
    _label_points(figure, panels, table)
    return figure


def group_table_plot(table: pd.DataFrame, title: str) -> Figure:
    """Mean IoU of each head (row) on each group of classes (column), numbers in the cells.

    Raises ValueError when the table has no groups.
    """
    groups = group_columns(table)
    if not groups:
        raise ValueError("the table has no groups of classes")
    caption = "Mean IoU (%) over the classes of a group and over seeds; the best head is bold."
    height = 1.0 + 0.26 * len(table)
    figure = new_figure(max(ONE_COLUMN, 0.8 + 0.6 * len(groups)), height, title, caption)
    names = [name.removeprefix(GROUP_PREFIX) for name in groups]
    values = 100 * table[groups].to_numpy(dtype=np.float64)
    _draw_heat(figure.subplots(), values, list(table["head"]), names, best_in="column")
    return figure


def per_class_heatmap(runs: Sequence[RunRecord], title: str) -> Figure:
    """IoU of each class (row) for each head (column), numbers in the cells; NaN is a dash."""
    table = per_class_table(runs)
    heads = [str(name) for name in table.columns[2:]]
    blocks = [table[start : start + HEAT_ROWS] for start in range(0, len(table), HEAT_ROWS)]
    width = min(TWO_COLUMNS, max(ONE_COLUMN, len(blocks) * (1.1 + 0.4 * len(heads))))
    height = 1.1 + 0.17 * len(blocks[0])
    caption = "IoU (%), mean over seeds; the best head of a class is bold."
    figure = new_figure(width, height, title, caption)
    panels = figure.subplots(1, len(blocks), squeeze=False)[0]
    for axes, block in zip(panels, blocks, strict=True):
        values = 100 * block[heads].to_numpy(dtype=np.float64)
        _draw_heat(axes, values, list(block["class"]), heads, best_in="row")
    return figure


def loss_curves(histories: Mapping[str, Mapping[int, list[dict[str, Any]]]], title: str) -> Figure:
    """Smoothed main loss of every head and seed over the training steps.

    `histories`: head -> seed -> entries with `step` and `main`. The main term, because the
    auxiliary terms differ from head to head.
    """
    curves = {
        head: [_curve(entries) for _, entries in sorted(seeds.items()) if entries]
        for head, seeds in histories.items()
    }
    window = max((curve.shape[1] for each in curves.values() for curve in each), default=0)
    window = max(1, window // SMOOTHING)
    figure = new_figure(ONE_COLUMN, 2.7, title, _loss_caption(curves, window))
    axes = figure.subplots()
    style_axes(axes, "Training step", "Main cross-entropy loss (nats)")
    smooth = {head: [_smoothed(each, window) for each in curves[head]] for head in curves}
    for head in sorted(smooth, key=lambda head: _final(smooth[head]), reverse=True):
        _draw_curves(axes, head, smooth[head])
    _log_axis_if_wide(axes, "y", [y for each in smooth.values() for c in each for y in c[1]])
    axes.legend(
        loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=BODY, handlelength=3
    )
    return figure


def prediction_grid(
    images: Sequence[ByteArray],
    truths: Sequence[ByteArray],
    predictions: Mapping[str, Sequence[ByteArray]],
    labels: LabelInfo,
    title: str,
    *,
    names: Sequence[str] | None = None,
) -> Figure:
    """A row an image: the image, its labels, what every head predicts and how well.

    images: (H, W, 3); truths and predictions: (H, W) train ids, `IGNORE` where not labelled;
    names: printed below the images. Raises ValueError without images and for lists of different
    lengths.
    """
    _check_lengths(images, truths, predictions)
    legend = _legend_patches(labels, truths, predictions)
    rows = _grid(images, 2 + len(predictions), title, legend)
    for row, panels in enumerate(rows):
        image, truth = images[row], truths[row]
        _show(panels[0], image, "" if names is None else names[row])
        _show(panels[1], _drawn(truth, labels), "")
        for axes, maps in zip(panels[2:], predictions.values(), strict=True):
            _show(axes, _drawn(maps[row], labels), _image_score(truth, maps[row], labels))
    for axes, name in zip(rows[0], ["image", "ground truth", *predictions], strict=True):
        axes.set_title(name, size=BODY, pad=2)
    return cast(Figure, rows[0][0].figure)


def _tradeoff_caption(table: pd.DataFrame, costs: Sequence[Cost]) -> str:
    """What is drawn, of how many seeds, measured on what, and what is left out."""
    sentences = [FRONT_CAPTION]
    first = table.iloc[0]
    if (table["seeds"] > 1).any():
        sentences.append("Vertical bars: lowest to highest of the seeds.")
    if first["input"]:
        sentences.append(f"Costs of the {first['scope']} at input {first['input']}.")
    if "latency_ms" in costs and first["device"]:
        rounds = int(table["latency_rounds"].max())
        sentences.append(
            f"Latency: median of {rounds} rounds on {first['device']}, bars: quartiles."
        )
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
        axes.set(xticks=[], yticks=[])
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
    _log_axis_if_wide(axes, "x", [COSTS[cost].scale * value for value in rows[cost]])
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


def _log_axis_if_wide(axes: Axes, which: Literal["x", "y"], values: Sequence[float]) -> None:
    positive = [value for value in values if value > 0]
    axis = axes.xaxis if which == "x" else axes.yaxis
    if not positive or max(positive) <= WIDE_RANGE * min(positive):
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10], min_n_ticks=3))
        return
    axes.set(**{f"{which}scale": "log"})
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _draw_heat(
    axes: Axes,
    values: FloatArray,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    best_in: Literal["row", "column"],
) -> None:
    """Cells shaded from 0 to 100 with their number; bold where the best is printed."""
    shades = mpl.colormaps["Blues"]
    axes.pcolormesh(values, cmap=shades, vmin=0, vmax=100, edgecolors="white", linewidth=1)
    rounded = np.round(values, 1)
    best = np.nan_to_num(rounded, nan=-1.0).max(axis=1 if best_in == "row" else 0, keepdims=True)
    for (row, column), value in np.ndenumerate(rounded):
        axes.text(
            column + 0.5,
            row + 0.5,
            "–" if math.isnan(value) else f"{value:.1f}",
            color="white" if value > 60 else INK,
            weight="bold" if value == best[row if best_in == "row" else 0].flat[0] else "normal",
            ha="center", va="center", size=SMALL,
        )  # fmt: skip
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows, size=BODY)
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns, size=BODY)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    axes.invert_yaxis()


def _curve(entries: Sequence[Mapping[str, Any]]) -> FloatArray:
    """(2, entries): steps and main loss; a step logged again after a resume counts once."""
    losses = {float(entry["step"]): float(entry["main"]) for entry in entries}
    return np.array(sorted(losses.items())).T


def _smoothed(curve: FloatArray, window: int) -> FloatArray:
    """Centred moving average of the loss; at the ends over the entries that there are."""
    window = min(window, curve.shape[1])
    kernel = np.ones(window)
    total = np.convolve(curve[1], kernel, mode="same")
    return np.stack((curve[0], total / np.convolve(np.ones(curve.shape[1]), kernel, mode="same")))


def _final(curves: Sequence[FloatArray]) -> float:
    return float(np.mean([curve[1, -1] for curve in curves])) if curves else -math.inf


def _loss_caption(curves: Mapping[str, Sequence[FloatArray]], window: int) -> str:
    spacings = [np.diff(curve[0]) for each in curves.values() for curve in each]
    spacing = float(np.median(np.concatenate(spacings))) if spacings else math.nan
    steps = "one step" if not spacing * window > 1 else f"{spacing * window:.0f} steps"
    several = any(len(each) > 1 for each in curves.values())
    seeds = " One line a seed." if several else ""
    return f"Moving average over {steps}; the legend is in order of the final loss.{seeds}"


def _draw_curves(axes: Axes, head: str, curves: Sequence[FloatArray]) -> None:
    style = head_style(head)
    for number, (steps, losses) in enumerate(curves):
        axes.plot(
            steps, losses, color=style.colour, linestyle=style.line, linewidth=1.0,
            marker=style.marker, markersize=3.5, markevery=(0.1, 0.2),
            label=head if number == 0 else None,
        )  # fmt: skip


def _check_lengths(
    images: Sequence[ByteArray],
    truths: Sequence[ByteArray],
    predictions: Mapping[str, Sequence[ByteArray]],
) -> None:
    given = {"images": len(images), "truths": len(truths)}
    given.update({f"predictions of {head}": len(each) for head, each in predictions.items()})
    if not images or len(set(given.values())) > 1:
        raise ValueError(f"one truth and one prediction a head for each image, got {given}")


def _grid(
    images: Sequence[ByteArray], columns: int, title: str, legend: Sequence[Patch]
) -> list[list[Axes]]:
    """A row of panels for each image, laid out in inches, above the legend."""
    cell = min(CELL, (TWO_COLUMNS - MARGIN) / columns - GAP)
    width = max(ONE_COLUMN, columns * (cell + GAP) + MARGIN)
    heights = [cell * image.shape[0] / image.shape[1] for image in images]
    longest = max(len(str(patch.get_label())) for patch in legend)
    legend_columns = max(1, int(width / (0.3 + longest * CHARACTER * SMALL / 72)))
    bottom = 0.25 + 0.13 * math.ceil(len(legend) / legend_columns)
    height = 0.4 + sum(heights) + LINE * len(images) + bottom
    figure = new_figure(width, height, title, "")
    figure.set_layout_engine("none")
    figure.legend(
        handles=legend, loc="lower left", bbox_to_anchor=(0, 0), ncols=legend_columns,
        fontsize=SMALL, title=GRID_CAPTION, title_fontsize=SMALL, alignment="left",
        frameon=False, handlelength=1.2, handleheight=0.9, columnspacing=1, labelspacing=0.3,
    )  # fmt: skip
    tops = height - 0.4 - np.cumsum([0, *(each + LINE for each in heights[:-1])])
    lefts = MARGIN / 2 + (cell + GAP) * np.arange(columns)
    return [
        [
            figure.add_axes((x / width, (top - tall) / height, cell / width, tall / height))
            for x in lefts
        ]
        for top, tall in zip(tops, heights, strict=True)
    ]


def _show(axes: Axes, pixels: ByteArray, below: str) -> None:
    axes.imshow(pixels, interpolation="nearest", aspect="auto")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(color=GREY, linewidth=0.4)
    room = int(axes.bbox.width / axes.figure.dpi * 72 / (CHARACTER * SMALL))
    axes.set_xlabel(
        below if len(below) <= room else f"…{below[1 - room :]}", size=SMALL, labelpad=2
    )


def _drawn(classes: ByteArray, labels: LabelInfo) -> ByteArray:
    """(H, W) train ids -> (H, W, 3) colours; ignored pixels striped black and grey."""
    colours = np.zeros((256, 3), dtype=np.uint8)
    colours[: len(labels.palette)] = labels.palette
    rows, columns = np.indices(classes.shape)
    stripe = (rows + columns) // max(1, classes.shape[0] // 48) % 4 == 0
    drawn = colours[classes]
    return np.where((stripe & (classes == IGNORE))[..., None], np.uint8(150), drawn)


def _image_score(truth: ByteArray, prediction: ByteArray, labels: LabelInfo) -> str:
    known = truth != IGNORE
    true, predicted = truth[known], prediction[known]
    counts = [
        np.bincount(each, minlength=len(labels.classes))
        for each in (true[true == predicted], predicted, true)
    ]
    miou = scores(*counts).miou
    return "–" if math.isnan(miou) else f"mIoU {100 * miou:.1f} %"


def _legend_patches(
    labels: LabelInfo,
    truths: Sequence[ByteArray],
    predictions: Mapping[str, Sequence[ByteArray]],
) -> list[Patch]:
    """A patch for each class that is shown, and one for ignored pixels."""
    maps = [*truths, *(each for several in predictions.values() for each in several)]
    shown = sorted({int(value) for each in maps for value in np.unique(each)})
    patches = [
        Patch(facecolor=f"#{bytes(labels.palette[k]).hex()}", edgecolor=GREY, linewidth=0.4,
              label=labels.classes[k])
        for k in shown if k != IGNORE
    ]  # fmt: skip
    if IGNORE in shown:
        patches.append(Patch(facecolor="black", edgecolor="0.6", hatch="/////", label="ignored"))
    return patches
