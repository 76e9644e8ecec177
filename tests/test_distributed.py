"""Two processes are one run: the same steps, the same counts, one record, no one left waiting.

What two processes do is in `tests.ranks`. They exchange through gloo on the CPU, where PyTorch has
no synchronised batch norm: to compare with one process, the tests give them one.
"""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.distributed import HashStore
from typer.testing import CliRunner

from contextbench.cli import app
from contextbench.config.files import ConfigError
from contextbench.models.build import build_model
from contextbench.records.counts import read_areas
from contextbench.records.history import read_history
from contextbench.records.runs import read_run
from contextbench.records.watched import read_watched
from contextbench.training.processes import (
    ALONE,
    World,
    launched,
    meeting_point,
    own_device,
    synchronise_batch_norm,
)
from heads import HEADS
from tests import ranks, small

ROOT = Path(__file__).parents[1]
SECONDS = 150  # that no command here takes
TASKS = ("checks", "memory", "killed", "stopped", "resumed")
RUN = Path("tiny", "fcn", "seed-0")
SETTINGS = [part for setting in small.SETTINGS for part in ("--set", setting)]


@contextmanager
def started(*command):
    """A command that is ended, with all that it started, if the test ends before it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}
    process = subprocess.Popen(
        [sys.executable, "-m", *map(str, command)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def torchrun(*arguments, restarts=0, processes=2):
    launcher = "torch.distributed.run --standalone --nproc-per-node"
    return started(*launcher.split(), processes, "--max-restarts", restarts, "-m", *arguments)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What two processes saw, said and left; what one sees that does the same."""
    out = tmp_path_factory.mktemp("two")
    with started("tests.ranks", ",".join(TASKS), out) as pairs:
        alone = {
            "first steps": ranks.first_steps(ALONE),
            "five images": ranks.evaluated(ALONE, 5),
            "one image": ranks.evaluated(ALONE, 1),
        }
        printed, errors = pairs.communicate(timeout=SECONDS)
    assert pairs.returncode == 0, errors
    return SimpleNamespace(
        out=out,
        codes={task: codes for task, *codes in map(str.split, printed.splitlines())},
        said={
            task: [(out / f"{task}-{rank}.txt").read_text() for rank in (0, 1)] for task in TASKS
        },
        seen=[torch.load(out / f"seen-{rank}.pt", weights_only=False) for rank in (0, 1)],
        alone=alone,
    )


def assert_same_run(folder, expected):
    """History, weights and counts, all to the bit."""
    record, other = (read_run(each / "record.json") for each in (folder, expected))
    assert (record.status, record.steps, record.totals) == ("done", 6, other.totals)
    assert read_history(folder / "history.jsonl") == read_history(expected / "history.jsonl")
    weights, others = (load_file(each / "checkpoint.safetensors") for each in (folder, expected))
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[key], others[key]) for key in weights)
    assert_same_areas(*(read_areas(each / "areas.npz") for each in (folder, expected)))
    assert not (folder / "resume.pt").exists()


def as_float32(history):
    return [{key: torch.tensor(value) for key, value in entry.items()} for entry in history]


def assert_same_areas(areas, expected):
    assert list(areas.names) == list(expected.names)
    for name in ("intersection", "predicted", "labelled"):
        np.testing.assert_array_equal(getattr(areas, name), getattr(expected, name))
    assert areas.further.keys() == expected.further.keys()
    for name, counted in areas.further.items():
        np.testing.assert_array_equal(counted.dense(), expected.further[name].dense())


@pytest.mark.slow
@pytest.mark.parametrize("name", [*ranks.RECIPES, *HEADS, "ideal regions"])
def test_two_processes_take_the_steps_of_one_with_the_whole_batch(two, name):
    """Up to the order in which float32 numbers are summed: default tolerances.

    Parts of four images leave EncNet's pooled batch norm four values, and rounding weighs more:
    with the formula of `AllNorm` in place of PyTorch's, one process alone differs by 6e-5.
    Dropout is off, since each process draws its own. Labels are missing in another part of every
    image, so a mean of the two means would be another number.
    """
    history, weights = two.alone["first steps"][name]
    tolerance = 2e-4 if name == "in parts" else 1e-5
    for seen in two.seen:
        own_history, own_weights = seen["first steps"][name]
        torch.testing.assert_close(as_float32(own_history), as_float32(history))
        torch.testing.assert_close(own_weights, weights, rtol=1.3e-6, atol=tolerance)


@pytest.mark.slow
def test_processes_agree_to_the_bit(two):
    first, second = (seen["first steps"] for seen in two.seen)
    for name, (history, weights) in first.items():
        other_history, other_weights = second[name]
        assert history == other_history
        assert all(torch.equal(weights[key], other_weights[key]) for key in weights)


@pytest.mark.slow
@pytest.mark.parametrize("split", ["five images", "one image"])
def test_counts_are_those_of_one_process_to_the_pixel(two, split):
    """An odd number of images: none is seen twice to fill the second process's share."""
    for seen in two.seen:
        assert_same_areas(seen[split], two.alone[split])
    images = {"five images": 5, "one image": 1}[split]
    assert two.seen[0][split].labelled.sum() == images * 64 * 64  # the probe ignores no pixel
    assert len(two.seen[0][split].further) == 4


@pytest.mark.slow
def test_the_first_process_alone_writes(two):
    stored = read_run(two.out / "undisturbed-0" / RUN / "record.json")
    assert not (two.out / "undisturbed-1").exists()
    records = [seen["records"] for seen in two.seen]
    assert records[0] == [stored]
    assert [record.totals for record in records[1]] == [stored.totals]


@pytest.mark.slow
def test_watching_changes_no_bit_and_sees_what_the_run_ends_with(two):
    """Each process has batch norms of its own on the CPU; those of the first one are kept."""
    folder = two.out / "watched" / RUN
    assert_same_run(folder, two.out / "undisturbed-0" / RUN)
    first, last = read_watched(folder / "watch.jsonl", ranks.CLASSES)
    assert (first.step, last.step) == (4, 6)
    assert last.totals == read_run(folder / "record.json").totals
    [[record], [other]] = [seen["watched"] for seen in two.seen]
    assert record.totals == other.totals


@pytest.mark.slow
def test_a_record_says_how_many_processes_and_whose_batch_norm(two):
    [record] = two.seen[0]["records"]
    assert record.environment["processes"] == 2
    assert "each process normalises its own images" in record.environment["batch_norm"]
    assert record.evaluated_images == 3


@pytest.mark.slow
def test_what_one_process_cannot_read_is_raised_in_all(two):
    for seen in two.seen:
        assert seen["broken batch"] == "DataError: image 7 cannot be read"
        assert seen["broken image"] == "DataError: image 3 cannot be read"
        assert seen["together"] == "ZeroDivisionError: integer division or modulo by zero"
        assert "'rank 0'" in seen["from main"]  # which the second process did not run


@pytest.mark.slow
def test_other_files_on_one_machine_are_refused(two):
    for seen in two.seen:
        assert seen["other data"].startswith("ConfigError: the data of rank 1 differ from those of")


@pytest.mark.slow
def test_a_stop_of_one_process_stops_all_after_the_same_step(two):
    assert [seen["one stop"] for seen in two.seen] == [("Interrupted: ", 2)] * 2


@pytest.mark.slow
def test_flags_and_means_of_all(two):
    for seen in two.seen:
        assert seen["agreed"] == (True, False)
        # W t / (c_0 + c_1) with W = 2 processes, totals t = 3 and counts 1 and 5.
        assert seen["batch mean"] == 2 * 3 / (1 + 5)


@pytest.mark.slow
def test_a_process_without_memory_is_recorded_and_ends_all(two):
    assert two.codes["memory"] == ["1", "1"]
    lost, own = two.said["memory"]
    assert own == "rank 1 of 2 stops: OutOfMemoryError: no memory for 3 TiB\n"
    assert lost.startswith("rank 0 of 2 stops: another process ended or does not answer (")
    record = read_run(two.out / "memory" / RUN / "record.json")
    assert record.status == "out_of_memory"
    assert record.failure is not None
    assert record.failure.message == "no memory for 3 TiB"


@pytest.mark.slow
def test_a_killed_process_leaves_no_other_waiting(two):
    assert two.codes["killed"] == ["1", str(-signal.SIGKILL)]
    message = two.said["killed"][0]
    assert message.startswith("rank 0 of 2 stops: another process ended or does not answer (")
    assert message.count("\n") == 1
    assert "gloo" not in message


@pytest.mark.slow
def test_ctrl_c_stops_all_with_little_said(two):
    assert two.codes["stopped"] == ["130", "130"]
    assert two.said["stopped"] == ["interrupted\n"] * 2


@pytest.mark.slow
def test_what_was_stopped_or_killed_goes_on_as_if_it_had_not_been(two):
    """Of six steps the stop left the last three, the kill within the third one four."""
    assert two.codes["resumed"] == ["0", "0"]
    assert (two.out / "steps").read_text() == str(3 + 4)
    for name in ("stopped", "killed"):
        assert_same_run(two.out / name / RUN, two.out / "undisturbed-0" / RUN)


@pytest.mark.slow
def test_nothing_is_said_where_all_goes_well(two):
    assert two.said["checks"] == ["", ""]


def test_on_gpus_every_batch_norm_is_synchronised():
    """Converting needs no GPU, running does."""
    for name in HEADS:
        model = build_model(small.protocol(), small.head(name), ranks.CLASSES, seed=0)
        norms = nn.modules.batchnorm._BatchNorm
        before = sum(isinstance(part, norms) for part in model.modules())
        synchronise_batch_norm(model, World(0, 2), torch.device("cpu"))
        assert not any(isinstance(part, nn.SyncBatchNorm) for part in model.modules())
        synchronise_batch_norm(model, World(0, 2), torch.device("cuda"))
        assert sum(isinstance(part, nn.SyncBatchNorm) for part in model.modules()) == before


def test_processes_that_are_started_again_do_not_meet_those_that_ended():
    """Names and answers of an earlier start are in the store; the second process comes late."""
    store, places = HashStore(), []

    def come(rank, seconds):
        time.sleep(seconds)
        places.append(meeting_point(store, World(rank, 2)))

    for _ in range(3):
        pair = [threading.Thread(target=come, args=(rank, rank * 0.2)) for rank in range(2)]
        for thread in pair:
            thread.start()
        for thread in pair:
            thread.join(10)
    for first, second in zip(places[::2], places[1::2], strict=True):
        assert not first.check(["address"])
        first.set("address", "here")
        assert second.get("address") == b"here"


def environment(size, **changes):
    """What torchrun tells the first of so many processes."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    return {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": str(size), **address, **changes}


def test_the_world_is_what_torchrun_says():
    assert launched({}) is ALONE
    assert launched(environment(1)) is ALONE
    assert launched({"RANK": "0", "WORLD_SIZE": "8"}) is ALONE  # of another launcher
    assert launched(environment(8, RANK="5", LOCAL_RANK="1")) == World(5, 8, 1)


@pytest.mark.parametrize(
    ("size", "arguments", "message"),
    [
        (3, "--head fcn --set train.batch=8", r"train.batch 8 cannot .* 3 .*allowed: 1, 2, 4, 8"),
        (
            4,
            "--head fcn --set train.batch=8 --set train.accumulate=4",
            r"train.batch 8 in 4 parts \(train.accumulate\) cannot .* 4 .*allowed: 1, 2$",
        ),
        (
            2,
            "--head fcn --set shared_backbone=frozen",
            r"shared_backbone: frozen runs in one process, not in 2: start it without torchrun",
        ),
        (2, "--head fcn --compile", r"train.compile runs in one process, not in 2: start it"),
        (2, "--head fcn --device cuda:1", r"'cuda:1': 2 processes have a GPU each; allowed: auto"),
        (2, "--head nosuch", r"nosuch"),
    ],
)
def test_what_cannot_be_shared_is_refused_before_processes_meet(size, arguments, message, tmp_path):
    """With exit code 2 and one message: nobody listens at the address of the first process."""
    command = ["train", "--out", str(tmp_path), *arguments.split()]
    result = CliRunner(env={**environment(size), "COLUMNS": "300"}).invoke(app, command)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    [line] = result.output.splitlines()
    assert line.startswith("error: ")
    assert re.search(message, line)
    assert list(tmp_path.iterdir()) == []


def test_commands_for_one_process_say_so(tmp_path):
    result = CliRunner(env=environment(2)).invoke(app, ["evaluate", str(tmp_path)])
    assert result.exit_code == 2
    assert "this command runs in one process: start it without torchrun" in result.output


def test_each_process_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    second = World(rank=1, size=2, local_rank=1)
    assert own_device("auto", second) == own_device("cuda", second) == "cuda:1"
    assert own_device("cpu", second) == "cpu"
    assert own_device("cuda:1", ALONE) == "cuda:1"
    with pytest.raises(ConfigError, match=r"3 processes on a machine with 2 GPUs"):
        own_device("cuda", World(0, 3))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # of four processes on two machines
    assert own_device("cuda", World(3, 4, 1)) == "cuda:1"


@pytest.mark.slow
def test_torchrun_restarts_from_the_last_checkpoint(two, tmp_path):
    """Killed within the third of six steps, saved after every one: four are left."""
    with torchrun("tests.ranks", "killed", tmp_path, restarts=1) as process:
        _, said = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, said
    assert (tmp_path / "steps").read_text() == "4"
    assert_same_run(tmp_path / "killed" / RUN, two.out / "undisturbed-0" / RUN)


@pytest.mark.slow
def test_train_under_torchrun_stops_on_ctrl_c_and_goes_on(tmp_path):
    """As at a terminal: the signal goes to torchrun and all that share its group."""
    command = ("contextbench", "train", "--head", "fcn", "--device", "cpu", "--out", tmp_path)
    settings = [*SETTINGS, "--set", "train.steps=300"]
    with torchrun(*command, *settings) as process:
        waiting = [line := process.stderr.readline()]
        while line and "fcn, seed 0" not in line:
            waiting.append(line := process.stderr.readline())
        assert "[1/1] fcn, seed 0\n" in waiting
        time.sleep(3)  # some steps of the 300, also where two other processes work
        os.killpg(process.pid, signal.SIGINT)
        printed, said = process.communicate(timeout=SECONDS)
    folder = tmp_path / "probe" / "fcn" / "seed-0"
    record = read_run(folder / "record.json")
    assert record.status == "interrupted"
    assert 0 < record.steps < 300
    assert (folder / "resume.pt").exists()
    assert said.count("interrupted; the same command goes on from here") == 1
    assert printed == ""
    with torchrun(*command, *settings) as process:
        printed, said = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, said
    record = read_run(folder / "record.json")
    assert (record.status, record.steps) == ("done", 300)
    assert record.train_seconds > 0
    assert len(read_history(folder / "history.jsonl")) == 300
    assert said.count("[1/1] fcn, seed 0\n") == 1
    assert printed.count("n = 1: one training") == 1


@pytest.mark.slow
def test_compare_under_torchrun_prints_and_writes_once(tmp_path):
    command = ("contextbench", "compare", "--heads", "fcn,ocr", "--rounds", 2, "--device", "cpu")
    with torchrun(*command, "--out", tmp_path, *SETTINGS) as process:
        printed, said = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, said
    assert printed.count("tables: ") == 1
    assert said.count("[2/2] ocr, seed 0\n") == 1
    assert (tmp_path / "probe" / "table.md").exists()
    records = [read_run(path) for path in sorted((tmp_path / "probe").glob("*/seed-0/record.json"))]
    assert [record.status for record in records] == ["done", "done"]
    assert {record.environment["processes"] for record in records} == {2}


@pytest.mark.slow
def test_torchrun_shows_the_message_of_a_mistake_and_no_traceback_of_ours(tmp_path):
    command = ("contextbench", "train", "--head", "fcn", "--device", "cpu", "--out", tmp_path)
    with torchrun(*command, *SETTINGS, "--set", "train.batch=2", processes=3) as process:
        _, said = process.communicate(timeout=SECONDS)
    assert process.returncode == 1  # torchrun's own; that of the processes is in its message
    assert said.count("error: train.batch 2 cannot be divided equally over 3 processes") == 1
    assert "exitcode  : 2" in said
    assert "contextbench/cli" not in said  # as a traceback of ours would
