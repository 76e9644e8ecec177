"""Hand-made records of heads alone: every number is stated by the test that reads it."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from contextbench.records.failures import Failure
from contextbench.records.profiles import (
    FormCost,
    HeadProfileRecord,
    MemoryBytes,
    ScopeCounts,
    Timing,
)

DEVICE = "Example CPU @ 2.50GHz, 2 threads"
WEIGHTS, INPUT = 1000, 500  # bytes

Direction = Literal["forward", "forward_backward"]
Times = Mapping[tuple[str, Direction], Sequence[float]]
CONTEXT: tuple[str, Direction] = ("context", "forward")


def form(
    head: str = "fcn",
    implementation: str = "fast",
    size: tuple[int, int] = (4, 4),
    *,
    parameters: int = 10,
    macs: int = 100,
    activations: int = 2000,
    uncounted: Sequence[str] = (),
    times: Times | None = None,
    **changes: Any,
) -> FormCost:
    """Costs of the scope `context`; the whole head has twice as much of everything."""
    content: dict[str, Any] = {
        "head": head,
        "implementation": implementation,
        "height": size[0],
        "width": size[1],
        "counts": {
            scope: ScopeCounts(
                parameters=factor * parameters, macs=factor * macs, uncounted=list(uncounted)
            )
            for scope, factor in (("context", 1), ("head", 2))
        },
        "memory": {
            scope: MemoryBytes(
                peak_bytes=WEIGHTS + INPUT + factor * activations,
                weights_bytes=WEIGHTS,
                input_bytes=INPUT,
                activation_peak_bytes=factor * activations,
            )
            for scope, factor in (("context", 1), ("head", 2))
        },
        "timings": [
            Timing(scope=scope, direction=direction, latency_ms=list(latency_ms))
            for (scope, direction), latency_ms in (times or {}).items()
        ],
    }
    return FormCost(**{**content, **changes})


def failed(head: str, implementation: str = "fast", size: tuple[int, int] = (4, 4)) -> FormCost:
    """A form without any numbers."""
    return FormCost(
        head=head,
        implementation=implementation,
        height=size[0],
        width=size[1],
        failure=Failure(kind="MemoryError", message="no room"),
    )


def record(costs: Sequence[FormCost], **changes: Any) -> HeadProfileRecord:
    """Heads on features of 8 channels, 3 classes; `rounds` are those of the times."""
    rounds = max((len(t.latency_ms) for cost in costs for t in cost.timings), default=0)
    content: dict[str, Any] = {
        "channels": 8,
        "classes": 3,
        "precision": {"dtype": "float32", "memory_format": "contiguous"},
        "environment": {"device": DEVICE},
        "rounds": rounds,
        "costs": list(costs),
    }
    return HeadProfileRecord(**{**content, **changes})
