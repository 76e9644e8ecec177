"""ASP-OCR: object-contextual representations in place of an atrous pyramid's image pooling.

Source: the code that the authors of OCR (Yuan et al., arXiv:1909.11065) released with it, after
the same pyramid in OCNet (arXiv:1809.00916). The paper prints no parameters or FLOPs of it.
    x = relu(bn(W * layer4)),   y = the object-contextual representation of x, see heads/regions.py
    f_0 = relu(bn(W_0 layer4)),   f_d = relu(bn(W_d *_d layer4)) for each dilation d
    z = relu(bn(V [y, f_0, f_d1, ..., f_dD])),   W and W_d are 3x3, W_0 and V are 1x1
Ours: y stands alone, without x beside it. As released, all five branches have 256 channels, keys
128, and phi and psi two layers (`transforms: 1` is the paper's OCR). The released module makes
`width` = 512 channels unless told otherwise; its network for Cityscapes tells it 256. Their code
for old versions of torch is built on in-place batch norm, whose ReLU is leaky (slope 0.01); its
branch for torch 1.7 has ReLU, and so have we.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from heads.blocks import PixelBranch, atrous_branches, conv_bn_relu
from heads.interface import Channels, Implementation
from heads.regions import RegionContext, RegionHead, RegionModule, RegionScheme


class AtrousRegionPyramid(RegionModule):
    """Deep features (N, C, h, w) and coarse logits (N, K, h, w) -> (N, width, h, w)."""

    def __init__(
        self,
        regions: RegionContext,
        channels: int,
        width: int,
        context_width: int,
        branch_width: int,
        dilations: Sequence[int],
        implementation: Implementation,
    ) -> None:
        super().__init__()
        self.reduce = conv_bn_relu(channels, context_width, 3, bias=True)
        self.regions = regions
        self.pixel = conv_bn_relu(channels, branch_width, bias=True)
        self.atrous = atrous_branches(channels, branch_width, dilations, implementation, bias=True)
        joined = context_width + (1 + len(dilations)) * branch_width
        self.fuse = conv_bn_relu(joined, width, bias=True)

    def forward(self, features: Tensor, maps: Tensor) -> Tensor:
        context = self.regions(self.reduce(features), maps)  # (N, context_width, h, w)
        local = [self.pixel(features), *(branch(features) for branch in self.atrous)]
        fused: Tensor = self.fuse(torch.cat([context, *local], dim=1))
        return fused


class ASPOCRHead(RegionHead):
    """`implementation: fast` skips taps of the dilated convolutions that see only padding."""

    def __init__(
        self,
        channels: Channels,
        num_classes: int,
        *,
        width: int = 512,
        context_width: int = 256,
        branch_width: int = 256,
        key_channels: int = 128,
        transforms: int = 2,
        dilations: Sequence[int] = (12, 24, 36),
        aux_width: int | None = None,
        dropout: float = 0.1,
        implementation: Implementation = "fast",
    ) -> None:
        coarse = PixelBranch(channels.layer3, num_classes, width=aux_width, dropout=dropout)
        scheme = RegionScheme(transforms=transforms)
        regions = RegionContext(context_width, key_channels, num_classes, scheme)
        context = AtrousRegionPyramid(
            regions,
            channels.layer4,
            width,
            context_width,
            branch_width,
            dilations,
            implementation,
        )
        super().__init__(
            coarse,
            context,
            channels,
            num_classes,
            width=width,
            aux_width=aux_width,
            dropout=dropout,
        )
