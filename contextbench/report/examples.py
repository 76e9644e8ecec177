"""Example images as pictures: what heads predict, where they differ, and who is right there.

Axes: (H, W) image pixels. Pixels without a label are left out of all counts.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from contextbench.records.classes import LabelInfo
from contextbench.records.examples import IGNORE, ByteArray, Examples
from contextbench.report.looks import BLUE, ORANGE
from contextbench.report.words import ABSENT, percent
from contextbench.statistics.disagreement import Disagreement, disagreement
from contextbench.statistics.scores import scores

BoolArray = npt.NDArray[np.bool_]

# A tint of sky and three greys, so that the colours of a legend differ in lightness too.
TINT, PALE, DULL, DARK = "#A5D5F5", "#F5F5F5", "#888888", "#202020"


class Shade(NamedTuple):
    """What one colour of a map means."""

    meaning: str
    colour: str  # #RRGGBB
    striped: bool = False


class Panel(NamedTuple):
    """A picture with what stands above and below it."""

    name: str  # of a head, or what it is
    pixels: ByteArray  # (H, W, 3)
    below: str = ""
    of_head: bool = False


ALL_HEADS = "all heads"


SHARED_SHADES = (
    Shade("not labelled", DARK),
    Shade("all heads right", PALE),
    Shade("some heads right, some wrong", BLUE),
    Shade("all wrong, with the same class", DULL),
    Shade("all wrong, with different classes", ORANGE),
)
"""Legend of `shared_picture`."""

HEAD_SHADES = (
    Shade("not labelled", DARK),
    Shade("all heads right", PALE),
    Shade("only this head right", BLUE),
    Shade("this head right, others too, not all", TINT),
    Shade("this head wrong, another right", ORANGE),
    Shade("all heads wrong", DULL),
)
"""Legend of `head_picture`."""


PREDICTION_CAPTION = (
    "Below a prediction: its mIoU over the classes labelled or predicted in this image."
)
DISPUTE_CAPTION = (
    "Below “all heads”: share of the labelled pixels on which predictions differ. Below a head: "
    "share of the pixels that some heads have right and some wrong on which it is right."
)


def prediction_panels(examples: Examples, labels: LabelInfo) -> list[list[Panel]]:
    """For each image: itself, its labels, what every head predicts and how well."""
    return [
        [
            Panel("image", image, name),
            Panel("ground truth", _drawn(truth, labels)),
            *(
                Panel(head, _drawn(maps[i], labels), _image_score(truth, maps[i], labels), True)
                for head, maps in examples.predictions.items()
            ),
        ]
        for i, (name, image, truth) in enumerate(_images(examples))
    ]


def dispute_panels(examples: Examples) -> list[list[Panel]]:
    """For each image: itself, where heads differ, and where each of them is right."""
    rows = []
    for i, (name, image, truth) in enumerate(_images(examples)):
        found = disagreement(truth, {head: maps[i] for head, maps in examples.predictions.items()})
        differing = _share(found.distinct > 1, found.labelled)
        rows.append([
            Panel("image", image, name),
            Panel(ALL_HEADS, shared_picture(found), f"{differing} %"),
            *(
                Panel(head, head_picture(found, head),
                      f"{_share(_right(found, head) & found.split, found.split)} %", True)
                for head in found.heads
            ),
        ])  # fmt: skip
    return rows


def class_shades(examples: Examples, labels: LabelInfo) -> list[Shade]:
    """Of each class that is labelled or predicted; pixels without a label last."""
    maps = [*examples.truths, *(m for each in examples.predictions.values() for m in each)]
    shown = sorted({int(value) for each in maps for value in np.unique(each)})
    shades = [
        Shade(labels.classes[k], f"#{bytes(labels.palette[k]).hex()}") for k in shown if k != IGNORE
    ]
    return [*shades, *([Shade("not labelled", "#000000", striped=True)] if IGNORE in shown else [])]


def shared_picture(found: Disagreement) -> ByteArray:
    """(H, W, 3) colours of `SHARED_SHADES`: all right, all wrong, or split over the heads."""
    states = (
        ~found.labelled,
        found.all_right,
        found.split,
        found.all_wrong & (found.distinct == 1),
        found.all_wrong & (found.distinct > 1),
    )
    return _coloured(states, SHARED_SHADES)


def head_picture(found: Disagreement, head: str) -> ByteArray:
    """(H, W, 3) colours of `HEAD_SHADES`: where `head` is right while others are wrong."""
    mine, split = _right(found, head), found.split
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


def _images(examples: Examples) -> Iterator[tuple[str, ByteArray, ByteArray]]:
    return zip(examples.names, examples.images, examples.truths, strict=True)


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


def _right(found: Disagreement, head: str) -> BoolArray:
    right: BoolArray = found.right[found.heads.index(head)]
    return right


def _share(part: BoolArray, whole: BoolArray) -> str:
    return percent(part.sum() / whole.sum() if whole.any() else math.nan)


def _coloured(states: Sequence[BoolArray], shades: Sequence[Shade]) -> ByteArray:
    """The colour of the state that holds; exactly one does at each pixel."""
    colours = np.array([list(bytes.fromhex(shade.colour[1:])) for shade in shades], dtype=np.uint8)
    drawn: ByteArray = colours[np.argmax(np.stack(states), axis=0)]
    return drawn
