"""Atrous spatial pyramid pooling (ASPP): parallel convolutions with growing dilation.

Source: Chen et al., "Rethinking Atrous Convolution", arXiv:1706.05587, section 3.3 (DeepLabv3).
    f_0 = relu(bn(W_0 x)),   f_d = relu(bn(W_d *_d x)) for each dilation d
    g = relu(bn(U mean(x)))
    y = relu(bn(V [f_0, f_d1, ..., f_dD, up(g)])),   W_d is 3x3, the others 1x1
Ours: x is layer4, (N, C4, h, w); mean is over all pixels. The default dilations 12, 24, 36 are
those of the paper for output stride 8; for output stride 16 it uses half of them.
With `image_pooling: false`, as in the paper's ablation (Table 5), g is left out.
Forms of other code, by option: `fuse_kernel: 3` has a 3x3 V (mmsegmentation), `refine` puts
relu(bn(R * y)), R 3x3, in place of y (torchvision).
Departs: supervision of layer3, which the paper does not have, as in every head here.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heads.attention import as_map
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
    to every pixel instead of convolving a map that has g everywhere: of a 3x3 V, at each pixel
    those taps of V_g that are not on padding.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        dilations: Sequence[int],
        implementation: Implementation,
        *,
        image_pooling: bool = True,
        fuse_kernel: int = 1,
        separable: bool = False,
    ) -> None:
        super().__init__(implementation)
        self.pixel = conv_bn_relu(channels, width)
        self.atrous = atrous_branches(
            channels, width, dilations, implementation, separable=separable
        )
        self.image = PooledBranch(channels, width, bins=1) if image_pooling else None
        self.fuse = conv_bn_relu((len(dilations) + 1 + image_pooling) * width, width, fuse_kernel)

    def _fast(self, x: Tensor) -> Tensor:
        local = torch.cat(self._local(x), dim=1)
        if self.image is None:
            fused: Tensor = self.fuse(local)
            return fused
        own, pooled = self.fuse.convolution.weight.tensor_split([local.shape[1]], dim=1)
        padding = own.shape[-1] // 2
        everywhere = _convolved_constant(self.image(x), pooled, x)
        return self.fuse.activate(F.conv2d(local, own, padding=padding) + everywhere)

    def _reference(self, x: Tensor) -> Tensor:
        parts = self._local(x)
        if self.image is not None:
            parts.append(resize_like(self.image(x), x))
        fused: Tensor = self.fuse(torch.cat(parts, dim=1))
        return fused

    def _local(self, x: Tensor) -> list[Tensor]:
        """f_0, f_d1, ..., f_dD."""
        return [self.pixel(x), *(branch(x) for branch in self.atrous)]


def _convolved_constant(values: Tensor, weight: Tensor, like: Tensor) -> Tensor:
    """What `weight` makes of a map, of the size of `like`, that is (N, C, 1, 1) at every pixel.

    (N, width, h, w); of a 1x1 `weight`, (N, width, 1, 1).
    """
    kernel = weight.shape[-1]
    if kernel == 1:
        return F.conv2d(values, weight)
    products = torch.einsum("ncyx,ocij->noij", values, weight).flatten(2)  # (N, width, taps)
    inside = F.unfold(like.new_ones(1, 1, *like.shape[-2:]), kernel, padding=kernel // 2)
    return as_map(products @ inside.to(products.dtype), like)


def checked_fuse_kernel(kernel: int) -> int:
    """`kernel` itself; ValueError unless it is 1 or 3."""
    if kernel not in (1, 3):
        raise ValueError(f"fuse_kernel is 1 or 3, got {kernel}")
    return kernel


class ASPPHead(Layer4Head):
    """Training with `image_pooling` needs a batch of at least 2 (ValueError otherwise).

    `fuse_kernel` is 1 or 3 (ValueError otherwise).
    """

    def __init__(
        self,
        channels: Channels,
        num_classes: int,
        *,
        dilations: Sequence[int] = (12, 24, 36),
        width: int = 256,
        image_pooling: bool = True,
        fuse_kernel: int = 1,
        refine: bool = False,
        aux_width: int | None = None,
        dropout: float = 0.1,
        implementation: Implementation = "fast",
    ) -> None:
        context: nn.Module = AtrousPyramid(
            channels.layer4,
            width,
            dilations,
            implementation,
            image_pooling=image_pooling,
            fuse_kernel=checked_fuse_kernel(fuse_kernel),
        )
        if refine:
            context = nn.Sequential(context, conv_bn_relu(width, width, 3))
        super().__init__(
            context, channels, num_classes, width=width, aux_width=aux_width, dropout=dropout
        )
