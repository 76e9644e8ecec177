"""Wall-clock time in interleaved rounds, so that a disturbance meets every head alike."""

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from contextbench.precision import Precision

Loss = Callable[[Any, Tensor], Tensor]  # model output, labels -> scalar
Call = Callable[[], object]
K = TypeVar("K")


def interleaved(
    named: Mapping[K, Call],
    *,
    rounds: int,
    warmup: int,
    device: torch.device,
    progress: Callable[[int, int], None] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[K, list[float]]:
    """Milliseconds of every call in every round, in the order A B C A B C ...

    `warmup` rounds come first and are not kept. Only the call is timed, from an idle device to an
    idle device. `progress` is told, after each call, calls done and calls in all, warm-up included;
    `clock` gives seconds. Raises ValueError for fewer than 1 round or a negative warm-up.
    """
    if rounds < 1 or warmup < 0:
        raise ValueError(f"rounds must be at least 1 and warmup 0, got {rounds} and {warmup}")
    samples: dict[K, list[float]] = {name: [] for name in named}
    schedule = [(number, name) for number in range(warmup + rounds) for name in named]
    for done, (number, name) in enumerate(schedule, start=1):
        elapsed = _milliseconds(named[name], device, clock)
        if number >= warmup:
            samples[name].append(elapsed)
        if progress is not None:
            progress(done, len(schedule))
    return samples


def _milliseconds(call: Call, device: torch.device, clock: Callable[[], float]) -> float:
    _synchronize(device)
    start = clock()
    call()
    _synchronize(device)
    return (clock() - start) * 1e3


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def forward_call(model: nn.Module, images: Any, precision: Precision) -> Call:
    """What to time for inference: `model(images)` in evaluation mode, without gradients.

    Puts `model` into evaluation mode and into the memory layout of `precision`. `images` is a
    tensor, or the `Features` for which a head alone is timed.
    """
    device = _prepare(model.eval(), precision)
    images = _in_layout(images, precision)

    def forward() -> object:
        with torch.inference_mode(), precision.autocast(device):
            return model(images)

    return forward


def train_call(
    model: nn.Module,
    loss: Loss,
    optimizer: torch.optim.Optimizer,
    images: Any,
    labels: Tensor,
    precision: Precision,
) -> Call:
    """What to time for training: forward, loss, backward and update, as the training loop does.

    Puts `model` into training mode and into the memory layout of `precision`; each call changes its
    weights.
    """
    device = _prepare(model.train(), precision)
    images = _in_layout(images, precision)

    def step() -> None:
        with precision.autocast(device):
            output = model(images)
        value = loss(output, labels)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(value)
        optimizer.step()

    return step


def _prepare(model: nn.Module, precision: Precision) -> torch.device:
    """Convert the model's layout; the device it is on."""
    model.to(memory_format=precision.torch_memory_format)
    return next(model.parameters()).device


def _in_layout(images: Any, precision: Precision) -> Any:
    if isinstance(images, Tensor):
        return images.contiguous(memory_format=precision.torch_memory_format)
    return type(images)(*(_in_layout(stage, precision) for stage in images))
