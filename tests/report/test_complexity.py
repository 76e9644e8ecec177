"""Fast against reference: medians, ratios within rounds and floors from written-out samples."""

import csv
import io
import math
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from contextbench.report.tables.forms import (
    form_console,
    form_markdown,
    form_table,
    uncounted_markdown,
    write_forms,
)
from tests.report.head_records import failed, form, record

FAST = {
    ("core", "forward"): [1.0, 2.0, 4.0],
    ("context", "forward"): [10.0, 20.0, 40.0],
    ("context", "forward_backward"): [30.0, 30.0, 30.0],
    ("head", "forward"): [20.0, 20.0, 20.0],
}
REFERENCE = {
    ("core", "forward"): [4.0, 10.0, 12.0],
    ("context", "forward"): [20.0, 80.0, 120.0],
    ("context", "forward_backward"): [60.0, 90.0, 120.0],
    ("head", "forward"): [30.0, 40.0, 50.0],
}
PRODUCTS = {"context": {"conv": 1, "mm": 2}, "head": {"conv": 2, "mm": 2}}
OPERATORS = {"conv": [6.0, 7.0, 9.0], "mm": [1.0, 1.5, 3.0]}  # medians 7 and 1.5


def table(**changes) -> pd.DataFrame:
    costs = [
        form("ppm", "reference", macs=200, activations=8000, times=REFERENCE),
        form("ppm", "fast", macs=100, activations=2000, times=FAST, products=PRODUCTS),
    ]
    return form_table(record(costs, **{"operators_ms": OPERATORS, **changes}))


def test_times_are_medians_of_every_scope_and_direction():
    (row,) = table().to_dict("records")
    assert (row["head"], row["height"], row["width"]) == ("ppm", 4, 4)
    assert (row["core_forward_fast_ms"], row["core_forward_reference_ms"]) == (2, 10)
    assert (row["context_forward_fast_ms"], row["context_forward_reference_ms"]) == (20, 80)
    assert row["context_forward_backward_reference_ms"] == 90
    assert (row["head_forward_fast_ms"], row["head_forward_reference_ms"]) == (20, 40)
    assert math.isnan(row["head_forward_backward_fast_ms"])


def test_the_speedup_is_taken_within_rounds():
    """Context: 2, 4 and 3, where the ratio of medians is 4."""
    (row,) = table().to_dict("records")
    assert row["core_forward_speedup"] == 4  # of 4, 5, 3
    assert row["context_forward_speedup"] == 3
    assert row["context_forward_backward_speedup"] == 3  # of 2, 3, 4
    assert row["head_forward_speedup"] == 2  # of 1.5, 2, 2.5
    assert math.isnan(row["head_forward_backward_speedup"])


def test_the_floor_is_the_sum_of_median_times_of_the_products():
    """Context: 1 x 7 + 2 x 1.5 = 10 of 20 ms; head: 2 x 7 + 2 x 1.5 = 17 of 20 ms."""
    (row,) = table().to_dict("records")
    assert (row["context_floor_ms"], row["context_floor_fraction"]) == (10, 0.5)
    assert (row["head_floor_ms"], row["head_floor_fraction"]) == (17, 0.85)
    assert math.isnan(row["core_floor_ms"])


@pytest.mark.parametrize("operators", [{}, {"conv": [6.0]}, {"conv": [6.0], "mm": []}])
def test_a_product_that_was_not_timed_leaves_no_floor(operators: dict[str, list[float]]):
    (row,) = table(operators_ms=operators).to_dict("records")
    assert math.isnan(row["context_floor_ms"])
    assert math.isnan(row["context_floor_fraction"])


def test_the_layouts_of_floors_are_said_where_they_are_known():
    """Of the largest scope that has a floor; nothing of records that do not have them."""
    known = {"context": ["contiguous"], "head": ["axes 0 2 1", "channels_last", "contiguous"]}
    costs = [
        form("ppm", "fast", times=FAST, products=PRODUCTS).model_copy(update={"layouts": known}),
        form("fcn", "fast", times=FAST, products=PRODUCTS),
    ]
    rows = form_table(record(costs, operators_ms=OPERATORS))
    assert list(rows["context_floor_layouts"]) == ["contiguous", "as counted"]
    assert list(rows["core_floor_layouts"]) == ["", ""]
    said = "laid out as in the pass: channels_last, contiguous, transposed in ppm."
    assert said in form_markdown(rows)
    assert "laid out" not in form_markdown(table())
    assert "context_floor_layouts" not in table()


def test_counts_and_activations_are_those_of_each_form():
    """The whole head of the hand-made records has twice as much."""
    (row,) = table().to_dict("records")
    assert (row["context_parameters"], row["head_parameters"]) == (10, 20)
    assert (row["context_reference_macs"], row["context_fast_macs"]) == (200, 100)
    assert row["context_reference_activation_peak_bytes"] == 8000
    assert row["context_fast_activation_peak_bytes"] == 2000
    assert row["head_fast_activation_peak_bytes"] == 4000


def test_a_row_is_a_head_at_a_size():
    costs = [form("ppm", size=(4, 4)), form("ppm", size=(8, 8)), form("fcn", size=(4, 4))]
    rows = form_table(record(costs))
    assert list(zip(rows["head"], rows["height"], strict=True)) == [
        ("ppm", 4),
        ("ppm", 8),
        ("fcn", 4),
    ]
    assert "| ppm 8x8 |" in form_markdown(rows)


def test_a_failed_form_keeps_the_numbers_of_the_other():
    rows = form_table(record([failed("ocr", "reference"), form("ocr", "fast", times=FAST)]))
    (row,) = rows.to_dict("records")
    assert row["reason"] == "reference: MemoryError: no room"
    assert row["context_forward_fast_ms"] == 20
    assert math.isnan(row["context_forward_speedup"])
    assert "- ocr 4x4: reference: MemoryError: no room" in form_markdown(rows)


def test_a_form_that_was_not_asked_for_is_no_failure():
    rows = form_table(record([form("ocr", "fast"), form("fcn", "fast")]))
    assert set(rows["reason"]) == {""}
    rows = form_table(record([form("ocr", "fast"), form("fcn", "reference")]))
    assert list(rows["reason"]) == ["reference: not in the record", "fast: not in the record"]


def cells(markdown: str, title: str) -> dict[str, str]:
    """The first row of the table below a title, by header."""
    section = markdown.partition(f"## {title}")[2]
    header, _, first = [line for line in section.splitlines() if line.startswith("|")][:3]
    names, values = ([c.strip() for c in x.strip("|").split(" | ")] for x in (header, first))
    return dict(zip(names, values, strict=True))


def test_markdown_has_a_section_for_each_scope_with_units():
    markdown = form_markdown(table())
    context = cells(markdown, "Context module")
    assert (context["forward reference ms"], context["forward fast ms"]) == ("80.0", "20.0")
    assert (context["speed-up ×"], context["floor ms"]) == ("3.00", "10.0")
    assert context["floor / fast %"] == "50"
    assert context["activations fast MiB"] == "0.002"
    assert "## Core: the part of the context module that differs between the forms" in markdown
    assert "floor" not in cells(markdown, "Core")
    assert "3 interleaved rounds on Example CPU @ 2.50GHz, 2 threads, float32" in markdown


def test_the_console_shows_what_markdown_shows():
    console = Console(file=io.StringIO(), width=160)
    console.print(form_console(table()))
    text = console.file.getvalue()
    assert "Context module" in text
    assert "Whole head" in text
    assert "median over rounds of reference / fast within a round" in " ".join(text.split())


def test_predictions_alone_have_no_times_and_no_device():
    markdown = form_markdown(form_table(record([form("ppm", "reference"), form("ppm", "fast")])))
    assert " ms" not in markdown
    assert "Example CPU" not in markdown


def test_measured_memory_stands_beside_the_predicted_one():
    cost = form("ppm", "fast", activations=2**20, measured_activation_peak_bytes=3 * 2**20)
    rows = form_table(record([cost]))
    assert rows["context_fast_measured_bytes"].tolist() == [3 * 2**20]
    context = cells(form_markdown(rows), "Context module")
    assert (context["activations fast MiB"], context["measured fast MiB"]) == ("1.00", "3.00")


def test_csv_keeps_base_units_and_full_precision(tmp_path: Path):
    paths = write_forms(record([form("ppm", "fast", times=FAST)]), tmp_path)
    assert [path.name for path in paths] == ["forms.csv", "forms.md"]
    (row,) = csv.DictReader(paths[0].read_text().splitlines())
    assert (row["context_fast_macs"], row["context_reference_macs"]) == ("100", "")
    assert (row["context_fast_activation_peak_bytes"], row["head_forward_fast_ms"]) == (
        "2000",
        "20.0",
    )


def test_operators_in_no_count_are_listed_for_each_form_of_each_head():
    costs = [
        form("fcn", "reference", uncounted=["batch_norm"]),
        form("fcn", "fast", uncounted=["batch_norm", "relu"]),
        failed("ppm", "fast"),
    ]
    lines = uncounted_markdown(record(costs)).splitlines()
    assert [cell.strip() for cell in lines[4].strip("|").split("|")] == [
        "fcn", "batch_norm", "batch_norm, relu",
    ]  # fmt: skip
    assert [cell.strip() for cell in lines[5].strip("|").split("|")] == ["ppm", "", ""]
