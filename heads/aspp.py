"""Atrous spatial pyramid pooling (ASPP): parallel convolutions with growing dilation.

Source: Chen et al., "Rethinking Atrous Convolution", arXiv:1706.05587, section 3.3 (DeepLabv3).
    f_0 = relu(bn(W_0 x)),   f_d = relu(bn(W_d *_d x)) for each dilation d
    g = relu(bn(U mean(x)))
    y = relu(bn(V [f_0, f_d1, ..., f_dD, up(g)])),   W_d is 3x3, the others 1x1
Ours: x is layer4, (N, C4, h, w); mean is over all pixels. The default dilations 12, 24, 36 are
those of the paper for output stride 8; for output stride 16 it uses half of them.
Departs: supervision of layer3, which the paper does not have, as in every head here.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heads.blocks import (
    AuxiliaryBranch,
    PixelClassifier,
    PooledBranch,
    checked_implementation,
    conv_bn_relu,
    resize_like,
)
from heads.interface import Channels, ContextHead, Features, HeadOutput, Implementation


class VisibleTapsConv2d(nn.Conv2d):
    """A size-preserving 3x3 convolution without the taps that meet zero padding at every position.

    Where the dilation reaches the height (width) of the map, the outer rows (columns) are such.
    """

    def forward(self, x: Tensor) -> Tensor:
        dilation = self.dilation[0]
        outside = [dilation >= size for size in x.shape[-2:]]
        rows, columns = (slice(1, 2) if out else slice(None) for out in outside)
        padding = [0 if out else dilation for out in outside]
        weight = self.weight[:, :, rows, columns]
        return F.conv2d(x, weight, self.bias, padding=padding, dilation=dilation)


class AtrousPyramid(nn.Module):
    """(N, C, h, w) -> (N, width, h, w)."""

    def __init__(
        self,
        channels: int,
        width: int,
        dilations: Sequence[int],
        implementation: Implementation,
    ) -> None:
        super().__init__()
        fast = checked_implementation(implementation) == "fast"
        convolution = VisibleTapsConv2d if fast else nn.Conv2d
        self.pixel = conv_bn_relu(channels, width)
        self.atrous = nn.ModuleList(
            conv_bn_relu(channels, width, 3, dilation=dilation, convolution=convolution)
            for dilation in dilations
        )
        self.image = PooledBranch(channels, width, bins=1)
        self.fuse = conv_bn_relu((len(dilations) + 2) * width, width)

    def forward(self, x: Tensor) -> Tensor:
        dilated = [branch(x) for branch in self.atrous]
        image = resize_like(self.image(x), x)
        fused: Tensor = self.fuse(torch.cat([self.pixel(x), *dilated, image], dim=1))
        return fused


class ASPPHead(ContextHead):
    """Training needs a batch of at least 2 (ValueError otherwise).

    The fast form skips taps that see only padding; on maps larger than every dilation the two
    forms coincide.
    """

    loss_weights: ClassVar[Mapping[str, float]] = {"aux": 0.4}

    def __init__(
        self,
        channels: Channels,
        num_classes: int,
        *,
        dilations: Sequence[int] = (12, 24, 36),
        width: int = 256,
        aux_width: int | None = None,
        dropout: float = 0.1,
        implementation: Implementation = "fast",
    ) -> None:
        super().__init__()
        if not dilations or min(dilations) < 1:
            raise ValueError(f"dilations must be one or more positive, got {list(dilations)}")
        self.context = AtrousPyramid(channels.layer4, width, dilations, implementation)
        self.classifier = PixelClassifier(width, num_classes, dropout)
        self.auxiliary = AuxiliaryBranch(
            channels.layer3, num_classes, width=aux_width, dropout=dropout
        )

    def forward(self, features: Features) -> HeadOutput:
        pixels = self.context(features.layer4)  # (N, width, h, w)
        aux = self.auxiliary(features.layer3)
        return HeadOutput(self.classifier(pixels), pixel_aux=aux, image_aux={})
