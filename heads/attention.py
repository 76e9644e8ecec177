"""Dense attention between the pixels of a map, shared by every head that has it."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heads.blocks import TwoForms, conv_bn_relu
from heads.interface import Implementation

QUERIES_AT_ONCE = 512  # fastest of 256, 512 and 1024 on a CPU, and small beside a feature map
SMALL_MATRIX = 2**20  # pairs of pixels whose matrix costs less on a CPU than the ways around it


def as_map(pixels: Tensor, like: Tensor) -> Tensor:
    """(N, C, h w) as (N, C, h, w), with the height and width of `like`."""
    return pixels.reshape(*pixels.shape[:2], *like.shape[-2:])


def only(x: Tensor, pixel: tuple[int, int]) -> Tensor:
    """One pixel (row, column) of a map (N, C, h, w): (N, C, 1, 1)."""
    row, column = pixel
    return x[:, :, row : row + 1, column : column + 1]


class DenseAttention(TwoForms):
    """c_i = sum_j softmax_j(scale q_i . k_j) v_j, i over the query's pixels, j over the key's.

    Query (N, d, h, w), key (N, d, h', w'), value (N, c, h', w') -> (N, c, h, w). `scale` is
    1 / sqrt(d) unless given. The reference form holds the matrix of all pairs, twice. On large
    maps the fast form holds no pairs where d = c, which fused attention kernels ask for, and else
    those of a few hundred queries at a time; in training, with d != c, backward keeps one matrix.
    """

    def __init__(self, implementation: Implementation, *, scale: float | None = None) -> None:
        super().__init__(implementation)
        self.scale = scale

    def weights(self, query: Tensor, key: Tensor) -> Tensor:
        """Of all pairs, (N, h w, h' w'); those of a pixel of the query sum to 1."""
        # In one expression, so that no more than two matrices live at a time.
        return (
            torch.einsum("ndi,ndj->nij", query.flatten(2), key.flatten(2)) * self._scale(query)
        ).softmax(dim=-1)  # over the keys' pixels

    def row(self, query: Tensor, key: Tensor, pixel: tuple[int, int]) -> Tensor:
        """The weights of one pixel (row, column) of the query: (N, h', w')."""
        weights = self.weights(only(query, pixel), key)
        return weights.reshape(weights.shape[0], *key.shape[-2:])

    def _reference(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        attention = self.weights(query, key)
        gathered = torch.einsum("nij,ncj->nci", attention, value.flatten(2))
        return as_map(gathered, query)

    def _fast(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        # A compiled or exported program should not depend on this size.
        if not torch.compiler.is_compiling() and _pairs(query, key) <= SMALL_MATRIX:
            return self._reference(query, key, value)
        if query.shape[1] == value.shape[1]:
            return self._fused(query, key, value)
        return self._blockwise(query, key, value)

    def _fused(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        q = _pixels_first(query)
        k = q if key is query else _pixels_first(key)
        gathered = F.scaled_dot_product_attention(
            q, k, _pixels_first(value), scale=self._scale(query)
        )
        return as_map(gathered.squeeze(1).transpose(1, 2), query)

    def _blockwise(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        keys = key.flatten(2) * self._scale(query)
        values = value.flatten(2).transpose(1, 2).contiguous()
        gathered = [
            torch.bmm(torch.bmm(queries, keys).softmax(dim=-1), values)
            for queries in torch.split(query.flatten(2).transpose(1, 2), QUERIES_AT_ONCE, dim=1)
        ]  # each (N, up to QUERIES_AT_ONCE, c)
        pixels = torch.cat(gathered, dim=1) if len(gathered) > 1 else gathered[0]
        return as_map(pixels.transpose(1, 2), query)

    def _scale(self, query: Tensor) -> float:
        return 1 / math.sqrt(query.shape[1]) if self.scale is None else self.scale


def _pairs(query: Tensor, key: Tensor) -> int:
    """Of pixels of one image."""
    return query.shape[2:].numel() * key.shape[2:].numel()


def _pixels_first(x: Tensor) -> Tensor:
    """(N, C, h, w) -> (N, 1, h w, C), as the fused kernels want it, in memory too."""
    return x.flatten(2).transpose(1, 2).unsqueeze(1).contiguous()


class SelfAttention(nn.Module):
    """Every pixel gathers the pixels that resemble it: (N, C, h, w) -> (N, out_channels, h, w).

        q_i = query(x_i), k_j = key(x_j), v_j = value(x_j)
        y_i = U sum_j softmax_j(q_i . k_j / sqrt(d)) v_j

    Query and key are 1x1 convolution, batch norm and ReLU, and one transform if `share_key_query`
    (evaluated once: batch norm sees it once a step); value and U are 1x1 convolutions; d is
    `key_channels`. Yuan et al., arXiv:1809.00916, section 3.
    """

    def __init__(
        self,
        channels: int,
        *,
        key_channels: int,
        value_channels: int,
        out_channels: int,
        share_key_query: bool,
        implementation: Implementation,
    ) -> None:
        super().__init__()
        self.key = conv_bn_relu(channels, key_channels, bias=True)
        self.query = None if share_key_query else conv_bn_relu(channels, key_channels, bias=True)
        self.value = nn.Conv2d(channels, value_channels, 1)
        self.output = nn.Conv2d(value_channels, out_channels, 1)
        self.attend = DenseAttention(implementation)

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
