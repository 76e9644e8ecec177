"""Which ResNet tensors are of: blocks, stem and width, from names and shapes."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torchvision.models.resnet import BasicBlock, Bottleneck

from contextbench.interop.files import ImportedError
from contextbench.models.backbone import OUTPUT_STRIDES, RESNETS, STEM_CHANNELS, strides_and_rates

BASE = 64  # channels of layer1's convolutions in every published ResNet


def resnet_name(tensors: Mapping[str, Tensor], source: str) -> str:
    """Of tensors named as torchvision's. Raises `ImportedError` for a network of another kind."""
    if "layer1.0.conv1.weight" not in tensors:
        found = sorted({name.partition(".")[0] for name in tensors})
        raise ImportedError(
            f"import: {source} is no ResNet: it has no layer1.0.conv1 but {', '.join(found[:8])}"
        )
    if any(tensors[name].ndim == 4 for name in tensors if name.endswith("downsample.1.weight")):
        raise ImportedError(
            f"import: {source} is a ResNet-D: its shortcuts average before their convolution, "
            "which no backbone here does"
        )
    block = Bottleneck if "layer1.0.conv3.weight" in tensors else BasicBlock
    places = {tuple(name.split(".")[:2]) for name in tensors}
    blocks = tuple(sum(stage == f"layer{n}" for stage, *_ in places) for n in (1, 2, 3, 4))
    for name, spec in RESNETS.items():
        if (spec.block, spec.blocks) == (block, blocks):
            return name
    raise ImportedError(
        f"import: {source} has stages of {', '.join(map(str, blocks))} blocks, which no backbone "
        f"here has; known: {', '.join(RESNETS)}"
    )


def stem_name(convolutions: Sequence[Tensor | None], source: str) -> str:
    """`BackboneConfig.stem` of the weights of the first convolutions, one or three."""
    shapes = [None if each is None else (len(each), *each.shape[2:]) for each in convolutions]
    for stem, (half, outputs) in STEM_CHANNELS.items():
        first = int(half * BASE)
        wanted = [(first, 3, 3), (first, 3, 3), (int(outputs * BASE), 3, 3)]
        if shapes == ([(BASE, 7, 7)] if stem == "basic" else wanted):
            return stem
    raise ImportedError(f"import: {source} has a stem of kernels {shapes}, which none here has")


def output_stride(strides: Any, dilations: Any, source: str) -> int:
    """Of the strides and dilations of the four stages. Raises `ImportedError` for others."""
    for stride in OUTPUT_STRIDES:
        if tuple(map(tuple, strides_and_rates(stride))) == (strides, dilations):
            return stride
    raise ImportedError(
        f"import: {source} has strides {strides} and dilations {dilations} of its stages; those of "
        f"output strides {', '.join(map(str, OUTPUT_STRIDES))} are known"
    )
