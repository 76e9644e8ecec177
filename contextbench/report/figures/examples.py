"""Images beside their labels, what every head predicts for them, and where heads differ."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from contextbench.records.classes import LabelInfo
from contextbench.records.examples import IGNORE, ByteArray, Examples
from contextbench.report.disputes import (
    HEAD_SHADES,
    SHARED_SHADES,
    Shade,
    differing,
    head_picture,
    shared_picture,
    won,
)
from contextbench.report.figures.style import (
    BODY,
    GREY,
    ONE_COLUMN,
    SMALL,
    TWO_COLUMNS,
    new_figure,
    text_height,
    text_width,
    wrapped,
)
from contextbench.report.looks import CHARACTER, shortened
from contextbench.report.words import ABSENT, percent
from contextbench.statistics.disagreement import disagreement
from contextbench.statistics.scores import scores

WIDEST, NARROWEST = 1.5, 0.8  # inches, of an image
MARGIN, GAP, LINE = 0.1, 0.03, 0.17  # inches: edges, between images, a line of text
PREDICTION_CAPTION = (
    "Below a prediction: its mIoU over the classes labelled or predicted in this image."
)
DISPUTE_CAPTION = (
    "Below “all heads”: share of the labelled pixels on which predictions differ. Below a head: "
    "share of the pixels that some heads have right and some wrong on which it is right."
)


class Panel(NamedTuple):
    """A picture with what stands above and below it."""

    name: str
    pixels: ByteArray  # (H, W, 3)
    below: str


def prediction_grid(
    examples: Examples, labels: LabelInfo, title: str, *, width: float = TWO_COLUMNS
) -> Figure:
    """A row an image: the image, its labels, what every head predicts and how well.

    Where the heads do not fit beside each other into `width` inches, a row has several lines.
    Raises ValueError without images.
    """
    rows = []
    for row, (name, image, truth) in enumerate(_images(examples)):
        first = [Panel("image", image, name), Panel("ground truth", _drawn(truth, labels), "")]
        maps = {head: each[row] for head, each in examples.predictions.items()}
        rows.append(first + [
            Panel(head, _drawn(each, labels), _image_score(truth, each, labels))
            for head, each in maps.items()
        ])  # fmt: skip
    shown = [*examples.truths, *(m for each in examples.predictions.values() for m in each)]
    keys = {PREDICTION_CAPTION: _class_patches(labels, shown)}
    return _grid(rows, title, "", keys, width)


def disagreement_grid(examples: Examples, title: str, *, width: float = TWO_COLUMNS) -> Figure:
    """A row an image: the image, where heads differ, and where each of them is right.

    Raises ValueError without images or predictions.
    """
    if not examples.predictions:
        raise ValueError("a grid needs at least one image and the predictions of one head")
    rows = []
    for row, (name, image, truth) in enumerate(_images(examples)):
        found = disagreement(truth, {h: maps[row] for h, maps in examples.predictions.items()})
        first = [
            Panel("image", image, name),
            Panel("all heads", shared_picture(found), f"{differing(found)} %"),
        ]
        rows.append(first + [
            Panel(head, head_picture(found, head), f"{won(found, head)} %") for head in found.heads
        ])  # fmt: skip
    keys = {"each head": _shade_patches(HEAD_SHADES), "all heads": _shade_patches(SHARED_SHADES)}
    return _grid(rows, title, DISPUTE_CAPTION, keys, width)


def _images(examples: Examples) -> Iterator[tuple[str, ByteArray, ByteArray]]:
    if not examples.images:
        raise ValueError("a grid needs at least one image")
    return zip(examples.names, examples.images, examples.truths, strict=True)


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
    keys: Mapping[str, Sequence[Patch]],
    width: float,
) -> Figure:
    """A row of panels for each image, above the legends, the first of which is the lowest."""
    layout = _Layout.fitting(len(rows[0]), width)
    heights = [layout.height(row[0].pixels) for row in rows]
    longest = text_width([str(p.get_label()) for each in keys.values() for p in each], SMALL)
    columns = max(1, int(layout.width / (0.3 + longest)))
    key_heights = [0.25 + 0.13 * math.ceil(len(patches) / columns) for patches in keys.values()]
    lines = wrapped(caption, layout.width, SMALL)
    bottom = text_height(lines, SMALL)
    figure = new_figure(layout.width, sum(heights) + sum(key_heights) + bottom, title, "")
    figure.set_layout_engine("none")
    figure.text(0.01, 0, lines, va="bottom", size=SMALL, color=GREY)
    for (name, patches), height in zip(keys.items(), key_heights, strict=True):
        _draw_key(figure, bottom, name, patches, columns)
        bottom += height
    top, full = bottom + sum(heights), np.tile(figure.get_size_inches(), 2)
    for row, height in zip(rows, heights, strict=True):
        for number, panel in enumerate(row):
            box = np.array(layout.box(number, top, panel.pixels)) / full
            _show(figure.add_axes((box[0], box[1], box[2], box[3])), panel)
        top -= height
    return figure


def _show(axes: Axes, panel: Panel) -> None:
    axes.imshow(panel.pixels, interpolation="nearest", aspect="auto")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(color=GREY, linewidth=0.4)
    room = axes.bbox.width / axes.figure.dpi * 72 / CHARACTER
    axes.set_title(shortened(panel.name, int(room / BODY)), size=BODY, pad=2)
    axes.set_xlabel(shortened(panel.below, int(room / SMALL)), size=SMALL, labelpad=2)


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
    return ABSENT if math.isnan(miou) else f"mIoU {percent(miou)} %"


def _class_patches(labels: LabelInfo, maps: Sequence[ByteArray]) -> list[Patch]:
    """A patch for each class that is shown, and one for ignored pixels."""
    shown = sorted({int(value) for each in maps for value in np.unique(each)})
    shades = [
        Shade(shortened(labels.classes[k]), f"#{bytes(labels.palette[k]).hex()}")
        for k in shown if k != IGNORE
    ]  # fmt: skip
    ignored = Patch(facecolor="black", edgecolor="0.6", hatch="/////", label="ignored")
    return [*_shade_patches(shades), *([ignored] if IGNORE in shown else [])]


def _shade_patches(shades: Sequence[Shade]) -> list[Patch]:
    return [
        Patch(facecolor=shade.colour, edgecolor=GREY, linewidth=0.4, label=shade.meaning)
        for shade in shades
    ]
