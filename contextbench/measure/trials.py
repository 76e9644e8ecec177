"""Candidates for a number format, each tried in a process of its own.

A kernel that crashes, or takes all memory, ends its process and rejects its candidate; it never
takes the comparison with it. All candidates of a head exist at once and take turns, so that a
disturbance meets them alike; on an accelerator each gives its spare memory back after its turn.
"""

import signal
import sys
from collections.abc import Callable, Mapping
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, SpawnContext
from types import TracebackType
from typing import Self

import torch

from contextbench.config.heads import HeadConfig
from contextbench.measure.latency import Call, milliseconds
from contextbench.models.device import release_cache
from contextbench.models.precision import Precision
from contextbench.records.failures import Failure
from contextbench.system.interrupt import StopRequest

Factory = Callable[[HeadConfig, Precision], Call]  # has to be picklable
Answer = float | str  # milliseconds, or what went wrong

POLL_SECONDS = 0.2  # between looks at a stop request
CLOSE_SECONDS = 5.0


class Trials:
    """Runs steps of `heads` that `factory` makes, in a process for each candidate it is asked for.

    Leaving the block ends the processes.
    """

    def __init__(
        self,
        factory: Factory,
        heads: Mapping[str, HeadConfig],
        candidates: Mapping[str, Precision],
        device: torch.device,
        stop: StopRequest,
    ) -> None:
        self._factory, self._heads, self._candidates = factory, heads, candidates
        self._device, self._stop = device, stop
        self._running: dict[str, _Trial] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        for trial in self._running.values():
            trial.close()

    def prepare(self, candidate: str, head: str) -> str | None:
        """Make the step of a head, and run it once; why that cannot be, or None."""
        answer = self._asked(candidate, self._heads[head])
        return answer if isinstance(answer, str) else None

    def time(self, candidate: str) -> Answer:
        """Milliseconds of the step that was prepared, or why it failed."""
        return self._asked(candidate, None)

    def _asked(self, candidate: str, question: HeadConfig | None) -> Answer:
        if candidate not in self._running:  # not yet, or no more
            make = partial(_made, self._factory, self._candidates[candidate])
            self._running[candidate] = _Trial(make, self._device)
        answer = self._running[candidate].ask(question, self._stop)
        if not self._running[candidate].alive:
            self._running.pop(candidate).close()
        return answer


class _Trial:
    """One process and the way to it."""

    def __init__(self, make: Callable[[HeadConfig], Call], device: torch.device) -> None:
        context = _context()
        self._channel, other = context.Pipe()
        arguments = (other, make, device, torch.get_num_threads())
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        other.close()
        self.alive = True

    def ask(self, question: HeadConfig | None, stop: StopRequest) -> Answer:
        """The answer of the process, or how it ended. Raises `Interrupted` on request."""
        try:
            self._channel.send(question)
            while not self._channel.poll(POLL_SECONDS):
                stop.check()
            answer: Answer = self._channel.recv()
        except (EOFError, OSError):
            self.alive = False
            self._process.join(CLOSE_SECONDS)
            return _ending(self._process.exitcode)
        return answer

    def close(self) -> None:
        self._channel.close()  # on which the process ends, unless it is at work
        self._process.kill()
        self._process.join(CLOSE_SECONDS)


def _context() -> SpawnContext | ForkServerContext:
    """A server that has imported torch, and done nothing else, forks in milliseconds."""
    if sys.platform != "linux":
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _ending(code: int | None) -> str:
    """How a process ended that gave no answer."""
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        hint = ", as when memory runs out" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{hint}"
    return f"its process ended with exit code {code}"


def _made(factory: Factory, precision: Precision, head: HeadConfig) -> Call:
    return factory(head, precision)


def _serve(
    channel: Connection, make: Callable[[HeadConfig], Call], device: torch.device, threads: int
) -> None:
    """Answer until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who asks is told, and ends this process
    torch.set_num_threads(threads)
    step: Call | None = None
    while True:
        try:
            question = channel.recv()
        except EOFError:
            return
        try:
            if question is not None:
                step = None  # whose memory the next one may need
                step = make(question)
            channel.send(_turn(step, device))
        except Exception as error:
            step = None
            channel.send(Failure.of(error).cause)


def _turn(step: Call | None, device: torch.device) -> float:
    """Milliseconds of a step, after one that takes anew the memory that was given back."""
    assert step is not None
    if device.type != "cpu":
        step()
    elapsed = milliseconds(step, device)
    release_cache(device)
    return elapsed
