"""What a comparison keeps of its images: same images, pixels and classes for all heads."""

import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from contextbench.cli import app
from contextbench.evaluation.prediction import Predictor
from contextbench.models.precision import Precision
from contextbench.records.examples import Examples, read_examples, remove_examples
from contextbench.runs.cells import Cell, open_setting
from contextbench.runs.comparison import Plan, compare
from contextbench.runs.examples import make_examples, store_examples
from contextbench.runs.grid import run_grid
from contextbench.runs.weights import load_trained
from contextbench.statistics.disagreement import disputed_pixel
from contextbench.system.console import Reporter
from contextbench.training.execution import Execution
from tests import small

SETTING = open_setting(small.protocol(), None)
HEADS = ("fcn", "ocnet")


def cells(*names: str, **options: object) -> list[Cell]:
    return [Cell(SETTING, small.head(name, **options), 0, Precision()) for name in names or HEADS]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Execution:
    """Two heads, trained for a few steps."""
    execution = small.execution(tmp_path_factory.mktemp("runs"))
    runs = run_grid(SETTING, [cell.head for cell in cells()], [0], Precision(), execution)
    assert {run.status for run in runs} == {"done"}
    return execution


@pytest.fixture
def execution(trained, tmp_path) -> Execution:
    """The trained heads in a folder of their own, with a reporter that can be read."""
    shutil.copytree(trained.out, tmp_path / "runs")
    console = Console(file=io.StringIO(), width=300)
    return replace(trained, out=tmp_path / "runs", reporter=Reporter(console))


def said(execution: Execution) -> str:
    return execution.reporter.console.file.getvalue()


def store(execution: Execution, *names: str, count: int = 2) -> Examples | None:
    return store_examples(SETTING, cells(*names), execution, count=count)


def remove_checkpoint(execution: Execution, head: str) -> None:
    (execution.out / "tiny" / head / "seed-0" / "checkpoint.safetensors").unlink()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "tiny" / "examples").iterdir()}


@pytest.fixture(scope="module")
def made(trained) -> Examples:
    return make_examples(SETTING, cells(), trained, count=2)


def test_images_are_spread_over_the_split_and_predicted_by_the_stored_models(made, trained):
    chosen = [SETTING.evaluate_set[index] for index in (0, 2)]  # (2n + 1) * 3 // 4 of 3 images
    assert made.names == [sample.name for sample in chosen]
    for i, sample in enumerate(chosen):
        np.testing.assert_array_equal(made.images[i], sample.image.permute(1, 2, 0).numpy())
        np.testing.assert_array_equal(made.truths[i], sample.labels.numpy())
    for cell in cells():
        model = load_trained(
            cell.folder(trained.out),
            SETTING.protocol,
            cell.head,
            SETTING.num_classes,
            Precision(),
            torch.device("cpu"),
        )
        predictor = Predictor([model], torch.device("cpu"), Precision())
        expected = predictor(chosen[1].image, (64, 64))
        np.testing.assert_array_equal(made.predictions[cell.head.name][1], expected.numpy())


def test_all_heads_attend_from_the_pixel_that_they_dispute(made):
    for i, name in enumerate(made.names):
        pixel = disputed_pixel(made.truths[i], {h: maps[i] for h, maps in made.predictions.items()})
        maps = [each for each in made.attention if each.image == name]
        assert {each.pixel for each in maps} == {pixel}
        label = made.truths[i][pixel]
        assert label != 255
        influences = {each.head: each for each in maps if each.kind == "influence"}
        assert set(influences) == set(HEADS)
        for each in influences.values():
            assert each.labels == (SETTING.labels.classes[label],)
            assert each.values.shape == (8, 8)
    assert {each.kind for each in made.attention if each.head == "fcn"} == {"influence"}
    assert {each.kind for each in made.attention if each.head == "ocnet"} > {"influence"}


def test_more_images_than_there_are_means_all(trained):
    assert len(make_examples(SETTING, cells("fcn"), trained, count=99).names) == 3


def test_examples_are_stored_and_the_same_again(execution):
    given = store(execution)
    found = read_examples(execution.out / "tiny")
    assert (found.names, list(found.predictions)) == (given.names, list(HEADS))
    first = contents(execution.out)
    store(execution)
    assert contents(execution.out) == first


def test_a_missing_checkpoint_leaves_stored_examples_in_place(execution):
    store(execution)
    before = contents(execution.out)
    remove_checkpoint(execution, "ocnet")
    kept = store(execution)
    assert set(kept.predictions) == set(HEADS)
    assert contents(execution.out) == before
    assert "no examples of ocnet" in said(execution)
    remove_checkpoint(execution, "fcn")
    assert set(store(execution).predictions) == set(HEADS)
    assert contents(execution.out) == before


def test_without_stored_examples_the_heads_that_can_be_loaded_are_shown(execution):
    remove_checkpoint(execution, "ocnet")
    assert set(store(execution).predictions) == {"fcn"}
    remove_checkpoint(execution, "fcn")
    shutil.rmtree(execution.out / "tiny" / "examples")
    assert store(execution) is None
    assert read_examples(execution.out / "tiny") is None


def test_a_comparison_of_fewer_heads_shows_fewer(execution):
    store(execution)
    assert set(store(execution, "fcn").predictions) == {"fcn"}
    assert set(read_examples(execution.out / "tiny").predictions) == {"fcn"}


def test_damaged_examples_are_made_again(execution):
    store(execution)
    good = contents(execution.out)
    (execution.out / "tiny" / "examples" / "0-truth.png").write_bytes(b"damaged")
    store(execution)
    assert contents(execution.out) == good


def test_no_images_means_no_examples_any_more(execution):
    store(execution)
    assert store(execution, count=0) is None
    assert read_examples(execution.out / "tiny") is None


def test_a_bound_is_shown_without_attention(execution):
    """Its regions are the labels of the image, which attention does not have."""
    bound = cells("ocr", ground_truth_regions=True)
    run_grid(SETTING, [bound[0].head], [0], Precision(), execution)
    found = store_examples(SETTING, [*cells("fcn"), *bound], execution, count=1)
    assert set(found.predictions) == {"fcn", "ocr"}
    assert {each.head for each in found.attention} == {"fcn"}
    assert "no attention of ocr: " in said(execution)


@pytest.mark.slow
def test_plot_is_given_the_examples_that_a_comparison_stored(execution, tmp_path, monkeypatch):
    given = []

    def record(_collection, examples, *_rest, **_options) -> list[Path]:
        given.append(examples)
        return []

    monkeypatch.setattr("contextbench.runs.comparison.write_report", record)
    monkeypatch.setattr("contextbench.report.bundle.write_report", record)
    heads = [cell.head for cell in cells()]
    plan = Plan(heads, seeds=[0], rounds=1, train_rounds=1, examples=2)
    compare(small.protocol(), plan, execution)
    arguments = ["plot", str(execution.out / "tiny"), "-o", str(tmp_path / "again")]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    drawn, again = given
    assert drawn.names == again.names == make_examples(SETTING, cells(), execution, count=2).names
    assert list(drawn.predictions) == list(again.predictions) == list(HEADS)
    for head in HEADS:
        np.testing.assert_array_equal(drawn.predictions[head], again.predictions[head])
    remove_examples(execution.out / "tiny")
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert given[-1] is None
