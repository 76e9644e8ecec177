"""How long training waits for data."""

import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TypeVar

import torch

T = TypeVar("T")


class BatchWait:
    """Times, as a context manager, how long a device has nothing to do since a batch is not there.

    A GPU goes on with what it was asked for while its process waits, so a wait counts only as far
    as the GPU is idle: both end when the batch is there, so that is the shorter of the two times.
    Other devices do nothing while their process waits.
    """

    def __init__(self, device: torch.device) -> None:
        self.seconds = 0.0  # of the last wait
        self._device = device
        self._asked: torch.cuda.Event | None = None

    def step_ended(self) -> None:
        """All of a step has been asked of the device."""
        if self._device.type == "cuda":
            self._asked = self._event()

    def each(self, batches: Iterable[T]) -> Iterator[T]:
        """`batches`, with the wait for each of them timed."""
        coming, end = iter(batches), object()
        while True:
            with self:
                batch = next(coming, end)
            if batch is end:
                return
            yield batch  # type: ignore[misc]

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        waited = time.monotonic() - self._began
        self.seconds = waited if self._asked is None else min(waited, self._idle(self._asked))

    def _idle(self, asked: torch.cuda.Event) -> float:
        """Seconds since the device finished what it was asked for; 0 where it is still at it."""
        if not asked.query():  # type: ignore[no-untyped-call]
            return 0.0
        now = self._event()
        now.synchronize()  # at once: the device has nothing else to do
        return float(asked.elapsed_time(now)) / 1e3

    def _event(self) -> torch.cuda.Event:
        """Happens when the device has done what it was asked for so far."""
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event
