"""What a failure is called: one line with the way out, and whether memory was what lacked."""

import re

import torch

from contextbench.records.failures import Failure

# What PyTorch says where main memory, and the memory that processes share, does not suffice.
NO_MEMORY = re.compile(r"DefaultCPUAllocator: |can't allocate memory|Cannot allocate memory")
NO_SHARED_MEMORY = re.compile(
    r"shared memory|/torch_\d+|Bus error|DataLoader worker .* (killed|exited)", re.DOTALL
)
MORE_SHARED_MEMORY = "give worker processes more room: fewer --workers, or a larger /dev/shm"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory of the device or of the machine did not suffice."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and NO_MEMORY.search(str(error)) is not None


def failure_of(error: BaseException) -> Failure:
    """`error` as it is recorded; where worker processes ran out of shared memory, with advice."""
    failure = Failure.of(error)
    if not isinstance(error, RuntimeError | OSError) or not NO_SHARED_MEMORY.search(str(error)):
        return failure
    return failure.model_copy(update={"message": f"{failure.message}; {MORE_SHARED_MEMORY}"})


def spoils_training(failure: Failure | None) -> bool:
    """Whether a failure is one of the training itself, so that its stored state leads back to it.

    Every other one, of data, memory, disk or evaluation, leaves the steps before it as they are.
    """
    return failure is not None and failure.kind == "TrainingError"
