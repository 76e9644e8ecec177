"""Candidates in processes of their own: what ends one of them ends nothing else."""

import time

import pytest
import torch

from contextbench.config.heads import HeadConfig
from contextbench.measure.choose import CANDIDATES, DEFAULT, choose_precision, excluded
from contextbench.measure.trials import Trials
from contextbench.system.interrupt import Interrupted, StopRequest
from tests.measure.steps import scripted

CPU = torch.device("cpu")
LAST = "float32 channels_last"
FAST, SLOW = 0.01, 0.03  # seconds


def head(name: str, **changes: object) -> HeadConfig:
    told = dict.fromkeys(CANDIDATES, SLOW)
    names = {"default": DEFAULT, "last": LAST, "bf16": "bfloat16 contiguous"}
    return HeadConfig(
        name=name, head="fcn", options=told | {names[key]: what for key, what in changes.items()}
    )


def trials(*heads: HeadConfig, stop: StopRequest | None = None) -> Trials:
    known = {each.name: each for each in heads}
    return Trials(scripted, known, CANDIDATES, CPU, stop or StopRequest())


@pytest.mark.slow
def test_a_crash_rejects_its_candidate_and_nothing_else() -> None:
    """A segmentation fault, exhausted memory and a process that leaves: three reasons."""
    first = head("a", last="segfault", bf16="memory")
    with trials(first, head("b", default="exit"), head("c", default=FAST)) as bench:
        choice = choose_precision(bench, ["a", "b", "c"], excluded(CPU))
    assert choice.rejected[LAST] == "a: its process was ended by SIGSEGV"
    assert choice.rejected["bfloat16 contiguous"] == "a: MemoryError: 3 TiB"
    assert choice.left_out == {"b": "its process ended with exit code 3"}
    # The default ended with "b", and started again: it is faster for "c".
    assert set(choice.samples[DEFAULT]) == {"a", "c"}
    assert choice.rejected["bfloat16 channels_last"].endswith("for c")
    assert choice.chosen == CANDIDATES[DEFAULT]
    assert min(choice.samples[DEFAULT]["a"]) >= 1e3 * SLOW


@pytest.mark.slow
def test_a_choice_ends_on_request_in_the_middle_of_a_step() -> None:
    stop = StopRequest()
    began = time.monotonic()
    with trials(head("a", default=60.0), stop=stop) as bench:
        stop.requested = True
        with pytest.raises(Interrupted):
            bench.prepare(DEFAULT, "a")
    assert time.monotonic() - began < 30
