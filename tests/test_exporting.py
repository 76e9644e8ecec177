"""Models as files for other programs: reloaded alone, they compute what the run computes."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from typer.testing import CliRunner

import contextbench
from contextbench.cli import app
from contextbench.data.base import DataError
from contextbench.data.transforms import normalise
from contextbench.evaluation.prediction import Predictor
from contextbench.interop import deployed
from contextbench.interop.deployed import FORMATS, ExportError
from contextbench.models.build import build_model
from contextbench.models.precision import Precision
from contextbench.models.segmenter import Segmenter, resize_logits
from contextbench.records.runs import cell_folder
from contextbench.runs.cells import open_setting
from contextbench.runs.exporting import Wanted, export_run
from contextbench.runs.grid import run_grid
from heads import HEADS
from tests import small

needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in deployed.ONNX_PACKAGES),
    reason="needs the extra `export`",
)
ANY_FORMAT = [pytest.param(each, marks=[needs_onnx] * (each == "onnx")) for each in FORMATS]
SOME_SLOW = [
    pytest.param(each, marks=[needs_onnx, pytest.mark.slow] if each == "onnx" else [])
    for each in FORMATS
]


def trained(out: Path, name: str, **options: object) -> Path:
    head = small.head(name, **options)
    [record] = run_grid(
        open_setting(small.protocol(steps=1), None), [head], [0], Precision(), small.execution(out)
    )
    assert record.status == "done", record.failure
    return cell_folder(out, "tiny", name, 0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("runs"), "fcn")


def images(height: int, width: int, n: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (n, 3, height, width), generator=generator, dtype=torch.uint8)


def expected(run: Path, given: Tensor) -> Tensor:
    """Logits at the size of images, by the parts that evaluation is made of."""
    model = contextbench.load(run, device="cpu").segmenter
    with torch.inference_mode():
        return resize_logits(model(normalise(given)).logits, given.shape[2:])


def program(path: Path) -> Any:
    """What other code makes of the file alone."""
    if path.suffix == ".pt2":
        return torch.export.load(path).module()
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda given: torch.from_numpy(session.run(["scores"], {"image": given.numpy()})[0])


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".pt2", pytest.param(".onnx", marks=needs_onnx)])
def test_a_graph_computes_the_logits_of_images_of_any_size(
    run: Path, tmp_path: Path, ending: str
) -> None:
    path = tmp_path / f"model{ending}"
    format = {".pt2": "torch-export", ".onnx": "onnx"}[ending]
    found = export_run(run, path, Wanted(format))
    assert found.difference <= deployed.TOLERANCE
    assert len(set(found.sizes)) == 3
    loaded = program(path)
    for size in ((64, 64), (96, 80), (75, 131)):
        given = images(*size)
        torch.testing.assert_close(loaded(given), expected(run, given), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_labels_of_float_images_of_one_size(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    wanted = Wanted("torch-export", (48, 80), "float32", "labels", batch=2)
    assert export_run(run, path, wanted).taken == "48x80"
    given = images(48, 80, n=2)
    found = torch.export.load(path).module()(given.float())
    assert found.dtype == torch.uint8
    assert torch.equal(found.long(), expected(run, given).argmax(dim=1))
    with pytest.raises(Exception, match="48"):
        torch.export.load(path).module()(images(56, 80, n=2).float())


@pytest.mark.parametrize("aligned", [False, True])
def test_what_is_exported_predicts_as_an_evaluation_does(aligned: bool) -> None:
    """By the strips of an evaluation, which resize rows by their weights."""
    protocol = small.protocol().model_copy(update={"align_corners": aligned})
    model = build_model(protocol, small.head(), 5, seed=0, pretrained=False).eval()
    given = images(75, 64)
    with torch.inference_mode():
        labels = deployed.Deployed(model, "labels")(given)
        found = Predictor([model], torch.device("cpu"), Precision()).labels(given)
    assert (labels == found).float().mean() > 0.999  # rounding at ties
    other = Segmenter(model.backbone, model.head, align_corners=not aligned).eval()
    with torch.inference_mode():
        assert (deployed.Deployed(other, "labels")(given) == found).float().mean() < 0.999


@pytest.mark.parametrize("format", SOME_SLOW)
def test_a_file_says_what_it_is_of(run: Path, tmp_path: Path, format: str) -> None:
    path = tmp_path / "model"
    export_run(run, path, Wanted(format, None if format == "safetensors" else (64, 64)))
    model, about = contextbench.load(run, device="cpu"), stated(path, format)
    assert json.loads(about["classes"]) == list(model.classes)
    assert np.array_equal(json.loads(about["palette"]), model.palette)
    assert json.loads(about["head"])["head"] == "fcn"
    assert about["fingerprint"] == model.record.fingerprint
    assert ("output" in about) == (format != "safetensors")


def stated(path: Path, format: str) -> dict[str, str]:
    if format == "safetensors":
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata())
    if format == "torch-export":
        extra = {deployed.ABOUT: ""}
        torch.export.load(path, extra_files=extra)
        return dict(json.loads(extra[deployed.ABOUT]))
    import onnx

    return {each.key: each.value for each in onnx.load(path).metadata_props}


def test_weights_are_what_a_training_starts_from(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    contextbench.load(run, device="cpu").export(path, "safetensors")
    again = contextbench.build_model(small.protocol(init=str(path)), small.head())
    for name, tensor in contextbench.load(run, device="cpu").segmenter.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


def test_what_computes_something_else_is_no_export(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exporter that drops the normalisation, noticed when the file is read back."""
    real = deployed._read

    def wrong(*arguments: Any) -> Any:
        loaded = real(*arguments)
        return lambda given: loaded(given // 2)

    monkeypatch.setattr(deployed, "_read", wrong)
    path = tmp_path / "model.safetensors"
    with pytest.raises(ExportError, match=r"fcn cannot be exported: .*computes something else: at"):
        export_run(run, path, Wanted("safetensors"))
    assert list(tmp_path.iterdir()) == []


def test_an_export_without_its_packages_says_what_is_missing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if "onnx" in name else real(name)
    )
    result = call(run, "--format", "onnx", "-o", tmp_path / "model.onnx")
    assert result[0] == 2
    assert "needs onnx, onnxscript, onnxruntime; not installed: onnx, onnxscript" in result[1]
    assert "pip install 'contextbench[export]'" in result[1]


def call(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["export", *map(str, arguments)])
    return result.exit_code, " ".join(result.output.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--format", "onxx"), "--format 'onxx' is unknown; did you mean 'onnx'?"),
        (("--format", "torch-export", "--input", "int8"), "--input 'int8' is unknown"),
        (("--format", "torch-export", "--output", "mask"), "--output 'mask' is unknown"),
        (("--format", "safetensors", "--size", "8x8"), "holds weights and no graph"),
        (("--format", "torch-export", "--size", "8"), "--size '8'"),
    ],
)
def test_mistakes_of_the_user(
    run: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    code, output = call(run, *arguments, "-o", tmp_path / "model")
    assert (code, message in output) == (2, True), output
    assert not (tmp_path / "model").exists()


def test_a_file_that_is_there_stays(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_text("mine")
    arguments = (run, "--format", "safetensors", "-o", path)
    code, output = call(*arguments)
    assert (code, path.read_text()) == (2, "mine")
    assert "is there already: choose another --out, or --fresh" in output
    code, output = call(*arguments, "--fresh")
    assert code == 0
    assert "largest difference over spread 0.0e+00" in output


def test_a_head_that_needs_labels_says_why(tmp_path: Path) -> None:
    folder = trained(tmp_path, "ocr", ground_truth_regions=True)
    with pytest.raises(DataError, match="ocr cannot be exported: its regions are the ground truth"):
        export_run(folder, tmp_path / "model.pt2", Wanted("torch-export", (64, 64)))


# What neither format has of any size, since the trace is the same; and what ONNX alone cannot.
ONE_SIZE = {"pyramid_oc", "asp_oc", "isa", "ccnet", "deeplabv3plus", "upernet"}
ONE_SIZE_IN_ONNX = {"ppm"}


@pytest.mark.slow
@pytest.mark.parametrize("format", ANY_FORMAT)
@pytest.mark.parametrize("name", HEADS)
def test_every_head_in_every_format(tmp_path: Path, name: str, format: str) -> None:
    folder, path = trained(tmp_path / "runs", name), tmp_path / "model"
    if format == "safetensors":
        assert export_run(folder, path, Wanted(format)).difference == 0
        return
    one = export_run(folder, path, Wanted(format, (96, 128)))
    assert one.taken == "96x128"
    if name in ONE_SIZE and format == "onnx":
        return
    wanted = Wanted(format, fresh=True)
    if name in (ONE_SIZE if format == "torch-export" else ONE_SIZE_IN_ONNX):
        with pytest.raises(ExportError, match=f"{name} cannot be exported: .*--size 512x1024"):
            export_run(folder, path, wanted)
        return
    assert len(set(export_run(folder, path, wanted).sizes)) == 3
