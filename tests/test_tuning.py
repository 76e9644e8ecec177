"""Every head is tuned with the same budget, on images that no table reports, and says so.

Choices are checked against a loop over the counts of the trials; refusals come before the first
step, which the tests see by taking away what trains.
"""

import itertools
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from typer.testing import CliRunner

from contextbench.cli import app
from contextbench.config.files import ConfigError
from contextbench.config.grids import Axis, grid_points, read_axis
from contextbench.config.protocols import Protocol, overridden
from contextbench.measure.forecast import Forecast, Forecaster
from contextbench.models.precision import Precision
from contextbench.records.comparability import MixedProtocolsError, check_comparable
from contextbench.records.counts import read_areas
from contextbench.records.runs import Imported, RunRecord, find_runs, read_run
from contextbench.records.stored import RecordError, write_model
from contextbench.records.tuning import HeadTuning, Trial, Tuned, read_tuning
from contextbench.report.collection import Collection, assemble
from contextbench.report.comparison import comparison_table
from contextbench.report.figures.tuning import envelope, tuning_figure
from contextbench.report.page import render_page
from contextbench.report.tables.comparison import printed_comparison
from contextbench.report.tuning import sentences
from contextbench.runs import run as runner
from contextbench.runs.cells import open_setting
from contextbench.runs.grid import run_grids
from contextbench.runs.plan import Wanted
from contextbench.runs.tuned import tuned_grids, without_view
from contextbench.runs.tuning import Plan, choose, plan_tuning, tune
from contextbench.system.interrupt import Interrupted
from tests import small
from tests.test_fuzzed_files import FEW, mutated

TUNING = {"split": "test"}
AXIS = "train.lr=0.001,0.03"
FOLDER = "tiny-tuning"


def protocol(**evaluate: Any) -> Protocol:
    views = evaluate or {"single": {}, "tuning": TUNING}
    return Protocol.model_validate({**small.protocol(steps=2).model_dump(), "evaluate": views})


def plan(*axes: str, heads: Sequence[str] = ("fcn", "ppm"), **options: Any) -> Plan:
    chosen = [small.head(name) for name in heads]
    return Plan(chosen, [read_axis(text) for text in axes or (AXIS,)], [0], **options)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished tuning of two heads."""
    out = tmp_path_factory.mktemp("tuned")
    tune(protocol(), plan(), small.execution(out))
    return out


@pytest.fixture(scope="module")
def collection(tuned: Path, tmp_path_factory: pytest.TempPathFactory) -> Collection:
    """Two seeds of both heads with what was chosen for them."""
    out = tmp_path_factory.mktemp("final")
    return assemble(out, run_tuned(tuned / FOLDER, out, seeds=(0, 1)), None)


def run_tuned(
    folder: Path, out: Path, *, heads: Sequence[str] = ("fcn", "ppm"), seeds: Sequence[int] = (0,),
    wanted: Protocol | None = None,
) -> list[RunRecord]:  # fmt: skip
    """What `compare --tuned` trains."""
    execution, tuning = small.execution(out), read_tuning(folder)
    reported = without_view(wanted or protocol(), tuning, execution)
    setting = open_setting(reported, None)
    grids = tuned_grids(setting, [small.head(name) for name in heads], tuning, execution)
    return [*itertools.chain.from_iterable(run_grids(grids, seeds, Precision(), execution))]


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calling what trains would fail."""
    monkeypatch.setattr(runner, "train", None)


def refused(wanted: Protocol, what: Plan, out: Path) -> str:
    """The message; nothing was written."""
    with pytest.raises(ConfigError) as error:
        tune(wanted, what, small.execution(out))
    assert not list(out.iterdir())
    return str(error.value)


def miou(path: Path) -> float:
    """A loop over classes that have a labelled pixel."""
    totals = read_areas(path).totals()
    counts = zip(totals.intersection, totals.predicted, totals.labelled, strict=True)
    ious = [i / (p + l - i) for i, p, l in counts if l > 0]  # noqa: E741
    return sum(ious) / len(ious)


# Grids


def test_values_are_yaml_between_commas() -> None:
    assert read_axis("train.lr=0.003, 1e-2,3.0e-2").values == (0.003, "1e-2", 0.03)
    assert read_axis("train.scale=[0.5,2.0],[1,1]").values == ([0.5, 2.0], [1, 1])
    assert read_axis("ocr, fcn:head.loss_weights.aux=0,0.4") == Axis(
        "head.loss_weights.aux", (0, 0.4), ("ocr", "fcn")
    )
    assert str(read_axis("ocr:train.lr=0.1,null")) == "ocr:train.lr=0.1,null"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("train.lr", "KEY=VALUE,VALUE"),
        ("=1,2", "KEY=VALUE,VALUE"),
        ("train.lr=", "has no values"),
        ("train.lr=0.1,,0.2", "not YAML"),
        ("train.lr=[0.1", "not YAML"),
        ("train.lr=0.1], [2", "not YAML"),
        ("dataset.name=probe,camvid", "heads of one table share everything"),
        ("head.width=64,128", "did you mean head.options.width?"),
        ("head.head=fcn,ppm", "cannot tune 'head.head'"),
        ("train.watch.every=1,2", "but for train.watch and train.init"),
        ("train.init=a,b", "cannot tune 'train.init'"),
        ("train.=1,2", "cannot tune 'train.'"),
    ],
)
def test_an_axis_that_cannot_be_read_is_refused(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)) as error:
        read_axis(text)
    assert str(error.value).startswith("--grid ")


def points(*axes: str, heads: Sequence[str] = ("fcn", "ppm")) -> dict[str, list[dict[str, Any]]]:
    chosen = [small.head(name) for name in heads]
    found = grid_points([read_axis(text) for text in axes], small.protocol(), chosen)
    return {name: [dict(point.values) for point in each] for name, each in found.items()}


def test_a_grid_is_all_combinations_the_last_axis_first() -> None:
    found = points("train.lr=0.1,1e-2", "head.loss_weights.aux=0,0.4")
    assert found["fcn"] == found["ppm"]
    assert [tuple(each.values()) for each in found["fcn"]] == [
        (0.1, 0.0), (0.1, 0.4), (0.01, 0.0), (0.01, 0.4),
    ]  # fmt: skip


def test_heads_may_have_keys_of_their_own_with_as_many_values() -> None:
    found = points("fcn:head.loss_weights.aux=0,0.4", "ppm:head.options.width=8,16")
    assert found == {
        "fcn": [{"head.loss_weights.aux": 0.0}, {"head.loss_weights.aux": 0.4}],
        "ppm": [{"head.options.width": 8}, {"head.options.width": 16}],
    }


@pytest.mark.parametrize(
    ("axes", "told"),
    [
        ((), "--grid is missing"),
        (("train.lr=0.1",), "one trial is no choice"),
        (("train.lr=0.1,1e-1",), "the same trial twice: train.lr=0.1"),
        (("train.lr=0.1,0.2", "train.lr=0.3,0.4"), "given twice"),
        (("train.lr=0.1,0.2", "fcn:train.lr=0.3,0.4"), "given twice"),
        (("train.schedule={power: 1},{power: 2}", "train.schedule.power=1,2"), "given twice"),
        (("ocr:train.lr=0.1,0.2",), "'ocr' is not tuned"),
        (("train.lr=0.1,0.2", "fcn:train.ema=0.9,0.99"), "fcn 4, ppm 2"),
        (("train.lr=0.1,-1",), "key 'train.lr' is -1"),
        (("train.lr=0.1,fast",), "key 'train.lr' is 'fast'"),
        (("train.lr=0.1,.nan",), "not YAML"),
        (("train.rate=0.1,0.2",), "unknown key 'train.rate'"),
        (("train.lr.base=0.1,0.2",), "'lr' holds a value, not keys"),
        (("head.loss_weights.aux=0,many",), "key 'loss_weights.aux' is 'many'"),
        (("train.batch=2,3", "train.accumulate=2,1"), "batch 3 cannot be computed in 2"),
    ],
)
def test_a_grid_that_cannot_be_is_refused(axes: Sequence[str], told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)) as error:
        points(*axes)
    assert str(error.value).startswith("--grid")


def test_long_values_have_folders_with_a_digest() -> None:
    texts = [f"train.loss.class_weights={[0.1] * 99 + [last]}".replace(" ", "") for last in (1, 2)]
    axes = [read_axis(",".join([texts[0], texts[1].partition("=")[2]]))]
    names = [p.name for p in grid_points(axes, small.protocol(), [small.head()])["fcn"]]
    assert len(set(names)) == 2
    assert all(len(name) <= 128 and "/" not in name for name in names)


# What is refused before the first trial


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(
    ("views", "named", "told"),
    [
        ({"single": {}}, None, "reports all its views"),
        ({"single": {}, "multi": {"flip": True}}, "multi", "'val' has images of 'val'"),
        ({"single": {}, "tuning": TUNING}, "single", "the first view, which tables report"),
        ({"single": {}, "tuning": TUNING, "more": TUNING}, None, "reports all its views"),
        ({"single": {}, "a": TUNING, "b": {"split": "train"}}, None, "one of a, b"),
        ({"single": {}, "tuning": TUNING}, "tunig", "did you mean 'tuning'"),
    ],
)
def test_what_is_reported_is_not_chosen_by(
    views: dict[str, Any], named: str | None, told: str, tmp_path: Path
) -> None:
    assert told in refused(protocol(**views), plan(view=named), tmp_path)


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(
    ("axes", "heads", "told"),
    [
        (("head.loss_weights.aux=0,1",), ("fcn", "ocr"), "'ocr': loss_weights.aux"),
        (("head.options.widht=8,16",), ("fcn",), "widht"),
        (("head.options.width=8,none",), ("ppm",), "width"),
        (("train.crop=[64,64],[96,96]",), ("fcn",), "crop"),
    ],
)
def test_a_trial_that_cannot_run_is_refused_with_its_values(
    axes: Sequence[str], heads: Sequence[str], told: str, tmp_path: Path
) -> None:
    message = refused(protocol(), plan(*axes, heads=heads), tmp_path)
    assert message.startswith("--grid ")
    assert told in message


def test_on_the_command_line_it_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    settings = [word for text in small.SETTINGS for word in ("--set", text)]
    words = ["tune", "--heads", "fcn", "--grid", AXIS, "-o", str(tmp_path), *settings]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert "evaluate.tuning.split=NAME; probe has train, test" in result.output
    assert not list(tmp_path.iterdir())


# Trials


def test_every_head_has_the_trials_and_the_choice_of_a_loop_over_their_counts(tuned: Path) -> None:
    record = read_tuning(tuned / FOLDER)
    assert record.finished
    assert record.images == 3
    for name, head in record.heads.items():
        folders = [tuned / FOLDER / f"lr={lr}" / name / "seed-0" for lr in (0.001, 0.03)]
        scores = [miou(folder / "areas.npz") for folder in folders]
        assert [trial.score for trial in head.trials] == pytest.approx(scores, abs=1e-12)
        assert head.chosen == scores.index(max(scores))
        assert [trial.values for trial in head.trials] == [{"train.lr": 0.001}, {"train.lr": 0.03}]


def test_a_trial_is_the_run_of_a_protocol_with_its_values_in_that_view_alone(tuned: Path) -> None:
    """So its record is that of the view of a whole run; what is reported was not looked at."""
    record = read_tuning(tuned / FOLDER)
    for number, lr in enumerate((0.001, 0.03)):
        whole = open_setting(overridden(protocol(), [f"train.lr={lr}"]), None)
        run = read_run(tuned / FOLDER / f"lr={lr}" / "fcn" / "seed-0" / "record.json")
        assert run.fingerprint == whole.view_fingerprint("tuning")
        assert run.fingerprint == record.heads["fcn"].trials[number].fingerprint
        assert list(run.views) == ["tuning"]
        assert run.views["tuning"].split == "test"
        assert run.views["tuning"].digest == record.heads["fcn"].trials[number].digests[0]
    assert len(find_runs(tuned)) == 4


def trial(*scores: float | None) -> Trial:
    return Trial(values={}, fingerprint="", scores=list(scores), digests=[None] * len(scores))


def test_of_equal_scores_the_first_is_chosen_and_a_trial_with_a_failed_seed_never() -> None:
    assert choose([trial(0.2), trial(0.4), trial(0.4)]) == 1
    assert choose([trial(0.9, None), trial(0.1, 0.2), trial(0.2, 0.3)]) == 2
    assert choose([trial(None), trial(None)]) is None
    assert trial(0.1, 0.2).score == pytest.approx(0.15)


def test_failed_trials_are_no_choice_and_are_told(tmp_path: Path) -> None:
    """A learning rate at which the loss is no number."""
    record = tune(protocol(), plan("train.lr=0.01,1e25", heads=("fcn",)), small.execution(tmp_path))
    head = record.heads["fcn"]
    assert record.finished
    assert (head.chosen, head.trials[1].score) == (0, None)
    told = " ".join(sentences(record, record.heads))
    assert "Trials without a score, which cannot be chosen: fcn train.lr=1e+25 (" in told


# Interruption and resumption


def said(execution: Any, stop_at: str = "never") -> list[str]:
    """What is said from now on; a line that begins with `stop_at` is one at which Ctrl-C comes."""
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        execution.stop.requested |= line.startswith(stop_at)

    execution.reporter.say = say
    return lines


@pytest.mark.usefixtures("untrained")
def test_the_same_command_runs_no_finished_trial_again(tuned: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(tuned, tmp_path / "runs"))
    execution = small.execution(out)
    lines = said(execution)
    before = read_tuning(tuned / FOLDER)
    assert tune(protocol(), plan(), execution) == before
    assert "4 trials: 2 heads, 2 settings each, 1 seed; 4 are done, 0 are left" in lines
    assert sum("done already" in line for line in lines) == 4


def test_interrupted_it_says_what_is_left_is_not_over_and_goes_on(
    tuned: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(tuned, tmp_path / "runs"))
    shutil.rmtree(out / FOLDER / "lr=0.03")
    execution = small.execution(out)
    lines = said(execution, stop_at="settings 2 of 2: lr=0.03")
    with pytest.raises(Interrupted):
        tune(protocol(), plan(), execution)
    assert lines[-1] == "2 of 4 trials are done, 2 are left"
    assert not read_tuning(out / FOLDER).finished
    with pytest.raises(ConfigError, match="the tuning is not over, trials of fcn, ppm are left"):
        run_tuned(out / FOLDER, tmp_path / "final")
    assert tune(protocol(), plan(), small.execution(out)) == read_tuning(tuned / FOLDER)


@pytest.mark.usefixtures("untrained")
def test_another_recipe_is_refused_before_it_replaces_a_trial(tuned: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(tuned, tmp_path / "runs"))
    other = overridden(protocol(), ["train.weight_decay=0.1"])
    with pytest.raises(ConfigError, match=r"train\.weight_decay was 0\.0005, is 0\.1"):
        tune(other, plan(), small.execution(out))


def test_a_plan_counts_the_trials_that_are_left(
    tuned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Forecaster, "forecast", lambda _self, _head: Forecast())
    what = plan("train.lr=0.001,0.03,0.1")
    wanted = Wanted(what.heads, [0], time_steps=0)
    found = plan_tuning(protocol(), what, wanted, small.execution(tuned))
    assert [list(head.cells.values()) for head in found.heads] == [["done", "done", "to run"]] * 2
    assert list(found.views) == ["tuning"]


# Final runs


def test_final_runs_have_what_was_chosen_and_state_where_it_came_from(
    tuned: Path, collection: Collection
) -> None:
    tuning = read_tuning(tuned / FOLDER)
    base = open_setting(protocol(), None)
    for run in collection.runs:
        chosen = tuning.heads[run.head_name].values
        assert run.protocol["train"]["lr"] == chosen["train.lr"]
        assert list(run.views) == ["single"]  # that of the tuning is no part of it
        assert run.tuned is not None
        assert run.tuned.digest == tuning.digest
        assert run.tuned.head == tuning.heads[run.head_name]
        assert run.shared_fingerprint == base.fingerprint
        alone = open_setting(overridden(protocol(), [f"train.lr={chosen['train.lr']}"]), None)
        assert run.fingerprint == alone.fingerprint


def test_every_form_of_the_table_states_budget_and_choices(collection: Collection) -> None:
    printed = printed_comparison(collection.table, collection.notes)
    text = "Tuned: each head got 2 trials of train.lr=0.001,0.03, with seed 0"
    chosen = f"fcn train.lr={collection.table.set_index('head')['tuned']['fcn'].partition('=')[2]}"
    forms = [printed.markdown(), printed.markdown(["miou"]), printed.csv(), printed.latex(["miou"])]
    forms += [" ".join(printed.sheet(["miou"]).explanations), render_page([(collection, None)])]
    for form in forms:
        plain = "\n".join(line for line in form.splitlines() if not line.startswith("%"))
        assert text in plain
        assert f"Chosen: {chosen} (" in plain
        assert "rest on one training a trial" in plain
    assert "Of seed 0 the chosen trial is this very training" in forms[0]


def test_a_model_from_elsewhere_has_no_choice_beside_tuned_heads(collection: Collection) -> None:
    elsewhere = Imported(source="mmsegmentation", model="fcn", file="x.pth", digest="0")
    changes = {"tuned": None, "imported": elsewhere, "head": {"name": "other", "head": "fcn"}}
    other = collection.runs[0].model_copy(update=changes)
    table = comparison_table([*collection.runs, other], None).set_index("head")
    assert (table["tuned"]["other"], table["tuned_trials"]["other"]) == ("", 0)
    assert table["tuned"]["fcn"].startswith("train.lr=")


def test_the_page_shows_shared_values_and_how_to_run_it_again(collection: Collection) -> None:
    page = render_page([(collection, None)])
    assert 'id="comparison-1-tuning"' in page
    assert "tuned: fcn" in page
    assert "<span>tuned, 2 trials a head</span>" in page
    assert "contextbench tune --protocol tiny --heads fcn,ppm --seeds 0" in page
    assert "--tuned runs/tiny-tuning" in page


def test_tuned_heads_share_no_table_with_others(collection: Collection, tmp_path: Path) -> None:
    setting = open_setting(protocol(single={}), None)
    execution = small.execution(tmp_path)
    grids = [(setting, [small.head("ocr")])]
    (untuned,) = next(run_grids(grids, [0], Precision(), execution))
    with pytest.raises(MixedProtocolsError, match=r"tuned: by tuning .* / no"):
        check_comparable([*collection.runs, untuned])
    first = collection.runs[0]
    assert first.tuned is not None
    other = first.tuned.model_copy(update={"digest": "0" * 16})
    with pytest.raises(MixedProtocolsError, match="tuned: by tuning"):
        check_comparable([*collection.runs, first.model_copy(update={"tuned": other, "seed": 7})])


@pytest.mark.usefixtures("untrained")
def test_runs_of_one_setting_that_were_chosen_otherwise_are_other_cells(
    tuned: Path, collection: Collection, tmp_path: Path
) -> None:
    """Also where the protocol itself has the chosen values."""
    run = next(run for run in collection.runs if run.head_name == "fcn" and run.seed == 0)
    folder = tmp_path / "tiny" / "fcn" / "seed-0"
    write_model(folder / "record.json", run.model_copy(update={"tuned": None}))
    with pytest.raises(ConfigError, match="chosen without tuning and are chosen by tuning"):
        run_tuned(tuned / FOLDER, tmp_path, heads=("fcn",))


def altered(tuned: Path, tmp_path: Path, **changes: Any) -> Path:
    record = read_tuning(tuned / FOLDER)
    write_model(tmp_path / "tuning.json", record.model_copy(update=changes))
    return tmp_path


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        (protocol(single=TUNING), "reports scores on 'test', and heads were tuned by images of"),
        (protocol(single={}, more=TUNING), "view more reports scores on 'test'"),
        (protocol(tuning=TUNING), "no view but tuning"),
        (protocol(tuning=TUNING, single={}), "tuning as its first view"),
        (overridden(protocol(), ["train.steps=3"]), "train.steps was 2, is 3"),
        (overridden(protocol(), ["dataset.options.seed=1"]), "dataset.options.seed was"),
    ],
)
def test_choices_of_another_protocol_or_on_reported_images_are_refused(
    wanted: Protocol, told: str, tuned: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)):
        run_tuned(tuned / FOLDER, tmp_path, wanted=wanted)


@pytest.mark.usefixtures("untrained")
def test_what_is_reported_may_have_other_settings_than_in_the_tuning(
    tuned: Path, tmp_path: Path
) -> None:
    tuning, execution = read_tuning(tuned / FOLDER), small.execution(tmp_path)
    flipped = without_view(protocol(single={"flip": True}), tuning, execution)
    setting = open_setting(flipped, None)
    assert tuned_grids(setting, [small.head()], tuning, execution)


@pytest.mark.usefixtures("untrained")
def test_heads_that_were_not_tuned_or_have_no_choice_are_refused(
    tuned: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="head ocr was not tuned"):
        run_tuned(tuned / FOLDER, tmp_path, heads=("fcn", "ocr"))
    record = read_tuning(tuned / FOLDER)
    failed = [
        each.model_copy(update={"scores": [None], "cause": "no number"})
        for each in record.heads["fcn"].trials
    ]
    lost = record.heads["fcn"].model_copy(update={"trials": failed, "chosen": None, "alike": []})
    folder = altered(tuned, tmp_path, heads={**record.heads, "fcn": lost})
    with pytest.raises(ConfigError, match=r"no choice for fcn: .* \(no number\)"):
        run_tuned(folder, tmp_path)
    wide = {**record.heads["fcn"].head, "options": {"width": 7}}
    other = record.heads["fcn"].model_copy(update={"head": wide})
    folder = altered(tuned, tmp_path, heads={**record.heads, "fcn": other})
    with pytest.raises(ConfigError, match=r"tuned with other options: options\.width was 7"):
        run_tuned(folder, tmp_path)


def test_choices_on_other_images_are_refused(tuned: Path, tmp_path: Path) -> None:
    """The digests of the data are of other images; all that is written of them is the same."""
    record = read_tuning(tuned / FOLDER)
    train, _, by = record.dataset_fingerprint.partition("/")
    forged = f"{train[::-1]}/{by}"
    seen = protocol().fingerprint(forged, None, "tuning")
    folder = altered(tuned, tmp_path, dataset_fingerprint=forged, fingerprint=seen)
    with pytest.raises(ConfigError, match="made on other data: split train differs"):
        run_tuned(folder, tmp_path)


def test_a_folder_without_a_tuning_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"there is no tuning\.json"):
        read_tuning(tmp_path)
    (tmp_path / "tuning.json").write_text("{}")
    with pytest.raises(RecordError, match="schema version"):
        read_tuning(tmp_path)


# What is said


def basis(seeds: Sequence[int] = (0,), **changes: Any) -> Tuned:
    head = {"head": {}, "trials": [trial(*[0.5] * len(seeds))]}
    content = {
        "grid": ["train.lr=1,2,3"], "seeds": list(seeds), "view": "tuning", "settings": {},
        "split": "test", "images": 8, "digest": "d", "protocol_fingerprint": "f", "head": head,
    }  # fmt: skip
    return Tuned.model_validate({**content, **changes})


def head_of(*scores: float, chosen: int, **changes: Any) -> HeadTuning:
    trials = [
        trial(score).model_copy(update={"values": {"train.lr": number}})
        for number, score in enumerate(scores, 1)
    ]
    return HeadTuning(head={}, trials=trials, chosen=chosen, **changes)


def test_choices_within_noise_are_called_so() -> None:
    heads = {
        "fcn": head_of(0.1, 0.3, 0.2, chosen=1, alike=[2], compared="images"),
        "ocr": head_of(0.1, 0.2, 0.3, chosen=2, compared="images"),
    }
    told = " ".join(sentences(basis(), heads))
    assert "rest on one training a trial, so others may choose otherwise; over images alone" in told
    assert "not separated from the chosen one (within noise): fcn 1 of 2." in told
    assert "better ones may lie beyond: ocr train.lr=3." in told
    judged = {name: replace_compared(head) for name, head in heads.items()}
    told = " ".join(sentences(basis(seeds=(0, 1, 2)), judged))
    assert "Over trainings and images, other trials are not separated" in told
    assert "rest on" not in told


def replace_compared(head: HeadTuning) -> HeadTuning:
    return head.model_copy(update={"compared": "trainings"})


def test_the_choice_on_images_that_heads_are_trained_on_is_told() -> None:
    heads = {"fcn": head_of(0.1, 0.3, chosen=1, compared="images")}
    assert "trained on images of test" in " ".join(sentences(basis(trained_on=True), heads))


def test_lines_of_the_figure_join_the_best_at_each_value() -> None:
    values = [{"a": 1, "b": 1}, {"a": 1, "b": 2}, {"a": 2, "b": 1}, {"a": 2, "b": 2}]
    scores = (0.1, 0.4, 0.3, None)
    trials = [
        trial(score).model_copy(update={"values": each})
        for each, score in zip(values, scores, strict=True)
    ]
    head = HeadTuning(head={}, trials=trials, chosen=1)
    assert envelope(head, "a") == [(1, 0.4), (2, 0.3)]
    assert envelope(head, "b") == [(1, 0.3), (2, 0.4)]


def test_records_that_contradict_themselves_are_refused(tuned: Path, tmp_path: Path) -> None:
    content = json.loads((tuned / FOLDER / "tuning.json").read_text())
    for change in ({"chosen": 2}, {"alike": [5]}, {"trials": []}):
        broken = {**content, "heads": {"fcn": {**content["heads"]["fcn"], **change}}}
        (tmp_path / "tuning.json").write_text(json.dumps(broken))
        with pytest.raises(RecordError, match="not a valid record"):
            read_tuning(tmp_path)
    (tmp_path / "tuning.json").write_text(json.dumps({**content, "seeds": [0, 1]}))
    with pytest.raises(RecordError, match="has not the scores of 2 seeds"):
        read_tuning(tmp_path)


@pytest.mark.slow
def test_from_the_command_line_to_the_page(tmp_path: Path) -> None:
    settings = [word for text in small.SETTINGS for word in ("--set", text)]
    settings += ["--set", "evaluate.tuning.split=test", "--heads", "fcn,ocr"]
    out = ["-o", str(tmp_path)]
    grids = ["--grid", AXIS, "--grid", "fcn:head.loss_weights.aux=0,0.4"]
    grids += ["--grid", "ocr:head.loss_weights.coarse=0.2,0.4"]
    result = CliRunner().invoke(app, ["tune", *settings, *grids, *out])
    assert result.exit_code == 0, result.output
    assert "8 trials" in result.output
    assert (tmp_path / "probe-tuning" / "figures" / "tuning.svg").exists()
    rows = (tmp_path / "probe-tuning" / "trials.csv").read_text().splitlines()
    assert len(rows) == 9
    tuned = ["--tuned", str(tmp_path / "probe-tuning")]
    words = ["compare", *settings, *tuned, *out, "--rounds", "1", "--examples", "1"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "probe" / "figures" / "tuning.png").exists()
    table = (tmp_path / "probe" / "table.md").read_text()
    assert "each head got 4 trials" in table
    again = CliRunner().invoke(app, words)
    assert again.output.count("done already") == 2


MUTATED = basis(
    head=head_of(0.1, 0.3, 0.2, chosen=1, alike=[2], compared="images"), others={"train.lr": 0.1}
).model_dump(mode="json")


@pytest.mark.slow
@hypothesis.settings(FEW, max_examples=1000)
@hypothesis.given(mutated(MUTATED))
def test_what_a_record_says_of_a_tuning_is_refused_or_can_be_shown(content: Any) -> None:
    try:
        found = Tuned.model_validate(content)
    except ValueError:
        return
    heads = {"fcn": found.head}
    assert all(sentences(found, heads))
    figure = tuning_figure(found, heads, "Tuning")
    if figure is not None:
        figure.draw_without_rendering()
