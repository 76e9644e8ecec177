"""Images beside their labels and what every head predicts for them."""

import math
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from contextbench.metrics import scores
from contextbench.report.style import (
    BODY,
    CHARACTER,
    GREY,
    ONE_COLUMN,
    SMALL,
    TITLE,
    TWO_COLUMNS,
    new_figure,
    wrapped,
)
from contextbench.results import LabelInfo

ByteArray = npt.NDArray[np.uint8]

IGNORE = 255
CELL, MARGIN, GAP, LINE = 1.5, 0.1, 0.03, 0.17  # inches: widest image, edges, between, text below
GRID_CAPTION = "Below a prediction: its mIoU over the classes labelled or predicted in this image."


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
    top = 0.4 + 0.14 * wrapped(title, width, TITLE).count("\n")
    height = top + sum(heights) + LINE * len(images) + bottom
    figure = new_figure(width, height, title, "")
    figure.set_layout_engine("none")
    figure.legend(
        handles=legend, loc="lower left", bbox_to_anchor=(0, 0), ncols=legend_columns,
        fontsize=SMALL, title=GRID_CAPTION, title_fontsize=SMALL, alignment="left",
        frameon=False, handlelength=1.2, handleheight=0.9, columnspacing=1, labelspacing=0.3,
    )  # fmt: skip
    tops = height - top - np.cumsum([0, *(each + LINE for each in heights[:-1])])
    lefts = MARGIN / 2 + (cell + GAP) * np.arange(columns)
    return [
        [
            figure.add_axes((x / width, (y - tall) / height, cell / width, tall / height))
            for x in lefts
        ]
        for y, tall in zip(tops, heights, strict=True)
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
