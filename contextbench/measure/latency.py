"""Wall-clock time in interleaved rounds, so that a disturbance meets every head alike."""

import random
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from contextbench.models.device import synchronise
from contextbench.models.precision import Precision

Call = Callable[[], object]
Clock = Callable[[], float]  # seconds
K = TypeVar("K")

ORDER_SEED = 0  # of the order within rounds


def interleaved(
    named: Mapping[K, Call],
    *,
    rounds: int,
    warmup: int,
    device: torch.device,
    progress: Callable[[int, int], None] | None = None,
    failed: Callable[[K, Exception], None] | None = None,
    seed: int = ORDER_SEED,
    clock: Clock = time.perf_counter,
) -> dict[K, list[float]]:
    """Milliseconds of every call in every round; each round has an order of its own.

    So no call always finds what the same other one left in caches and allocators. `seed`
    determines the orders. `warmup` rounds come first and are not kept. `progress` is told, after
    each call, calls done and calls in all, warm-up included. A call that raises is told to
    `failed`, has no samples and is not called again; without `failed` its error is raised.
    Raises ValueError for fewer than 1 round or a negative warm-up.
    """
    if rounds < 1 or warmup < 0:
        raise ValueError(f"rounds must be at least 1 and warmup 0, got {rounds} and {warmup}")
    samples: dict[K, list[float]] = {name: [] for name in named}
    done, total = 0, (warmup + rounds) * len(named)
    for number in range(warmup + rounds):
        for name in order_of_round(list(named), number, seed):
            done += 1
            if name in samples:
                try:
                    elapsed = milliseconds(named[name], device, clock)
                except Exception as error:
                    if failed is None:
                        raise
                    failed(name, error)
                    del samples[name]
                else:
                    samples[name] += [elapsed] if number >= warmup else []
            if progress is not None:
                progress(done, total)
    return samples


def order_of_round(names: list[K], number: int, seed: int = ORDER_SEED) -> list[K]:
    """`names` as they take turns in a round: a permutation of its own."""
    return random.Random(f"{seed}/{number}").sample(names, len(names))


def milliseconds(call: Call, device: torch.device, clock: Clock = time.perf_counter) -> float:
    """Of one call alone, from an idle device to an idle device."""
    synchronise(device)
    start = clock()
    call()
    synchronise(device)
    return (clock() - start) * 1e3


def forward_call(model: nn.Module, images: Any, precision: Precision) -> Call:
    """What to time for inference: `model(images)` in evaluation mode, without gradients.

    Puts `model` into evaluation mode and into the memory layout of `precision`. `images` is a
    tensor, or the `Features` for which a head alone is timed.
    """
    model.eval().to(memory_format=precision.torch_memory_format)
    device = next(model.parameters()).device
    images = _in_layout(images, precision)

    def forward() -> object:
        with torch.inference_mode(), precision.autocast(device):
            return model(images)

    return forward


def _in_layout(images: Any, precision: Precision) -> Any:
    if isinstance(images, Tensor):
        return images.contiguous(memory_format=precision.torch_memory_format)
    return type(images)(*(_in_layout(stage, precision) for stage in images))
