"""Pyramid pooling (PPM): average the deepest features over several grids and put them back.

Source: Zhao et al., CVPR 2017, arXiv:1612.01105, section 3.2.
    p_b = relu(bn(U_b pool_b(x))),                      b = 1 .. B, pool_b to bins_b x bins_b cells
    y = relu(bn(W * [x, up(p_1), ..., up(p_B)])),       W is 3x3
Ours: x is layer4, (N, C4, h, w); each p_b has C4 // B channels, up is bilinear.
Departs: resizing without aligned corners, as in every head here; `align_corners` is the original's.

Variants, by option, those of the paper's ablation (Table 1):
`pooling: max` takes the maximum of each cell in place of its mean.
`reduction: false` leaves U_b, batch norm and ReLU out: p_b = pool_b(x), of C4 channels each.
"""

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heads.blocks import Layer4Head, PooledBranch, TwoForms, conv_bn_relu, resize_like
from heads.interface import Channels, Implementation

Pooling = Literal["average", "max"]


def spreading_matrix(bins: Sequence[int], like: Tensor, *, align_corners: bool = False) -> Tensor:
    """What up, zero padding and the shift of each 3x3 tap do to the cells of all grids together.

    Rows are (cell, tap), columns the pixels of `like` (N, C, h, w): (9 sum_b bins_b^2, h w). Built
    anew on each call: about 1 % of the work, and nothing to keep valid across devices and copies.
    """
    exact = torch.promote_types(like.dtype, torch.float32)
    maps = []
    for b in bins:
        one_hot = torch.eye(b * b, dtype=exact, device=like.device).view(b * b, 1, b, b)
        maps.append(resize_like(one_hot, like, align_corners=align_corners))
    return F.unfold(torch.cat(maps), 3, padding=1).flatten(0, 1).to(like.dtype)


class MaxPooledBranch(PooledBranch):
    """The same with the maximum of each cell."""

    def forward(self, x: Tensor) -> Tensor:
        cells = F.adaptive_max_pool2d(x, self.bins)
        self._check_batch(cells)
        transformed: Tensor = self.transform(cells)
        return transformed


class PooledCells(nn.Module):
    """The cells themselves, without a transform: (N, C, h, w) -> (N, C, bins, bins)."""

    def __init__(self, bins: int, pool: Callable[[Tensor, int], Tensor]) -> None:
        super().__init__()
        self.bins = bins
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(x, self.bins)


def pooled_branch(
    channels: int, pool_width: int, bins: int, *, pooling: Pooling, reduction: bool
) -> nn.Module:
    """Cells of one grid. ValueError for an unknown `pooling`."""
    if pooling not in get_args(Pooling):
        raise ValueError(f"unknown pooling {pooling!r}; allowed: {', '.join(get_args(Pooling))}")
    average = pooling == "average"
    if not reduction:
        return PooledCells(bins, F.adaptive_avg_pool2d if average else F.adaptive_max_pool2d)
    branch = PooledBranch if average else MaxPooledBranch
    return branch(channels, pool_width, bins)


class PyramidPooling(TwoForms):
    """(N, C, h, w) -> (N, width, h, w).

    The fast form uses that up and the 3x3 convolution with W = [W_x, W_1, ..., W_B] are linear:
    the result is W_x * x plus, for the few cells of each grid, their products with the nine taps
    of W_b, spread over the map by one constant matrix.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        bins: Sequence[int],
        pool_width: int,
        implementation: Implementation,
        *,
        pooling: Pooling = "average",
        reduction: bool = True,
        align_corners: bool = False,
    ) -> None:
        super().__init__(implementation)
        self.channels = channels
        self.align_corners = align_corners
        self.pool_width = pool_width
        self.bins = tuple(bins)
        self.branches = nn.ModuleList(
            pooled_branch(channels, pool_width, b, pooling=pooling, reduction=reduction)
            for b in self.bins
        )
        self.fuse = conv_bn_relu(channels + len(self.bins) * pool_width, width, 3)

    def _fast(self, x: Tensor) -> Tensor:
        weight = self.fuse.convolution.weight
        own, *pooled = torch.split(
            weight, [self.channels, *[self.pool_width] * len(self.bins)], dim=1
        )
        products = [
            torch.einsum("ncp,oct->nopt", branch(x).flatten(2), taps.flatten(2)).flatten(2)
            for branch, taps in zip(self.branches, pooled, strict=True)
        ]  # each (N, width, cells * taps)
        # Without a name for the matrix, which is not to live beside the convolution's output.
        spread = torch.cat(products, dim=2) @ spreading_matrix(
            self.bins, x, align_corners=self.align_corners
        )  # (N, width, h w)
        convolved = F.conv2d(x, own, padding=1)
        return self.fuse.activate(convolved + spread.view_as(convolved))

    def _reference(self, x: Tensor) -> Tensor:
        aligned = self.align_corners
        pooled = [resize_like(branch(x), x, align_corners=aligned) for branch in self.branches]
        fused: Tensor = self.fuse(torch.cat([x, *pooled], dim=1))
        return fused


class PPMHead(Layer4Head):
    """`pool_width` is the width of one pooled branch: C4 // len(bins), as published, if None.

    Without `reduction` it is that of layer4 and cannot be chosen (ValueError). Training with
    `reduction` needs a batch of at least 2 when `bins` has a 1 (ValueError otherwise).
    """

    def __init__(
        self,
        channels: Channels,
        num_classes: int,
        *,
        bins: Sequence[int] = (1, 2, 3, 6),
        width: int = 512,
        pool_width: int | None = None,
        pooling: Pooling = "average",
        reduction: bool = True,
        align_corners: bool = False,
        aux_width: int | None = None,
        dropout: float = 0.1,
        implementation: Implementation = "fast",
    ) -> None:
        if not bins or min(bins) < 1:
            raise ValueError(f"bins must be one or more positive grid sizes, got {list(bins)}")
        if not reduction and pool_width is not None:
            raise ValueError(f"pool_width {pool_width} is of the reduction, which is switched off")
        if pool_width is None:
            pool_width = max(1, channels.layer4 // len(bins)) if reduction else channels.layer4
        context = PyramidPooling(
            channels.layer4,
            width,
            bins,
            pool_width,
            implementation,
            pooling=pooling,
            reduction=reduction,
            align_corners=align_corners,
        )
        super().__init__(
            context, channels, num_classes, width=width, aux_width=aux_width, dropout=dropout
        )
