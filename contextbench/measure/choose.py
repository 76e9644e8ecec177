"""The number format and memory layout for one comparison, chosen by timing a few steps.

The rule is here; what runs the steps, each candidate in a process of its own, is in `trials`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

from contextbench.measure.latency import order_of_round
from contextbench.models.precision import Precision
from contextbench.records.formats import read_precision

Samples = dict[str, dict[str, list[float]]]  # candidate -> head -> milliseconds
Timed = dict[str, list[float]]  # candidate -> milliseconds of one head

TOLERANCE = 0.05  # of the default's time: a smaller difference, either way, may be noise
FEWEST_ROUNDS, MOST_ROUNDS = 3, 9
HOPELESS = 3.0  # times the default's: after one round already more than a disturbance

DEFAULT = "float32 contiguous"
CANDIDATES: Mapping[str, Precision] = {
    DEFAULT: Precision("float32", "contiguous"),
    "float32 channels_last": Precision("float32", "channels_last"),
    "tf32 contiguous": Precision("tf32", "contiguous"),
    "tf32 channels_last": Precision("tf32", "channels_last"),
    "bfloat16 contiguous": Precision("bfloat16", "contiguous"),
    "bfloat16 channels_last": Precision("bfloat16", "channels_last"),
}


class Bench(Protocol):
    """Runs steps of candidates, so that none can harm another or what asked for it."""

    def prepare(self, candidate: str, head: str) -> str | None:
        """Make the next step of a candidate, and run it once; why that cannot be, or None."""
        ...

    def time(self, candidate: str) -> float | str:
        """Milliseconds of the step, or why it failed."""
        ...


@dataclass
class PrecisionChoice:
    """The choice and what it rests on. Candidates have the names of `CANDIDATES`."""

    samples: Samples  # milliseconds; those of a candidate end with the head that rejected it
    rejected: dict[str, str]  # candidate -> reason
    left_out: dict[str, str] = field(default_factory=dict)  # head -> why it cannot be timed
    chosen: Precision = CANDIDATES[DEFAULT]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a record."""
        return {
            "chosen": asdict(self.chosen),
            "samples_ms": self.samples,
            "rejected": self.rejected,
            "left_out": self.left_out,
            "tolerance": TOLERANCE,
        }


def rounds_of(heads: Sequence[str]) -> int:
    """Rounds that a choice takes at least, if no head ends early."""
    return FEWEST_ROUNDS * len(heads)


def choose_precision(
    bench: Bench,
    heads: Sequence[str],
    excluded: Mapping[str, str],
    progress: Callable[[int], None] = lambda _: None,
) -> PrecisionChoice:
    """The candidate with the least total time among those slower than the default for no head.

    Slower is by more than 5 %, and the default stands unless another saves at least 5 % in total.
    A step takes as long as the fastest of its runs, since a disturbance only ever lengthens one;
    there are more rounds where the two fastest of a candidate are not within 5 %, and no more than
    one for a candidate that took over three times as long as the default. A candidate that fails
    is rejected and not tried again. A head that fails in the default says nothing of formats, and
    is left out. `excluded` candidates are not tried, for the reasons given. `progress` is told how
    many of `rounds_of(heads)` are done.
    """
    rejected = dict(excluded)
    choice = PrecisionChoice({name: {} for name in CANDIDATES if name not in rejected}, rejected)

    def ticked(place: int, rounds: int) -> None:
        progress(rounds_of(heads[:place]) + min(rounds, FEWEST_ROUNDS))

    for place, head in enumerate(heads):
        ticked(place, 0)
        remaining = [name for name in choice.samples if name not in rejected]
        if remaining == [DEFAULT]:
            break
        timed = _prepared(bench, head, remaining, choice)
        if timed is None or not _time(bench, head, timed, choice, partial(ticked, place)):
            continue
        for name, milliseconds in timed.items():
            choice.samples[name][head] = milliseconds
            ratio = min(milliseconds) / min(timed[DEFAULT])
            if ratio > 1 + TOLERANCE:
                rejected[name] = f"{ratio:.2f} times as long as {DEFAULT} for {head}"
    choice.chosen = CANDIDATES[_fastest(choice)]
    return choice


def _prepared(
    bench: Bench, head: str, names: Iterable[str], choice: PrecisionChoice
) -> Timed | None:
    """Candidates that can run one head, without times yet; None for a head left out."""
    timed: Timed = {}
    for name in names:
        reason = bench.prepare(name, head)
        if reason is None:
            timed[name] = []
        elif not _go_on(name, head, reason, choice):
            return None
    return timed


def _time(
    bench: Bench, head: str, timed: Timed, choice: PrecisionChoice, ticked: Callable[[int], None]
) -> bool:
    """Add milliseconds to `timed`, less what fails; False for a head left out."""
    running = list(timed)
    for number in range(MOST_ROUNDS):
        for name in order_of_round(running, number):
            found = bench.time(name)
            if isinstance(found, float):
                timed[name].append(found)
                continue
            del timed[name]
            if not _go_on(name, head, found, choice):
                return False
        ticked(number + 1)
        running = [name for name in timed if not _hopeless(timed[name], timed[DEFAULT])]
        if number + 1 >= FEWEST_ROUNDS and all(_settled(timed[name]) for name in running):
            break
    return True


def _hopeless(milliseconds: Sequence[float], default: Sequence[float]) -> bool:
    return min(milliseconds) > HOPELESS * min(default)


def _go_on(name: str, head: str, reason: str, choice: PrecisionChoice) -> bool:
    """Note a failure: of the head where the default fails too, else of the candidate."""
    if name == DEFAULT:
        choice.left_out[head] = reason
        return False
    choice.rejected[name] = f"{head}: {reason}"
    return True


def _settled(milliseconds: Sequence[float]) -> bool:
    """Whether another run would hardly be faster."""
    first, second = sorted(milliseconds)[:2]
    return second <= (1 + TOLERANCE) * first


def excluded(device: torch.device) -> dict[str, str]:
    """Candidates that a device does not have, with the reason."""
    reasons = {}
    if not _has_tf32(device):
        reasons["tf32"] = "the device has no TF32"
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        reasons["bfloat16"] = "the device has no bfloat16"
    return {name: reasons[c.dtype] for name, c in CANDIDATES.items() if c.dtype in reasons}


def _has_tf32(device: torch.device) -> bool:
    if device.type != "cuda" or torch.version.hip is not None:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


def _fastest(choice: PrecisionChoice) -> str:
    totals = {
        name: sum(min(milliseconds) for milliseconds in heads.values())
        for name, heads in choice.samples.items()
        if name not in choice.rejected
    }
    best = min(totals, key=totals.__getitem__)
    return best if totals[best] <= (1 - TOLERANCE) * totals[DEFAULT] else DEFAULT


def stored_choice(path: Path, device: str) -> Precision | None:
    """What was chosen on a device of this name; None where nothing was.

    Raises `RecordError` for a file that cannot be used.
    """
    if not path.exists():
        return None
    stored = read_precision(path)
    return Precision(**stored.chosen.model_dump()) if stored.device == device else None
