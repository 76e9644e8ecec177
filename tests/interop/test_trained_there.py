"""README's "Evaluate a published checkpoint" on a file that mmsegmentation's own training wrote."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from contextbench.cli import app
from contextbench.data.cityscapes import LABELS
from contextbench.interop.files import CONVERT_HELP
from tests.heads.test_equivalence import mmseg
from tests.interop.peers import mmseg_config

LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33, 4)
CROP = (64, 128)


def generated_cityscapes(root: Path) -> None:
    """Blocks of 16 pixels, a grey for each class, and the last of no class; both encodings."""
    rng = np.random.default_rng(0)
    for split, city, number in (("train", "aachen", 4), ("val", "lindau", 3)):
        for index in range(number):
            blocks = rng.integers(0, len(LABEL_IDS), (8, 16), dtype=np.uint8)
            train_ids = np.kron(blocks, np.ones((16, 16), np.uint8))
            noise = rng.integers(0, 60, (*train_ids.shape, 3), dtype=np.uint8)
            pictures = {
                "leftImg8bit": noise + train_ids[..., None] * 9,
                "gtFine_labelIds": np.array(LABEL_IDS, np.uint8)[train_ids],
                "gtFine_labelTrainIds": np.where(train_ids == 19, 255, train_ids).astype(np.uint8),
            }
            for kind, picture in pictures.items():
                folder = root / kind.partition("_")[0] / split / city
                folder.mkdir(parents=True, exist_ok=True)
                path = folder / f"{city}_{index:06d}_000019_{kind}.png"
                Image.fromarray(picture).save(path)


def trained(work: Path, data: Path) -> tuple[Path, dict[str, float]]:
    """The file of three iterations of a published configuration, and its own scores on `val`."""
    config = mmseg_config("pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py", pretrained=None)
    runner = sys.modules["mmengine"].runner.Runner
    config.merge_from_dict(
        {
            "work_dir": str(work),
            "crop_size": CROP,
            "model.data_preprocessor.size": CROP,
            "train_cfg.max_iters": 3,
            "train_cfg.val_interval": 3,
            "default_hooks.checkpoint.interval": 3,
        }
    )
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        config[name].update(num_workers=0, persistent_workers=False)
        config[name].dataset.data_root = str(data)
        for step in config[name].dataset.pipeline:
            step.update({"RandomCrop": {"crop_size": CROP}}.get(step.type, {}))
            if "scale" in step:
                step.scale = (256, 128)
    training = runner.from_cfg(config)
    training.train()
    return work / "iter_3.pth", training.test()


def call(*arguments: Any) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.oracle
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")
def test_what_its_training_wrote_is_converted_imported_and_scores_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    mmseg("utils").register_all_modules()
    generated_cityscapes(Path("data/cityscapes"))
    written, theirs = trained(tmp_path / "work", tmp_path / "data" / "cityscapes")
    written.rename("latest.pth")
    usual = ("--from", "mmseg", "--protocol", "cityscapes-r50", "-o", "runs/pspnet")
    refused = CliRunner().invoke(app, ["import", "latest.pth", *usual])
    assert refused.exit_code == 2
    assert "--convert-help" in refused.output
    exec("\n".join(line[4:] for line in CONVERT_HELP.splitlines() if line.startswith("    ")), {})
    call("import", "plain.pth", *usual)
    like = ("evaluate", "runs/pspnet", "--like", "mmseg", "--data-root", "data")
    ours = json.loads(call(*like, "--view", "like-mmseg", "--json"))
    scores = {"mIoU": "miou", "aAcc": "pixel_accuracy", "mAcc": "mean_accuracy"}
    for name, own in scores.items():  # theirs are percents, rounded to two digits
        assert 100 * ours[own] == pytest.approx(float(theirs[name]), abs=0.006), name
    assert list(ours["iou_per_class"]) == list(LABELS.classes)
    street = next(Path("data/cityscapes/leftImg8bit/val/lindau").iterdir())
    call("predict", "runs/pspnet", street, "-o", "predictions")
    call("attend", "runs/pspnet", "--image", street, "--pixel", "60,120", "-o", "attention")
    files = ("--protocol", "runs/pspnet/protocol.yaml", "--heads", "runs/pspnet/head.yaml")
    assert "ppm-mmseg" in call("profile", *files, "--predict", "--image", "128x256")
    assert "ppm-mmseg" in call("explain", "runs/pspnet", "runs/pspnet")
