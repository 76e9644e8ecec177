"""What exists, for `list`, and whether this machine can run it, for `doctor`."""

import inspect
import shutil
from pathlib import Path
from typing import Any

import torch

from contextbench.config.protocols import ConfigError, HeadConfig, load_protocol, names_in, nearest
from contextbench.data import DATASETS
from contextbench.models.backbone import RESNETS, build_backbone
from contextbench.models.build import build_model
from contextbench.models.timm_backbone import HRNET_STRIDE, PREFIX, hrnet_names
from contextbench.papers.ablations import load_ablation
from contextbench.papers.published import load_table
from contextbench.training.environment import environment
from contextbench.training.losses import pixel_cross_entropy
from heads import HEADS

KINDS = ("heads", "protocols", "datasets", "backbones", "tables", "ablations")


def inventory(kind: str) -> dict[str, str]:
    """Name and one line about each of a kind. Raises `ConfigError` for an unknown kind."""
    if kind == "heads":
        return {name: _first_line(inspect.getmodule(head)) for name, head in HEADS.items()}
    if kind == "protocols":
        return {name: _protocol_line(name) for name in names_in("protocols")}
    if kind == "datasets":
        return {name: _first_line(inspect.getmodule(make)) for name, make in DATASETS.items()}
    if kind == "backbones":
        return _backbone_lines()
    if kind == "tables":
        return {name: load_table(name, HEADS).title for name in names_in("tables")}
    if kind == "ablations":
        return {name: load_ablation(name, HEADS).title for name in names_in("ablations")}
    raise ConfigError(f"unknown kind {kind!r}; {nearest(kind, KINDS)}")


def examine(device: torch.device) -> dict[str, Any]:
    """Environment, free disk space, and whether a training step on `device` works."""
    return {
        **environment(device),
        "free_disk_gib": round(shutil.disk_usage(Path()).free / 2**30, 1),
        "training_step": _try_step(device),
    }


def _try_step(device: torch.device) -> str:
    protocol = load_protocol("probe")
    model = build_model(protocol, HeadConfig(name="fcn", head="fcn"), 2, seed=0).to(device)
    images = torch.randn(2, 3, 64, 64, device=device)
    labels = torch.zeros(2, 64, 64, dtype=torch.int64, device=device)
    loss = pixel_cross_entropy(model(images).logits, labels)
    torch.autograd.backward(loss)
    return "ok" if bool(loss.isfinite()) else f"loss is {loss.item()}"


def _first_line(documented: Any) -> str:
    return (inspect.getdoc(documented) or "").partition("\n")[0]


def _protocol_line(name: str) -> str:
    protocol = load_protocol(name)
    return (
        f"{protocol.dataset.name}, {protocol.backbone.name} at stride "
        f"{protocol.backbone.output_stride}, {protocol.train.steps} steps of "
        f"{protocol.train.batch}"
    )


def _backbone_lines() -> dict[str, str]:
    with torch.device("meta"):
        lines = {name: _backbone_line(name) for name in RESNETS}
    hrnets = dict.fromkeys(hrnet_names(), f"HRNetV2 at output stride {HRNET_STRIDE}")
    others = {f"{PREFIX}NAME": "a network of timm that takes an output stride (extra timm)"}
    return {**lines, **hrnets, **others}


def _backbone_line(name: str) -> str:
    parameters = sum(p.numel() for p in build_backbone(name).parameters())
    return f"dilated ResNet, {parameters / 1e6:.1f} M parameters"
