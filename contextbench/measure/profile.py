"""The cost of several models side by side: counts, predicted memory, interleaved latency.

Of the passes and steps that a `Workload` describes, scope `model`: what a comparison reports. Heads
alone, at a feature size as in papers, are in `head_profile`.
"""

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TypeVar

import torch

from contextbench.config.files import ConfigError
from contextbench.config.heads import HeadConfig
from contextbench.measure.choose import (
    CANDIDATES,
    PrecisionChoice,
    choose_precision,
    excluded,
    rounds_of,
)
from contextbench.measure.counts import Counts
from contextbench.measure.latency import ORDER_SEED, Call, interleaved, milliseconds
from contextbench.measure.passes import Workload, pass_call, predicted, training_call
from contextbench.measure.trials import Trials
from contextbench.models.compiled import Mode, empty_cache, without_advice
from contextbench.models.device import release_cache
from contextbench.models.precision import Precision
from contextbench.records.failures import Failure
from contextbench.records.profiles import CompiledCost, HeadCost, ProfileRecord, ScopeCounts
from contextbench.system.console import Reporter
from contextbench.system.interrupt import Interrupted, StopRequest
from contextbench.training.environment import environment
from contextbench.training.failures import is_out_of_memory

WARMUP = 2  # rounds

K = TypeVar("K")


Task = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]  # label, units in all


def unwatched(_label: str, _total: int) -> AbstractContextManager[Callable[[int], None]]:
    """A task that nobody sees."""
    return nullcontext(lambda _done: None)


@dataclass(frozen=True)
class Timing:
    """How latency is sampled; no rounds: costs are predicted and nothing is run.

    Without `modes` a model runs as its protocol says; eager is one of those that are named.
    """

    rounds: int
    train_rounds: int
    device: torch.device
    task: Task = unwatched
    modes: Sequence[Mode] = ()


@dataclass
class Sampled:
    """Times of heads, by name, and what became of those that have none."""

    first_seconds: dict[str, float] = field(default_factory=dict)  # of the first call
    milliseconds: dict[str, list[float]] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)
    alone: list[str] = field(default_factory=list)  # not in the rounds of the others


def watched(reporter: Reporter, stop: StopRequest) -> Task:
    """Tasks that `reporter` shows and that `stop` ends between two calls."""

    @contextmanager
    def task(label: str, total: int) -> Iterator[Callable[[int], None]]:
        with reporter.task(label, total) as update:

            def progress(done: int) -> None:
                stop.check()
                update(done, "")

            yield progress

    return task


def profile_models(
    work: Workload,
    heads: Sequence[HeadConfig],
    timing: Timing,
    untimed: Mapping[str, str] | None = None,
) -> ProfileRecord:
    """Costs in the scope `model`: a pass of evaluation, and a training step of one process.

    A head that cannot be predicted, or not be timed, has the reason in its row. Heads in `untimed`
    are predicted only, for the reasons given there.
    """
    costs = {head.name: _guarded(partial(_cost, work), head) for head in heads}
    for name, reason in (untimed or {}).items():
        if costs[name].failure is None:
            failure = Failure(kind="not timed", message=reason)
            costs[name] = costs[name].model_copy(update={"failure": failure})
    healthy = [head for head in heads if costs[head.name].failure is None]
    step_timing = replace(timing, rounds=timing.train_rounds)
    with empty_cache():
        forward = _sampled("forward passes", _calls(pass_call, work, healthy, timing), timing)
        steps = _sampled(
            "training steps", _calls(training_call, work, healthy, timing), step_timing
        )
    timed = [head for head in healthy if head.name not in forward.failures]
    crop = work.protocol.train.crop
    return ProfileRecord(
        protocol_name=work.protocol.name,
        backbone=work.protocol.backbone.name,
        input=_shape(1, *work.input_size),
        training_input=_shape(work.part, *crop),
        workload=work.as_dict(),
        order_seed=ORDER_SEED,
        scope="model",
        precision=asdict(work.precision),
        environment=environment(timing.device, precision=work.precision),
        baseline=_baseline(timed or heads),
        heads=_with_samples(costs, forward, steps),
        notes=[*_alone("forward passes", forward), *_alone("training steps", steps)],
    )


def choose_for(
    work: Workload,
    heads: Sequence[HeadConfig],
    device: torch.device,
    reporter: Reporter,
    stop: StopRequest,
) -> PrecisionChoice:
    """Time real optimisation steps of every head and choose one precision for all of them."""
    known = {head.name: head for head in heads}
    task = watched(reporter, stop)("time number formats", rounds_of(list(known)))
    with (
        task as progress,
        Trials(partial(_step, work, device), known, CANDIDATES, device, stop) as trials,
    ):
        return choose_precision(trials, list(known), excluded(device), progress)


def _step(work: Workload, device: torch.device, head: HeadConfig, precision: Precision) -> Call:
    return training_call(replace(work, precision=precision), head, device)


def _cost(work: Workload, head: HeadConfig) -> HeadCost:
    found = predicted(work, head)
    return HeadCost(
        counts=stored_counts(found.counts),
        inference_memory_bytes=found.inference_bytes,
        training_memory_bytes=found.training_bytes,
    )


def _guarded(cost: Callable[[HeadConfig], HeadCost], head: HeadConfig) -> HeadCost:
    """A head whose cost cannot be determined is a row with a reason; wrong options are refused."""
    try:
        return cost(head)
    except ConfigError:
        raise
    except Exception as error:
        return HeadCost(counts={}, failure=Failure.of(error))


def _calls(
    make: Callable[[Workload, HeadConfig, torch.device, Mode | None], Call],
    work: Workload,
    heads: Sequence[HeadConfig],
    timing: Timing,
) -> dict[str, Callable[[], Call]]:
    """What makes the call of each head, and of each in compiled code where that is asked for."""
    eager: Mode | None = "eager" if timing.modes else None
    calls: dict[str, Callable[[], Call]] = {
        head.name: partial(make, work, head, timing.device, eager) for head in heads
    }
    if "compile" not in timing.modes:
        return calls
    compiled = {
        _compiled(head.name): partial(make, work, head, timing.device, "compile") for head in heads
    }
    return {**calls, **compiled}


def _compiled(head: str) -> str:
    """What a head in compiled code is called: as no head is."""
    return f"{head}, compiled"


def _sampled(what: str, makers: Mapping[str, Callable[[], Call]], timing: Timing) -> Sampled:
    """Times of all heads in the same rounds; of one without room beside the others, alone."""
    found, waiting = Sampled(), []
    if not timing.rounds:
        return found
    calls: dict[str, Call] = {}

    def failed(name: str, error: Exception) -> None:
        # All that it holds goes, and is not needed to say what happened.
        calls.pop(name, None)
        found.failures[name] = _failure(what, error)
        if is_out_of_memory(error):
            waiting.append(name)

    for name, make in makers.items():
        try:
            calls[name] = make()
            found.first_seconds[name] = milliseconds(calls[name], timing.device) / 1e3
        except Interrupted:
            raise
        except Exception as error:
            failed(name, error)
    found.milliseconds.update(sample(f"time {what}", calls, timing.rounds, timing, failed))
    together = bool(calls)
    calls.clear()
    for name in waiting if together else ():
        _released(timing.device)
        _time_alone(what, name, makers[name], timing, found)
    return found


def _time_alone(
    what: str, name: str, make: Callable[[], Call], timing: Timing, found: Sampled
) -> None:
    """A second try, now that nothing else is in memory."""
    try:
        call = {name: make()}
        found.first_seconds[name] = milliseconds(call[name], timing.device) / 1e3
        samples = sample(f"time {what} of {name} alone", call, timing.rounds, timing)
    except Interrupted:
        raise
    except Exception as error:
        found.failures[name] = _failure(what, error)
        return
    found.milliseconds.update(samples)
    found.alone.append(name)
    del found.failures[name]


def _failure(what: str, error: Exception) -> Failure:
    cause = Failure.of(error)
    said = without_advice(cause.message)
    return Failure(kind=cause.kind, message=f"while {what} were timed: {said}")


def _released(device: torch.device) -> None:
    gc.collect()
    release_cache(device)


def _alone(what: str, sampled: Sampled) -> Iterator[str]:
    if sampled.alone:
        yield (
            f"The {what} of {', '.join(sampled.alone)} were timed alone, since memory has no room "
            "for all heads at once: these ratios are not of the same rounds."
        )


def sample(
    label: str,
    calls: Mapping[K, Call],
    rounds: int,
    timing: Timing,
    failed: Callable[[K, Exception], None] | None = None,
) -> dict[K, list[float]]:
    """Milliseconds of every call in interleaved rounds, after two rounds of warm-up."""
    if not calls:
        return {}
    with timing.task(label, len(calls) * (rounds + WARMUP)) as progress:
        return interleaved(
            calls,
            rounds=rounds,
            warmup=WARMUP,
            device=timing.device,
            failed=failed,
            progress=lambda done, _total: progress(done),
        )


def _with_samples(
    costs: Mapping[str, HeadCost], forward: Sampled, steps: Sampled
) -> dict[str, HeadCost]:
    return {
        name: cost.model_copy(
            update={
                "latency_ms": forward.milliseconds.get(name, []),
                "train_latency_ms": steps.milliseconds.get(name, []),
                "failure": cost.failure or forward.failures.get(name) or steps.failures.get(name),
                "compiled": _compiled_cost(_compiled(name), forward, steps),
            }
        )
        for name, cost in costs.items()
    }


def _compiled_cost(name: str, forward: Sampled, steps: Sampled) -> CompiledCost | None:
    """None where compiled code was not asked for."""
    failure = forward.failures.get(name) or steps.failures.get(name)
    if failure is None and name not in forward.milliseconds:
        return None
    return CompiledCost(
        latency_ms=forward.milliseconds.get(name, []),
        train_latency_ms=steps.milliseconds.get(name, []),
        compile_seconds=forward.first_seconds.get(name),
        train_compile_seconds=steps.first_seconds.get(name),
        failure=failure,
    )


def stored_counts(counts: Mapping[str, Counts]) -> dict[str, ScopeCounts]:
    """Counts of each scope as a record holds them."""
    return {scope: ScopeCounts(**count.as_dict()) for scope, count in counts.items()}


def _baseline(heads: Sequence[HeadConfig]) -> str:
    """`fcn` where it takes part, else the first head."""
    names = [head.name for head in heads]
    return "fcn" if "fcn" in names else names[0]


def _shape(*sides: int) -> str:
    count, *size = sides
    return "x".join(map(str, (count, 3, *size)))
