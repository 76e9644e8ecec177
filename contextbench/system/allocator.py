"""Memory that is freed and taken again: the C library hands large pieces back to the system.

A training step frees and takes the same large tensors each time. Of a piece that was handed back
every page is cleared and mapped anew at its first use. glibc's malloc keeps what is freed instead
where it is told to: a process then holds its peak until it ends.
"""

import ctypes
import os
import platform
from collections.abc import Mapping

from contextbench.system.errors import UserError
from contextbench.system.reading import given

VARIABLE = "CONTEXTBENCH_MALLOC"
KEEP, SYSTEM = "keep", "system"

# What else decides how memory is taken, and is left to decide.
OTHERS = ("LD_PRELOAD", "GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_",
          "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_")  # fmt: skip

# Of malloc.h: at most so many pieces from the system directly, and when to hand the rest back.
_MMAP_MAX, _TRIM_THRESHOLD = -4, -1
_NONE, _NEVER = 0, -1


class AllocatorError(UserError, ValueError):
    """A value of `VARIABLE` that means nothing."""


class Allocator:
    """How this process treats memory that is freed; the same until it ends."""

    def __init__(self) -> None:
        self.setting = SYSTEM

    def keep(self, environment: Mapping[str, str] = os.environ) -> None:
        """Keep what is freed, where the C library is glibc and nobody has decided otherwise.

        Raises `AllocatorError`.
        """
        wanted = environment.get(VARIABLE) or KEEP
        if wanted not in (KEEP, SYSTEM):
            raise AllocatorError(f"{VARIABLE}={given(wanted)}: allowed are {KEEP} and {SYSTEM}")
        decided = any(environment.get(name) for name in OTHERS)
        if wanted == SYSTEM or decided or platform.libc_ver()[0] != "glibc":
            return
        mallopt = ctypes.CDLL(None).mallopt
        if mallopt(_MMAP_MAX, _NONE) and mallopt(_TRIM_THRESHOLD, _NEVER):
            self.setting = KEEP


ALLOCATOR = Allocator()
"""That of this process."""
