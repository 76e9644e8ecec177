"""Where heads predict different classes for the same pixels, and who is right there.

Axes: (H, W) image pixels. Pixels without a label are left out of all counts.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from contextbench.records.examples import Examples
from contextbench.report.figures.predictions import LINE, Grid
from contextbench.report.figures.style import (
    BLUE,
    BODY,
    CHARACTER,
    GREY,
    ORANGE,
    SMALL,
    TWO_COLUMNS,
    new_figure,
    shortened,
    text_height,
    text_width,
    wrapped,
)
from contextbench.statistics.disagreement import disagreement

ByteArray = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]

# A tint of sky and three greys, so that the colours of a legend differ in lightness too.
TINT, PALE, DULL, DARK = "#A5D5F5", "#F5F5F5", "#888888", "#202020"
CAPTION = (
    "Below “all heads”: share of the labelled pixels on which predictions differ. Below a head: "
    "share of the pixels that some heads have right and some wrong on which it is right."
)


class Shade(NamedTuple):
    """What one colour of a map means."""

    meaning: str
    colour: str  # #RRGGBB


SHARED_SHADES = (
    Shade("not labelled", DARK),
    Shade("all heads right", PALE),
    Shade("some heads right, some wrong", BLUE),
    Shade("all wrong, with the same class", DULL),
    Shade("all wrong, with different classes", ORANGE),
)
"""Legend of `disagreement_image`."""

HEAD_SHADES = (
    Shade("not labelled", DARK),
    Shade("all heads right", PALE),
    Shade("only this head right", BLUE),
    Shade("this head right, others too, not all", TINT),
    Shade("this head wrong, another right", ORANGE),
    Shade("all heads wrong", DULL),
)
"""Legend of `head_image`."""


def disagreement_image(truth: ByteArray, predictions: Mapping[str, ByteArray]) -> ByteArray:
    """(H, W, 3) colours of `SHARED_SHADES`: all right, all wrong, or split over the heads."""
    found = disagreement(truth, predictions)
    states = (
        ~found.labelled,
        found.all_right,
        found.split,
        found.all_wrong & (found.distinct == 1),
        found.all_wrong & (found.distinct > 1),
    )
    return _coloured(states, SHARED_SHADES)


def head_image(truth: ByteArray, predictions: Mapping[str, ByteArray], head: str) -> ByteArray:
    """(H, W, 3) colours of `HEAD_SHADES`: where `head` is right while others are wrong."""
    found = disagreement(truth, predictions)
    mine, split = found.right[found.heads.index(head)], found.split
    alone = found.right_alone(head) & split
    states = (
        ~found.labelled,
        found.all_right,
        alone,
        mine & split & ~alone,
        ~mine & split,
        found.all_wrong,
    )
    return _coloured(states, HEAD_SHADES)


def disagreement_grid(examples: Examples, title: str, *, width: float = TWO_COLUMNS) -> Figure:
    """A row an image: the image, where heads differ, and where each of them is right.

    Where the heads do not fit beside each other into `width` inches, a row has several lines.
    Raises ValueError without images or predictions.
    """
    if not examples.images or not examples.predictions:
        raise ValueError("a grid needs at least one image and the predictions of one head")
    names = ["image", "all heads", *examples.predictions]
    rows = _panels(Grid.fitting(len(names), width), examples.images, title)
    for row, panels in enumerate(rows):
        pictures = _pictures(examples, row)
        for axes, name, (pixels, below) in zip(panels, names, pictures, strict=True):
            _show(axes, pixels, name, below)
    return cast(Figure, rows[0][0].figure)


def _panels(grid: Grid, images: Sequence[ByteArray], title: str) -> list[list[Axes]]:
    """A row of panels for each image, laid out in inches, above the two legends."""
    talls = [grid.cell * image.shape[0] / image.shape[1] for image in images]
    heights = [grid.lines * (tall + 2 * LINE) for tall in talls]
    longest = text_width([s.meaning for s in (*SHARED_SHADES, *HEAD_SHADES)], SMALL)
    columns = max(1, int(grid.width / (0.3 + longest)))
    keys = {"each head": HEAD_SHADES, "all heads": SHARED_SHADES}  # from below
    key_heights = [0.25 + 0.13 * math.ceil(len(shades) / columns) for shades in keys.values()]
    caption = wrapped(CAPTION, grid.width, SMALL)
    bottom = text_height(caption, SMALL)
    figure = new_figure(grid.width, sum(heights) + sum(key_heights) + bottom, title, "")
    figure.set_layout_engine("none")
    figure.text(0.01, 0, caption, va="bottom", size=SMALL, color=GREY)
    for (name, shades), height in zip(keys.items(), key_heights, strict=True):
        _draw_key(figure, bottom, name, shades, columns)
        bottom += height
    tops = bottom + sum(heights) - np.cumsum([0, *heights[:-1]])
    return [
        [figure.add_axes(box) for box in grid.boxes(top, tall, figure, has_names=True)]
        for top, tall in zip(tops.tolist(), talls, strict=True)
    ]


def _pictures(examples: Examples, row: int) -> list[tuple[ByteArray, str]]:
    """Pixels (H, W, 3) of each panel of one image, and the text below them."""
    truth = examples.truths[row]
    predictions = {name: maps[row] for name, maps in examples.predictions.items()}
    found = disagreement(truth, predictions)
    differing = int((found.distinct > 1).sum())
    pictures = [
        (examples.images[row], examples.names[row]),
        (disagreement_image(truth, predictions), _percent(differing, int(found.labelled.sum()))),
    ]
    for right, head in zip(found.right, found.heads, strict=True):
        won = _percent(int((right & found.split).sum()), int(found.split.sum()))
        pictures.append((head_image(truth, predictions, head), won))
    return pictures


def _show(axes: Axes, pixels: ByteArray, above: str, below: str) -> None:
    axes.imshow(pixels, interpolation="nearest", aspect="auto")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(color=GREY, linewidth=0.4)
    points = axes.bbox.width / axes.figure.dpi * 72
    axes.set_title(shortened(above, int(points / (CHARACTER * BODY))), size=BODY, pad=2)
    axes.set_xlabel(shortened(below, int(points / (CHARACTER * SMALL))), size=SMALL, labelpad=2)


def _draw_key(
    figure: Figure, bottom: float, name: str, shades: Sequence[Shade], columns: int
) -> None:
    """A legend whose lower edge lies `bottom` inches above that of the figure."""
    patches = [
        Patch(facecolor=shade.colour, edgecolor=GREY, linewidth=0.4, label=shade.meaning)
        for shade in shades
    ]
    place = 0, bottom / float(figure.get_size_inches()[1])
    figure.legend(
        handles=patches, title=name, loc="lower left", bbox_to_anchor=place, ncols=columns,
        fontsize=SMALL, title_fontsize=SMALL, alignment="left", frameon=False,
        handlelength=1.2, handleheight=0.9, columnspacing=1, labelspacing=0.3,
    )  # fmt: skip


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "–"


def _coloured(states: Sequence[BoolArray], shades: Sequence[Shade]) -> ByteArray:
    """The colour of the state that holds; exactly one does at each pixel."""
    colours = np.array([list(bytes.fromhex(shade.colour[1:])) for shade in shades], dtype=np.uint8)
    drawn: ByteArray = colours[np.argmax(np.stack(states), axis=0)]
    return drawn
