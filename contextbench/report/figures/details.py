"""Curves over trimap widths and corruptions, and reliability diagrams: a look a head."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from contextbench.records.counters import BINS
from contextbench.report.boundaries import Bands, Calibration, calibration_of, trimap_bands
from contextbench.report.collection import Collection
from contextbench.report.counted import counters_of
from contextbench.report.figures.style import (
    BODY,
    GREY,
    INK,
    ONE_COLUMN,
    SMALL,
    TWO_COLUMNS,
    new_figure,
    style_axes,
)
from contextbench.report.geometry import FloatArray
from contextbench.report.looks import head_style, shortened
from contextbench.report.robustness import Robustness, robustness_of
from contextbench.report.words import fixed, level_text
from contextbench.statistics.counted import pixels_by_confidence
from contextbench.statistics.intervals import Interval

HEIGHT, PANEL = 2.4, 1.75  # inches
PANELS = 4  # in a row
LONGEST = 14  # characters of a name
EDGES = np.linspace(0, 1, BINS + 1)
Curve = Sequence[tuple[float, Interval]]  # what it is over, and fractions


class Detail(NamedTuple):
    """A figure of what a counter counted, or of robustness."""

    counted: str
    name: str  # of its file
    title: str
    figure: Figure


def detail_figures(collection: Collection, width: float | None) -> Iterator[Detail]:
    """Of all that was counted but confusions, and of what corruptions cost."""
    counted, subject = counters_of(collection), collection.subject
    if "calibration" in counted:
        title = f"Accuracy by confidence: {subject}"
        figure = reliability_figure(calibration_of(collection), title, width=width)
        yield Detail("calibration", "reliability", title, figure)
    if "trimap" in counted:
        title = f"mIoU near boundaries: {subject}"
        figure = trimap_figure(trimap_bands(collection), title, width=width)
        yield Detail("trimap", "trimap", title, figure)
    robustness = robustness_of(collection)
    if robustness is not None and robustness.points:
        title = f"mIoU on corrupted images: {subject}"
        figure = robustness_figure(robustness, title, width=width)
        yield Detail("robustness", "robustness", title, figure)


def trimap_figure(bands: Bands, title: str, *, width: float | None = None) -> Figure:
    """mIoU of all pixels within so many pixels of a boundary, a line a head."""
    rankings = list(bands.rankings.values())
    level = level_text(rankings[0].resampling.level)
    caption = (
        "mIoU of the labelled pixels that are at most so many rows and columns from a pixel of "
        f"another label, mean over seeds; bars: {level} interval of these models over images."
    )
    figure = new_figure(width or ONE_COLUMN, HEIGHT, title, caption)
    axes = figure.subplots()
    style_axes(axes, "Distance to a boundary (pixels)", "mIoU (%)")
    axes.set_xscale("log", base=2)
    axes.set_xticks(bands.widths, [str(each) for each in bands.widths])
    axes.minorticks_off()
    heads = rankings[-1].names
    for place, head in enumerate(heads):
        aside = 1 + 0.035 * (
            place - (len(heads) - 1) / 2
        )  # keeps bars apart, on a logarithmic axis
        places = [each * aside for each in bands.widths]
        _draw(axes, head, [*zip(places, (r.of(head).miou for r in rankings), strict=True)])
    axes.legend(loc="best", frameon=False, fontsize=SMALL)
    return figure


def robustness_figure(robustness: Robustness, title: str, *, width: float | None = None) -> Figure:
    """mIoU against the strength of a corruption, a panel a kind, a line a head; 0 is clean."""
    kinds = robustness.kinds
    columns = min(PANELS, len(kinds))
    rows = math.ceil(len(kinds) / columns)
    level = level_text(robustness.points[0].ranking.resampling.level)
    caption = (
        "mIoU on images that were made worse, mean over seeds; strength 0: clean. Bars: "
        f"{level} interval of the loss of these models over images."
    )
    full = width or (ONE_COLUMN if columns == 1 else TWO_COLUMNS)
    figure = new_figure(full, rows * HEIGHT, title, caption)
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axes in panels.flat[len(kinds) :]:
        axes.set_visible(False)
    for number, (axes, kind) in enumerate(zip(panels.flat, kinds, strict=False)):
        style_axes(axes, "Strength", "mIoU (%)" if number % columns == 0 else "")
        axes.set_title(kind, size=BODY, weight="bold", color=INK, loc="left")
        axes.set_xticks(range(6))
        for place, head in enumerate(robustness.heads):
            aside = 0.08 * (place - (len(robustness.heads) - 1) / 2)
            points = robustness.of_kind(kind)
            clean = points[0].clean[head]
            curve = [(0.0, Interval(clean, clean, clean))]
            for point in points:
                change = point.of(head).miou
                low, high = (clean + end for end in change[1:])
                curve.append((point.strength + aside, Interval(point.miou(head), low, high)))
            _draw(axes, head, curve)
    panels.flat[len(kinds) - 1].legend(loc="best", frameon=False, fontsize=SMALL)
    return figure


def reliability_figure(
    calibration: Calibration, title: str, *, width: float | None = None
) -> Figure:
    """Accuracy by confidence, a panel a head; below it how many pixels are so sure."""
    heads = calibration.ranking.heads
    columns = min(PANELS, len(heads))
    rows = math.ceil(len(heads) / columns)
    caption = (
        f"Bars: accuracy of the pixels in each of {BINS} bins of confidence, all seeds; dots: the "
        "same at their mean confidence, on the dotted line where a head is calibrated. Below: "
        "share of the pixels. ECE: gap between the two, mean over pixels."
    )
    full = width or (ONE_COLUMN if columns < 3 else TWO_COLUMNS)
    figure = new_figure(full, rows * (PANEL + 0.75), title, caption)
    ratios = [3, 1] * rows
    panels = figure.subplots(
        2 * rows, columns, sharex=True, squeeze=False, gridspec_kw={"height_ratios": ratios}
    )
    for axes in panels.flat:
        axes.set_visible(False)
    for number, each in enumerate(heads):
        row, column = 2 * (number // columns), number % columns
        above, below = panels[row, column], panels[row + 1, column]
        ece = 1 - each.miou.estimate
        _draw_reliability(above, below, each.head, calibration.totals[each.head], ece)
        if column == 0:
            above.set_ylabel("Accuracy (%)", size=BODY, color=INK)
            below.set_ylabel("Pixels (%)", size=BODY, color=INK)
    return figure


def _draw_reliability(above: Axes, below: Axes, head: str, totals: FloatArray, ece: float) -> None:
    accuracy, confidence, share = pixels_by_confidence(totals)
    colour = head_style(head).colour
    for axes, values in ((above, accuracy), (below, share)):
        axes.set_visible(True)
        style_axes(axes, "Confidence (%)" if axes is below else "", "")
        axes.stairs(
            100 * np.nan_to_num(values), 100 * EDGES, fill=True, color=colour, alpha=0.35, zorder=2
        )
    above.plot([0, 100], [0, 100], color=GREY, linewidth=0.7, linestyle=":", zorder=3)
    above.plot(
        100 * confidence, 100 * accuracy, color=colour, marker=".", markersize=4, linestyle="",
        markeredgewidth=0, zorder=4,
    )  # fmt: skip
    above.set(xlim=(0, 100), ylim=(0, 100))
    below.set(ylim=(0, 100 * max(share.max(), 0.01)))
    above.tick_params(labelbottom=False)
    name = f"{shortened(head, LONGEST)}: ECE {fixed(100 * ece)} %"
    above.set_title(name, size=BODY, color=INK, loc="left")


def _draw(axes: Axes, head: str, curve: Curve) -> None:
    style = head_style(head)
    x = [place for place, _ in curve]
    estimate, low, high = (np.array([100 * each[n] for _, each in curve]) for n in range(3))
    axes.vlines(x, low, high, color=style.colour, linewidth=0.8, zorder=2)
    axes.plot(
        x, estimate, color=style.colour, linestyle=style.line, linewidth=1.0, marker=style.marker,
        markersize=3, markeredgewidth=0, label=shortened(head, LONGEST), zorder=3,
    )  # fmt: skip
