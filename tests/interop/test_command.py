"""`contextbench import` as a user meets it: the run folder it makes, and what it refuses."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import contextbench
from contextbench.cli import app
from contextbench.interop.files import CONVERT_HELP
from contextbench.runs.trained import finished_record
from contextbench.system.files import digest_of
from tests.interop import frozen

DATA = ("dataset.options.size=64", "dataset.options.train_images=2",
        "dataset.options.eval_images=2", "train.crop=[64,64]")  # fmt: skip
SMALL = [part for setting in DATA for part in ("--set", setting)]


def call(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def imported(path: Path, out: Path, *options: Any) -> Any:
    return call(
        "import", path, "--from", "mmseg", "--protocol", "probe", "-o", out, *SMALL, *options
    )


def refused(*arguments: Any) -> str:
    """The message of a call that must end with exit code 2 and no traceback."""
    result = imported(*arguments)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return " ".join(result.output.split())


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return frozen.saved(tmp_path_factory.mktemp("published") / "pspnet.pth")


@pytest.fixture(scope="module")
def run(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "probe" / "published" / "seed-0"
    result = imported(file, out, "--score", "--published", "77.8 mIoU, single scale")
    assert result.exit_code == 0, result.output
    assert "ppm of mmsegmentation on resnet18 with 13 classes" in result.output
    return out


def test_the_record_says_where_the_model_is_from(file: Path, run: Path) -> None:
    record = finished_record(run)
    assert (record.status, record.steps, record.head_name) == ("done", 0, "published")
    assert record.imported is not None
    assert record.imported.digest == digest_of(file)
    assert (record.imported.source, record.imported.file) == ("mmseg", "pspnet.pth")
    assert record.imported.published == "77.8 mIoU, single scale"
    assert record.imported.facts["output_stride"] == "8"
    assert record.imported.assumed == {}
    assert record.evaluated_images == 2
    assert record.totals is not None


@pytest.mark.slow
def test_every_command_takes_the_run(run: Path, tmp_path: Path) -> None:
    scored = call("evaluate", run, "--json")
    assert scored.exit_code == 0, scored.output
    totals = finished_record(run).totals
    assert totals is not None
    accuracy = sum(totals.intersection) / sum(totals.labelled)
    assert json.loads(scored.stdout)["pixel_accuracy"] == pytest.approx(accuracy)
    picture = tmp_path / "street.png"
    Image.fromarray(np.full((41, 57, 3), 99, np.uint8)).save(picture)
    predicted = call("predict", run, picture, "-o", tmp_path / "predicted")
    assert predicted.exit_code == 0, predicted.output
    mask = np.array(Image.open(tmp_path / "predicted" / "street_mask.png"))
    model = contextbench.load(run)
    assert np.array_equal(model.predict(picture), mask)
    assert len(model.classes) == frozen.K
    attended = call("attend", run, "--image", picture, "--pixel", "20,20", "-o", tmp_path / "a.png")
    assert attended.exit_code == 0, attended.output


@pytest.mark.slow
def test_its_costs_are_measured_from_the_files_beside_it(run: Path) -> None:
    result = call("profile", "--protocol", run / "protocol.yaml", "--heads", run / "head.yaml",
                  "--predict", "--image", "64x64")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "published" in result.output


def test_a_table_says_that_the_model_was_trained_elsewhere(run: Path) -> None:
    result = call("table", run.parents[1])
    assert result.exit_code == 0, result.output
    text = " ".join(result.output.split())
    assert "published seed 0 was trained elsewhere, by a recipe of its own" in text
    assert "published: 77.8 mIoU, single scale" in text
    assert "Weights: trained elsewhere, from mmseg." in text


def test_a_folder_with_a_run_is_kept(file: Path, run: Path) -> None:
    before = (run / "record.json").read_bytes()
    assert "holds a run already" in refused(file, run)
    assert (run / "record.json").read_bytes() == before


def test_without_scores_no_data_are_opened(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "it"
    result = call(
        "import", file, "--from", "mmseg", "--protocol", "probe", "-o", out, "--name", "pspnet"
    )
    assert result.exit_code == 0, result.output
    record = finished_record(out)
    assert (record.totals, record.dataset_fingerprint) == (None, "not opened")
    assert record.head_name == "pspnet"
    explained = call("explain", out, out)
    assert explained.exit_code == 0, explained.output
    assert "has no scores: not evaluated" in " ".join(explained.output.split())


def test_a_view_is_kept_with_a_run_that_was_not_scored(file: Path, run: Path) -> None:
    """Beside one that was: the counts are of the same split, and so stand in one table."""
    out = run.parents[1] / "unscored" / "seed-0"
    assert imported(file, out).exit_code == 0
    for folder in (out, run):
        kept = call("evaluate", folder, "--view", "half", "--scales", "0.5", "--device", "cpu")
        assert kept.exit_code == 0, kept.output
    one, other = (finished_record(folder).views["half"] for folder in (out, run))
    assert one.totals == other.totals is not None
    again = call("evaluate", out, "--view", "half", "--json")  # read, with the same data
    assert json.loads(again.stdout)["kept"] is True
    table = call("table", run.parents[1], "--view", "half")
    assert table.exit_code == 0, table.output
    assert "unscored" in table.output
    shutil.rmtree(out.parent)


def rewritten(file: Path, path: Path, **changes: Any) -> Path:
    content = torch.load(file, weights_only=True)
    torch.save({**content, **changes}, path)
    return path


class Logged:
    """Not a tensor: to read it, code would have to run."""


def test_files_that_are_refused(file: Path, tmp_path: Path) -> None:
    out, path = tmp_path / "it", tmp_path / "file.pth"
    assert "no such file" in refused(tmp_path / "absent.pth", out)
    path.write_bytes(file.read_bytes()[:20_000])
    assert "cannot read" in refused(path, out)
    rewritten(file, path, message_hub=Logged())
    message = refused(path, out)
    assert "Logged" in message
    assert "--convert-help" in message
    state = torch.load(file, weights_only=True)["state_dict"]
    torch.save({f"features.{n}": torch.zeros(3) for n in range(5)}, path)
    assert "no decode_head" in refused(path, out)
    rewritten(file, path, state_dict={f"decode_head.{n}": t for n, t in state.items()})
    assert "no ResNet" in refused(path, out)
    assert not out.exists()


def test_tensors_that_do_not_fit_are_listed(file: Path, tmp_path: Path) -> None:
    out, path = tmp_path / "it", tmp_path / "file.pth"
    state = torch.load(file, weights_only=True)["state_dict"]
    half = {
        name: each
        for number, (name, each) in enumerate(state.items())
        if number % 2 or not name.startswith(("backbone.layer3", "backbone.layer4"))
    }
    message = refused(rewritten(file, path, state_dict=half), out)
    assert "tensors do not match the network" in message
    lost = [n for n in state if n not in half and not n.endswith("num_batches_tracked")]
    assert f"{len(lost)} missing" in message
    more = rewritten(file, path, state_dict={**state, "decode_head.extra.weight": torch.ones(2)})
    assert "1 left over (decode_head.extra.weight)" in refused(more, out)
    bad = {**state, "decode_head.conv_seg.bias": torch.full((frozen.K,), torch.nan)}
    assert "not finite" in refused(rewritten(file, path, state_dict=bad), out)
    assert not out.exists()
    assert "not finite" in refused(path, out, "--partial")
    rewritten(file, path, state_dict={**state, "decode_head.extra.weight": torch.ones(2)})
    result = imported(path, out, "--partial")
    assert result.exit_code == 0, result.output
    assert "not used: decode_head.extra.weight" in " ".join(result.output.split())


def test_classes_have_to_be_those_of_the_dataset(file: Path, tmp_path: Path) -> None:
    out, path = tmp_path / "it", tmp_path / "file.pth"
    result = call("import", file, "--from", "mmseg", "--protocol", "cityscapes-r50", "-o", out)
    assert result.exit_code == 2
    text = " ".join(result.output.split())
    assert "a model of 13 classes, and dataset cityscapes of protocol cityscapes-r50 has 19" in text
    meta = torch.load(file, weights_only=True)["meta"]
    names = ("sky", *frozen.CLASSES[1:])
    rewritten(file, path, meta={**meta, "dataset_meta": {"classes": names}})
    assert "0: 'sky' in the file, 'background' here" in refused(path, out)


@pytest.mark.slow
def test_half_precision_is_taken_and_said(file: Path, tmp_path: Path) -> None:
    state = torch.load(file, weights_only=True)["state_dict"]
    halved = {n: t.bfloat16() if t.is_floating_point() else t for n, t in state.items()}
    path = rewritten(file, tmp_path / "file.pth", state_dict=halved)
    result = imported(path, tmp_path / "it")
    assert result.exit_code == 0, result.output
    assert "Stored as bfloat16" in result.output


@pytest.mark.slow
def test_how_to_convert_is_printed_and_works(file: Path, tmp_path: Path) -> None:
    result = call("import", "--convert-help")
    assert result.exit_code == 0
    assert result.output == CONVERT_HELP
    code = "\n".join(line[4:] for line in CONVERT_HELP.splitlines() if line.startswith("    "))
    source, target = tmp_path / "latest.pth", tmp_path / "plain.pth"
    rewritten(file, source, message_hub=Logged())
    code = code.replace('"latest.pth"', repr(str(source))).replace('"plain.pth"', repr(str(target)))
    exec(code, {})
    out = tmp_path / "it"
    assert imported(target, out).exit_code == 0
    record = finished_record(out)
    assert record.imported is not None
    assert record.imported.facts["bins"] == "1,2,3,6"


def test_unknown_sources_are_named(file: Path, tmp_path: Path) -> None:
    result = call("import", file, "--from", "mmsegm", "--protocol", "probe", "-o", tmp_path / "x")
    assert result.exit_code == 2
    assert "mmseg" in result.output


def test_a_file_of_another_head_or_backbone_than_asked_for(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "x"
    assert "is recognised as ppm on resnet18" in refused(file, out, "--head", "ocr")
    assert "is recognised as ppm on resnet18" in refused(file, out, "--backbone", "hrnet_w48")
    assert "did you mean" in refused(file, out, "--head", "ocrnet")
    assert not out.exists()


@pytest.mark.slow
def test_models_of_other_backbones_share_a_table_where_they_are_scored_alike(
    run: Path, tmp_path: Path
) -> None:
    """Their protocols differ by the backbone, and two seeds of one are no method."""
    folder = tmp_path / "probe"
    shutil.copytree(run.parents[1], folder)
    path = frozen.saved(tmp_path / "basic.pth", deep=False)
    content = torch.load(path, weights_only=True)
    content["meta"]["cfg"] = content["meta"]["cfg"].replace("ResNetV1c", "ResNet")
    torch.save(content, path)
    for seed in (0, 1):
        out = folder / "basic" / f"seed-{seed}"
        assert imported(path, out, "--score").exit_code == 0
    result = call("table", folder)
    assert result.exit_code == 0, result.output
    text = " ".join(result.output.split())
    assert "No verdict on" in text
    assert "trained elsewhere, which says something of these models" in text
    other = imported(path, folder / "wide" / "seed-0", "--score", "--set", "evaluate.flip=true")
    assert other.exit_code == 0, other.output
    refused_table = call("table", folder)
    assert refused_table.exit_code == 2
    assert "flip" in refused_table.output
