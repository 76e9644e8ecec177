"""Holm's correction, letters and detectable differences against their definitions."""

import itertools
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextbench.statistics.groups import group_letters, holm, smallest_difference

P_VALUES = st.lists(st.floats(0, 1), max_size=12)


@given(P_VALUES)
def test_corrected_p_values_keep_the_order_and_are_never_below_the_raw_ones(p_values):
    corrected = holm(p_values)
    both = zip(p_values, corrected, strict=True)
    for (p, q), (other_p, other_q) in itertools.combinations(both, 2):
        assert (p < other_p) <= (q <= other_q)
        assert (p == other_p) <= (q == other_q)
    assert all(p <= q <= 1 for p, q in zip(p_values, corrected, strict=True))


@given(P_VALUES, st.floats(0.001, 0.999))
def test_corrected_p_values_reject_what_the_stepwise_procedure_rejects(p_values, alpha):
    # Holm 1979: from the smallest p upwards, reject while p (tests left) < alpha; then stop.
    rejected, left = set(), len(p_values)
    for index in sorted(range(len(p_values)), key=p_values.__getitem__):
        if p_values[index] * left >= alpha:
            break
        rejected.add(index)
        left -= 1
    assert rejected == {i for i, q in enumerate(holm(p_values)) if q < alpha}


def test_holm_by_hand():
    # Sorted: 0.01 * 4, 0.02 * 3, 0.022 * 2 (below the one before it, so 0.06), 0.5 * 1.
    assert holm([0.5, 0.01, 0.022, 0.02]) == pytest.approx([0.5, 0.04, 0.06, 0.06])
    assert holm([]) == []


@st.composite
def separations(draw):
    names = [f"head{i}" for i in range(draw(st.integers(1, 6)))]
    pairs = [frozenset(pair) for pair in itertools.combinations(names, 2)]
    return names, {pair for pair in pairs if draw(st.booleans())}


def cliques(names, separated):
    """Every largest set of names without a separated pair, by trying all sets."""
    sets = [
        set(members)
        for size in range(1, len(names) + 1)
        for members in itertools.combinations(names, size)
        if not any(frozenset(pair) in separated for pair in itertools.combinations(members, 2))
    ]
    return [each for each in sets if not any(each < other for other in sets)]


@given(separations())
def test_names_share_a_letter_exactly_if_they_are_not_separated(case):
    names, separated = case
    letters = group_letters(names, separated)
    for one, other in itertools.combinations(names, 2):
        shared = set(letters[one]) & set(letters[other])
        assert bool(shared) == (frozenset((one, other)) not in separated)
    used = {letter for text in letters.values() for letter in text}
    sets = [{name for name in names if letter in letters[name]} for letter in sorted(used)]
    assert sorted(map(sorted, sets)) == sorted(map(sorted, cliques(names, separated)))


def test_letters_follow_the_ranking():
    apart = [frozenset(pair) for pair in (("a", "c"), ("a", "d"), ("b", "d"))]
    expected = {"a": "a", "b": "ab", "c": "bc", "d": "c"}
    assert group_letters(["a", "b", "c", "d"], apart) == expected
    assert group_letters(["b", "a"], []) == {"b": "a", "a": "a"}
    assert group_letters([], []) == {}


def test_more_groups_than_letters_are_numbered():
    names = [f"n{i:02}" for i in range(28)]
    letters = group_letters(names, map(frozenset, itertools.combinations(names, 2)))
    assert [letters[name] for name in names[24:]] == ["y", "z", "(27)", "(28)"]


@pytest.mark.parametrize(("level", "power"), [(0.95, 0.8), (0.99, 0.9)])
def test_smallest_difference_is_found_with_the_stated_power(level, power):
    # A normal estimate around it is beyond the critical value in a share `power` of experiments.
    difference, normal = smallest_difference(2.0, level, power), NormalDist()
    critical = normal.inv_cdf((1 + level) / 2) * 2.0
    assert 1 - NormalDist(difference, 2.0).cdf(critical) == pytest.approx(power)
    assert smallest_difference(1.0) == pytest.approx(1.959964 + 0.841621, abs=1e-5)
