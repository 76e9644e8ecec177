"""The training loop: the same for every head, resumable after any step.

Nothing random is carried from one step to the next: step s seeds torch with (seed, s), and the data
stream is indexed by item number. So a run that was killed and resumed from step s equals one that
was not, to the bit on a CPU, and no random-number state is stored.
"""

import hashlib
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from contextbench.config.averaging import decay_after
from contextbench.config.training import ScheduleConfig, TrainConfig
from contextbench.data.ahead import iterating
from contextbench.data.base import IGNORE
from contextbench.models.compiled import Compiled
from contextbench.models.precision import Precision
from contextbench.models.segmenter import Segmenter, parameter_groups
from contextbench.records.provenance import now
from contextbench.records.runs import Leg
from contextbench.records.watched import Watched
from contextbench.system.files import OutputError
from contextbench.system.interrupt import Interrupted, StopRequest
from contextbench.training.losses import Criterion, loss_terms, weighted_sum
from contextbench.training.processes import ALONE, World, no_way_back, synchronise_batch_norm
from contextbench.training.resume import Identity, Progress, progress_in, usable_state, write_state
from contextbench.training.waiting import BatchWait
from contextbench.training.watching import Best, Watch
from heads.interface import Features

FLUSH_STEPS = 10  # losses are read back, and checked to be finite, once in so many steps

Tensors = tuple[Tensor, ...] | list[Tensor]
Part = tuple[Tensor | Features, Tensor]  # images or their features, and labels, on the device
Batch = tuple[Tensor, Tensor]  # images and labels
Batches = Callable[[int], Iterable[Batch]]  # first step -> batches, of this process if of several


class TrainingError(RuntimeError):
    """Training cannot go on; the message says at which step and why."""


@dataclass(frozen=True)
class Recipe:
    """What training needs besides the model and the data."""

    config: TrainConfig
    loss_weights: Mapping[str, float]
    precision: Precision
    device: torch.device
    seed: int
    identity: Identity  # a resume file of another one is refused
    resume_path: Path | None = None
    save_seconds: float = 60.0
    criterion: Criterion = field(default_factory=Criterion)
    world: World = ALONE
    environment: Mapping[str, Any] = field(default_factory=dict)  # told by each leg of the run
    watch: Watch | None = None


class Training:
    """One model on its way from its resume file, if there is one, to the last step.

    The model is moved to the device and changed in place. With `ema` it ends with the averaged
    weights, with `keep: best` with those of the highest watched score. Of several processes each
    has its own, and all call the same methods in the same order: their models stay equal, but for
    the statistics of batch norms that are not synchronised.
    """

    def __init__(
        self,
        model: Segmenter,
        recipe: Recipe,
        on_flush: Callable[[Progress], None] | None = None,
    ) -> None:
        world = recipe.world
        synchronise_batch_norm(model, world, recipe.device)
        model.to(recipe.device).to(memory_format=recipe.precision.torch_memory_format)
        model.train()
        if recipe.config.batch_norm == "frozen":
            freeze_batch_norm(model.backbone)
        optimizer = build_optimizer(model, recipe.config)
        if world.size > 1:
            shared = recipe.criterion.divided(world.size, world.batch_mean)
            recipe = replace(recipe, criterion=shared)
        self.model = model
        self.recipe = recipe
        part = model.trained_part
        self._trained = _Trained(part, optimizer, _averaged(part, recipe.config.ema), Best())
        self.progress = _resumed(self._trained, recipe)
        if recipe.watch is not None:
            recipe.watch.adopt(self.progress)
        self._before, self._leg = tuple(self.progress.legs), _leg(recipe, self.progress.step)
        self._note_leg()
        self._on_flush = on_flush or _unheard
        self._on_flush(self.progress)
        self._parallel = world.parallel(Compiled(model) if recipe.config.compile else model)
        self._log = _LossLog(self.progress, self._on_flush, world)
        self._last_save, self._saved_step = time.monotonic(), self.progress.step

    @property
    def finished(self) -> bool:
        """Whether the last step is done."""
        return self.progress.step >= self.recipe.config.steps

    def step(self, parts: Iterable[Part]) -> None:
        """One optimisation step. Raises `TrainingError` when the loss is not finite.

        That is looked at once in a few steps. After another error the steps before it count.
        """
        try:
            self._step(parts)
        except Exception:
            if self.recipe.world.size == 1:
                with suppress(Exception):
                    self._log.flush()
            raise

    def _step(self, parts: Iterable[Part]) -> None:
        trained, progress = self._trained, self.progress
        rate = set_learning_rate(trained.optimizer, self.recipe.config, progress.step)
        torch.manual_seed(step_seed(self.recipe.seed, progress.step, self.recipe.world.rank))
        with self.recipe.precision.products():
            terms = train_step(self._parallel, trained.optimizer, parts, self.recipe)
        if trained.average is not None:
            trained.average.update_parameters(trained.part)
        progress.step += 1
        self._log.add(progress.step, rate, terms)

    @property
    def due(self) -> bool:
        """Whether there were steps since the state was stored, and that is long ago."""
        waited = time.monotonic() - self._last_save
        return waited > self.recipe.save_seconds and self.progress.step > self._saved_step

    def save(self, *, now: bool = True) -> None:
        """Store the state, or only where it is due."""
        if now or self.due:
            self._log.flush()
            self._note_leg()
            recipe = self.recipe
            if recipe.resume_path is not None and recipe.world.is_main:
                save_resume(self._trained, self.progress, recipe.identity, recipe.resume_path)
            self._last_save, self._saved_step = time.monotonic(), self.progress.step

    @property
    def watch_due(self) -> bool:
        """Whether the weights of now are to be watched before the next step."""
        watch = self.recipe.watch
        return watch is not None and watch.due(self.progress)

    def settle(self) -> None:
        """Wait until the device has done all steps, and read back their losses.

        Raises `TrainingError` where one is not finite.
        """
        began = time.monotonic()
        self._log.flush()
        self.progress.seconds += time.monotonic() - began

    def seen(self) -> Segmenter:
        """The model to watch: with the weights of now, as they would be if training ended here."""
        part, average = self._trained.part, self._trained.average
        self.recipe.world.spread(part if average is None else average.module)
        if average is None:
            return self.model
        return self.model.with_part(average.module)

    def note(self, entry: Watched) -> None:
        """Add what was watched to the curve, and keep the weights where they are the best."""
        trained, progress = self._trained, self.progress
        progress.watched.append(entry)
        progress.watch_seconds += entry.seconds
        if self.recipe.config.keep == "best":
            average = trained.average
            trained.best.offer(entry, trained.part if average is None else average.module)
            progress.kept = trained.best.kept
        self._on_flush(progress)

    def finish(self) -> Progress:
        """Store the state and put the weights in place that the run ends with.

        Raises `TrainingError` where the best are wanted, and no watched step has a score.
        """
        self.save()
        trained = self._trained
        if self.recipe.config.keep == "best":
            if trained.best.weights is None:
                raise TrainingError(_nothing_kept(self.progress))
            trained.part.load_state_dict(trained.best.weights)
        elif trained.average is not None:
            trained.part.load_state_dict(trained.average.module.state_dict())
        self.recipe.world.spread(trained.part)
        return self.progress

    def _note_leg(self) -> None:
        """Say in the progress how far this start of the program has come."""
        done = {"finished": now(), "last_step": self.progress.step}
        self.progress.legs[:] = [*self._before, self._leg.model_copy(update=done)]


def train(
    model: Segmenter,
    batches: Batches,
    recipe: Recipe,
    *,
    stop: StopRequest | None = None,
    on_flush: Callable[[Progress], None] | None = None,
) -> Progress:
    """Train `model` in place from its resume file, if there is one, to the last step.

    Raises `TrainingError` when the loss is not finite; with the state saved, `Interrupted` after a
    stop request, and what loading a batch raises. Of several processes all raise what one meets
    while it loads a batch, and all stop on the request to one. `on_flush` is told the progress that
    training starts from, too.
    """
    known = (TrainingError, Interrupted, OutputError)
    with deterministic(recipe.config.deterministic), no_way_back(recipe.world, *known):
        training = Training(model, recipe, on_flush)
        with iterating(batches(training.progress.step)) as coming:
            error = _run(training, coming, stop or StopRequest())
        if error is None:
            return training.finish()
    raise error


def _run(training: Training, coming: Iterator[Batch], stop: StopRequest) -> Exception | None:
    """All steps that there are batches for; what the first process met that could not load one."""
    world = training.recipe.world
    wait = BatchWait(training.recipe.device)
    tick = time.monotonic()
    while True:
        if training.watch_due:
            training.settle()
            watch([training])
            tick = time.monotonic()
        if training.finished:
            break
        with wait:  # until every process has its batch
            batch, error = _loaded(coming)
            stopping, due, failed = world.agree(stop.requested, training.due, error is not None)
        if stopping or due or failed:
            training.save()
        if failed:
            return world.first_error(error)
        if stopping:
            raise Interrupted
        if batch is None:
            break
        training.step(device_parts(*batch, training.recipe))
        wait.step_ended()
        now = time.monotonic()
        training.progress.seconds += now - tick
        training.progress.wait_seconds += wait.seconds
        tick = now
    return None


def watch(trainings: Sequence[Training]) -> None:
    """Watch the weights of trainings that share one backbone, or of one, settled after one step.

    What it takes is in no seconds of training. Raises `Interrupted`, with the state of all saved,
    on request: whoever goes on watches that step first.
    """
    watcher = trainings[0].recipe.watch
    assert watcher is not None
    models = [each.seen() for each in trainings]
    try:
        entries = watcher.found(models, trainings[0].progress.step)
    except Interrupted:
        for each in trainings:
            each.save()
        raise
    for each, entry in zip(trainings, entries, strict=True):
        each.note(entry)


def _loaded(coming: Iterator[Batch]) -> tuple[Batch | None, Exception | None]:
    """The next batch, None after the last one, and what went wrong instead."""
    try:
        return next(coming, None), None
    except Exception as error:
        return None, error


def device_parts(images: Tensor, labels: Tensor, recipe: Recipe) -> Iterator[Part]:
    """The `accumulate` equal parts of a batch, each brought to the device when its turn comes.

    Labels become int64 there: as bytes they are sent faster.
    """
    parts = recipe.config.accumulate
    layout = recipe.precision.torch_memory_format
    for part in zip(images.chunk(parts), labels.chunk(parts), strict=True):
        yield (
            part[0].to(recipe.device, non_blocking=True, memory_format=layout),
            part[1].to(recipe.device, non_blocking=True).to(torch.int64),
        )


def train_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, parts: Iterable[Part], recipe: Recipe
) -> dict[str, Tensor]:
    """One optimisation step on parts of a batch: (N, 3, H, W) or features, and labels (N, H, W).

    Gradients and the detached loss terms that it returns are the mean over the `accumulate` equal
    parts, each with its own batch norm and its own mean over labelled pixels. `model` is a
    `Segmenter`, or one made parallel: then the last part brings the gradients of all together.
    """
    optimizer.zero_grad(set_to_none=True)
    recorded = []
    for number, part in enumerate(parts, 1):
        with _apart(model, number < recipe.config.accumulate):
            recorded.append(_accumulate(model, *part, recipe))
    if recipe.config.clip_norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), recipe.config.clip_norm)
    optimizer.step()
    return {name: torch.stack([terms[name] for terms in recorded]).mean() for name in recorded[0]}


def _apart(model: nn.Module, wanted: bool) -> AbstractContextManager[None]:
    """Keep gradients in this process, where that is wanted and there are several."""
    if wanted and isinstance(model, DistributedDataParallel):
        return model.no_sync()
    return nullcontext()


def _accumulate(
    model: nn.Module, images: Tensor | Features, labels: Tensor, recipe: Recipe
) -> dict[str, Tensor]:
    """Add the gradients of one part of a batch; its loss and its terms, detached."""
    with recipe.precision.autocast(recipe.device):
        output = model(images, labels)
    terms = loss_terms(output, labels, IGNORE, recipe.criterion)
    loss = weighted_sum(terms, {**recipe.loss_weights, **recipe.criterion.extra_weights})
    torch.autograd.backward(loss / recipe.config.accumulate)
    return {"loss": loss.detach(), **{name: term.detach() for name, term in terms.items()}}


def freeze_batch_norm(module: nn.Module) -> None:
    """Keep the statistics and the affine parameters of every batch norm as they are."""
    for norm in module.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.eval()
            norm.requires_grad_(False)


def build_optimizer(model: Segmenter, config: TrainConfig) -> torch.optim.Optimizer:
    """SGD with momentum or AdamW over the backbone's and the head's parameter groups."""
    groups = parameter_groups(
        model, lr=config.lr, head_lr_factor=config.head_lr_factor, weight_decay=config.weight_decay
    )
    for group in groups:
        group["initial_lr"] = group["lr"]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups)
    return torch.optim.SGD(groups, momentum=config.momentum)


def schedule_factor(schedule: ScheduleConfig, step: int, steps: int) -> float:
    """Multiplier of the rate in step 0 .. steps - 1: warm-up ramp times poly decay to the floor."""
    decay: float = max(schedule.floor, (1 - step / steps) ** schedule.power)
    return decay * min(1.0, (step + 1) / (schedule.warmup_steps + 1))


def set_learning_rate(optimizer: torch.optim.Optimizer, config: TrainConfig, step: int) -> float:
    """Set every group's rate for this step; return the backbone's."""
    factor = schedule_factor(config.schedule, step, config.steps)
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
    return config.lr * factor


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """A 63-bit seed for the dropout of one step, in one of several processes."""
    process = f"/{rank}" if rank else ""
    digest = hashlib.sha256(f"{seed}/{step}{process}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@dataclass(frozen=True)
class _Trained:
    """Everything that a step changes."""

    part: nn.Module  # of the model
    optimizer: torch.optim.Optimizer
    average: AveragedModel | None
    best: Best


class _Average(AveragedModel):
    """The exponential moving average of parameters and buffers (`averaging`).

    Integers, which are counters of batch norms, are those of the last step.
    """

    def __init__(self, part: nn.Module, decay: float) -> None:
        self._decay = decay
        super().__init__(part, multi_avg_fn=self._mix, use_buffers=True)

    @torch.no_grad()
    def _mix(self, averages: Tensors, values: Tensors, _count: object) -> None:
        if averages[0].is_floating_point():
            # The module's own count lies on the CPU, so that no device is waited for.
            decay = decay_after(self._decay, int(self.n_averaged))
            torch._foreach_lerp_(averages, values, 1 - decay)
        else:
            torch._foreach_copy_(averages, values)


def _averaged(part: nn.Module, decay: float | None) -> AveragedModel | None:
    """The average of the weights after the first step and all later ones; None without `decay`."""
    return None if decay is None else _Average(part, decay)


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Refuse, while inside, operators whose result differs from run to run."""
    before = torch.are_deterministic_algorithms_enabled()
    if wanted:
        # cuBLAS is deterministic only with a workspace of fixed size.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _leg(recipe: Recipe, step: int) -> Leg:
    """What this start of the program begins at `step`, with no step done yet."""
    precision, begun = recipe.precision, now()
    return Leg(
        started=begun,
        finished=begun,
        first_step=step,
        last_step=step,
        precision={"dtype": precision.dtype, "memory_format": precision.memory_format},
        environment=dict(recipe.environment),
    )


def save_resume(trained: _Trained, progress: Progress, identity: Identity, path: Path) -> None:
    """Store all that is needed to go on after `progress.step`. Raises `OutputError`."""
    average = trained.average
    content = {
        "model": trained.part.state_dict(),
        "optimizer": trained.optimizer.state_dict(),
        "average": None if average is None else average.state_dict(),
        "best": trained.best.weights,
    }
    write_state(path, identity, progress, content)


def _resumed(trained: _Trained, recipe: Recipe) -> Progress:
    path, steps = recipe.resume_path, recipe.config.steps
    if path is None:
        return Progress()
    state = recipe.world.from_main(lambda: usable_state(path, recipe.identity, steps))
    if state is None:
        return Progress()
    trained.part.load_state_dict(state["model"])
    trained.optimizer.load_state_dict(state["optimizer"])
    if trained.average is not None:
        trained.average.load_state_dict(state["average"])
    progress = progress_in(state)
    trained.best.kept, trained.best.weights = progress.kept, state.get("best")
    return progress


class _LossLog:
    """Keeps losses on the device and reads them back in groups, so that a GPU is not stalled."""

    def __init__(
        self, progress: Progress, on_flush: Callable[[Progress], None], world: World
    ) -> None:
        self._progress = progress
        self._on_flush = on_flush
        self._world = world
        self._pending: list[tuple[int, float, dict[str, Tensor]]] = []

    def add(self, step: int, rate: float, terms: dict[str, Tensor]) -> None:
        self._pending.append((step, rate, terms))
        if len(self._pending) >= FLUSH_STEPS:
            self.flush()

    def flush(self) -> None:
        """Raises `TrainingError`, with the progress at the step, where a loss is not finite."""
        pending, self._pending = self._pending, []
        if not pending:
            return
        own = torch.stack([torch.stack(list(terms.values())) for _, _, terms in pending])
        stacked = self._world.mean(own)
        for (step, rate, terms), values in zip(pending, stacked.tolist(), strict=True):
            named = dict(zip(terms, values, strict=True))
            if not all(map(math.isfinite, values)):
                self._progress.step = step
                raise TrainingError(_not_finite(step, named))
            self._progress.history.append({"step": step, "lr": rate, **named})
        self._on_flush(self._progress)


def _unheard(_progress: Progress) -> None:
    """Nobody asks how far training is."""


def _nothing_kept(progress: Progress) -> str:
    reasons = [entry.failure.message for entry in progress.watched if entry.failure is not None]
    why = reasons[-1] if reasons else "no watched image has a labelled pixel"
    return f"train.keep: best, and no watched step has a score: {why}"


def _not_finite(step: int, terms: Mapping[str, float]) -> str:
    shown = ", ".join(f"{name} = {value:g}" for name, value in terms.items())
    return (
        f"the loss is not finite at step {step}: {shown}; "
        "a lower train.lr, train.clip_norm or train.schedule.warmup_steps may help"
    )
