"""Where heads predict different classes for the same pixels, and who is right there: as pictures.

Axes: (H, W) image pixels. Pixels without a label are left out of all counts.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from contextbench.records.examples import ByteArray
from contextbench.report.looks import BLUE, ORANGE
from contextbench.report.words import percent
from contextbench.statistics.disagreement import Disagreement

BoolArray = npt.NDArray[np.bool_]

# A tint of sky and three greys, so that the colours of a legend differ in lightness too.
TINT, PALE, DULL, DARK = "#A5D5F5", "#F5F5F5", "#888888", "#202020"


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


def differing(found: Disagreement) -> str:
    """Share of the labelled pixels on which predictions differ, in percent."""
    return _share(found.distinct > 1, found.labelled)


def won(found: Disagreement, head: str) -> str:
    """Share of the pixels that some heads have right and some wrong on which it is right."""
    return _share(_right(found, head) & found.split, found.split)


def accuracy(found: Disagreement, head: str) -> str:
    """Share of the labelled pixels that a head has right."""
    return _share(_right(found, head), found.labelled)


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
