"""Several heads over one backbone that is not trained: one pass of it a step for all of them.

A backbone with fixed weights and batch norm in evaluation mode gives every head of a comparison the
same features, whoever computes them. So a step passes the backbone once, without gradients, and
then trains the heads one after another, each with its own optimizer, random numbers, history and
resume file: what each of them becomes is what it becomes alone, to the bit on a CPU. Memory holds
the features of one batch and the activations of one head at a time.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from itertools import groupby
from typing import ParamSpec

import torch
from torch import Tensor

from contextbench.data.ahead import iterating
from contextbench.system.interrupt import Interrupted, StopRequest
from contextbench.training.loop import (
    Batch,
    Batches,
    Part,
    Training,
    deterministic,
    device_parts,
    watch,
)
from contextbench.training.waiting import BatchWait

P = ParamSpec("P")
Guard = Callable[[Training], AbstractContextManager[object, bool | None]]


def train_together(
    trainings: Sequence[Training],
    batches: Batches,
    guard: Guard,
    *,
    stop: StopRequest | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> list[Training]:
    """Bring `trainings`, of models that share a frozen backbone, to the last step, in one process.

    Their recipes are those of one protocol and seed. What has done more steps than the others waits
    for them. All that belongs to one of them happens within its `guard`; where that swallows an
    error, the others go on. Returns those without one. The seconds of a step, and of the wait for
    its batch, are divided equally between those that it trains. `on_step` is told the steps done
    and how many are trained. Raises `Interrupted` after a stop request, and what loading a batch
    raises, with the state of all saved.
    """
    live = list(trainings)
    if not live:
        return []
    with ExitStack() as stack:
        stack.enter_context(deterministic(live[0].recipe.config.deterministic))
        first = min(each.progress.step for each in live)
        wait = BatchWait(live[0].recipe.device)
        live = _watched(live, guard)
        tick = time.monotonic()
        drawn = stack.enter_context(iterating(batches(first)))
        coming = _or_saved(wait.each(drawn), lambda: live, guard)
        for step, batch in enumerate(coming, first):
            due = [each for each in live if each.progress.step == step]
            failed = _step(due, *batch, guard)
            wait.step_ended()
            now = time.monotonic()
            for each in due:
                each.progress.seconds += (now - tick) / len(due)
                each.progress.wait_seconds += wait.seconds / len(due)
            tick = now
            live = [each for each in live if each not in failed]
            stopping = stop is not None and stop.requested
            if not stopping and any(each.watch_due for each in live):
                live = _watched(live, guard)
                tick = time.monotonic()  # what stops before that goes on with it
            live = [each for each in live if _succeeds(guard, each, each.save, now=stopping)]
            if stopping:
                raise Interrupted
            if not live:
                break
            if on_step is not None:
                on_step(step + 1, len(live))
        return [each for each in live if _succeeds(guard, each, each.finish)]


def _watched(live: Sequence[Training], guard: Guard) -> list[Training]:
    """What is left of `live` when the weights that are due are watched, at once after each step."""
    due = [each for each in live if each.watch_due]
    failed = [each for each in due if not _succeeds(guard, each, each.settle)]
    ready = sorted((each for each in due if each not in failed), key=_steps)
    for _, group in groupby(ready, _steps):
        watch(list(group))
    return [each for each in live if each not in failed]


def _steps(training: Training) -> int:
    return training.progress.step


def _or_saved(
    batches: Iterable[Batch], live: Callable[[], Sequence[Training]], guard: Guard
) -> Iterator[Batch]:
    """`batches`; what one of them raises is raised when the state of all is saved."""
    try:
        yield from batches
    except Exception:
        for each in live():
            _succeeds(guard, each, each.save)
        raise


def _step(due: Sequence[Training], images: Tensor, labels: Tensor, guard: Guard) -> list[Training]:
    """One step of each training that is due, on features that are computed once; what failed."""
    failed = []
    parts = _features(due, images, labels)
    for each in due:
        if not _succeeds(guard, each, each.step, parts):
            failed.append(each)
            parts = _features(due, images, labels)  # a head that failed may have written into them
        # Between its steps a head keeps no gradients: memory holds those of one head at a time.
        each.model.zero_grad(set_to_none=True)
    return failed


@torch.no_grad()
def _features(due: Sequence[Training], images: Tensor, labels: Tensor) -> list[Part]:
    """Features and labels of the parts of a batch, on the device."""
    if not due:
        return []
    model, recipe = due[0].model, due[0].recipe
    parts = []
    for seen, truth in device_parts(images, labels, recipe):
        with recipe.precision.autocast(recipe.device):
            parts.append((model.backbone(seen), truth))
    return parts


def _succeeds(
    guard: Guard,
    training: Training,
    work: Callable[P, object],
    *arguments: P.args,
    **options: P.kwargs,
) -> bool:
    """Whether `work` was done, or its error swallowed."""
    with guard(training):
        work(*arguments, **options)
        return True
    return False
