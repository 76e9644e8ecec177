"""How heads and plots are drawn in SVG."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from matplotlib.markers import MarkerStyle
from matplotlib.path import Path
from matplotlib.transforms import Affine2D

from contextbench.report.geometry import FloatArray
from contextbench.report.looks import BLACK, head_style
from contextbench.report.plots import Axis, Curve, Frame

MARKER = 11.0  # pixels, width of a marker
CURVE_POINTS = 120  # of a drawn curve
MARKS = 5  # on a curve
DASHES = {"-": "none", "--": "7 3", ":": "2 3", "-.": "8 3 2 3"}
LETTERS = {Path.MOVETO: "M", Path.LINETO: "L", Path.CURVE4: "C", Path.CLOSEPOLY: "Z"}

WIDE = Frame("wide", 780, 430, 52, 14, 764, 380, 12.5, 7)
NARROW = Frame("narrow", 350, 380, 44, 12, 342, 330, 12.5, 4)
SIZES = (WIDE, NARROW)
"""Each plot exists in two sizes, for wide and for narrow screens, since text that shrinks with its
picture cannot be read on a phone."""


@dataclass(frozen=True)
class Mark:
    """How a head is drawn wherever it appears on the page."""

    index: int  # of the head in its comparison
    name: str
    colour: str  # a CSS colour
    marker: str  # outline about the origin, an SVG path
    dash: str


def marks_of(names: Iterable[str]) -> dict[str, Mark]:
    """The looks of heads, those of the figures; black follows the colour of the text."""
    marks = {}
    for index, name in enumerate(names):
        style = head_style(name)
        colour = "var(--ink)" if style.colour == BLACK else style.colour
        marks[name] = Mark(index, name, colour, outline(style.marker), DASHES[style.line])
    return marks


def outline(marker: str) -> str:
    """A marker of matplotlib about the origin."""
    style = MarkerStyle(marker)
    path = style.get_path().transformed(style.get_transform() + Affine2D().scale(MARKER, -MARKER))
    parts = []
    for numbers, code in path.iter_segments():
        corners = "" if code == Path.CLOSEPOLY else " ".join(f"{n:.2f}" for n in numbers)
        parts.append(LETTERS[code] + corners)
    return "".join(parts)


def path_of(corners: Iterable[tuple[float, float]], x: Axis, y: Axis) -> str:
    """A line through corners in data units; a gap where one has no number."""
    runs = itertools.groupby(corners, key=lambda corner: corner[1] == corner[1])
    lines = [[(x(a), y(b)) for a, b in run] for known, run in runs if known]
    return "".join("M" + "L".join(f"{a:g},{b:g}" for a, b in line) for line in lines)


def line_of(curve: Curve, x: Axis, y: Axis) -> str:
    """The middle of a curve."""
    thin = _thinned(curve)
    return path_of(zip(curve.x[thin], curve.y[thin], strict=True), x, y)


def band_of(curve: Curve, x: Axis, y: Axis) -> str:
    """The area between the ends of a curve's values; empty without."""
    thin = _thinned(curve)
    there = zip(curve.x[thin], curve.high[thin], strict=True)
    back = zip(curve.x[thin][::-1], curve.low[thin][::-1], strict=True)
    return path_of([*there, *back], x, y) + "Z" if curve.has_range else ""


def marks_on(curve: Curve, index: int) -> list[tuple[float, float]]:
    """Some points of a curve, others than those of its neighbours."""
    number = len(curve.x)
    places = slice((1 + index) * number // 40, None, max(1, number // MARKS))
    return list(zip(curve.x[places].tolist(), curve.y[places].tolist(), strict=True))


def heights_of(values: FloatArray) -> str:
    """All values from the largest to the smallest, as an area above zero in a box of 100 x 100."""
    ordered = np.sort(values)[::-1].clip(0)
    tops = (100 - 100 * ordered / max(float(ordered[0]), 1e-9)).tolist()
    edges = np.linspace(0, 100, len(values) + 1).tolist()
    corners = zip(itertools.pairwise(edges), tops, strict=True)
    steps = (f"L{a:.4g},{top:.4g}H{b:.4g}" for (a, b), top in corners)
    return f"M0,100{''.join(steps)}V100Z"


def _thinned(curve: Curve) -> list[int]:
    places = np.linspace(0, len(curve.x) - 1, CURVE_POINTS).round().astype(int)
    return sorted(set(places.tolist()))
