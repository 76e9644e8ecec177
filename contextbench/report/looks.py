"""How heads and names look wherever they are drawn: one colour, marker and line a head.

Colours are those of Okabe and Ito, chosen to be told apart with every kind of colour vision
(jfly.uni-koeln.de/color, 2008), less yellow, which is hard to see on white. Markers and line styles
differ too, so that nothing depends on colour among the heads that are compared unless told
otherwise.
"""

import zlib
from typing import NamedTuple

from contextbench.system import text as safe

CHARACTER = 0.6  # mean width of a character over the font size
LONGEST = 20  # characters of a name beside a mark
BLACK, ORANGE, SKY, GREEN, BLUE, RED, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
COLOURS = (BLACK, ORANGE, SKY, GREEN, BLUE, RED, PURPLE)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "d")  # as matplotlib has them
SOLID, DASHED, DOTTED, DASHDOT = "-", "--", ":", "-."
LINES = (SOLID, DASHED, DOTTED, DASHDOT)


class HeadStyle(NamedTuple):
    """How a head is drawn wherever it appears."""

    colour: str
    marker: str
    line: str


KNOWN_HEADS = {
    "fcn": HeadStyle(BLACK, "o", SOLID),
    "ppm": HeadStyle(ORANGE, "s", SOLID),
    "aspp": HeadStyle(SKY, "^", SOLID),
    "ocnet": HeadStyle(GREEN, "D", DASHED),
    "encnet": HeadStyle(PURPLE, "v", DASHED),
    "ocr": HeadStyle(RED, "P", DASHED),
    "danet": HeadStyle(BLUE, "X", SOLID),
    "ccnet": HeadStyle(BLUE, "<", DASHED),
    "double_attention": HeadStyle(ORANGE, ">", DASHDOT),
    "isa": HeadStyle(GREEN, "p", DOTTED),
    "pyramid_oc": HeadStyle(GREEN, "h", DASHDOT),
    "asp_oc": HeadStyle(GREEN, "d", SOLID),
    "asp_ocr": HeadStyle(RED, "*", DOTTED),
    "non_local": HeadStyle(SKY, "D", DASHED),
    "dnlnet": HeadStyle(SKY, "v", DOTTED),
    "gcnet": HeadStyle(PURPLE, "s", SOLID),
    "emanet": HeadStyle(PURPLE, "P", DOTTED),
    "deeplabv3plus": HeadStyle(BLACK, "^", DASHED),
    "upernet": HeadStyle(ORANGE, "h", DOTTED),
}


def head_style(name: str) -> HeadStyle:
    """The style of a head: fixed for known heads, from a hash of the name for all others."""
    if name in KNOWN_HEADS:
        return KNOWN_HEADS[name]
    code = zlib.crc32(name.encode())  # `hash` differs from process to process
    code, colour = divmod(code, len(COLOURS))
    code, marker = divmod(code, len(MARKERS))
    return HeadStyle(COLOURS[colour], MARKERS[marker], LINES[code % len(LINES)])


def shortened(name: str, characters: int = LONGEST) -> str:
    """A name of at most so many characters, as it may be drawn.

    Spelled out here and not when all is drawn, since matplotlib makes the names of ticks anew then.
    """
    return safe.shortened(safe.one_line(name), characters)
