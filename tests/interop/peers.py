"""Models of other packages with random weights and statistics, saved as these packages save."""

import importlib
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from contextbench.config.heads import HeadConfig
from contextbench.config.protocols import load_protocol
from contextbench.interop.facts import Facts
from contextbench.interop.files import read_checkpoint
from contextbench.interop.sources import SOURCES
from contextbench.interop.structure import Recognised, transplant
from contextbench.models.build import build_model
from contextbench.models.segmenter import Segmenter, resize_logits
from tests.heads.small import randomize_norms
from tests.heads.test_equivalence import mmseg

# Odd sizes, one of them smaller than the dilations, and a batch.
SIZES = ((1, 97, 65), (2, 33, 121))
TOLERANCE = 1e-4  # of the spread of the logits, in float32


def images(batch: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(batch, 3, height, width, generator=generator)


def randomised(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
            if layer.bias is not None:
                nn.init.normal_(layer.bias, 0, 0.3)
    randomize_norms(model)
    return model.eval()


def recognised(path: Path, source: str = "mmseg", facts: Facts | None = None) -> Recognised:
    return SOURCES[source](read_checkpoint(path), facts or Facts())


def opened(path: Path, source: str, facts: Facts | None = None) -> tuple[Segmenter, Recognised]:
    """What the import makes of a file, and the reader's notes in `Recognised`."""
    file = read_checkpoint(path)
    found = SOURCES[source](file, facts or Facts())
    settings = load_protocol("cityscapes-r50").model_copy(
        update={
            "backbone": found.backbone,
            "head_width_factor": 1.0,
            "align_corners": found.align_corners,
        }
    )
    head = HeadConfig(name="imported", head=found.head, options=dict(found.options))
    model = build_model(settings, head, found.num_classes, seed=5, pretrained=False)
    transplant(model, file, found, partial=False)
    return model.eval(), found


def largest_difference(ours: Tensor, theirs: Tensor) -> float:
    """Relative to the spread of the logits."""
    return float((ours - theirs).abs().max() / (theirs.max() - theirs.min()))


# --- mmsegmentation


def mmseg_config(name: str, **changes: Any) -> Any:
    """A published configuration, by its path below `configs`, with `changes` of the model."""
    mmseg("models")
    package = Path(sys.modules["mmseg"].__file__ or "").parent
    config = importlib.import_module("mmengine").Config
    loaded = config.fromfile(package / ".mim" / "configs" / name)
    loaded.merge_from_dict({f"model.{key}": value for key, value in changes.items()})
    return loaded


def mmseg_model(config: Any) -> nn.Module:
    model = config.model.copy()
    model.pop("pretrained", None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mmseg("utils").register_all_modules(init_default_scope=True)
        built: nn.Module = mmseg("registry").MODELS.build(model)
    return randomised(built)


def mmseg_saved(path: Path, model: nn.Module, config: Any, classes: int = 19) -> Path:
    """As mmengine's runner stores it, without the optimiser and the log."""
    names = mmseg("utils")
    known = {19: "cityscapes", 150: "ade", 21: "voc"}[classes]
    meta = {
        "epoch": 0,
        "iter": 80000,
        "cfg": config.pretty_text,
        "seed": 0,
        "experiment_name": "published",
        "dataset_meta": {
            "classes": names.get_classes(known),
            "palette": names.get_palette(known),
        },
    }
    torch.save({"meta": meta, "state_dict": model.state_dict()}, path)
    return path


def mmseg_logits(model: nn.Module, x: Tensor) -> Tensor:
    """(N, K, H, W), as its evaluation takes the largest of."""
    with torch.inference_mode():
        metas = [{"img_shape": tuple(x.shape[-2:])}] * len(x)
        logits: Tensor = model.encode_decode(x, metas)
        aligned = model.align_corners
        return F.interpolate(logits, x.shape[-2:], mode="bilinear", align_corners=aligned)


def our_logits(model: Segmenter, x: Tensor) -> Tensor:
    with torch.inference_mode():
        size = (x.shape[-2], x.shape[-1])
        return resize_logits(model(x).logits, size, align_corners=model.align_corners)
