"""What heads cost: of a comparison, and of heads alone."""

from pathlib import Path
from typing import Literal

from contextbench.records.failures import Failure
from contextbench.records.formats import Format
from contextbench.records.stored import (
    SCHEMA_VERSION,
    Count,
    Free,
    Milliseconds,
    Positive,
    Seconds,
    Side,
    Stored,
    read_record,
)
from contextbench.system.naming import Name


class ScopeCounts(Stored):
    """Size and work of one scope (`context`, `head` or `model`); FLOPs are twice the MACs."""

    parameters: Count
    macs: Count
    uncounted: list[str] = []  # operators that no counter sees


class CompiledCost(Stored):
    """What a compiled model takes, in the same rounds as the eager one."""

    latency_ms: list[Milliseconds] = []
    train_latency_ms: list[Milliseconds] = []
    compile_seconds: Seconds | None = None  # of the first pass, the pass included
    train_compile_seconds: Seconds | None = None  # of the first training step, likewise
    failure: Failure | None = None


class HeadCost(Stored):
    """What one head costs at the profile's input size; None where it could not be determined."""

    counts: dict[str, ScopeCounts]
    inference_memory_bytes: Count | None = None  # predicted peak, model scope, weights and input in
    training_memory_bytes: Count | None = None  # predicted peak of one optimisation step
    latency_ms: list[Milliseconds] = []  # forward, one sample a round, rounds shared by all heads
    train_latency_ms: list[Milliseconds] = []  # forward + backward + step
    compiled: CompiledCost | None = None  # None: was not asked for
    failure: Failure | None = None


class ProfileRecord(Stored):
    """Costs of several heads, measured in interleaved rounds on one device."""

    schema_version: int = SCHEMA_VERSION
    protocol_name: Name | None
    identity: str | None = (
        None  # of protocol, heads, precision and device; None outside comparisons
    )
    backbone: str | None
    input: str  # e.g. "1x3x192x192"
    training_input: str | None
    scope: str  # what was timed and whose memory was predicted: `model` or `head` or `context`
    precision: Format
    environment: Free
    baseline: str  # head that latency ratios refer to
    heads: dict[Name, HeadCost]
    # What was measured: sizes, passes an image, a process's part of the batch; {}: before 0015
    workload: Free = {}
    order_seed: int | None = None  # of the order within rounds; None: always that of the heads
    notes: list[str] = []  # what a reader of these costs must know


class MemoryBytes(Stored):
    """Predicted peak of one forward pass without gradients, and its parts."""

    peak_bytes: Count  # weights + input + activations
    weights_bytes: Count
    input_bytes: Count
    activation_peak_bytes: Count  # all else that lives at the peak


class Timing(Stored):
    """Times of one scope of one head, one sample a round; none where compiling it failed."""

    scope: str  # `core`, `context` or `head`
    direction: Literal["forward", "forward_backward"]
    latency_ms: list[Milliseconds]
    mode: Literal["eager", "compile"] = "eager"
    compile_seconds: Seconds | None = None  # of the first call, the pass included
    measured_activation_peak_bytes: Count | None = None  # of compiled code; where it is counted
    failure: Failure | None = None


class FormCost(Stored):
    """What one form of one head costs on features of one size, batch 1.

    The scope `core` is the part of `context` that differs between the two forms.
    """

    head: str  # name of the head's file
    implementation: str  # `fast` or `reference`
    height: Side  # of the features, in feature pixels
    width: Side
    counts: dict[str, ScopeCounts] = {}  # `context` and `head`
    memory: dict[str, MemoryBytes] = {}  # `context` and `head`
    measured_activation_peak_bytes: Count | None = None  # of `context`, where the device counts it
    products: dict[str, dict[str, Count]] = {}  # scope -> operator of the record -> times it runs
    layouts: dict[str, list[str]] = {}  # scope -> layouts of these operators' operands
    timings: list[Timing] = []
    failure: Failure | None = None


class HeadProfileRecord(Stored):
    """Costs of heads alone, without a backbone, measured in interleaved rounds on one device."""

    schema_version: int = SCHEMA_VERSION
    channels: Positive  # of the features' last stage
    classes: Positive
    precision: Format
    environment: Free
    rounds: Count  # 0: predicted only
    costs: list[FormCost]
    # Convolutions and matrix products of the forward passes, each run alone: ms, one a round.
    operators_ms: dict[str, list[Milliseconds]] = {}

    @property
    def sizes(self) -> int:
        """Number of feature sizes."""
        return len({(cost.height, cost.width) for cost in self.costs})


def read_head_profile(path: Path) -> HeadProfileRecord:
    """A record of heads alone. Raises `RecordError` naming what is wrong with the file."""
    return read_record(HeadProfileRecord, path)


def read_profile(path: Path) -> ProfileRecord:
    """Read a `profile.json`. Raises `RecordError` like `read_run`."""
    return read_record(ProfileRecord, path)
