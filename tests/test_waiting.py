"""Seconds of training that go by without a batch: with a clock of the test's own, and for real."""

import time
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from contextbench.models.precision import Precision
from contextbench.records.comparability import warnings_for
from contextbench.records.runs import read_run
from contextbench.runs import run as runner
from contextbench.runs.cells import Cell, open_setting
from contextbench.system.interrupt import Interrupted, StopRequest
from contextbench.training import loop as training
from contextbench.training import shared_backbone, waiting
from contextbench.training.loop import train
from contextbench.training.resume import saved_progress
from contextbench.training.waiting import BatchWait
from tests import small
from tests.report.records import run
from tests.test_shared_backbone import batches, frozen, trainings
from tests.test_training import setup

CPU = torch.device("cpu")


class Clock:
    """Time that passes only when somebody says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    for module in (waiting, training, shared_backbone):
        monkeypatch.setattr(module, "time", clock)
    return clock


def slow(batches, clock, seconds):
    """`batches` that take so long each."""

    def start_from(start):
        for batch in batches(start):
            clock.now += seconds
            yield batch

    return start_from


def test_only_the_time_inside_is_waited():
    clock = SimpleNamespace(monotonic=iter([10.0, 12.5, 20.0, 20.5]).__next__)
    wait = BatchWait(CPU)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(waiting, "time", clock)
        with wait:
            pass
        assert wait.seconds == 2.5
        with wait:
            pass
        assert wait.seconds == 0.5


class Event:
    """Of a device that was idle for `idle` seconds when the batch came; None: still at work."""

    def __init__(self, idle):
        self.idle = idle

    def query(self):
        return self.idle is not None

    def synchronize(self):
        assert self.idle is not None  # a busy device is never waited for

    def elapsed_time(self, _later):
        return self.idle * 1e3


@pytest.mark.parametrize(("idle", "expected"), [(None, 0.0), (0.5, 0.5), (7.0, 3.0)])
def test_a_gpu_waits_only_while_it_is_idle(clock, monkeypatch, idle, expected):
    """Busy, idle for the last half second of three, idle since before the wait."""
    monkeypatch.setattr(BatchWait, "_event", lambda _self: Event(idle))
    wait = BatchWait(torch.device("cuda"))
    wait.step_ended()
    with wait:
        clock.now += 3
    assert wait.seconds == expected


def test_training_counts_what_its_batches_take_and_nothing_else(clock, monkeypatch):
    model, batches, recipe = setup(steps=4)
    step = training.Training.step

    def slow_step(self, parts):
        step(self, parts)
        clock.now += 3

    monkeypatch.setattr(training.Training, "step", slow_step)
    progress = train(model, slow(batches, clock, 2), recipe)
    assert progress.wait_seconds == 4 * 2
    assert progress.seconds == 4 * (2 + 3)


def test_waits_go_on_after_a_restart(clock, tmp_path):
    stop = StopRequest()
    model, batches, recipe = setup(tmp_path / "resume.pt", steps=5)

    def stopped(start):
        for step, batch in enumerate(slow(batches, clock, 2)(start)):
            stop.requested = step == 3
            yield batch

    with pytest.raises(Interrupted):
        train(model, stopped, recipe, stop=stop)
    assert saved_progress(tmp_path / "resume.pt").wait_seconds == 3 * 2  # of the steps that count
    model, batches, recipe = setup(tmp_path / "resume.pt", steps=5)
    assert train(model, slow(batches, clock, 4), recipe).wait_seconds == 3 * 2 + 2 * 4


def test_heads_that_train_together_share_the_wait(clock):
    ahead, behind = made = trainings(frozen(), "fcn", "ppm")
    ahead.progress.step = 3
    shared_backbone.train_together(made, slow(batches, clock, 6), lambda _: nullcontext())
    assert ahead.progress.wait_seconds == 6 / 2
    assert behind.progress.wait_seconds == 3 * 6 + 6 / 2
    assert behind.progress.seconds == behind.progress.wait_seconds  # nothing else takes time


def test_a_record_says_how_long_a_dataset_that_sleeps_was_waited_for(tmp_path, monkeypatch):
    setting = open_setting(small.protocol(), None)
    read = type(setting.train_set).__getitem__

    def sleepy(self, index):
        time.sleep(0.05)
        return read(self, index)

    monkeypatch.setattr(type(setting.train_set), "__getitem__", sleepy)
    cell = Cell(setting, small.head(), 0, Precision())
    runner.run_cell(cell, small.execution(tmp_path))
    record = read_run(cell.folder(tmp_path) / "record.json")
    first = 2 * 0.05  # images of a batch, of which the later ones come during steps
    assert record.status == "done"
    assert first <= record.train_wait_seconds < record.train_seconds
    assert record.wait_share == record.train_wait_seconds / record.train_seconds


def waited(seconds, **cell):
    return run(train_seconds=40.0, **cell).model_copy(update={"train_wait_seconds": seconds})


def test_reports_warn_of_waiting_above_a_tenth():
    assert not any("waited" in line for line in warnings_for([waited(4.0, seed=0)], None))
    assert not any("waited" in line for line in warnings_for([waited(None, seed=0)], None))
    runs = [waited(14.8, seed=0), waited(10.0, seed=1), waited(1.0, seed=2)]
    [line] = [line for line in warnings_for(runs, None) if "waited" in line]
    assert "37% of the time" in line
    assert "(fcn seed 0)" in line
    assert "2 cells" in line
    assert "--workers" in line
