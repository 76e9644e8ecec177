"""Pyramid pooling (PPM): average the deepest features over several grids and put them back.

Source: Zhao et al., CVPR 2017, arXiv:1612.01105, section 3.2.
    p_b = relu(bn(U_b pool_b(x))),                      b = 1 .. B, pool_b to bins_b x bins_b cells
    y = relu(bn(W * [x, up(p_1), ..., up(p_B)])),       W is 3x3
Ours: x is layer4, (N, C4, h, w); each p_b has C4 // B channels, up is bilinear.
Departs: resizing without aligned corners, as in every head here.
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


class PyramidPooling(nn.Module):
    """(N, C, h, w) -> (N, width, h, w)."""

    def __init__(
        self,
        channels: int,
        width: int,
        bins: Sequence[int],
        pool_width: int,
        implementation: Implementation,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.bins = tuple(bins)
        self.implementation = checked_implementation(implementation)
        self.branches = nn.ModuleList(PooledBranch(channels, pool_width, b) for b in self.bins)
        self.fuse = conv_bn_relu(channels + len(self.bins) * pool_width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self._reference(x)

    def _reference(self, x: Tensor) -> Tensor:
        pooled = [resize_like(branch(x), x) for branch in self.branches]
        fused: Tensor = self.fuse(torch.cat([x, *pooled], dim=1))
        return fused


class PPMHead(ContextHead):
    """`pool_width` is the width of one pooled branch: C4 // len(bins), as published, if None.

    Training needs a batch of at least 2 when `bins` has a 1 (ValueError otherwise).
    """

    loss_weights: ClassVar[Mapping[str, float]] = {"aux": 0.4}

    def __init__(
        self,
        channels: Channels,
        num_classes: int,
        *,
        bins: Sequence[int] = (1, 2, 3, 6),
        width: int = 512,
        pool_width: int | None = None,
        aux_width: int | None = None,
        dropout: float = 0.1,
        implementation: Implementation = "fast",
    ) -> None:
        super().__init__()
        if not bins or min(bins) < 1:
            raise ValueError(f"bins must be one or more positive grid sizes, got {list(bins)}")
        pool_width = pool_width if pool_width is not None else max(1, channels.layer4 // len(bins))
        self.context = PyramidPooling(channels.layer4, width, bins, pool_width, implementation)
        self.classifier = PixelClassifier(width, num_classes, dropout)
        self.auxiliary = AuxiliaryBranch(
            channels.layer3, num_classes, width=aux_width, dropout=dropout
        )

    def forward(self, features: Features) -> HeadOutput:
        pixels = self.context(features.layer4)  # (N, width, h, w)
        aux = self.auxiliary(features.layer3)
        return HeadOutput(self.classifier(pixels), pixel_aux=aux, image_aux={})
