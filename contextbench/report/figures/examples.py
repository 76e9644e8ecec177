"""Images beside their labels, what every head predicts for them, and where heads differ."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from contextbench.records.classes import LabelInfo
from contextbench.records.examples import ByteArray, Examples
from contextbench.report.examples import (
    ALL_HEADS,
    DISPUTE_CAPTION,
    HEAD_SHADES,
    PREDICTION_CAPTION,
    SHARED_SHADES,
    Panel,
    Shade,
    class_shades,
    dispute_panels,
    prediction_panels,
)
from contextbench.report.figures.style import (
    GREY,
    ONE_COLUMN,
    SMALL,
    TWO_COLUMNS,
    label_panel,
    new_figure,
    text_height,
    text_width,
    wrapped,
)
from contextbench.report.looks import shortened

WIDEST, NARROWEST = 1.5, 0.8  # inches, of an image
MARGIN, GAP, LINE = 0.1, 0.03, 0.17  # inches: edges, between images, a line of text


def prediction_grid(
    examples: Examples, labels: LabelInfo, title: str, *, width: float = TWO_COLUMNS
) -> Figure:
    """A row an image: the image, its labels, what every head predicts and how well.

    Where the heads do not fit beside each other into `width` inches, a row has several lines.
    Raises ValueError without images.
    """
    shades = class_shades(examples, labels)
    keys = {PREDICTION_CAPTION: [each._replace(meaning=shortened(each.meaning)) for each in shades]}
    return _grid(prediction_panels(examples, labels), title, "", keys, width)


def disagreement_grid(examples: Examples, title: str, *, width: float = TWO_COLUMNS) -> Figure:
    """A row an image: the image, where heads differ, and where each of them is right.

    Raises ValueError without images or predictions.
    """
    if not examples.predictions:
        raise ValueError("a grid needs at least one image and the predictions of one head")
    keys = {"each head": HEAD_SHADES, ALL_HEADS: SHARED_SHADES}
    return _grid(dispute_panels(examples), title, DISPUTE_CAPTION, keys, width)


class _Layout(NamedTuple):
    """How the panels of one image are arranged; sizes in inches."""

    columns: int
    lines: int
    cell: float  # width of a panel
    width: float  # of the figure

    @classmethod
    def fitting(cls, panels: int, width: float) -> "_Layout":
        most = int((width - MARGIN) / (NARROWEST + GAP))
        lines = math.ceil(panels / most)
        columns = math.ceil(panels / lines)
        cell = min(WIDEST, (width - MARGIN) / columns - GAP)
        return cls(columns, lines, cell, max(ONE_COLUMN, columns * (cell + GAP) + MARGIN))

    def height(self, image: ByteArray) -> float:
        """Of all lines of an image."""
        return self.lines * (self._tall(image) + 2 * LINE)

    def box(self, panel: int, top: float, image: ByteArray) -> tuple[float, float, float, float]:
        """Left, bottom, width and height."""
        line, column = divmod(panel, self.columns)
        tall = self._tall(image)
        left = MARGIN / 2 + (self.cell + GAP) * column
        return left, top - (line + 1) * (tall + 2 * LINE) + LINE, self.cell, tall

    def _tall(self, image: ByteArray) -> float:
        return self.cell * (int(image.shape[0]) / int(image.shape[1]))


def _grid(
    rows: Sequence[Sequence[Panel]],
    title: str,
    caption: str,
    keys: Mapping[str, Sequence[Shade]],
    width: float,
) -> Figure:
    """A row of panels for each image, above the legends, the first of which is the lowest."""
    if not rows:
        raise ValueError("a grid needs at least one image")
    patches = {name: [_patch(shade) for shade in shades] for name, shades in keys.items()}
    layout = _Layout.fitting(len(rows[0]), width)
    heights = [layout.height(row[0].pixels) for row in rows]
    longest = text_width([str(p.get_label()) for each in patches.values() for p in each], SMALL)
    columns = max(1, int(layout.width / (0.3 + longest)))
    key_heights = [0.25 + 0.13 * math.ceil(len(each) / columns) for each in patches.values()]
    lines = wrapped(caption, layout.width, SMALL)
    bottom = text_height(lines, SMALL)
    figure = new_figure(layout.width, sum(heights) + sum(key_heights) + bottom, title, "")
    figure.set_layout_engine("none")
    figure.text(0.01, 0, lines, va="bottom", size=SMALL, color=GREY)
    for (name, own), height in zip(patches.items(), key_heights, strict=True):
        _draw_key(figure, bottom, name, own, columns)
        bottom += height
    top, full = bottom + sum(heights), np.tile(figure.get_size_inches(), 2)
    for row, height in zip(rows, heights, strict=True):
        for number, panel in enumerate(row):
            box = np.array(layout.box(number, top, panel.pixels)) / full
            axes = figure.add_axes((box[0], box[1], box[2], box[3]))
            axes.imshow(panel.pixels, interpolation="nearest", aspect="auto")
            label_panel(axes, panel.name, [panel.below])
        top -= height
    return figure


def _draw_key(
    figure: Figure, bottom: float, name: str, patches: Sequence[Patch], columns: int
) -> None:
    """A legend whose lower edge lies `bottom` inches above that of the figure."""
    place = 0, bottom / float(figure.get_size_inches()[1])
    figure.legend(
        handles=list(patches), title=name, loc="lower left", bbox_to_anchor=place, ncols=columns,
        fontsize=SMALL, title_fontsize=SMALL, alignment="left", frameon=False,
        handlelength=1.2, handleheight=0.9, columnspacing=1, labelspacing=0.3,
    )  # fmt: skip


def _patch(shade: Shade) -> Patch:
    edge, hatch = ("0.6", "/////") if shade.striped else (GREY, None)
    return Patch(
        facecolor=shade.colour, edgecolor=edge, hatch=hatch, linewidth=0.4, label=shade.meaning
    )
