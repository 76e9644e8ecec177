"""The number format and memory layout for one comparison, chosen by timing a few steps."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from contextbench.measure.latency import interleaved
from contextbench.precision import Precision

Step = Callable[[], None]
StepFactory = Callable[[Precision], Step]
Samples = dict[str, dict[str, list[float]]]  # candidate -> step -> milliseconds

LEAST_GAIN = 0.05  # of the default's time; a smaller difference may be noise

DEFAULT = "float32 contiguous"
CANDIDATES: Mapping[str, Precision] = {
    DEFAULT: Precision("float32", "contiguous"),
    "float32 channels_last": Precision("float32", "channels_last"),
    "bfloat16 contiguous": Precision("bfloat16", "contiguous"),
    "bfloat16 channels_last": Precision("bfloat16", "channels_last"),
}


@dataclass(frozen=True)
class PrecisionChoice:
    """The choice and what it rests on. Candidates have the names of `CANDIDATES`."""

    chosen: Precision
    samples: Samples  # milliseconds; those of a candidate end with the step that rejected it
    rejected: dict[str, str]  # candidate -> reason

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a record."""
        return {
            "chosen": asdict(self.chosen),
            "samples_ms": self.samples,
            "rejected": self.rejected,
        }


def choose_precision(
    step_factories: Mapping[str, StepFactory],
    device: torch.device,
    *,
    rounds: int = 2,
    allow_bf16: bool = True,
    clock: Callable[[], float] = time.perf_counter,
) -> PrecisionChoice:
    """The candidate with the least total time among those slower than the default on no step.

    A factory returns, for a candidate, a step of its own model; it is called for one name at a
    time, so that one model in each candidate's form is in memory. The default stands unless
    another gains at least 5 % in total. A step takes as long as its fastest of `rounds`
    interleaved runs after a warm-up, since a disturbance only ever lengthens a run. A candidate
    that raises RuntimeError, or is slower on one step, is rejected and not tried on the others.
    An error of the default itself is raised. `clock` gives seconds.
    """
    rejected = _excluded(device, allow_bf16)
    samples: Samples = {name: {} for name in CANDIDATES if name not in rejected}
    for step_name, factory in step_factories.items():
        remaining = [name for name in samples if name not in rejected]
        if remaining == [DEFAULT]:
            break
        steps, failed = _warmed_up(factory, remaining)
        rejected |= failed
        timed = interleaved(steps, rounds=rounds, warmup=0, device=device, clock=clock)
        for name, milliseconds in timed.items():
            samples[name][step_name] = milliseconds
            if min(milliseconds) > min(timed[DEFAULT]):
                rejected[name] = f"slower than {DEFAULT} on {step_name}"
    return PrecisionChoice(CANDIDATES[_fastest(samples, rejected)], samples, rejected)


def _excluded(device: torch.device, allow_bf16: bool) -> dict[str, str]:
    """Candidates that are not to be timed, with the reason."""
    if not allow_bf16:
        reason = "bfloat16 is not allowed"
    elif device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        reason = "the device has no bfloat16"
    else:
        return {}
    return {name: reason for name, c in CANDIDATES.items() if c.dtype == "bfloat16"}


def _warmed_up(
    factory: StepFactory, names: Sequence[str]
) -> tuple[dict[str, Step], dict[str, str]]:
    """The step of each candidate, run once, and the reasons of those that cannot run."""
    steps, failed = {}, {}
    for name in names:
        try:
            step = factory(CANDIDATES[name])
            step()
        except RuntimeError as error:
            if name == DEFAULT:
                raise
            failed[name] = f"{type(error).__name__}: {error}"
        else:
            steps[name] = step
    return steps, failed


def _fastest(samples: Samples, rejected: Mapping[str, str]) -> str:
    totals = {
        name: sum(min(milliseconds) for milliseconds in steps.values())
        for name, steps in samples.items()
        if name not in rejected
    }
    best = min(totals, key=totals.__getitem__)
    return best if totals[best] <= (1 - LEAST_GAIN) * totals[DEFAULT] else DEFAULT
