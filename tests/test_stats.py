"""Rankings against scores of repeated rows, and coverage of intervals by simulation."""

import dataclasses
import itertools
import math
import time
from statistics import NormalDist, fmean

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from contextbench.config.sampling import INDEPENDENT, Sampling
from contextbench.records.counts import Areas
from contextbench.records.stored import RecordError
from contextbench.statistics.counts import aligned, effects, effects_on, iou_of_draws
from contextbench.statistics.draws import Draws, Resampling
from contextbench.statistics.groups import smallest_difference
from contextbench.statistics.intervals import (
    Interval,
    SeedSpread,
    miou_interval,
    rank,
)
from contextbench.statistics.scores import class_iou, mean_of_present, scores

T_29 = 2.045230  # of Student's distribution: the 97.5th percentile at 29 degrees of freedom
FEW = Resampling(resamples=200)
VIDEO = Sampling(frames="ordered")
PLUS_MINUS = np.array([-1, 1])
SAMPLINGS = {True: VIDEO, False: INDEPENDENT}


def areas_of(correct, labelled, names=None):
    """Counts (images, K): what is missed of a class is predicted as the next one."""
    correct, labelled = np.asarray(correct, np.int64), np.asarray(labelled, np.int64)
    predicted = correct + np.roll(labelled - correct, 1, axis=1)
    return Areas(names or [f"{i:04}" for i in range(len(correct))], correct, predicted, labelled)


def made_up(seed, images=30, classes=4, accuracy=0.7):
    """Random counts; `seed` decides all of them but the labels."""
    labelled = np.random.default_rng(99).integers(1, 400, (images, classes))
    noise = np.random.default_rng(seed).uniform(-0.2, 0.2, labelled.shape)
    return areas_of(labelled * (accuracy + noise), labelled)


def comparison():
    """Three heads with three, two and one seeds, close enough to change places."""
    return {
        "one": {0: made_up(1), 1: made_up(2), 2: made_up(3)},
        "two": {0: made_up(4, accuracy=0.71), 5: made_up(5, accuracy=0.71)},
        "three": {0: made_up(6, accuracy=0.69)},
    }


def trainings(*, accuracies, count=3, images=30):
    """head -> seed -> counts around an accuracy, every training of its own."""
    return {
        head: {s: made_up(10 * i + s, images=images, accuracy=a) for s in range(count)}
        for i, (head, a) in enumerate(accuracies.items())
    }


def drawn_mious(areas, draws, classes=slice(None)):
    """head -> mIoU of every draw, by repeating rows and scoring each draw like an evaluation."""
    result = {}
    for head, seeds in areas.items():
        result[head] = values = []
        for _, weights in draws:
            for weight in weights.astype(int):
                rows = np.repeat(np.arange(len(weight)), weight)
                values.append(fmean(miou(each, rows, classes) for each in seeds.values()))
    return {head: np.array(values) for head, values in result.items()}


def miou(each, rows=slice(None), classes=slice(None)):
    scored = scores(*(array[rows] for array in (each.intersection, each.predicted, each.labelled)))
    return float(np.nanmean(np.array(scored.iou_per_class)[classes]))


@pytest.mark.parametrize("classes", [None, [0, 2]])
def test_a_ranking_is_what_scoring_repeated_rows_gives(classes):
    areas = comparison()
    ranking = rank(areas, resampling=FEW, classes=classes)
    chosen = slice(None) if classes is None else classes
    drawn = drawn_mious(areas, Draws(30, 1, FEW), chosen)
    for head in ranking.heads:
        values = [miou(each, classes=chosen) for each in areas[head.head].values()]
        assert head.seeds.values == pytest.approx(values)
        reach = T_29 * math.sqrt(30 / 29) * drawn[head.head].std(ddof=1)
        assert head.miou == pytest.approx((fmean(values), *fmean(values) + reach * PLUS_MINUS))
    for pair in ranking.pairs:
        differences = drawn[pair.first] - drawn[pair.second]
        estimate = ranking_miou(ranking, pair.first) - ranking_miou(ranking, pair.second)
        # Expanded percentiles: P(Z < -t sqrt(m / (m - 1))) to each side.
        share = NormalDist().cdf(-T_29 * math.sqrt(30 / 29))
        expected = estimate, *np.quantile(differences, [share, 1 - share])
        assert pair.models.difference == pytest.approx(expected)
        error = differences.std(ddof=1) * math.sqrt(30 / 29)
        assert pair.parts.image_error == pytest.approx(error)
        assert math.isnan(pair.models.smallest_difference)  # 200 draws separate none of three pairs
        beyond = min(sum(d <= 0 for d in differences), sum(d >= 0 for d in differences))
        z = NormalDist().inv_cdf(1 - min((beyond + 1) / 201, 0.5))
        p = 2 * scipy.stats.t.sf(z * math.sqrt(29 / 30), 29)
        assert pair.models.p_value == pytest.approx(p)
    estimates = [head.miou.estimate for head in ranking.heads]
    assert estimates == sorted(estimates, reverse=True)


def test_the_smallest_difference_of_models_follows_from_the_error_over_images():
    ranking = rank(comparison(), resampling=Resampling(400))
    for pair in ranking.pairs:
        expected = smallest_difference(pair.parts.image_error)
        assert pair.models.smallest_difference == pytest.approx(expected)


def ranking_miou(ranking, name):
    return next(head.miou.estimate for head in ranking.heads if head.head == name)


def test_places_are_counted_draw_by_draw():
    areas = comparison()
    drawn = drawn_mious(areas, Draws(30, 1, FEW))
    for head in rank(areas, resampling=FEW).heads:
        places = [
            sum(other[i] > drawn[head.head][i] for other in drawn.values()) for i in range(200)
        ]
        assert head.rank_shares == pytest.approx([places.count(place) / 200 for place in range(3)])


def test_p_values_are_corrected_for_all_pairs_and_decide_what_is_separated():
    ranking = rank(trainings(accuracies={"a": 0.74, "b": 0.72, "c": 0.715, "d": 0.5}))
    for pair in ranking.pairs:
        # Holm's corrected value is the largest of p_(i) (m - i) up to it.
        below = sorted(p.p_value for p in ranking.pairs)
        expected = max(p * (6 - i) for i, p in enumerate(below) if p <= pair.p_value)
        assert pair.holm_p_value == pytest.approx(min(1, expected))
        assert pair.separated == (pair.holm_p_value < 0.05)
        shared = set(letters(ranking, pair.first)) & set(letters(ranking, pair.second))
        assert bool(shared) != pair.separated
    assert {pair.separated for pair in ranking.pairs} == {True, False}
    assert ranking.best_group[0] == "a"
    assert "d" not in ranking.best_group
    assert ranking.pair("d", "a") is ranking.pair("a", "d")
    with pytest.raises(KeyError, match="nobody"):
        ranking.pair("a", "nobody")


def letters(ranking, name):
    return next(head.groups for head in ranking.heads if head.head == name)


def test_trained_models_have_p_values_and_letters_of_their_own():
    ranking = rank(trainings(accuracies={"a": 0.74, "b": 0.72, "c": 0.715, "d": 0.5}, count=1))
    for pair in ranking.pairs:
        below = sorted(p.models.p_value for p in ranking.pairs)
        expected = max(p * (6 - i) for i, p in enumerate(below) if p <= pair.models.p_value)
        assert pair.models.holm_p_value == pytest.approx(min(1, expected))
        assert pair.models.separated == (pair.models.holm_p_value < 0.05)
        own = {head.head: set(head.models_groups) for head in ranking.heads}
        assert bool(own[pair.first] & own[pair.second]) != pair.models.separated
    assert {pair.models.separated for pair in ranking.pairs} == {True, False}


def test_seeds_are_compared_in_all_pairs():
    accuracies = {"one": [0.8, 0.7], "two": [0.75, 0.72, 0.6]}
    areas = {
        head: {seed: made_up(0, accuracy=a) for seed, a in enumerate(values)}
        for head, values in accuracies.items()
    }
    (pair,) = rank(areas, resampling=FEW).pairs
    assert (pair.first, pair.seed_wins, pair.seed_pairs) == ("one", 3 + 1, 6)


def test_the_order_of_images_and_seeds_does_not_matter():
    areas = comparison()
    order = np.random.default_rng(0).permutation(30)
    turned = {
        head: {seed: shuffled(seeds[seed], order) for seed in sorted(seeds, reverse=True)}
        for head, seeds in areas.items()
    }
    assert repr(rank(turned, resampling=FEW)) == repr(rank(areas, resampling=FEW))  # NaN too


def shuffled(areas, order):
    names = [areas.names[i] for i in order]
    return Areas(names, *(a[order] for a in (areas.intersection, areas.predicted, areas.labelled)))


def test_arguments_are_not_written_into():
    areas = comparison()
    before = {head: [each.intersection.copy() for each in s.values()] for head, s in areas.items()}
    rank(areas, resampling=FEW)
    for head, seeds in areas.items():
        for copy, each in zip(before[head], seeds.values(), strict=True):
            assert (copy == each.intersection).all()


def test_the_interval_of_one_head_is_that_of_a_ranking():
    seeds = comparison()["one"]
    expected = rank({"one": seeds}, resampling=FEW).heads[0].miou
    assert miou_interval(list(seeds.values()), resampling=FEW) == expected


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_the_spread_over_seeds_is_the_sample_deviation(values):
    spread = SeedSpread(tuple(values))
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
    assert spread.deviation == pytest.approx(deviation, abs=1e-9)
    assert spread.standard_error == pytest.approx(deviation / math.sqrt(spread.n), abs=1e-9)


def test_nothing_is_inferred_from_one_seed():
    ranking = rank({"one": {4: made_up(1)}}, resampling=FEW)
    spread = ranking.heads[0].seeds
    assert spread.n == 1
    assert math.isnan(spread.deviation)
    assert math.isnan(spread.standard_error)
    assert ranking.cautions == ()  # there is nothing to compare
    two = rank({"one": {4: made_up(1)}, "two": {0: made_up(2, accuracy=0.2)}}, resampling=FEW)
    (pair,) = two.pairs
    assert two.claims == "models"
    assert pair.models.separated
    assert not pair.separated
    assert [head.groups for head in two.heads] == ["", ""]
    assert [head.models_groups for head in two.heads] == ["a", "b"]
    unknown = (*pair.difference[1:], pair.p_value, pair.holm_p_value, pair.smallest_difference)
    assert all(map(math.isnan, unknown))
    assert two.best_group == ("one", "two")
    assert only_caution(two).startswith("No verdict on every head: one training")


def test_two_trainings_give_intervals_and_no_letters():
    ranking = rank(trainings(accuracies={"a": 0.74, "b": 0.4}, count=2), resampling=FEW)
    (pair,) = ranking.pairs
    assert ranking.claims == "intervals"
    assert pair.difference.low < pair.difference.estimate < pair.difference.high
    assert (pair.tested, pair.separated, letters(ranking, "a")) == (False, False, "")
    assert "fewer than 3 trainings" in only_caution(ranking)


def test_heads_with_too_few_trainings_have_no_part_in_the_correction_of_others():
    areas = trainings(accuracies={"a": 0.74, "b": 0.73, "c": 0.7}, count=4)
    alone = rank(areas, resampling=FEW)
    mixed = rank({**areas, "few": {0: made_up(77, accuracy=0.2)}}, resampling=FEW)
    for pair in alone.pairs:
        same = mixed.pair(pair.first, pair.second)
        assert (same.difference, same.holm_p_value) == (pair.difference, pair.holm_p_value)
    assert [each.groups for each in mixed.heads] == [*(e.groups for e in alone.heads), ""]
    assert mixed.tests == 3


def test_heads_are_compared_over_trainings_and_images_as_the_formula_says():
    """Unequal numbers of seeds; V, Satterthwaite's degrees and t written out."""
    areas = {
        "a": {i: made_up(i, accuracy=0.70 + 0.01 * i) for i in range(4)},
        "b": {i: made_up(20 + i, accuracy=0.72 - 0.005 * i) for i in range(3)},
    }
    (pair,) = rank(areas, resampling=FEW).pairs
    values = {head: [miou(each) for each in seeds.values()] for head, seeds in areas.items()}
    first, second = values[pair.first], values[pair.second]
    parts = [np.var(v, ddof=1) / len(v) for v in (first, second)]
    drawn = drawn_mious(areas, Draws(30, 1, FEW))
    image = (drawn["a"] - drawn["b"]).var(ddof=1) * 30 / 29
    counted = [v * (len(s) + 2) / (len(s) - 1) for v, s in zip(parts, (first, second), strict=True)]
    df = (sum(counted) + image) ** 2 / (
        sum(v**2 / (len(s) - 1) for v, s in zip(counted, (first, second), strict=True))
        + image**2 / 29
    )
    error = math.sqrt(sum(parts) + image)
    difference = fmean(first) - fmean(second)
    assert pair.parts.df == pytest.approx(df)
    assert pair.p_value == pytest.approx(2 * scipy.stats.t.sf(difference / error, df))
    reach = scipy.stats.t.ppf(0.975, df) * error
    assert pair.difference == pytest.approx((difference, difference - reach, difference + reach))


def test_trainings_without_any_variance_are_named_and_images_still_count():
    seeds = {h: dict.fromkeys(range(3), made_up(i, accuracy=a))
             for i, (h, a) in enumerate({"a": 0.7, "b": 0.6}.items())}  # fmt: skip
    ranking = rank(seeds, resampling=FEW)
    (pair,) = ranking.pairs
    assert (pair.parts.of_trainings, pair.parts.df) == (0, pytest.approx(29))
    assert pair.separated
    assert "All trainings of a; b score exactly the same" in only_caution(ranking)
    constant = (
        areas_of([[90, 90]] * 30, [[100, 100]] * 30),
        areas_of([[80, 80]] * 30, [[100, 100]] * 30),
    )
    (pair,) = rank(
        {h: dict.fromkeys(range(3), e) for h, e in zip("ab", constant, strict=True)}
    ).pairs
    assert (pair.difference.low, pair.difference.high) == (pair.difference.estimate,) * 2
    assert not pair.tested  # no variance at all: there is no test


def test_equal_heads_are_not_separated_and_share_their_places():
    same, low = (dict.fromkeys(range(3), made_up(i, accuracy=a)) for i, a in ((1, 0.7), (2, 0.3)))
    ranking = rank({"b": same, "a": same, "c": low})
    assert [head.head for head in ranking.heads] == ["a", "b", "c"]
    pair = ranking.pair("a", "b")
    assert pair.difference == pair.models.difference == Interval(0.0, 0.0, 0.0)
    assert (pair.p_value, pair.holm_p_value, pair.separated) == (1.0, 1.0, False)
    assert (pair.seed_wins, pair.models.smallest_difference) == (0, 0.0)
    assert letters(ranking, "a") == letters(ranking, "b") != letters(ranking, "c")
    assert [head.rank_shares for head in ranking.heads] == [(0.5, 0.5, 0), (0.5, 0.5, 0), (0, 0, 1)]
    assert ranking.best_group == ("a", "b")


def test_one_image_says_nothing_of_others():
    ranking = rank(
        {"one": {0: made_up(1, images=1)}, "two": {0: made_up(2, images=1, accuracy=0.2)}}
    )
    (pair,) = ranking.pairs
    assert all(math.isnan(end) for end in (*ranking.heads[0].miou[1:], *pair.difference[1:]))
    assert (pair.models.p_value, pair.models.separated, pair.tested) == (1.0, False, False)
    assert math.isnan(pair.models.smallest_difference)


@pytest.mark.parametrize(("images", "known"), [(7, False), (8, True)])
def test_fewer_than_eight_images_have_no_intervals_and_no_verdicts(images, known):
    areas = trainings(accuracies={"a": 0.74, "b": 0.6}, images=images)
    ranking = rank(areas, resampling=FEW)
    (pair,) = ranking.pairs
    assert pair.tested == known
    for interval in (ranking.heads[0].miou, pair.difference, pair.models.difference):
        assert math.isnan(interval.low) != known
        assert math.isnan(interval.high) != known
    smallest = (pair.smallest_difference, pair.models.smallest_difference)
    assert [math.isnan(each) for each in smallest] == [not known] * 2
    assert ("no intervals and no verdicts" in ranking.cautions[0]) != known


@pytest.mark.parametrize("images", [2, 5, 9, 40])
def test_few_images_never_separate_heads_by_luck(images):
    # One head is better in every image: as surprising as `images` equal tosses of a coin.
    better = areas_of([[90, 90]] * images, [[100, 100]] * images)
    worse = areas_of([[80, 80]] * images, [[100, 100]] * images)
    (pair,) = rank({"better": {0: better}, "worse": {0: worse}}).pairs
    z = NormalDist().inv_cdf(1 - 1 / 10_001) * math.sqrt((images - 1) / images)
    lowest = 2 * scipy.stats.t.sf(z, images - 1)
    assert pair.models.p_value == pytest.approx(max(2 * 0.5**images, lowest))
    assert pair.models.at_floor


def test_a_class_that_some_draws_lack_is_left_out_of_their_mean():
    labelled = np.full((10, 2), 100)
    labelled[1:, 1] = 0  # class 1 is in one image only: a draw lacks it with chance 0.9^10
    correct = np.where(labelled, [[50, 25]], 0)
    areas = Areas([f"{i}" for i in range(10)], correct, correct, labelled)
    ranking = rank({"one": {0: areas}}, resampling=Resampling(5000))
    assert ranking.missing_classes == {1: pytest.approx(0.9**10, abs=0.03)}
    # IoU is 0.5 and 0.25 in every draw that has the class, and 0.5 alone in all others, so that
    # the deviation of the draws is 0.125 sqrt(q (1 - q)) for the share q that lacks it.
    q = ranking.missing_classes[1]
    reach = 2.262157 * math.sqrt(10 / 9) * 0.125 * math.sqrt(q * (1 - q) * 5000 / 4999)
    assert ranking.heads[0].miou == pytest.approx((0.375, 0.375 - reach, 0.375 + reach))
    assert any("train id 1 (3" in sentence for sentence in ranking.cautions)


def test_a_class_that_no_image_is_labelled_with_is_left_out_for_all_heads_alike():
    labelled = np.array([[100, 0]] * 6)
    right = areas_of(labelled, labelled)
    wrong = areas_of(labelled - [[10, 0]], labelled)
    ranking = rank({"right": {0: right}, "wrong": {0: wrong}}, resampling=FEW)
    assert (ranking.missing_classes, ranking.unlabelled) == ({}, (1,))
    assert ranking_miou(ranking, "right") == 1.0
    assert ranking_miou(ranking, "wrong") == pytest.approx(0.9)
    assert {head.head: head.stray for head in ranking.heads} == {"right": 0, "wrong": 60}


def test_images_that_are_all_ignored_give_no_score_and_separate_nobody():
    nothing = np.zeros((30, 2), np.int64)
    ranking = rank(
        {head: dict.fromkeys(range(3), areas_of(nothing, nothing)) for head in "ab"}, resampling=FEW
    )
    assert ranking.unlabelled == (0, 1)
    for head in ranking.heads:
        assert all(math.isnan(value) for value in (*head.miou, *head.seeds.values))
        assert (head.rank_shares, head.groups) == ((0.5, 0.5), "")
    (pair,) = ranking.pairs
    assert (pair.models.p_value, pair.tested, pair.separated, pair.seed_wins) == (
        1,
        False,
        False,
        0,
    )
    assert all(math.isnan(value) for value in (*pair.difference, pair.smallest_difference))


def test_draws_without_a_score_leave_p_values_to_the_others():
    # Class 1 is in two of 30 images; head `b` is better in both. Of the draws with a score, all
    # speak for `b`: p is that of one in their number + 1, larger than with all draws counted.
    labelled = np.full((30, 2), 100)
    labelled[2:, 1] = 0
    worse, better = (np.where(labelled, [[90, v]], 0) for v in (40, 60))
    areas = {
        head: {0: Areas([f"{i:02}" for i in range(30)], correct, labelled, labelled)}
        for head, correct in (("a", worse), ("b", better))
    }
    ranking = rank(areas, classes=[1], resampling=FEW)
    scored = sum(int((weights[:, :2].sum(axis=1) > 0).sum()) for _, weights in Draws(30, 1, FEW))
    assert scored == round(200 * (1 - ranking.missing_classes[1])) < 190
    z = NormalDist().inv_cdf(1 - 1 / (scored + 1)) * math.sqrt(29 / 30)
    assert ranking.pairs[0].models.p_value == pytest.approx(2 * scipy.stats.t.sf(z, 29))


def test_images_that_differ_are_refused_with_the_first_that_does():
    other = dataclasses.replace(made_up(2), names=[*made_up(2).names[:-1], "0099"])
    with pytest.raises(RecordError, match=r"b seed 3 and a seed 0 .* only one .* has '0029'"):
        rank({"a": {0: made_up(1)}, "b": {3: other}})
    with pytest.raises(RecordError, match="29 and 30 images"):
        rank({"a": {0: made_up(1), 1: made_up(1, images=29)}})
    with pytest.raises(RecordError, match="3 and 4 classes"):
        rank({"a": {0: made_up(1)}, "b": {0: made_up(1, classes=3)}})
    twice = dataclasses.replace(made_up(1), names=["0000"] * 30)
    with pytest.raises(RecordError, match="an image occurs twice"):
        rank({"a": {0: twice}})


@pytest.mark.parametrize("areas", [{}, {"a": {}}, {"a": {0: made_up(1, images=0)}}])
def test_without_images_there_is_nothing_to_rank(areas):
    with pytest.raises(RecordError, match="no counts per image"):
        rank(areas)


@pytest.mark.parametrize("classes", [[4], [0, -1]])
def test_classes_that_do_not_exist_are_refused(classes):
    with pytest.raises(RecordError, match=f"train id {classes[-1]} .* 4 classes"):
        rank(comparison(), classes=classes)


def test_cautions_name_what_limits_a_ranking():
    few = trainings(accuracies={"a": 0.7, "b": 0.7}, images=12)
    assert only_caution(rank(few)).startswith("Few images (12): intervals from fewer than 20")
    heads = trainings(accuracies=dict.fromkeys("abcd", 0.7))
    assert only_caution(rank(heads, resampling=Resampling(100))).startswith(
        "100 draws of 30 images are too few to separate the trained models of any of 6 pairs"
    )
    mixed = {**trainings(accuracies={"a": 0.7, "c": 0.7}), "b": {0: made_up(3)}}
    assert "No verdict on b: one training" in only_caution(rank(mixed))
    assert rank({"a": {0: made_up(1), 1: made_up(2)}}).cautions == ()


@pytest.mark.parametrize("heads", [2, 3, 4])
def test_where_letters_cannot_differ_a_caution_says_so(heads):
    """No image contradicts any difference: models are apart unless too many pairs are tested."""
    generator = np.random.default_rng(0)
    labelled = np.full((30, 4), 1000)
    areas = {
        name: {0: areas_of(labelled * (0.2 * at + generator.uniform(0, 0.01, (30, 4))), labelled)}
        for name, at in zip("abcd", range(heads), strict=False)
    }
    ranking = rank(areas, resampling=Resampling(300))
    # 300 draws give 2 / 301 = 0.007 and, by Student's distribution over 30 images, 0.012.
    apart = heads < 4
    assert {len({each.models_groups for each in ranking.heads}) == 1} == {not apart}
    assert any("are too few to separate" in each for each in ranking.cautions) is not apart


def only_caution(ranking):
    (sentence,) = ranking.cautions
    return sentence


def test_long_lists_in_cautions_are_cut():
    heads = {f"h{i}": {0: made_up(i)} for i in range(7)}
    ranking = rank({**heads, "h7": {s: made_up(s) for s in range(3)}}, resampling=Resampling(1000))
    sentence = next(each for each in ranking.cautions if "verdict" in each)
    assert sentence.startswith("No verdict on h")
    assert sentence.count("; h") == 4
    assert "; and 2 more: " in sentence


# Coverage by simulation. Counts are drawn such that the true mIoU follows from expectations: the
# ratio of sums over n images goes to the ratio of expectations. With the same mean accuracy m for
# every class, L pixels each on average and misses counted as the next class,
# IoU = m L / (m L + (1 - m) L + L - m L) = m / (2 - m).
BASE, GAIN = 0.70, 0.02
TRUE_DIFFERENCE = (BASE + GAIN) / (2 - BASE - GAIN) - BASE / (2 - BASE)
EXPERIMENTS = 500


def experiment(generator, images, noise):
    """Two heads on the same images: shared difficulty, and own deviations (2, images) from it."""
    labelled = generator.integers(50, 950, (images, 4))
    difficulty = generator.uniform(-0.15, 0.15, (images, 4))
    return {
        head: {0: areas_of(whole(generator, labelled * (m + difficulty + own[:, None])), labelled)}
        for head, m, own in zip("ab", (BASE, BASE + GAIN), noise, strict=True)
    }


def whole(generator, values):
    """Rounded up or down by chance, so that expectations stay as they are."""
    return np.floor(values + generator.uniform(size=values.shape))


def covers(ranking):
    pair = ranking.pair("a", "b")
    true = TRUE_DIFFERENCE if pair.first == "b" else -TRUE_DIFFERENCE
    low, high = pair.models.difference[1:]
    return low <= true <= high


@pytest.mark.slow
def test_95_percent_intervals_of_differences_cover_the_truth_in_95_of_100_experiments():
    generator = np.random.default_rng(0)
    covered = 0
    for seed in range(EXPERIMENTS):
        noise = generator.uniform(-0.1, 0.1, (2, 100))
        areas = experiment(generator, 100, noise)
        covered += covers(rank(areas, resampling=Resampling(400, seed=seed)))
    assert 0.93 <= covered / EXPERIMENTS <= 0.97


@pytest.mark.slow
def test_equal_models_are_separated_in_at_most_5_of_100_experiments():
    generator = np.random.default_rng(1)
    separated = 0
    for seed in range(EXPERIMENTS):
        labelled = generator.integers(50, 950, (60, 2))
        areas = {
            head: {0: areas_of(labelled * generator.uniform(0.5, 0.9, labelled.shape), labelled)}
            for head in "abc"
        }
        pairs = rank(areas, resampling=Resampling(300, seed=seed)).pairs
        separated += any(pair.models.separated for pair in pairs)  # of three: what Holm bounds
    # 5 of 100, and two standard errors of 500 experiments.
    assert separated / EXPERIMENTS <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / EXPERIMENTS)


@pytest.mark.slow
def test_blocks_cover_the_truth_of_video_where_single_frames_do_not():
    generator = np.random.default_rng(2)
    covered = {False: 0, True: 0}
    for seed, video in itertools.product(range(150), covered):
        areas = experiment(generator, 400, slow_noise(generator, 400))
        covered[video] += covers(
            rank(areas, sampling=SAMPLINGS[video], resampling=Resampling(200, seed=seed))
        )
    # About 50 and 90 of 100 in many more experiments; blocks of a finite video stay below 95.
    assert covered[False] / 150 < 0.6
    assert covered[True] / 150 > 0.85


def slow_noise(generator, frames, memory=0.8):
    """(2, frames) deviations that carry over from frame to frame; standard deviation 0.03."""
    steps = generator.normal(0, 0.03 * math.sqrt(1 - memory**2), (2, frames))
    noise = np.empty((2, frames))
    noise[:, 0] = steps[:, 0] / math.sqrt(1 - memory**2)
    for i in range(1, frames):
        noise[:, i] = memory * noise[:, i - 1] + steps[:, i]
    return noise.clip(-0.12, 0.12)


def test_video_is_drawn_in_blocks_and_independent_images_are_not():
    generator = np.random.default_rng(5)
    areas = experiment(generator, 200, slow_noise(generator, 200, memory=0.9))
    blocks, single = (
        rank(areas, sampling=SAMPLINGS[video], resampling=FEW) for video in (True, False)
    )
    assert blocks.block > 5
    assert single.block == 1
    draws = Draws(200, blocks.block, FEW)
    drawn = drawn_mious(areas, draws)["b"]
    units = 200 // blocks.block
    reach = scipy.stats.t.ppf(0.975, units - 1) * drawn.std(ddof=1) * math.sqrt(units / (units - 1))
    score = blocks.heads[0].miou
    assert [*score[1:]] == pytest.approx([*score.estimate + reach * PLUS_MINUS])
    assert any(f"blocks of {blocks.block} frames" in sentence for sentence in blocks.cautions)


def test_clusters_are_drawn_with_all_their_images():
    """Against a loop that draws names of clusters from a list of its own."""
    generator = np.random.default_rng(8)
    sizes = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    names = [
        f"{letter}_{i}" for letter, n in zip("abcdefghij", sizes, strict=True) for i in range(n)
    ]
    labelled = generator.integers(50, 950, (55, 3))
    areas = {"a": {0: areas_of(labelled * generator.uniform(0.4, 0.9, (55, 3)), labelled, names)}}
    ranking = rank(areas, sampling=Sampling(cluster="^(.)_"), resampling=FEW)
    assert (ranking.images, ranking.clusters, ranking.units, ranking.block) == (55, 10, 10, 1)
    picks = np.random.default_rng(FEW.seed).integers(10, size=(FEW.resamples, 10))
    drawn = [
        miou(
            areas["a"][0], [i for c in pick for i, n in enumerate(names) if n[0] == "abcdefghij"[c]]
        )
        for pick in picks
    ]
    score = ranking.heads[0].miou
    reach = scipy.stats.t.ppf(0.975, 9) * np.std(drawn, ddof=1) * math.sqrt(10 / 9)
    assert [*score[1:]] == pytest.approx([*score.estimate + reach * PLUS_MINUS])
    assert any("Few clusters of images (10)" in sentence for sentence in ranking.cautions)


def test_clusters_of_one_image_are_single_images():
    areas = comparison()
    alone = rank(areas, sampling=Sampling(cluster=".*"), resampling=FEW)
    single = rank(areas, resampling=FEW)
    assert repr((alone.heads, alone.pairs)) == repr((single.heads, single.pairs))  # NaN too


@pytest.mark.slow
def test_clusters_cover_the_truth_where_single_images_do_not():
    """40 groups of 10 images that fail alike: single images count each group ten times."""
    generator = np.random.default_rng(9)
    names = [f"{i // 10:02}-{i % 10}" for i in range(400)]
    covered = {"": 0, "^[^-]+": 0}
    for seed, pattern in itertools.product(range(100), covered):
        noise = np.repeat(generator.normal(0, 0.03, (2, 40)), 10, axis=1).clip(-0.12, 0.12)
        areas = {
            head: {0: dataclasses.replace(seeds[0], names=names)}
            for head, seeds in experiment(generator, 400, noise).items()
        }
        sampling = Sampling(cluster=pattern or None)
        covered[pattern] += covers(
            rank(areas, sampling=sampling, resampling=Resampling(200, seed=seed))
        )
    assert covered[""] / 100 < 0.7
    assert covered["^[^-]+"] / 100 > 0.88


def test_images_that_are_in_no_cluster_are_named():
    with pytest.raises(RecordError, match=r"does not match 0000, 0001, .* and 25 more"):
        rank({"a": {0: made_up(1)}}, sampling=Sampling(cluster="^x"))


def test_the_effect_of_an_image_is_the_derivative_of_miou_by_its_weight():
    seeds = {0: made_up(1), 1: made_up(2)}
    counts = aligned({"a": seeds}, None)["a"]
    step = 1e-6
    for image in (0, 7, 29):
        weights = np.ones((1, 30))
        weights[0, image] += step
        changed = mean_of_present(iou_of_draws(weights, counts)).mean()
        before = fmean(miou(each) for each in seeds.values())
        assert effects(counts)[image] == pytest.approx((changed - before) / step, rel=1e-4)


def test_the_effect_of_an_image_on_any_measure_is_close_to_that_derivative():
    """Leaving one of 30 images out changes mIoU as the derivative says, but for its square."""
    counts = aligned({"a": {0: made_up(1), 1: made_up(2)}}, None)["a"]
    left_out, derivative = effects_on(class_iou, counts), effects(counts)
    assert np.corrcoef(left_out, derivative)[0, 1] > 0.999
    np.testing.assert_allclose(left_out, derivative, atol=3e-4)  # which are up to 5e-3


def test_blocks_fit_differences_where_scores_are_independent():
    # Both heads see the same independent difficulty; only their small difference is slow.
    generator = np.random.default_rng(6)
    labelled = np.full((300, 2), 1000)
    shared = generator.uniform(0.4, 0.8, (300, 1))
    slow = slow_noise(generator, 300, memory=0.95)[0][:, None]
    areas = {"a": {0: areas_of(labelled * shared, labelled)}}
    assert rank(areas, sampling=VIDEO, resampling=FEW).block <= 8
    areas["b"] = {0: areas_of(labelled * (shared + slow), labelled)}
    assert rank(areas, sampling=VIDEO, resampling=FEW).block > 10


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 25), st.integers(1, 4), st.booleans())
def test_any_counts_give_a_ranking_that_agrees_with_itself(seed, images, classes, video):
    generator = np.random.default_rng(seed)
    labelled = generator.integers(0, 3, (images, classes))
    areas = {head: {0: areas_of(generator.integers(0, labelled + 1), labelled)} for head in "abc"}
    ranking = rank(areas, sampling=SAMPLINGS[video], resampling=Resampling(100, seed=seed))
    assert len(ranking.pairs) == 3
    assert np.sum([head.rank_shares for head in ranking.heads], axis=0) == pytest.approx([1, 1, 1])
    for head in ranking.heads:
        assert sum(head.rank_shares) == pytest.approx(1)
        assert math.isnan(head.miou.low) or 0 <= head.miou.low <= head.miou.high <= 1
    for pair in ranking.pairs:
        assert 0 < pair.models.p_value <= pair.models.holm_p_value <= 1


@pytest.mark.timing
def test_ten_thousand_paired_draws_of_500_images_take_less_than_three_seconds():
    areas = {head: {0: made_up(i, images=500, classes=19)} for i, head in enumerate("ab")}
    took = min(_seconds(lambda: rank(areas)) for _ in range(3))  # other load only adds time
    print(f"\n10 000 draws of 500 images x 19 classes, two heads: {took:.2f} s")
    assert took < 3


def _seconds(call):
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
