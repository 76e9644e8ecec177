"""One description of what runs: plans, costs and the choice of a format are made from it."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from contextbench.config.evaluation import EvaluateConfig
from contextbench.config.protocols import Protocol
from contextbench.measure import passes
from contextbench.measure.forecast import Forecaster
from contextbench.measure.passes import Workload, built, predicted, training_call
from contextbench.measure.profile import Timing, profile_models
from contextbench.training import loop as training
from contextbench.training.losses import Criterion
from tests import small
from tests.cases import quick
from tests.measure.allocation import allocated_peak

CPU = torch.device("cpu")
CLASSES = 13


def work(protocol: Protocol | None = None, **changes: Any) -> Workload:
    return Workload(protocol or small.protocol(), CLASSES, (64, 64), 3, **changes)


LOSSES = {
    "plain": {},
    "in parts": {"accumulate": 4},
    "dice": {"loss": {"dice": 1.0}},
    "lovasz": {"loss": {"lovasz": 1.0}},
    "ohem": {"loss": {"ohem": {"keep": 100}}},
    "weighted and clipped": {"loss": {"class_weights": "inverse_log"}, "clip_norm": 1.0},
}


@pytest.mark.parametrize("name", quick(LOSSES, ("in parts",)))
def test_a_predicted_step_is_what_the_training_loop_allocates(name: str) -> None:
    """Of one part in memory at a time, with every loss, to the scalars that a step returns."""
    each = work(small.protocol(batch=4, **LOSSES[name]))

    def steps() -> None:  # with the model, so that what they hold from the start is counted too
        call = training_call(each, small.head(), CPU)
        for _ in range(3):
            call()

    # On a CPU parts are views of the whole batch, whose labels are bytes at first.
    rest = (each.share - each.part) * 4 * 3 * 64 * 64 + each.share * 64 * 64
    found = predicted(each, small.head()).training_bytes
    assert found == pytest.approx(allocated_peak(steps) - rest, abs=256)


@pytest.mark.slow
def test_plan_costs_and_choice_run_the_same_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the training loop, with a process's share in its parts, and every loss."""
    steps = []
    real = training.train_step

    def noted(model: nn.Module, optimizer: Any, parts: Any, recipe: Any) -> Any:
        given = list(parts)
        sizes = [tuple(images.shape) for images, _ in given]
        steps.append((sizes, recipe.criterion.dice, recipe.config.clip_norm))
        return real(model, optimizer, given, recipe)

    monkeypatch.setattr(training, "train_step", noted)
    protocol = small.protocol(batch=12, accumulate=2, loss={"dice": 0.5}, clip_norm=3.0)
    each = work(protocol, processes=2)
    training_call(each, small.head(), CPU)()
    Forecaster(each, CPU, steps=1).forecast(small.head())
    record = profile_models(each, [small.head()], Timing(0, 1, CPU))
    assert set(map(str, steps)) == {str(([(3, 3, 64, 64)] * 2, 0.5, 3.0))}
    assert record.training_input == "3x3x64x64"
    assert (record.workload["part"], record.workload["accumulate"]) == (3, 2)
    memory = Forecaster(each, CPU).forecast(small.head()).training_memory_bytes
    assert record.heads["fcn"].training_memory_bytes == memory


def test_many_steps_stay_within_the_schedule_and_finite() -> None:
    """More than the protocol has, at a rate that would let the loss explode."""
    call = training_call(work(small.protocol(steps=1, lr=1e30)), small.head(), CPU)
    for _ in range(12):  # losses are looked at after ten
        call()


@pytest.mark.parametrize(
    ("evaluate", "size"),
    [
        pytest.param({"size": (32, 48)}, (32, 48), marks=pytest.mark.slow),
        pytest.param({"short_side": 32}, (32, 32), marks=pytest.mark.slow),
        pytest.param({"scales": (0.5, 1.5)}, (96, 96), marks=pytest.mark.slow),
        ({"mode": "slide", "window": (32, 32), "stride": (16, 16)}, (32, 32)),
    ],
)
def test_costs_are_those_of_the_largest_pass(
    evaluate: dict[str, Any], size: tuple[int, int]
) -> None:
    protocol = small.protocol().model_copy(
        update={"evaluate": {"single": EvaluateConfig(**evaluate)}}
    )
    record = profile_models(work(protocol), [small.head()], Timing(0, 0, CPU))
    assert record.input == f"1x3x{size[0]}x{size[1]}"
    assert record.workload["passes"] == work(protocol).passes
    expected = passes.count_scopes(
        *(getattr(built(work(), small.head(), "meta"), part) for part in ("backbone", "head")), size
    )
    assert record.heads["fcn"].counts["model"].macs == expected["model"].macs


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ppm", "encnet"])
def test_one_image_is_enough_where_batch_norm_is_synchronised(name: str) -> None:
    """A share of 1 of a batch of 2: the statistics of the others are there when it runs."""
    shared = work(small.protocol(batch=2), processes=2)
    assert shared.batch_norm == "images of all processes"
    training_call(shared, small.head(name), CPU)()
    assert predicted(shared, small.head(name)).training_bytes > 0
    own = replace(shared, synchronised=False)
    assert own.batch_norm == "own images"
    if name == "ppm":
        with pytest.raises(ValueError, match="batch norm over one value"):
            training_call(own, small.head(name), CPU)()


def test_a_batch_norm_that_shares_is_one_that_does_not_for_many_values() -> None:
    alone, shared = (built(work(processes=n), small.head("ppm")).train() for n in (1, 2))
    images = torch.randn(2, 3, 64, 64)
    torch.manual_seed(0)
    expected = alone(images).logits
    torch.manual_seed(0)
    torch.testing.assert_close(shared(images).logits, expected)


def test_hard_pixels_are_shared_by_the_processes() -> None:
    each = work(small.protocol(batch=4, loss={"ohem": {"keep": 9}}), processes=2)
    recipe = passes._recipe(each, built(each, small.head()), small.head(), CPU)
    assert isinstance(recipe.criterion, Criterion)
    assert recipe.criterion.ohem is not None
    assert recipe.criterion.ohem.keep == 5
