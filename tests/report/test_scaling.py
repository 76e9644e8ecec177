"""Exponents, crossings and curves of costs that follow formulas stated here."""

import csv
import io
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from rich.console import Console

from contextbench.records.profiles import FormCost, HeadProfileRecord
from contextbench.report.bundle import write_head_report
from contextbench.report.figures.plots import scaling_figure
from contextbench.report.tables.scaling import (
    break_even,
    exponents,
    scaling_markdown,
    scaling_sheet,
    scaling_table,
)
from tests.report.head_records import CONTEXT, failed, form, record

SIDES = (2, 4, 8)


def linear(head: str, macs: int, sides=SIDES, implementation: str = "fast") -> list[FormCost]:
    """MACs and activations proportional to the number of pixels; 3 rounds of a time like it."""
    return [
        form(
            head,
            implementation,
            (side, side),
            macs=macs * side**2,
            activations=10 * side**2,
            times={CONTEXT: [float(side**2), 2.0 * side**2, 5.0 * side**2]},
        )
        for side in sides
    ]


def quadratic(head: str, factor: int, implementation: str = "fast") -> list[FormCost]:
    """MACs and activations as the pixels squared, not timed."""
    return [
        form(
            head,
            implementation,
            (side, side),
            macs=factor * side**4,
            activations=side**4,
        )
        for side in SIDES
    ]


def exponent_of(table: pd.DataFrame, head: str, measure: str) -> tuple[float, int]:
    (row,) = table[(table["head"] == head) & (table["measure"] == measure)].to_dict("records")
    return row["exponent"], row["sizes"]


def test_the_table_has_a_row_for_each_form_and_size_in_base_units():
    rows = scaling_table(record([*linear("fcn", 7), failed("ocr", size=(8, 8))]))
    assert list(zip(rows["head"], rows["pixels"], strict=True)) == [
        ("fcn", 4),
        ("fcn", 16),
        ("fcn", 64),
        ("ocr", 64),
    ]
    first = rows.iloc[0]
    assert (first["macs"], first["flops"], first["activation_peak_bytes"]) == (28, 56, 40)
    quarters = (first["latency_q1_ms"], first["latency_ms"], first["latency_q3_ms"])
    assert quarters == (6.0, 8.0, 14.0)  # of 4, 8 and 20
    assert first["latency_rounds"] == 3
    assert math.isnan(rows.iloc[3]["macs"])
    assert rows.iloc[3]["reason"] == "MemoryError: no room"


def test_exponents_of_powers_are_the_powers():
    table = exponents(record([*linear("fcn", 7), *quadratic("ocnet", 3)]))
    for measure in ("macs", "activation_peak_bytes", "latency_ms"):
        assert exponent_of(table, "fcn", measure) == (pytest.approx(1, rel=1e-12), 3)
    assert exponent_of(table, "ocnet", "macs") == (pytest.approx(2, rel=1e-12), 3)
    assert "latency_ms" not in set(table[table["head"] == "ocnet"]["measure"])


def test_an_exponent_is_the_least_squares_slope():
    """log2 of pixels 2, 4, 6 and of MACs 3, 3, 6: deviations -2, 0, 2 and -1, -1, 2, slope 6/8."""
    costs = [form(size=(s, s), macs=m) for s, m in ((2, 8), (4, 8), (8, 64))]
    exponent, sizes = exponent_of(exponents(record(costs)), "fcn", "macs")
    assert (exponent, sizes) == (pytest.approx(0.75, rel=1e-12), 3)


def test_one_size_has_no_exponent_and_a_failed_one_is_not_among_the_sizes():
    costs = [*linear("fcn", 7, (2, 4)), failed("fcn", size=(8, 8)), form("ocr")]
    table = exponents(record(costs))
    assert exponent_of(table, "fcn", "macs")[1] == 2
    exponent, sizes = exponent_of(table, "ocr", "macs")
    assert math.isnan(exponent)
    assert sizes == 1


def test_break_even_is_where_the_formulas_meet():
    """7 p = 0.5 p^2 at p = 14, between 2x2 and 4x4; powers are straight in log-log, so exactly."""
    half = [c.model_copy(update={"counts": counts(c, 2)}) for c in quadratic("ocnet", 1)]
    crossings = break_even(record([*linear("fcn", 7), *half]))
    (row,) = crossings[crossings["measure"] == "macs"].to_dict("records")
    assert (row["dearer"], row["cheaper"], row["implementation"]) == ("ocnet", "fcn", "fast")
    assert row["pixels"] == pytest.approx(14, rel=1e-12)
    assert row["side"] == pytest.approx(math.sqrt(14), rel=1e-12)
    (memory,) = crossings[crossings["measure"] == "activation_peak_bytes"].to_dict("records")
    assert memory["pixels"] == pytest.approx(10, rel=1e-12)  # 10 p = p^2
    assert "latency_ms" not in set(crossings["measure"])


def counts(cost: FormCost, divisor: int):
    return {
        scope: each.model_copy(update={"macs": each.macs // divisor})
        for scope, each in cost.counts.items()
    }


def macs_at(head: str, *macs: int, implementation: str = "fast") -> list[FormCost]:
    return [
        form(head, implementation, (side, side), macs=value)
        for side, value in zip(SIDES, macs, strict=False)
    ]


def macs_crossings(*costs: FormCost) -> list[tuple[str, float]]:
    table = break_even(record(list(costs)))
    rows = table[table["measure"] == "macs"]
    return list(zip(rows["dearer"], rows["pixels"], strict=True))


def test_curves_may_cross_twice():
    """Gaps of log2 -1, 1, -2: half way from 4 to 16, a third of the way from 16 to 64."""
    crossings = macs_crossings(*macs_at("a", 1, 8, 8), *macs_at("b", 2, 4, 32))
    assert crossings == [
        ("a", pytest.approx(4 * 4**0.5, rel=1e-12)),
        ("b", pytest.approx(16 * 4 ** (1 / 3), rel=1e-12)),
    ]


def test_equal_curves_cross_where_they_part():
    assert macs_crossings(*macs_at("a", 1, 4, 9), *macs_at("b", 2, 4, 8)) == [
        ("a", pytest.approx(16, rel=1e-12))
    ]


def timed(head: str, *samples: list[float]) -> list[FormCost]:
    return [
        form(head, "fast", (side, side), times={CONTEXT: times})
        for side, times in zip(SIDES, samples, strict=True)
    ]


def latency_crossings(*costs: FormCost) -> list[tuple[str, float]]:
    table = break_even(record(list(costs)))
    rows = table[table["measure"] == "latency_ms"]
    return list(zip(rows["dearer"], rows["pixels"], strict=True))


def test_latencies_within_each_others_quartiles_do_not_cross():
    """Medians 3 > 2, 1 < 2 and 3 > 2; but at 4x4 the quartiles are 0.75 .. 2.5 and 1.5 .. 2.5."""
    other = timed("b", *[[1.0, 2.0, 3.0]] * 3)
    above = [2.9, 3.0, 3.1]
    assert latency_crossings(*timed("a", [4, 4, 4], [0.5, 1.0, 4.0], [4, 4, 4]), *other) == []
    apart = timed("a", [4, 4, 4], [0.1, 0.5, 0.6], above)
    assert [dearer for dearer, _ in latency_crossings(*apart, *other)] == ["b", "a"]


@pytest.mark.parametrize("other", [(1, 4, 8), (2, 8, 16), (1, 5, 8)])
def test_curves_that_only_touch_do_not_cross(other: tuple[int, ...]):
    assert macs_crossings(*macs_at("a", 1, 4, 8), *macs_at("b", *other)) == []


def test_sizes_that_only_one_head_has_do_not_count():
    assert macs_crossings(*macs_at("a", 1, 4, 99), *macs_at("b", 2, 8)) == []


def test_forms_are_compared_apart():
    costs = [*macs_at("a", 1, 8), *macs_at("b", 2, 4, implementation="reference")]
    assert macs_crossings(*costs) == []


def test_a_record_without_crossings_has_an_empty_table_with_its_columns():
    columns = ["implementation", "measure", "dearer", "cheaper", "pixels", "side"]
    assert list(break_even(record(linear("fcn", 7))).columns) == columns


def texts(figure: Figure) -> str:
    found = figure.findobj(lambda artist: hasattr(artist, "get_text"))
    return " ".join(" ".join(artist.get_text().split()) for artist in found)


HEADS = ("fcn", "ppm", "aspp", "ocnet", "encnet", "ocr", "danet", "ccnet", "isa")


@pytest.fixture(scope="module")
def many() -> HeadProfileRecord:
    """Nine heads whose curves end within a few percent of each other."""
    return record([cost for i, head in enumerate(HEADS) for cost in linear(head, 1000 + 5 * i)])


@pytest.fixture(scope="module")
def figure(many: HeadProfileRecord) -> Figure:
    return scaling_figure(many)


def test_every_panel_names_every_curve_without_overlaps(figure: Figure):
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()  # puts names into their places
    assert len(figure.axes) == 3
    for axes in figure.axes:
        names = [child for child in axes.get_children() if isinstance(child, Annotation)]
        assert sorted(name.get_text() for name in names) == sorted(HEADS)
        boxes = [Text.get_window_extent(name, renderer) for name in names]
        pairs = [(a, b) for i, a in enumerate(boxes) for b in boxes[:i]]
        assert not any(a.overlaps(b) for a, b in pairs)
        assert all(box.x0 >= 0 and box.x1 <= figure.bbox.width for box in boxes)
        assert all(box.x0 >= axes.get_window_extent().x1 for box in boxes)


def test_curves_lie_at_their_values_on_logarithmic_axes(figure: Figure):
    macs = figure.axes[0]
    assert (macs.get_xscale(), macs.get_yscale()) == ("log", "log")
    x, y = macs.get_lines()[0].get_data()
    np.testing.assert_array_equal(x, [4, 16, 64])
    np.testing.assert_allclose(y, [1000 * p / 1e9 for p in (4, 16, 64)], rtol=1e-12)


def test_a_figure_says_what_it_shows_in_which_units(figure: Figure):
    written = texts(figure)
    for part in ("MACs (G)", "(MiB)", "Latency (ms)", "fast form", "8 channels", "Scope context"):
        assert part in written
    assert "3 interleaved rounds on Example CPU @ 2.50GHz, 2 threads, float32" in written
    ticks = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert ticks == ["2", "4", "8"]


def test_oblong_maps_are_labelled_with_both_sides():
    costs = [form(size=size) for size in ((2, 4), (4, 8))]
    axes = scaling_figure(record(costs)).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["2×4", "4×8"]


def test_without_times_there_is_no_panel_of_latency():
    written = texts(scaling_figure(record(quadratic("ocnet", 1))))
    assert len(scaling_figure(record(quadratic("ocnet", 1))).axes) == 2
    assert "Latency" not in written
    assert "Example CPU" not in written


def test_heads_without_numbers_are_named_below():
    written = texts(scaling_figure(record([*linear("fcn", 7), failed("ocr")])))
    assert "Not shown, for want of numbers: ocr." in written
    assert scaling_figure(record([failed("ocr")])).axes == []


def test_the_text_has_exponents_and_crossings():
    costs = [*linear("fcn", 7), *quadratic("ocnet", 1), failed("ocr", size=(8, 8))]
    markdown = scaling_markdown(record(costs))
    assert "| fcn | fast | 1.00 | 1.00 | 1.00 |" in markdown
    assert "| ocnet | fast | 2.00 | 2.00 | – |" in markdown
    assert "| fast | MACs | ocnet | fcn | 3 |" in markdown  # p^2 = 7 p at p = 7
    assert "ocr (fast) at 8x8: MemoryError: no room" in markdown
    console = Console(file=io.StringIO(), width=80)
    console.print(scaling_sheet(record(costs)))
    assert re.search(r"ocnet +fast +2\.00 +2\.00 +–", console.file.getvalue())


def test_fewer_sizes_than_others_are_printed():
    markdown = scaling_markdown(record([*linear("fcn", 7), *linear("ocr", 9, (2, 4))]))
    assert "| ocr | fast | 1.00 (2) | 1.00 (2) | 1.00 (2) |" in markdown


@pytest.mark.slow
def test_all_files_are_written(tmp_path: Path):
    both = [*linear("fcn", 7), *linear("fcn", 9, implementation="reference")]
    paths = [p for p in write_head_report(record(both), tmp_path) if "forms" not in p.name]
    assert {path.name for path in paths} == {
        *("scaling.csv", "exponents.csv", "break_even.csv", "scaling.md"),
        *(f"scaling-{form}.{kind}" for form in ("fast", "reference") for kind in ("png", "svg")),
    }
    assert all(path.is_file() for path in paths)
    first = next(csv.DictReader((tmp_path / "scaling.csv").read_text().splitlines()))
    assert (first["macs"], first["latency_ms"], first["scope"]) == ("28", "8.0", "context")
