"""What an unfinished or damaged run goes on from, and what it is refused for."""

import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from contextbench.config.files import ConfigError
from contextbench.config.protocols import Protocol
from contextbench.data import DataError
from contextbench.data.stream import TrainStream
from contextbench.models.build import build_model
from contextbench.models.checkpoint import CheckpointError, load_checkpoint
from contextbench.models.precision import Precision
from contextbench.records.comparability import warnings_for
from contextbench.records.counts import read_areas
from contextbench.records.history import read_history
from contextbench.records.runs import MisplacedError, RunRecord, read_run
from contextbench.records.stored import write_model
from contextbench.report.collection import collect
from contextbench.runs import run as runner
from contextbench.runs import views
from contextbench.runs.cells import Cell, Setting, cell_lock, open_setting
from contextbench.runs.grid import run_grid
from contextbench.runs.plan import Wanted, plan_comparison
from contextbench.runs.trained import finished_record
from contextbench.runs.weights import description, load_trained, own_run
from contextbench.system.files import (
    clear_leftovers,
    digest_of,
    temporary_path,
    write_atomic,
    write_sealed,
)
from contextbench.system.interrupt import Interrupted
from contextbench.training.failures import failure_of, is_out_of_memory
from contextbench.training.resume import DamagedError, read_state, saved_progress
from tests import small

BATCH = 2  # of the tiny protocol
STEPS = 4
RUN = Path("tiny", "fcn", "seed-0")


def run(setting: Setting, out: Path, **options: Any) -> RunRecord:
    precision = options.pop("precision", Precision())
    [record] = run_grid(setting, [small.head()], [0], precision, small.execution(out), **options)
    return record


class Broken:
    """Training items, of which one cannot be read until it is mended."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
        self.item: int | None = BATCH * step
        self.asked: list[int] = []
        real = TrainStream.__getitem__

        def getitem(stream: TrainStream, index: int) -> Any:
            self.asked.append(index)
            if index == self.item:
                raise DataError("a.png is cut off")
            return real(stream, index)

        monkeypatch.setattr(TrainStream, "__getitem__", getitem)


@pytest.fixture(scope="module")
def setting() -> Setting:
    return open_setting(small.protocol(), None)


@pytest.fixture(scope="module")
def done(setting: Setting, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; tests copy it."""
    out = tmp_path_factory.mktemp("done")
    run(setting, out)
    return out


@pytest.fixture(scope="module")
def begun(setting: Setting, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that met a broken image in its third step; tests copy it."""
    out = tmp_path_factory.mktemp("begun")
    with pytest.MonkeyPatch.context() as patch:
        Broken(patch, 2)
        record = run(setting, out)
    assert (record.status, record.steps) == ("failed", 2)
    return out


@pytest.fixture
def unfinished(begun: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(begun, tmp_path / "runs"))


def interrupt(out: Path) -> None:
    """As if it had been Ctrl-C that ended the run."""
    path = out / RUN / "record.json"
    write_model(path, read_run(path).model_copy(update={"status": "interrupted", "failure": None}))


def assert_same_run(out: Path, other: Path) -> None:
    """Checkpoint to the byte, history and counts."""
    one, two = out / RUN, other / RUN
    assert digest_of(one / "checkpoint.safetensors") == digest_of(two / "checkpoint.safetensors")
    assert read_history(one / "history.jsonl") == read_history(two / "history.jsonl")
    areas, others = read_areas(one / "areas.npz"), read_areas(two / "areas.npz")
    np.testing.assert_array_equal(areas.intersection, others.intersection)


def test_what_the_data_failed_in_goes_on_from_there(
    setting: Setting, done: Path, unfinished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once more with the image still broken: steps, seconds and losses of before are kept."""
    first = read_run(unfinished / RUN / "record.json")
    broken = Broken(monkeypatch, 2)
    again = run(setting, unfinished, retry_failed=True)
    assert (again.status, again.steps) == ("failed", 2)
    assert again.train_seconds == first.train_seconds > 0
    assert len(read_history(unfinished / RUN / "history.jsonl")) == 2
    broken.item, broken.asked = None, []
    assert run(setting, unfinished) == again  # kept until a retry is asked for
    record = run(setting, unfinished, retry_failed=True)
    assert record.status == "done"
    assert min(broken.asked) == 2 * BATCH  # items of the steps before are not asked for
    assert record.train_seconds > first.train_seconds
    assert_same_run(unfinished, done)


def test_failed_evaluation_is_all_that_is_done_again(
    setting: Setting, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = views.evaluate

    def evaluate(*_arguments: Any, **_options: Any) -> None:
        raise DataError("b.png is cut off")

    monkeypatch.setattr(views, "evaluate", evaluate)
    failed = run(setting, tmp_path)
    assert (failed.status, failed.steps) == ("failed", STEPS)
    monkeypatch.setattr(views, "evaluate", real)
    monkeypatch.setattr("contextbench.training.loop.train_step", None)  # calling it would fail
    record = run(setting, tmp_path, retry_failed=True)
    assert record.status == "done"
    assert record.train_seconds == failed.train_seconds
    assert [(leg.first_step, leg.last_step) for leg in record.legs] == [(0, 4), (4, 4)]
    assert_same_run(tmp_path, done)


def test_a_loss_that_is_not_finite_is_recorded_at_its_step_and_begins_anew(
    tmp_path: Path,
) -> None:
    bad = open_setting(small.protocol(lr=1e30, steps=30), None)
    record = run(bad, tmp_path)
    assert record.failure is not None
    step = int(re.findall(r"at step (\d+)", record.failure.message)[0])
    assert record.steps == step > 0
    assert len(read_history(tmp_path / RUN / "history.jsonl")) == step - 1
    again = run(bad, tmp_path, retry_failed=True)
    assert (again.legs[0].first_step, len(again.legs)) == (0, 1)


def test_an_unfinished_run_of_another_configuration_is_refused(
    unfinished: Path, setting: Setting
) -> None:
    """Whether it is known from a record or, after a kill, from its state alone; nothing is lost."""
    other = open_setting(small.protocol(lr=0.5), None)
    interrupt(unfinished)
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"protocol\.train\.lr was 0\.01, is 0\.5.*--fresh"):
            run(other, unfinished)
        assert saved_progress(unfinished / RUN / "resume.pt").step == 2
        assert states(other.protocol, unfinished) == "other"
        assert states(setting.protocol, unfinished) == "to resume"
        (unfinished / RUN / "record.json").unlink(missing_ok=True)
    head = [small.head(dropout=0.5)]
    with pytest.raises(ConfigError, match=r"at step 2: .*options\.dropout was .* is 0\.5"):
        run_grid(setting, head, [0], Precision(), small.execution(unfinished))
    assert run(other, unfinished, fresh=True).status == "done"


def test_compiling_in_a_folder_of_runs_that_are_not_compiled_is_refused(
    done: Path, unfinished: Path
) -> None:
    other = open_setting(small.protocol(compile=True), None)
    for out in (unfinished, done):
        with pytest.raises(ConfigError, match=r"train\.compile.*--fresh"):
            run(other, out)
    assert saved_progress(unfinished / RUN / "resume.pt").step == 2


def states(protocol: Protocol, out: Path) -> str:
    wanted = Wanted(heads=[small.head()], seeds=[0], time_steps=0)
    return plan_comparison(protocol, wanted, small.execution(out)).heads[0].cells[0]


def test_an_unfinished_run_keeps_its_number_format_where_the_format_is_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    auto = small.protocol().model_copy(update={"precision": "auto"})
    setting, out = open_setting(auto, None), tmp_path / "auto"
    broken = Broken(monkeypatch, 2)
    run(setting, out, precision=Precision("bfloat16"))
    interrupt(out)
    broken.item, broken.asked = None, []
    record = run(setting, out, precision=Precision("float32"))
    assert (record.status, record.precision["dtype"]) == ("done", "bfloat16")
    assert min(broken.asked) == 2 * BATCH
    assert [leg.precision["dtype"] for leg in record.legs] == ["bfloat16", "bfloat16"]


def flipped(content: bytes, count: int) -> Iterator[tuple[int, bytes]]:
    """So many files, each with one other bit."""
    chosen = random.Random(0).sample(range(8 * len(content)), count)
    for bit in (*chosen, *range(0, 64), *range(8 * len(content) - 64, 8 * len(content))):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << (bit % 8)
        yield bit, bytes(changed)


@pytest.mark.slow
def test_every_flipped_bit_of_a_state_is_noticed(unfinished: Path, tmp_path: Path) -> None:
    path = tmp_path / "resume.pt"
    for bit, content in flipped((unfinished / RUN / "resume.pt").read_bytes(), 60):
        path.write_bytes(content)
        with pytest.raises((DamagedError, ConfigError)):
            pytest.fail(f"bit {bit}: {read_state(path, tensors=False)}")


def test_every_flipped_bit_of_a_checkpoint_is_noticed(
    done: Path, setting: Setting, tmp_path: Path
) -> None:
    model = build_model(setting.protocol, small.head(), 13, seed=0)
    path = tmp_path / "checkpoint.safetensors"
    for bit, content in flipped((done / RUN / path.name).read_bytes(), 60):
        path.write_bytes(content)
        with pytest.raises(CheckpointError):
            pytest.fail(f"bit {bit}: {load_checkpoint(path, model, {})}")


@pytest.mark.parametrize("change", [{"step": 10**6}, {"step": -1}, {"history": []}])
def test_a_state_whose_steps_do_not_fit_is_set_aside_and_that_is_said(
    setting: Setting,
    unfinished: Path,
    change: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
    done: Path,
) -> None:
    path = unfinished / RUN / "resume.pt"
    state = {**(read_state(path) or {}), **change}
    write_sealed(path, lambda file: torch.save(state, file))
    record = run(setting, unfinished, retry_failed=True)
    assert (record.status, len(record.legs)) == ("done", 1)
    assert path.with_name("resume.pt.corrupt-1").exists()
    assert "resume.pt is set aside as resume.pt.corrupt-1: " in caplog.text
    assert_same_run(unfinished, done)


def test_a_state_of_an_earlier_version_is_refused_and_kept(
    setting: Setting, unfinished: Path
) -> None:
    path = unfinished / RUN / "resume.pt"
    torch.save({"identity": "text", "step": 1, "history": []}, path)
    with pytest.raises(ConfigError, match="earlier version of contextbench"):
        run(setting, unfinished, retry_failed=True)
    assert path.exists()


def test_a_run_in_another_seeds_or_heads_folder_is_refused(
    setting: Setting, done: Path, tmp_path: Path
) -> None:
    out = tmp_path / "runs"
    shutil.copytree(done / RUN, out / "tiny" / "fcn" / "seed-1")
    message = r"is that of fcn, seed 0, which is stored in fcn/seed-0: .*copied or moved"
    with pytest.raises(MisplacedError, match=message):
        run_grid(setting, [small.head()], [1], Precision(), small.execution(out))
    for use in (collect, lambda folder: finished_record(folder / "fcn" / "seed-1")):
        with pytest.raises(MisplacedError, match=message):
            use(out / "tiny")
    shutil.copytree(done / RUN, out / "tiny" / "ppm" / "seed-0")
    with pytest.raises(MisplacedError, match=r"ppm.seed-0.record\.json is that of fcn"):
        finished_record(out / "tiny" / "ppm" / "seed-0")
    assert (out / "tiny" / "ppm" / "seed-0" / "record.json").exists()


@pytest.mark.parametrize("place", ["elsewhere", "elsewhere/seed-0", "renamed/fcn/seed-0"])
def test_a_run_may_be_copied_to_anywhere(done: Path, tmp_path: Path, place: str) -> None:
    shutil.copytree(done / RUN, tmp_path / place)
    assert finished_record(tmp_path / place).seed == 0


def test_weights_of_another_run_are_refused(done: Path, setting: Setting, tmp_path: Path) -> None:
    """Of another seed by what they state, of the same cell by the record's digest."""
    out = Path(shutil.copytree(done, tmp_path / "runs"))
    path = out / RUN / "checkpoint.safetensors"

    def load() -> None:
        arguments = (setting.protocol, small.head(), 13, Precision(), torch.device("cpu"))
        load_trained(out / RUN, *arguments)

    load()
    model = build_model(setting.protocol, small.head(), 13, seed=1)
    about = description(setting.protocol, small.head(), 13)
    own = own_run("fcn", 0, setting.fingerprint)
    runner.save_checkpoint(path, model, {**about, **own, "seed": "1"})
    with pytest.raises(CheckpointError, match="of another run: seed is '1', expected '0'"):
        load()
    runner.save_checkpoint(path, model, {**about, **own})
    with pytest.raises(CheckpointError, match=r"not the file that record\.json was written with"):
        load()


def test_weights_of_earlier_versions_are_taken_and_that_is_said(
    done: Path, setting: Setting, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "checkpoint.safetensors"
    about = description(setting.protocol, small.head(), 13)
    save_file(load_file(done / RUN / path.name), path, metadata=about)
    load_checkpoint(path, build_model(setting.protocol, small.head(), 13, seed=0), about)
    assert "states neither its run nor a digest" in caplog.text


def test_damaged_counts_are_counted_again_without_training(
    done: Path, setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Path(shutil.copytree(done, tmp_path / "runs"))
    monkeypatch.setattr(runner, "train", None)  # calling it would fail
    path = out / RUN / "areas.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    record = run(setting, out)
    assert record == read_run(out / RUN / "record.json")
    assert record.totals == read_areas(path).totals()
    assert_same_run(out, done)
    path.unlink()
    (out / RUN / "checkpoint.safetensors").unlink()
    assert run(setting, out) == record  # nothing to count with: as it was, and said
    assert not path.exists()


def test_a_file_of_weights_is_known_by_its_content(tmp_path: Path) -> None:
    """Overwritten it is another protocol, moved it is not."""
    path = tmp_path / "a.pth"
    backbone = build_model(small.protocol(), small.head(), 13, seed=3).backbone
    state = {k: v for k, v in backbone.state_dict().items() if "num_batches" not in k}
    torch.save(state, path)
    first = open_setting(with_weights(path), None)
    record = run(first, tmp_path / "runs")
    assert record.weights_digest == first.weights_digest == digest_of(path)
    moved = Path(shutil.copy(path, tmp_path / "b.pth"))
    assert open_setting(with_weights(moved), None).fingerprint == first.fingerprint
    torch.save({k: torch.zeros_like(v) for k, v in state.items()}, path)
    second = open_setting(with_weights(path), None)
    with pytest.raises(ConfigError, match=r"the content of the file that backbone\.weights names"):
        run(second, tmp_path / "runs")
    with pytest.raises(ConfigError, match="not the file that this comparison began with"):
        run(first, tmp_path / "runs", fresh=True)
    path.unlink()
    with pytest.raises(ConfigError, match=r"backbone\.weights: cannot read .*a\.pth"):
        open_setting(with_weights(path), None)


def with_weights(path: Path) -> Protocol:
    protocol = small.protocol()
    backbone = protocol.backbone.model_copy(update={"weights": str(path)})
    return protocol.model_copy(update={"backbone": backbone})


def test_equal_runs_have_equal_files(done: Path, setting: Setting, tmp_path: Path) -> None:
    run(setting, tmp_path)
    assert_same_run(tmp_path, done)
    assert digest_of(tmp_path / RUN / "areas.npz") == digest_of(done / RUN / "areas.npz")


def test_a_record_tells_every_leg_and_tables_what_changed_between_them(
    setting: Setting, unfinished: Path
) -> None:
    """A run that two processes began, as their state tells it, and one ends."""
    path = unfinished / RUN / "resume.pt"
    state = dict(read_state(path) or {})
    [leg] = state["legs"]
    told = {"processes": 2, "batch_norm": "warning: each process normalises its own images"}
    leg["environment"] |= told
    write_sealed(path, lambda file: torch.save(state, file))
    record = run(setting, unfinished, retry_failed=True)
    assert record == read_run(unfinished / RUN / "record.json")
    assert [(leg.first_step, leg.last_step) for leg in record.legs] == [(0, 2), (2, 4)]
    assert [leg.environment.get("processes") for leg in record.legs] == [2, None]
    assert record.started == record.legs[0].started
    notes = warnings_for([record], None)
    assert any("fcn seed 0, steps 1 to 2 on 2 processes" in note for note in notes)
    assert any("(steps 1 to 2: processes 2; steps 3 to 4: processes 1)" in note for note in notes)


def test_temporary_files_of_dead_processes_go_and_no_others(
    setting: Setting, tmp_path: Path
) -> None:
    cell, execution = Cell(setting, small.head(), 0, Precision()), small.execution(tmp_path)
    folder = cell.folder(tmp_path)
    folder.mkdir(parents=True)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    own = temporary_path(folder / "resume.pt").name
    dead = own.replace(str(os.getpid()), str(ended.pid))
    place = own.split(".")[-2].partition("-")[0]
    far = dead.replace(place, "0" * 8)  # another machine, whose processes cannot be seen
    old = far.replace("resume", "record")
    for name in (own, dead, far, old):
        (folder / name).touch()
    (folder / "mine.1").touch()
    os.utime(folder / old, (0, 0))
    with cell_lock(cell, execution):
        left = sorted(path.name for path in folder.iterdir())
    assert left == sorted([own, far, "mine.1", ".lock"])


def test_names_of_temporary_files_are_those_that_are_cleared(tmp_path: Path) -> None:
    seen: list[str] = []

    def write(file: Any) -> None:
        seen.extend(path.name for path in tmp_path.iterdir())
        clear_leftovers(tmp_path)  # of a process that lives
        assert [path.name for path in tmp_path.iterdir()] == seen
        file.write(b"x")

    write_atomic(tmp_path / "a.json", write)
    expected = temporary_path(tmp_path / "a.json").name
    assert seen[0].rpartition(".")[0] == expected.rpartition(".")[0]


WORKER = """Caught RuntimeError in DataLoader worker process 1.
Original Traceback (most recent call last):
  File "worker.py", line 349, in _worker_loop
    data = fetcher.fetch(index)
RuntimeError: unable to allocate shared memory(shm) for file </torch_7_1>: No space left (28)
"""


def test_errors_of_workers_are_one_line_with_the_way_out() -> None:
    failure = failure_of(RuntimeError(WORKER))
    assert failure.cause == (
        "RuntimeError: unable to allocate shared memory(shm) for file </torch_7_1>: No space left "
        "(28); give worker processes more room: fewer --workers, or a larger /dev/shm"
    )
    assert failure.detail == WORKER
    other = failure_of(DataError(WORKER.replace("RuntimeError: unable", "x.DataError: a.png: un")))
    assert other.message.startswith("a.png: un")
    assert failure_of(ValueError("as it is")).detail is None


def test_main_memory_that_does_not_suffice_is_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_an_interruption_before_the_first_step_keeps_what_is_stored(
    setting: Setting, unfinished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_arguments: Any, **_options: Any) -> None:
        raise Interrupted

    monkeypatch.setattr(runner, "build_model", stopped)
    with pytest.raises(Interrupted):
        run(setting, unfinished, retry_failed=True)
    record = read_run(unfinished / RUN / "record.json")
    assert (record.status, record.steps, len(record.legs)) == ("interrupted", 2, 1)
