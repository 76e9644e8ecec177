"""What training and evaluation of a head will take: memory from shapes, time from a few steps.

Loading of data is not in it. Memory is that of tensors, as in `memory`. A head whose steps would
take too long is not timed: a small pass tells beforehand.

Axes: (H, W) image pixels, height first.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import median

import torch

from contextbench.config.files import ConfigError
from contextbench.config.heads import HeadConfig
from contextbench.measure.counts import count_scopes
from contextbench.measure.latency import forward_call, interleaved
from contextbench.measure.passes import (
    Workload,
    built,
    inference_bytes,
    pass_call,
    predicted,
    training_call,
)
from contextbench.records.failures import Failure

WARMUP = 1  # steps
TIMING_SECONDS = 60.0  # that the steps and passes of one head may take
GAUGE = HeadConfig(name="fcn", head="fcn")  # nothing but convolutions
GAUGE_ROUNDS = 5
TRAINING_PASSES = 3  # that a step takes for each crop: forward, and backward twice the work


@dataclass(frozen=True)
class Forecast:
    """What one head will take; None where it is not known."""

    parameters: int | None = None
    macs: int | None = None  # of a pass
    training_memory_bytes: int | None = None  # of each process
    inference_memory_bytes: int | None = None  # in the view that takes most
    step_ms: Sequence[float] = ()  # of one process
    pass_ms: Sequence[float] = ()
    hours: float | None = None  # of training once and evaluating all views, all processes at work
    untimed: str | None = None  # why there are no times, though they were asked for
    failure: Failure | None = None  # why nothing is known


@dataclass(frozen=True)
class Forecaster:
    """Predicts all heads of a comparison alike, and times `steps` of each, if any.

    A head is not timed where it does not fit into memory, or where that would take longer than
    `TIMING_SECONDS`.
    """

    workload: Workload  # in the first view, whose passes are counted and timed
    device: torch.device
    steps: int = 0
    further: Sequence[Workload] = ()  # in the other views

    def forecast(self, head: HeadConfig) -> Forecast:
        """A head that fails has a reason; wrong options raise `ConfigError`."""
        try:
            forecast = self._predicted(head)
        except ConfigError:
            raise
        except Exception as error:
            return Forecast(failure=Failure.of(error))
        return self._timed(forecast, head) if self.steps else forecast

    def _predicted(self, head: HeadConfig) -> Forecast:
        found = predicted(self.workload, head)
        counts = found.counts["model"]
        inference = [found.inference_bytes, *(inference_bytes(w, head) for w in self.further)]
        return Forecast(
            parameters=counts.parameters,
            macs=counts.macs,
            training_memory_bytes=found.training_bytes,
            inference_memory_bytes=max(inference),
        )

    def _timed(self, forecast: Forecast, head: HeadConfig) -> Forecast:
        try:
            reason = self._too_large(forecast) or self._too_slow(forecast)
            if reason is not None:
                return replace(forecast, untimed=reason)
            step_ms, pass_ms = self._samples(head)
        except (torch.OutOfMemoryError, MemoryError):
            return replace(forecast, untimed="too large for this device: out of memory")
        except RuntimeError as error:
            return replace(forecast, untimed=Failure.of(error).cause)
        work = self.workload
        milliseconds = work.protocol.train.steps * median(step_ms)
        milliseconds += self._passes * median(pass_ms)
        return replace(forecast, step_ms=step_ms, pass_ms=pass_ms, hours=milliseconds / 3.6e6)

    @property
    def _passes(self) -> float:
        """Of all images in all views, in each process; those of other sizes by their area.

        Watched images are seen as those of the first view.
        """
        area = math.prod(self.workload.input_size)
        return self.workload.watched_passes + sum(
            math.ceil((work.images or 0) / work.processes)
            * work.passes
            * math.prod(work.input_size)
            / area
            for work in (self.workload, *self.further)
        )

    def _too_large(self, forecast: Forecast) -> str | None:
        needed = max(forecast.training_memory_bytes or 0, forecast.inference_memory_bytes or 0)
        if self._free_bytes is None or needed <= self._free_bytes:
            return None
        return f"too large for this device, which has {self._free_bytes / 2**30:.0f} GiB free"

    def _too_slow(self, forecast: Forecast) -> str | None:
        work, config = self.workload, self.workload.protocol.train
        pass_ms = (forecast.macs or 0) / self._macs_per_ms
        crop_ms = pass_ms * math.prod(config.crop) / math.prod(work.input_size)
        passes = 1 if work.protocol.shared_backbone == "frozen" else TRAINING_PASSES
        step_ms = passes * work.share * crop_ms
        if (WARMUP + self.steps) * (step_ms + pass_ms) <= 1000 * TIMING_SECONDS:
            return None
        return (
            f"about {_rounded(step_ms / 1000)} s a step and {_rounded(pass_ms / 1000)} s a pass "
            f"here, judged by a small pass; timing may take {TIMING_SECONDS:.0f} s a head"
        )

    @cached_property
    def _free_bytes(self) -> int | None:
        """Asked once, so that all heads are judged alike."""
        return free_bytes(self.device)

    @cached_property
    def _macs_per_ms(self) -> float:
        """Rate of this device in a pass of half a crop's sides with the plainest head.

        That of the fastest of a few, since other work on the device only ever slows one down.
        """
        height, width = (max(1, side // 2) for side in self.workload.protocol.train.crop)
        model = built(self.workload, GAUGE).to(self.device)
        image = torch.randn(1, 3, height, width, device=self.device)
        call = forward_call(model, image, self.workload.precision)
        samples = interleaved({0: call}, rounds=GAUGE_ROUNDS, warmup=WARMUP, device=self.device)
        macs = count_scopes(model.backbone, model.head, (height, width))["model"].macs
        return macs / min(samples[0])

    def _samples(self, head: HeadConfig) -> tuple[list[float], list[float]]:
        """Milliseconds of training steps and of passes."""
        step_ms = self._sampled(training_call(self.workload, head, self.device))
        return step_ms, self._sampled(pass_call(self.workload, head, self.device))

    def _sampled(self, call: Callable[[], object]) -> list[float]:
        sampled = interleaved({0: call}, rounds=self.steps, warmup=WARMUP, device=self.device)
        return sampled[0]


def _rounded(value: float) -> str:
    """Two digits, which is all that a rough estimate has."""
    return f"{float(f'{value:.2g}'):g}"


def free_bytes(device: torch.device) -> int | None:
    """Memory of a device that is free now; None where that cannot be asked."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    info = Path("/proc/meminfo")
    if device.type != "cpu" or not info.exists():
        return None
    for line in info.read_text(encoding="utf-8").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None
