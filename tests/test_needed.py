"""What would be enough, heads over protocols, and levels of guessing: against sums and loops."""

import csv
import itertools
import math
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import scipy.stats
from typer.testing import CliRunner

from contextbench.cli import app
from contextbench.records.stored import RecordError
from contextbench.statistics import student
from contextbench.statistics.aggregate import aggregate, measured
from contextbench.statistics.chance import chance
from contextbench.statistics.draws import Resampling
from contextbench.statistics.intervals import rank
from contextbench.statistics.needed import needed
from contextbench.statistics.scores import CLASS_METRICS
from tests.test_stats import areas_of, made_up, miou, trainings

FEW = Resampling(300)


@pytest.fixture(scope="module")
def ranking():
    return rank(trainings(accuracies={"a": 0.72, "b": 0.7, "c": 0.69}), resampling=FEW)


def test_what_is_needed_is_enough_and_one_less_is_not(ranking):
    alpha = 0.05 / 3
    for each in needed(ranking, 0.08):
        parts = ranking.pair(each.first, each.second).parts

        def power(parts=parts, alpha=alpha, **more):
            grown = parts.with_more(**more)
            return student.power(0.08 / grown.error, grown.df, alpha)

        assert each.chance == pytest.approx(power())
        assert each.seeds is not None
        assert power(seeds=each.seeds) >= 0.8 > power(seeds=each.seeds - 1)
        if each.images is not None:
            assert power(units=each.images) >= 0.8 > power(units=each.images - 1)
        seeds, images = each.both
        assert power(seeds=seeds, units=images) >= 0.8
        assert each.bottleneck == parts.bottleneck


def test_no_number_of_seeds_makes_up_for_images(ranking):
    least = min(math.sqrt(pair.parts.of_images) for pair in ranking.pairs)
    for each in needed(ranking, least):  # about one standard error of the images alone
        assert each.seeds is None
        assert each.both[1] > 30


def test_one_training_has_no_deviation_to_plan_with():
    ranking = rank({"a": {0: made_up(1)}, "b": {0: made_up(2)}}, resampling=FEW)
    with pytest.raises(ValueError, match=r"a, b: one training"):
        needed(ranking, 0.01)


def protocols(**accuracies):
    return [
        measured(
            name,
            {
                head: {s: made_up(100 * p + 10 * i + s, accuracy=a) for s in range(3)}
                for i, (head, a) in enumerate(accuracies.items())
            },
            resampling=FEW,
        )
        for p, name in enumerate(("one", "two"))
    ]


def test_heads_are_ranked_within_protocols_and_differences_averaged():
    both = protocols(fcn=0.6, good=0.75, same=0.6)
    found = aggregate(both, "fcn", FEW)
    means = [{h: fmean(s.values) for h, s in each.seeds.items()} for each in both]
    assert found.heads[0].head == "good"
    for head in found.heads:
        places = [1 + sum(v > m[head.head] for v in m.values()) for m in means]
        assert (head.ranks, head.rank.estimate) == (tuple(places), fmean(places))
        assert head.rank.low <= head.rank.estimate <= head.rank.high
        difference = fmean(m[head.head] - m["fcn"] for m in means)
        assert head.difference.estimate == pytest.approx(difference)


def test_a_mean_difference_has_the_mean_of_the_variances():
    both = protocols(fcn=0.6, good=0.75)
    head = aggregate(both, "fcn", FEW).heads[0]
    variances, weights = [], []
    for each in both:
        for name in ("good", "fcn"):
            values = each.seeds[name].values
            variances.append(np.var(values, ddof=1) / 3)
            weights.append((2.5, 2))
        drawn = each.sampled["good"] - each.sampled["fcn"]
        variances.append(drawn.var(ddof=1) * 30 / 29)
        weights.append((1.0, 29))
    counted = [v * c for v, (c, _) in zip(variances, weights, strict=True)]
    df = sum(counted) ** 2 / sum(v**2 / n for v, (_, n) in zip(counted, weights, strict=True))
    error = math.sqrt(sum(variances)) / 2
    reach = scipy.stats.t.ppf(0.975, df) * error
    assert head.difference.high - head.difference.estimate == pytest.approx(reach)
    p = 2 * scipy.stats.t.sf(head.difference.estimate / error, df)
    assert head.p_value == head.holm_p_value == pytest.approx(p)


def test_one_training_gives_ranks_of_these_models_and_no_verdict():
    single = [
        measured(name, {h: {0: made_up(i, accuracy=a)} for i, (h, a) in enumerate(heads.items())},
                 resampling=FEW)
        for name, heads in (("one", {"a": 0.7, "b": 0.5}), ("two", {"a": 0.7, "b": 0.5, "c": 0.6}))
    ]  # fmt: skip
    found = aggregate(single, "b", FEW)
    assert (found.trainings, found.left_out) == (1, ("c",))
    assert found.heads[0].rank == (1.0, 1.0, 1.0)
    assert math.isnan(found.heads[0].difference.low)
    assert math.isnan(found.heads[0].p_value)


def test_what_cannot_be_aggregated_is_refused():
    both = protocols(fcn=0.6, good=0.75)
    with pytest.raises(RecordError, match="at least two protocols"):
        aggregate(both[:1], "fcn")
    with pytest.raises(RecordError, match=r"baseline 'ppm' .* fcn, good"):
        aggregate(both, "ppm")
    nothing = areas_of(np.zeros((30, 2), int), np.zeros((30, 2), int))
    empty = measured("empty", {h: {0: nothing} for h in ("fcn", "good")}, resampling=FEW)
    with pytest.raises(RecordError, match="empty: fcn has no score"):
        aggregate([both[0], empty], "fcn", FEW)


@pytest.mark.parametrize("pixels", [(50, 50), (90, 10), (30, 20, 50)])
def test_levels_of_guessing_are_those_of_guesses(pixels):
    """Counts of guesses scored as predictions are; for random ones, expected counts."""
    g, total = len(pixels), sum(pixels)
    labelled = np.array(pixels) * g
    constant = [
        miou(areas_of_guess(labelled, np.eye(g, dtype=int)[k] * labelled)) for k in range(g)
    ]
    random = miou(areas_of_guess(labelled, labelled // g, np.full(g, total)))
    found = chance([0, *labelled, 7], range(1, g + 1))
    assert found.constant == pytest.approx(max(constant))
    assert found.random == pytest.approx(random)
    assert found.highest == max(found.constant, found.random)


@pytest.mark.parametrize("metric", ["f1", "precision", "recall"])
def test_levels_of_guessing_by_other_metrics_are_those_of_guesses(metric):
    measure, pixels = CLASS_METRICS[metric], np.array([50, 30, 20])
    labelled, total, g = pixels * 3, 300, 3
    constant = [
        measure(np.eye(g, dtype=int)[k] * labelled, np.eye(g, dtype=int)[k] * total, labelled)
        for k in range(g)
    ]
    random = measure(pixels, np.full(g, 100), labelled)
    found = chance(labelled, range(g), measure)
    assert found.constant == pytest.approx(max(each.mean() for each in constant))
    assert found.random == pytest.approx(random.mean())


def areas_of_guess(labelled, right, predicted=None):
    if predicted is None:  # one class everywhere
        predicted = np.where(right > 0, labelled.sum(), 0)
    one = areas_of(labelled[None], labelled[None])
    return type(one)(one.names, right[None], predicted[None], labelled[None])


def test_classes_without_labels_are_no_part_of_a_guess():
    assert chance([10, 0, 10], (0, 1, 2)) == chance([10, 10], (0, 1))
    assert math.isnan(chance([0, 0], (0, 1)).highest)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("deviations", "seeds"),
    list(itertools.product(("committed", "equal", "half", "small"), (3, 5, 10))),
)
def test_equal_heads_are_separated_as_often_as_the_page_says(deviations, seeds):
    """Of six equal heads any pair: nominally 5 %, within 2.5 to 7.5 % (docs/statistics.md)."""
    from tests.simulations.worlds import DEVIATIONS, separations

    found = separations(DEVIATIONS[deviations], seeds, experiments=8000)
    assert 0.022 <= found["ours"][0] <= 0.075


@pytest.mark.slow
def test_intervals_hold_as_often_as_the_page_says():
    from tests.simulations.worlds import World, coverage, video_coverage

    found = coverage(World(19, 96), experiments=400)
    assert found["score"] > 0.90
    assert 0.92 <= found["difference"] <= 0.99
    held, ends, block = video_coverage(400, 0.8)
    assert held > 0.90
    assert ends == 1
    assert block > 20


def test_one_command_writes_what_it_prints(tmp_path):
    committed = Path(__file__).parents[1] / "results"
    folders = [str(committed / name) for name in ("probe", "camvid-small")]
    done = CliRunner().invoke(app, ["aggregate", *folders, "-o", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "out" / "aggregate.md").read_text()
    assert page.startswith("# Heads over probe, camvid-small\n\n| head | mean rank |")
    with (tmp_path / "out" / "aggregate.csv").open() as file:
        rows = {row["head"]: row for row in csv.DictReader(file)}
    for row in rows.values():
        ranks = [float(row[f"ranks.{name}"]) for name in ("probe", "camvid-small")]
        assert float(row["mean_rank"]) == fmean(ranks)
    assert f"| ppm | {float(rows['ppm']['mean_rank']):.1f} |" in page
