"""One look for all figures, and writing them. Built on `Figure` objects: no pyplot, no state.

Colours are those of Okabe and Ito, chosen to be told apart with every kind of colour vision
(jfly.uni-koeln.de/color, 2008), less yellow, which is hard to see on white. Each head also has its
own marker and line style, so that nothing depends on colour.
"""

import textwrap
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from contextbench.files import write_atomic

ONE_COLUMN, TWO_COLUMNS = 3.5, 7.16  # inches, the columns of a two-column paper
PNG_DPI = 200
WIDE_RANGE = 10.0  # largest over smallest value beyond which an axis is logarithmic
TITLE, BODY, SMALL = 8, 7, 6  # points, at print size
CHARACTER = 0.6  # mean width of a character over the font size
INK, GREY, RULE = "#222222", "#666666", "#DDDDDD"

BLACK, ORANGE, SKY, GREEN, BLUE, RED, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
COLOURS = (BLACK, ORANGE, SKY, GREEN, BLUE, RED, PURPLE)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "d")
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
}


def head_style(name: str) -> HeadStyle:
    """The style of a head: fixed for known heads, from a hash of the name for all others."""
    if name in KNOWN_HEADS:
        return KNOWN_HEADS[name]
    code = zlib.crc32(name.encode())  # `hash` differs from process to process
    code, colour = divmod(code, len(COLOURS))
    code, marker = divmod(code, len(MARKERS))
    return HeadStyle(COLOURS[colour], MARKERS[marker], LINES[code % len(LINES)])


def new_figure(width: float, height: float, title: str, caption: str) -> Figure:
    """An empty figure in inches, with its title above and an explaining line below."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    figure.suptitle(
        wrapped(title, width, TITLE), x=0.01, ha="left", size=TITLE, weight="bold", color=INK
    )
    if caption:
        text = wrapped(caption, width, SMALL)
        figure.supxlabel(text, x=0.01, ha="left", size=SMALL, color=GREY)
    return figure


def style_axes(axes: Axes, x_label: str, y_label: str) -> None:
    """Quiet axes: two spines, a light grid behind the data, print sizes."""
    axes.set_xlabel(x_label, size=BODY, color=INK)
    axes.set_ylabel(y_label, size=BODY, color=INK)
    axes.tick_params(which="both", labelsize=BODY, color=GREY, labelcolor=INK, length=2.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.grid(color=RULE, linewidth=0.5)
    axes.set_axisbelow(True)


def scale_axis(axes: Axes, which: Literal["x", "y"], values: Sequence[float]) -> None:
    """A logarithmic axis where positive values span more than `WIDE_RANGE`, else round steps."""
    positive = [value for value in values if value > 0]
    axis = axes.xaxis if which == "x" else axes.yaxis
    if positive and max(positive) > WIDE_RANGE * min(positive):
        logarithmic_axis(axes, which)
    else:
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10], min_n_ticks=3))
        axis.set_major_formatter(FuncFormatter(_plain))


def logarithmic_axis(axes: Axes, which: Literal["x", "y"]) -> None:
    """A logarithmic axis with plain numbers at 1, 2 and 5."""
    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(FuncFormatter(_plain))


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write `name.png` and `name.svg`, whole or not at all; an equal figure gives equal bytes."""
    png, svg = folder / f"{name}.png", folder / f"{name}.svg"
    write_atomic(png, lambda file: figure.savefig(file, format="png", dpi=PNG_DPI))
    # The salt of SVG ids has no other place than the settings; without it they are random.
    with mpl.rc_context({"svg.hashsalt": "contextbench"}):
        write_atomic(
            svg,
            lambda file: figure.savefig(file, format="svg", dpi=PNG_DPI, metadata={"Date": None}),
        )
    return [png, svg]


def wrapped(text: str, width: float, size: int) -> str:
    """Text in lines that fit a width in inches at a font size in points."""
    characters = int(width * 72 / (CHARACTER * size))
    return "\n".join(textwrap.wrap(text, characters, break_on_hyphens=False))


def _plain(value: float, _position: int | None) -> str:
    return f"{value:g}"
