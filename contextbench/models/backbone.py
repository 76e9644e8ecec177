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
as in DeepLabv3 (rate 2 at output stride 16: 2, 4, 8). In blocks of two convolutions (ResNet-18 and
-34) `basic_dilation: first` dilates the first alone, as mmsegmentation does, which is not what the
undilated network computes. Nor is `entry_dilation: own`, as in OCNet's code, where the convolution
that had the stride is dilated like the others of its stage. `ceil_pool` is a stem's pooling whose
last cell may be smaller, so that even sides have one pixel more: OCNet, openseg.pytorch.

Parameter names are torchvision's, so its checkpoints load as they are; the deep stem's are those
of PyTorch-Encoding (`conv1.0`, `conv1.1`, `conv1.3`, ..., `bn1`). `STEM_NAMES` has what other code
bases call them.

Two deep stems are in use: three 3x3 convolutions of 32, 32 and 64 channels (ResNet-C, GluonCV,
mmsegmentation), and of 64, 64 and 128 (semseg, PyTorch-Encoding, openseg.pytorch, OCNet, CCNet).
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torchvision.models.resnet import (
    BasicBlock,
    Bottleneck,
    ResNet18_Weights,
    ResNet34_Weights,
    ResNet50_Weights,
    ResNet101_Weights,
)

from contextbench.config.protocols import WEIGHT_SUFFIXES, InputsConfig, weights_file
from contextbench.data.transforms import MEAN, STD
from contextbench.models.pretrained import Fitted, Naming, Wanted, WeightsError, fit
from heads.interface import Channels, Features

Stem = Literal["basic", "deep", "deep_wide"]
BasicDilation = Literal["both", "first"]
EntryDilation = Literal["previous", "own"]

# Channels of the first convolutions and of the last one, for each channel of layer1's.
STEM_CHANNELS: Mapping[Stem, tuple[float, float]] = {
    "basic": (1, 1),
    "deep": (0.5, 1),
    "deep_wide": (1, 2),
}
STEM_TEXTS: Mapping[Stem, str] = {
    "basic": "a basic stem (one 7x7 convolution)",
    "deep": "a deep stem (three 3x3 convolutions, of 32, 32 and 64 channels at the usual width)",
    "deep_wide": "a wide deep stem (three 3x3 convolutions, of 64, 64 and 128 channels there)",
}

# Modules of the stem, in the order of what they compute: a convolution, its batch norm, and so on.
STEM_NAMES: Mapping[str, tuple[str, ...]] = {
    "names of torchvision": ("conv1", "bn1"),
    "names of semseg's models (layer0)": ("layer0.0", "layer0.1"),
    "names of openseg.pytorch (resinit)": ("resinit.conv1", "resinit.bn1"),
}
DEEP_STEM_NAMES: Mapping[str, tuple[str, ...]] = {
    # zhanghang1989/PyTorch-Encoding, encoding/models/backbone/resnet.py; timm's resnet50c too
    "names of PyTorch-Encoding (conv1.0)": (
        "conv1.0", "conv1.1", "conv1.3", "conv1.4", "conv1.6", "bn1",
    ),
    # hszhao/semseg, model/resnet.py, whose files OCNet, CCNet and openseg.pytorch start from
    "names of semseg (conv1, conv2, conv3)": ("conv1", "bn1", "conv2", "bn2", "conv3", "bn3"),
    # open-mmlab/mmsegmentation, mmseg/models/backbones/resnet.py, `deep_stem`; mmpretrain likewise
    "names of mmsegmentation (stem)": (
        "stem.0", "stem.1", "stem.3", "stem.4", "stem.6", "stem.7",
    ),
    # hszhao/semseg, model/pspnet.py
    "names of semseg's models (layer0)": (
        "layer0.0", "layer0.1", "layer0.3", "layer0.4", "layer0.6", "layer0.7",
    ),
    # openseg-group/openseg.pytorch, lib/models/backbones/resnet/resnet_models.py
    "names of openseg.pytorch (resinit)": (
        "resinit.conv1", "resinit.bn1", "resinit.conv2", "resinit.bn2", "resinit.conv3",
        "resinit.bn3",
    ),
}  # fmt: skip


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


class OtherInputs(nn.Module):
    """Images (N, 3, H, W) as they are normalised here, as another network was trained on them.

    Exact at the borders too, where the padding of convolutions is 0 in that network's units.
    """

    factor: Tensor
    offset: Tensor

    def __init__(self, inputs: InputsConfig) -> None:
        super().__init__()
        self.reverse = inputs.order == "bgr"
        ours = [torch.tensor(each, dtype=torch.float64) * 255 for each in (MEAN, STD)]
        mean, std = (each.flip(0) if self.reverse else each for each in ours)
        theirs = torch.tensor(inputs.std, dtype=torch.float64)
        shift = (mean - torch.tensor(inputs.mean, dtype=torch.float64)) / theirs
        # Settings, not weights: no file of a model has them.
        for name, values in (("factor", std / theirs), ("offset", shift)):
            self.register_buffer(name, values.float().view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        ordered = images.flip(1) if self.reverse else images
        return ordered * self.factor + self.offset


class Backbone(nn.Module):
    """What models are built on: images (N, 3, H, W) to `Features`.

    `other_inputs` is there where a network takes other images than those of ImageNet's statistics.
    """

    channels: Channels
    output_stride: int  # of layer4
    origin: str | None = None  # what its first weights were, None for random ones
    other_inputs: OtherInputs | None

    def __init__(self) -> None:
        super().__init__()
        self.other_inputs = None

    def prepared(self, images: Tensor) -> Tensor:
        """The images that the network takes."""
        if self.other_inputs is None:
            return images
        other: Tensor = self.other_inputs(images)
        return other

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
        basic_dilation: BasicDilation = "both",
        entry_dilation: EntryDilation = "previous",
        ceil_pool: bool = False,
    ) -> None:
        super().__init__()
        self.output_stride = output_stride
        half, outputs = STEM_CHANNELS[stem]
        outputs = int(outputs * width)
        self.conv1 = _stem(stem, int(half * width), outputs)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1, ceil_mode=ceil_pool)
        planes = [width, 2 * width, 4 * width, 8 * width]
        self.channels = Channels(*(n * spec.block.expansion for n in planes))
        inputs = [outputs, *self.channels[:3]]
        strides, rates = strides_and_rates(output_stride)
        sizes = zip(inputs, planes, spec.blocks, strides, strict=True)
        stages = [_stage(spec.block, *each) for each in sizes]
        entries = list(rates) if entry_dilation == "own" else [1, *rates[:3]]
        dilations = [[rate] * blocks for rate, blocks in zip(rates, spec.blocks, strict=True)]
        if tuple(multi_grid) != (1, 1, 1):
            dilations[3] = [rates[3] * factor for factor in multi_grid]
            entries[3] = dilations[3][0]
        dilated = 1 if basic_dilation == "first" and spec.block is BasicBlock else None
        for each in zip(stages, entries, dilations, strict=True):
            _dilate(*each, dilated)
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        initialise(self)

    def forward(self, images: Tensor) -> Features:
        images = self.prepared(images)
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
    basic_dilation: BasicDilation = "both",
    entry_dilation: EntryDilation = "previous",
    ceil_pool: bool = False,
    weights: str | None = None,
) -> DilatedResNet:
    """Build a ResNet by name.

    `width` is the channel count of layer1's convolutions; later stages double it. Only resnet10 may
    depart from 64. `weights` is the name of a torchvision weight set, such as "IMAGENET1K_V2", or a
    file that has the network's tensors (`pretrained`). Without it the initialisation is
    torchvision's. On the meta device weights are looked at but not loaded. Raises ValueError for a
    bad option and WeightsError for bad weights.
    """
    spec = _find(name)
    _check_options(name, spec, stem, output_stride, multi_grid, width)
    _check_dilation(name, spec, basic_dilation, entry_dilation)
    backbone = DilatedResNet(
        spec,
        stem=stem,
        output_stride=output_stride,
        multi_grid=multi_grid,
        width=width,
        basic_dilation=basic_dilation,
        entry_dilation=entry_dilation,
        ceil_pool=ceil_pool,
    )
    if weights is not None:
        _load(backbone, name, stem, weights)
    return backbone


def _find(name: str) -> ResNetSpec:
    if name not in RESNETS:
        nearest = difflib.get_close_matches(name, RESNETS, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else "."
        known = ", ".join(RESNETS)
        raise ValueError(
            f"unknown backbone {name!r}{hint} Known: {known}, hrnet_w18, hrnet_w48, timm:NAME"
        )
    return RESNETS[name]


def _check_options(
    name: str,
    spec: ResNetSpec,
    stem: str,
    output_stride: int,
    multi_grid: Sequence[int],
    width: int,
) -> None:
    if stem not in STEM_CHANNELS:
        allowed = ", ".join(map(repr, STEM_CHANNELS))
        raise ValueError(f"backbone stem {stem!r}: allowed are {allowed}")
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


def _check_dilation(name: str, spec: ResNetSpec, basic_dilation: str, entry_dilation: str) -> None:
    choices = {
        "basic_dilation": (basic_dilation, get_args(BasicDilation)),
        "entry_dilation": (entry_dilation, get_args(EntryDilation)),
    }
    for option, (given, allowed) in choices.items():
        if given not in allowed:
            listed = ", ".join(map(repr, allowed))
            raise ValueError(f"{option} {given!r}: allowed are {listed}")
    if basic_dilation != "both" and spec.block is not BasicBlock:
        raise ValueError(
            f"basic_dilation {basic_dilation!r} is of blocks of two convolutions; those of {name} "
            "have one that is dilated"
        )


def _stem(stem: Stem, half: int, outputs: int) -> nn.Module:
    """Everything before `bn1`."""
    if stem == "basic":
        return nn.Conv2d(3, outputs, kernel_size=7, stride=2, padding=3, bias=False)
    return nn.Sequential(
        nn.Conv2d(3, half, kernel_size=3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(half),
        nn.ReLU(inplace=True),
        nn.Conv2d(half, half, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(half),
        nn.ReLU(inplace=True),
        nn.Conv2d(half, outputs, kernel_size=3, padding=1, bias=False),
    )


def strides_and_rates(output_stride: int) -> tuple[list[int], list[int]]:
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


def _dilate(
    stage: nn.Sequential, entry: int, dilations: Sequence[int], dilated: int | None
) -> None:
    """Set each block's dilation; the first 3x3 convolution, where a stride was, has `entry`.

    `dilated` is how many 3x3 convolutions of a block are, all of them if None.
    """
    for block, dilation in zip(stage, dilations, strict=True):
        for convolution in _convolutions(block)[:dilated]:
            convolution.dilation = convolution.padding = (dilation, dilation)
    first = _convolutions(stage[0])[0]
    first.dilation = first.padding = (entry, entry)


def _convolutions(block: nn.Module) -> list[nn.Conv2d]:
    """The 3x3 convolutions of a block; the first one holds the block's stride."""
    return [m for m in block.children() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]


def initialise(backbone: nn.Module) -> None:
    """As torchvision: He initialisation by fan-out (batch norms start as the identity anyway)."""
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _load(backbone: DilatedResNet, name: str, stem: Stem, weights: str) -> None:
    file = weights_file(weights)
    if file is None:
        fitted = _published(name, stem, weights)
    else:
        fitted = fit(file, _wanted(backbone, name, stem))
    if not backbone.bn1.weight.is_meta:
        backbone.load_state_dict(fitted.tensors, strict=False)  # batch norms may lack a counter
    backbone.origin = fitted.origin


def _wanted(backbone: DilatedResNet, name: str, stem: Stem) -> Wanted:
    own = backbone.state_dict()
    width = backbone.channels.layer1 // RESNETS[name].block.expansion
    names = _stem_names(stem)
    modules = next(iter(names.values()))
    return Wanted(
        name=f"{name} with a {stem} stem",
        shapes={key: tuple(tensor.shape) for key, tensor in own.items()},
        namings=[
            Naming(
                label, {key: _renamed(key, dict(zip(modules, theirs, strict=True))) for key in own}
            )
            for label, theirs in names.items()
        ],
        hint=lambda tensors: _hint(tensors, name, stem, width),
    )


def _stem_names(stem: Stem) -> Mapping[str, tuple[str, ...]]:
    return STEM_NAMES if stem == "basic" else DEEP_STEM_NAMES


def _renamed(key: str, modules: Mapping[str, str]) -> str:
    module, _, tensor = key.rpartition(".")
    return f"{modules.get(module, module)}.{tensor}"


def _hint(tensors: Mapping[str, Tensor], name: str, stem: Stem, width: int) -> str:
    """What the shapes in a file say that it is of, where that is another network; else empty."""
    first = tensors.get("layer1.0.conv1.weight")
    if first is None:
        return ""
    hints = [*_depth_hint(tensors, name), *_stem_hint(tensors, stem, len(first))]
    if any(_is_convolution(tensors.get(f"layer{n}.0.downsample.1.weight")) for n in (1, 2)):
        hints.append(
            "Its shortcuts have a layer before their convolution (ResNet-D), which no backbone "
            "here has"
        )
    if len(first) != width:
        hints.append(f"Its layer1 has {len(first)} channels, not {width}")
    return ". ".join(hints)


def _depth_hint(tensors: Mapping[str, Tensor], name: str) -> Iterable[str]:
    block = Bottleneck if "layer1.0.conv3.weight" in tensors else BasicBlock
    places = {tuple(key.split(".")[:2]) for key in tensors}
    blocks = tuple(sum(stage == f"layer{n}" for stage, *_ in places) for n in (1, 2, 3, 4))
    found = (each for each, spec in RESNETS.items() if (spec.block, spec.blocks) == (block, blocks))
    known = next(found, None)
    if known == name:
        return
    kind = "three" if block is Bottleneck else "two"
    yield f"The file has stages of {', '.join(map(str, blocks))} blocks of {kind} convolutions" + (
        f": set backbone.name: {known}" if known else ", which no backbone here has"
    )


def _stem_hint(tensors: Mapping[str, Tensor], stem: Stem, width: int) -> Iterable[str]:
    """The stem that the file has, under whichever name, by its kernels and channels."""
    for wanted, half, outputs in ((each, *STEM_CHANNELS[each]) for each in STEM_CHANNELS):
        sizes = [int(half * width)] * 2 * (wanted != "basic") + [int(outputs * width)]
        kernel = 7 if wanted == "basic" else 3
        for modules in _stem_names(wanted).values():
            found = [tensors.get(f"{module}.weight") for module in modules[::2]]
            shapes = [None if each is None else (len(each), *each.shape[2:]) for each in found]
            if shapes == [(size, kernel, kernel) for size in sizes] and wanted != stem:
                yield f"The file has {STEM_TEXTS[wanted]}: set backbone.stem: {wanted}"
                return


def _is_convolution(weight: Tensor | None) -> bool:
    return weight is not None and weight.ndim == 4


def _published(name: str, stem: Stem, weights: str) -> Fitted:
    state = _download(name, stem, weights)
    tensors = {key: value for key, value in state.items() if not key.startswith("fc.")}
    return Fitted(
        tensors, f"{weights} of torchvision, {Path(RESNETS[name].published[weights]).name}"
    )


def _download(name: str, stem: Stem, weights: str) -> dict[str, Tensor]:
    """A weight set that torchvision publishes, from torch.hub's cache or the network."""
    known = RESNETS[name].published
    if weights not in known:
        nearest = difflib.get_close_matches(weights, known, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else "."
        raise WeightsError(
            f"{name} has no published weights {weights!r}{hint} Allowed for backbone.weights: "
            f"{''.join(f'{each}, ' for each in known)}a file ({', '.join(WEIGHT_SUFFIXES)})"
        )
    if stem != "basic":
        raise WeightsError(
            f"backbone.weights {weights!r} are of a ResNet with the basic 7x7 stem, but the "
            f"protocol has backbone.stem: {stem}; choose stem: basic, or give a file of weights "
            f"with {STEM_TEXTS[stem]}"
        )
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
