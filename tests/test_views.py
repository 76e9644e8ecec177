"""A training is evaluated in views: which belong to its identity, what is evaluated, kept, refused.

The oracle of a further view is a protocol that has it alone: its training is the same to the bit,
so its counts are those that the view must have.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from contextbench.cli import app
from contextbench.cli.planning import _evaluation
from contextbench.cluster.job import CellJob, Shared
from contextbench.cluster.merge import MergeError, merge
from contextbench.config.evaluation import EvaluateConfig
from contextbench.config.files import ConfigError
from contextbench.config.protocols import Protocol, load_protocol, overridden
from contextbench.evaluation.prediction import Predictor
from contextbench.measure.passes import Workload
from contextbench.models.precision import Precision
from contextbench.records.comparability import MixedProtocolsError
from contextbench.records.counts import Areas, areas_of, read_areas
from contextbench.records.runs import RunRecord, find_runs, read_run
from contextbench.records.settings import recorded_protocol
from contextbench.records.stored import RecordError, write_model
from contextbench.report.collection import collect
from contextbench.report.frames import read_counts, read_results
from contextbench.runs import run as runner
from contextbench.runs import views
from contextbench.runs.cells import open_setting
from contextbench.runs.evaluating import evaluate_runs
from contextbench.runs.grid import run_grid
from contextbench.runs.plan import Wanted, plan_comparison
from contextbench.runs.trained import Changes
from contextbench.system.interrupt import Interrupted
from tests import small

COMMITTED = Path(__file__).parents[1] / "results"
MULTI = {"scales": [0.5, 1.0], "flip": True}
TRAIN = {"split": "train"}
CELL = Path("tiny") / "fcn" / "seed-0"


def protocol(**evaluate: Any) -> Protocol:
    """The tiny protocol with these views."""
    return Protocol.model_validate({**small.protocol().model_dump(), "evaluate": evaluate})


SINGLE = protocol(single={})
BOTH = protocol(single={}, multi=MULTI)


def run(wanted: Protocol, out: Path, *heads: str, **options: Any) -> list[RunRecord]:
    names = [small.head(name) for name in heads or ("fcn",)]
    setting, execution = open_setting(wanted, None), small.execution(out)
    return run_grid(setting, names, [0], Precision(), execution, **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of a protocol with one view."""
    out = tmp_path_factory.mktemp("single")
    run(SINGLE, out)
    return out


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of the protocol that has the view `multi` only."""
    out = tmp_path_factory.mktemp("multi")
    run(protocol(multi=MULTI), out)
    return out


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    """A copy of `finished` to change."""
    return Path(shutil.copytree(finished, tmp_path / "runs"))


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calling what trains would fail."""
    monkeypatch.setattr(runner, "train", None)
    monkeypatch.setattr(runner, "train_together", None)


def counts(path: Path) -> dict[str, Any]:
    areas = read_areas(path)
    return {name: getattr(areas, name).tolist() for name in ("intersection", "predicted")}


def assert_multi(folder: Path, alone: Path) -> None:
    """The view has the counts of the protocol that has it alone, and its fingerprint."""
    record, oracle = read_run(folder / "record.json"), read_run(alone / CELL / "record.json")
    assert list(record.views) == ["single", "multi"]
    assert record.views["multi"].totals == oracle.totals != record.totals
    assert record.views["multi"].fingerprint == oracle.fingerprint != record.fingerprint
    assert counts(folder / "areas" / "multi.npz") == counts(alone / CELL / "areas.npz")
    areas_of(folder, record.seen("multi"))


# Files


def test_settings_alone_are_the_view_single_with_the_same_fingerprint() -> None:
    flat, named = protocol(**MULTI), protocol(single=MULTI)
    assert flat == named
    assert flat.evaluate == {"single": EvaluateConfig.model_validate(MULTI)}
    assert protocol() == SINGLE


def test_committed_records_are_the_runs_of_their_protocols_still() -> None:
    """Their fingerprints were computed by the code of then."""
    records = [read_run(folder / "record.json") for folder in find_runs(COMMITTED)]
    assert len(records) > 30
    for record in records:
        now = recorded_protocol(record, "").fingerprint(
            record.dataset_fingerprint, record.weights_digest
        )
        assert now == record.fingerprint
        assert {view.fingerprint for view in record.views.values()} <= {now}


def test_the_first_view_alone_belongs_to_the_identity() -> None:
    first = SINGLE.fingerprint("d")
    assert BOTH.fingerprint("d") == first
    assert protocol(multi=MULTI, single={}).fingerprint("d") != first
    assert BOTH.fingerprint("d", view="multi") == protocol(multi=MULTI).fingerprint("d")
    assert protocol(another_name={}).fingerprint("d") == first


def test_a_split_of_a_view_is_that_of_a_dataset_evaluated_on_it() -> None:
    elsewhere = overridden(SINGLE, ["dataset.evaluate=train"])
    assert protocol(single=TRAIN).fingerprint("d") == elsewhere.fingerprint("d")
    assert protocol(single={"split": "val"}).fingerprint("d") == SINGLE.fingerprint("d")


@pytest.mark.parametrize(
    ("evaluate", "message"),
    [
        ({"flip": True, "multi": {}}, "flip is a setting and multi a view"),
        ({"flip": {}}, "flip is a setting, and cannot be the name of a view"),
        ({"a.b": {}}, "letters, digits"),
        ({"multi": {"flipp": True}}, r"unknown key 'evaluate\.multi\.flipp'; did you mean 'flip'"),
        ({"flipp": True}, r"unknown key 'evaluate\.flipp'; did you mean 'flip'"),
        ({"multi": {"scales": []}}, r"key 'evaluate\.multi\.scales'"),
    ],
)
def test_views_that_cannot_be_are_refused(
    tmp_path: Path, evaluate: dict[str, Any], message: str
) -> None:
    path = tmp_path / "mine.yaml"
    content = {**small.protocol().model_dump(mode="json"), "evaluate": evaluate}
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=rf"mine\.yaml: .*{message}"):
        load_protocol(str(path))


def test_two_views_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("evaluate:\n  multi: {flip: true}\n  multi: {flip: false}\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml: .*key 'multi' occurs twice"):
        load_protocol(str(path))


def test_scores_may_be_expected_of_each_view() -> None:
    content = BOTH.model_dump()
    flat = {"source": "a paper", "scores": {"fcn": "1"}}
    read = Protocol.model_validate({**content, "expected": flat})
    assert read.expected is not None
    assert read.expected.scores == {"single": {"fcn": "1"}}
    wrong = {"source": "a paper", "scores": {"other": {"fcn": "1"}}}
    with pytest.raises(ValueError, match="there is no view other; allowed: multi, single"):
        Protocol.model_validate({**content, "expected": wrong})


def test_a_setting_is_that_of_the_only_view() -> None:
    assert overridden(SINGLE, ["evaluate.flip=true"]).view().flip
    added = overridden(SINGLE, ["evaluate.multi.flip=true"])
    assert [config.flip for config in added.evaluate.values()] == [False, True]
    with pytest.raises(ConfigError, match=r"say evaluate\.single\.flip or evaluate\.multi\.flip"):
        overridden(BOTH, ["evaluate.flip=true"])


LACKING = ["--set", "evaluate.other.split=tset", "--protocol", "probe"]


@pytest.mark.parametrize(
    "command",
    [
        ["compare", "--heads", "fcn", "--seeds", "0", *LACKING],
        ["compare", "--heads", "fcn", "--seeds", "0", "--dry-run", "--time-steps", "0", *LACKING],
        ["train", "--head", "fcn", *LACKING],
        ["check-data", *LACKING],
    ],
)
def test_a_split_that_the_dataset_lacks_is_refused_at_once(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner(env={"COLUMNS": "400"}).invoke(app, command)
    assert result.exit_code == 2, result.output
    assert "'evaluate.other.split': dataset probe has no split 'tset'" in result.output
    assert "allowed: " in result.output
    assert not list(tmp_path.iterdir())


# Running


def test_all_views_are_evaluated_after_one_training(tmp_path: Path, alone: Path) -> None:
    (record,) = run(BOTH, tmp_path)
    assert record == read_run(tmp_path / CELL / "record.json")
    assert_multi(tmp_path / CELL, alone)
    assert record.views["multi"].settings["scales"] == [0.5, 1.0]
    assert record.views["multi"].evaluated_images == 3


@pytest.mark.usefixtures("untrained")
def test_a_finished_run_is_evaluated_in_what_it_lacks(out: Path, alone: Path) -> None:
    before = read_run(out / CELL / "record.json")
    (record,) = run(BOTH, out)
    assert_multi(out / CELL, alone)
    assert record.views["single"] == before.views["single"]
    assert (record.finished, record.fingerprint) == (before.finished, before.fingerprint)
    assert run(BOTH, out) == [record]
    assert run(SINGLE, out) == [record]  # what it has beyond that stays


@pytest.mark.usefixtures("untrained")
def test_a_view_may_be_of_another_split(out: Path) -> None:
    (record,) = run(protocol(single={}, seen=TRAIN), out)
    seen = record.views["seen"]
    assert (seen.split, seen.evaluated_images) == ("train", 8)
    train, evaluated = record.dataset_fingerprint.split("/")
    assert seen.dataset_fingerprint == f"{train}/{train}" != f"{train}/{evaluated}"


def test_an_interruption_between_views_keeps_the_first(
    tmp_path: Path, alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = views.evaluate

    def evaluate(predictor: Predictor, *arguments: Any, **options: Any) -> Areas:
        if len(predictor.config.scales) > 1:
            raise Interrupted
        return real(predictor, *arguments, **options)

    monkeypatch.setattr(views, "evaluate", evaluate)
    with pytest.raises(Interrupted):
        run(BOTH, tmp_path)
    record = read_run(tmp_path / CELL / "record.json")
    assert (record.status, list(record.views)) == ("done", ["single"])
    monkeypatch.setattr(views, "evaluate", real)
    monkeypatch.setattr(runner, "train", None)
    run(BOTH, tmp_path)
    assert_multi(tmp_path / CELL, alone)


@pytest.mark.usefixtures("untrained")
def test_damaged_counts_of_one_view_are_counted_again(out: Path) -> None:
    run(BOTH, out)
    before = read_run(out / CELL / "record.json")
    single, multi = out / CELL / "areas.npz", out / CELL / "areas" / "multi.npz"
    kept = single.stat().st_mtime_ns
    multi.write_bytes(multi.read_bytes()[:-9])
    (record,) = run(BOTH, out)
    assert record == before
    areas_of(out / CELL, record.seen("multi"))
    assert single.stat().st_mtime_ns == kept


@pytest.mark.usefixtures("untrained")
def test_a_view_that_fails_leaves_a_finished_run_and_is_tried_again(
    out: Path, alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = views.evaluate

    def fails(*_arguments: Any, **_options: Any) -> Areas:
        raise MemoryError("too large")

    monkeypatch.setattr(views, "evaluate", fails)
    (record,) = run(BOTH, out)
    failure = record.views["multi"].failure
    assert (record.status, record.totals is None) == ("done", False)
    assert failure is not None
    assert failure.kind == "MemoryError"
    monkeypatch.setattr(views, "evaluate", real)
    assert run(BOTH, out) == [record]
    table = read_results(out / "tiny", view="multi")
    assert "not evaluated in view multi (MemoryError: too large)" in table["note"][0]
    run(BOTH, out, retry_failed=True)
    assert_multi(out / CELL, alone)


def test_another_first_view_is_refused_with_the_way_that_costs_no_training(out: Path) -> None:
    with pytest.raises(ConfigError, match=r"evaluate\.flip was False, is True.*no training"):
        run(protocol(single={"flip": True}), out)
    with pytest.raises(ConfigError, match="holds a run of another configuration") as caught:
        run(small.protocol(lr=0.02), out)
    assert "no training" not in str(caught.value)


@pytest.mark.usefixtures("untrained")
def test_a_view_of_other_settings_is_refused_before_the_first_step(out: Path) -> None:
    run(BOTH, out)
    before = read_run(out / CELL / "record.json")
    changed = protocol(single={}, multi={**MULTI, "flip": False})
    with pytest.raises(ConfigError, match=r"evaluate\.multi\.flip was True, is False"):
        run(changed, out, "ppm", "fcn")
    assert read_run(out / CELL / "record.json") == before


@pytest.mark.usefixtures("untrained")
def test_a_view_by_another_name_is_not_evaluated_again(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "evaluate", None)  # calling it would fail
    before = read_run(out / CELL / "record.json")
    (record,) = run(protocol(whole={}, same={}), out)
    assert list(record.views) == ["whole", "same"]
    assert set(map(repr, record.views.values())) == {repr(before.views["single"])}
    for view in record.views:
        areas_of(out / CELL, record.seen(view))


def test_heads_on_one_backbone_have_the_views_that_each_has_alone(tmp_path: Path) -> None:
    frozen = BOTH.model_copy(update={"shared_backbone": "frozen"})
    together = run(frozen, tmp_path / "together", "fcn", "ppm")
    for record in together:
        (own,) = run(frozen, tmp_path / "alone", record.head_name)
        assert {name: view.totals for name, view in record.views.items()} == {
            name: view.totals for name, view in own.views.items()
        }


@pytest.mark.usefixtures("untrained")
def test_a_job_evaluates_a_finished_run_in_what_it_lacks(out: Path, alone: Path) -> None:
    setting = open_setting(BOTH, None)
    shared = Shared(BOTH, (small.head(),), setting.fingerprint, out, None, "cpu", 0)
    assert CellJob(shared, small.head(), 0)() == "done"
    assert_multi(out / CELL, alone)


# Records and tables


def as_version_1(folder: Path) -> bytes:
    """The record as it was written before there were views."""
    path = folder / "record.json"
    content = json.loads(path.read_text())
    (view,) = content.pop("views").values()
    fields = ("totals", "evaluated_images", "evaluate_seconds")
    digests = {**content["digests"], "areas.npz": view["digest"]}
    flat = {key: value for key, value in view["settings"].items() if key != "split"}
    old = {**content, **{field: view[field] for field in fields}, "digests": digests}
    old["protocol"]["evaluate"] = flat
    path.write_text(json.dumps({**old, "schema_version": 1}))
    return path.read_bytes()


@pytest.mark.usefixtures("untrained")
def test_a_record_without_views_is_read_as_it_is_and_gains_one(out: Path, alone: Path) -> None:
    before = read_run(out / CELL / "record.json")
    old = as_version_1(out / CELL)
    read = read_run(out / CELL / "record.json")
    assert read.model_dump(exclude={"protocol"}) == before.model_dump(exclude={"protocol"})
    assert read_results(out / "tiny").equals(read_results(out / "tiny", view="single"))
    assert run(SINGLE, out) == [read]
    assert (out / CELL / "record.json").read_bytes() == old
    run(BOTH, out)
    assert_multi(out / CELL, alone)


@pytest.mark.usefixtures("untrained")
def test_tables_show_the_view_asked_for(out: Path, alone: Path) -> None:
    run(BOTH, out)
    first, multi = (read_results(out / "tiny", view=view) for view in ("single", "multi"))
    oracle = read_results(alone / "tiny")
    assert first["view"][0] == "single"
    assert (multi["view"][0], multi["miou"][0]) == ("multi", oracle["miou"][0])
    assert multi["mean_accuracy"][0] == oracle["mean_accuracy"][0]
    assert multi["miou"][0] != first["miou"][0]
    own = read_counts(out / "tiny", view="multi")["fcn"][0].totals()
    assert own == read_counts(alone / "tiny")["fcn"][0].totals()
    assert any("view multi, one of single, multi" in note for note in multi.attrs["notes"])
    assert not any(" view " in note for note in oracle.attrs["notes"])
    with pytest.raises(ConfigError, match="no view 'muti'; did you mean 'multi'"):
        read_results(out / "tiny", view="muti")


@pytest.mark.usefixtures("untrained")
def test_views_of_different_settings_share_no_table(out: Path) -> None:
    run(BOTH, out)
    record = read_run(out / CELL / "record.json")
    changes = {"flip": False}
    other = record.views["multi"].model_copy(
        update={"fingerprint": "f", "settings": {**record.views["multi"].settings, **changes}}
    )
    folder = out / "tiny" / "fcn" / "seed-1"
    shutil.copytree(out / CELL, folder)
    changed = {"seed": 1, "views": {**record.views, "multi": other}}
    write_model(folder / "record.json", record.model_copy(update=changed))
    assert len(collect(out).runs) == 2
    with pytest.raises(MixedProtocolsError, match=r"table of view multi(.|\n)*flip: True / False"):
        collect(out, "multi")


@pytest.mark.usefixtures("untrained")
def test_every_command_of_tables_takes_a_view(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(BOTH, out)
    monkeypatch.chdir(tmp_path)
    folder, cell = str(out / "tiny"), str(out / CELL)

    def call(*arguments: str) -> str:
        result = CliRunner(env={"COLUMNS": "200"}).invoke(app, list(arguments))
        assert result.exit_code == 0, result.output
        return result.output

    call("table", folder, "-o", "made")
    call("table", folder, "-o", "made", "--view", "multi")
    made = {path.name for path in (tmp_path / "made").iterdir()}
    ends = ("csv", "md", "tex")
    assert made == {f"table{view}.{end}" for view in ("", "-multi") for end in ends}
    assert "view multi" in (tmp_path / "made" / "table-multi.tex").read_text()
    call("report", folder, "--view", "multi")
    assert "view multi" in (tmp_path / "report-multi.html").read_text()
    assert "view multi" in call("explain", cell, cell, "--view", "multi")
    wrong = ("table", folder, "--view", "other"), ("explain", cell, cell, "--view", "other")
    for arguments in (*wrong, ("evaluate", cell, "--view", "other")):
        result = CliRunner(env={"COLUMNS": "400"}).invoke(app, list(arguments))
        assert result.exit_code == 2, result.output
        assert "allowed: multi, single" in result.output


def called(*arguments: str) -> str:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.usefixtures("untrained")
def test_figures_and_groups_are_those_of_the_view_asked_for(out: Path) -> None:
    run(protocol(single={}, seen=TRAIN), out)
    folder, drawn = out / "tiny", out / "drawn"
    called("plot", str(folder), "-o", str(drawn), "--view", "seen", "--format", "svg")
    assert "view seen" in (drawn / "table-seen.md").read_text()
    assert any((drawn / "figures-seen").glob("*.svg"))
    assert not (drawn / "figures").exists()
    record = read_run(out / CELL / "record.json")  # a second head to compare with
    twin = Path(shutil.copytree(folder / "fcn", folder / "ppm")) / "seed-0" / "record.json"
    write_model(twin, record.model_copy(update={"head": {**record.head, "name": "ppm"}}))
    assert json.loads(called("insight", str(folder), "--json"))["images"] == 3
    seen = json.loads(called("insight", str(folder), "--json", "--view", "seen"))
    assert (seen["images"], seen["subject"]) == (8, "probe, protocol tiny, view seen")


@pytest.mark.usefixtures("untrained")
def test_predictions_are_those_of_the_view_asked_for(out: Path, alone: Path) -> None:
    run(BOTH, out)

    def predicted(cell: Path, name: str, *view: str) -> dict[str, Any]:
        called("predict", str(cell), "--split", "val", "-o", str(out / name), *view)
        masks = {path.name: np.asarray(Image.open(path)) for path in (out / name).iterdir()}
        assert len(masks) == 3 * 3
        return {name: mask.tolist() for name, mask in masks.items()}

    multi = predicted(out / CELL, "multi", "--view", "multi")
    assert multi == predicted(alone / CELL, "alone")
    assert multi != predicted(out / CELL, "single")


@pytest.mark.usefixtures("untrained")
def test_attention_is_of_an_image_of_the_views_split(out: Path) -> None:
    run(protocol(single={}, seen=TRAIN), out)

    def image(*view: str) -> str:
        place = ("--image", "7", "--pixel", "5,5", "-o", str(out / "maps"))
        runs = json.loads(called("attend", str(out / CELL), *place, *view, "--json"))["runs"]
        return str(runs[0]["image"])

    assert image("--view", "seen") == "train-000007"
    wrong = CliRunner().invoke(app, ["attend", str(out / CELL), "--image", "7", "--pixel", "5,5"])
    assert wrong.exit_code == 2  # the split of the first view has three images


@pytest.mark.usefixtures("untrained")
def test_merging_takes_the_counts_of_every_view(out: Path, finished: Path, tmp_path: Path) -> None:
    run(BOTH, out)
    other = tmp_path / "other"
    shutil.copytree(out, other)
    merge([out, other], tmp_path / "merged")
    folder = tmp_path / "merged" / CELL
    record = read_run(folder / "record.json")
    assert {record.seen(view).counts_file for view in record.views} == {
        "areas.npz",
        "areas/multi.npz",
    }
    for view in record.views:
        areas_of(folder, record.seen(view))
    with pytest.raises(MergeError, match=r"views single, multi there, .*views single here"):
        merge([out, finished], tmp_path / "again")


# Evaluating a run again


def evaluated(cell: Path, **options: Any) -> dict[str, Any]:
    return evaluate_runs([cell], small.execution(cell), **options)


@pytest.mark.usefixtures("untrained")
def test_a_new_view_is_kept_with_the_run(out: Path, alone: Path) -> None:
    cell = out / CELL
    scored = evaluated(cell, view="multi", changes=Changes(scales=(0.5, 1.0), flip=True))
    assert (scored["kept"], scored["view"], scored["images"]) == (True, "multi", 3)
    assert_multi(cell, alone)
    (record,) = run(BOTH, out)  # nothing is left to do
    assert record == read_run(cell / "record.json").model_copy(update={"protocol": record.protocol})


COUNTED = ("confusion=true", "calibration=true", "boundary=true", "evaluate.trimap=[1,4]")
NOISY = ("corrupt.kind=noise", "corrupt.strength=5")


@pytest.mark.usefixtures("untrained")
def test_a_view_may_count_more_and_corrupt_and_is_counted_again_where_it_is_damaged(
    out: Path,
) -> None:
    cell = out / CELL
    evaluated(cell, view="details", changes=Changes(settings=(*COUNTED, *NOISY)))
    record = read_run(cell / "record.json").seen("details")
    assert record.totals != record.seen("single").totals  # of other images
    areas = areas_of(cell, record)
    assert list(areas.further) == ["confusion", "calibration", "boundary", "trimap"]
    clean = areas_of(cell, record.seen("single"))
    assert not clean.further
    wanted = protocol(single={}, details=record.view.settings if record.view else {})
    path = cell / "areas" / "details.npz"
    path.write_bytes(path.read_bytes()[:-9])
    (again,) = run(wanted, out)
    assert again.views == read_run(cell / "record.json").views
    mended = areas_of(cell, again.seen("details"))
    for name, counts in areas.further.items():
        assert counts.places.tolist() == mended.further[name].places.tolist()
        assert counts.values.tolist() == mended.further[name].values.tolist()


def test_settings_that_a_view_cannot_have_are_refused(out: Path) -> None:
    for setting, message in (
        ("corrupt={kind: fog, strength: 1}", r"corrupt\.kind"),
        ("corrupt={kind: noise, strength: 9}", r"corrupt\.strength"),
        ("trimaps=true", "unknown key 'trimaps'; did you mean 'trimap'"),
    ):
        with pytest.raises(ConfigError, match=message):
            evaluated(out / CELL, view="details", changes=Changes(settings=(setting,)))


def test_what_is_there_is_read_and_other_settings_are_refused(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell, changes = out / CELL, Changes(flip=True)
    first = evaluated(cell, view="mirrored", changes=changes)
    with monkeypatch.context() as patch:
        patch.setattr("contextbench.runs.evaluating.evaluate", None)  # calling it would fail
        assert evaluated(cell, view="mirrored") == first
        assert evaluated(cell, view="mirrored", changes=changes) == first
        with pytest.raises(ConfigError, match="mirrored is a view of this run with other settings"):
            evaluated(cell, view="mirrored", changes=Changes(scales=(0.5,)))
        for fresh in (False, True):
            with pytest.raises(ConfigError, match="single is a view of its protocol, tiny, with"):
                evaluated(cell, view="single", changes=changes, fresh=fresh)
        with pytest.raises(ConfigError, match="first view, by which the run is known"):
            evaluated(cell, view="single", fresh=True)
        with pytest.raises(ConfigError, match=r"has no view 'other'.*A new view needs settings"):
            evaluated(cell, view="other")
        with pytest.raises(ConfigError, match=r"--view 'a\.b': views are called"):
            evaluated(cell, view="a.b", changes=changes)
    replaced = evaluated(cell, view="mirrored", changes=Changes(scales=(0.5,)), fresh=True)
    assert (replaced["scales"], replaced["flip"]) == ([0.5], True)


@pytest.mark.usefixtures("untrained")
def test_how_many_windows_are_seen_at_once_makes_no_other_view(out: Path) -> None:
    """Recorded where it is not as usual; the same for fingerprints, and for a view that is kept."""
    cell, slide = out / CELL, {"mode": "slide", "window": [40, 40], "stride": [24, 24]}
    changes = [
        Changes(window=(40, 40), stride=(24, 24), settings=(f"window_batch={batch}",))
        for batch in (3, "auto")
    ]
    evaluated(cell, view="threes", changes=changes[0])
    evaluated(cell, view="ones", changes=changes[1])
    record = read_run(cell / "record.json")
    threes, ones = record.views["threes"], record.views["ones"]
    assert threes.settings == {**ones.settings, "window_batch": 3} != ones.settings
    assert threes.fingerprint == ones.fingerprint != record.fingerprint
    assert evaluated(cell, view="threes", changes=changes[1])["kept"]
    (again,) = run(protocol(single={}, threes=slide, ones={**slide, "window_batch": 2}), out)
    assert {name: view.totals for name, view in again.views.items()} == {
        name: view.totals for name, view in record.views.items()
    }


def test_without_a_name_nothing_is_kept(out: Path) -> None:
    before = (out / CELL / "record.json").read_bytes()
    scored = evaluated(out / CELL, changes=Changes(flip=True))
    together = evaluate_runs([out / CELL] * 2, small.execution(out), view="single")
    assert (scored["kept"], together["kept"]) == (False, False)
    assert (out / CELL / "record.json").read_bytes() == before
    result = CliRunner().invoke(app, ["evaluate", str(out / CELL), "--device", "cpu"])
    assert "printed only: with --view NAME it is kept" in " ".join(result.output.split())


def test_a_view_of_other_data_is_not_kept(out: Path) -> None:
    path = out / CELL / "record.json"
    record = read_run(path)
    other = record.views["single"].model_copy(update={"dataset_fingerprint": "a/b"})
    write_model(path, record.model_copy(update={"views": {"single": other}}))
    with pytest.raises(RecordError, match="val is not what view single was evaluated on"):
        evaluated(out / CELL, view="multi", changes=Changes(flip=True))


# Costs


def test_a_plan_sums_the_images_of_all_views(tmp_path: Path) -> None:
    """64x64 images, 3 of them at 1 and 2 x (1/4 + 1) passes, and 8 of the training split."""
    wanted = protocol(single={}, multi=MULTI, seen=TRAIN)
    plan = plan_comparison(
        wanted, Wanted([small.head()], [0], time_steps=1), small.execution(tmp_path)
    )
    images = {name: view.split.images for name, view in plan.views.items()}
    assert images == {"single": 3, "multi": 3, "seen": 8}
    (head,) = plan.heads
    [step], [one] = head.forecast.step_ms, head.forecast.pass_ms
    passes = 3 + 3 * 2 * (1 / 4 + 1) + 8
    assert head.forecast.hours == pytest.approx((4 * step + passes * one) / 3.6e6)
    assert any("2.5 passes" in note for note in plan.notes)


def test_costs_are_those_of_the_first_view() -> None:
    both, single = (Workload(each, 13, (64, 64), 3) for each in (BOTH, SINGLE))
    assert both.as_dict() == single.as_dict()
    assert both.passes == 1


def test_a_plan_says_what_views_count_and_corrupt() -> None:
    settings = {"confusion": True, "trimap": True, "corrupt": {"kind": "jpeg", "strength": 2}}
    work = Workload(protocol(single=settings), 13, (64, 64), 3)
    said = _evaluation(work, assumed_size=False)
    assert "scale 1, jpeg 2: one pass" in said
    assert said.endswith("; confusion, trimap counted too, which is in no hours")
    plain = _evaluation(Workload(SINGLE, 13, (64, 64), 3), assumed_size=False)
    assert plain == "images of 64x64, scale 1: one pass of 64x64 each"
