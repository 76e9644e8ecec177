"""Atrous spatial pyramid pooling (ASPP): parallel convolutions with growing dilation.

Source: Chen et al., "Rethinking Atrous Convolution", arXiv:1706.05587, section 3.3 (DeepLabv3).
    f_0 = relu(bn(W_0 x)),   f_d = relu(bn(W_d *_d x)) for each dilation d
    g = relu(bn(U mean(x)))
    y = relu(bn(V [f_0, f_d1, ..., f_dD, up(g)])),   W_d is 3x3, the others 1x1
Ours: x is layer4, (N, C4, h, w); mean is over all pixels. The default dilations 12, 24, 36 are
those of the paper for output stride 8; for output stride 16 it uses half of them.
With `image_pooling: false`, as in the paper's ablation (Table 5), g is left out.
Departs: supervision of layer3, which the paper does not have, as in every head here.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from heads.blocks import (
    Layer4Head,
    PooledBranch,
    TwoForms,
    atrous_branches,
    conv_bn_relu,
    resize_like,
)
from heads.interface import Channels, Implementation


class AtrousPyramid(TwoForms):
    """(N, C, h, w) -> (N, width, h, w).

    The fast form skips taps that see only padding, and adds V_g g, with V = [V_0, ..., V_D, V_g],
    to every pixel instead of convolving a map that has g everywhere.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        dilations: Sequence[int],
        implementation: Implementation,
        *,
        image_pooling: bool = True,
    ) -> None:
        super().__init__(implementation)
        self.pixel = conv_bn_relu(channels, width)
        self.atrous = atrous_branches(channels, width, dilations, implementation)
        self.image = PooledBranch(channels, width, bins=1) if image_pooling else None
        self.fuse = conv_bn_relu((len(dilations) + 1 + image_pooling) * width, width)

    def _fast(self, x: Tensor) -> Tensor:
        local = torch.cat(self._local(x), dim=1)
        if self.image is None:
            fused: Tensor = self.fuse(local)
            return fused
        own, pooled = self.fuse.convolution.weight.tensor_split([local.shape[1]], dim=1)
        everywhere = F.conv2d(self.image(x), pooled)  # (N, width, 1, 1)
        return self.fuse.activate(F.conv2d(local, own) + everywhere)

    def _reference(self, x: Tensor) -> Tensor:
        parts = self._local(x)
        if self.image is not None:
            parts.append(resize_like(self.image(x), x))
        fused: Tensor = self.fuse(torch.cat(parts, dim=1))
        return fused

    def _local(self, x: Tensor) -> list[Tensor]:
        """f_0, f_d1, ..., f_dD."""
        return [self.pixel(x), *(branch(x) for branch in self.atrous)]


class ASPPHead(Layer4Head):
    """Training with `image_pooling` needs a batch of at least 2 (ValueError otherwise)."""

    def __init__(
        self,
        channels: Channels,
        num_classes: int,
        *,
        dilations: Sequence[int] = (12, 24, 36),
        width: int = 256,
        image_pooling: bool = True,
        aux_width: int | None = None,
        dropout: float = 0.1,
        implementation: Implementation = "fast",
    ) -> None:
        context = AtrousPyramid(
            channels.layer4, width, dilations, implementation, image_pooling=image_pooling
        )
        super().__init__(
            context, channels, num_classes, width=width, aux_width=aux_width, dropout=dropout
        )
