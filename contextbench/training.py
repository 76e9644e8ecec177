"""The training loop: the same for every head, resumable after any step.

Nothing random is carried from one step to the next: step s seeds torch with (seed, s), and the data
stream is indexed by item number. So a run that was killed and resumed from step s equals one that
was not, to the bit on a CPU, and no random-number state is stored.
"""

import hashlib
import math
import os
import pickle
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from contextbench.config import ScheduleConfig, TrainConfig
from contextbench.data.base import IGNORE
from contextbench.files import quarantine, write_atomic
from contextbench.interrupt import StopRequest
from contextbench.losses import Criterion, loss_terms, weighted_sum
from contextbench.model import Segmenter, parameter_groups
from contextbench.precision import Precision
from heads.interface import Features

FLUSH_STEPS = 10  # losses are read back, and checked to be finite, once in so many steps

Entry = dict[str, float]
Part = tuple[Tensor | Features, Tensor]  # images or their features, and labels, on the device
Batches = Callable[[int], Iterable[tuple[Tensor, Tensor]]]  # first step -> (images, labels), ...


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
    identity: str  # a resume file of another identity is not continued
    resume_path: Path | None = None
    save_seconds: float = 60.0
    criterion: Criterion = field(default_factory=Criterion)


@dataclass
class Progress:
    """Where training stands: completed steps, their losses, and seconds spent over all restarts."""

    step: int = 0
    seconds: float = 0.0
    history: list[Entry] = field(default_factory=list)


class Training:
    """One model on its way from its resume file, if there is one, to the last step.

    The model is moved to the device and changed in place. With `ema` it ends with the averaged
    weights.
    """

    def __init__(
        self,
        model: Segmenter,
        recipe: Recipe,
        on_flush: Callable[[Progress], None] | None = None,
    ) -> None:
        model.to(recipe.device).to(memory_format=recipe.precision.torch_memory_format)
        model.train()
        if recipe.config.batch_norm == "frozen":
            freeze_batch_norm(model.backbone)
        optimizer = build_optimizer(model, recipe.config)
        self.model = model
        self.recipe = recipe
        part = model.trained_part
        self._trained = _Trained(part, optimizer, _averaged(part, recipe.config.ema))
        self.progress = _resumed(self._trained, recipe)
        self._log = _LossLog(self.progress, on_flush)
        self._last_save = time.monotonic()

    @property
    def finished(self) -> bool:
        """Whether the last step is done."""
        return self.progress.step >= self.recipe.config.steps

    def step(self, parts: Iterable[Part]) -> None:
        """One optimisation step. Raises `TrainingError` when the loss is not finite.

        That is looked at once in a few steps.
        """
        trained, progress = self._trained, self.progress
        rate = set_learning_rate(trained.optimizer, self.recipe.config, progress.step)
        torch.manual_seed(step_seed(self.recipe.seed, progress.step))
        terms = train_step(self.model, trained.optimizer, parts, self.recipe)
        if trained.average is not None:
            trained.average.update_parameters(trained.part)
        progress.step += 1
        self._log.add(progress.step, rate, terms)

    def save(self, *, now: bool = True) -> None:
        """Store the state, or only where it is due, so many seconds after the last time."""
        if now or time.monotonic() - self._last_save > self.recipe.save_seconds:
            self._log.flush()
            save_resume(self._trained, self.progress, self.recipe)
            self._last_save = time.monotonic()

    def finish(self) -> Progress:
        """Store the state and put averaged weights in place."""
        self.save()
        if self._trained.average is not None:
            self._trained.part.load_state_dict(self._trained.average.module.state_dict())
        return self.progress


def train(
    model: Segmenter,
    batches: Batches,
    recipe: Recipe,
    *,
    stop: StopRequest | None = None,
    on_flush: Callable[[Progress], None] | None = None,
) -> Progress:
    """Train `model` in place from its resume file, if there is one, to the last step.

    Raises `TrainingError` when the loss is not finite, and `Interrupted` after a stop request, with
    the state saved.
    """
    with deterministic(recipe.config.deterministic):
        training = Training(model, recipe, on_flush)
        tick = time.monotonic()
        for images, labels in batches(training.progress.step):
            if training.finished:
                break
            training.step(device_parts(images, labels, recipe))
            now = time.monotonic()
            training.progress.seconds += now - tick
            tick = now
            stopping = stop is not None and stop.requested
            training.save(now=stopping)
            if stopping and stop is not None:
                stop.check()
        return training.finish()


def device_parts(images: Tensor, labels: Tensor, recipe: Recipe) -> Iterator[Part]:
    """The `accumulate` equal parts of a batch, each brought to the device when its turn comes."""
    parts = recipe.config.accumulate
    layout = recipe.precision.torch_memory_format
    for part in zip(images.chunk(parts), labels.chunk(parts), strict=True):
        yield (
            part[0].to(recipe.device, non_blocking=True, memory_format=layout),
            part[1].to(recipe.device, non_blocking=True),
        )


def train_step(
    model: Segmenter, optimizer: torch.optim.Optimizer, parts: Iterable[Part], recipe: Recipe
) -> dict[str, Tensor]:
    """One optimisation step on parts of a batch: (N, 3, H, W) or features, and labels (N, H, W).

    Gradients and the detached loss terms that it returns are the mean over the `accumulate` equal
    parts, each with its own batch norm and its own mean over labelled pixels.
    """
    optimizer.zero_grad(set_to_none=True)
    recorded = [_accumulate(model, *part, recipe) for part in parts]
    if recipe.config.clip_norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), recipe.config.clip_norm)
    optimizer.step()
    return {name: torch.stack([terms[name] for terms in recorded]).mean() for name in recorded[0]}


def _accumulate(
    model: Segmenter, images: Tensor | Features, labels: Tensor, recipe: Recipe
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


def step_seed(seed: int, step: int) -> int:
    """A 63-bit seed for the dropout of one step."""
    digest = hashlib.sha256(f"{seed}/{step}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@dataclass(frozen=True)
class _Trained:
    """Everything that a step changes."""

    part: nn.Module  # of the model
    optimizer: torch.optim.Optimizer
    average: AveragedModel | None


def _averaged(part: nn.Module, decay: float | None) -> AveragedModel | None:
    """The exponential moving average of parameters and buffers, from the first step's values on."""
    if decay is None:
        return None
    average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return AveragedModel(part, multi_avg_fn=average, use_buffers=True)


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


def save_resume(trained: _Trained, progress: Progress, recipe: Recipe) -> None:
    """Store all that is needed to go on after `progress.step`. Raises `OutputError`."""
    if recipe.resume_path is None:
        return
    average = trained.average
    state = {
        "identity": recipe.identity,
        "model": trained.part.state_dict(),
        "optimizer": trained.optimizer.state_dict(),
        "average": None if average is None else average.state_dict(),
        "step": progress.step,
        "seconds": progress.seconds,
        "history": progress.history,
    }
    write_atomic(recipe.resume_path, lambda file: torch.save(state, file))


def _resumed(trained: _Trained, recipe: Recipe) -> Progress:
    state = _read_resume(recipe)
    if state is None:
        return Progress()
    trained.part.load_state_dict(state["model"])
    trained.optimizer.load_state_dict(state["optimizer"])
    if trained.average is not None:
        trained.average.load_state_dict(state["average"])
    return Progress(state["step"], state["seconds"], state["history"])


def _read_resume(recipe: Recipe) -> dict[str, Any] | None:
    """The stored state, or None; a corrupt file or one of another run is set aside."""
    path = recipe.resume_path
    if path is None or not path.exists():
        return None
    try:
        state = torch.load(path, map_location=recipe.device, weights_only=True)
    except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile):
        state = None
    if isinstance(state, dict) and state.get("identity") == recipe.identity:
        return state
    quarantine(path)
    return None


class _LossLog:
    """Keeps losses on the device and reads them back in groups, so that a GPU is not stalled."""

    def __init__(self, progress: Progress, on_flush: Callable[[Progress], None] | None) -> None:
        self._progress = progress
        self._on_flush = on_flush
        self._pending: list[tuple[int, float, dict[str, Tensor]]] = []

    def add(self, step: int, rate: float, terms: dict[str, Tensor]) -> None:
        self._pending.append((step, rate, terms))
        if len(self._pending) >= FLUSH_STEPS:
            self.flush()

    def flush(self) -> None:
        if not self._pending:
            return
        stacked = torch.stack([torch.stack(list(terms.values())) for _, _, terms in self._pending])
        for (step, rate, terms), values in zip(self._pending, stacked.tolist(), strict=True):
            named = dict(zip(terms, values, strict=True))
            _check_finite(step, named)
            self._progress.history.append({"step": step, "lr": rate, **named})
        self._pending.clear()
        if self._on_flush is not None:
            self._on_flush(self._progress)


def _check_finite(step: int, terms: Mapping[str, float]) -> None:
    if not all(math.isfinite(value) for value in terms.values()):
        shown = ", ".join(f"{name} = {value:g}" for name, value in terms.items())
        raise TrainingError(
            f"the loss is not finite at step {step}: {shown}; "
            "a lower train.lr, train.clip_norm or train.schedule.warmup_steps may help"
        )
