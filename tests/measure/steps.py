"""Steps for trials of number formats, made in another process: a step does what its head says."""

import os
import signal
import time

from contextbench.config.heads import HeadConfig
from contextbench.measure.latency import Call
from contextbench.models.precision import Precision


def scripted(head: HeadConfig, precision: Precision) -> Call:
    """What the head's options say for the format `DTYPE LAYOUT`: seconds, or how to fail."""
    what = head.options[f"{precision.dtype} {precision.memory_format}"]

    def step() -> None:
        if what == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        if what == "exit":
            os._exit(3)
        if what == "memory":
            raise MemoryError("3 TiB")
        time.sleep(what)

    return step
