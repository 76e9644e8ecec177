"""The training loop: the same for every head, resumable after any step.

Nothing random is carried from one step to the next: step s seeds torch with (seed, s), and the data
stream is indexed by item number. So a run that was killed and resumed from step s equals one that
was not, to the bit on a CPU, and no random-number state is stored.
"""

import hashlib
import math
import pickle
import time
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from contextbench.config import ScheduleConfig, TrainConfig
from contextbench.data.base import IGNORE
from contextbench.files import quarantine, write_atomic
from contextbench.interrupt import StopRequest
from contextbench.losses import loss_terms, weighted_sum
from contextbench.model import Segmenter, parameter_groups
from contextbench.precision import Precision

FLUSH_STEPS = 10  # losses are read back, and checked to be finite, once in so many steps

Entry = dict[str, float]
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


@dataclass
class Progress:
    """Where training stands: completed steps, their losses, and seconds spent over all restarts."""

    step: int = 0
    seconds: float = 0.0
    history: list[Entry] = field(default_factory=list)


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
    model.to(recipe.device).to(memory_format=recipe.precision.torch_memory_format)
    model.train()
    optimizer = build_optimizer(model, recipe.config)
    progress = _resumed(model, optimizer, recipe)
    log = _LossLog(progress, on_flush)
    last_save = last_tick = time.monotonic()
    for images, labels in batches(progress.step):
        if progress.step >= recipe.config.steps:
            break
        rate = set_learning_rate(optimizer, recipe.config, progress.step)
        torch.manual_seed(step_seed(recipe.seed, progress.step))
        terms = train_step(model, optimizer, images, labels, recipe)
        progress.step += 1
        now = time.monotonic()
        progress.seconds, last_tick = progress.seconds + now - last_tick, now
        log.add(progress.step, rate, terms)
        stopping = stop is not None and stop.requested
        if stopping or now - last_save > recipe.save_seconds:
            log.flush()
            save_resume(model, optimizer, progress, recipe)
            last_save = time.monotonic()
        if stopping and stop is not None:
            stop.check()
    log.flush()
    save_resume(model, optimizer, progress, recipe)
    return progress


def train_step(
    model: Segmenter,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
) -> dict[str, Tensor]:
    """One optimisation step on images (N, 3, H, W) and labels (N, H, W); detached loss terms."""
    device = recipe.device
    images = images.to(
        device, non_blocking=True, memory_format=recipe.precision.torch_memory_format
    )
    labels = labels.to(device, non_blocking=True)
    with recipe.precision.autocast(device):
        output = model(images, labels)
    terms = loss_terms(output, labels, IGNORE)
    loss = weighted_sum(terms, recipe.loss_weights)
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    if recipe.config.clip_norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), recipe.config.clip_norm)
    optimizer.step()
    return {"loss": loss.detach(), **{name: term.detach() for name, term in terms.items()}}


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
    """Multiplier of the learning rate in step 0 .. steps - 1: warm-up ramp times poly decay."""
    decay: float = (1 - step / steps) ** schedule.power
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


def save_resume(
    model: Segmenter, optimizer: torch.optim.Optimizer, progress: Progress, recipe: Recipe
) -> None:
    """Store all that is needed to go on after `progress.step`. Raises `OutputError`."""
    if recipe.resume_path is None:
        return
    state = {
        "identity": recipe.identity,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": progress.step,
        "seconds": progress.seconds,
        "history": progress.history,
    }
    write_atomic(recipe.resume_path, lambda file: torch.save(state, file))


def _resumed(model: Segmenter, optimizer: torch.optim.Optimizer, recipe: Recipe) -> Progress:
    state = _read_resume(recipe)
    if state is None:
        return Progress()
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
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
