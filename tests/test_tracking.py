"""TensorBoard's own reader finds every step once, also where a run was interrupted."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer
from typer.testing import CliRunner

from contextbench.cli import app
from contextbench.config.protocols import Protocol
from contextbench.models.precision import Precision
from contextbench.records.history import read_history
from contextbench.records.watched import read_watched
from contextbench.runs.cells import open_setting
from contextbench.runs.grid import run_grid
from contextbench.statistics.scores import watched_miou
from contextbench.system.interrupt import Interrupted, StopRequest
from contextbench.training import loop
from contextbench.training.resume import Progress
from contextbench.training.tracking import TensorBoard
from tests import small

RUN = Path("tiny", "fcn", "seed-0")
STEPS = 6
WATCH = {"every": 2, "images": 2}

# Files of one second are read in the order of a counter's digits, and no start of a program is in
# the second of another one, but here: such that all numbers have three.
while event_file_writer._global_uid.get() < 100:
    pass


def run(protocol: Protocol, out: Path, *, track: bool = True, **options: Any) -> None:
    execution = small.execution(out, options.pop("stop", None))
    execution = dataclasses.replace(execution, track="tensorboard" if track else None)
    heads = [small.head(name) for name in options.pop("heads", ["fcn"])]
    run_grid(open_setting(protocol, None), heads, [0], Precision(), execution, **options)


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """Tag -> step -> value; no step occurs twice."""
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    found = {}
    for tag in events.Tags()["scalars"]:
        read = events.Scalars(tag)
        found[tag] = {event.step: event.value for event in read}
        assert len(found[tag]) == len(read), f"{tag} has a step twice"
    return found


def assert_all_is_tracked(folder: Path) -> None:
    """What the history and the curve of the run hold, in float32."""
    found, history = scalars(folder), read_history(folder / "history.jsonl")
    assert len(history) == STEPS
    for name in history[0].keys() - {"step"}:
        tag = "lr" if name == "lr" else f"loss/{name}"
        expected = {entry["step"]: pytest.approx(entry[name], rel=1e-6) for entry in history}
        assert found[tag] == expected
    curve = read_watched(folder / "watch.jsonl", 13)
    watched = {entry.step: pytest.approx(watched_miou(entry), rel=1e-6) for entry in curve}
    assert found["watched/miou"] == watched
    assert [*watched] == [2, 4, 6]
    assert all(speed > 0 for speed in found["images_per_second"].values())


def stopped(protocol: Protocol, out: Path, step: int, **options: Any) -> None:
    """A run that is asked to stop in this step of its start, counted from 1."""
    stop, real, done = StopRequest(), loop.train_step, []

    def train_step(*arguments: Any) -> Any:
        done.append(1)
        stop.requested = len(done) == step
        return real(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train_step", train_step)
        with pytest.raises(Interrupted):
            run(protocol, out, stop=stop, **options)


def test_all_that_is_logged_is_there(tmp_path: Path) -> None:
    run(small.protocol(steps=STEPS, watch=WATCH), tmp_path)
    assert_all_is_tracked(tmp_path / RUN)
    assert not (tmp_path / "tiny" / "tensorboard").exists()


def test_a_run_that_goes_on_appends(tmp_path: Path) -> None:
    protocol = small.protocol(steps=STEPS, watch=WATCH)
    stopped(protocol, tmp_path, 3)
    assert [*scalars(tmp_path / RUN)["lr"]] == [1, 2, 3]
    run(protocol, tmp_path)
    assert_all_is_tracked(tmp_path / RUN)


def test_steps_that_are_done_again_replace_those_of_before(tmp_path: Path) -> None:
    """As after a kill: more was written than stored, and the run goes on from what was stored."""
    protocol = small.protocol(steps=STEPS, watch=WATCH)
    stopped(protocol, tmp_path, 2)
    folder = tmp_path / RUN / "tensorboard"
    lost = TensorBoard(folder, batch=2)
    lost(Progress(step=2, history=[{"step": s, "lr": 9.0, "main": 9.0} for s in (1, 2)]))
    lost(Progress(step=5, history=[{"step": s, "lr": 9.0, "main": 9.0} for s in range(1, 6)]))
    lost.close()
    assert scalars(tmp_path / RUN)["lr"][5] == 9
    run(protocol, tmp_path)
    assert_all_is_tracked(tmp_path / RUN)


def test_a_run_that_is_tracked_from_the_middle_has_its_beginning_too(tmp_path: Path) -> None:
    protocol = small.protocol(steps=STEPS, watch=WATCH)
    stopped(protocol, tmp_path, 3, track=False)
    run(protocol, tmp_path)
    assert_all_is_tracked(tmp_path / RUN)


@pytest.mark.slow
def test_a_fresh_run_replaces_what_was_tracked(tmp_path: Path) -> None:
    run(small.protocol(steps=9, watch=WATCH), tmp_path)
    run(small.protocol(steps=STEPS, watch=WATCH), tmp_path, fresh=True)
    assert_all_is_tracked(tmp_path / RUN)


def test_heads_on_one_backbone_are_tracked_each(tmp_path: Path) -> None:
    protocol = small.protocol(steps=STEPS, watch=WATCH)
    shared = protocol.model_copy(update={"shared_backbone": "frozen"})
    run(shared, tmp_path, heads=["fcn", "ppm"])
    for name in ("fcn", "ppm"):
        assert_all_is_tracked(tmp_path / "tiny" / name / "seed-0")


@pytest.mark.parametrize("command", ["train --head fcn", "compare --heads fcn"])
@pytest.mark.parametrize(
    ("name", "installed", "message"),
    [
        ("tensorbord", True, "--track 'tensorbord' is unknown; did you mean 'tensorboard'"),
        ("tensorboard", False, "package tensorboard is not installed: pip install 'contextbench"),
    ],
)
def test_what_cannot_be_tracked_is_refused_before_the_first_step(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    name: str,
    installed: bool,
    message: str,
) -> None:
    if not installed:
        monkeypatch.setitem(sys.modules, "tensorboard", None)
    arguments = [*command.split(), "--track", name, "--out", str(tmp_path)]
    result = CliRunner(env={"COLUMNS": "300"}).invoke(app, arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []
