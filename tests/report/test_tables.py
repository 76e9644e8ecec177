"""Numbers of a comparison against formulas on counts that are written out here."""

import math
import subprocess
import sys
from typing import get_args

import numpy as np
import pandas as pd
import pytest

from contextbench.report.tables import (
    SEVERITY,
    comparison_table,
    cost_table,
    per_class_table,
    write_csv,
)
from contextbench.results import ClassTotals, Failure, HeadCost, LabelInfo, Status
from tests.report.records import (
    CLASSES,
    HEADS,
    class_iou,
    comparison,
    cost,
    failed,
    profile,
    profile_of,
    run,
)

TWO = LabelInfo(classes=["a", "b"], palette=[(0, 0, 0), (9, 9, 9)], groups={"second": [1]})
# 10 pixels of a, 30 of b; 8 of a found; 4 of b called a.
TOTALS = ClassTotals(intersection=[6, 26], predicted=[10, 30], labelled=[10, 30])


def row_of(table: pd.DataFrame, head: str) -> pd.Series:
    (row,) = [row for _, row in table.iterrows() if row["head"] == head]
    return row


def test_scores_follow_their_formulas():
    row = row_of(comparison_table([run(totals=TOTALS, labels=TWO)], None), "fcn")
    iou_a, iou_b = 6 / (10 + 10 - 6), 26 / (30 + 30 - 26)
    assert row["miou"] == pytest.approx((iou_a + iou_b) / 2, rel=1e-12)
    assert row["pixel_accuracy"] == pytest.approx(32 / 40, rel=1e-12)
    assert row["mean_accuracy"] == pytest.approx((6 / 10 + 26 / 30) / 2, rel=1e-12)
    assert row["frequency_weighted_iou"] == pytest.approx((10 * iou_a + 30 * iou_b) / 40, rel=1e-12)
    assert row["iou_second"] == pytest.approx(iou_b, rel=1e-12)


def test_a_row_is_the_mean_over_seeds_with_its_range():
    """Means of scores, not scores of summed counts: each seed is one training."""
    better = ClassTotals(intersection=[9, 29], predicted=[10, 30], labelled=[10, 30])
    runs = [run(seed=0, totals=TOTALS, labels=TWO), run(seed=1, totals=better, labels=TWO)]
    row = row_of(comparison_table(runs, None), "fcn")
    mious = [(6 / 14 + 26 / 34) / 2, (9 / 11 + 29 / 31) / 2]
    assert row["seeds"] == 2
    assert row["miou"] == pytest.approx(sum(mious) / 2, rel=1e-12)
    assert [row["miou_min"], row["miou_max"]] == pytest.approx(mious, rel=1e-12)


def test_heads_are_ranked_and_rows_without_scores_come_last():
    runs = [failed("aspp"), *(run(head, iou=class_iou(head, 0)) for head in ("fcn", "ocr"))]
    assert list(comparison_table(runs, None)["head"]) == ["ocr", "fcn", "aspp"]


@pytest.mark.parametrize("status", ["failed", "out_of_memory", "interrupted"])
def test_a_cell_without_numbers_is_a_row_with_the_reason(status: Status):
    table = comparison_table([run(iou=class_iou("fcn", 0)), failed("ocr", 3, status)], profile())
    row = row_of(table, "ocr")
    assert math.isnan(row["miou"])
    assert row["seeds"] == 0
    assert row["status"] == status
    assert row["note"] == (
        f"seed 3: {status.replace('_', ' ')} at step 120 (LossError: loss is NaN)"
    )
    assert row["macs"] == HEADS["ocr"][2]


def test_the_status_is_the_worst_of_the_seeds_and_scores_are_of_the_others():
    runs = [run(seed=0, iou=class_iou("fcn", 0)), failed("fcn", 1, "interrupted"), failed("fcn", 2)]
    row = row_of(comparison_table(runs, None), "fcn")
    assert (row["status"], row["seeds"]) == ("failed", 1)
    assert "seed 1: interrupted" in row["note"]
    assert "seed 2: failed" in row["note"]


def test_every_status_has_a_severity():
    assert set(SEVERITY) == set(get_args(Status))


def test_a_trained_but_not_evaluated_run_says_so():
    assert row_of(comparison_table([run()], None), "fcn")["note"] == "seed 0: not evaluated"


def test_costs_come_from_the_profile_in_base_units():
    head = cost(1000, 5_000, 64, [4.0, 1.0, 2.0, 3.0])
    row = row_of(cost_table(profile_of({"fcn": head})), "fcn")
    assert (row["parameters"], row["macs"], row["flops"]) == (1000, 5000, 10000)
    assert (row["context_parameters"], row["context_macs"]) == (100, 500)
    assert (row["inference_memory_bytes"], row["training_memory_bytes"]) == (64, 384)
    assert (row["latency_q1_ms"], row["latency_ms"], row["latency_q3_ms"]) == (1.75, 2.5, 3.25)


def test_the_latency_ratio_is_taken_within_rounds():
    """The machine slows down fourfold in the last round: ratios of medians would say 1.5."""
    heads = {"fcn": cost(1, 1, 1, [1.0, 2.0, 8.0]), "ppm": cost(1, 1, 1, [2.0, 3.0, 24.0])}
    row = row_of(cost_table(profile_of(heads)), "ppm")
    assert row["latency_ratio"] == np.median([2.0, 1.5, 3.0])
    assert row["train_latency_ratio"] == np.median([2.0, 1.5, 3.0])


def test_a_head_that_failed_midway_is_compared_in_the_rounds_it_has():
    heads = {"fcn": cost(1, 1, 1, [1.0, 2.0, 8.0]), "ppm": cost(1, 1, 1, [3.0, 6.0])}
    assert row_of(cost_table(profile_of(heads)), "ppm")["latency_ratio"] == 3.0


def test_a_failed_measurement_keeps_its_row_and_reason():
    broken = HeadCost(counts={}, failure=Failure(kind="MemoryError", message="no room"))
    costs = profile_of({"fcn": broken})
    assert row_of(cost_table(costs), "fcn")["cost_note"] == "cost: MemoryError: no room"
    row = row_of(comparison_table([run(iou=class_iou("fcn", 0))], costs), "fcn")
    assert row["cost_note"] == "cost: MemoryError: no room"
    assert math.isnan(row["latency_ms"])
    assert math.isnan(row["latency_ratio"])


def test_without_a_profile_costs_are_missing_and_scores_are_not():
    row = row_of(comparison_table([run(iou=class_iou("fcn", 0))], None), "fcn")
    assert math.isnan(row["macs"])
    assert row["miou"] > 0


def test_training_seconds_are_those_of_finished_runs():
    runs = [run(seed=0, iou=class_iou("fcn", 0), train_seconds=30.0), failed("fcn", 1)]
    assert row_of(comparison_table(runs, None), "fcn")["train_seconds"] == 30.0


def test_per_class_iou_is_the_mean_over_seeds_in_the_order_of_the_ranking():
    table = per_class_table([*comparison(), failed("danet")])
    assert list(table["class"]) == CLASSES
    assert list(table.columns[2:]) == [*comparison_table(comparison(), None)["head"], "danet"]
    per_seed = [class_iou("ocr", seed) for seed in (0, 1, 2)]
    # Counts are whole pixels of 10000, hence the tolerance.
    np.testing.assert_allclose(table["ocr"], np.mean(per_seed, axis=0), atol=1e-4)
    assert table["danet"].isna().all()


def test_labelled_fractions_are_shares_of_the_labelled_pixels():
    table = per_class_table([run(totals=TOTALS, labels=TWO)])
    assert list(table["labelled_fraction"]) == [0.25, 0.75]


def test_csv_keeps_full_precision_base_units_and_whole_counts(tmp_path):
    table = comparison_table(comparison(), profile())
    write_csv(table, tmp_path / "table.csv")
    text = (tmp_path / "table.csv").read_text()
    assert f",{HEADS['ocr'][2]}," in text
    assert f"{HEADS['ocr'][2]}.0" not in text
    read = pd.read_csv(tmp_path / "table.csv", keep_default_na=False)
    assert list(read["miou"]) == list(table["miou"])
    assert list(read["latency_ratio"]) == list(table["latency_ratio"])


def test_csv_of_a_failed_head_has_empty_cells(tmp_path):
    write_csv(comparison_table([failed("fcn")], None), tmp_path / "table.csv")
    read = pd.read_csv(tmp_path / "table.csv")
    assert math.isnan(read["miou"][0])
    assert read["status"][0] == "failed"


def test_reports_do_not_import_torch():
    program = (
        "import sys, contextbench.report.tables, contextbench.report.plots, "
        "contextbench.report.bundle; sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
