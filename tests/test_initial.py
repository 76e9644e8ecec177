"""Training that starts from a trained model: what is taken, anew, refused and recorded."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor

import contextbench
from contextbench.config.protocols import Protocol
from contextbench.models.precision import Precision
from contextbench.records.runs import RunRecord, cell_folder, read_run
from contextbench.runs.cells import open_setting
from contextbench.runs.comparison import check_runnable
from contextbench.runs.grid import run_grid
from contextbench.system.console import Reporter
from contextbench.system.files import digest_of
from contextbench.training.execution import Execution
from tests import small

TENSORS = "checkpoint.safetensors"
CLASSES = 13  # of the probe
CLASSIFIERS = {
    "head.classifier.1.weight",
    "head.classifier.1.bias",
    "head.auxiliary.branch.1.1.weight",
    "head.auxiliary.branch.1.1.bias",
}


def trained(out: Path, head: str = "fcn", **train: object) -> Path:
    setting = open_setting(small.protocol(**train), None)
    [record] = run_grid(setting, [small.head(head)], [0], Precision(), small.execution(out))
    assert record.status == "done", record.failure
    return cell_folder(out, "tiny", head, 0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("runs"), steps=1)


def built(init: Path | None, head: str = "fcn", **options: Any) -> dict[str, Tensor]:
    protocol = small.protocol(init=None if init is None else str(init))
    return contextbench.build_model(protocol, small.head(head), **options).state_dict()


def test_a_model_starts_from_all_tensors_of_a_run(run: Path) -> None:
    expected = load_file(run / TENSORS)
    for place in (run, run / TENSORS):
        found = built(place)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], each) for name, each in expected.items())
    name = "head.classifier.1.weight"
    assert not torch.equal(built(None)[name], expected[name])


@pytest.mark.parametrize("classes", [3, 40])
def test_of_other_classes_only_what_depends_on_their_number_is_new(run: Path, classes: int) -> None:
    """New is what a model without `train.init` has there, of the same seed."""
    taken, drawn = load_file(run / TENSORS), built(None, classes=classes)
    for name, tensor in built(run, classes=classes).items():
        assert torch.equal(tensor, (drawn if name in CLASSIFIERS else taken)[name]), name


def test_classes_of_other_names_are_other_classes(run: Path, tmp_path: Path) -> None:
    taken, path = load_file(run / TENSORS), tmp_path / "model.safetensors"
    names = json.dumps([f"class {k}" for k in range(CLASSES)])
    save_file(taken, path, metadata={"classes": names})
    found, drawn = built(path), built(None)
    for name, tensor in found.items():
        assert torch.equal(tensor, (drawn if name in CLASSIFIERS else taken)[name]), name


def test_a_training_starts_there_and_its_record_says_so(run: Path, tmp_path: Path) -> None:
    """With a rate of next to nothing it ends where it started; wherever the model lies."""
    moved = tmp_path / "elsewhere"
    shutil.copytree(run, moved)
    records: list[RunRecord] = []
    for number, place in enumerate((run, moved, None)):
        options = {"init": str(place)} if place else {}
        folder = trained(tmp_path / str(number), steps=1, lr=1e-20, weight_decay=0, **options)
        records.append(read_run(folder / "record.json"))
        if place:
            for name, tensor in load_file(run / TENSORS).items():
                if name.endswith((".weight", ".bias")):
                    torch.testing.assert_close(load_file(folder / TENSORS)[name], tensor)
    first, second, without = records
    assert first.fingerprint == second.fingerprint != without.fingerprint
    assert without.initial is None
    assert first.initial is not None
    assert first.initial.digest == digest_of(run / TENSORS)
    assert first.initial.model == "fcn, seed 0, of protocol tiny"
    assert (first.initial.place, first.initial.anew) == (str(run), [])


def checked(out: Path, heads: list[str], **train: object) -> str:
    """What is said of heads before the first step."""
    setting = open_setting(small.protocol(**train), None)
    console = Console(record=True, width=1000)
    execution = small.execution(out)
    told = Execution(**{**vars(execution), "reporter": Reporter(console)})
    check_runnable(setting, [small.head(head) for head in heads], told)
    return console.export_text()


def test_what_heads_start_from_is_said_before_the_first_step(run: Path, tmp_path: Path) -> None:
    said = checked(tmp_path, ["fcn"], init=str(run))
    assert f"fcn starts from fcn, seed 0, of protocol tiny ({run})" in said
    assert "anew" not in said
    path = tmp_path / "other.safetensors"
    save_file(load_file(run / TENSORS), path, metadata={"classes": json.dumps(["a", "b"])})
    said = checked(tmp_path, ["fcn"], init=str(path))
    assert f"its {CLASSES} classes are others, so these start anew: head.classifier" in said


def test_what_does_not_fit_is_refused_by_name(run: Path, tmp_path: Path) -> None:
    taken = load_file(run / TENSORS)
    with pytest.raises(
        contextbench.UserError, match=r"does not fit head ocr .*missing \(head\."
    ) as e:
        checked(tmp_path, ["fcn", "ocr"], init=str(run))
    assert "unknown (" in str(e.value)
    half = dict(list(taken.items())[::2])
    wide = {**taken, "head.context.0.0.weight": torch.zeros(1, 3, 7, 7)}
    for tensors, message in (
        (half, rf"{len(taken) - len(half)} missing \(backbone\."),
        ({**taken, "more": torch.zeros(1)}, r"1 unknown \(more\)"),
        (wide, r"1 of another shape \(head\.context\.0\.0\.weight \[1, 3, 7, 7\], expected"),
    ):
        path = tmp_path / "model.safetensors"
        save_file(tensors, path)
        with pytest.raises(contextbench.UserError, match=message):
            checked(tmp_path, ["fcn"], init=str(path))


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("nowhere", r"train\.init: cannot read nowhere"),
        (
            "text.safetensors",
            r"text\.safetensors cannot be read as safetensors.*contextbench import",
        ),
        ("empty", r"train\.init: cannot read empty/checkpoint\.safetensors"),
        ("out/tiny/fcn/seed-1", "is a run of this comparison"),
        ("broken", "not the file that record.json was written with"),
        ("failed", "this run is recorded as failed"),
    ],
)
def test_what_is_no_trained_model_is_refused(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.safetensors").write_text("text")
    Path("empty").mkdir()
    for copy in ("out/tiny/fcn/seed-1", "broken", "failed"):
        shutil.copytree(run, copy)
    Path("broken", TENSORS).write_bytes((run / TENSORS).read_bytes()[:-1] + b"0")
    record = json.loads(Path("failed/record.json").read_text())
    failure = {"kind": "Error", "message": "it failed"}
    record.update(status="failed", failure=failure)
    Path("failed/record.json").write_text(json.dumps(record))
    with pytest.raises(contextbench.UserError, match=message):
        checked(tmp_path / "out", ["fcn"], init=place)


def test_protocols_without_it_keep_their_fingerprint() -> None:
    plain = small.protocol()
    content = plain.model_dump()
    content["train"].pop("init")
    assert Protocol.model_validate(content).fingerprint("data") == plain.fingerprint("data")
    named = small.protocol(init="runs/a")
    assert named.fingerprint("data") != plain.fingerprint("data")
    digests = [named.fingerprint("data", init_digest=digest) for digest in ("a", "b", "a")]
    assert digests[0] == digests[2] != digests[1]
