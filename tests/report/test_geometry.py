"""The Pareto front against its definition, and labels that do not cover one another."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextbench.report.geometry import pareto_front, place_labels, spread

VALUES = st.sampled_from([0.0, 1.0, 2.0, 3.0, 4.0, math.nan])  # few, so that ties are common
POINTS = st.lists(st.tuples(VALUES, VALUES), max_size=12)


def beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one != other and one[0] <= other[0] and one[1] >= other[1]


@given(POINTS)
def test_the_front_is_what_no_known_point_beats(points):
    known = [i for i, point in enumerate(points) if not any(map(math.isnan, point))]
    expected = {i for i in known if not any(beats(points[j], points[i]) for j in known)}
    front = pareto_front([cost for cost, _ in points], [score for _, score in points])
    assert set(front) == expected
    assert len(front) == len(expected)


@given(POINTS)
def test_along_the_front_more_cost_buys_more_score(points):
    front = pareto_front([cost for cost, _ in points], [score for _, score in points])
    for one, two in itertools.pairwise(points[i] for i in front):
        assert one == two or (one[0] < two[0] and one[1] < two[1])


def test_a_front_by_hand():
    #  cost 1: 5 and 7; cost 2: 6 is beaten; cost 3: 9; cost 4: 9 is beaten; NaN never belongs
    assert pareto_front([1, 1, 2, 3, 4, math.nan], [5, 7, 6, 9, 9, 99]) == [1, 3]


def shared_area(one: np.ndarray, two: np.ndarray) -> float:
    width = min(one[2], two[2]) - max(one[0], two[0])
    height = min(one[3], two[3]) - max(one[1], two[1])
    return max(0.0, width) * max(0.0, height)


@pytest.mark.parametrize("seed", range(5))
def test_labels_of_crowded_points_cover_neither_labels_nor_points(seed):
    anchors = np.random.default_rng(seed).uniform(40, 260, (8, 2))
    anchors[1] = anchors[0] + 1.0  # two points on top of each other
    sizes = np.tile([36.0, 10.0], (8, 1))
    points = np.hstack((anchors - 4, anchors + 4))
    centres = place_labels(anchors, sizes, points, (0, 0, 300, 300))
    boxes = np.hstack((centres - sizes / 2, centres + sizes / 2))
    assert all(shared_area(a, b) == 0 for a, b in itertools.combinations(boxes, 2))
    assert all(shared_area(label, point) == 0 for label in boxes for point in points)
    assert boxes.min() >= 0
    assert boxes.max() <= 300


def test_a_lonely_label_stays_close_to_its_point():
    anchor, size = np.array([[50.0, 50.0]]), np.array([[30.0, 10.0]])
    (centre,) = place_labels(anchor, size, np.array([[46.0, 46, 54, 54]]), (0, 0, 100, 100))
    assert np.abs(centre - 50).max() <= 15 + 10  # half a width and one height away


@pytest.mark.parametrize("seed", [6, 25, 26])
def test_a_label_does_not_stand_beside_the_point_of_another(seed):
    """Six points with bars through them: where the nearest free places lie beside other points."""
    anchors = np.random.default_rng(seed).uniform(40, 260, (6, 2))
    sizes = np.tile([36.0, 10.0], (6, 1))
    points = np.hstack((anchors - 4, anchors + 4))
    bars = [np.hstack((anchors - bar, anchors + bar)) for bar in ((20.0, 1.0), (1.0, 20.0))]
    centres = place_labels(anchors, sizes, np.vstack((points, *bars)), (0, 0, 300, 300))
    for own, (centre, size) in enumerate(zip(centres, sizes, strict=True)):
        nearest = np.clip(anchors, centre - size / 2, centre + size / 2)
        gaps = np.hypot(*(nearest - anchors).T)
        assert gaps.argmin() == own


@pytest.mark.parametrize(
    ("ends", "places"),
    [
        ([0.5, 0.5, 0.1], [0.45, 0.55, 0.1]),  # two at one place move apart by half the gap each
        ([0.95, 0.96, 0.97], [0.8, 0.9, 1.0]),  # at the top all move down
        ([0.0, -0.2], [0.1, 0.0]),  # in the order of the ends, and not below 0
        ([0.2, 0.9], [0.2, 0.9]),
        ([], []),
    ],
)
def test_names_are_moved_apart_in_the_order_of_their_curves(ends, places):
    assert spread(ends, 0.1) == pytest.approx(places)


@given(st.lists(st.floats(0.3, 0.7), min_size=2, max_size=5), st.randoms())
def test_no_other_places_are_closer_to_the_ends(ends, random):
    """Least squares over all places a gap apart: against random ones in the same order."""
    gap = 0.1
    places = spread(ends, gap)
    order = sorted(range(len(ends)), key=ends.__getitem__)
    assert all(places[b] - places[a] > gap - 1e-9 for a, b in itertools.pairwise(order))
    other, low = [0.0] * len(ends), 0.0
    for index in order:
        other[index] = low = low + random.uniform(0, 0.3)
        low += gap
    assert distance(places, ends) <= distance(other, ends) + 1e-9


def distance(places: list[float], ends: list[float]) -> float:
    return sum((place - end) ** 2 for place, end in zip(places, ends, strict=True))
