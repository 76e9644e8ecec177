"""Ratios of latency carry an interval, and a busy device a caution."""

import itertools
import math

import pytest

from contextbench.records.comparability import warnings_for
from contextbench.records.profiles import HeadCost, ProfileRecord
from contextbench.report.comparison import cost_table
from contextbench.report.samples import median_ratio_ends
from tests.report.printed import render_markdown


def profile(**latency_ms: list[float]) -> ProfileRecord:
    return ProfileRecord(
        protocol_name="p",
        backbone="resnet10",
        input="1x3x64x64",
        training_input=None,
        scope="model",
        precision={"dtype": "float32", "memory_format": "contiguous"},
        environment={"device": "cpu"},
        baseline="fcn",
        heads={name: HeadCost(counts={}, latency_ms=times) for name, times in latency_ms.items()},
    )


@pytest.mark.parametrize("rounds", [6, 7, 15])
def test_the_ends_cover_the_median_as_often_as_they_say(rounds: int) -> None:
    """Each round is above the true median or below it: over all 2^n ways that it can come out."""
    low, high, level = median_ratio_ends(range(1, rounds + 1), [1] * rounds)
    place = int(low)  # of the ratios 1 .. n
    assert high == rounds + 1 - place
    covered = sum(
        place <= sum(below) <= rounds - place for below in itertools.product((0, 1), repeat=rounds)
    )
    assert level == pytest.approx(covered / 2**rounds)
    assert level >= 0.95
    narrower = sum(
        place + 1 <= sum(below) <= rounds - place - 1
        for below in itertools.product((0, 1), repeat=rounds)
    )
    assert narrower / 2**rounds < 0.95


def test_fifteen_rounds_leave_out_three_at_either_end() -> None:
    """1 - 2 (1 + 15 + 105 + 455) / 2^15 = 0.965, as for the committed records."""
    low, high, level = median_ratio_ends(range(1, 16), [1] * 15)
    assert (low, high) == (4, 12)
    assert level == pytest.approx(1 - 2 * 576 / 2**15)


def test_five_rounds_are_too_few() -> None:
    """Even all five cover the median only in 1 - 2 / 32 = 93.75 % of the cases."""
    assert all(map(math.isnan, median_ratio_ends([1] * 5, [1] * 5)))
    assert all(map(math.isnan, median_ratio_ends([], [])))


def test_intervals_are_printed_and_those_that_hold_one_are_named() -> None:
    slower, noisy = [15.0, 16, 17, 18, 19, 20], [9.0, 9.5, 10, 10.5, 11, 12]
    table = cost_table(profile(fcn=[10.0] * 6, ppm=slower, ocr=noisy))
    row = table.set_index("head").loc["ppm"]
    assert (row["latency_ratio"], row["latency_ratio_low"], row["latency_ratio_high"]) == (
        1.75,
        1.5,
        2.0,
    )
    assert row["latency_ratio_level"] == 1 - 2 / 64
    text = render_markdown(table, [])
    assert "1.75 [1.50, 2.00]" in text
    assert "1.00 [" not in text  # the baseline to itself
    assert (
        "Brackets of ratios: 96.9 % interval over rounds; it holds 1, so is not resolved, " in text
    )
    assert "for ocr." in text


@pytest.mark.parametrize(("slow", "noted"), [(14.9, False), (15.1, True)])
def test_a_busy_device_is_noted(slow: float, noted: bool) -> None:
    """The third quartile of five samples is the fourth."""
    notes = warnings_for([], profile(fcn=[10.0] * 5, ppm=[9.0, 10, 10, slow, 30]))
    assert any("busy device" in note and "ppm 1.5" in note for note in notes) == noted
