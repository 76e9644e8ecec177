"""Cells from configuration to record: what is run, resumed, kept, refused and recorded."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from contextbench.config.files import ConfigError
from contextbench.models.checkpoint import CheckpointError
from contextbench.models.precision import Precision
from contextbench.records.counts import read_areas
from contextbench.records.history import read_history
from contextbench.records.runs import read_run
from contextbench.runs import run as runner
from contextbench.runs.cells import Cell, cell_lock, lock, open_setting
from contextbench.runs.grid import run_grid
from contextbench.runs.weights import load_trained
from contextbench.system.files import OutputError
from contextbench.system.interrupt import Interrupted
from contextbench.system.locks import BusyError
from tests import small


@pytest.fixture
def setting():
    return open_setting(small.protocol(), None)


def run(setting, out, *names, **options):
    heads = [small.head(name) for name in names or ("fcn",)]
    return run_grid(setting, heads, [0], Precision(), small.execution(out), **options)


def test_a_cell_leaves_record_areas_history_and_checkpoint(setting, tmp_path):
    [record] = run(setting, tmp_path)
    folder = tmp_path / "tiny" / "fcn" / "seed-0"
    assert record == read_run(folder / "record.json")
    assert (record.status, record.steps, record.evaluated_images) == ("done", 4, 3)
    areas = read_areas(folder / "areas.npz")
    assert areas.totals() == record.totals
    assert areas.labelled.sum() == 3 * 64 * 64  # the probe has no ignored pixels
    assert len(read_history(folder / "history.jsonl")) == 4
    assert (folder / "config.yaml").exists()
    assert (folder / "checkpoint.safetensors").exists()
    assert not (folder / "resume.pt").exists()


def test_records_hold_no_path_of_the_machine(setting, tmp_path):
    run(setting, tmp_path)
    text = (tmp_path / "tiny" / "fcn" / "seed-0" / "record.json").read_text()
    assert str(tmp_path) not in text
    assert os.uname().nodename not in json.loads(text)["environment"].values()


def test_finished_cells_are_not_run_again(setting, tmp_path, monkeypatch):
    first = run(setting, tmp_path)
    monkeypatch.setattr(runner, "train", None)  # calling it would fail
    assert run(setting, tmp_path) == first


def test_fresh_runs_again(setting, tmp_path):
    [first] = run(setting, tmp_path)
    [again] = run(setting, tmp_path, fresh=True)
    assert again.totals == first.totals
    assert again.steps == 4


def test_a_run_of_another_protocol_is_refused_with_the_difference(setting, tmp_path):
    run(setting, tmp_path)
    other = open_setting(small.protocol(lr=0.5), None)
    with pytest.raises(ConfigError, match=r"protocol\.train\.lr was 0\.01, is 0\.5.*--fresh"):
        run(other, tmp_path)


def test_other_head_options_are_refused(setting, tmp_path):
    run(setting, tmp_path)
    heads = [small.head("fcn", dropout=0.5)]
    with pytest.raises(ConfigError, match=r"head\.options\.dropout"):
        run_grid(setting, heads, [0], Precision(), small.execution(tmp_path))


def test_one_failing_cell_is_recorded_and_the_others_go_on(setting, tmp_path, monkeypatch):
    real = runner.train

    def train(model, *arguments, **options):
        if type(model.head).__name__ == "PPMHead":
            raise torch.OutOfMemoryError("no memory for 3 TiB")
        return real(model, *arguments, **options)

    monkeypatch.setattr(runner, "train", train)
    records = run(setting, tmp_path, "fcn", "ppm", "encnet")
    assert [record.status for record in records] == ["done", "out_of_memory", "done"]
    assert records[1].failure.message == "no memory for 3 TiB"
    assert records[1].totals is None


def test_nan_loss_is_a_failed_record_and_is_kept_until_retried(tmp_path):
    setting = open_setting(small.protocol(lr=1e30, steps=30), None)
    [record] = run(setting, tmp_path)
    assert record.status == "failed"
    assert record.failure.kind == "TrainingError"
    assert "not finite at step" in record.failure.message
    [kept] = run(setting, tmp_path)
    assert kept == record
    [retried] = run(setting, tmp_path, retry_failed=True)
    assert retried.status == "failed"


def test_batch_of_one_with_pooled_branch_is_a_failure_with_its_reason(tmp_path):
    setting = open_setting(small.protocol(batch=1), None)
    [record] = run(setting, tmp_path, "ppm")
    assert record.status == "failed"
    assert "batch" in record.failure.message


def test_corrupt_record_is_set_aside_and_the_cell_runs_again(setting, tmp_path):
    [first] = run(setting, tmp_path)
    path = tmp_path / "tiny" / "fcn" / "seed-0" / "record.json"
    path.write_text(path.read_text()[:100])
    [again] = run(setting, tmp_path)
    assert again.totals == first.totals
    assert path.with_name("record.json.corrupt-1").exists()


def test_interruption_is_recorded_and_the_next_call_goes_on(setting, tmp_path):
    [undisturbed] = run(setting, tmp_path / "a")
    execution = small.execution(tmp_path / "b")
    execution.stop.requested = True
    with pytest.raises(Interrupted):
        run_grid(setting, [small.head()], [0], Precision(), execution)
    folder = tmp_path / "b" / "tiny" / "fcn" / "seed-0"
    assert read_run(folder / "record.json").status == "interrupted"
    [resumed] = run(setting, tmp_path / "b")
    assert resumed.totals == undisturbed.totals


def test_full_disk_stops_the_comparison_and_keeps_what_was_written(setting, tmp_path, monkeypatch):
    [before] = run(setting, tmp_path)

    def full(*_arguments):
        raise OutputError("cannot write areas.npz: No space left on device")

    monkeypatch.setattr(runner, "write_areas", full)
    with pytest.raises(OutputError, match="No space left"):
        run(setting, tmp_path, fresh=True)
    assert read_run(tmp_path / "tiny" / "fcn" / "seed-0" / "record.json") == before


def test_one_cell_is_written_by_one_process_and_others_meanwhile(setting, tmp_path):
    execution = small.execution(tmp_path)
    cell = Cell(setting, small.head("ppm"), 0, Precision())
    with cell_lock(cell, execution):
        with (
            pytest.raises(BusyError, match=r"another contextbench process.*ppm.seed-0"),
            cell_lock(cell, execution),
        ):
            pass
        [record] = run(setting, tmp_path, "fcn")
        assert record.status == "done"
    with cell_lock(cell, execution):
        pass  # released


def test_a_cell_of_another_process_comes_last_and_its_record_is_taken(setting, tmp_path):
    execution = small.execution(tmp_path)
    cell = Cell(setting, small.head("fcn"), 0, Precision())
    done, order = [], []

    def other_process():
        with cell_lock(cell, execution):
            held.set()
            while not (tmp_path / "tiny" / "ppm" / "seed-0" / "record.json").exists():
                time.sleep(0.01)
            order.append("ppm was first")
            done.append(runner.run_cell(cell, execution))

    held = threading.Event()
    thread = threading.Thread(target=other_process)
    thread.start()
    assert held.wait(30)
    first, second = run(setting, tmp_path, "fcn", "ppm")
    thread.join()
    assert order == ["ppm was first"]
    assert (first, second.head_name) == (done[0], "ppm")


def test_waiting_for_what_cells_share_ends_on_request(tmp_path):
    execution, other = small.execution(tmp_path), small.execution(tmp_path)
    other.stop.requested = True
    with (
        lock(execution, small.protocol()),
        pytest.raises(Interrupted),
        lock(other, small.protocol()),
    ):
        pass


def test_output_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OutputError, match=r"output folder .*file"),
        lock(small.execution(tmp_path / "file"), small.protocol()),
    ):
        pass


def test_all_heads_start_from_the_same_backbone(setting):
    models = [
        runner.build_model(setting.protocol, small.head(name), 13, seed=3)
        for name in ("fcn", "ocr")
    ]
    first, second = (model.backbone.state_dict() for model in models)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_checkpoint_of_another_head_or_class_count_is_refused(setting, tmp_path):
    run(setting, tmp_path)
    folder = tmp_path / "tiny" / "fcn" / "seed-0"

    def load(name, classes):
        load_trained(
            folder, setting.protocol, small.head(name), classes, Precision(), torch.device("cpu")
        )

    load("fcn", 13)
    with pytest.raises(CheckpointError, match="head is 'fcn', expected 'ocr'"):
        load("ocr", 13)
    with pytest.raises(CheckpointError, match="num_classes is '13', expected '19'"):
        load("fcn", 19)
    (folder / "checkpoint.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load("fcn", 13)


SCRIPT = """
import sys
from pathlib import Path
from contextbench.runs.cells import open_setting
from contextbench.runs.grid import run_grid
from contextbench.models.precision import Precision
from tests import small
setting = open_setting(small.protocol(steps=int(sys.argv[2])), None)
run_grid(setting, [small.head()], [0], Precision(), small.execution(Path(sys.argv[1])))
"""


@pytest.mark.slow
def test_sigkill_in_training_then_the_same_command_gives_the_same_weights(tmp_path):
    steps = 40
    setting = open_setting(small.protocol(steps=steps), None)
    run(setting, tmp_path / "a")
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "b"), str(steps)]
    process = subprocess.Popen(command)
    folder = tmp_path / "b" / "tiny" / "fcn" / "seed-0"
    deadline = time.monotonic() + 120
    while not (folder / "resume.pt").exists() and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "record.json").exists(), "the run was over before it was killed"
    stored = torch.load(folder / "resume.pt", weights_only=True)
    assert 0 < stored["step"] < steps
    subprocess.run(command, check=True, timeout=200)
    compare_runs(tmp_path / "a" / "tiny" / "fcn" / "seed-0", folder)


def compare_runs(first, second):
    weights, others = (load_file(path / "checkpoint.safetensors") for path in (first, second))
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert read_history(first / "history.jsonl") == read_history(second / "history.jsonl")
    np.testing.assert_array_equal(
        read_areas(first / "areas.npz").intersection,
        read_areas(second / "areas.npz").intersection,
    )
