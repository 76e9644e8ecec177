"""Runs that must not share a table, and what is said about those that may."""

import pytest

from contextbench.records.classes import ClassTotals, LabelInfo
from contextbench.records.comparability import (
    MixedProtocolsError,
    part_of_protocol,
    uncounted_operators,
    warnings_for,
)
from contextbench.report.collection import Collection
from contextbench.report.comparison import comparison_table
from tests.report.records import PROTOCOL, class_iou, cost, profile, profile_of, run


def evaluated(head="fcn", seed=0, **changes):
    return run(head, seed, iou=class_iou("fcn", 0), **changes)


def test_protocols_that_differ_are_refused_naming_each_key_with_both_values():
    other = {**PROTOCOL, "name": "renamed", "train": {"steps": 900, "crop": [192, 192], "lr": 0.1}}
    runs = [evaluated(), evaluated("ppm", protocol=other, fingerprint="bbbb")]
    with pytest.raises(MixedProtocolsError) as error:
        comparison_table(runs, None)
    lines = [line.strip() for line in str(error.value).splitlines()[1:]]
    assert lines == ["train.steps: 400 / 900", "train.lr: (not set) / 0.1"]


def test_what_a_fingerprint_leaves_out_is_not_a_difference():
    """Another name, place of the data or expectation, none or another, measures the same."""
    other = {
        **PROTOCOL,
        "name": "renamed",
        "dataset": {"name": "probe", "root": "elsewhere"},
        "expected": {"source": "a paper", "scores": {"fcn": "75.96"}},
    }
    runs = [evaluated(protocol={**PROTOCOL, "expected": None})]
    runs.append(evaluated("ppm", protocol=other, fingerprint="bbbb"))
    with pytest.raises(MixedProtocolsError) as error:
        comparison_table(runs, None)
    assert str(error.value).splitlines()[1:] == ["  the code's protocol version"]


def test_keys_are_left_out_by_whole_names():
    keys = {"expected", "expected.scores.fcn", "dataset.root", "dataset.rootless", "names"}
    assert {key for key in keys if part_of_protocol(key)} == {"dataset.rootless", "names"}


def test_another_version_of_the_data_is_named():
    runs = [evaluated(), evaluated("ppm", fingerprint="bbbb", dataset_fingerprint="eeee")]
    with pytest.raises(MixedProtocolsError, match="dataset_fingerprint: dddd / eeee"):
        comparison_table(runs, None)


def test_fingerprints_without_any_differing_key_point_to_the_code():
    with pytest.raises(MixedProtocolsError, match="protocol version"):
        comparison_table([evaluated(), evaluated("ppm", fingerprint="bbbb")], None)


def test_seeds_of_differently_configured_heads_are_not_averaged():
    runs = [evaluated(options={"width": 128}), evaluated(seed=1, options={"width": 256})]
    with pytest.raises(MixedProtocolsError, match=r"options\.width: 128 / 256"):
        comparison_table(runs, None)


def test_a_cell_that_occurs_twice_is_refused():
    with pytest.raises(ValueError, match="'fcn' has more than one run of seed 0"):
        comparison_table([evaluated(), evaluated()], None)


def test_no_runs_are_refused():
    with pytest.raises(ValueError, match="no runs"):
        comparison_table([], None)


def test_a_clean_comparison_has_no_warnings():
    costs = profile_of({"fcn": cost(1, 1, 1, [1.0]), "ppm": cost(1, 1, 1, [1.0])})
    assert warnings_for([evaluated(), evaluated("ppm")], costs) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"precision": {"dtype": "bfloat16"}}, "number format differs"),
        ({"device": "Other GPU"}, "training times are not comparable"),
    ],
)
def test_runs_made_differently_are_named_with_their_cells(changes, expected):
    (warning,) = warnings_for([evaluated(), evaluated("ppm", **changes)], None)
    assert expected in warning
    assert "fcn seed 0" in warning
    assert "ppm seed 0" in warning


def test_a_window_of_averages_that_is_long_for_the_run_is_reported():
    """PROTOCOL has 400 steps; a decay of 0.999 averages over 1,000."""
    averaged = {**PROTOCOL, "train": {**PROTOCOL["train"], "ema": 0.999}}
    (warning,) = warnings_for([evaluated(protocol=averaged)], None)
    assert warning.startswith("train.ema 0.999 averages weights over about 1,000 steps")
    short = {**PROTOCOL, "train": {**PROTOCOL["train"], "ema": 0.9}}
    assert warnings_for([evaluated(protocol=short)], None) == []


def test_unequal_numbers_of_seeds_are_reported():
    (warning,) = warnings_for([evaluated(), evaluated(seed=1), evaluated("ppm")], None)
    assert warning == "The number of scored seeds differs between rows (2: fcn; 1: ppm)."


def test_classes_left_out_of_the_mean_are_named():
    two = LabelInfo(classes=["road", "tram"], palette=[(0, 0, 0), (1, 1, 1)])
    nowhere = ClassTotals(intersection=[5, 0], predicted=[9, 0], labelled=[9, 0])
    (warning,) = warnings_for([run(totals=nowhere, labels=two)], None)
    assert warning.endswith("left out of mIoU: tram.")


def test_pixels_predicted_as_a_class_without_labels_are_counted_beside():
    """One head predicts the class that is not labelled; it is left out for both."""
    two = LabelInfo(classes=["road", "tram"], palette=[(0, 0, 0), (1, 1, 1)])
    nowhere = ClassTotals(intersection=[9, 0], predicted=[9, 0], labelled=[9, 0])
    guessed = ClassTotals(intersection=[8, 0], predicted=[8, 1], labelled=[9, 0])
    runs = [run(totals=nowhere, labels=two), run("ppm", totals=guessed, labels=two)]
    assert warnings_for(runs, None) == [
        "Without a labelled pixel, left out of mIoU: tram.",
        "Pixels predicted as classes without a label (ppm seed 0: 1).",
    ]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"environment": {"device": "Other GPU"}}, "device Other GPU, but runs used Example CPU"),
        ({"precision": {"dtype": "bfloat16"}}, "number format dtype bfloat16, but"),
        ({"protocol_name": "other"}, "protocol other, but"),
        ({"scope": "head"}, "the head alone"),
    ],
)
def test_costs_measured_under_other_conditions_are_reported(changes, expected):
    costs = profile_of({"fcn": cost(1, 1, 1, [1.0])}, **changes)
    assert any(expected in warning for warning in warnings_for([evaluated()], costs))


def test_operators_that_the_counter_misses_are_listed_for_the_heads_in_the_table():
    heads = {name: cost(1, 1, 1, [], uncounted=[f"op_{name}"]) for name in ("fcn", "ppm")}
    (warning,) = uncounted_operators([evaluated()], profile_of(heads))
    assert "op_fcn" in warning
    assert "ppm" not in warning


def test_operators_that_all_heads_have_in_common_are_named_once():
    operators = {"fcn": ["relu"], "ppm": ["mean", "relu"]}
    heads = {name: cost(1, 1, 1, [], uncounted=ops) for name, ops in operators.items()}
    runs = [evaluated("fcn"), evaluated("ppm")]
    (warning,) = uncounted_operators(runs, profile_of(heads))
    assert "(relu; ppm: mean)" in warning


def test_operators_that_nobody_counts_are_named_after_all_cautions():
    costs = profile_of({"fcn": cost(1, 1, 1, [1.0], uncounted=["relu"])}, protocol_name="other")
    *cautions, last = Collection([evaluated()], costs, warnings=["no loss curve"]).notes
    assert "relu" in last
    assert {"no loss curve", *warnings_for([evaluated()], costs)} <= set(cautions)
    assert not [caution for caution in cautions if "relu" in caution]


def test_the_profile_of_the_comparison_needs_no_warning():
    assert warnings_for([evaluated()], profile()) == []
