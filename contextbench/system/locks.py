"""Locks between processes, of this machine or of others that share the folder."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from contextbench.system.errors import UserError
from contextbench.system.files import OutputError, ensure_writable
from contextbench.system.interrupt import StopRequest

POLL_SECONDS = 0.2


class BusyError(UserError, RuntimeError):
    """Another process holds the lock."""


@contextmanager
def exclusive(
    path: Path, busy: str, *, patience: float = 0.0, stop: StopRequest | None = None
) -> Iterator[None]:
    """Hold the lock file `path`; it stays when the lock is released.

    Raises `BusyError` with the message `busy` where another process still has it after `patience`
    seconds, `Interrupted` on request meanwhile, and `OutputError` where no lock can be had at all.
    """
    ensure_writable(path.parent)
    lock = FileLock(path)
    _acquire(lock, path, busy, time.monotonic() + patience, stop or StopRequest())
    try:
        yield
    finally:
        lock.release()


def _acquire(lock: FileLock, path: Path, busy: str, deadline: float, stop: StopRequest) -> None:
    while True:
        try:
            lock.acquire(timeout=0)
            return
        except Timeout:
            if time.monotonic() >= deadline:
                raise BusyError(busy) from None
        except (OSError, NotImplementedError) as error:
            raise OutputError(f"cannot lock {path}: {error}") from error
        stop.check()
        time.sleep(POLL_SECONDS)
