"""Dense attention between the pixels of a map, shared by every head that has it."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heads.blocks import Activation, TwoForms, abn_activation, by_authors, conv_bn_relu
from heads.interface import Implementation, Release

QUERIES_AT_ONCE = 512  # fastest of 256, 512 and 1024 on a CPU, and small beside a feature map


def as_map(pixels: Tensor, like: Tensor) -> Tensor:
    """(N, C, h w) as (N, C, h, w), with the height and width of `like`."""
    return pixels.reshape(*pixels.shape[:2], *like.shape[-2:])


def only(x: Tensor, pixel: tuple[int, int]) -> Tensor:
    """One pixel (row, column) of a map (N, C, h, w): (N, C, 1, 1)."""
    row, column = pixel
    return x[:, :, row : row + 1, column : column + 1]


# Attention is functions, not methods that a subclass could replace under the forms that use them.
# Query (N, d, h, w), key (N, d, h', w'), value (N, c, h', w'); `scale` is 1 / sqrt(d) unless given.


def pair_weights(query: Tensor, key: Tensor, scale: float | None = None) -> Tensor:
    """Of all pairs, (N, h w, h' w'); those of a pixel of the query sum to 1."""
    # In one expression, so that no more than two matrices live at a time.
    return (
        torch.einsum("ndi,ndj->nij", query.flatten(2), key.flatten(2))
        * _scale(query.shape[1], scale)
    ).softmax(dim=-1)  # over the keys' pixels


def weights_of(
    query: Tensor, key: Tensor, pixel: tuple[int, int], scale: float | None = None
) -> Tensor:
    """The weights of one pixel (row, column) of the query: (N, h', w')."""
    weights = pair_weights(only(query, pixel), key, scale)
    return weights.reshape(weights.shape[0], *key.shape[-2:])


def gather(query: Tensor, key: Tensor, value: Tensor, scale: float | None = None) -> Tensor:
    """(N, c, h, w) by the matrix of all pairs, which is held twice."""
    gathered = torch.einsum("nij,ncj->nci", pair_weights(query, key, scale), value.flatten(2))
    return as_map(gathered, query)


def gather_fast(query: Tensor, key: Tensor, value: Tensor, scale: float | None = None) -> Tensor:
    """The same, by a fused kernel where d = c, which such kernels ask for, and else in blocks.

    The widths alone decide: neither the size of the map, nor the device, nor compilation.
    """
    q = _in_rows(query)
    k = q if key is query else _in_rows(key)
    gathered = gather_rows(q, k, _in_rows(value), scale)
    return as_map(gathered.transpose(1, 2), query)


def gather_rows(query: Tensor, key: Tensor, value: Tensor, scale: float | None = None) -> Tensor:
    """`gather_fast` of pixels in rows: (N, P, d), (N, P', d) and (N, P', c) -> (N, P, c)."""
    way = _gather_fused if query.shape[2] == value.shape[2] else _gather_in_blocks
    return way(query, key, value, _scale(query.shape[2], scale))


def _gather_fused(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    q = _for_kernels(query)
    k = q if key is query else _for_kernels(key)
    return F.scaled_dot_product_attention(q, k, _for_kernels(value), scale=scale).squeeze(1)


def _gather_in_blocks(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    keys, queries = key.transpose(1, 2), query * scale
    gathered = [
        torch.bmm(torch.bmm(block, keys).softmax(dim=-1), value)
        for block in torch.split(queries, QUERIES_AT_ONCE, dim=1)
    ]  # each (N, up to QUERIES_AT_ONCE, c)
    return torch.cat(gathered, dim=1) if len(gathered) > 1 else gathered[0]


def _scale(channels: int, scale: float | None) -> float:
    return 1 / math.sqrt(channels) if scale is None else scale


def _in_rows(x: Tensor) -> Tensor:
    """(N, C, h, w) -> (N, h w, C), in memory as it is."""
    return x.flatten(2).transpose(1, 2)


def _for_kernels(pixels: Tensor) -> Tensor:
    """(N, P, C) -> (N, 1, P, C), as the fused kernels want it, in memory too."""
    return pixels.unsqueeze(1).contiguous()


class PixelAttention(TwoForms):
    """Query (N, d, h, w), key (N, d, h', w') and value (N, c, h', w') -> (N, c, h, w)."""

    row: Callable[[Tensor, Tensor, tuple[int, int]], Tensor]
    """What a pixel (row, column) of the query weighs the pixels of the key by: (N, h', w')."""


class DenseAttention(PixelAttention):
    """c_i = sum_j softmax_j(scale q_i . k_j) v_j, i over the query's pixels, j over the key's.

    `scale` is 1 / sqrt(d) unless given. The reference form holds the matrix of all pairs, twice.
    The fast form holds no pairs where d = c and a kernel of the device is fused, and else those of
    a few hundred queries at a time; in training, with d != c, backward keeps one matrix.
    """

    def __init__(self, implementation: Implementation, *, scale: float | None = None) -> None:
        super().__init__(implementation)
        self.scale = scale

    def row(self, query: Tensor, key: Tensor, pixel: tuple[int, int]) -> Tensor:
        return weights_of(query, key, pixel, self.scale)

    def _reference(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return gather(query, key, value, self.scale)

    def _fast(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return gather_fast(query, key, value, self.scale)


class SelfAttention(nn.Module):
    """Every pixel gathers the pixels that resemble it: (N, C, h, w) -> (N, out_channels, h, w).

        q_i = query(x_i), k_j = key(x_j), v_j = value(x_j)
        y_i = U sum_j softmax_j(q_i . k_j / sqrt(d)) v_j,   j over the pixels that `attend` joins

    Query and key are `transforms` times 1x1 convolution, batch norm and ReLU, and one for both if
    `share_key_query` (evaluated once: batch norm sees it once a step); value and U are 1x1
    convolutions; d is
    `key_channels`. Yuan et al., arXiv:1809.00916, section 3. In the authors' release U starts at 0,
    and the ReLU is leaky.
    """

    def __init__(
        self,
        channels: int,
        *,
        key_channels: int,
        value_channels: int,
        out_channels: int,
        share_key_query: bool,
        attend: PixelAttention,
        release: Release,
        transforms: int = 1,
    ) -> None:
        super().__init__()
        if transforms < 1:
            raise ValueError(f"transforms must be 1 or more, got {transforms}")
        activation = abn_activation(release)
        transform = partial(_transform, channels, key_channels, transforms, activation)
        self.key = transform()
        self.query = None if share_key_query else transform()
        self.value = nn.Conv2d(channels, value_channels, 1)
        self.output = nn.Conv2d(value_channels, out_channels, 1)
        if by_authors(release):
            for parameter in self.output.parameters():
                nn.init.zeros_(parameter)
        self.attend = attend

    def forward(self, x: Tensor) -> Tensor:
        query, key = self.query_and_key(x)
        gathered: Tensor = self.output(self.attend(query, key, self.value(x)))
        return gathered

    def query_and_key(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, d, h, w) each, and one tensor where they share their transform."""
        key = self.key(x)
        return key if self.query is None else self.query(x), key

    def row(self, x: Tensor, pixel: tuple[int, int]) -> Tensor:
        """What the pixel (row, column) of x weighs the others by: (N, h, w), of sum 1."""
        return self.attend.row(*self.query_and_key(x), pixel)


def _transform(channels: int, key_channels: int, layers: int, activation: Activation) -> nn.Module:
    inputs = [channels] + [key_channels] * (layers - 1)
    each = [conv_bn_relu(c, key_channels, bias=True, activation=activation) for c in inputs]
    return each[0] if layers == 1 else nn.Sequential(*each)
