"""Dilated ResNets on torchvision's residual blocks.

Sources: He et al., CVPR 2016, arXiv:1512.03385 (the network); Yu et al., "Dilated Residual
Networks", CVPR 2017, arXiv:1705.09914 (strides traded for dilation); Chen et al.,
arXiv:1706.05587v3, sec. 3.2 (multi-grid); He et al., "Bag of Tricks", CVPR 2019, arXiv:1812.01187,
ResNet-C (deep stem).

Where a stage loses its stride, the 3x3 convolution that had it keeps the dilation of the stage
before, and every later 3x3 convolution has twice that. So a stage of dilation 2 or 4 starts with
dilation 1 or 2, as in torchvision and in the ResNets that EncNet was published with, and the
network computes at every 2nd or 4th position exactly what the undilated one computes there:
ImageNet weights keep their meaning. A multi-grid other than (1, 1, 1) replaces that rule in
layer4: block i has dilation `rate * multi_grid[i]` in every 3x3 convolution, the first included,
as in DeepLabv3 (rate 2 at output stride 16: 2, 4, 8).

Parameter names are torchvision's, so its checkpoints load as they are; the deep stem's are those
of the usual ResNet-C checkpoints (`conv1.0`, `conv1.1`, `conv1.3`, ..., `bn1`).
"""

import difflib
import pickle
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models.resnet import (
    BasicBlock,
    Bottleneck,
    ResNet18_Weights,
    ResNet34_Weights,
    ResNet50_Weights,
    ResNet101_Weights,
)

from contextbench.errors import UserError
from heads.interface import Channels, Features

Stem = Literal["basic", "deep"]


class WeightsError(UserError, ValueError):
    """Pretrained weights that cannot be had or do not fit. The message says what to do."""


@dataclass(frozen=True)
class ResNetSpec:
    """A residual network: its block, the blocks of each stage, its published weights."""

    block: type[BasicBlock] | type[Bottleneck]
    blocks: tuple[int, int, int, int]
    published: Mapping[str, str]  # name of a weight set -> URL


def _urls(weight_sets: Iterable[Any]) -> dict[str, str]:
    return {each.name: each.url for each in weight_sets}


RESNETS = {
    "resnet10": ResNetSpec(BasicBlock, (1, 1, 1, 1), {}),
    "resnet18": ResNetSpec(BasicBlock, (2, 2, 2, 2), _urls(ResNet18_Weights)),
    "resnet34": ResNetSpec(BasicBlock, (3, 4, 6, 3), _urls(ResNet34_Weights)),
    "resnet50": ResNetSpec(Bottleneck, (3, 4, 6, 3), _urls(ResNet50_Weights)),
    "resnet101": ResNetSpec(Bottleneck, (3, 4, 23, 3), _urls(ResNet101_Weights)),
}
OUTPUT_STRIDES = (8, 16, 32)
FILE_SUFFIXES = (".pth", ".pt", ".safetensors")


class Backbone(nn.Module):
    """What models are built on: images (N, 3, H, W) to `Features`."""

    channels: Channels
    output_stride: int  # of layer4

    def synchronise_batch_norm(self) -> None:
        """Let every batch norm use the statistics of all processes, in place."""
        nn.SyncBatchNorm.convert_sync_batchnorm(self)  # type: ignore[no-untyped-call]


class DilatedResNet(Backbone):
    """A ResNet without its classifier: images (N, 3, H, W) to `Features`.

    Every stride halves a side and rounds up. `output_stride` is that of layer4; layer3 has the same
    unless it is 32.
    """

    def __init__(
        self,
        spec: ResNetSpec,
        *,
        stem: Stem,
        output_stride: int,
        multi_grid: Sequence[int],
        width: int,
    ) -> None:
        super().__init__()
        self.output_stride = output_stride
        self.conv1 = _stem(stem, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        planes = [width, 2 * width, 4 * width, 8 * width]
        self.channels = Channels(*(n * spec.block.expansion for n in planes))
        inputs = [width, *self.channels[:3]]
        strides, rates = _strides_and_rates(output_stride)
        sizes = zip(inputs, planes, spec.blocks, strides, strict=True)
        stages = [_stage(spec.block, *each) for each in sizes]
        entries = [1, *rates[:3]]
        dilations = [[rate] * blocks for rate, blocks in zip(rates, spec.blocks, strict=True)]
        if tuple(multi_grid) != (1, 1, 1):
            dilations[3] = [rates[3] * factor for factor in multi_grid]
            entries[3] = dilations[3][0]
        for each in zip(stages, entries, dilations, strict=True):
            _dilate(*each)
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        _initialise(self)

    def forward(self, images: Tensor) -> Features:
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))  # (N, width, H/4, W/4)
        layer1 = self.layer1(x)
        layer2 = self.layer2(layer1)
        layer3 = self.layer3(layer2)
        return Features(layer1, layer2, layer3, self.layer4(layer3))


def build_backbone(
    name: str,
    *,
    stem: Stem = "basic",
    output_stride: int = 8,
    multi_grid: tuple[int, int, int] = (1, 1, 1),
    width: int = 64,
    weights: str | None = None,
) -> DilatedResNet:
    """Build a ResNet by name.

    `width` is the channel count of layer1's convolutions; later stages double it. Only resnet10 may
    depart from 64. `weights` is the name of a torchvision weight set, such as "IMAGENET1K_V2", or a
    file of the network's state dict (.pth, .pt, .safetensors). Without it the initialisation is
    torchvision's. Raises ValueError for a bad option and WeightsError for bad weights.
    """
    spec = _find(name)
    _check_options(name, spec, stem, output_stride, multi_grid, width)
    backbone = DilatedResNet(
        spec, stem=stem, output_stride=output_stride, multi_grid=multi_grid, width=width
    )
    if weights is not None:
        _load(backbone, name, stem, weights)
    return backbone


def _find(name: str) -> ResNetSpec:
    if name not in RESNETS:
        nearest = difflib.get_close_matches(name, RESNETS, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else "."
        known = ", ".join(RESNETS)
        raise ValueError(f"unknown backbone {name!r}{hint} Known: {known}, timm:NAME")
    return RESNETS[name]


def _check_options(
    name: str,
    spec: ResNetSpec,
    stem: str,
    output_stride: int,
    multi_grid: Sequence[int],
    width: int,
) -> None:
    if stem not in ("basic", "deep"):
        raise ValueError(f"backbone stem {stem!r}: allowed are 'basic' and 'deep'")
    if output_stride not in OUTPUT_STRIDES:
        raise ValueError(f"output_stride {output_stride}: allowed are 8, 16 and 32")
    if len(multi_grid) != 3 or min(multi_grid) < 1:
        raise ValueError(f"multi_grid {multi_grid}: expected three factors of at least 1")
    if tuple(multi_grid) != (1, 1, 1) and spec.blocks[3] != 3:
        raise ValueError(
            f"multi_grid {multi_grid} is for a layer4 of three blocks; {name} has {spec.blocks[3]}"
        )
    if width != 64 and name != "resnet10":
        raise ValueError(f"width {width}: {name} has width 64; only resnet10 takes another")
    if width < 2:
        raise ValueError(f"width {width}: expected at least 2")


def _stem(stem: Stem, width: int) -> nn.Module:
    """Everything before `bn1`. ResNet-C has 32, 32 and 64 channels at the usual width of 64."""
    if stem == "basic":
        return nn.Conv2d(3, width, kernel_size=7, stride=2, padding=3, bias=False)
    half = width // 2
    return nn.Sequential(
        nn.Conv2d(3, half, kernel_size=3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(half),
        nn.ReLU(inplace=True),
        nn.Conv2d(half, half, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(half),
        nn.ReLU(inplace=True),
        nn.Conv2d(half, width, kernel_size=3, padding=1, bias=False),
    )


def _strides_and_rates(output_stride: int) -> tuple[list[int], list[int]]:
    """Stride and dilation of layer1 to layer4; the stem has stride 4."""
    strides, rates, reached = [1], [1], 4
    for _ in range(3):
        dilated = reached == output_stride
        strides.append(1 if dilated else 2)
        rates.append(rates[-1] * 2 if dilated else 1)
        reached *= strides[-1]
    return strides, rates


def _stage(
    block: type[BasicBlock] | type[Bottleneck], inputs: int, planes: int, blocks: int, stride: int
) -> nn.Sequential:
    """A stage without dilation, which torchvision's basic block refuses at construction."""
    outputs = planes * block.expansion
    shortcut = None
    if stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(
            nn.Conv2d(inputs, outputs, kernel_size=1, stride=stride, bias=False),
            nn.BatchNorm2d(outputs),
        )
    rest = [block(outputs, planes) for _ in range(blocks - 1)]
    return nn.Sequential(block(inputs, planes, stride, shortcut), *rest)


def _dilate(stage: nn.Sequential, entry: int, dilations: Sequence[int]) -> None:
    """Set each block's dilation; the first 3x3 convolution, where a stride was, has `entry`."""
    for block, dilation in zip(stage, dilations, strict=True):
        for convolution in _convolutions(block):
            convolution.dilation = convolution.padding = (dilation, dilation)
    first = _convolutions(stage[0])[0]
    first.dilation = first.padding = (entry, entry)


def _convolutions(block: nn.Module) -> list[nn.Conv2d]:
    """The 3x3 convolutions of a block; the first one holds the block's stride."""
    return [m for m in block.children() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]


def _initialise(backbone: nn.Module) -> None:
    """As torchvision: He initialisation by fan-out (batch norms start as the identity anyway)."""
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _load(backbone: DilatedResNet, name: str, stem: Stem, weights: str) -> None:
    if Path(weights).suffix in FILE_SUFFIXES:
        state = read_state(Path(weights))
    else:
        state = _download(name, stem, weights)
    state = {key: value for key, value in state.items() if not key.startswith("fc.")}
    if stem == "deep" and "conv1.weight" in state:
        raise WeightsError(_basic_stem_message(weights))
    try:
        # Not strict, so that one message can name all keys.
        # Batch norms of old files lack a counter, which torch then adds by itself.
        missing, unexpected = backbone.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise WeightsError(f"backbone.weights {weights!r} do not fit {name}: {error}") from error
    if missing or unexpected:
        raise WeightsError(
            f"backbone.weights {weights!r} are not those of {name} with a {stem} stem: "
            f"missing keys: {listed_keys(missing)}; unexpected keys: {listed_keys(unexpected)}"
        )


def listed_keys(keys: Sequence[str]) -> str:
    """The first few keys of a state dict and how many more there are."""
    shown = ", ".join(keys[:8]) or "none"
    return shown if len(keys) <= 8 else f"{shown} and {len(keys) - 8} more"


def _basic_stem_message(weights: str) -> str:
    return (
        f"backbone.weights {weights!r} are of a ResNet with the basic 7x7 stem, but the protocol "
        "has backbone.stem: deep; choose stem: basic, or give a file of ResNet-C weights"
    )


def read_state(path: Path) -> dict[str, Tensor]:
    """A state dict from a local file; pickled code in it is refused, not run.

    Raises `WeightsError` for a file that is missing, unreadable or holds something else.
    """
    if not path.is_file():
        raise WeightsError(f"backbone.weights: no such file: {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError, SafetensorError) as error:
        raise WeightsError(f"backbone.weights: cannot read {path}: {error}") from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(f"backbone.weights: {path} holds no state dict (names to tensors)")
    return state


def _download(name: str, stem: Stem, weights: str) -> dict[str, Tensor]:
    """A weight set that torchvision publishes, from torch.hub's cache or the network."""
    known = RESNETS[name].published
    if weights not in known:
        nearest = difflib.get_close_matches(weights, known, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else "."
        raise WeightsError(
            f"{name} has no published weights {weights!r}{hint} Allowed for backbone.weights: "
            f"{''.join(f'{each}, ' for each in known)}a file ({', '.join(FILE_SUFFIXES)})"
        )
    if stem == "deep":
        raise WeightsError(_basic_stem_message(weights))
    url = known[weights]
    try:
        state: dict[str, Tensor] = torch.hub.load_state_dict_from_url(
            url, map_location="cpu", check_hash=True, weights_only=True
        )
    except (OSError, HTTPException, RuntimeError) as error:
        raise WeightsError(
            f"could not download {Path(url).name} from {url} ({error}). Fetch it on a machine with "
            "a network connection and name the file in the protocol, "
            f"backbone.weights: path/to/{Path(url).name}"
        ) from error
    return state
