"""Joining the runs of several machines: all that fits and agrees, or nothing."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from contextbench.cli import app
from contextbench.cluster.merge import MergeError, merge
from contextbench.config.files import ConfigError
from contextbench.records.classes import LabelInfo
from contextbench.records.counts import Areas, write_areas
from contextbench.records.failures import Failure
from contextbench.records.history import write_history
from contextbench.records.profiles import HeadCost, ProfileRecord
from contextbench.records.runs import RunRecord, cell_folder, read_run
from contextbench.records.stored import RecordError, write_model
from contextbench.records.views import from_version_1
from contextbench.report.collection import collect
from contextbench.system.files import OutputError, write_text


def areas() -> Areas:
    """Two images of 4 pixels and two classes."""
    counts = [np.array(rows, dtype=np.int64) for rows in ([[2, 1], [1, 0]], [[2, 2], [3, 1]])]
    return Areas(["a", "b"], counts[0], counts[1], np.array([[3, 1], [2, 2]], dtype=np.int64))


def run(name: str = "fcn", seed: int = 0, **changes: object) -> RunRecord:
    content = {
        "status": "done",
        "protocol": {"name": "tiny", "dataset": {"name": "probe"}, "train": {"steps": 4}},
        "head": {"name": name, "head": name, "options": {}},
        "seed": seed,
        "fingerprint": "f0",
        "dataset_fingerprint": "d0",
        "labels": LabelInfo(classes=["x", "y"], palette=[(0, 0, 0), (1, 1, 1)]),
        "precision": {"dtype": "float32", "memory_format": "contiguous"},
        "environment": {"device": "cpu", "commit": "c0"},
        "started": "2026-01-01T00:00:00+00:00",
        "finished": "2026-01-01T00:01:00+00:00",
        "steps": 4,
        "train_seconds": 1.0,
        "evaluated_images": 2,
        "totals": areas().totals(),
    }
    return RunRecord.model_validate(from_version_1({**content, **changes}))


def add(out: Path, record: RunRecord) -> Path:
    """Write a cell as a run leaves it."""
    folder = cell_folder(out, record.protocol_name, record.head_name, record.seed)
    folder.mkdir(parents=True)
    write_model(folder / "record.json", record)
    write_history(folder / "history.jsonl", [{"step": 1, "loss": 0.5}])
    write_text(folder / "config.yaml", "seed: 0\n")
    (folder / "checkpoint.safetensors").write_bytes(record.head_name.encode())
    if record.totals is not None:
        write_areas(folder / "areas.npz", areas())
    (folder / ".lock").touch()
    return folder


def profile(*heads: str) -> ProfileRecord:
    return ProfileRecord(
        protocol_name="tiny",
        backbone="resnet10",
        input="1x3x8x8",
        training_input=None,
        scope="model",
        precision={"dtype": "float32", "memory_format": "contiguous"},
        environment={"device": "cpu"},
        baseline=heads[0],
        heads={head: HeadCost(counts={}) for head in heads},
    )


def tree(folder: Path) -> dict[str, bytes]:
    """Content of every file below a folder, by relative path."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.fixture
def machines(tmp_path: Path) -> tuple[Path, Path]:
    """Folders of runs of two machines: fcn and ppm with seed 0, and fcn with seed 1."""
    one, two = tmp_path / "one", tmp_path / "two"
    add(one, run("fcn"))
    add(one, run("ppm"))
    add(two, run("fcn", 1))
    return one, two


def test_cells_of_all_machines_are_copied_as_they_are(
    machines: tuple[Path, Path], tmp_path: Path
) -> None:
    before = [tree(folder) for folder in machines]
    out = tmp_path / "new" / "out"
    lines = merge(machines, out)
    expected = before[0] | before[1]
    assert tree(out) == {k: v for k, v in expected.items() if not k.endswith(".lock")}
    assert [tree(folder) for folder in machines] == before
    assert lines[0] == f"tiny: 3 cells, 2 from {machines[0]}/tiny, 1 from {machines[1]}/tiny"
    assert {(r.head_name, r.seed) for r in collect(out / "tiny").runs} == {
        ("fcn", 0),
        ("ppm", 0),
        ("fcn", 1),
    }


def test_the_folder_of_a_protocol_and_several_protocols_are_found(
    machines: tuple[Path, Path], tmp_path: Path
) -> None:
    other = run("fcn", protocol={"name": "other"}, fingerprint="f1")
    add(machines[1], other)
    merge([machines[0] / "tiny", machines[1]], tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["other", "tiny"]
    assert read_run(tmp_path / "out" / "other" / "fcn" / "seed-0" / "record.json") == other


def test_a_cell_that_both_have_is_taken_once_with_all_its_files(
    machines: tuple[Path, Path], tmp_path: Path
) -> None:
    source = machines[0] / "tiny" / "ppm" / "seed-0"
    copy = machines[1] / "tiny" / "ppm" / "seed-0"
    shutil.copytree(source, copy)
    (source / "checkpoint.safetensors").unlink()  # which only the other one has now
    lines = merge(machines, tmp_path / "out")
    assert "1 of them in more than one, and the same" in lines[0]
    assert tree(tmp_path / "out" / "tiny" / "ppm" / "seed-0").keys() == (
        tree(copy).keys() - {".lock"}
    )


Change = Callable[[Path, Path], object]


def another_result(one: Path, two: Path) -> None:  # noqa: ARG001
    add(two, run("fcn", train_seconds=2.0))


def another_time(one: Path, two: Path) -> None:  # noqa: ARG001
    add(two, run("fcn", finished="2026-01-02T00:00:00+00:00"))


def failed(one: Path, two: Path) -> None:  # noqa: ARG001
    failure = Failure(kind="E", message="m")
    add(two, run("fcn", status="failed", failure=failure, totals=None, steps=2))


def another_checkpoint(one: Path, two: Path) -> None:  # noqa: ARG001
    (add(two, run("fcn")) / "checkpoint.safetensors").write_bytes(b"other")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (another_result, "hold different runs of one cell: their records differ"),
        (another_time, "hold different runs of one cell: done at step 4, finished 2026-01-01"),
        (failed, "there, failed at step 2"),
        (another_checkpoint, "differ, though their records are the same"),
    ],
)
def test_a_cell_of_two_results_is_refused_with_both_named(
    machines: tuple[Path, Path], tmp_path: Path, change: Change, message: str
) -> None:
    change(*machines)
    with pytest.raises(MergeError, match=message) as refused:
        merge(machines, tmp_path / "out")
    for folder in machines:
        assert str(folder / "tiny" / "fcn" / "seed-0") in str(refused.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_different_protocols_of_one_name_are_refused_with_what_differs(
    machines: tuple[Path, Path], tmp_path: Path
) -> None:
    protocol = {"name": "tiny", "dataset": {"name": "probe"}, "train": {"steps": 5}}
    other = add(machines[1], run("ocr", protocol=protocol, fingerprint="f1"))
    with pytest.raises(MergeError, match=r"train\.steps: 4 / 5") as refused:
        merge(machines, tmp_path / "out")
    assert str(other) in str(refused.value)
    assert str(machines[0] / "tiny" / "fcn" / "seed-0") in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_other_options_of_a_head_are_refused_wherever_they_come(
    machines: tuple[Path, Path], tmp_path: Path
) -> None:
    head = {"name": "ppm", "head": "ppm", "options": {"width": 8}}
    other = add(machines[1], run("ppm", 1, head=head))
    with pytest.raises(MergeError, match=r"options\.width") as refused:
        merge(machines, tmp_path / "out")
    assert str(other) in str(refused.value)
    assert str(machines[0] / "tiny" / "ppm" / "seed-0") in str(refused.value)


def newer(folder: Path) -> None:
    path = folder / "record.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "schema_version": 99}))


def truncated(folder: Path) -> None:
    (folder / "record.json").write_text('{"schema')


def of_another_run(folder: Path) -> None:
    counts = areas()
    write_areas(folder / "areas.npz", Areas(["a"], *(c[:1] for c in counts_of(counts))))


def counts_of(counts: Areas) -> list[np.ndarray]:
    return [counts.intersection, counts.predicted, counts.labelled]


def damaged(folder: Path) -> None:
    (folder / "areas.npz").write_bytes(b"PK")


def outside(folder: Path) -> None:
    path = folder / "record.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "protocol": {"name": "../../away"}}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (newer, r"two/tiny/fcn/seed-1/record\.json: schema version 99, this release reads 1"),
        (truncated, r"two/tiny/fcn/seed-1/record\.json: cannot be read"),
        (
            of_another_run,
            r"two/tiny/fcn/seed-1/areas\.npz: .* images and classes of the run \(2, 2\)",
        ),
        (damaged, r"two/tiny/fcn/seed-1/areas\.npz: cannot be read"),
        (outside, r"record\.json: .*name is '\.\./\.\./away': it becomes a folder"),
    ],
)
def test_records_that_cannot_be_used_are_named(
    machines: tuple[Path, Path], tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(machines[1] / "tiny" / "fcn" / "seed-1")
    before = tree(tmp_path)
    with pytest.raises(RecordError, match=message):
        merge(machines, tmp_path / "out")
    assert tree(tmp_path) == before


def test_nothing_is_half_copied(
    machines: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[Path] = []
    original = shutil.copyfile

    def full(source: Path, target: Path) -> None:
        if len(copied) == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        copied.append(target)
        original(source, target)

    monkeypatch.setattr(shutil, "copyfile", full)
    before = tree(tmp_path)
    with pytest.raises(OutputError, match=r"cannot write \S+out, so nothing was merged: No space"):
        merge(machines, tmp_path / "out")
    assert len(copied) == 4
    assert tree(tmp_path) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


@pytest.mark.parametrize(
    ("sources", "out", "message"),
    [
        (["one"], "out", "two or more different folders"),
        (["one", "one"], "out", "two or more different folders"),
        (["one", "two", "./one"], "out", "two or more different folders"),
        (["one", "two"], "one/out", "lies in .*one, whose runs it would hold twice"),
        (["one", "two"], "two", "exists already"),
        (["one", "two"], "file", "exists already"),
    ],
)
def test_folders_that_do_not_fit_are_refused(
    machines: tuple[Path, Path], tmp_path: Path, sources: list[str], out: str, message: str
) -> None:
    assert machines[0].exists()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=message):
        merge([tmp_path / name for name in sources], tmp_path / out)


def test_a_folder_without_runs_is_refused(machines: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecordError, match=r"empty: there is no record\.json below"):
        merge([machines[0], tmp_path / "empty"], tmp_path / "out")


def test_an_empty_folder_may_be_there(machines: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    merge(machines, tmp_path / "out")
    assert len(collect(tmp_path / "out" / "tiny").runs) == 3


def shared(folder: Path, name: str, content: str) -> None:
    write_text(folder / "tiny" / name, content)


def test_what_machines_agree_on_is_kept_and_the_rest_is_told(
    machines: tuple[Path, Path], tmp_path: Path
) -> None:
    for folder in machines:
        shared(folder, "class_pixels.json", "{}")
        shared(folder, "precision.json", folder.name)
        shared(folder, "table.csv", "head\n")
        shared(folder, ".jobs/fcn/seed-0.json", "{}")
    shared(machines[0], "examples/index.json", "{}")
    lines = merge(machines, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out" / "tiny").iterdir()} == {
        *("fcn", "ppm", "class_pixels.json", "examples")
    }
    assert "note: left out, since machines have different ones: precision.json" in lines


def test_costs_of_some_heads_are_kept_with_the_command_for_all(
    machines: tuple[Path, Path], tmp_path: Path
) -> None:
    write_model(machines[0] / "tiny" / "profile.json", profile("ppm"))
    lines = merge(machines, out := tmp_path / "out")
    assert (out / "tiny" / "profile.json").exists()
    # ppm has no seed 1, which the command would train
    command = f"compare --protocol tiny --heads fcn,ppm --seeds 0 --out {out}"
    assert sum(command in line for line in lines) == 1


def test_costs_of_all_heads_need_no_command(machines: tuple[Path, Path], tmp_path: Path) -> None:
    write_model(machines[1] / "tiny" / "profile.json", profile("fcn", "ppm"))
    lines = merge(machines, tmp_path / "out")
    assert not any("compare" in line for line in lines)
    assert lines[-1].startswith("tables and figures: contextbench plot")


def test_what_keeps_runs_from_being_alike_is_noted(
    machines: tuple[Path, Path], tmp_path: Path
) -> None:
    add(machines[1], run("ppm", 1, environment={"device": "H200", "commit": "c1"}))
    notes = [line for line in merge(machines, tmp_path / "out") if line.startswith("note: The ")]
    assert any("training device" in note and "H200: ppm seed 1" in note for note in notes)
    assert any("code version" in note for note in notes)


def test_the_command_prints_what_was_joined(machines: tuple[Path, Path], tmp_path: Path) -> None:
    arguments = ["merge", *map(str, machines), "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0
    assert result.stdout.startswith("tiny: 3 cells")
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "exists already: choose a new folder" in " ".join(result.stderr.split())
