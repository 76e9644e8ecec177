"""Where everything in the plots of the report page goes, in pixels. Templates draw it.

Each plot exists in two sizes, for wide and for narrow screens, since text that shrinks with its
picture cannot be read on a phone.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator

from contextbench.report.figures.geometry import FloatArray, pareto_front, place_labels, spread
from contextbench.report.figures.style import BLACK, WIDE_RANGE, head_style, shortened

FONT = 12.5  # pixels, of all text in plots
CHARACTER = 0.56  # mean width of a character over the font size
LONGEST_LABEL = 22  # characters of a name beside its point; the whole name is in the tooltip
MARKER = 5.0  # half the width of a marker
SEED = 2.5  # radius of the dot of a seed
PADDING = 0.07  # free part of the range at both ends of an axis
LINE_HEIGHT = 15.0

DASHES = {"-": "none", "--": "7 3", ":": "2 3", "-.": "8 3 2 3"}
STAR_INNER = 0.45


class Size(NamedTuple):
    """A picture and the frame of its axes within it."""

    name: Literal["wide", "narrow"]
    width: float
    height: float
    left: float
    top: float
    right: float
    bottom: float


WIDE = Size("wide", 780, 430, 52, 14, 764, 380)
NARROW = Size("narrow", 350, 380, 44, 12, 342, 330)
SIZES = (WIDE, NARROW)


@dataclass(frozen=True)
class Mark:
    """How a head is drawn wherever it appears on the page."""

    index: int  # of the head in its comparison
    name: str
    colour: str  # a CSS colour
    marker: str  # outline about the origin, an SVG path
    dash: str


class Tick(NamedTuple):
    """A place on an axis, and what is written there."""

    at: float
    text: str


class Label(NamedTuple):
    """Text centred at a place, with a line from (x1, y1) to (x2, y2) where it lies far away."""

    x: float
    y: float
    text: str
    leader: tuple[float, float, float, float] | None


@dataclass(frozen=True)
class Scale:
    """Values -> pixels, on a linear or logarithmic axis."""

    low: float
    high: float
    start: float  # pixel of `low`
    end: float
    logarithmic: bool = False

    @classmethod
    def over(
        cls, values: Iterable[float], start: float, end: float, *, logarithmic: bool = False
    ) -> "Scale":
        """A scale with all finite values inside and some space around them."""
        known = [_log(value) if logarithmic else value for value in values if math.isfinite(value)]
        low, high = min(known), max(known)
        space = PADDING * (high - low) or max(abs(high) * PADDING, 1e-9)
        low, high = low - space, high + space
        if logarithmic:
            low, high = 10**low, 10**high
        return cls(low, high, start, end, logarithmic)

    def __call__(self, value: float) -> float:
        low, high, value = (
            _log(each) if self.logarithmic else each for each in (self.low, self.high, value)
        )
        return round(self.start + (value - low) / (high - low) * (self.end - self.start), 1)

    def ticks(self, count: int) -> list[Tick]:
        """About `count` round values inside the scale."""
        if self.logarithmic:
            places = LogLocator(subs=(1, 2, 5), numticks=20).tick_values(self.low, self.high)
            inside = [float(p) for p in places if self.low <= p <= self.high]
            # Within less than a decade there may be none of them.
            if len(inside) >= 2:
                return [Tick(self(value), f"{value:g}") for value in inside]
        places = MaxNLocator(count, steps=[1, 2, 2.5, 5, 10]).tick_values(self.low, self.high)
        inside = [float(p) for p in places if self.low <= p <= self.high]
        return [Tick(self(value), f"{value:g}") for value in inside]


@dataclass(frozen=True)
class Datum:
    """One head in the trade-off plot, in the units of the axes; NaN for ends that are unknown."""

    mark: Mark
    cost: float
    cost_range: tuple[float, float]
    score: float
    score_range: tuple[float, float]
    seeds: Sequence[float]
    tip: str


@dataclass(frozen=True)
class Point:
    """One head in the trade-off plot, in pixels."""

    mark: Mark
    x: float
    y: float
    x_bar: tuple[float, float] | None
    y_bar: tuple[float, float] | None
    seeds: Sequence[float]
    label: Label
    tip: str


@dataclass(frozen=True)
class Tradeoff:
    """mIoU against one cost."""

    size: Size
    scale: Literal["linear", "log"]
    x_label: str
    y_label: str
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    points: Sequence[Point]
    front: str  # path of the step line


@dataclass(frozen=True)
class Series:
    """The smoothed loss of one head: values at steps, with the lowest and highest of its seeds."""

    mark: Mark
    steps: FloatArray
    middle: FloatArray
    low: FloatArray
    high: FloatArray
    tip: str


@dataclass(frozen=True)
class Curve:
    """One head in the plot of losses, in pixels."""

    mark: Mark
    line: str  # path
    band: str  # path; empty for one seed
    markers: Sequence[tuple[float, float]]
    label: Label
    tip: str


@dataclass(frozen=True)
class Curves:
    """Losses against steps."""

    size: Size
    right: float  # end of the axis; names are beyond it
    x_label: str
    y_label: str
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    curves: Sequence[Curve]


def mark(index: int, name: str) -> Mark:
    """The look of a head, that of the figures; black follows the colour of the text."""
    style = head_style(name)
    colour = "var(--ink)" if style.colour == BLACK else style.colour
    return Mark(index, name, colour, MARKER_PATHS[style.marker], DASHES[style.line])


def is_wide(values: Iterable[float]) -> bool:
    """Whether values are better seen on a logarithmic axis."""
    known = [value for value in values if math.isfinite(value)]
    return bool(known) and min(known) > 0 and max(known) > WIDE_RANGE * min(known)


def tradeoff(
    data: Sequence[Datum], x_label: str, size: Size, *, logarithmic: bool = False
) -> Tradeoff:
    """The plot of one cost. Every datum has a cost and a score; costs are positive if logarithmic.

    A logarithmic axis leaves out the ends of a cost's range that are not positive.
    """
    costs = [v for d in data for v in (d.cost, *d.cost_range) if v > 0 or not logarithmic]
    scores = [v for d in data for v in (d.score, *d.score_range, *d.seeds)]
    x = Scale.over(costs, size.left, size.right, logarithmic=logarithmic)
    y = Scale.over(scores, size.bottom, size.top)
    front = _front([(d.cost, d.score) for d in data], x, y)
    labels = _labels(data, x, y, size, front)
    return Tradeoff(
        size=size,
        scale="log" if logarithmic else "linear",
        x_label=x_label,
        y_label="mIoU (%)",
        x_ticks=x.ticks(4 if size is NARROW else 7),
        y_ticks=y.ticks(6),
        points=[_point(datum, x, y, label) for datum, label in zip(data, labels, strict=True)],
        front=_path(front),
    )


def curves(series: Sequence[Series], x_label: str, y_label: str, size: Size) -> Curves:
    """The plot of several losses, names at the right ends of the lines."""
    names = max(len(shortened(each.mark.name, LONGEST_LABEL)) for each in series)
    right = size.right - names * CHARACTER * FONT - 8
    values = [v for s in series for v in (*s.low.tolist(), *s.high.tolist())]
    steps = [v for s in series for v in (float(s.steps[0]), float(s.steps[-1]))]
    low, high = min(steps), max(steps)
    x = Scale(low, high if high > low else low + 1, size.left, right)
    y = Scale.over(values, size.bottom, size.top, logarithmic=is_wide(values))
    height = size.bottom - size.top
    ends = [(size.bottom - y(float(each.middle[-1]))) / height for each in series]
    places = [size.bottom - height * place for place in spread(ends, LINE_HEIGHT / height)]
    return Curves(
        size=size,
        right=right,
        x_label=x_label,
        y_label=y_label,
        x_ticks=x.ticks(4 if size is NARROW else 7),
        y_ticks=y.ticks(6),
        curves=[
            _curve(each, x, y, round(place, 1)) for each, place in zip(series, places, strict=True)
        ],
    )


def axis_of(values: Iterable[float]) -> tuple[Scale, list[Tick]]:
    """A scale in percent of a width that holds all values, with its ticks."""
    scale = Scale.over(values, 0, 100)
    return scale, scale.ticks(5)


def _log(value: float) -> float:
    return math.log10(value)


def _point(datum: Datum, x: Scale, y: Scale, label: Label) -> Point:
    return Point(
        mark=datum.mark,
        x=x(datum.cost),
        y=y(datum.score),
        x_bar=_bar(datum.cost_range, x),
        y_bar=_bar(datum.score_range, y),
        seeds=[y(value) for value in datum.seeds] if len(datum.seeds) > 1 else [],
        label=label,
        tip=datum.tip,
    )


def _bar(ends: tuple[float, float], scale: Scale) -> tuple[float, float] | None:
    if any(math.isnan(end) or (scale.logarithmic and end <= 0) for end in ends):
        return None
    return (scale(ends[0]), scale(ends[1]))


def _front(points: Sequence[tuple[float, float]], x: Scale, y: Scale) -> list[tuple[float, float]]:
    """Corners of the best score that a cost buys, up to the right edge."""
    costs, scores = zip(*points, strict=True)
    best = [(x(costs[i]), y(scores[i])) for i in pareto_front(costs, scores)]
    corners = best[:1]
    for left, right in itertools.pairwise(best):
        corners += [(right[0], left[1]), right]
    return [*corners, (x.end, best[-1][1])]


def _path(corners: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:g},{y:g}" for x, y in corners)


def _labels(
    data: Sequence[Datum], x: Scale, y: Scale, size: Size, front: Sequence[tuple[float, float]]
) -> list[Label]:
    anchors = np.array([(x(d.cost), y(d.score)) for d in data])
    texts = [shortened(d.mark.name, LONGEST_LABEL) for d in data]
    extents = np.array([(len(text) * CHARACTER * FONT + 6, LINE_HEIGHT) for text in texts])
    lines = [_segment(line) for line in itertools.pairwise(front)]
    obstacles = np.array([*(box for d in data for box in _boxes(d, x, y)), *lines])
    bounds = (size.left, size.top, size.right, size.bottom)
    centres = place_labels(anchors, extents, obstacles, bounds)
    return [
        _label(anchor, centre, extent, text)
        for anchor, centre, extent, text in zip(anchors, centres, extents, texts, strict=True)
    ]


def _label(anchor: FloatArray, centre: FloatArray, extent: FloatArray, text: str) -> Label:
    """A name at its place; a leader where it lies more than its height from its point."""
    near = np.clip(anchor, centre - extent / 2, centre + extent / 2)
    gap = float(np.hypot(*(near - anchor)))
    ends = (*np.round(anchor, 1).tolist(), *np.round(near, 1).tolist())
    x, y = np.round(centre, 1).tolist()
    return Label(x, y, text, (ends[0], ends[1], ends[2], ends[3]) if gap > LINE_HEIGHT else None)


def _boxes(datum: Datum, x: Scale, y: Scale) -> list[tuple[float, ...]]:
    """What the labels should not cover: the marker and its bars."""
    at = (x(datum.cost), y(datum.score))
    boxes: list[tuple[float, ...]] = [
        (at[0] - MARKER, at[1] - MARKER, at[0] + MARKER, at[1] + MARKER)
    ]
    across, along = _bar(datum.cost_range, x), _bar(datum.score_range, y)
    if across:
        boxes.append(_segment(((across[0], at[1]), (across[1], at[1]))))
    if along:
        boxes.append(_segment(((at[0], along[0]), (at[0], along[1]))))
    for seed in datum.seeds:
        boxes.append((at[0] - SEED, y(seed) - SEED, at[0] + SEED, y(seed) + SEED))
    return boxes


def _segment(
    ends: tuple[tuple[float, float], tuple[float, float]],
) -> tuple[float, float, float, float]:
    """A thin box around a horizontal or vertical line."""
    (x1, y1), (x2, y2) = ends
    return (min(x1, x2) - 1, min(y1, y2) - 1, max(x1, x2) + 1, max(y1, y2) + 1)


def _curve(series: Series, x: Scale, y: Scale, label_at: float) -> Curve:
    def corners(values: FloatArray) -> list[tuple[float, float]]:
        return [
            (x(step), y(value))
            for step, value in zip(series.steps.tolist(), values.tolist(), strict=True)
        ]

    middle, several = corners(series.middle), bool((series.low < series.high).any())
    band = _path([*corners(series.high), *reversed(corners(series.low))]) + "Z" if several else ""
    text = shortened(series.mark.name, LONGEST_LABEL)
    end_x, end_y = middle[-1]
    label = Label(x.end + 8, label_at, text, (end_x, end_y, x.end + 6, label_at) if text else None)
    first, step = (1 + series.mark.index) * len(middle) // 40, max(1, len(middle) // 5)
    return Curve(series.mark, _path(middle), band, middle[first::step], label, series.tip)


def _polygon(corners: int, *, turn: float = -90.0, radius: float = 1.0, inner: float = 1.0) -> str:
    """A regular polygon, or a star where every second corner lies at `inner`."""
    points = []
    for i in range(corners):
        r = MARKER * 1.1 * radius * (inner if i % 2 else 1.0)
        angle = math.radians(turn + 360 * i / corners)
        points.append((round(r * math.cos(angle), 2), round(r * math.sin(angle), 2)))
    return _path(points) + "Z"


def _plus(turn: float) -> str:
    """A filled plus sign, turned by degrees."""
    arm, half = MARKER * 1.1, MARKER * 0.38
    corners = [
        (-half, -arm), (half, -arm), (half, -half), (arm, -half), (arm, half), (half, half),
        (half, arm), (-half, arm), (-half, half), (-arm, half), (-arm, -half), (-half, -half),
    ]  # fmt: skip
    angle = math.radians(turn)
    cos, sin = math.cos(angle), math.sin(angle)
    return (
        _path([(round(x * cos - y * sin, 2), round(x * sin + y * cos, 2)) for x, y in corners])
        + "Z"
    )


def _circle() -> str:
    r = MARKER * 0.92
    return f"M{-r:g},0A{r:g},{r:g} 0 1 1 {r:g},0A{r:g},{r:g} 0 1 1 {-r:g},0Z"


MARKER_PATHS: Mapping[str, str] = {
    "o": _circle(),
    "s": _polygon(4, turn=45, radius=1.15),
    "^": _polygon(3, radius=1.15),
    "v": _polygon(3, turn=90, radius=1.15),
    "<": _polygon(3, turn=180, radius=1.15),
    ">": _polygon(3, turn=0, radius=1.15),
    "D": _polygon(4, turn=0, radius=1.1),
    "d": _polygon(4, turn=-90, radius=1.2, inner=0.6),
    "p": _polygon(5),
    "h": _polygon(6),
    "P": _plus(0),
    "X": _plus(45),
    "*": _polygon(10, radius=1.25, inner=STAR_INNER),
}
"""SVG outlines of matplotlib's markers of the same names."""
