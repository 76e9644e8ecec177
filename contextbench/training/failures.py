"""What a failure is called: one line with the way out, and whether memory was what lacked."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from contextbench.records.failures import Failure
from contextbench.system.errors import UserError

# What PyTorch says where main memory, and the memory that processes share, does not suffice.
NO_MEMORY = re.compile(r"DefaultCPUAllocator: |can't allocate memory|Cannot allocate memory")
NO_SHARED_MEMORY = re.compile(
    r"shared memory|/torch_\d+|Bus error|DataLoader worker .* (killed|exited)", re.DOTALL
)
MORE_SHARED_MEMORY = "give worker processes more room: fewer --workers, or a larger /dev/shm"


class WorkersError(UserError, RuntimeError):
    """Worker processes cannot hand over what they load; the message says what helps."""


@contextmanager
def enough_room(workers: int) -> Iterator[None]:
    """Raise `WorkersError` where so many workers ended, or had no room to hand over images."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        if not workers or isinstance(error, UserError) or not _lacks_room(error):
            raise
        raise WorkersError(f"{Failure.of(error).message}; {MORE_SHARED_MEMORY}") from error


def _lacks_room(error: RuntimeError | OSError) -> bool:
    """Also where a full /dev/shm has no room for the lock of a queue, which names no file."""
    full = isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename is None
    return full or NO_SHARED_MEMORY.search(str(error)) is not None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory of the device or of the machine did not suffice."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and NO_MEMORY.search(str(error)) is not None


def failure_of(error: BaseException) -> Failure:
    """`error` as it is recorded; where worker processes ran out of shared memory, with advice."""
    failure = Failure.of(error)
    if not isinstance(error, RuntimeError | OSError) or isinstance(error, WorkersError):
        return failure
    if not NO_SHARED_MEMORY.search(str(error)):
        return failure
    return failure.model_copy(update={"message": f"{failure.message}; {MORE_SHARED_MEMORY}"})


def spoils_training(failure: Failure | None) -> bool:
    """Whether a failure is one of the training itself, so that its stored state leads back to it.

    Every other one, of data, memory, disk or evaluation, leaves the steps before it as they are.
    """
    return failure is not None and failure.kind == "TrainingError"
