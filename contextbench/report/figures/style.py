"""One look for all figures, and writing them. Built on `Figure` objects: no pyplot, no state.

Colours are those of Okabe and Ito, chosen to be told apart with every kind of colour vision
(jfly.uni-koeln.de/color, 2008), less yellow, which is hard to see on white. Each head also has its
own marker and line style, so that nothing depends on colour.
"""

import math
import textwrap
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from contextbench.system import text as safe
from contextbench.system.files import write_atomic
from contextbench.system.text import printable

Width = Literal["one", "two"]
Format = Literal["png", "svg", "pdf"]

ONE_COLUMN, TWO_COLUMNS = 3.5, 7.16  # inches, the columns of a two-column paper
WIDTHS: dict[Width, float] = {"one": ONE_COLUMN, "two": TWO_COLUMNS}
FORMATS: tuple[Format, ...] = ("png", "svg")  # written unless others are asked for
METADATA: dict[Format, dict[str, None]] = {  # without dates: equal figures give equal bytes
    "png": {},
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
}
PNG_DPI = 200
WIDE_RANGE = 10.0  # largest over smallest value beyond which an axis is logarithmic
TITLE, BODY, SMALL = 8, 7, 6  # points, at print size
CHARACTER = 0.6  # mean width of a character over the font size
LONGEST = 20  # characters of a name beside a mark
LINE_HEIGHT = 1.25  # of a line of text over the font size
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


def shortened(name: str, characters: int) -> str:
    """A name of at most so many characters, as it may be drawn.

    Spelled out here and not when all is drawn, since matplotlib makes the names of ticks anew then.
    """
    return safe.shortened(safe.one_line(name), characters)


class LiteralFigure(Figure):
    """A figure whose texts are printed as they are: a name with two `$` is no formula.

    Characters that no font draws are spelled out.
    """

    def draw(self, renderer: Any) -> None:
        for text in self.findobj(Text):
            text.set_parse_math(False)
            text.set_text(printable(text.get_text()))
        super().draw(renderer)


def new_figure(width: float, height: float, title: str, caption: str) -> Figure:
    """An empty figure, `height` inches between its title above and explaining lines below."""
    heading, lines = wrapped(title, width, TITLE), wrapped(caption, width, SMALL)
    full = height + text_height(heading, TITLE) + text_height(lines, SMALL)
    figure = LiteralFigure(figsize=(width, full), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    text = figure.suptitle(heading, x=0.01, ha="left", size=TITLE, weight="bold", color=INK)
    text.set_y(1 - 0.05 / full)  # where no layout puts it into its place
    if lines:
        figure.supxlabel(lines, x=0.01, ha="left", size=SMALL, color=GREY)
    return figure


def column_width(needed: float, wanted: float | None) -> float:
    """The `wanted` width of a figure, or the narrowest of a paper that `needed` inches fit into.

    What needs more than that is as wide as it needs to be.
    """
    fitting = [width for width in (ONE_COLUMN, TWO_COLUMNS) if width >= needed]
    return max(min(fitting, default=needed), wanted or 0)


def style_axes(axes: Axes, x_label: str, y_label: str) -> None:
    """Quiet axes: two spines, a light grid behind the data, print sizes."""
    axes.set_xlabel(x_label, size=BODY, color=INK)
    axes.set_ylabel(y_label, size=BODY, color=INK)
    axes.tick_params(which="both", labelsize=BODY, color=GREY, labelcolor=INK, length=2.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.grid(color=RULE, linewidth=0.5)
    axes.set_axisbelow(True)


def scale_axis(
    axes: Axes, which: Literal["x", "y"], values: Sequence[float], wide: float = WIDE_RANGE
) -> None:
    """A logarithmic axis where positive values span more than a factor, else round steps."""
    positive = [value for value in values if value > 0]
    axis = axes.xaxis if which == "x" else axes.yaxis
    if positive and max(positive) > wide * min(positive):
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


def save(
    figure: Figure, folder: Path, name: str, formats: Sequence[Format] = FORMATS
) -> list[Path]:
    """Write `name.FORMAT` for each format, whole or not at all; equal figures give equal bytes."""
    paths = [folder / f"{name}.{kind}" for kind in formats]
    for kind, path in zip(formats, paths, strict=True):
        # The salt of SVG ids has no other place than the settings; without it they are random.
        # Publishers refuse fonts of type 3, which is what PDF files get by default.
        with mpl.rc_context({"svg.hashsalt": "contextbench", "pdf.fonttype": 42}):
            write_atomic(path, partial(_print, figure, kind))
    return paths


def _print(figure: Figure, kind: Format, file: BinaryIO) -> None:
    figure.savefig(file, format=kind, dpi=PNG_DPI, metadata=METADATA[kind])


def wrapped(text: str, width: float, size: int) -> str:
    """Text in lines that fit a width in inches at a font size in points."""
    characters = int(width * 72 / (CHARACTER * size))
    return "\n".join(textwrap.wrap(text, characters, break_on_hyphens=False))


def text_height(text: str, size: float) -> float:
    """Inches that lines of text take at a font size in points, with some air; 0 without text."""
    return (text.count("\n") + 1.5) * LINE_HEIGHT * size / 72 if text else 0.0


def text_width(texts: Sequence[str], size: float) -> float:
    """Inches that the longest of some texts takes at a font size in points, roughly."""
    return max(map(len, texts), default=0) * CHARACTER * size / 72


def signed(value: float) -> str:
    """A difference to one decimal with its sign, no change without; a dash where unknown."""
    if math.isnan(value):
        return "–"
    text = f"{value:+.1f}".replace("-", "−")
    return "0.0" if text[1:] == "0.0" else text


def _plain(value: float, _position: int | None) -> str:
    return f"{value:g}"
