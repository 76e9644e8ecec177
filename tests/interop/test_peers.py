"""Logits of imported models against the packages that they come from.

Weights and batch-norm statistics are random, images of odd sizes, one and two at a time; what is
compared are logits at the size of the image, float32, by the spread of the original's.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models import segmentation

from contextbench.interop.facts import Facts
from tests.interop import frozen
from tests.interop.peers import (
    SIZES,
    TOLERANCE,
    images,
    largest_difference,
    mmseg_config,
    mmseg_logits,
    mmseg_model,
    mmseg_saved,
    opened,
    our_logits,
    randomised,
)

# Of the configurations that mmsegmentation ships.
PUBLISHED = (
    "fcn/fcn_r50-d8_4xb4-20k_voc12aug-512x512.py",
    "pspnet/pspnet_r50-d8_4xb2-80k_cityscapes-512x1024.py",
    "pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py",
    "pspnet/pspnet_r18b-d8_4xb2-80k_cityscapes-512x1024.py",
    "deeplabv3/deeplabv3_r50-d8_4xb4-80k_ade20k-512x512.py",
    "deeplabv3/deeplabv3_r101-d8_4xb2-40k_cityscapes-512x1024.py",
    "encnet/encnet_r50-d8_4xb4-80k_ade20k-512x512.py",
    "encnet/encnet_r50s-d8_4xb4-80k_ade20k-512x512.py",
    "ocrnet/ocrnet_r101-d8_4xb2-40k_cityscapes-512x1024.py",
    "danet/danet_r50-d8_4xb2-40k_cityscapes-512x1024.py",
    "ccnet/ccnet_r50-d8_4xb2-40k_cityscapes-512x1024.py",
    "isanet/isanet_r50-d8_4xb2-40k_cityscapes-512x1024.py",
    "pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-769x769.py",  # aligned corners
    "nonlocal_net/nonlocal_r50-d8_4xb2-40k_cityscapes-512x1024.py",
    "dnlnet/dnl_r50-d8_4xb2-40k_cityscapes-512x1024.py",
    "gcnet/gcnet_r50-d8_4xb2-40k_cityscapes-512x1024.py",
    "emanet/emanet_r50-d8_4xb2-80k_cityscapes-512x1024.py",
    "deeplabv3plus/deeplabv3plus_r50-d8_4xb2-40k_cityscapes-512x1024.py",
    "deeplabv3plus/deeplabv3plus_r50-d8_4xb2-40k_cityscapes-769x769.py",
    "upernet/upernet_r50_4xb2-40k_cityscapes-512x1024.py",
    "upernet/upernet_r50_4xb2-40k_cityscapes-769x769.py",
    "hrnet/fcn_hr18_4xb2-80k_cityscapes-512x1024.py",
    "hrnet/fcn_hr18s_4xb2-80k_cityscapes-512x1024.py",
    "ocrnet/ocrnet_hr48_4xb2-80k_cityscapes-512x1024.py",
)
CLASSES = {"ade20k": 150, "voc12aug": 21, "cityscapes": 19}


@pytest.mark.oracle
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")  # theirs, about losses and names that moved
@pytest.mark.parametrize("name", PUBLISHED)
def test_mmsegmentation(name: str, tmp_path: Path) -> None:
    config = mmseg_config(name)
    theirs = mmseg_model(config)
    classes = next(count for dataset, count in CLASSES.items() if dataset in name)
    ours, found = opened(mmseg_saved(tmp_path / "it.pth", theirs, config, classes), "mmseg")
    assert found.num_classes == classes
    given = [images(*size) for size in SIZES]
    differences = [largest_difference(our_logits(ours, x), mmseg_logits(theirs, x)) for x in given]
    print(f"{name}: {max(differences):.1e}")  # with -s, for docs/checkpoints.md
    assert max(differences) <= TOLERANCE


def small_config(head: str) -> Any:
    """The frozen text as mmengine reads it."""
    from mmengine import Config

    mmseg_config(PUBLISHED[0])
    return Config.fromstring(frozen.HEADS[head][1], ".py")


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("head", frozen.HEADS)
def test_frozen_names_and_shapes_are_those_of_the_package(head: str) -> None:
    state = mmseg_model(small_config(head)).state_dict()
    assert {name: tuple(each.shape) for name, each in state.items()} == frozen.shapes_of(head)


@pytest.mark.slow
@pytest.mark.parametrize("aux_loss", [True, False])
@pytest.mark.parametrize(
    "name", ["fcn_resnet50", "deeplabv3_resnet50", "fcn_resnet101", "deeplabv3_resnet101"]
)
def test_torchvision(name: str, aux_loss: bool, tmp_path: Path) -> None:
    build = getattr(segmentation, name)
    model = build(weights=None, weights_backbone=None, num_classes=5, aux_loss=aux_loss)
    theirs = randomised(model)
    torch.save(theirs.state_dict(), tmp_path / "it.pth")
    ours, found = opened(tmp_path / "it.pth", "torchvision")
    assert found.num_classes == 5
    x = images(2, 33, 49)
    with torch.inference_mode():
        expected = theirs(x)["out"]
    difference = largest_difference(our_logits(ours, x), expected)
    print(f"{name}: {difference:.1e}")  # with -s, for docs/checkpoints.md
    assert difference <= TOLERANCE


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("encoder", "stride"), [("resnet18", 16), ("resnet50", 8)])
def test_segmentation_models_pytorch(encoder: str, stride: int, tmp_path: Path) -> None:
    """Of its sizes: sides that the output stride divides."""
    import segmentation_models_pytorch as smp

    model = smp.DeepLabV3(
        encoder, encoder_weights=None, classes=5, encoder_output_stride=stride, aux_params=None
    )
    theirs = randomised(model)
    torch.save(theirs.state_dict(), tmp_path / "it.pth")
    facts = Facts({"output_stride": str(stride)}, usual=True)
    ours, found = opened(tmp_path / "it.pth", "smp", facts)
    assert found.backbone.name == encoder
    x = images(2, 64, 96)
    with torch.inference_mode():
        difference = largest_difference(our_logits(ours, x), theirs(x))
    print(f"smp {encoder}: {difference:.1e}")  # with -s, for docs/checkpoints.md
    assert difference <= TOLERANCE
