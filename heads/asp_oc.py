"""Atrous pyramid with object context (OCNet, ASP-OC): attention in place of ASPP's image pooling.

Source: Yuan et al., arXiv:1809.00916 (version 1), section 3, ASP-OC.
    x = relu(bn(W * layer4)),   z = relu(bn(L * x)),   p = maxpool_2x2(z)
    c_i = U sum_j softmax_j(q_i . k_j / sqrt(d)) v_j,   q_i = k_i = key(p_i), v_j = value(p_j)
    f_c = relu(bn(up(c))),   f_0 = relu(bn(W_0 x)),   f_d = relu(bn(W_d *_d x)) for each dilation d
    y = relu(bn(V [f_c, f_0, f_d1, ..., f_dD])),   W, L, W_d are 3x3, the others 1x1
Ours: i, j run over the pixels of p, half as high and as wide as the map; a last odd row or column
is in no pooled pixel, and a side of one pixel is not pooled. Query and key are one transform, 1x1
convolution, batch norm and ReLU; d is `key_channels`. Pooling is that of the released code.
The layers, one shared transform and values of the branch's width among them, are those of the first
release (OCNet.pytorch). The later code (openseg.pytorch) has two transforms of two layers each and
values of half that width: `share_key_query: false`, `transforms: 2` and `align_corners: true`.
Departs: the first release has one more 1x1 convolution, with a bias, between up(c) and its batch
norm; it is left out, as in the later code and in the counts given for this head. Both releases
start U at zero, resize with aligned corners and have leaky ReLU of slope 0.01, that of in-place
batch norm, in place of every ReLU. `release: authors` is the first release's form in all of this.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heads.attention import DenseAttention, SelfAttention, as_map, pair_weights
from heads.blocks import (
    Layer4Head,
    abn_activation,
    atrous_branches,
    by_authors,
    conv_bn_relu,
    resize_like,
)
from heads.interface import Attended, Channels, Features, Implementation, Release


def halved(x: Tensor) -> Tensor:
    """Maxima over cells of 2x2 pixels: (N, C, h, w) -> (N, C, h // 2, w // 2), at least 1x1."""
    height, width = x.shape[-2:]
    return F.max_pool2d(x, kernel_size=(min(2, height), min(2, width)))


def spread(pooled: Tensor, z: Tensor) -> Tensor:
    """(N, C, h', w') weights of the pixels of `halved(z)` as (N, C, h, w), of the same sum."""
    cells = [side // short for side, short in zip(z.shape[-2:], pooled.shape[-2:], strict=True)]
    whole = F.interpolate(pooled / math.prod(cells), scale_factor=cells, mode="nearest")
    bottom, right = (side - part for side, part in zip(z.shape[-2:], whole.shape[-2:], strict=True))
    return F.pad(whole, (0, right, 0, bottom))  # in no pooled pixel


def resizing_weights(
    small: Tensor, large: Tensor, pixel: tuple[int, int], align_corners: bool
) -> Tensor:
    """How `resize_like(small, large)` mixes a pixel (row, column) from those of small: (h', w')."""
    rows, columns = (
        _mixture(short, side, at, align_corners).to(small)
        for short, side, at in zip(small.shape[-2:], large.shape[-2:], pixel, strict=True)
    )
    return torch.outer(rows, columns)


def _mixture(short: int, side: int, at: int, align_corners: bool) -> Tensor:
    """Weights (short,) that make the pixel `at` of a side, of a side of `short` pixels."""
    each = torch.eye(short).reshape(short, 1, short, 1)
    long = torch.empty(1, 1, side, 1)
    return resize_like(each, long, align_corners=align_corners)[:, 0, at, 0]


class PooledContext(nn.Module):
    """Attention between pooled pixels: (N, C, h, w) -> (N, width, h, w)."""

    def __init__(
        self,
        channels: int,
        width: int,
        key_channels: int,
        value_channels: int,
        share_key_query: bool,
        transforms: int,
        align_corners: bool,
        release: Release,
        implementation: Implementation,
    ) -> None:
        super().__init__()
        activation = abn_activation(release)
        self.local = conv_bn_relu(channels, width, 3, bias=True, activation=activation)
        self.attention = SelfAttention(
            width,
            key_channels=key_channels,
            value_channels=value_channels,
            out_channels=width,
            share_key_query=share_key_query,
            attend=DenseAttention(implementation),
            release=release,
            transforms=transforms,
        )
        self.align_corners = align_corners or by_authors(release)
        self.activate: nn.Module = (
            conv_bn_relu(width, width, bias=True, activation=activation)
            if by_authors(release)
            else nn.Sequential(nn.BatchNorm2d(width), activation())
        )

    def forward(self, x: Tensor) -> Tensor:
        z = self.local(x)  # (N, width, h, w)
        gathered = self.attention(halved(z))  # (N, width, h / 2, w / 2)
        resized = resize_like(gathered, z, align_corners=self.align_corners)
        activated: Tensor = self.activate(resized)
        return activated

    def row(self, x: Tensor, pixel: tuple[int, int]) -> Tensor:
        """The weights that the pixel (row, column) of x gathers by: (N, h, w), of sum 1.

        up(c) mixes the rows of up to four pooled pixels. A pooled pixel's weight is divided equally
        among the pixels it covers: it has the maximum of each channel, from one or another of them.
        """
        z = self.local(x)
        pooled = halved(z)
        mixture = resizing_weights(pooled, z, pixel, self.align_corners).flatten()  # (h' w')
        used = mixture.nonzero().squeeze(1)
        query, key = self.attention.query_and_key(pooled)
        rows = pair_weights(query.flatten(2)[:, :, used], key)
        mixed = torch.einsum("nij,i->nj", rows, mixture[used])  # (N, h' w')
        return spread(as_map(mixed.unsqueeze(1), pooled), z).squeeze(1)


class AtrousObjectContext(nn.Module):
    """(N, C, h, w) -> (N, width, h, w)."""

    def __init__(
        self,
        channels: int,
        width: int,
        branch_width: int,
        attention: Callable[[], PooledContext],
        dilations: Sequence[int],
        release: Release,
        implementation: Implementation,
    ) -> None:
        super().__init__()
        activation = abn_activation(release)
        self.reduce = conv_bn_relu(channels, width, 3, bias=True, activation=activation)
        self.object = attention()
        self.pixel = conv_bn_relu(width, branch_width, activation=activation)
        self.atrous = atrous_branches(
            width, branch_width, dilations, implementation, activation=activation
        )
        joined = (len(dilations) + 2) * branch_width
        self.fuse = conv_bn_relu(joined, width, activation=activation)

    def forward(self, features: Tensor) -> Tensor:
        x = self.reduce(features)  # (N, width, h, w)
        dilated = [branch(x) for branch in self.atrous]
        fused: Tensor = self.fuse(torch.cat([self.object(x), self.pixel(x), *dilated], dim=1))
        return fused


class ASPOCHead(Layer4Head):
    """The forms differ in the attention and in the dilated convolutions.

    Summing the convolutions of the branches instead of concatenating these is not faster.
    """

    context: AtrousObjectContext

    def __init__(
        self,
        channels: Channels,
        num_classes: int,
        *,
        width: int = 512,
        branch_width: int = 256,
        key_channels: int = 128,
        value_channels: int = 256,
        share_key_query: bool = True,
        transforms: int = 1,
        align_corners: bool = False,
        dilations: Sequence[int] = (12, 24, 36),
        release: Release = "paper",
        aux_width: int | None = None,
        dropout: float = 0.1,
        implementation: Implementation = "fast",
    ) -> None:
        attention = partial(
            PooledContext,
            width,
            branch_width,
            key_channels,
            value_channels,
            share_key_query,
            transforms,
            align_corners,
            release,
            implementation,
        )
        context = AtrousObjectContext(
            channels.layer4,
            width,
            branch_width,
            attention,
            dilations,
            release,
            implementation,
        )
        super().__init__(
            context, channels, num_classes, width=width, aux_width=aux_width, dropout=dropout
        )

    def _attend(self, features: Features, pixel: tuple[int, int]) -> dict[str, Attended]:
        row = self.context.object.row(self.context.reduce(features.layer4), pixel)
        meaning = (
            "Weights of the values of all pooled pixels, each divided equally among the pixels it "
            "covers; sum 1"
        )
        return {"attention": Attended(row, meaning)}
