"""Numbers of a comparison against formulas on counts that are written out here."""

import math
import subprocess
import sys
from typing import get_args

import numpy as np
import pandas as pd
import pytest

from contextbench.records.classes import ClassTotals, LabelInfo
from contextbench.records.failures import Failure
from contextbench.records.profiles import HeadCost
from contextbench.records.runs import Status
from contextbench.report.columns import write_csv
from contextbench.report.comparison import SEVERITY, comparison_table, cost_table, per_class_table
from tests.report.rankings import RANKING, areas, collected, ranked_runs, store
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


def test_the_deviation_over_seeds_is_that_of_a_sample_and_missing_for_one():
    """With n - 1: of 0.5, 0.6, 0.7 it is 0.1."""
    runs = [run(seed=seed, iou=[value] * 9) for seed, value in enumerate((0.5, 0.6, 0.7))]
    assert row_of(comparison_table(runs, None), "fcn")["miou_seed_sd"] == pytest.approx(
        0.1, abs=1e-4
    )
    assert math.isnan(row_of(comparison_table(runs[:1], None), "fcn")["miou_seed_sd"])


def test_columns_of_resampling_are_those_of_the_ranking():
    table = comparison_table(ranked_runs(), None, ranking=RANKING)
    assert list(table["head"]) == ["ocr", "ppm", "fcn"]
    assert list(table["groups"]) == ["a", "ab", "b"]
    ppm = row_of(table, "ppm")
    assert (ppm["miou_low"], ppm["miou_high"]) == (0.76, 0.81)
    assert list(table["interval_block"]) == [7, 7, 7]
    assert list(table["interval_images"]) == [50, 50, 50]
    assert (ppm["interval_level"], ppm["interval_resamples"]) == (0.95, 1000)
    assert ppm["smallest_difference"] == 0.03  # median of 0.02, 0.03, 0.07


def test_differences_are_this_head_minus_the_best_with_the_interval_turned_around():
    """The pair says best minus other: 0.01 between -0.02 and 0.03."""
    table = comparison_table(ranked_runs(), None, ranking=RANKING)
    ppm, fcn = row_of(table, "ppm"), row_of(table, "fcn")
    assert (ppm["difference_to_best"], ppm["difference_low"], ppm["difference_high"]) == (
        -0.01,
        -0.03,
        0.02,
    )
    assert (ppm["separable_from_best"], ppm["holm_p_value"]) == (False, 0.4)
    assert (fcn["separable_from_best"], fcn["holm_p_value"]) == (True, 0.0004)


def test_the_best_head_differs_from_itself_by_nothing_and_has_no_test():
    best = row_of(comparison_table(ranked_runs(), None, ranking=RANKING), "ocr")
    assert (best["difference_to_best"], best["separable_from_best"]) == (0.0, False)
    assert math.isnan(best["difference_low"])
    assert math.isnan(best["holm_p_value"])


def test_without_a_ranking_its_columns_are_there_and_empty():
    table = comparison_table(ranked_runs(), None)
    assert set(table.columns) == set(comparison_table(ranked_runs(), None, ranking=RANKING).columns)
    for name in ("miou_low", "miou_high", "difference_to_best", "holm_p_value", "interval_level"):
        assert table[name].isna().all(), name
    assert table["separable_from_best"].isna().all()
    assert set(table["groups"]) == {""}


def test_nothing_refers_to_a_best_row_that_is_not_ranked():
    runs = [*ranked_runs(), run("danet", iou=[0.9] * 9)]
    table = comparison_table(runs, None, ranking=RANKING)
    assert table["head"][0] == "danet"
    assert table["difference_to_best"].isna().all()
    assert table["separable_from_best"].isna().all()
    assert math.isnan(table["miou_low"][0])
    assert row_of(table, "ppm")["miou_low"] == 0.76


def test_a_head_whose_seeds_do_not_all_have_areas_has_no_interval(tmp_path):
    """The interval of two of its three seeds would not be that of the printed mean."""
    store(tmp_path, "ppm", 2, areas(0.7))
    (tmp_path / "probe-small" / "ppm" / "seed-2" / "areas.npz").unlink()
    collection = collected(tmp_path, {"fcn": [0.5], "ppm": [0.7, 0.7]})
    table = comparison_table(collection.runs, None, ranking=collection.ranking)
    assert row_of(table, "ppm")["seeds"] == 3
    assert math.isnan(row_of(table, "ppm")["miou_low"])
    assert row_of(table, "fcn")["miou_low"] < 0.5 < row_of(table, "fcn")["miou_high"]
    assert any("ppm seed 2" in note and "areas.npz" in note for note in collection.notes)


def test_records_are_ranked_by_their_areas(tmp_path):
    """All images of one head are 0.2 better: whatever is drawn, it wins."""
    collection = collected(tmp_path, {"fcn": [0.5, 0.51, 0.5], "ppm": [0.7, 0.71, 0.7]})
    table = comparison_table(collection.runs, None, ranking=collection.ranking)
    assert list(table["head"]) == ["ppm", "fcn"]
    assert list(table["groups"]) == list(table["models_groups"]) == ["a", "b"]
    fcn = row_of(table, "fcn")
    assert fcn["separable_from_best"]
    assert fcn["difference_low"] <= fcn["difference_to_best"] <= fcn["difference_high"] < 0
    assert fcn["models_difference_low"] <= fcn["models_difference_high"] < 0
    assert set(table["verdict"]) == {
        "ppm is better than every other head, over other trainings and images."
    }


def test_one_training_says_nothing_of_heads(tmp_path):
    collection = collected(tmp_path, {"fcn": [0.5], "ppm": [0.7]})
    table = comparison_table(collection.runs, None, ranking=collection.ranking)
    assert list(table["groups"]) == ["", ""]
    assert list(table["models_groups"]) == ["a", "b"]
    assert table["separable_from_best"].isna().all()
    assert table[["difference_low", "difference_high", "holm_p_value"]].isna().all(axis=None)
    assert row_of(table, "fcn")["models_difference_high"] < 0
    assert "in this one training: nothing is said of heads" in table["verdict"].iloc[0]


def test_training_devices_are_those_of_finished_runs():
    runs = [
        run(seed=0, iou=[0.5] * 9, device="GPU A"),
        run(seed=1, iou=[0.5] * 9, device="GPU B"),
        failed("ocr"),
    ]
    table = comparison_table(runs, None)
    assert row_of(table, "fcn")["train_device"] == "GPU A and GPU B"
    assert row_of(table, "ocr")["train_device"] == ""


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
        "import sys, contextbench.report.tables.comparison, contextbench.report.figures.plots, "
        "contextbench.report.bundle; sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
