"""Attention and influence of a pixel: the functions, trained runs, and the command."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from contextbench.cli import app
from contextbench.config.heads import HeadConfig
from contextbench.config.protocols import DatasetConfig, Protocol
from contextbench.data import DataError
from contextbench.evaluation.attention import AttentionError, attention_maps, predicted_class
from contextbench.models.precision import Precision
from contextbench.models.segmenter import Segmenter
from contextbench.runs.attending import attend, find_image, run_labels
from contextbench.runs.cells import Cell, open_setting
from contextbench.runs.run import run_cell
from heads import Features
from tests import small
from tests.data import trees
from tests.heads.small import CHANNELS, CLASSES, small_features, small_head

NAMES = [f"class {k}" for k in range(CLASSES)]
PIXEL = (13, 50)


class FixedFeatures(nn.Module):
    """A backbone that ignores the image."""

    def __init__(self, features: Features) -> None:
        super().__init__()
        self.features = features
        self.channels = CHANNELS


def fixed(variant: str = "ocr", height: int = 5, width: int = 7, *, double: bool = False) -> Any:
    """A model of given features, in float64 if `double`."""
    dtype = torch.float64 if double else torch.float32
    features = small_features(height, width, batch=1, dtype=dtype)
    backbone: Any = FixedFeatures(features)
    backbone.forward = lambda _images: features
    head = small_head(variant)
    return Segmenter(backbone, head.double() if double else head).eval()


def picture(height: int = 40, width: int = 56) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)


def maps_of(model: Segmenter, pixel: tuple[int, int] = PIXEL, **options: Any) -> dict[str, Any]:
    found = attention_maps(
        model, picture(), pixel, head_name="h", image_name="i", classes=NAMES, **options
    )
    return {each.kind: each for each in found}


@pytest.mark.parametrize("variant", ["ocr", "fcn", "ocnet"])
def test_influence_is_the_sum_of_gradient_times_feature(variant: str) -> None:
    """Against central differences of the logit, for every element of the features."""
    model = fixed(variant, 3, 4, double=True)
    found = maps_of(model, target=2)["influence"]
    cell, step = found.cell, 1e-6
    features = small_features(3, 4, batch=1, dtype=torch.float64)
    expected = np.zeros((3, 4))
    for index in np.ndindex(features.layer4.shape):
        logits = []
        for sign in (1, -1):
            moved = features.layer4.clone()
            moved[index] += sign * step
            with torch.no_grad():
                logits.append(model.head(features._replace(layer4=moved)).logits[0, 2, *cell])
        slope = (logits[0] - logits[1]) / (2 * step)
        expected[index[2:]] += abs(slope * features.layer4[index])
    np.testing.assert_allclose(found.values, expected, rtol=1e-4, atol=1e-7)


def test_maps_say_where_the_pixel_is_and_what_they_show() -> None:
    maps = maps_of(fixed("ocr"))
    assert list(maps)[:3] == ["influence", "attention", "regions"]
    for each in maps.values():
        assert (each.head, each.image, each.pixel) == ("h", "i", PIXEL)
        assert each.cell == (13 * 5 // 40, 50 * 7 // 56)
        assert each.values.dtype == np.float32
    assert maps["influence"].values.shape == maps["attention"].values.shape == (5, 7)
    assert list(maps["regions"].labels) == NAMES
    assert maps["attention"].labels == ()


def test_the_parts_of_largest_weight_come_as_maps() -> None:
    model = fixed("ocr")
    maps = maps_of(model)
    weights = maps["regions"].values
    places = model.head.attend(model.backbone(None), maps["regions"].cell)["regions"].places[0]
    shown = [kind for kind in maps if kind.startswith("regions-")]
    assert 1 <= len(shown) <= 3
    for kind, part in zip(shown, np.argsort(-weights), strict=False):
        assert maps[kind].labels == (NAMES[part],)
        np.testing.assert_array_equal(maps[kind].values, places[part].numpy())
    assert weights[np.argsort(-weights)[1 : len(shown)]].min(initial=1) >= 0.05


def test_codewords_and_channels_are_numbered() -> None:
    maps = maps_of(fixed("encnet"))
    assert maps["codewords"].labels[:2] == ("codeword 0", "codeword 1")
    assert len(maps["gate"].labels) == len(maps["gate"].values)


def test_the_class_is_the_predicted_one_unless_given() -> None:
    model = fixed("fcn")
    logits = model.head(model.backbone(None)).logits
    resized = nn.functional.interpolate(logits, (40, 56), mode="bilinear", align_corners=False)
    predictions = resized[0].argmax(dim=0)
    for pixel in ((0, 0), (13, 50), (39, 55)):
        predicted = predicted_class(model, picture(), pixel, image_name="i")
        assert predicted == predictions[pixel]
        assert maps_of(model, pixel)["influence"].labels == (NAMES[predicted],)
    other = maps_of(model, target=3)["influence"]
    assert other.labels == (NAMES[3],)
    with pytest.raises(AttentionError, match="class 5 does not exist"):
        maps_of(model, target=5)


def test_the_model_is_left_as_it_was() -> None:
    """In training mode, with gradients of its own, and called within inference mode."""
    model = fixed("ocr").train()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.inference_mode():
        inside = maps_of(model)
    assert model.head.context.training
    assert all((p.grad == 1).all() for p in model.parameters())
    torch.testing.assert_close(dict(model.state_dict()), state, rtol=0, atol=0)
    outside = maps_of(model.eval())
    for kind, each in outside.items():
        np.testing.assert_array_equal(inside[kind].values, each.values)


@pytest.mark.parametrize("pixel", [(40, 0), (0, 56), (-1, 3)])
def test_a_pixel_outside_the_image_is_refused(pixel: tuple[int, int]) -> None:
    with pytest.raises(AttentionError, match=r"outside of i: allowed are 0,0 to 39,55"):
        maps_of(fixed(), pixel)


def test_images_are_files_positions_or_names(tmp_path: Path) -> None:
    config = DatasetConfig(name="probe", options={"size": 64, "eval_images": 3})
    Image.fromarray(picture().permute(1, 2, 0).numpy()).save(tmp_path / "1", "PNG")
    name, pixels = find_image(str(tmp_path / "1"), config, None)
    assert name == "1"
    assert torch.equal(pixels, picture())
    by_position = find_image("2", config, None)
    for text in ("val:2", "val-000002", "val:val-000002"):
        name, pixels = find_image(text, config, None)
        assert name == by_position[0] == "val-000002"
        assert torch.equal(pixels, by_position[1])
    assert find_image("test:2", config, None)[0] == "test-000002"
    with pytest.raises(DataError, match="positions 0 to 2 and names like 'val-000000'"):
        find_image("3", config, None)
    with pytest.raises(DataError, match=r"no file, and no image of the dataset.*unknown split"):
        find_image("nowhere:3", config, None)


def test_runs_have_the_shortest_labels_that_differ() -> None:
    def label(*runs: tuple[str, int, str]) -> list[str]:
        records: Any = [SimpleNamespace(head_name=head, seed=seed) for head, seed, _ in runs]
        return run_labels([Path(folder) for *_, folder in runs], records)

    assert label(("ocr", 0, "a"), ("fcn", 0, "b")) == ["ocr", "fcn"]
    assert label(("ocr", 0, "a"), ("ocr", 1, "b")) == ["ocr seed 0", "ocr seed 1"]
    assert label(("ocr", 0, "a"), ("ocr", 0, "b")) == ["a", "b"]
    with pytest.raises(AttentionError, match="given twice"):
        label(("ocr", 0, "a"), ("ocr", 0, "a"))


def call(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["attend", *map(str, arguments)])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Trained for a step each, under a protocol that evaluates at two scales."""
    out = tmp_path_factory.mktemp("runs")
    protocol = small.protocol(steps=1)
    evaluate = {"single": protocol.view().model_copy(update={"scales": (0.5, 1.0), "flip": True})}
    setting = open_setting(protocol.model_copy(update={"evaluate": evaluate}), None)
    options = {"ideal": {"ground_truth_regions": True}}
    heads = [
        HeadConfig(
            name=name, head="ocr" if name == "ideal" else name, options=options.get(name, {})
        )
        for name in ("fcn", "ocr", "ideal")
    ]
    for head in heads:
        record = run_cell(Cell(setting, head, 0, Precision()), small.execution(out))
        assert record.status == "done", record.failure
    return {head.name: out / "tiny" / head.name / "seed-0" for head in heads}


def test_attend_writes_figures_and_values(runs: dict[str, Path], tmp_path: Path) -> None:
    result = call(runs["ocr"], "--image", "val:1", "--pixel", "20,33", "-o", tmp_path)
    assert result.exit_code == 0, result.output
    assert "cell       row 2, column 4 of 8x8: rows 16 to 24, columns 32 to 40" in result.output
    assert "predicted  " in result.output
    assert "regions    " in result.output
    assert (
        "evaluation has scales [0.5, 1.0], flip True; this is the whole image, once"
        in result.output
    )
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {f"ocr-val-000001-20-33.{kind}" for kind in ("png", "svg", "npz", "json")}
    described = json.loads((tmp_path / "ocr-val-000001-20-33.json").read_text())
    with np.load(tmp_path / "ocr-val-000001-20-33.npz") as values:
        assert sorted(values) == sorted(each["array"] for each in described)
        for each in described:
            assert list(values[each["array"]].shape) == each["shape"]
            assert (each["pixel"], each["cell"]) == ([20, 33], [2, 4])


def test_images_of_a_split_are_found_where_the_runs_data_lay(tmp_path: Path) -> None:
    """As `evaluate` and `predict --split` find them: a record has no place, `config.yaml` has."""
    root = trees.folder(tmp_path / "data")
    content = small.protocol(steps=1).model_dump(mode="json")
    content["dataset"] = {"name": "folder", "root": str(root)}
    content["train"]["crop"] = (4, 4)
    cell = Cell(
        open_setting(Protocol.model_validate(content), None), small.head("ocr"), 0, Precision()
    )
    assert run_cell(cell, small.execution(tmp_path)).status == "done"
    runs, execution = [cell.folder(tmp_path)], small.execution(tmp_path)
    scene = attend(runs, "val:0", (1, 2), execution)
    moved = root.rename(tmp_path / "moved")
    with pytest.raises(DataError, match="no image of the dataset"):
        attend(runs, "val:0", (1, 2), execution)
    again = attend(runs, "val:0", (1, 2), dataclasses.replace(execution, data_root=moved))
    assert again.image_name == scene.image_name
    assert np.array_equal(again.image, scene.image)


@pytest.mark.slow
def test_compare_makes_one_figure_and_says_who_has_no_attention(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    both = runs["fcn"], runs["ocr"]
    file = tmp_path / "a picture.png"
    Image.fromarray(picture(50, 70).permute(1, 2, 0).numpy()).save(file)
    where = ["--image", file, "--pixel", "49, 69", "-o", tmp_path / "out"]
    result = call(*both, *where, "--class", "size_small", "--compare", "--json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.output)
    assert [run["head"] for run in answer["runs"]] == ["fcn", "ocr"]
    assert all(run["class"] == "size_small" for run in answer["runs"])
    assert all(run["cells"] == [7, 9] and run["cell"] == [6, 8] for run in answer["runs"])
    assert set(answer["runs"][0]["maps"]) == {"influence"}
    assert any("Without attention" in note for note in answer["runs"][0]["notes"])
    assert not any("Without attention" in note for note in answer["runs"][1]["notes"])
    assert {Path(path).stem for path in answer["files"]} == {"compared-a-picture-49-69"}
    separate = call(*both, *where, "--json")
    assert len(json.loads(separate.output)["files"]) == 8


def test_bad_input_is_refused_before_anything_is_written(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    empty = tmp_path / "no-checkpoint"
    empty.mkdir()
    (empty / "record.json").write_bytes((runs["ocr"] / "record.json").read_bytes())
    other = tmp_path / "other-classes"
    other.mkdir()
    record = json.loads((runs["ocr"] / "record.json").read_text())
    record["labels"]["classes"][1] = "another"
    (other / "record.json").write_text(json.dumps(record))
    text = tmp_path / "text.png"
    text.write_text("no image")
    usual = {"--image": "0", "--pixel": "1,2", "--out": out}
    cases: list[tuple[list[Path], dict[str, Any], str]] = [
        ([runs["ocr"]], {"--pixel": "64,0"}, "outside of val-000000: allowed are 0,0 to 63,63"),
        ([runs["ocr"]], {"--pixel": "1;2"}, "write row and column"),
        ([runs["ocr"]], {"--class": "size_smal"}, "did you mean 'size_small'"),
        ([runs["ocr"]], {"--image": text}, "cannot be read as an image"),
        ([runs["ocr"]], {"--image": "3"}, "positions 0 to 2"),
        ([runs["ideal"]], {}, "regions are the ground truth"),
        ([tmp_path], {}, "not the folder of a run"),
        ([empty], {}, "checkpoint.safetensors: cannot be read"),
        ([runs["fcn"], other], {}, "other classes"),
        ([runs["fcn"], runs["fcn"]], {}, "given twice"),
    ]
    for folders, changed, message in cases:
        options = [part for pair in {**usual, **changed}.items() for part in pair]
        result = call(*folders, *options)
        assert result.exit_code == 2, (message, result.output)
        assert message in " ".join(result.output.split()), (message, result.output)
    assert not out.exists()


def test_a_folder_that_cannot_be_written_is_said(runs: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = call(runs["fcn"], "--image", "0", "--pixel", "1,2", "-o", tmp_path / "file")
    assert result.exit_code == 2
    assert "cannot write" in result.output
