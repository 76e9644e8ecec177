"""Rounding, units and marks of the printed tables."""

import io
from statistics import median

from rich.console import Console

from contextbench.report.tables import (
    comparison_table,
    cost_table,
    per_class_markdown,
    per_class_table,
    render_console,
    render_markdown,
)
from contextbench.results import ClassTotals, LabelInfo
from tests.report.records import (
    HEADS,
    class_iou,
    comparison,
    cost,
    failed,
    profile,
    profile_of,
    run,
)

TWO = LabelInfo(classes=["a", "b|c"], palette=[(0, 0, 0), (9, 9, 9)])


def cells(markdown: str) -> list[dict[str, str]]:
    """Rows of the first markdown table by header."""
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    split = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    assert all(len(line) == len(split[0]) for line in split)
    return [dict(zip(split[0], line, strict=True)) for line in split[2:]]


def printed(table, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(render_console(table))
    return console.file.getvalue()


def test_markdown_has_percent_and_si_units():
    heads = {
        "fcn": cost(1_500_000, 2_500_000_000, 3 * 2**20, [4.0]),
        "ppm": cost(15_000_000, 25_000_000_000, 30 * 2**20, [10.0]),
    }
    runs = [
        run(iou=[0.5] * 9),
        run("ppm", iou=[0.75] * 9),
    ]
    ppm, fcn = cells(render_markdown(comparison_table(runs, profile_of(heads)), []))
    assert (ppm["head"], fcn["head"]) == ("ppm", "fcn")
    assert (ppm["mIoU %"], fcn["mIoU %"]) == ("**75.0**", "50.0")
    assert (ppm["params M"], fcn["params M"]) == ("15.0", "**1.5**")
    assert (ppm["MACs G"], fcn["MACs G"]) == ("25.0", "**2.5**")
    assert (ppm["memory MiB"], fcn["memory MiB"]) == ("30.0", "**3.0**")
    assert (ppm["latency ms"], fcn["latency ms"]) == ("10.0", "**4.0**")
    assert (ppm["latency ×FCN"], fcn["latency ×FCN"]) == ("2.50", "**1.00**")


def test_several_seeds_are_printed_with_their_range():
    runs = [run(seed=seed, iou=[value] * 9) for seed, value in enumerate((0.5, 0.6, 0.7))]
    (row,) = cells(render_markdown(comparison_table(runs, None), []))
    assert row["mIoU %"] == "60.0 [50.0–70.0]"


def test_equal_printed_values_are_all_best_and_a_column_of_equals_has_none():
    runs = [run("fcn", iou=[0.9] * 9), run("ppm", iou=[0.9] * 9), run("ocr", iou=[0.8] * 9)]
    rows = {row["head"]: row for row in cells(render_markdown(comparison_table(runs, None), []))}
    assert rows["fcn"]["mIoU %"] == rows["ppm"]["mIoU %"] == "**90.0**"
    assert rows["ocr"]["mIoU %"] == "80.0"
    assert {row["training s"] for row in rows.values()} == {"40"}


def test_a_failed_head_is_printed_with_dashes_and_its_reason():
    table = comparison_table([run(iou=class_iou("fcn", 0)), failed("ocr")], None)
    markdown = render_markdown(table, [])
    assert cells(markdown)[1]["mIoU %"] == "–"
    reason = "ocr: seed 0: failed at step 120 (LossError: loss is NaN)"
    assert f"- {reason}" in markdown
    assert reason in " ".join(printed(table).split())


def test_warnings_and_how_to_read_it_follow_the_table():
    markdown = render_markdown(comparison_table(comparison(), profile()), ["A | warning."])
    assert "- A \\| warning." in markdown
    assert "median of 20 interleaved rounds on Example CPU @ 2.50GHz, 2 threads" in markdown


def test_the_console_shows_the_main_columns_in_80_characters():
    text = printed(comparison_table(comparison(), profile()), width=80)
    assert "…" not in text
    latency = median(profile().heads["ocr"].latency_ms)
    (line,) = [line for line in text.splitlines() if line.startswith("ocr")]
    assert f"{HEADS['ocr'][1] / 1e6:.2f}" in line.split()
    assert f"{latency:.1f}" in line.split()


def test_the_console_marks_the_best_in_bold():
    table = comparison_table([run("fcn", iou=[0.5] * 9), run("ppm", iou=[0.75] * 9)], None)
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system="standard")
    console.print(render_console(table))
    assert "\x1b[1m75.0\x1b[0m" in console.file.getvalue()
    assert "\x1b[1m50.0\x1b[0m" not in console.file.getvalue()


def test_square_brackets_in_a_reason_are_not_taken_for_markup():
    table = comparison_table([failed("fcn")], None).assign(note="[red]lost[/red]")
    assert "[red]lost[/red]" in printed(table)


def test_costs_alone_are_printed_without_score_columns():
    rows = cells(render_markdown(cost_table(profile()), []))
    assert [row["head"] for row in rows] == list(HEADS)
    assert "mIoU %" not in rows[0]
    assert "ocr" in printed(cost_table(profile()))


def test_classes_are_rows_with_the_best_head_in_bold():
    low = ClassTotals(intersection=[6, 30], predicted=[10, 30], labelled=[10, 30])
    high = ClassTotals(intersection=[10, 26], predicted=[10, 30], labelled=[10, 30])
    runs = [run("fcn", totals=low, labels=TWO), run("ppm", totals=high, labels=TWO)]
    markdown = per_class_markdown(per_class_table(runs))
    assert "| a | 25.0 | **100.0** | 42.9 |" in markdown  # 6 / 14
    assert "| b\\|c | 75.0 | 76.5 | **100.0** |" in markdown  # 26 / 34
