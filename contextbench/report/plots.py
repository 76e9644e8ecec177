"""Plots as descriptions: what is drawn in data units, and where names go in units of the picture.

Figures and page draw the same descriptions, in points and in pixels; both count y downwards in a
picture, as text does.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator

from contextbench.report.geometry import FloatArray, pareto_front, place_labels, spread
from contextbench.report.looks import shortened

WIDE_RANGE = 10.0  # largest over smallest value beyond which an axis is logarithmic
PADDING = 0.07  # free part of the range at both ends of an axis
WIDTH = 0.56  # mean width of a character over the font size
LINE = 1.3  # height of a line of text over the font size
MARKER = 0.4  # half the width of a marker over the font size
NEAR = 0.5  # lines between a point and its name from which on a leader joins them
AMBIGUOUS = 1.5  # so much nearer than any other must the own point be, or a leader joins them
AFTER = 0.6  # from the end of an axis to the names beyond it, over the font size

Box = tuple[float, float, float, float]  # left, top, right, bottom
Ends = tuple[float, float]


class Frame(NamedTuple):
    """A picture and the frame of its axes within it, in points or pixels."""

    name: str
    width: float
    height: float
    left: float
    top: float
    right: float
    bottom: float
    font: float
    ticks: int = 6  # of an axis, about

    def text_width(self, text: str) -> float:
        """Roughly."""
        return len(text) * WIDTH * self.font


class Tick(NamedTuple):
    """A value on an axis, and what is written there."""

    value: float
    text: str


@dataclass(frozen=True)
class Axis:
    """What values mean, and where they are: called with one, it gives its place in the picture."""

    label: str
    low: float
    high: float
    start: float  # place of `low`
    end: float
    logarithmic: bool = False
    ticks: Sequence[Tick] = ()

    @classmethod
    def over(
        cls,
        values: Iterable[float],
        start: float,
        end: float,
        *,
        label: str = "",
        logarithmic: bool = False,
        count: int = 6,
        ticks: Sequence[Tick] | None = None,
        padding: float = PADDING,
    ) -> "Axis":
        """All finite values with some space around them; about `count` round ticks unless given."""
        known = [v for v in values if math.isfinite(v) and (v > 0 or not logarithmic)]
        ends = [math.log10(v) if logarithmic else v for v in (min(known), max(known))]
        space = padding * (ends[1] - ends[0]) or max(abs(ends[1]) * PADDING, 1e-9)
        low, high = ends[0] - space, ends[1] + space
        if logarithmic:
            low, high = 10**low, 10**high
        found = _round_ticks(low, high, count, logarithmic) if ticks is None else ticks
        return cls(label, low, high, start, end, logarithmic, found)

    def __call__(self, value: float) -> float:
        low, high, value = (
            math.log10(each) if self.logarithmic else each for each in (self.low, self.high, value)
        )
        return round(self.start + (value - low) / (high - low) * (self.end - self.start), 1)


class Label(NamedTuple):
    """A name, and a line from (x1, y1) to (x2, y2) where it could be taken for another's."""

    text: str
    x: float  # of its middle, or of its left end beside curves
    y: float  # of its middle
    leader: tuple[float, float, float, float] | None


@dataclass(frozen=True)
class Point:
    """One head in a trade-off, in data units."""

    head: str
    cost: float
    score: float
    cost_ends: Ends | None = None
    score_ends: Ends | None = None
    seeds: Sequence[float] = ()
    tip: str = ""

    def bars(self) -> list[tuple[Ends, Ends]]:
        """Both ends of each bar through the point."""
        across = [((low, self.score), (high, self.score)) for low, high in _known(self.cost_ends)]
        along = [((self.cost, low), (self.cost, high)) for low, high in _known(self.score_ends)]
        return [*across, *along]


class Step(NamedTuple):
    """A part of a front as corners in data units."""

    corners: Sequence[tuple[float, float]]
    dotted: bool


@dataclass(frozen=True)
class Tradeoff:
    """mIoU against one cost: points with their names, and the front, up to the right edge."""

    frame: Frame
    x: Axis
    y: Axis
    points: Sequence[Point]
    labels: Sequence[Label]
    front: Sequence[Step]


@dataclass(frozen=True)
class Curve:
    """Values of one head at rising places, with their ends."""

    head: str
    x: FloatArray
    y: FloatArray
    low: FloatArray
    high: FloatArray
    tip: str = ""
    marked: bool = False  # few values, which are marked one by one
    singles: Sequence[FloatArray] = ()  # (places, 2) places and values of what it is the mean of

    @property
    def has_range(self) -> bool:
        return bool((self.low < self.high).any())

    @property
    def end(self) -> tuple[float, float]:
        """The last point."""
        return float(self.x[-1]), float(self.y[-1])


@dataclass(frozen=True)
class Curves:
    """Curves with their names to the right of the axes."""

    frame: Frame
    x: Axis
    y: Axis
    curves: Sequence[Curve]
    labels: Sequence[Label]


def tradeoff(
    points: Sequence[Point],
    x_label: str,
    frame: Frame,
    *,
    logarithmic: bool,
    alike: Mapping[str, Sequence[str]] | None = None,
) -> Tradeoff:
    """The plot of one cost. `alike`: head -> heads that cannot be separated from it.

    On a logarithmic axis costs are positive, and a range that is not is left out.
    """
    if logarithmic:
        points = [p if min(p.cost_ends or (1,)) > 0 else replace(p, cost_ends=None) for p in points]
    costs = [value for p in points for value in (p.cost, *(p.cost_ends or ()))]
    scores = [value for p in points for value in (p.score, *(p.score_ends or ()), *p.seeds)]
    x = Axis.over(
        costs, frame.left, frame.right, label=x_label, logarithmic=logarithmic, count=frame.ticks
    )
    y = Axis.over(scores, frame.bottom, frame.top, label="mIoU (%)")
    front = _front(points, x.high, alike or {})
    return Tradeoff(frame, x, y, points, _labels(points, x, y, frame, front), front)


def curve_plot(
    curves: Sequence[Curve],
    labels: tuple[str, str],
    frame: Frame,
    *,
    logarithmic: tuple[bool, bool],
    x_ticks: Sequence[Tick] | None = None,
) -> Curves:
    """The plot of several curves, each with a known value; `labels` and scales are of x and y."""
    names = [shortened(curve.head) for curve in curves]
    frame = frame._replace(
        right=frame.right - max(map(frame.text_width, names)) - AFTER * frame.font
    )
    inside = 0.05 if logarithmic[0] else 0.0
    x = Axis.over(
        [float(x[end]) for c in curves for x in (c.x, *(s[:, 0] for s in c.singles))
         for end in (0, -1)],
        frame.left, frame.right,
        label=labels[0], logarithmic=logarithmic[0], count=frame.ticks, ticks=x_ticks,
        padding=inside or 1e-9,
    )  # fmt: skip
    parts = [(c.y, c.low, c.high, *(s[:, 1] for s in c.singles)) for c in curves]
    values = [v for of_curve in parts for part in of_curve for v in part.tolist()]
    y = Axis.over(values, frame.bottom, frame.top, label=labels[1], logarithmic=logarithmic[1])
    ends = [(x(curve.end[0]), y(curve.end[1])) for curve in curves]
    height = frame.bottom - frame.top
    places = spread([(frame.bottom - at) / height for _, at in ends], LINE * frame.font / height)
    beyond = frame.right + AFTER * frame.font
    named = [
        Label(name, beyond, at, (*end, beyond, at))
        for name, end, place in zip(names, ends, places, strict=True)
        for at in [round(frame.bottom - height * place, 1)]
    ]
    return Curves(frame, x, y, curves, named)


def room_for(names: int, font: float) -> float:
    """Height that so many names below each other take."""
    return names * LINE * font


def is_wide(values: Iterable[float], factor: float = WIDE_RANGE) -> bool:
    """Whether values are better seen on a logarithmic axis."""
    known = [value for value in values if math.isfinite(value)]
    return bool(known) and min(known) > 0 and max(known) > factor * min(known)


def _round_ticks(low: float, high: float, count: int, logarithmic: bool) -> list[Tick]:
    if logarithmic:
        places = LogLocator(subs=(1, 2, 5), numticks=20).tick_values(low, high)
        inside = [float(place) for place in places if low <= place <= high]
        # Within less than a decade there may be none of them.
        if len(inside) >= 2:
            return [Tick(value, f"{value:g}") for value in inside]
    places = MaxNLocator(count, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return [Tick(float(place), f"{place:g}") for place in places if low <= place <= high]


def _known(ends: Ends | None) -> list[Ends]:
    return [] if ends is None or any(map(math.isnan, ends)) else [ends]


def _front(points: Sequence[Point], right: float, alike: Mapping[str, Sequence[str]]) -> list[Step]:
    """The best score that a cost buys; dotted between heads that cannot be separated."""
    costs, scores = [p.cost for p in points], [p.score for p in points]
    best = [points[i] for i in pareto_front(costs, scores)]
    steps = [
        Step(
            [(one.cost, one.score), (two.cost, one.score), (two.cost, two.score)],
            two.head in alike.get(one.head, ()),
        )
        for one, two in itertools.pairwise(best)
    ]
    last = best[-1]
    return [*steps, Step([(last.cost, last.score), (right, last.score)], False)]


def _labels(
    points: Sequence[Point], x: Axis, y: Axis, frame: Frame, front: Sequence[Step]
) -> list[Label]:
    anchors = np.array([(x(p.cost), y(p.score)) for p in points])
    texts = [shortened(p.head) for p in points]
    sizes = np.array([(frame.text_width(text) + 0.5 * frame.font, LINE * frame.font)
                      for text in texts])  # fmt: skip
    lines = [pair for step in front for pair in itertools.pairwise(step.corners)]
    lines += [bar for point in points for bar in point.bars()]
    lines += [((p.cost, min(p.seeds)), (p.cost, max(p.seeds))) for p in points if p.seeds]
    half = MARKER * frame.font
    obstacles = [_around(x, y, (at, at), half) for at in ((p.cost, p.score) for p in points)]
    obstacles += [_around(x, y, line, 1.0) for line in lines]
    obstacles += [
        _around(x, y, ((p.cost, seed), (p.cost, seed)), half / 2)
        for p in points
        for seed in p.seeds
    ]
    bounds = (frame.left, frame.top, frame.right, frame.bottom)
    centres = place_labels(anchors, sizes, np.array(obstacles), bounds)
    return [
        Label(text, round(centre[0], 1), round(centre[1], 1), _leader(i, anchors, centre, size))
        for i, (text, centre, size) in enumerate(zip(texts, centres.tolist(), sizes, strict=True))
    ]


def _around(x: Axis, y: Axis, line: tuple[Ends, Ends], margin: float) -> Box:
    """A box around a horizontal or vertical line, which labels should not cover."""
    (x1, x2), (y1, y2) = sorted(x(at[0]) for at in line), sorted(y(at[1]) for at in line)
    return (x1 - margin, y1 - margin, x2 + margin, y2 + margin)


def _leader(
    own: int, anchors: FloatArray, centre: Sequence[float], size: FloatArray
) -> tuple[float, float, float, float] | None:
    """From a point to its name, where this is far or another point is about as near."""
    nearest = np.clip(anchors, np.array(centre) - size / 2, np.array(centre) + size / 2)
    gaps = np.hypot(*(nearest - anchors).T)
    others = np.delete(gaps, own)
    close = others.size and others.min() < AMBIGUOUS * gaps[own]
    if gaps[own] <= NEAR * size[1] and not close:
        return None
    x1, y1, x2, y2 = np.round([*anchors[own], *nearest[own]], 1).tolist()
    return (x1, y1, x2, y2)
