"""The training loop: schedule, resume to the bit, and what happens when it cannot go on."""

import dataclasses
import itertools
import math
import threading
from pathlib import Path

import pytest
import torch
from torch.utils.data import default_collate

from contextbench.config import averaging
from contextbench.config.files import ConfigError
from contextbench.config.protocols import load_protocol
from contextbench.config.training import ScheduleConfig, TrainConfig
from contextbench.data import build_dataset
from contextbench.data.stream import TrainStream, train_loader
from contextbench.data.transforms import TrainTransform
from contextbench.models.build import build_model, loss_weights
from contextbench.models.checkpoint import save_checkpoint
from contextbench.models.precision import Precision
from contextbench.runs.cells import Cell, open_setting
from contextbench.runs.run import run_cell
from contextbench.statistics.scores import scores
from contextbench.system.files import digest_of
from contextbench.system.interrupt import Interrupted, StopRequest
from contextbench.training.loop import (
    Progress,
    Recipe,
    TrainingError,
    build_optimizer,
    device_parts,
    schedule_factor,
    set_learning_rate,
    step_seed,
    train,
    train_step,
)
from contextbench.training.losses import Criterion
from tests import small

CPU = torch.device("cpu")

# What `probe` was when the scores of averaged weights were measured.
MEASURED = str(Path(__file__).parents[1] / "results" / "ablations" / "probe.yaml")


def setup(resume: Path | None = None, **settings):
    protocol = small.protocol(**settings)
    config = protocol.train
    model = build_model(protocol, small.head(), 13, seed=0)
    recipe = Recipe(
        config=config,
        loss_weights=loss_weights(model, small.head()),
        precision=Precision(),
        device=CPU,
        seed=0,
        identity={"run": "same"},
        resume_path=resume,
        save_seconds=0.0,
    )
    dataset = build_dataset(protocol.dataset, "train", None)
    transform = TrainTransform(crop=config.crop, scale=config.scale, flip=True, jitter=0.2)
    stream = TrainStream(dataset, transform, seed=0, length=config.steps * config.batch)

    def batches(start):
        return train_loader(stream, batch=config.batch, start_step=start, workers=0)

    return model, batches, recipe


def test_poly_schedule_is_its_formula():
    schedule = ScheduleConfig(power=0.9)
    for step in (0, 1, 50, 99):
        assert schedule_factor(schedule, step, 100) == pytest.approx((1 - step / 100) ** 0.9)


def test_warmup_ramps_linearly_and_never_starts_at_zero():
    schedule = ScheduleConfig(power=0.0, warmup_steps=4)
    assert [schedule_factor(schedule, step, 100) for step in range(6)] == pytest.approx(
        [1 / 5, 2 / 5, 3 / 5, 4 / 5, 1, 1]
    )


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_head_learns_faster_by_its_factor(optimizer):
    config = TrainConfig(
        crop=(64, 64), batch=1, steps=10, lr=0.5, head_lr_factor=4, optimizer=optimizer
    )
    model, _, _ = setup()
    stepper = build_optimizer(model, config)
    assert set_learning_rate(stepper, config, 0) == 0.5
    assert [group["lr"] for group in stepper.param_groups] == [0.5, 2.0]


def test_step_seeds_differ_between_steps_and_seeds():
    seeds = {step_seed(seed, step) for seed in range(5) for step in range(50)}
    assert len(seeds) == 250
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_few_steps_lower_the_loss():
    model, batches, recipe = setup(steps=30, optimizer="adamw", lr=0.01, head_lr_factor=1)
    history = train(model, batches, recipe).history
    assert [entry["step"] for entry in history] == list(range(1, 31))
    assert sum(e["main"] for e in history[-5:]) < 0.8 * sum(e["main"] for e in history[:5])


def test_the_loss_is_the_weighted_sum_of_the_recorded_terms():
    model, batches, recipe = setup()
    for entry in train(model, batches, recipe).history:
        assert entry["loss"] == pytest.approx(entry["main"] + 0.4 * entry["aux"], rel=1e-5)


def test_same_seed_gives_identical_weights_and_losses():
    first, second = setup(), setup()
    assert train(*first).history == train(*second).history
    assert_same_weights(first[0], second[0])


def test_batches_drawn_ahead_give_the_weights_of_batches_drawn_in_turn(tmp_path):
    """To the bit of the checkpoint, by a thread, by a worker, and each when it is asked for."""

    def in_turn(stream, config, start):
        for first in range(start * config.batch, len(stream), config.batch):
            yield default_collate([stream[item] for item in range(first, first + config.batch)])

    def ahead(workers):
        return lambda stream, config, start: train_loader(
            stream, batch=config.batch, start_step=start, workers=workers
        )

    digests = []
    for number, way in enumerate((in_turn, ahead(0), ahead(1))):
        model, batches, recipe = setup(steps=3, optimizer="adamw")
        stream = batches(0).dataset
        train(model, lambda start, s=stream, w=way, r=recipe: w(s, r.config, start), recipe)
        save_checkpoint(tmp_path / f"{number}.safetensors", model, {})
        digests.append(digest_of(tmp_path / f"{number}.safetensors"))
    assert len(set(digests)) == 1


def test_the_next_batch_is_drawn_during_a_step_and_no_thread_is_left_after_a_stop():
    """The first step waits until an item of the second batch is drawn."""
    begun, stop = threading.Event(), StopRequest()
    model, batches, recipe = setup(steps=9)
    stream = batches(0).dataset
    drawn, augment = [], stream.augment

    def noting(item, sample):
        drawn.append(item)
        if item >= recipe.config.batch:
            begun.set()
        return augment(item, sample)

    def waiting(_module, _inputs):
        stop.requested = begun.wait(60)

    stream.augment = noting
    model.register_forward_pre_hook(waiting)
    with pytest.raises(Interrupted):
        train(model, batches, recipe, stop=stop)
    assert begun.is_set()
    assert not [each for each in threading.enumerate() if each.name.startswith("ahead")]
    assert len(drawn) <= 3 * recipe.config.batch  # of the step, the one before the stop, one ahead


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_stopped_and_resumed_equals_undisturbed(tmp_path, optimizer):
    undisturbed = setup(steps=6, optimizer=optimizer)
    expected = train(*undisturbed).history
    stop = StopRequest()
    model, batches, recipe = setup(tmp_path / "resume.pt", steps=6, optimizer=optimizer)
    with pytest.raises(Interrupted):
        train(model, stopping_at(batches, 2, stop), recipe, stop=stop)
    resumed = setup(tmp_path / "resume.pt", steps=6, optimizer=optimizer)
    progress = train(*resumed)
    assert progress.step == 6
    assert progress.history == expected
    assert_same_weights(resumed[0], undisturbed[0])


def test_resume_file_of_another_run_is_refused_and_stays(tmp_path):
    path = tmp_path / "resume.pt"
    train(*setup(path))
    before = path.read_bytes()
    model, batches, recipe = setup(path)
    other = dataclasses.replace(recipe, identity={"run": "other"})
    with pytest.raises(ConfigError, match="run was same, is other"):
        train(model, batches, other)
    assert [file.name for file in tmp_path.iterdir()] == ["resume.pt"]
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut off"])
def test_corrupt_resume_file_is_set_aside_and_training_starts_anew(tmp_path, content):
    path = tmp_path / "resume.pt"
    path.write_bytes(content)
    assert len(train(*setup(path)).history) == 4
    assert (tmp_path / "resume.pt.corrupt-1").read_bytes() == content


def test_half_written_resume_file_is_set_aside(tmp_path):
    path = tmp_path / "resume.pt"
    train(*setup(path))
    path.write_bytes(path.read_bytes()[:-1000])
    assert train(*setup(path)).step == 4
    assert (tmp_path / "resume.pt.corrupt-1").exists()


def test_a_loss_that_is_not_finite_ends_training_with_the_step(tmp_path):
    model, batches, recipe = setup(tmp_path / "resume.pt", lr=1e30, steps=30)
    with pytest.raises(TrainingError, match=r"not finite at step \d+: loss = .*train\.lr"):
        train(model, batches, recipe)
    if (tmp_path / "resume.pt").exists():
        stored = torch.load(tmp_path / "resume.pt", weights_only=True)
        assert all(entry["loss"] < float("inf") for entry in stored["history"])


def test_crops_without_labels_do_not_disturb_training():
    model, batches, recipe = setup()

    def unlabelled(start):
        for images, labels in batches(start):
            yield images, torch.full_like(labels, 255)

    history = train(model, unlabelled, recipe).history
    assert [entry["main"] for entry in history] == [0.0] * 4
    assert all(p.isfinite().all() for p in model.parameters())


def test_gradients_are_clipped_to_the_norm():
    model, batches, recipe = setup(clip_norm=1e-9, steps=1, weight_decay=0.0, lr=1.0)
    before = [p.detach().clone() for p in model.parameters()]
    train(model, batches, recipe)
    moved = torch.cat([(a - b).flatten() for a, b in zip(before, model.parameters(), strict=True)])
    assert 0 < moved.norm() < 1e-7  # at most lr of the head (10) times the clipped norm


def test_progress_starts_empty():
    assert Progress() == Progress(step=0, seconds=0.0, history=[])


def assert_same_weights(first, second):
    for (name, a), b in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_the_rate_never_falls_below_its_floor():
    schedule = ScheduleConfig(power=0.9, floor=0.01)
    factors = [schedule_factor(schedule, step, 1000) for step in range(1000)]
    assert min(factors) == factors[-1] == 0.01
    assert factors[500] == pytest.approx(0.5**0.9)


def test_gradients_of_equal_parts_are_those_of_the_batch():
    """Without batch norm and with every pixel labelled, the mean of means is the mean."""
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 13, (4, 64, 64), generator=torch.Generator().manual_seed(1))
    gradients, losses = [], []
    for accumulate in (1, 2, 4):
        model, _, recipe = setup(batch=4, accumulate=accumulate)
        model.eval()  # batch norm and dropout act on each image alone
        parts = device_parts(images, labels, recipe)
        terms = train_step(model, build_optimizer(model, recipe.config), parts, aux_free(recipe))
        losses.append(terms["loss"])
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    for other in (1, 2):
        torch.testing.assert_close(gradients[other], gradients[0], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(losses[other], losses[0])


def aux_free(recipe):
    return dataclasses.replace(recipe, loss_weights={})


def test_a_batch_is_computed_in_equal_parts_only():
    with pytest.raises(ValueError, match="accumulate must divide it"):
        TrainConfig(crop=(64, 64), batch=4, steps=1, lr=0.1, accumulate=3)


@pytest.mark.parametrize("decay", [0.25, 0.999])
def test_averaged_weights_are_the_weighted_sum_of_all_steps(decay):
    """w = d w + (1 - d) w_s after step s, from those after the first step on; d = min(decay, ...).

    Statistics of batch norms are averaged alike; their counters are integers, and the last ones.
    """
    seen = []
    model, batches, recipe = setup(steps=4, ema=decay)
    for steps in (1, 2, 3, 4):
        each, each_batches, each_recipe = setup(steps=4)
        stepped = limited(each_batches, steps)
        train(each, stepped, each_recipe)
        seen.append(each.state_dict())
    train(model, batches, recipe)
    averaged = model.state_dict()
    for name in ("head.classifier.1.weight", "backbone.bn1.running_mean", "backbone.bn1.weight"):
        expected = seen[0][name]
        for before, weights in enumerate(seen[1:], 1):  # 2/11, 3/12, 4/13 where decay is larger
            d = min(decay, (1 + before) / (10 + before))
            expected = d * expected + (1 - d) * weights[name]
        torch.testing.assert_close(averaged[name], expected)
    assert averaged["backbone.bn1.num_batches_tracked"] == 4


def test_what_is_left_of_the_first_weights():
    """prod (1 + t) / (10 + t) for t = 1 .. T is 10! (T + 1)! / (T + 10)!: none after 60 steps."""
    decays = [averaging.decay_after(0.9999, t) for t in range(1, 60)]
    left = math.factorial(10) * math.factorial(60) / math.factorial(69)
    assert math.prod(decays) == pytest.approx(left)
    assert left < 1e-9  # with a constant decay it would be 0.9999 ** 59 = 0.994


def test_the_decay_grows_to_what_is_asked_for_in_nine_windows():
    """(1 + t) / (10 + t) = d at t = (10 d - 1) / (1 - d) = 9 / (1 - d) - 10."""
    reached = 9 / (1 - 0.99) - 10
    assert averaging.decay_after(0.99, int(reached) - 1) < 0.99
    assert averaging.decay_after(0.99, int(reached) + 2) == 0.99
    assert averaging.window(0.99, 2000) == pytest.approx(100)
    assert averaging.window(0.9999, 60) == pytest.approx(69 / 9)  # (10 + t) / 9 with t = 59
    assert averaging.window(0.9, 1) == pytest.approx(11 / 9)


@pytest.mark.parametrize(
    ("decay", "steps", "said"),
    [(0.9999, 60, True), (0.9999, 29_000, True), (0.9999, 31_000, False), (0.9, 60, False)],
)
def test_a_window_beyond_a_third_of_the_steps_has_a_caution(decay, steps, said):
    assert (averaging.caution(decay, steps) is not None) == said


def test_a_caution_names_the_window_that_is_reached():
    assert averaging.caution(0.9999, 60) == (
        "train.ema 0.9999 averages weights over about 10,000 steps, and the run has 60: the decay "
        "is still growing when it ends, over the last 8 or so."
    )


@pytest.mark.slow
def test_a_long_average_of_a_short_run_scores_like_the_last_step(tmp_path):
    """With a constant decay it keeps the first weights: 1.5 % of mIoU where the last have 33 %."""
    options = {"size": 96, "train_images": 64, "eval_images": 16}
    scored = []
    for ema in (None, 0.9999):
        protocol = load_protocol(MEASURED, ["backbone.width=16", "precision=float32"])
        settings = {"crop": (96, 96), "batch": 4, "steps": 60, "ema": ema}
        protocol = protocol.model_copy(
            update={
                "dataset": protocol.dataset.model_copy(update={"options": options}),
                "train": protocol.train.model_copy(update=settings),
            }
        )
        cell = Cell(open_setting(protocol, None), small.head(), 0, Precision())
        totals = run_cell(cell, small.execution(tmp_path / str(ema))).totals
        scored.append(scores(totals.intersection, totals.predicted, totals.labelled).miou)
    last, averaged = scored
    assert averaged > 0.9 * last


def stopping_at(batches, step, stop):
    """Batches that ask for a stop in the step of this number."""

    def start_from(start):
        for number, batch in enumerate(batches(start), start):
            stop.requested = number == step
            yield batch

    return start_from


def limited(batches, steps):
    return lambda start: itertools.islice(iter(batches(start)), steps)


def test_averaged_weights_survive_a_restart(tmp_path):
    undisturbed = setup(steps=6, ema=0.9)
    train(*undisturbed)
    stop = StopRequest()
    model, batches, recipe = setup(tmp_path / "resume.pt", steps=6, ema=0.9)
    with pytest.raises(Interrupted):
        train(model, stopping_at(batches, 2, stop), recipe, stop=stop)
    resumed, _, _ = setup(steps=6, ema=0.9)
    train(resumed, batches, recipe)
    assert_same_weights(resumed, undisturbed[0])


def test_a_frozen_batch_norm_keeps_statistics_and_parameters():
    model, batches, recipe = setup(steps=2, batch_norm="frozen")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train(model, batches, recipe)
    after = model.state_dict()
    norms = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.BatchNorm2d) and name.startswith("backbone")
    ]
    assert norms
    for name in norms:
        for part in ("running_mean", "running_var", "weight", "bias"):
            assert torch.equal(before[f"{name}.{part}"], after[f"{name}.{part}"])
    assert not torch.equal(before["head.classifier.1.weight"], after["head.classifier.1.weight"])


def test_deterministic_mode_ends_with_the_training():
    seen = []
    model, batches, recipe = setup(steps=1, deterministic=True)
    train(
        model, batches, recipe,
        on_flush=lambda _: seen.append(torch.are_deterministic_algorithms_enabled()),
    )  # fmt: skip
    assert seen == [True, True]  # as it starts, and at its end
    assert not torch.are_deterministic_algorithms_enabled()


def test_losses_of_the_protocol_are_recorded_and_minimised():
    model, batches, recipe = setup(steps=2)
    recipe = dataclasses.replace(recipe, criterion=Criterion(dice=0.5))
    for entry in train(model, batches, recipe).history:
        parts = entry["main"] + 0.4 * entry["aux"] + 0.5 * entry["dice"]
        assert entry["loss"] == pytest.approx(parts, rel=1e-5)
