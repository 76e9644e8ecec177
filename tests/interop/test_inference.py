"""`contextbench evaluate --like mmseg`: settings, resizing of bytes, windows and views."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from typer.testing import CliRunner

from contextbench.cli import app
from contextbench.config.evaluation import EvaluateConfig
from contextbench.evaluation.opencv import resized_bytes
from contextbench.evaluation.prediction import predict_labels, view_size
from contextbench.interop.inference import inference_of
from contextbench.interop.literals import read_assignments
from contextbench.models.backbone import build_backbone
from contextbench.models.segmenter import Segmenter
from heads import build_head
from tests.interop import frozen
from tests.interop.peers import mmseg_config, mmseg_model

PIPELINE = """
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(keep_ratio=True, scale=(96, 48), type='Resize'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs')]
"""
SLIDE = "mode='slide', crop_size=(40, 48), stride=(24, 32)"


def text(*, pipeline: str = PIPELINE, windows: str = "mode='whole'", divisor: int = 0) -> str:
    cfg = frozen.HEADS["ppm"][1].replace("test_cfg=dict(mode='whole')", f"test_cfg=dict({windows})")
    if divisor:
        cfg = cfg.replace("pad_val=0,", f"pad_val=0, test_cfg=dict(size_divisor={divisor}),")
    return cfg + pipeline


def test_settings_are_read_from_the_configuration() -> None:
    found = inference_of(read_assignments(text(windows=SLIDE, divisor=32)))
    assert found == {
        "short_side": 48, "long_side": 96, "mode": "slide", "window": [40, 48],
        "stride": [24, 32], "size_divisor": 32,
    }  # fmt: skip
    squeezed = PIPELINE.replace("keep_ratio=True", "keep_ratio=False")
    assert inference_of(read_assignments(text(pipeline=squeezed))) == {
        "size": [48, 96], "mode": "whole"
    }  # fmt: skip
    before = """
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='MultiScaleFlipAug', flip=False,
    img_scale=(96, 48), transforms=[dict(type='Resize', keep_ratio=True), dict(type='Pad')])]
"""
    assert inference_of(read_assignments(text(pipeline=before))) == {
        "short_side": 48, "long_side": 96, "mode": "whole"
    }  # fmt: skip
    assert inference_of(read_assignments(text(pipeline=""))) is None
    computed = PIPELINE.replace("(96, 48)", "size_of(3)")
    assert inference_of(read_assignments(text(pipeline=computed))) is None


def one_byte(x: np.ndarray, i: int, j: int, size: tuple[int, int]) -> int:
    """The formula in exact fractions of 1 / 2048, one pixel at a time."""
    taps = []
    for at, source, target in ((i, x.shape[0], size[0]), (j, x.shape[1], size[1])):
        position = float(np.float32((at + 0.5) / (target / source) - 0.5))
        first = int(np.floor(position))
        share = np.float32(position) - np.float32(first)
        weights = [int(np.rint(each * 2048)) for each in (1 - share, share)]
        places = [min(max(first + k, 0), source - 1) for k in (0, 1)]
        taps.append(list(zip(places, weights, strict=True)))
    total = 0
    for row, v in taps[0]:
        mixed = sum(int(x[row, column]) * u for column, u in taps[1])
        total += ((mixed >> 4) * v) >> 16
    return total + 2 >> 2


@pytest.mark.parametrize("size", [(13, 9), (4, 30), (11, 7)])
def test_bytes_are_resized_in_whole_numbers(size: tuple[int, int]) -> None:
    x = np.random.default_rng(0).integers(0, 256, (7, 11), dtype=np.uint8)
    resized = resized_bytes(torch.from_numpy(x)[None, None], size)[0, 0]
    expected = [[one_byte(x, i, j, size) for j in range(size[1])] for i in range(size[0])]
    assert resized.tolist() == expected


def test_half_the_size_is_the_mean_of_four() -> None:
    x = torch.tensor([[0, 1, 255, 255], [1, 0, 255, 254]], dtype=torch.uint8)[None, None]
    assert resized_bytes(x, (1, 2)).flatten().tolist() == [1, 255]  # (2 + 2) >> 2, (1019 + 2) >> 2


def test_sides_are_rounded_up_from_a_half_and_scales_are_of_the_image() -> None:
    config = EvaluateConfig(like="mmseg", short_side=50, long_side=1000)
    assert view_size((100, 205), config, 1) == (50, 103)  # 102.5; plain settings round to even
    assert view_size((100, 205), EvaluateConfig(short_side=50, long_side=1000), 1) == (50, 102)
    several = config.model_copy(update={"scales": (0.5, 1.0)})
    assert [view_size((100, 205), several, s) for s in several.scales] == [(50, 103), (100, 205)]


def test_logits_are_resized_to_the_seen_image_and_then_to_the_mask() -> None:
    """Two views, in windows, with padding: the mean of softmax of each, at the size of the mask."""
    torch.manual_seed(0)
    backbone = build_backbone("resnet10", width=8)
    model = Segmenter(backbone, build_head("fcn", backbone.channels, 5, width=6)).eval()
    raw = torch.randint(0, 256, (1, 3, 41, 57), dtype=torch.uint8)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406),
                                                         (0.229, 0.224, 0.225)))  # fmt: skip
    config = EvaluateConfig(
        like="mmseg", mode="slide", window=(24, 32), stride=(16, 24), flip=True, short_side=30,
        long_side=80, size_divisor=16,
    )  # fmt: skip
    seen = (resized_bytes(raw, (30, 42)) / 255 - mean) / std
    total = torch.zeros(1, 5, 41, 57)
    with torch.inference_mode():
        for flipped in (False, True):
            x = F.pad(seen.flip(-1) if flipped else seen, (0, 6, 0, 2))  # 32 x 48
            logits, count = torch.zeros(1, 5, 32, 48), torch.zeros(32, 48)
            for top in (0, 8):
                for left in (0, 16):
                    box = (..., slice(top, top + 24), slice(left, left + 32))
                    part = model(x[box]).logits
                    logits[box] += F.interpolate(part, (24, 32), mode="bilinear")
                    count[box] += 1
            logits = (logits / count)[..., :30, :42]
            logits = logits.flip(-1) if flipped else logits
            total += F.interpolate(logits, (41, 57), mode="bilinear").softmax(1)
        predicted = predict_labels([model], (raw / 255 - mean) / std, (41, 57), config=config)
    assert torch.equal(predicted.long(), total.argmax(1))


@pytest.mark.parametrize(
    "views", [{}, {"flip": True}, {"mode": "slide", "window": (24, 32), "stride": (16, 16)}]
)
def test_aligned_corners_reach_every_prediction(views: dict[str, Any]) -> None:
    """Whole images in strips, views and windows, at a size that is not the image's."""
    torch.manual_seed(0)
    backbone = build_backbone("resnet10", width=8)
    head = build_head("fcn", backbone.channels, 5, width=6)
    model = Segmenter(backbone, head, align_corners=True).eval()
    images = torch.randn(1, 3, 33, 48)

    def aligned(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return F.interpolate(x, size, mode="bilinear", align_corners=True)

    with torch.inference_mode():
        if "window" in views:
            total, count = torch.zeros(1, 5, 33, 48), torch.zeros(33, 48)
            for top in (0, 9):
                for left in (0, 16):
                    box = (..., slice(top, top + 24), slice(left, left + 32))
                    total[box] += aligned(model(images[box]).logits, (24, 32)).softmax(1)
                    count[box] += 1
            expected = aligned(total / count, (50, 61))
        else:
            expected = aligned(model(images).logits, (50, 61)).softmax(1)
            if "flip" in views:
                turned = model(images.flip(-1)).logits.flip(-1)
                expected = expected + aligned(turned, (50, 61)).softmax(1)
        predicted = predict_labels([model], images, (50, 61), config=EvaluateConfig(**views))
    assert (predicted.long() == expected.argmax(1)).float().mean() > 0.999  # ties of rounding


def test_only_runs_from_there_are_evaluated_like_it(tmp_path: Path) -> None:
    path, out = frozen.saved(tmp_path / "it.pth"), tmp_path / "run" / "seed-0"
    small = ["--set", "dataset.options.size=64", "--set", "dataset.options.eval_images=2"]
    result = CliRunner().invoke(
        app, ["import", str(path), "--from", "mmseg", "--protocol", "probe", "-o", str(out), *small]
    )
    assert result.exit_code == 0, result.output
    refused = CliRunner().invoke(app, ["evaluate", str(out), "--like", "mmseg"])
    assert refused.exit_code == 2
    assert "has no configuration with a test pipeline" in " ".join(refused.output.split())
    refused = CliRunner().invoke(app, ["evaluate", str(out), "--like", "detectron"])
    assert refused.exit_code == 2
    assert "mmseg" in refused.output


# --- against its own evaluator


def folder_of_images(root: Path, sizes: tuple[tuple[int, int], ...]) -> None:
    rng = np.random.default_rng(5)
    for kind in ("images", "masks"):
        (root / kind / "val").mkdir(parents=True)
        (root / kind / "train").mkdir()
    for number, (height, width) in enumerate((*sizes, sizes[0])):
        split = "train" if number == len(sizes) else "val"
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        mask = rng.integers(0, frozen.K, (height // 8 + 1, width // 8 + 1), dtype=np.uint8)
        mask = np.kron(mask, np.ones((8, 8), np.uint8))[:height, :width]
        mask[:5] = 255
        Image.fromarray(image).save(root / "images" / split / f"{number}.png")
        Image.fromarray(mask).save(root / "masks" / split / f"{number}.png")
    about = {"classes": list(frozen.CLASSES), "values": list(range(frozen.K)),
             "image_suffix": ".png", "splits": ["train", "val"]}  # fmt: skip
    (root / "dataset.yaml").write_text(json.dumps(about))


def their_result(cfg: Any, model: nn.Module, root: Path) -> tuple[float, list[Any]]:
    """mIoU of mmsegmentation's own evaluator, and the predicted maps in order of the images."""
    from mmengine.evaluator import Evaluator
    from mmengine.runner import Runner

    loader = Runner.build_dataloader(
        {
            "batch_size": 1,
            "num_workers": 0,
            "sampler": {"type": "DefaultSampler", "shuffle": False},
            "dataset": {
                "type": "BaseSegDataset",
                "data_root": str(root),
                "data_prefix": {"img_path": "images/val", "seg_map_path": "masks/val"},
                "img_suffix": ".png",
                "seg_map_suffix": ".png",
                "metainfo": {"classes": frozen.CLASSES},
                "pipeline": cfg.test_pipeline,
            },
        }
    )
    evaluator = Evaluator({"type": "IoUMetric", "iou_metrics": ["mIoU"]})
    evaluator.dataset_meta = loader.dataset.metainfo
    maps = []
    for batch in loader:
        with torch.inference_mode():
            samples = model.test_step(batch)
        maps.append(samples[0].pred_sem_seg.data[0].cpu().numpy())
        evaluator.process(data_samples=samples, data_batch=batch)
    return float(evaluator.evaluate(len(loader.dataset))["mIoU"]), maps


@pytest.mark.oracle
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("windows", ["mode='whole'", SLIDE])
def test_mmsegmentation_evaluates_the_same_pixels(
    windows: str, aligned: bool, tmp_path: Path
) -> None:
    from mmengine import Config

    mmseg_config("pspnet/pspnet_r50-d8_4xb2-80k_cityscapes-512x1024.py")
    cfg_text = text(windows=windows, divisor=32)
    if aligned:
        cfg_text = cfg_text.replace("align_corners=False", "align_corners=True")
    cfg = Config.fromstring(cfg_text, ".py")
    model = mmseg_model(cfg)
    root, out = tmp_path / "data", tmp_path / "run" / "seed-0"
    folder_of_images(root, ((61, 83), (48, 96), (130, 75), (96, 192)))
    meta = {"cfg": cfg.pretty_text, "dataset_meta": {"classes": frozen.CLASSES}}
    torch.save({"meta": meta, "state_dict": model.state_dict()}, tmp_path / "it.pth")
    folder = f"dataset={{name: folder, root: {root}, train: train, evaluate: val}}"
    imported = CliRunner().invoke(
        app, ["import", str(tmp_path / "it.pth"), "--from", "mmseg", "--protocol", "camvid-small",
              "-o", str(out), "--set", folder, "--set", "train.crop=[32, 32]"],
    )  # fmt: skip
    assert imported.exit_code == 0, imported.output
    result = CliRunner().invoke(
        app, ["evaluate", str(out), "--like", "mmseg", "--json", "--device", "cpu"]
    )
    assert result.exit_code == 0, result.output
    ours = json.loads(result.stdout)
    theirs, maps = their_result(cfg, model, root)
    assert ours["miou"] * 100 == pytest.approx(theirs, abs=0.005 + 1e-9)  # they round
    print(f"mIoU {windows}, aligned {aligned}: {ours['miou'] * 100:.4f}, theirs {theirs}")
    confusion = np.zeros((2, frozen.K), np.int64)  # correct and predicted
    for number, predicted in enumerate(maps):
        mask = np.array(Image.open(root / "masks" / "val" / f"{number}.png"))
        known = mask != 255
        same = mask[known][mask[known] == predicted[known]]
        confusion[0] += np.bincount(same, minlength=frozen.K)
        confusion[1] += np.bincount(predicted[known], minlength=frozen.K)
    correct = confusion[0].sum() / sum(
        int((np.array(Image.open(p)) != 255).sum()) for p in (root / "masks" / "val").iterdir()
    )
    assert ours["pixel_accuracy"] == pytest.approx(correct, abs=1e-12)
