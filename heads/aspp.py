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

from heads.blocks import (
    AuxiliaryBranch,
    PixelClassifier,
    PooledBranch,
    checked_implementation,
    conv_bn_relu,
    resize_like,
)
from heads.interface import Channels, ContextHead, Features, HeadOutput, Implementation


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
        self.implementation = checked_implementation(implementation)
        self.pixel = conv_bn_relu(channels, width)
        self.atrous = nn.ModuleList(
            conv_bn_relu(channels, width, 3, dilation=dilation) for dilation in dilations
        )
        self.image = PooledBranch(channels, width, bins=1)
        self.fuse = conv_bn_relu((len(dilations) + 2) * width, width)

    def forward(self, x: Tensor) -> Tensor:
        dilated = [branch(x) for branch in self.atrous]
        image = resize_like(self.image(x), x)
        fused: Tensor = self.fuse(torch.cat([self.pixel(x), *dilated, image], dim=1))
        return fused


class ASPPHead(ContextHead):
    """Training needs a batch of at least 2 (ValueError otherwise)."""

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
