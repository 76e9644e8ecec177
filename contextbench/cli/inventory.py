"""What exists, for `list`, and whether this machine can run it, for `doctor`."""

import inspect
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from contextbench.config.evaluation import EvaluateConfig
from contextbench.config.files import names_in
from contextbench.config.heads import HeadConfig, known_names
from contextbench.config.protocols import Protocol, load_protocol
from contextbench.data.named import known_datasets
from contextbench.models.backbone import RESNETS, build_backbone
from contextbench.models.build import build_model
from contextbench.models.heads import known_heads
from contextbench.models.hrnet import HRNETS
from contextbench.models.timm_backbone import HRNET_STRIDE, PREFIX, hrnet_names
from contextbench.papers.ablations import load_ablation
from contextbench.papers.published import load_table
from contextbench.training.environment import environment
from contextbench.training.losses import pixel_cross_entropy


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


def _plugged(known: tuple[Mapping[str, Any], Mapping[str, str]]) -> dict[str, str]:
    """A line about each that can be used, and what is wrong with the others."""
    usable, faults = known
    lines = {name: _first_line(inspect.getmodule(made)) for name, made in usable.items()}
    return {**lines, **{name: f"cannot be used: {fault}" for name, fault in faults.items()}}


def _protocol_line(name: str) -> str:
    protocol = load_protocol(name)
    return (
        f"{protocol.dataset.name}, {protocol.backbone.name} at stride "
        f"{protocol.backbone.output_stride}, {protocol.train.steps} steps of "
        f"{protocol.train.batch}{_views(protocol)}"
    )


def _views(protocol: Protocol) -> str:
    """What is averaged over beside a single pass of each image, in which views."""
    listed = {name: _averaged(config) for name, config in protocol.evaluate.items()}
    if len(listed) == 1:
        parts = next(iter(listed.values()))
        return f"; evaluated with {parts}" if parts else ""
    told = [f"{name} ({parts})" if parts else name for name, parts in listed.items()]
    return f"; views {', '.join(told)}"


def _averaged(evaluate: EvaluateConfig) -> str:
    scales = f"{len(evaluate.scales)} scales" if len(evaluate.scales) > 1 else ""
    windows = "windows" if evaluate.window else ""
    split = f"split {evaluate.split}" if evaluate.split else ""
    parts = [scales, "flip" if evaluate.flip else "", windows, split]
    return ", ".join(part for part in parts if part)


def _protocol_lines() -> dict[str, str]:
    return {name: _protocol_line(name) for name in names_in("protocols")}


def _backbone_lines() -> dict[str, str]:
    with torch.device("meta"):
        lines = {name: _backbone_line(name) for name in RESNETS}
    names = (*HRNETS, *hrnet_names())
    hrnets = dict.fromkeys(names, f"HRNetV2 at output stride {HRNET_STRIDE}")
    others = {f"{PREFIX}NAME": "a network of timm that takes an output stride (extra timm)"}
    return {**lines, **hrnets, **others}


def _backbone_line(name: str) -> str:
    parameters = sum(p.numel() for p in build_backbone(name).parameters())
    return f"dilated ResNet, {parameters / 1e6:.1f} M parameters"


INVENTORY: dict[str, Callable[[], dict[str, str]]] = {
    "heads": lambda: _plugged(known_heads()),
    "protocols": _protocol_lines,
    "datasets": lambda: _plugged(known_datasets()),
    "backbones": _backbone_lines,
    "tables": lambda: {name: load_table(name, known_names()).title for name in names_in("tables")},
    "ablations": lambda: {
        name: load_ablation(name, known_names()).title for name in names_in("ablations")
    },
}
"""Name and one line about each, by kind."""
