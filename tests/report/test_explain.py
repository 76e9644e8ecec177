"""Differences of two scores: all of them, grouped, beside an interval where there can be one."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from contextbench.cli import app
from contextbench.config.files import ConfigError
from contextbench.config.protocols import Protocol, load_protocol
from contextbench.data import DATASETS
from contextbench.papers.published import load_scores, refer
from contextbench.papers.recipes import DATASETS as PUBLISHED_DATASETS
from contextbench.papers.recipes import METHODS
from contextbench.records.classes import LabelInfo
from contextbench.records.counts import Areas, write_areas
from contextbench.records.failures import Failure
from contextbench.records.stored import RecordError, write_model
from contextbench.report.tables.explain import (
    GROUPS,
    Explanation,
    explain_published,
    explain_runs,
    explanation_console,
    group_of,
)
from contextbench.statistics.intervals import Resampling, rank
from contextbench.statistics.scores import scores
from heads import HEADS
from tests.report import records

CLASSES, IMAGES = 3, 30
LABELS = LabelInfo(classes=["a", "b", "c"], palette=[(0, 0, 0), (1, 1, 1), (2, 2, 2)])
FEW = Resampling(resamples=200)
CHECKED = "mmseg_published:method=PSPNet,backbone=R-101-D8,crop=512x1024,iterations=40000"


def areas(accuracy: float, images: int = IMAGES, name: str = "image") -> Areas:
    """Counts of predictions that are right in about a share `accuracy` of 100 pixels a class."""
    noise = np.random.default_rng(0).integers(-8, 9, (images, CLASSES))  # the same for all models
    right = np.clip(round(100 * accuracy) + noise, 0, 100)
    all_pixels = np.full((images, CLASSES), 100)
    return Areas([f"{name}{i}" for i in range(images)], right, all_pixels, all_pixels)


def protocol(**changes: Any) -> dict[str, Any]:
    """A whole protocol as a record holds it."""
    train = {"crop": (64, 64), "batch": 4, "steps": 10, "lr": 0.01, **changes}
    content = {
        "name": "here",
        "dataset": {"name": "probe"},
        "backbone": {"name": "resnet10"},
        "train": train,
    }
    return Protocol.model_validate(content).seen()


def written(folder: Path, counts: Areas | None = None, head: str = "fcn", **changes: Any) -> Path:
    """A run folder with a record and, where there are counts, `areas.npz`."""
    defaults: dict[str, Any] = {"protocol": protocol(), "labels": LABELS}
    totals = None if counts is None else counts.totals()
    run = records.run(head, totals=totals, **{**defaults, **changes})
    write_model(folder / "record.json", run)
    if counts is not None:
        write_areas(folder / "areas.npz", counts)
    return folder


def listed(explanation: Explanation) -> dict[str, tuple[Any, Any]]:
    return {item.key: (item.first, item.second) for item in explanation.differences}


def test_every_difference_of_the_recipe_is_listed_in_its_group(tmp_path: Path) -> None:
    changed = protocol(lr=0.02, crop=(96, 96), loss={"label_smoothing": 0.1})
    changed["evaluate"]["flip"] = True
    changed["backbone"]["name"] = "resnet18"
    one = written(tmp_path / "a", areas(0.8))
    precision = {**records.PRECISION, "dtype": "bfloat16"}
    other = written(
        tmp_path / "b",
        areas(0.7),
        "ocr",
        seed=4,
        protocol=changed,
        precision=precision,
        device="another",
        dataset_fingerprint="eeee",
        options={"width": 8},
    )
    explanation = explain_runs(one, other, FEW)
    assert listed(explanation) == {
        "dataset_fingerprint": ("dddd", "eeee"),
        "train.lr": (0.01, 0.02),
        "train.crop": ([64, 64], [96, 96]),
        "train.loss.label_smoothing": (0.0, 0.1),
        "backbone.name": ("resnet10", "resnet18"),
        "head.head": ("fcn", "ocr"),
        "head.options.width": ("(not set)", 8),
        "evaluate.flip": (False, True),
        "seed": (0, 4),
        "number_format.dtype": ("float32", "bfloat16"),
        "environment.device": (records.DEVICE, "another"),
    }
    groups = [item.group for item in explanation.differences]
    assert groups == sorted(groups, key=list(GROUPS).index)
    assert set(groups) == set(GROUPS)


@pytest.mark.parametrize(
    ("key", "group"),
    [
        ("train.loss.dice", "loss"),
        ("train.scale", "augmentation"),
        ("train.schedule.power", "schedule"),
        ("train.ema", "schedule"),
        ("train.deterministic", "execution"),
        ("shared_backbone", "backbone"),
        ("head_width_factor", "head"),
        ("number_format.memory_format", "execution"),
    ],
)
def test_keys_are_grouped_by_what_they_change(key: str, group: str) -> None:
    assert group_of(key) == group


def test_the_interval_is_the_paired_one_of_a_minus_b(tmp_path: Path) -> None:
    """Against a direct call with the better head first: the same numbers with the other sign."""
    low, high = areas(0.6), areas(0.8)
    explanation = explain_runs(written(tmp_path / "a", low), written(tmp_path / "b", high), FEW)
    pair = rank({"high": {0: high}, "low": {0: low}}, resampling=FEW).pair("high", "low")
    assert explanation.interval is not None
    assert explanation.interval.low == -pair.models.difference.high
    assert explanation.interval.high == -pair.models.difference.low
    expected = [scores(a.totals().intersection, a.totals().predicted, a.totals().labelled).miou
                for a in (low, high)]  # fmt: skip
    assert explanation.miou == tuple(expected)
    assert explanation.difference == expected[0] - expected[1] < 0
    assert explanation.paired
    assert "separate the two models as trained" in explanation.statement


def test_models_that_the_images_cannot_separate(tmp_path: Path) -> None:
    one, other = written(tmp_path / "a", areas(0.7)), written(tmp_path / "b", areas(0.7))
    explanation = explain_runs(one, other, FEW)
    assert explanation.differences == ()
    assert explanation.difference == 0
    assert "cannot separate" in explanation.statement


def test_a_record_older_than_an_option_has_it_at_its_default(tmp_path: Path) -> None:
    old = protocol()
    for key in ("ema", "rotate", "aspect", "batch_norm"):
        del old["train"][key]
    del old["shared_backbone"]
    one = written(tmp_path / "a", areas(0.7), protocol=old)
    assert explain_runs(one, written(tmp_path / "b", areas(0.7)), FEW).differences == ()


@pytest.mark.parametrize(
    ("counts", "changes", "message"),
    [
        (areas(0.7, name="other"), {}, "different images: 30 and 30, of which 0 have a name"),
        (areas(0.7, images=29), {}, "different images: 30 and 29, of which 29"),
        (
            None,
            {"status": "failed", "failure": Failure(kind="E", message="NaN")},
            "failed at step 120 (E: NaN)",
        ),
    ],
)
def test_what_cannot_be_said_is_said(
    tmp_path: Path, counts: Areas | None, changes: Mapping[str, Any], message: str
) -> None:
    one = written(tmp_path / "a", areas(0.7))
    other = written(tmp_path / "b", counts, **changes)
    explanation = explain_runs(one, other, FEW)
    assert explanation.interval is None
    assert explanation.statement.startswith("Nothing can be said of the difference")
    assert message in explanation.statement


def test_the_same_names_with_other_labels_are_not_the_same_images(tmp_path: Path) -> None:
    other = areas(0.7)
    moved = other.labelled.copy()
    moved[0] += [1, -1, 0]
    relabelled = Areas(other.names, other.intersection, other.predicted, moved)
    one = written(tmp_path / "a", areas(0.7))
    explanation = explain_runs(one, written(tmp_path / "b", relabelled), FEW)
    assert explanation.interval is None
    assert "of the same names with other labels" in explanation.statement


def test_other_classes_have_no_common_difference(tmp_path: Path) -> None:
    fewer = areas(0.7)
    two = Areas(fewer.names, *(a[:, :2] for a in (fewer.intersection, fewer.predicted)),
                fewer.labelled[:, :2])  # fmt: skip
    labels = LabelInfo(classes=["a", "b"], palette=[(0, 0, 0), (1, 1, 1)])
    one = written(tmp_path / "a", areas(0.7))
    explanation = explain_runs(one, written(tmp_path / "b", two, labels=labels), FEW)
    assert explanation.difference is None
    assert "over different classes, 3 and 2 of them" in explanation.statement
    assert listed(explanation)["classes"] == (["a", "b", "c"], ["a", "b"])


def test_another_fingerprint_of_an_equal_protocol_is_noted(tmp_path: Path) -> None:
    one = written(tmp_path / "a", areas(0.7))
    other = written(tmp_path / "b", areas(0.7), fingerprint="bbbb")
    notes = " ".join(explain_runs(one, other, FEW).notes)
    assert "fingerprints of the protocol differ, though nothing recorded of it does" in notes


@pytest.mark.parametrize(
    ("changed", "noted"), [({"lr": 1.0}, False), ({"lr": 1.0, "ema": 0.9}, True)]
)
def test_several_differences_are_not_told_apart(
    tmp_path: Path, changed: dict[str, float], noted: bool
) -> None:
    one = written(tmp_path / "a", areas(0.7))
    other = written(tmp_path / "b", areas(0.7), protocol=protocol(**changed), fingerprint="bbbb")
    notes = " ".join(explain_runs(one, other, FEW).notes)
    assert ("More than one thing differs" in notes) is noted


def shipped(tmp_path: Path, name: str, *overrides: str, view: str | None = None) -> Path:
    """A run of a shipped protocol, as if it had this view alone."""
    content = load_protocol(name, overrides).seen(view)
    return written(tmp_path / name, areas(0.7), "ppm", protocol=content)


def test_a_published_row_states_what_its_columns_hold(tmp_path: Path) -> None:
    run = shipped(tmp_path, "cityscapes-r101", "train.batch=16")
    published = refer(CHECKED)
    explanation = explain_published(run, published, FEW)
    assert listed(explanation) == {"train.batch": (16, "8")}
    same = {item.key for item in explanation.same}
    assert same == {
        *("dataset.name", "backbone.name", "backbone.output_stride", "train.crop"),
        *("train.steps", "evaluate.scales", "evaluate.flip", "head.head"),
    }
    assert "train.lr" in explanation.unknown
    assert not same & set(explanation.unknown)
    own = explanation.miou[0]
    assert own is not None
    assert explanation.miou[1] == 0.7834
    assert explanation.difference == pytest.approx(own - 0.7834)
    assert explanation.interval is not None
    assert explanation.interval.estimate == own  # of the run alone
    assert not explanation.paired


def test_several_views_are_compared_with_the_score_of_several_views(tmp_path: Path) -> None:
    run = shipped(tmp_path, "cityscapes-r101", view="multi")
    explanation = explain_published(run, refer(CHECKED), FEW)
    assert explanation.miou[1] == 0.7974
    assert listed(explanation) == {}


def test_one_scale_is_not_any_scale(tmp_path: Path) -> None:
    """Images at half size are scored at one scale, but not at the published one."""
    run = shipped(tmp_path, "cityscapes-r101", "evaluate.single.scales=[0.5]")
    found = listed(explain_published(run, refer(CHECKED), FEW))
    assert found == {"evaluate.scales": ([0.5], "[1.0]")}


def test_a_row_may_state_several_sizes_only(tmp_path: Path) -> None:
    row = "encnet_ablation:table=Table 1,multi_size_eval=yes"
    run = shipped(tmp_path, "pascal-context-59-r101-encnet")
    assert "evaluate.scales" in listed(explain_published(run, refer(row), FEW))
    run = shipped(tmp_path / "ms", "pascal-context-59-r101-encnet", view="multi")
    assert "evaluate.scales" not in listed(explain_published(run, refer(row), FEW))


def test_scores_of_different_datasets_have_no_difference(tmp_path: Path) -> None:
    explanation = explain_published(shipped(tmp_path, "ade20k-r101"), refer(CHECKED), FEW)
    assert explanation.difference is None
    assert explanation.interval is None
    assert listed(explanation)["dataset.name"] == ("ade20k", "Cityscapes")


def test_the_59_and_the_60_class_task_are_two_datasets(tmp_path: Path) -> None:
    row = "mmseg_published:method=PSPNet,dataset=PASCAL Context 59,iterations=40000"
    run = shipped(tmp_path, "pascal-context-60-r101")
    found = listed(explain_published(run, refer(row), FEW))
    assert found["dataset.name"] == ("pascal_context (60)", "PASCAL Context 59")
    run = shipped(tmp_path, "pascal-context-59-r101")
    assert "dataset.name" not in listed(explain_published(run, refer(row), FEW))


def test_published_names_stand_for_what_exists() -> None:
    files = ("mmseg_published.csv", "model_zoo.csv", "ocr_ablation.csv", "peers_ablation.csv")
    rows = [score for file in files for score in load_scores(file)]
    rows += [*load_scores("encnet_ablation.csv"), *load_scores("ocnet_ablation.csv")]
    assert set(METHODS.values()) <= set(HEADS)
    assert set(METHODS) <= {row.cells["method"] for row in rows}
    assert {name for name, _ in PUBLISHED_DATASETS.values()} <= set(DATASETS)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("PSPNet", "write FILE:COLUMN=TEXT"),
        ("mmseg_publishd:3", "did you mean 'mmseg_published'?"),
        ("mmseg_published:methd=PSPNet", "did you mean 'method'?"),
        ("mmseg_published:method=PSPNt", "did you mean 'PSPNet'?"),
        (
            "mmseg_published:method=EncNet,dataset=ADE20K,backbone=R-50-D8",
            "add another key, of iter",
        ),
        ("mmseg_published:100000", "lines with an mIoU are among 2 .. "),
    ],
)
def test_wrong_references_name_what_is_near(reference: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        refer(reference)
    assert message in str(error.value)


def test_a_line_number_and_a_text_with_a_comma_name_the_same_row() -> None:
    score = refer("model_zoo:method=PSPNet,backbone=ResNet-50-D8,dataset=ADE20K,multi_scale=no")
    assert refer(f"model_zoo.csv:{score.line}") == score
    score = refer("encnet_ablation:table=Table 1,method=EncNet,backbone=ResNet-50,se_loss=yes")
    assert score.miou == 0.492


def printed(explanation: Explanation, capsys: pytest.CaptureFixture[str]) -> str:
    Console(width=80).print(explanation_console(explanation))
    return capsys.readouterr().out


def test_text_of_records_is_printed_as_it_is_within_80_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = written(tmp_path / "a", areas(0.7), options={"mode": "[red]x[/red]"})
    other = written(tmp_path / "b", areas(0.7), options={"mode": "word " * 40})
    text = printed(explain_runs(one, other, FEW), capsys)
    assert "[red]x[/red]" in text
    assert max(map(len, text.splitlines())) <= 80
    assert "head.options.mode" in text


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["explain", *map(str, arguments)])


def test_the_command_prints_json_with_fractions(tmp_path: Path) -> None:
    one, other = written(tmp_path / "a", areas(0.6)), written(tmp_path / "b", areas(0.8))
    result = invoke(one, other, "--json")
    assert result.exit_code == 0
    content = json.loads(result.stdout)
    assert content["interval"]["low"] < content["difference"] < content["interval"]["high"] < 0
    assert content["differences"] == []


@pytest.mark.parametrize("arguments", [(), ("b", "--published", "mmseg_published:3")])
def test_one_of_two_things_is_compared_with_a_run(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    result = invoke(written(tmp_path / "a", areas(0.6)), *arguments)
    assert result.exit_code == 2
    assert "either a second run or --published" in result.stderr


def test_a_folder_without_a_readable_record_is_refused(tmp_path: Path) -> None:
    run = written(tmp_path / "a", areas(0.6))
    with pytest.raises(RecordError, match=r"is not the folder of a run: it has no record\.json"):
        explain_runs(run, tmp_path)
    (tmp_path / "record.json").write_text("{")
    assert invoke(run, tmp_path).exit_code == 2


def test_without_areas_there_is_a_difference_but_no_interval(tmp_path: Path) -> None:
    one, other = written(tmp_path / "a", areas(0.6)), written(tmp_path / "b", areas(0.8))
    (other / "areas.npz").unlink()
    explanation = explain_runs(one, other, FEW)
    assert explanation.interval is None
    assert explanation.difference is not None
    assert "areas.npz: cannot be read" in explanation.statement


def test_a_record_of_another_release_is_compared_as_it_is(tmp_path: Path) -> None:
    foreign = {**protocol(), "retired": 1}
    one = written(tmp_path / "a", areas(0.7), protocol=foreign)
    explanation = explain_runs(one, written(tmp_path / "b", areas(0.7)), FEW)
    assert listed(explanation)["retired"] == (1, "(not set)")


def test_two_runs_of_one_head_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    counts = areas(0.5)
    folders = [written(tmp_path / name / "fcn" / "seed-0", counts) for name in ("old", "new")]
    explanation = explain_runs(*folders, FEW)
    console = Console(width=400, record=True)
    console.print(explanation_console(explanation))
    text = console.export_text()
    titles = [f"{folder}: fcn, seed 0, protocol here" for folder in folders]
    assert [explanation.first, explanation.second] == titles
    assert f"A  {titles[0]}" in text
    assert f"B  {titles[1]}" in text
