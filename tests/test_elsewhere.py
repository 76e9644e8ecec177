"""Models that were trained elsewhere are compared as models, over images, and never as methods."""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from contextbench.records.counts import Areas
from contextbench.report.verdicts import models_sentence, verdict_sentence
from contextbench.statistics.aggregate import aggregate, measured
from contextbench.statistics.draws import Resampling
from contextbench.statistics.intervals import rank
from contextbench.statistics.needed import needed

FEW = Resampling(resamples=400)
ACCURACY = {"good": 0.75, "fair": 0.65, "bad": 0.5}


def made_up(seed: int, accuracy: float) -> Areas:
    """Random counts of 30 images and 4 classes; labels are always the same."""
    labelled = np.random.default_rng(99).integers(100, 400, (30, 4))
    noise = np.random.default_rng(seed).uniform(-0.05, 0.05, labelled.shape)
    correct = (labelled * (accuracy + noise)).astype(np.int64)
    predicted = correct + np.roll(labelled - correct, 1, axis=1)
    return Areas([f"{i:04}" for i in range(30)], correct, predicted, labelled)


def apart() -> dict[str, dict[int, Areas]]:
    """Three heads of three seeds, all of them separated over trainings and images."""
    return {
        head: {seed: made_up(10 * i + seed, accuracy) for seed in range(3)}
        for i, (head, accuracy) in enumerate(ACCURACY.items())
    }


def imported(seeds: Mapping[int, Areas]) -> dict[int, Areas]:
    return {seed: replace(each, elsewhere=True) for seed, each in seeds.items()}


@pytest.mark.parametrize("head", ["good", "bad"])
def test_nothing_is_said_of_a_method_whose_models_are_from_elsewhere(head: str) -> None:
    """However many there are of it."""
    areas = apart()
    before = rank(areas, resampling=FEW)
    assert all(pair.separated for pair in before.pairs)
    ranking = rank({**areas, head: imported(areas[head])}, resampling=FEW)
    for pair, same in zip(ranking.pairs, before.pairs, strict=True):
        assert pair.models == same.models
        touched = head in (pair.first, pair.second)
        assert pair.tested is not touched
        assert pair.separated is not touched
        assert math.isnan(pair.difference.low) is touched
    letters = {each.head: each.groups for each in ranking.heads}
    assert letters[head] == ""
    assert sorted(letters.values()) == ["", "a", "b"]
    assert any(f"No verdict on {head}: trained elsewhere" in each for each in ranking.limits)
    sentence = verdict_sentence(ranking)
    if head == "good":
        assert "no verdict on methods: good was trained elsewhere" in sentence
    else:
        assert sentence.endswith("No verdict on bad.")


def test_models_from_elsewhere_alone_are_compared_over_images() -> None:
    areas = {head: imported(seeds) for head, seeds in apart().items()}
    ranking = rank(areas, resampling=FEW)
    assert ranking.claims == "models"
    assert {each.models_groups for each in ranking.heads} == {"a", "b", "c"}
    assert "separated from every other one" in models_sentence(ranking)
    assert "No verdict on good; fair; bad: trained elsewhere" in " ".join(ranking.limits)


def test_one_model_from_elsewhere_makes_its_head_no_method() -> None:
    areas = apart()
    mixed = {**areas["good"], 2: replace(areas["good"][2], elsewhere=True)}
    ranking = rank({**areas, "good": mixed}, resampling=FEW)
    assert ranking.heads[0].seeds.n == 1
    assert not ranking.pair("good", "bad").tested


def test_needed_seeds_are_those_of_heads_that_were_trained_here() -> None:
    areas = apart()
    found = needed(rank({**areas, "bad": imported(areas["bad"])}, resampling=FEW), 0.01)
    assert [(each.first, each.second) for each in found] == [("good", "fair")]


def test_over_protocols_neither() -> None:
    areas = apart()
    here = {"good": areas["good"], "fair": areas["fair"]}
    protocols = [measured(name, here, resampling=FEW) for name in ("one", "two")]
    tested = aggregate(protocols, "fair", FEW).heads[0]
    assert not math.isnan(tested.p_value)
    there = {**here, "good": imported(areas["good"])}
    protocols = [measured(name, there, resampling=FEW) for name in ("one", "two")]
    untested = aggregate(protocols, "fair", FEW).heads[0]
    assert untested.head == "good"
    assert math.isnan(untested.p_value)
    assert math.isnan(untested.difference.low)
