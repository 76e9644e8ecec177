"""No fast form is slower than its reference, from small maps on.

    OMP_NUM_THREADS=2 .venv/bin/python -m pytest -m timing -s tests/heads/test_forms_speed.py

Times, so on a quiet machine and not in CI. That both are one function is for
`test_one_function.py`.
"""

import statistics
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch

from contextbench.measure.latency import Call, interleaved
from contextbench.models.precision import Dtype, Precision
from heads import HEADS, Channels, ContextHead, Features, build_head
from heads.contract import FORMS
from tests.heads.calls import CPU, forward, forward_backward

pytestmark = [pytest.mark.timing, pytest.mark.timeout(1800)]

RESOLUTION = 1.05  # how far from each other the times of one function are in so many rounds


class Case(NamedTuple):
    channels: int  # of layer4; each stage before has half of the next one's
    width: int
    side: int
    batch: int
    rounds: int

    def __str__(self) -> str:
        return f"{self.batch}x{self.channels}x{self.side}x{self.side}, width {self.width}"


CASES = [
    *(Case(256, 64, side, 1, 31) for side in (16, 24, 32)),
    Case(256, 64, 24, 8, 15),
    Case(256, 128, 24, 1, 31),
    Case(256, 64, 48, 1, 15),
    Case(256, 64, 97, 1, 7),  # a prime number: nothing divides its maps
    Case(256, 64, 128, 1, 5),
    Case(2048, 512, 24, 1, 9),
    Case(2048, 512, 64, 1, 5),
]


def stages(case: Case, precision: Precision) -> Features:
    """As a dilated backbone gives them."""
    widths = Channels(*(case.channels // part for part in (8, 4, 2, 1)))
    sides = (2 * case.side, case.side, case.side, case.side)
    maps = (torch.randn(case.batch, c, s, s) for c, s in zip(widths, sides, strict=True))
    wanted = {"dtype": precision.torch_dtype, "memory_format": precision.torch_memory_format}
    return Features(*(each.to(**wanted) for each in maps))


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("direction", [forward, forward_backward])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_fast_form_is_slower_than_its_reference(
    case: Case, direction: Callable[[ContextHead, Features, Precision], Call], dtype: Dtype
) -> None:
    """All heads and both forms take turns; a ratio is the median of those of the rounds.

    In the layout of training on a CPU. Processors without bfloat16 emulate it, ten times slower.
    """
    precision = Precision(dtype, "channels_last")
    features, calls = stages(case, precision), {}
    widths = Channels(*(stage.shape[1] for stage in features))
    for name in HEADS:
        for form in FORMS:
            head = build_head(name, widths, 21, width=case.width, implementation=form)
            head.to(memory_format=precision.torch_memory_format).eval()
            calls[name, form] = direction(head, features, precision)
    times = interleaved(calls, rounds=case.rounds, warmup=2, device=CPU)
    ratios = {}
    print(f"\n{case}, {direction.__name__}, {dtype}, {torch.get_num_threads()} threads")
    for name in HEADS:
        fast, reference = (times[name, form] for form in ("fast", "reference"))
        of_fcn = statistics.median(fast) / statistics.median(times["fcn", "fast"])
        ratios[name] = statistics.median(
            mine / other for mine, other in zip(fast, reference, strict=True)
        )
        print(
            f"{name:17}{statistics.median(fast):8.2f} ms, of its reference {ratios[name]:.2f}, "
            f"of fcn {of_fcn:.2f}"
        )
    assert max(ratios.values()) <= RESOLUTION, ratios
