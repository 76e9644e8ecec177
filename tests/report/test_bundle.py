"""One call writes everything that there are numbers for, and nothing else."""

import re

import numpy as np
import pytest
from matplotlib.figure import Figure
from typer.testing import CliRunner

from contextbench.cli import app
from contextbench.records.classes import LabelInfo
from contextbench.records.counts import Areas
from contextbench.records.runs import RunRecord
from contextbench.records.stored import write_model
from contextbench.report.bundle import write_report
from contextbench.report.collection import Collection
from tests.report.records import (
    class_iou,
    cost,
    examples,
    failed,
    histories,
    profile_of,
    run,
)

TABLES = {"table.csv", "table.md", "per_class.csv"}
BARE = LabelInfo(classes=["a", "b"], palette=[(0, 0, 0), (9, 9, 9)])


def written(folder, runs, profile=None, curves=None, shown=None, areas=None, **look) -> set[str]:
    """Names of the written files; what is returned must be what lies there."""
    collection = Collection(runs, profile, curves or {}, areas or {})
    paths = write_report(collection, shown, folder, **look)
    names = {path.relative_to(folder).as_posix() for path in paths}
    there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert names == there
    assert len(paths) == len(names)
    return names


def figures(*names: str, kinds: tuple[str, ...] = ("png", "svg")) -> set[str]:
    return {f"figures/{name}.{kind}" for name in names for kind in kinds}


def cells(*heads: str) -> tuple[list[RunRecord], dict[str, dict[int, Areas]]]:
    """Runs of heads, better and better, with what was counted on three images."""
    areas = {}
    for number, head in enumerate(heads, start=1):
        correct = np.array([[5, 4], [6, 5], [5, 5]]) + number
        areas[head] = {0: Areas(["a", "b", "c"], correct, *[np.full((3, 2), 10)] * 2)}
    runs = [run(head, totals=own[0].totals(), labels=BARE) for head, own in areas.items()]
    return runs, areas


@pytest.mark.slow
def test_a_full_comparison_writes_all_tables_and_figures(tmp_path):
    heads = {"fcn": cost(10**6, 10**9, 2**24, [1.0, 2.0]), "ppm": cost(10**6, 10**9, 2**25, [2.0])}
    runs = [run(head, iou=class_iou(head, 0)) for head in heads]
    curves = {head: histories()[head] for head in heads}
    costs = ("macs", "latency", "memory", "parameters")
    expected = TABLES | figures(
        "tradeoff", *(f"tradeoff-{c}" for c in costs), "groups", "per-class",
        "per-class-difference", "loss", "predictions", "disagreement",
    )  # fmt: skip
    assert written(tmp_path, runs, profile_of(heads), curves, examples(1)) == expected
    text = (tmp_path / "table.md").read_text()
    assert text.startswith("# probe, protocol probe-small\n")
    assert "local_brick" in text


def test_figures_show_a_dozen_images_evenly_spread(tmp_path, monkeypatch):
    drawn = {}
    for name in ("disagreement_grid", "prediction_grid"):

        def record(given, *_rest, name=name, **_options):
            drawn[name] = given.names
            return Figure()

        monkeypatch.setattr(f"contextbench.report.bundle.{name}", record)
    many = examples(24, size=(6, 8))
    written(tmp_path, [run(iou=[0.5, 0.25], labels=BARE)], shown=many)
    chosen = [f"{i:04d}" for i in range(1, 24, 2)]
    assert drawn == {"disagreement_grid": chosen, "prediction_grid": chosen}


def test_one_head_without_profile_groups_or_history(tmp_path):
    runs = [run(iou=[0.5, 0.25], labels=BARE)]
    assert written(tmp_path, runs) == TABLES | figures("per-class")


@pytest.mark.slow
def test_a_ranking_adds_ranks_and_differences_to_the_best_and_to_fcn(tmp_path):
    runs, areas = cells("fcn", "ppm")
    expected = figures(
        "ranks", "differences", "differences-fcn", "per-class", "per-class-difference",
        kinds=("pdf",),
    )  # fmt: skip
    names = written(tmp_path, runs, areas=areas, formats=["pdf"])
    assert names == TABLES | expected


@pytest.mark.slow
def test_where_fcn_is_the_best_or_not_there_differences_are_drawn_once(tmp_path):
    for folder, heads in (("a", ("ppm", "fcn")), ("b", ("ppm", "ocr"))):
        runs, areas = cells(*heads)
        names = written(tmp_path / folder, runs, areas=areas, formats=["svg"])
        assert {name for name in names if "differences" in name} == {"figures/differences.svg"}


def test_groups_have_intervals_by_their_own_classes(tmp_path):
    runs, areas = cells("fcn")
    labels = BARE.model_copy(update={"groups": {"first": [0], "second": [1]}})
    runs = [each.model_copy(update={"labels": labels}) for each in runs]
    found = Collection(runs, areas=areas).group_rankings
    # I = 6 + 7 + 6 of P = L = 30 for class 0, 5 + 6 + 6 for class 1; IoU = I / (60 - I)
    estimates = {group: each.heads[0].miou.estimate for group, each in found.items()}
    assert estimates == {"first": pytest.approx(19 / 41), "second": pytest.approx(17 / 43)}
    assert "figures/groups.svg" in written(tmp_path, runs, areas=areas, formats=["svg"])


@pytest.mark.slow
def test_figures_have_the_width_that_is_asked_for(tmp_path):
    runs, areas = cells("fcn", "ppm")
    for width, inches in (("one", 3.5), ("two", 7.16)):
        written(tmp_path / width, runs, areas=areas, width=width, formats=["svg"])
        for path in (tmp_path / width / "figures").iterdir():
            points = re.search(r'width="([\d.]+)pt"', path.read_text())
            assert float(points[1]) == pytest.approx(72 * inches), path


def stored(folder) -> None:
    for each in cells("fcn", "ppm")[0]:
        write_model(folder / each.head_name / "seed-0" / "record.json", each)


def plot(*arguments) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["plot", *map(str, arguments)])
    return result.exit_code, " ".join(result.output.split())


def test_the_command_writes_the_formats_and_the_width_that_are_asked_for(tmp_path):
    stored(tmp_path / "runs")
    code, _ = plot(tmp_path / "runs", "-o", tmp_path, "--format", "pdf,svg", "--width", "two")
    assert code == 0
    found = {path.name for path in (tmp_path / "figures").iterdir()}
    names = ("per-class", "per-class-difference")
    assert found == {f"{name}.{kind}" for name in names for kind in ("pdf", "svg")}
    assert f'width="{72 * 7.16:.2f}' in (tmp_path / "figures" / "per-class.svg").read_text()


def test_an_unknown_format_is_refused_before_anything_is_written(tmp_path):
    stored(tmp_path / "runs")
    code, message = plot(tmp_path / "runs", "-o", tmp_path / "out", "--format", "svg,pfd")
    assert code == 2
    assert message == "error: --format 'pfd' is unknown; did you mean 'pdf'? allowed: pdf, png, svg"
    assert not (tmp_path / "out").exists()


def test_all_failed_still_writes_the_tables_with_the_reasons(tmp_path):
    runs = [failed("fcn"), failed("ocr", status="out_of_memory")]
    assert written(tmp_path, runs, profile_of({}), {"fcn": {0: []}}) == TABLES
    assert "out of memory at step 120" in (tmp_path / "table.md").read_text()


def test_costs_of_heads_that_failed_to_train_are_not_drawn(tmp_path):
    runs = [failed("fcn")]
    names = written(tmp_path, runs, profile_of({"fcn": cost(1, 1, 1, [1.0])}))
    assert names == TABLES


@pytest.mark.parametrize("protocol", [{"name": "own"}, {"name": "own", "dataset": {"name": "set"}}])
def test_the_title_names_what_is_known(tmp_path, protocol):
    written(tmp_path, [failed("fcn").model_copy(update={"protocol": protocol})])
    title = (tmp_path / "table.md").read_text().splitlines()[0]
    assert title == ("# set, protocol own" if "dataset" in protocol else "# protocol own")
