"""Plans of comparisons: without data, nothing written, numbers that follow from the protocol."""

import json
import os
import re
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from contextbench.cli import app
from contextbench.cli.planning import _fits_text
from contextbench.config.files import ConfigError, names_in
from contextbench.config.protocols import Protocol, load_protocol
from contextbench.measure import forecast
from contextbench.measure.forecast import Forecast, Forecaster, free_bytes
from contextbench.measure.memory import predict_inference
from contextbench.measure.passes import Workload
from contextbench.models.build import build_model
from contextbench.models.precision import Precision
from contextbench.records.runs import cell_folder, read_run
from contextbench.records.stored import write_model
from contextbench.report.words import duration
from contextbench.runs.cells import Cell, open_setting
from contextbench.runs.plan import ComparisonPlan, HeadPlan, State, Wanted, plan_comparison
from contextbench.runs.run import run_cell
from contextbench.training.execution import Execution
from tests import small
from tests.cases import quick

CPU = torch.device("cpu")
TINY = ("backbone.name=resnet10", "backbone.width=8", "backbone.weights=null")
NARROW = ("head_width_factor=0.02",)


def wanted(**changes: Any) -> Wanted:
    return Wanted(**{"heads": [small.head()], "seeds": [0], "time_steps": 0, **changes})


def plan(protocol: Protocol, out: Path, **changes: Any) -> ComparisonPlan:
    return plan_comparison(protocol, wanted(**changes), small.execution(out))


def workload(size: tuple[int, int] = (64, 96), processes: int = 1, **evaluate: Any) -> Workload:
    settings = {**small.protocol().model_dump(), "evaluate": evaluate}
    return Workload(Protocol.model_validate(settings), 5, size, 10, processes)


def check_shipped(protocol: Protocol, out: Path) -> None:
    made = plan(protocol, out)
    (head,) = made.heads
    assert head.cells == {0: "to run"}
    found = head.forecast
    assert found.failure is None
    assert found.parameters is not None
    assert found.training_memory_bytes is not None
    assert found.inference_memory_bytes is not None
    # Weights, their gradients, and at least the optimizer's momentum.
    assert found.training_memory_bytes > 3 * 4 * found.parameters
    assert found.inference_memory_bytes > 4 * found.parameters + made.workload.kept_bytes
    assert made.train.images
    assert made.evaluate.images
    assert list(out.iterdir()) == []


# Whole images, windows, resized ones, and frames; the slow stage plans all, each as it is.
DIFFERENT = ("probe", "cityscapes-r101-semseg", "ade20k-r101", "camvid-small")


@pytest.mark.parametrize("name", quick(DIFFERENT, ("probe",)))
def test_shipped_protocols_have_a_plan_without_data(name: str, tmp_path: Path) -> None:
    """With a tiny backbone in place of its own; sizes, batch, classes and views are its own."""
    check_shipped(load_protocol(name, [*TINY, *NARROW]), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cityscapes-r50", "lip-r101"])
def test_large_backbones_are_planned_in_seconds(name: str, tmp_path: Path) -> None:
    check_shipped(load_protocol(name), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", names_in("protocols"))
def test_every_shipped_protocol_has_a_plan_with_its_own_backbone(name: str, tmp_path: Path) -> None:
    check_shipped(load_protocol(name), tmp_path)


def test_images_and_classes_are_known_without_data(tmp_path: Path) -> None:
    made = plan(load_protocol("cityscapes-r50", [*TINY, *NARROW]), tmp_path)
    assert (made.workload.classes, made.train.images, made.evaluate.images) == (19, 2975, 500)
    assert made.train.official
    assert not made.assumed_size
    assert made.workload.input_size == (1024, 2048)
    assert made.epochs == 40000 * 8 / 2975
    assert any(note.startswith("The data are not here: ") for note in made.notes)


@pytest.mark.slow
def test_sizes_of_images_that_differ_are_a_guess(tmp_path: Path) -> None:
    made = plan(load_protocol("ade20k-r50", [*TINY, *NARROW]), tmp_path)
    assert made.assumed_size
    assert made.workload.image_size == (512, 683)  # short side 512, 4 : 3
    context = plan(load_protocol("pascal-context-59-r50", [*TINY, *NARROW]), tmp_path)
    assert context.workload.image_size == (390, 520)  # short side 520, but long side at most 520


def test_a_part_of_the_batch_is_what_one_process_holds_at_a_time() -> None:
    settings = small.protocol(batch=12, accumulate=2).model_dump()
    work = Workload(Protocol.model_validate(settings), 5, (64, 64), None, processes=3)
    assert work.part == 2


@pytest.mark.parametrize(
    ("evaluate", "input_size", "passes"),
    [
        ({}, (64, 96), 1),
        ({"flip": True}, (64, 96), 2),
        ({"scales": [0.5, 1.0]}, (64, 96), 1.25),
        ({"scales": [0.5, 2.0], "flip": True}, (128, 192), 2 * (1 + 1 / 16)),
        ({"size": [32, 32]}, (32, 32), 1),
        # Starts 0, 16, 32 of 64 rows and 0, 32, 64 of 96 columns.
        ({"mode": "slide", "window": [32, 32], "stride": [16, 32]}, (32, 32), 9),
        ({"mode": "slide", "window": [80, 48], "stride": [80, 48]}, (64, 48), 2),
    ],
)
def test_work_of_an_image_in_passes(
    evaluate: dict[str, Any], input_size: tuple[int, int], passes: float
) -> None:
    work = workload(**evaluate)
    assert work.input_size == input_size
    assert work.passes == pytest.approx(passes)


def test_scores_that_evaluation_holds() -> None:
    """Feature maps of 8x12 and 4x6 for both mirrors; of 4x4 in each of six windows."""
    assert workload(scales=[1.0, 0.5], flip=True).kept_bytes == 4 * 5 * 2 * (8 * 12 + 4 * 6)
    window = {"mode": "slide", "window": [32, 32], "stride": [32, 32]}
    assert workload(**window).kept_bytes == 4 * 5 * 6 * 4 * 4
    assert workload(**window, flip=True).kept_bytes == 2 * 4 * 5 * 6 * 4 * 4


def forecaster(protocol: Protocol, steps: int = 0, processes: int = 1) -> Forecaster:
    return Forecaster(Workload(protocol, 13, (64, 64), 3, processes), CPU, steps)


def test_memory_is_that_of_the_model_with_what_a_plain_step_does_not_hold() -> None:
    """Averages: a copy of weights and buffers. Parts and processes: further gradients."""
    plain = forecaster(small.protocol(batch=2)).forecast(small.head())
    averaged = forecaster(small.protocol(batch=2, ema=0.9)).forecast(small.head())
    parts = forecaster(small.protocol(batch=4, accumulate=2)).forecast(small.head())
    shared = forecaster(small.protocol(batch=4), processes=2).forecast(small.head())
    model = build_model(small.protocol(), small.head(), 13, seed=0, pretrained=False)
    tensors = [*model.parameters(), *model.buffers()]
    assert plain.training_memory_bytes is not None
    assert averaged.training_memory_bytes == plain.training_memory_bytes + sum(
        tensor.numel() * tensor.element_size() for tensor in tensors
    )
    gradients = sum(4 * parameter.numel() for parameter in model.parameters())
    assert shared.training_memory_bytes == plain.training_memory_bytes + gradients
    assert parts.training_memory_bytes is not None
    # Of other parts gradients live throughout, and three loss terms; of one part the last gradients
    # are made when most activations are gone.
    more = parts.training_memory_bytes - plain.training_memory_bytes
    assert 0 < more <= gradients + 3 * 4
    whole = predict_inference(model, torch.empty(1, 3, 64, 64)).peak_bytes
    assert plain.inference_memory_bytes == whole + 4 * 13 * 8 * 8


def test_the_window_of_averaged_weights_is_noted(tmp_path: Path) -> None:
    """1 / (1 - decay) steps; where that is long for the run, what the growing decay makes of it."""
    notes = plan(small.protocol(steps=60, ema=0.9), tmp_path, heads=[]).notes
    assert "Averaged weights: over the last 8 steps or so of 60." in notes  # 69 / 9, not yet 10
    notes = plan(small.protocol(steps=60, ema=0.9999), tmp_path, heads=[]).notes
    assert any("about 10,000 steps, and the run has 60" in note for note in notes)


@pytest.mark.slow
def test_a_frozen_backbone_needs_less_memory_to_train() -> None:
    settings = small.protocol().model_copy(update={"shared_backbone": "frozen"})
    frozen = forecaster(settings).forecast(small.head()).training_memory_bytes
    trained = forecaster(small.protocol()).forecast(small.head()).training_memory_bytes
    assert frozen is not None
    assert trained is not None
    assert frozen < trained


@pytest.mark.parametrize(
    "loss", quick([{"ohem": {}}, {"dice": 1.0}, {"class_weights": "inverse_log"}], [{"ohem": {}}])
)
def test_losses_are_predicted_and_timed(loss: dict[str, Any], tmp_path: Path) -> None:
    found = plan(small.protocol(loss=loss), tmp_path, time_steps=1).heads[0].forecast
    plain = plan(small.protocol(), tmp_path).heads[0].forecast
    assert (found.failure, found.untimed) == (None, None)
    assert found.hours is not None
    assert (found.training_memory_bytes or 0) > (plain.training_memory_bytes or 0)


@pytest.mark.parametrize(("watch", "passes"), [(None, 3), ({"every": 300, "images": 2}, 3 + 4 * 2)])
def test_hours_are_those_of_all_steps_and_all_passes(
    watch: dict[str, int] | None, passes: int
) -> None:
    """Of three images; watched images are seen after 300, 600, 900 and 1000 steps."""
    protocol = small.protocol(steps=1000, watch=watch)
    found = forecaster(protocol, steps=2).forecast(small.head())
    assert len(found.step_ms) == len(found.pass_ms) == 2
    seconds = (1000 * median(found.step_ms) + passes * median(found.pass_ms)) / 1000
    assert found.hours == pytest.approx(seconds / 3600)


@pytest.mark.slow
def test_processes_share_evaluated_images() -> None:
    """Of three images the busier one of two processes takes two."""
    found = forecaster(small.protocol(steps=1), steps=1, processes=2).forecast(small.head())
    milliseconds = found.step_ms[0] + 2 * found.pass_ms[0]
    assert found.hours == pytest.approx(milliseconds / 3.6e6)


def test_a_step_of_hours_is_not_timed_on_any_device() -> None:
    """By the rate that this device has: two million crops a step, of which two are held at a time.

    At 10 microseconds a pass of 64 x 64 pixels, faster than a launch on a GPU, they are a minute.
    """
    protocol = small.protocol(batch=2_000_000, accumulate=1_000_000)
    found = forecaster(protocol, steps=3).forecast(small.head())
    assert found.untimed is not None
    assert re.fullmatch(
        r"about \S+ s a step and \S+ s a pass here, judged by a small pass; "
        r"timing may take 60 s a head",
        found.untimed,
    )
    assert (found.hours, found.step_ms) == (None, ())


@pytest.mark.slow
def test_a_step_of_terabytes_is_not_timed_on_any_device() -> None:
    """Two crops of 2^32 pixels, whose predicted images alone take 100 GB."""
    found = forecaster(small.protocol(crop=(2**16, 2**16)), steps=1).forecast(small.head())
    assert found.untimed is not None
    assert re.fullmatch(
        r"too large for this device(, which has \d+ GiB free|: out of memory)", found.untimed
    )


def test_what_would_take_too_long_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 1 MAC a ms: a pass takes its MACs, a step three times those of each of its two crops.

    The rate is given because the seconds in the message follow from it.
    """
    monkeypatch.setattr(Forecaster, "_macs_per_ms", 1.0)
    monkeypatch.setattr(Forecaster, "_samples", never)
    found = forecaster(small.protocol(), steps=3).forecast(small.head())
    assert found.macs is not None
    seconds = found.macs / 1000
    assert found.untimed == (
        f"about {float(f'{6 * seconds:.2g}'):g} s a step and {float(f'{seconds:.2g}'):g} s a pass "
        "here, judged by a small pass; timing may take 60 s a head"
    )
    assert (found.hours, found.step_ms) == (None, ())


def never(*_: object) -> None:
    raise AssertionError("must not be called")


@pytest.mark.slow
def test_timing_takes_no_longer_than_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Crops are as large as images: 1 + 3 steps of 3 x 2 passes, and 1 + 3 passes.

    A device is given that needs 1 % more or less than the limit, so nothing is timed.
    """
    monkeypatch.setattr(Forecaster, "_samples", lambda *_: ([1.0], [1.0]))
    macs = forecaster(small.protocol()).forecast(small.head()).macs
    assert macs is not None
    for rate, timed in ((28 * macs / 60_000 * 1.01, True), (28 * macs / 60_000 * 0.99, False)):
        monkeypatch.setattr(Forecaster, "_macs_per_ms", rate)
        found = forecaster(small.protocol(), steps=3).forecast(small.head())
        assert bool(found.step_ms) == timed


@pytest.mark.slow
def test_the_rate_of_a_device_is_measured_once_for_all_heads() -> None:
    made = forecaster(small.protocol(), steps=1)
    made.forecast(small.head())
    rate = made._macs_per_ms
    made.forecast(small.head("ocr"))
    assert made._macs_per_ms == rate > 0


def test_a_head_that_does_not_fit_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "free_bytes", lambda _: 2**20)
    found = forecaster(small.protocol(), steps=1).forecast(small.head())
    assert found.untimed == "too large for this device, which has 0 GiB free"
    assert found.hours is None


def test_a_head_that_runs_out_of_memory_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(forecast, "training_call", out_of_memory)
    found = forecaster(small.protocol(), steps=1).forecast(small.head())
    assert found.untimed == "too large for this device: out of memory"
    assert found.parameters


def test_a_head_that_cannot_be_predicted_has_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("no such operator")

    monkeypatch.setattr(forecast, "predicted", broken)
    failure = forecaster(small.protocol()).forecast(small.head()).failure
    assert failure is not None
    assert failure.cause == "ValueError: no such operator"


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="only Linux tells")
def test_free_memory_is_below_that_of_the_machine() -> None:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    free = free_bytes(CPU)
    assert free is not None
    assert 0 < free < total


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Execution:
    """One finished cell of the tiny protocol."""
    execution = small.execution(tmp_path_factory.mktemp("runs"))
    setting = open_setting(small.protocol(), None)
    record = run_cell(Cell(setting, small.head(), 0, Precision()), execution)
    assert record.status == "done"
    return execution


def states(protocol: Protocol, out: Path, **changes: Any) -> dict[int, State]:
    return dict(plan(protocol, out, **changes).heads[0].cells)


@pytest.mark.slow
def test_finished_cells_are_known_where_the_data_are_here(done: Execution) -> None:
    before = {path: path.stat().st_mtime_ns for path in done.out.rglob("*")}
    assert states(small.protocol(), done.out, seeds=[0, 1]) == {0: "done", 1: "to run"}
    assert states(small.protocol(), done.out, fresh=True) == {0: "to run"}
    assert states(small.protocol(lr=1.0), done.out) == {0: "other"}
    other_head = small.head(width=16)
    assert states(small.protocol(), done.out, heads=[other_head]) == {0: "other"}
    assert {path: path.stat().st_mtime_ns for path in done.out.rglob("*")} == before


@pytest.mark.parametrize(
    ("status", "retry", "expected"),
    [
        ("failed", False, "failed"),
        ("failed", True, "to run"),
        ("out_of_memory", False, "out_of_memory"),
        ("interrupted", False, "to resume"),
    ],
)
def test_states_of_unfinished_cells(
    done: Execution, tmp_path: Path, status: str, retry: bool, expected: str
) -> None:
    path = Path("tiny", "fcn", "seed-0", "record.json")
    record = read_run(done.out / path).model_copy(update={"status": status})
    write_model(tmp_path / path, record)
    assert states(small.protocol(), tmp_path, retry_failed=retry) == {0: expected}


def test_a_corrupt_record_is_none_and_stays_where_it_is(tmp_path: Path) -> None:
    folder = cell_folder(tmp_path, "tiny", "fcn", 0)
    folder.mkdir(parents=True)
    (folder / "record.json").write_text("{")
    assert states(small.protocol(), tmp_path) == {0: "to run"}
    (folder / "resume.pt").touch()
    assert states(small.protocol(), tmp_path) == {0: "to run"}  # compare sets it aside
    assert sorted(p.name for p in folder.iterdir()) == ["record.json", "resume.pt"]


@pytest.mark.slow
def test_without_data_a_record_of_the_same_recipe_is_unknown(
    done: Execution, tmp_path: Path
) -> None:
    """The recipe of a record can be compared without data, what it was made with cannot."""
    content = {**small.protocol().model_dump(mode="json"), "dataset": {"name": "camvid"}}
    protocol = Protocol.model_validate(content)
    record = read_run(cell_folder(done.out, "tiny", "fcn", 0) / "record.json")
    stored = record.model_copy(update={"protocol": protocol.model_dump(mode="json")})
    write_model(cell_folder(tmp_path, "tiny", "fcn", 0) / "record.json", stored)
    assert states(protocol, tmp_path, seeds=[0, 1]) == {0: "unknown", 1: "to run"}
    changed = Protocol.model_validate({**content, "precision": "bfloat16"})
    assert states(changed, tmp_path) == {0: "other"}


def test_hours_of_a_plan_count_the_cells_that_would_run(tmp_path: Path) -> None:
    made = plan(small.protocol(), tmp_path)
    two: dict[int, State] = {0: "done", 1: "to run", 2: "to resume", 3: "unknown"}
    heads = [HeadPlan("a", two, Forecast(hours=3.0)), HeadPlan("b", {0: "done"}, Forecast())]
    assert ComparisonPlan(**{**vars(made), "heads": heads}).hours == 6.0
    heads[1] = HeadPlan("b", {0: "to run"}, Forecast())
    assert ComparisonPlan(**{**vars(made), "heads": heads}).hours is None


@pytest.mark.parametrize(
    ("slowest", "noted"), quick([(149.0, False), (151.0, True)], [(151.0, True)])
)
def test_unsteady_times_are_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slowest: float, noted: bool
) -> None:
    monkeypatch.setattr(Forecaster, "_macs_per_ms", 1e9)
    monkeypatch.setattr(Forecaster, "_samples", lambda *_: ([100.0, slowest, 120.0], [1.0]))
    notes = plan(small.protocol(), tmp_path, time_steps=3).notes
    assert any("1.5 times as long as the fastest" in note for note in notes) == noted


@pytest.mark.slow
def test_a_choice_of_number_format_is_taken_over(tmp_path: Path) -> None:
    auto = small.protocol().model_copy(update={"precision": "auto"})
    first = plan(auto, tmp_path)
    assert first.precision == Precision()
    assert any(note.startswith("Number format auto: compare chooses one") for note in first.notes)
    chosen = {"dtype": "bfloat16", "memory_format": "channels_last"}
    path = tmp_path / "tiny" / "precision.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"device": first.device, "chosen": chosen}))
    assert plan(auto, tmp_path).precision == Precision("bfloat16", "channels_last")
    path.write_text(json.dumps({"device": "another", "chosen": chosen}))
    assert plan(auto, tmp_path).precision == Precision()


def test_processes_must_share_the_batch_equally(tmp_path: Path) -> None:
    message = "--processes 3: a batch of 2 has no 3 equal parts"
    with pytest.raises(ConfigError, match=message):
        plan(small.protocol(), tmp_path, processes=3)


def compare(*arguments: object) -> Any:
    settings = [part for setting in small.SETTINGS for part in ("--set", setting)]
    texts = ["compare", "--heads", "fcn,ocr", *settings, *map(str, arguments)]
    return CliRunner().invoke(app, texts, env={"COLUMNS": "80"})


def test_the_command_prints_a_plan_within_80_columns_and_writes_nothing(tmp_path: Path) -> None:
    timed = ("--dry-run", "--time-steps", 1, "--memory", "24GiB")
    result = compare("--out", tmp_path, "--seeds", "0,1", *timed)
    assert result.exit_code == 0, result.output
    table = [line for line in result.stdout.splitlines() if not line.startswith("note:")]
    assert max(map(len, table)) <= 80
    assert "4 steps of 2 crops of 64x64: 8 crops, 1.0 epochs" in result.stdout
    assert "fcn 2 to run" in " ".join(result.stdout.split())
    assert "4 of 4 cells would run, one after another for about" in result.stdout
    assert (
        "note: Hours of a cell: 4 steps x ms of a step + 3 images x ms of a pass." in result.stdout
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_few_steps_are_timed_unless_told_otherwise(tmp_path: Path) -> None:
    made = plan(small.protocol(), tmp_path, time_steps=None)
    assert made.timed_steps == len(made.heads[0].forecast.step_ms) == 3


@pytest.mark.parametrize(
    ("hours", "text"),
    [
        (0.0005, "1.8 seconds"),
        (0.02, "72 seconds"),
        (0.5, "30 minutes"),
        (1.99, "120 minutes"),
        (2, "2 hours"),
        (47.6, "48 hours"),
        (100, "4.2 days"),
    ],
)
def test_durations_have_two_digits(hours: float, text: str) -> None:
    assert duration(hours) == text


@pytest.mark.slow
def test_reasons_are_said_once_for_all_heads_that_share_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forecast, "free_bytes", lambda _: 2**20)
    result = compare("--out", tmp_path, "--dry-run")
    reason = "too large for this device, which has 0 GiB free"
    assert f"note: fcn, ocr not timed: {reason}." in result.stdout
    assert "2 of 2 cells would run, for how long is not known." in result.stdout


def test_states_that_a_user_must_know_about_are_explained(done: Execution) -> None:
    made = plan(small.protocol(lr=1.0), done.out)
    assert any(note.startswith("Cells that are other: runs of another") for note in made.notes)
    assert not any("Cells that" in note for note in plan(small.protocol(), done.out).notes)


@pytest.mark.slow
def test_published_scores_are_printed_for_the_heads_of_the_plan(tmp_path: Path) -> None:
    settings = [part for setting in (*TINY, *NARROW) for part in ("--set", setting)]
    texts = ["compare", "--protocol", "voc-aug-r50", "--heads", "ppm,ocnet", "--dry-run"]
    texts += ["--time-steps", "0", "--out", str(tmp_path), *settings]
    result = CliRunner().invoke(app, texts, env={"COLUMNS": "100"})
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    expected = load_protocol("voc-aug-r50").expected
    assert expected is not None
    assert f"source      {expected.source}" in lines
    assert f"GPU hours   {expected.gpu_hours}" in lines
    assert f"expected    single: ppm {expected.scores['single']['ppm']}" in lines
    assert "            single: nothing published for ocnet" in lines


def test_the_plan_as_json_has_base_units(tmp_path: Path) -> None:
    content = json.loads(
        compare(
            "--out", tmp_path, "--dry-run", "--json", "--time-steps", 0, "--memory", "4 MiB"
        ).stdout
    )
    fcn, ocr = content["heads"]
    assert content["card_bytes"] == 4 * 2**20
    assert fcn["fits"] == {
        "training": fcn["training_memory_bytes"] <= 4 * 2**20,
        "evaluation": fcn["inference_memory_bytes"] <= 4 * 2**20,
    }
    assert (fcn["name"], fcn["cells"], ocr["name"]) == ("fcn", {"0": "to run"}, "ocr")
    assert fcn["training_memory_bytes"] > 2**20
    assert content["hours"] is None
    assert content["protocol"]["train"]["steps"] == 4


def test_a_plan_says_whether_cells_fit_the_card() -> None:
    """To the byte, training and evaluation each; nothing of a head of which nothing is known."""
    sizes = Forecast(training_memory_bytes=200, inference_memory_bytes=100)
    planned = HeadPlan("fcn", {}, sizes)
    assert planned.fits(200) == {"training": True, "evaluation": True}
    assert planned.fits(199) == {"training": False, "evaluation": True}
    assert planned.fits(99) == {"training": False, "evaluation": False}
    assert HeadPlan("fcn", {}, Forecast()).fits(200) is None
    texts = [_fits_text(planned.fits(size)) for size in (200, 199, 99)]
    assert texts == ["yes", "no: training", "no: training and evaluation"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--memory", "24G"], "--memory '24G': write a number and its unit"),
        (["--memory", "24GiB", "--launcher", "slurm"], "leave one of the two out"),
    ],
)
def test_the_memory_of_a_card_is_not_guessed(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    result = compare("--out", tmp_path, "--dry-run", *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


@pytest.mark.parametrize("option", [("--time-steps", 2), ("--processes", 2)])
def test_options_of_plans_need_a_dry_run(tmp_path: Path, option: tuple[str, int]) -> None:
    result = compare("--out", tmp_path, *option)
    assert result.exit_code == 2
    assert "--time-steps and --processes are for --dry-run" in result.stderr
