"""One call writes everything that there are numbers for, and nothing else."""

import pytest
from matplotlib.figure import Figure

from contextbench.report.bundle import write_report
from contextbench.report.collection import Collection
from contextbench.results import LabelInfo
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


def written(folder, runs, profile=None, curves=None, shown=None) -> set[str]:
    """Names of the written files; what is returned must be what lies there."""
    paths = write_report(Collection(runs, profile, curves or {}), shown, folder)
    names = {path.relative_to(folder).as_posix() for path in paths}
    there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert names == there
    assert len(paths) == len(names)
    return names


def figures(*names: str) -> set[str]:
    return {f"figures/{name}.{kind}" for name in names for kind in ("png", "svg")}


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
    for name in ("disagreement_grid", "plots.prediction_grid"):

        def record(given, *_rest, name=name, **_options):
            drawn[name] = given.names if name == "disagreement_grid" else len(given)
            return Figure()

        monkeypatch.setattr(f"contextbench.report.bundle.{name}", record)
    many = examples(24, size=(6, 8))
    written(tmp_path, [run(iou=[0.5, 0.25], labels=BARE)], shown=many)
    assert drawn["disagreement_grid"] == [f"{i:04d}" for i in range(1, 24, 2)]
    assert drawn["plots.prediction_grid"] == 12


def test_one_head_without_profile_groups_or_history(tmp_path):
    runs = [run(iou=[0.5, 0.25], labels=BARE)]
    assert written(tmp_path, runs) == TABLES | figures("per-class")


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
