"""Images beside their labels and what every head predicts for them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from contextbench.records.classes import LabelInfo
from contextbench.report.figures.style import (
    BODY,
    CHARACTER,
    GREY,
    LONGEST,
    ONE_COLUMN,
    SMALL,
    TWO_COLUMNS,
    new_figure,
    shortened,
    text_width,
)
from contextbench.statistics.scores import scores

ByteArray = npt.NDArray[np.uint8]

IGNORE = 255
WIDEST, NARROWEST = 1.5, 0.8  # inches, of an image
MARGIN, GAP, LINE = 0.1, 0.03, 0.17  # inches: edges, between images, a line of text
GRID_CAPTION = "Below a prediction: its mIoU over the classes labelled or predicted in this image."


def prediction_grid(
    images: Sequence[ByteArray],
    truths: Sequence[ByteArray],
    predictions: Mapping[str, Sequence[ByteArray]],
    labels: LabelInfo,
    title: str,
    *,
    names: Sequence[str] | None = None,
    width: float = TWO_COLUMNS,
) -> Figure:
    """A row an image: the image, its labels, what every head predicts and how well.

    Where the heads do not fit beside each other into `width` inches, a row has several lines.

    images: (H, W, 3); truths and predictions: (H, W) train ids, `IGNORE` where not labelled;
    names: printed below the images. Raises ValueError without images and for lists of different
    lengths.
    """
    _check_lengths(images, truths, predictions)
    legend = _legend_patches(labels, truths, predictions)
    grid = Grid.fitting(2 + len(predictions), width)
    rows = _panels(grid, images, title, legend)
    for row, panels in enumerate(rows):
        image, truth = images[row], truths[row]
        _show(panels[0], image, "" if names is None else names[row])
        _show(panels[1], _drawn(truth, labels), "")
        for axes, maps in zip(panels[2:], predictions.values(), strict=True):
            _show(axes, _drawn(maps[row], labels), _image_score(truth, maps[row], labels))
        if row == 0 or grid.lines > 1:
            for axes, name in zip(panels, ["image", "ground truth", *predictions], strict=True):
                axes.set_title(shortened(name, _room(axes, BODY)), size=BODY, pad=2)
    return cast(Figure, rows[0][0].figure)


def _check_lengths(
    images: Sequence[ByteArray],
    truths: Sequence[ByteArray],
    predictions: Mapping[str, Sequence[ByteArray]],
) -> None:
    given = {"images": len(images), "truths": len(truths)}
    given.update({f"predictions of {head}": len(each) for head, each in predictions.items()})
    if not images or len(set(given.values())) > 1:
        raise ValueError(f"one truth and one prediction a head for each image, got {given}")


class Grid(NamedTuple):
    """How the panels of one image are arranged; sizes in inches."""

    panels: int
    columns: int
    lines: int
    cell: float  # width of a panel
    width: float  # of the figure

    @classmethod
    def fitting(cls, panels: int, width: float) -> "Grid":
        most = int((width - MARGIN) / (NARROWEST + GAP))
        lines = math.ceil(panels / most)
        columns = math.ceil(panels / lines)
        cell = min(WIDEST, (width - MARGIN) / columns - GAP)
        return cls(panels, columns, lines, cell, max(ONE_COLUMN, columns * (cell + GAP) + MARGIN))

    def boxes(
        self, top: float, tall: float, figure: Figure, *, has_names: bool
    ) -> Iterator[tuple[float, float, float, float]]:
        """Left, bottom, width and height of each panel, as fractions of the figure."""
        width, height = (float(size) for size in figure.get_size_inches())
        above = LINE if has_names else 0.0
        for panel in range(self.panels):
            line, column = divmod(panel, self.columns)
            left = MARGIN / 2 + (self.cell + GAP) * column
            bottom = top - line * (above + tall + LINE) - above - tall
            yield left / width, bottom / height, self.cell / width, tall / height


def _panels(
    grid: Grid, images: Sequence[ByteArray], title: str, legend: Sequence[Patch]
) -> list[list[Axes]]:
    """A row of panels for each image, laid out in inches, above the legend."""
    talls = [grid.cell * image.shape[0] / image.shape[1] for image in images]
    named = [grid.lines > 1 or row == 0 for row in range(len(images))]
    heights = [
        grid.lines * (tall + LINE + LINE * has_names)
        for tall, has_names in zip(talls, named, strict=True)
    ]
    longest = text_width([str(patch.get_label()) for patch in legend], SMALL)
    legend_columns = max(1, int(grid.width / (0.3 + longest)))
    bottom = 0.25 + 0.13 * math.ceil(len(legend) / legend_columns)
    figure = new_figure(grid.width, sum(heights) + bottom, title, "")
    figure.set_layout_engine("none")
    figure.legend(
        handles=legend, loc="lower left", bbox_to_anchor=(0, 0), ncols=legend_columns,
        fontsize=SMALL, title=GRID_CAPTION, title_fontsize=SMALL, alignment="left",
        frameon=False, handlelength=1.2, handleheight=0.9, columnspacing=1, labelspacing=0.3,
    )  # fmt: skip
    tops = sum(heights) + bottom - np.cumsum([0, *heights[:-1]])
    return [
        [figure.add_axes(box) for box in grid.boxes(top, tall, figure, has_names=has_names)]
        for top, tall, has_names in zip(tops.tolist(), talls, named, strict=True)
    ]


def _show(axes: Axes, pixels: ByteArray, below: str) -> None:
    axes.imshow(pixels, interpolation="nearest", aspect="auto")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(color=GREY, linewidth=0.4)
    axes.set_xlabel(shortened(below, _room(axes, SMALL)), size=SMALL, labelpad=2)


def _room(axes: Axes, size: float) -> int:
    """Characters that fit below or above a panel."""
    return int(axes.bbox.width / axes.figure.dpi * 72 / (CHARACTER * size))


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
              label=shortened(labels.classes[k], LONGEST))
        for k in shown if k != IGNORE
    ]  # fmt: skip
    if IGNORE in shown:
        patches.append(Patch(facecolor="black", edgecolor="0.6", hatch="/////", label="ignored"))
    return patches
