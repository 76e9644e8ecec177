"""One backbone pass for several heads: every one of them becomes what it becomes alone."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.modules.module import register_module_forward_pre_hook

from contextbench.config.evaluation import EvaluateConfig
from contextbench.config.protocols import Protocol
from contextbench.data import DataError
from contextbench.evaluation.prediction import largest, predict_labels, predicted
from contextbench.measure.passes import Workload
from contextbench.measure.profile import Timing, profile_models
from contextbench.models.backbone import Backbone
from contextbench.models.build import build_model, loss_weights
from contextbench.models.precision import Precision
from contextbench.records.counts import read_areas
from contextbench.records.history import read_history
from contextbench.records.runs import read_run
from contextbench.runs import run as runner
from contextbench.runs.cells import Cell, open_setting
from contextbench.runs.examples import store_examples
from contextbench.runs.grid import run_grid
from contextbench.system.interrupt import Interrupted
from contextbench.training import shared_backbone
from contextbench.training.loop import Recipe, Training
from contextbench.training.shared_backbone import train_together
from heads import HEADS
from heads.interface import Features
from tests import small

CLASSES = 13  # of the probe
TIMES = {
    **dict.fromkeys(("legs", "started", "finished", "train_seconds", "train_wait_seconds"), True),
    "views": {"__all__": {"evaluate_seconds"}},
}
SIX = ("fcn", "ppm", "aspp", "ocnet", "encnet", "ocr")


def frozen(evaluate=None, **train) -> Protocol:
    changes = {
        "shared_backbone": "frozen",
        "evaluate": {"single": EvaluateConfig(**(evaluate or {}))},
    }
    return small.protocol(**train).model_copy(update=changes)


def run(protocol, out, *names, seeds=(0,), precision=Precision(), **options):
    setting = open_setting(protocol, None)
    heads = [small.head(name) for name in names]
    return run_grid(setting, heads, seeds, precision, small.execution(out), **options)


def run_each_alone(protocol, out, *names, **options):
    return [record for name in names for record in run(protocol, out, name, **options)]


def assert_same_cells(first, second, *names, seed=0):
    """Record (but for times), history, weights and counts, all to the bit."""
    for name in names:
        one, two = (out / "tiny" / name / f"seed-{seed}" for out in (first, second))
        records = [read_run(folder / "record.json") for folder in (one, two)]
        assert records[0].model_dump(exclude=TIMES) == records[1].model_dump(exclude=TIMES)
        assert records[0].status == "done"
        assert read_history(one / "history.jsonl") == read_history(two / "history.jsonl")
        weights, others = (load_file(path / "checkpoint.safetensors") for path in (one, two))
        assert weights.keys() == others.keys()
        assert all(torch.equal(weights[key], others[key]) for key in weights)
        counts, expected = (read_areas(path / "areas.npz") for path in (one, two))
        np.testing.assert_array_equal(counts.intersection, expected.intersection)
        np.testing.assert_array_equal(counts.predicted, expected.predicted)


@pytest.fixture
def passes():
    """Shapes of the images of every pass of a backbone."""
    seen = []

    def count(module, inputs):
        if isinstance(module, Backbone):
            seen.append(tuple(inputs[0].shape))

    handle = register_module_forward_pre_hook(count)
    yield seen
    handle.remove()


def after(monkeypatch, name, calls, change):
    """After so many calls the head `name` does `change(features, output)` instead."""
    forward, done = HEADS[name].forward, []

    def changed(self, features):
        done.append(None)
        output = forward(self, features)
        return change(features, output) if len(done) > calls else output

    monkeypatch.setattr(HEADS[name], "forward", changed)


def test_heads_at_once_equal_heads_alone_to_the_bit(tmp_path):
    protocol = frozen()
    run(protocol, tmp_path / "together", *SIX)
    run_each_alone(protocol, tmp_path / "alone", *SIX)
    assert_same_cells(tmp_path / "together", tmp_path / "alone", *SIX)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "evaluate", "train"),
    [
        (Precision(), {}, {"batch": 4, "accumulate": 2, "ema": 0.5, "clip_norm": 0.5}),
        (Precision("bfloat16", "channels_last"), {"scales": (0.5, 1.0), "flip": True}, {}),
        (
            Precision(),
            {"mode": "slide", "window": (48, 48), "stride": (16, 16)},
            {"optimizer": "adamw", "loss": {"dice": 0.5, "class_weights": "median_frequency"}},
        ),
    ],
)
def test_so_they_do_under_other_settings(tmp_path, precision, evaluate, train):
    protocol, names = frozen(evaluate, **train), ("encnet", "ocr")
    for out, work in (("together", run), ("alone", run_each_alone)):
        work(protocol, tmp_path / out, *names, seeds=[3], precision=precision)
    assert_same_cells(tmp_path / "together", tmp_path / "alone", *names, seed=3)


def test_the_backbone_stays_as_it_was_and_the_head_does_not(tmp_path):
    protocol = frozen()
    run(protocol, tmp_path, "fcn", "ppm")
    before = build_model(protocol, small.head("ppm"), CLASSES, seed=0).state_dict()
    after = load_file(tmp_path / "tiny" / "ppm" / "seed-0" / "checkpoint.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert {name.partition(".")[0] for name in changed} == {"head"}


@pytest.mark.slow
def test_a_step_and_an_image_pass_the_backbone_once(tmp_path, passes):
    run(frozen(steps=4, batch=2), tmp_path, "fcn", "ppm", "ocr", seeds=(0, 1))
    for_one_seed = [(2, 3, 64, 64)] * 4 + [(1, 3, 64, 64)] * 3  # steps, images
    assert passes == 2 * for_one_seed


def test_a_trained_backbone_is_not_shared(tmp_path, passes):
    run(small.protocol(steps=4, batch=2), tmp_path, "fcn", "ppm")
    assert passes == 2 * ([(2, 3, 64, 64)] * 4 + [(1, 3, 64, 64)] * 3)


def stopping_after(steps, monkeypatch):
    """Let training at once meet a stop request after so many steps."""
    real = runner.train_together

    def train_together(*arguments, stop, on_step, **options):
        def show(step, heads):
            stop.requested = step == steps - 1
            on_step(step, heads)

        return real(*arguments, stop=stop, on_step=show, **options)

    monkeypatch.setattr(runner, "train_together", train_together)


def test_heads_resume_and_a_head_added_later_catches_up(tmp_path, monkeypatch, passes):
    protocol = frozen(steps=6)
    with monkeypatch.context() as patched:
        stopping_after(2, patched)
        with pytest.raises(Interrupted):
            run(protocol, tmp_path / "a", "fcn", "ppm")
    for name in ("fcn", "ppm"):
        folder = tmp_path / "a" / "tiny" / name / "seed-0"
        record = read_run(folder / "record.json")
        assert (record.status, record.steps) == ("interrupted", 2)
        state = torch.load(folder / "resume.pt", weights_only=True)["model"]
        assert not [name for name in state if name.startswith("backbone")]
    passes.clear()
    run(protocol, tmp_path / "a", "fcn", "encnet", "ppm")
    assert len(passes) == 6 + 3  # steps of the new head, which the others join; images
    run_each_alone(protocol, tmp_path / "b", "fcn", "encnet", "ppm")
    assert_same_cells(tmp_path / "a", tmp_path / "b", "fcn", "encnet", "ppm")


def test_only_missing_heads_are_trained(tmp_path, passes):
    protocol = frozen()
    first = run(protocol, tmp_path, "fcn", "ppm")
    passes.clear()
    assert run(protocol, tmp_path, "ppm", "fcn") == first[::-1]
    assert passes == []
    run(protocol, tmp_path, "fcn", "ocr", "ppm", "encnet")
    run_each_alone(protocol, tmp_path / "alone", "ocr", "encnet")
    assert_same_cells(tmp_path, tmp_path / "alone", "ocr", "encnet")


def no_number(_features, output):
    return output._replace(logits=output.logits * torch.nan)


def no_memory(_features, _output):
    raise torch.OutOfMemoryError("no memory for 3 TiB")


def vandal(features, _output):
    for feature in features:
        feature.zero_()
    raise RuntimeError("features are mine")


@pytest.mark.parametrize(
    ("calls", "change", "status", "message", "steps"),
    [
        (1, no_number, "failed", "the loss is not finite at step 2", 2),
        pytest.param(
            2, no_memory, "out_of_memory", "no memory for 3 TiB", 2, marks=pytest.mark.slow
        ),
        pytest.param(3, vandal, "failed", "features are mine", 3, marks=pytest.mark.slow),
        (4, no_number, "failed", "val-000000: the model's logits are not finite", 4),
    ],
)
def test_one_failing_head_leaves_the_others_as_they_are(
    tmp_path, monkeypatch, calls, change, status, message, steps
):
    protocol = frozen(steps=4)
    run_each_alone(protocol, tmp_path / "alone", "fcn", "ocr")
    after(monkeypatch, "ppm", calls, change)
    [_, failed, _] = run(protocol, tmp_path / "together", "fcn", "ppm", "ocr")
    assert (failed.status, failed.steps) == (status, steps)
    assert message in failed.failure.message
    assert failed.totals is None
    folder = tmp_path / "together" / "tiny" / "ppm" / "seed-0"
    assert read_run(folder / "record.json") == failed
    assert len(read_history(folder / "history.jsonl")) <= steps
    assert_same_cells(tmp_path / "together", tmp_path / "alone", "fcn", "ocr")


def test_a_failure_of_all_is_recorded_for_each_with_its_reason(tmp_path, monkeypatch):
    def unreadable(*_arguments, **_options):
        raise DataError("image 3 cannot be read")

    monkeypatch.setattr(runner, "train_loader", unreadable)
    records = run(frozen(), tmp_path, "fcn", "ppm")
    assert [record.failure.message for record in records] == ["image 3 cannot be read"] * 2


def test_every_head_failing_ends_the_group(tmp_path, monkeypatch):
    for name in ("fcn", "ppm"):
        after(monkeypatch, name, 0, no_memory)
    records = run(frozen(), tmp_path, "fcn", "ppm")
    assert [(record.status, record.steps) for record in records] == [("out_of_memory", 0)] * 2


def trainings(protocol, *names):
    shared, made = None, []
    for name in names:
        model = build_model(protocol, small.head(name), CLASSES, seed=0, backbone=shared)
        shared = model.backbone
        made.append(
            Training(
                model,
                Recipe(
                    config=protocol.train,
                    loss_weights=loss_weights(model, small.head(name)),
                    precision=Precision(),
                    device=torch.device("cpu"),
                    seed=0,
                    identity={"run": name},
                ),
            )
        )
    return made


def batches(_start):
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        images = torch.randn(2, 3, 64, 64, generator=generator)
        yield images, torch.randint(0, CLASSES, (2, 64, 64), generator=generator)


def test_gradients_are_held_of_one_head_at_a_time_and_of_no_feature(monkeypatch):
    made = trainings(frozen(), "fcn", "ppm", "ocr")
    parameters = [p for each in made for p in each.model.parameters()]
    features = []

    def guard(_training):
        assert all(p.grad is None for p in parameters)
        return nullcontext()

    after(monkeypatch, "ppm", 0, lambda seen, output: features.extend(seen) or output)
    assert train_together(made, batches, guard) == made
    assert len(features) == 4 * 4  # steps, stages
    assert not any(feature.requires_grad for feature in features)


def test_the_seconds_of_a_step_are_divided_between_its_heads(monkeypatch):
    clock = iter(range(0, 1000, 6))
    monkeypatch.setattr(shared_backbone, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    ahead, behind = made = trainings(frozen(), "fcn", "ppm")
    ahead.progress.step = 3
    train_together(made, batches, lambda _: nullcontext())
    assert ahead.progress.seconds == 6 / 2
    assert behind.progress.seconds == 3 * 6 + 6 / 2


@pytest.mark.parametrize("name", HEADS)
def test_heads_do_not_write_into_features(name):
    model = build_model(frozen(), small.head(name), CLASSES, seed=0)
    with torch.no_grad():
        features = model.backbone(torch.randn(2, 3, 64, 64))
    before = [feature.clone() for feature in features]
    for mode in (True, False):
        model.train(mode)(features)
    assert all(map(torch.equal, features, before))


def test_a_frozen_model_trains_its_head_alone():
    model = build_model(frozen(), small.head(), CLASSES, seed=0).train()
    assert model.head.training
    assert not any(module.training for module in model.backbone.modules())
    assert not any(p.requires_grad for p in model.backbone.parameters())
    assert model.trained_part is model.head


def test_features_in_place_of_images_give_the_same_output():
    model = build_model(frozen(), small.head("ocr"), CLASSES, seed=0).eval()
    images = torch.randn(1, 3, 64, 64)
    features = model.backbone(images)
    assert isinstance(features, Features)
    assert torch.equal(model(features).logits, model(images).logits)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"scales": (0.5, 1.0), "flip": True},
        {"mode": "slide", "window": (32, 48), "stride": (16, 32), "average": "logits"},
        {"mode": "slide", "window": (32, 32), "stride": (32, 16), "flip": True},
    ],
)
def test_predictions_of_each_are_those_of_each_alone(config, passes):
    protocol, shared, models = frozen(), None, []
    for name in ("fcn", "ppm", "ocr"):
        model = build_model(protocol, small.head(name), CLASSES, seed=0, backbone=shared).eval()
        shared = model.backbone
        models.append(model)
    images = torch.randn(1, 3, 64, 80)
    settings = {
        "config": EvaluateConfig(**config),
        "mirrored": [1, 0, *range(2, CLASSES)],
        "labels": torch.zeros(1, 60, 70, dtype=torch.uint8),
    }
    with torch.inference_mode():
        expected = [predict_labels([model], images, (60, 70), **settings) for model in models]
        alone = len(passes)
        found = predicted(largest, models, images, (60, 70), each=True, **settings)
    assert len(passes) - alone == alone / 3
    assert len({each.sum().item() for each in expected}) > 1, "heads that predict the same"
    assert all(map(torch.equal, found, expected))


@pytest.mark.slow
def test_a_training_step_is_profiled_as_that_of_one_head_over_a_frozen_backbone():
    """Its gradients, optimizer state and activations are those of the head."""
    timing = Timing(1, 1, torch.device("cpu"))
    costs = [
        profile_models(Workload(protocol, CLASSES, (64, 64), None), [small.head()], timing).heads[
            "fcn"
        ]
        for protocol in (small.protocol(), frozen())
    ]
    trained, fixed = costs
    assert fixed.counts == trained.counts
    assert fixed.inference_memory_bytes == trained.inference_memory_bytes
    assert len(fixed.train_latency_ms) == 1
    parameters = fixed.counts["model"].parameters - fixed.counts["head"].parameters
    saved = trained.training_memory_bytes - fixed.training_memory_bytes
    assert saved > 4 * 2 * parameters  # float32 gradients and momentum of the backbone


def test_attention_needs_no_gradient_of_the_backbone(tmp_path):
    setting = open_setting(frozen(), None)
    [record] = run(frozen(), tmp_path, "ocnet")
    cell = Cell(setting, small.head("ocnet"), 0, Precision())
    examples = store_examples(setting, [cell], small.execution(tmp_path), count=1)
    assert record.status == "done"
    assert {each.head for each in examples.attention} == {"ocnet"}
