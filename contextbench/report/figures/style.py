"""Writing figures, and how all of them look. Built on `Figure` objects: no pyplot, no state."""

import base64
import io
import textwrap
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from contextbench.report.looks import CHARACTER, shortened
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
TITLE, BODY, SMALL = 8, 7, 6  # points, at print size
LINE_HEIGHT = 1.25  # of a line of text over the font size
INK, GREY, RULE = "#222222", "#666666", "#DDDDDD"


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


def label_panel(axes: Axes, title: str, below: Sequence[str]) -> None:
    """A picture in a thin frame, with a title above and small lines below that fit its width."""
    room = axes.bbox.width / axes.figure.dpi * 72 / CHARACTER
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(color=GREY, linewidth=0.4)
    axes.set_title(shortened(title, int(room / BODY)), size=BODY, pad=2)
    lines = [shortened(line, int(room / SMALL)) for line in below if line]
    axes.set_xlabel("\n".join(lines), size=SMALL, labelpad=2)


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


class Picture(NamedTuple):
    """A figure for a page: a data URI, and in words what it shows."""

    uri: str
    text: str


def data_uri(figure: Figure) -> str:
    """The figure as an SVG image in the source of a page; equal figures give equal texts."""
    content = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "contextbench"}):
        figure.savefig(content, format="svg", metadata=METADATA["svg"])
    return f"data:image/svg+xml;base64,{base64.b64encode(content.getvalue()).decode()}"


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


def inked(colour: str) -> str:
    """A colour that is dark enough for text on white, half way to that of other text."""
    return str(to_hex(0.5 * (np.array(to_rgb(colour)) + np.array(to_rgb(INK)))))
