"""Geometry of the figures: which points no other point beats, and where labels go."""

import itertools
import math
from collections.abc import Sequence
from statistics import fmean

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

DIRECTIONS = tuple(
    (math.cos(angle), math.sin(angle)) for angle in np.deg2rad(np.arange(0, 360, 30)).tolist()
)
OVERLAP, OUTSIDE, LENGTH = 10.0, 20.0, 0.02  # penalties: per area, per area, per unit of distance
FOREIGN = 2.0  # penalty per area of a label that lies nearer to another point than to its own
SWEEPS = 4


def pareto_front(cost: Sequence[float], score: Sequence[float]) -> list[int]:
    """Indices that no other point beats (cost lower or equal, score higher or equal, one strictly).

    In order of rising cost. Equal points are all kept; points with a NaN never belong.
    """
    points = list(zip(cost, score, strict=True))
    known = [i for i, point in enumerate(points) if not any(map(math.isnan, point))]
    known.sort(key=lambda i: (points[i][0], -points[i][1]))
    front: list[int] = []
    for i in known:
        if not front or points[i][1] > points[front[-1]][1] or points[i] == points[front[-1]]:
            front.append(i)
    return front


def place_labels(
    anchors: FloatArray, sizes: FloatArray, obstacles: FloatArray, bounds: Sequence[float]
) -> FloatArray:
    """Centres of labels near their anchors that overlap neither each other nor obstacles, and lie
    nearer to their own anchor than to others where there is room.

    anchors, sizes: (P, 2) centre of each point, width and height of its label; obstacles: (M, 4)
    boxes (left, bottom, right, top); bounds: one such box that labels stay within. One unit for
    all. Returns (P, 2). Each label in turn takes the cheapest of its candidate places, given the
    others; a few sweeps settle it.
    """
    candidates = [_candidates(a, s) for a, s in zip(anchors, sizes, strict=True)]
    fixed = [
        _fixed_cost(boxes, anchors, own, obstacles, np.asarray(bounds))
        for own, boxes in enumerate(candidates)
    ]
    chosen = np.stack([boxes[cost.argmin()] for boxes, cost in zip(candidates, fixed, strict=True)])
    for _, i in itertools.product(range(SWEEPS), range(len(anchors))):
        others = np.delete(chosen, i, axis=0)
        cost = fixed[i] + OVERLAP * _overlaps(candidates[i], others).sum(1)
        chosen[i] = candidates[i][cost.argmin()]
    centres: FloatArray = (chosen[:, :2] + chosen[:, 2:]) / 2
    return centres


def spread(ends: Sequence[float], gap: float) -> list[float]:
    """Places from 0 to 1 in the order of `ends`, `gap` apart or more, in all closest to them.

    Closest in least squares: without the gaps of those before it, each place must not be lower than
    the one before, which is isotonic regression, done by pooling neighbours that are not in order.
    Where 0 to 1 is too short for all, the places go on above 1.
    """
    order = sorted(range(len(ends)), key=ends.__getitem__)
    pools: list[list[float]] = []
    for position, index in enumerate(order):
        pools.append([ends[index] - position * gap])
        while len(pools) > 1 and fmean(pools[-2]) > fmean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    levels = [fmean(pool) for pool in pools for _ in pool]
    highest = max(0.0, 1 - (len(ends) - 1) * gap)
    places = [0.0] * len(ends)
    for position, (index, level) in enumerate(zip(order, levels, strict=True)):
        places[index] = min(max(0.0, level), highest) + position * gap
    return places


def _candidates(anchor: FloatArray, size: FloatArray) -> FloatArray:
    """(D, 4) boxes around a point: every direction, touching it first and then further away."""
    width, height = size
    boxes = []
    for distance, (dx, dy) in itertools.product((0.9, 1.6, 2.4, 3.4, 5.0), DIRECTIONS):
        x = anchor[0] + dx * (width / 2 + distance * height / 2)
        y = anchor[1] + dy * (height / 2 + distance * height / 2)
        boxes.append((x - width / 2, y - height / 2, x + width / 2, y + height / 2))
    return np.array(boxes)


def _fixed_cost(
    boxes: FloatArray, anchors: FloatArray, own: int, obstacles: FloatArray, bounds: FloatArray
) -> FloatArray:
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    inside = _overlaps(boxes, bounds[None]).sum(1)
    distance = np.hypot(*((boxes[:, :2] + boxes[:, 2:]) / 2 - anchors[own]).T)
    covered = _overlaps(boxes, obstacles).sum(1)
    gaps = _gaps(boxes, anchors)
    others = np.delete(gaps, own, axis=1).min(axis=1, initial=np.inf)
    foreign = area * (others < gaps[:, own])
    cost: FloatArray = (
        OVERLAP * covered + OUTSIDE * (area - inside) + LENGTH * distance + FOREIGN * foreign
    )
    return cost


def _gaps(boxes: FloatArray, points: FloatArray) -> FloatArray:
    """(D, P) distances between boxes (D, 4) and points (P, 2)."""
    nearest = np.clip(points[None], boxes[:, None, :2], boxes[:, None, 2:])
    gaps: FloatArray = np.hypot(*np.moveaxis(nearest - points, -1, 0))
    return gaps


def _overlaps(boxes: FloatArray, others: FloatArray) -> FloatArray:
    """(D, M) areas that boxes (D, 4) and others (M, 4) share."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    area: FloatArray = np.clip(high - low, 0, None).prod(-1)
    return area
