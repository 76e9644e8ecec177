from collections.abc import Callable, Mapping

import pytest
import torch

from contextbench.measure.choose import CANDIDATES, DEFAULT, PrecisionChoice, choose_precision
from contextbench.precision import Precision

CPU = torch.device("cpu")
F32, F32_LAST, BF16, BF16_LAST = CANDIDATES
NAMES = {precision: name for name, precision in CANDIDATES.items()}


class Bench:
    """Steps that take a told time on a clock of its own."""

    def __init__(self, seconds: Mapping[str, Mapping[str, float]]) -> None:
        self.seconds = seconds
        self.now = 0.0
        self.calls: list[tuple[str, str]] = []

    def factory(self, step: str) -> Callable[[Precision], Callable[[], None]]:
        def build(precision: Precision) -> Callable[[], None]:
            return lambda: self._run(step, NAMES[precision])

        return build

    def _run(self, step: str, candidate: str) -> None:
        self.calls.append((step, candidate))
        self.now += self.seconds[step][candidate]

    def choose(self, **options: object) -> PrecisionChoice:
        factories = {step: self.factory(step) for step in self.seconds}
        return choose_precision(factories, CPU, clock=lambda: self.now, **options)


def times(f32: float, f32_last: float, bf16: float, bf16_last: float) -> dict[str, float]:
    return dict(zip(CANDIDATES, (f32, f32_last, bf16, bf16_last), strict=True))


def test_the_fastest_in_total_wins() -> None:
    bench = Bench({"fcn": times(10, 9, 5, 4), "ocr": times(20, 12, 11, 13)})
    choice = bench.choose()
    assert choice.chosen == CANDIDATES[BF16]  # 16 against 30, 21 and 17
    assert choice.rejected == {}
    assert choice.samples[BF16]["ocr"] == [11_000, 11_000]


def test_slower_on_one_step_is_out_even_if_faster_in_total() -> None:
    bench = Bench({"fcn": times(10, 8, 1, 9), "ocr": times(10, 10, 11, 9)})
    choice = bench.choose()
    assert choice.chosen == CANDIDATES[F32_LAST]  # 18, as BF16_LAST: the first of equals
    assert choice.rejected == {BF16: f"slower than {DEFAULT} on ocr"}


def test_a_rejected_candidate_is_not_tried_on_other_steps() -> None:
    bench = Bench({"fcn": times(10, 99, 99, 99), "ocr": times(10, 1, 1, 1)})
    choice = bench.choose()
    assert choice.chosen == CANDIDATES[DEFAULT]
    assert {step for step, _ in bench.calls} == {"fcn"}  # with one candidate left, it is over


def test_a_gain_below_five_percent_is_noise() -> None:
    assert Bench({"fcn": times(100, 96, 100, 100)}).choose().chosen == CANDIDATES[DEFAULT]
    assert Bench({"fcn": times(100, 95, 100, 100)}).choose().chosen == CANDIDATES[F32_LAST]


def test_rounds_are_interleaved_after_a_warm_up_of_each() -> None:
    bench = Bench({"fcn": times(1, 1, 1, 1)})
    choice = bench.choose(rounds=3)
    assert [name for _, name in bench.calls] == 4 * list(CANDIDATES)
    assert len(choice.samples[DEFAULT]["fcn"]) == 3


def test_one_disturbed_run_does_not_decide() -> None:
    bench = Bench({"fcn": times(10, 5, 20, 20)})
    build = bench.factory("fcn")

    def disturbed(precision: Precision) -> Callable[[], None]:
        step, runs = build(precision), iter([0, 100, 0])

        def run() -> None:
            step()
            bench.now += next(runs) if NAMES[precision] == F32_LAST else 0

        return run

    choice = choose_precision({"fcn": disturbed}, CPU, clock=lambda: bench.now)
    assert choice.chosen == CANDIDATES[F32_LAST]


def test_bfloat16_can_be_forbidden() -> None:
    choice = Bench({"fcn": times(10, 9, 1, 1)}).choose(allow_bf16=False)
    assert choice.chosen == CANDIDATES[F32_LAST]
    assert set(choice.samples) == {F32, F32_LAST}
    assert choice.rejected[BF16] == "bfloat16 is not allowed"


def test_cuda_without_bfloat16_skips_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    bench = Bench({"fcn": times(10, 9, 1, 1)})
    choice = choose_precision(
        {"fcn": bench.factory("fcn")}, torch.device("cuda"), clock=lambda: bench.now
    )
    assert choice.chosen == CANDIDATES[F32_LAST]
    assert choice.rejected[BF16_LAST] == "the device has no bfloat16"


def test_a_candidate_that_cannot_run_is_out_with_its_reason() -> None:
    bench = Bench({"fcn": times(10, 9, 1, 1)})
    build = bench.factory("fcn")

    def picky(precision: Precision) -> Callable[[], None]:
        if precision.dtype == "bfloat16":
            raise NotImplementedError("no kernel for BFloat16")
        return build(precision)

    choice = choose_precision({"fcn": picky}, CPU, clock=lambda: bench.now)
    assert choice.chosen == CANDIDATES[F32_LAST]
    assert choice.rejected[BF16] == "NotImplementedError: no kernel for BFloat16"


def test_an_error_of_the_default_is_raised() -> None:
    def broken(precision: Precision) -> Callable[[], None]:
        raise RuntimeError(f"broken in {precision.dtype}")

    with pytest.raises(RuntimeError, match="broken in float32"):
        choose_precision({"fcn": broken}, CPU)


def test_nothing_to_time_leaves_the_default() -> None:
    assert choose_precision({}, CPU).chosen == CANDIDATES[DEFAULT]


def test_as_dict_is_plain() -> None:
    stored = Bench({"fcn": times(2, 1, 3, 3)}).choose().as_dict()
    assert stored["chosen"] == {"dtype": "float32", "memory_format": "channels_last"}
    assert stored["samples_ms"][DEFAULT] == {"fcn": [2000, 2000]}
    assert set(stored["rejected"]) == {BF16, BF16_LAST}
