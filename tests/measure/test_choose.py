"""The rule by which a number format is chosen, on a bench that takes told times."""

import json
from collections.abc import Mapping
from itertools import cycle
from pathlib import Path

import pytest
import torch

from contextbench.measure import choose
from contextbench.measure.choose import (
    CANDIDATES,
    DEFAULT,
    MOST_ROUNDS,
    PrecisionChoice,
    choose_precision,
    stored_choice,
)
from contextbench.models.precision import Precision
from contextbench.records.stored import RecordError

NO_TF32 = choose.excluded(torch.device("cpu"))
F32, F32_LAST, BF16, BF16_LAST = [name for name in CANDIDATES if name not in NO_TF32]


class Bench:
    """Seconds of each head in each candidate, or why it fails, or several that take turns."""

    def __init__(self, steps: Mapping[str, Mapping[str, object]]) -> None:
        self.steps = steps
        self.calls: list[tuple[str, str]] = []
        self._prepared: dict[str, object] = {}

    def prepare(self, candidate: str, head: str) -> str | None:
        what = self.steps[head][candidate]
        self.calls.append((candidate, head))
        self._prepared[candidate] = cycle(what if isinstance(what, list) else [what])
        return what if isinstance(what, str) else None

    def time(self, candidate: str) -> float | str:
        found = next(self._prepared[candidate])  # type: ignore[call-overload]
        return found if isinstance(found, str) else float(found)

    def choose(self) -> PrecisionChoice:
        return choose_precision(self, list(self.steps), NO_TF32)


def steps(f32: object, f32_last: object, bf16: object, bf16_last: object) -> dict[str, object]:
    return {F32: f32, F32_LAST: f32_last, BF16: bf16, BF16_LAST: bf16_last}


def test_the_fastest_in_total_wins() -> None:
    choice = Bench({"fcn": steps(10, 9, 5, 4), "ocr": steps(20, 12, 11, 13)}).choose()
    assert choice.chosen == CANDIDATES[BF16]  # 16 against 30, 21 and 17
    assert choice.rejected == NO_TF32
    assert choice.samples[BF16]["ocr"] == [11, 11, 11]


@pytest.mark.parametrize(("slower", "chosen"), [(10.5, BF16), (10.51, F32)])
def test_slower_for_one_head_by_more_than_the_tolerance_is_out(slower: float, chosen: str) -> None:
    """However much it saves for another: 5 % is what noise does, either way."""
    choice = Bench({"fcn": steps(10, 10, 1, 10), "ocr": steps(10, 10, slower, 10)}).choose()
    assert choice.chosen == CANDIDATES[chosen]
    out = {BF16: f"1.05 times as long as {DEFAULT} for ocr"} if chosen == F32 else {}
    assert choice.rejected == NO_TF32 | out


def test_a_rejected_candidate_is_not_tried_for_other_heads() -> None:
    bench = Bench({"fcn": steps(10, 99, 99, 99), "ocr": steps(10, 1, 1, 1)})
    assert bench.choose().chosen == CANDIDATES[DEFAULT]
    assert {head for _, head in bench.calls} == {"fcn"}  # with one candidate left, it is over


@pytest.mark.parametrize(("faster", "chosen"), [(96, F32), (95, F32_LAST)])
def test_a_gain_below_the_tolerance_is_noise(faster: int, chosen: str) -> None:
    assert Bench({"fcn": steps(100, faster, 100, 100)}).choose().chosen == CANDIDATES[chosen]


def test_there_are_more_rounds_while_the_two_fastest_differ() -> None:
    """Of 10, 8, 9, 8.2 the two fastest are within 5 % in the fourth round."""
    settles = Bench({"fcn": steps(10, [10, 8, 9, 8.2], 20, 20)}).choose()
    assert settles.samples[F32_LAST]["fcn"] == [10, 8, 9, 8.2]
    assert len(settles.samples[F32]["fcn"]) == 4
    never = Bench({"fcn": steps(10, [2**-k for k in range(20)], 20, 20)}).choose()
    assert len(never.samples[F32]["fcn"]) == MOST_ROUNDS


def test_one_disturbed_run_does_not_decide() -> None:
    assert Bench({"fcn": steps(10, [5, 100], 20, 20)}).choose().chosen == CANDIDATES[F32_LAST]


@pytest.mark.parametrize(("bf16", "rounds"), [(30.0, 3), (30.1, 1)])
def test_what_takes_over_three_times_as_long_is_timed_once(bf16: float, rounds: int) -> None:
    """Nine steps in a format that the processor only emulates are minutes."""
    choice = Bench({"fcn": steps(10, 10, bf16, bf16), "ocr": steps(10, 10, 1, 1)}).choose()
    assert choice.samples[BF16] == {"fcn": [bf16] * rounds}
    assert f"{bf16 / 10:.2f} times as long as {DEFAULT} for fcn" == choice.rejected[BF16]
    assert choice.chosen == CANDIDATES[DEFAULT]


def test_progress_is_told_in_rounds_and_never_beyond_the_total() -> None:
    told: list[int] = []
    restless = [10, 20, 30, 40, 50]  # more rounds than the three that are planned
    bench = Bench({"fcn": steps(restless, 10, 10, 10), "ocr": steps(10, 10, 10, 10)})
    choose_precision(bench, ["fcn", "ocr"], NO_TF32, told.append)
    assert told == sorted(told)
    assert {0, 1, 2, 3, 4, 5, 6} == set(told)
    assert choose.rounds_of(["fcn", "ocr"]) == 6


def test_a_candidate_that_fails_is_out_with_its_reason() -> None:
    at_once = Bench({"fcn": steps(10, 9, "no kernel", 10)}).choose()
    assert at_once.chosen == CANDIDATES[F32_LAST]
    assert at_once.rejected[BF16] == "fcn: no kernel"
    later = Bench({"fcn": steps(10, 9, [1, "out of memory"], 10)}).choose()
    assert later.chosen == CANDIDATES[F32_LAST]
    assert later.rejected[BF16] == "fcn: out of memory"


def test_a_head_that_fails_in_the_default_is_left_out() -> None:
    """It would fail as a cell, and says nothing of number formats."""
    bench = Bench({"bad": steps("batch of 1", 1, 1, 1), "fcn": steps(10, 10, 5, 10)})
    choice = bench.choose()
    assert choice.chosen == CANDIDATES[BF16]
    assert choice.left_out == {"bad": "batch of 1"}
    assert [head for _, head in bench.calls].count("bad") == 1
    only = Bench({"bad": steps([5, "late"], 1, 1, 1)}).choose()
    assert (only.chosen, only.left_out) == (CANDIDATES[DEFAULT], {"bad": "late"})


def test_formats_that_a_device_lacks_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(NO_TF32) == {"tf32 contiguous", "tf32 channels_last"}  # a CPU has no TF32
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    old = choose.excluded(torch.device("cuda"))
    assert set(CANDIDATES) - set(old) == {F32, F32_LAST}
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    assert choose.excluded(torch.device("cuda")) == {}


def test_nothing_to_time_leaves_the_default() -> None:
    assert Bench({}).choose().chosen == CANDIDATES[DEFAULT]


def test_as_dict_is_plain() -> None:
    stored = Bench({"fcn": steps(2, 1, 3, "crash"), "bad": steps("no", 1, 1, 1)}).choose().as_dict()
    assert json.loads(json.dumps(stored)) == stored
    assert stored["chosen"] == {"dtype": "float32", "memory_format": "channels_last"}
    assert stored["samples_ms"][DEFAULT] == {"fcn": [2, 2, 2]}
    assert stored["rejected"][BF16_LAST] == "fcn: crash"
    assert stored["left_out"] == {"bad": "no"}


def test_a_stored_choice_belongs_to_a_device(tmp_path: Path) -> None:
    path = tmp_path / "precision.json"
    assert stored_choice(path, "here") is None
    chosen = {"dtype": "bfloat16", "memory_format": "channels_last"}
    path.write_text(json.dumps({"device": "here", "chosen": chosen}))
    assert stored_choice(path, "here") == Precision("bfloat16", "channels_last")
    assert stored_choice(path, "there") is None


@pytest.mark.parametrize("chosen", [{"dtype": "float8", "memory_format": "contiguous"}, {}, 3])
def test_a_format_that_does_not_exist_is_refused(tmp_path: Path, chosen: object) -> None:
    path = tmp_path / "precision.json"
    path.write_text(json.dumps({"device": "here", "chosen": chosen}))
    with pytest.raises(RecordError, match=r"precision\.json: "):
        stored_choice(path, "here")
