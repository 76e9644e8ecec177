"""How long work ends early: on request, between two steps, or as one of several processes lost."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ExtensionFileLoader
from types import FrameType

WAIT_SECONDS = 0.02  # before a signal is sent again that came while a compiled module was loaded


class Interrupted(Exception):
    """Work was stopped on request; everything up to here is on disk."""


class CtrlC(KeyboardInterrupt):
    """What a signal raises here, so that the exit code is ours.

    Where a plain KeyboardInterrupt passes through `exec`, by which dataclasses and named tuples
    are made, CPython remembers it although it is caught, and lets the process end by the signal.
    """


class RankError(RuntimeError):
    """One of several processes cannot go on: for a reason of its `own`, or since it lost another.

    The message names its rank and the reason. What was saved last is on disk.
    """

    def __init__(self, message: str, own: Exception | None = None) -> None:
        super().__init__(message)
        self.own = own


class StopRequest:
    """Set by the first signal; `check` raises `Interrupted` at the next safe point.

    Inside of `at_once` every point is safe.
    """

    def __init__(self) -> None:
        self.requested = False
        self._at_once = False
        self._sent_again = False

    def check(self) -> None:
        if self.requested:
            raise Interrupted

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """For work that loses nothing wherever it ends, such as drawing: it ends on the request.

        Raises `Interrupted`, on the way in too. What the work writes must be written atomically.
        """
        self.check()
        self._at_once = True
        try:
            yield
        except KeyboardInterrupt:
            if self.requested:
                raise Interrupted from None
            raise
        finally:
            self._at_once = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # A second Ctrl-C does not wait for the safe point. No `Exception`: libraries catch those.
        sent_again, self._sent_again = self._sent_again, False
        now = self._at_once or (self.requested and not sent_again)
        self.requested = True
        if now:
            self._sent_again = _raise(number, frame)


def catch_ctrl_c() -> None:
    """Raise `CtrlC` on SIGINT where Python raises KeyboardInterrupt; leave other handlers alone."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _raise)


def _raise(number: int, frame: FrameType | None) -> bool:
    """Raise `CtrlC`, or return True where the signal is sent again a little later."""
    if not _is_loading(frame):
        raise CtrlC
    main = threading.main_thread().ident  # whose waiting the signal has to end
    again = threading.Timer(WAIT_SECONDS, signal.pthread_kill, [main, number])
    again.daemon = True
    again.start()
    return True


def _is_loading(frame: FrameType | None) -> bool:
    """Whether a compiled module is being loaded: it makes an ImportError of what is raised then."""
    while frame is not None:
        if isinstance(frame.f_locals.get("self"), ExtensionFileLoader):
            return True
        frame = frame.f_back
    return False


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turn SIGINT and SIGTERM into a `StopRequest` for the duration of the block."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(number, request._handle) for number in signals]
    try:
        yield request
    finally:
        for number, handler in zip(signals, previous, strict=True):
            signal.signal(number, handler)
