"""Pyramid object context (OCNet, pyramid-OC): object context within regions of four sizes.

Source: Yuan et al., arXiv:1809.00916 (version 1), section 3, pyramid-OC.
    x = relu(bn(W * layer4)),   q^b_i = query_b(x_i), k^b_j = key_b(x_j), v^b_j = value_b(x_j)
    c^b_i = U_b sum_j a^b_ij v^b_j,   a^b_ij = softmax_j(q^b_i . k^b_j / sqrt(d))
    y = relu(bn(F [x', c^1, ..., c^B])),   x' = relu(bn(E x))
Ours: i runs over the h*w pixels of one image and j over the pixels of i's cell, where `bins` b cut
the map into b x b cells. E widens x to B * `width` channels, as many as all c^b have. Query and key
are one transform, 1x1 convolution, batch norm and ReLU; d is `key_channels`. Where b does not
divide a side, the last cell takes the rest, as in the released code; a side shorter than b has
cells of a single pixel.
Departs: the released code (OCNet.pytorch) has no ReLU behind the first batch norm, leaky ReLU of
slope 0.01, that of in-place batch norm, in place of all others, and starts U at zero. `release:
authors` is that form; by default x is that of the other heads and every layer has the library's
start. Released dropout is 0.05, here 0.1 as for most heads.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heads.attention import PixelAttention, SelfAttention, gather, gather_rows, weights_of
from heads.blocks import Layer4Head, TwoForms, abn_activation, by_authors, conv_bn_relu, relu
from heads.interface import Attended, Channels, Features, Implementation, Release


def cell_lengths(size: int, bins: int) -> list[int]:
    """Lengths of the cells along a side of `size` pixels."""
    bins = min(bins, size)
    step = size // bins
    return [step] * (bins - 1) + [size - step * (bins - 1)]


def cell_bounds(size: int, bins: int, at: int) -> tuple[int, int]:
    """First pixel of the cell that pixel `at` of a side is in, and the first one after it."""
    lengths = cell_lengths(size, bins)
    cell = min(at // lengths[0], len(lengths) - 1)
    start = cell * lengths[0]
    return start, start + lengths[cell]


def equal_runs(size: int, bins: int) -> list[tuple[int, int]]:
    """Number and length of the cells along a side, those of one length together."""
    *equal, last = cell_lengths(size, bins)
    if not equal or equal[0] == last:
        return [(len(equal) + 1, last)]
    return [(len(equal), equal[0]), (1, last)]


def cells_in_rows(x: Tensor, rows: int, columns: int) -> Tensor:
    """(N, C, h, w) -> (N rows columns, pixels of a cell, C); rows and columns must divide."""
    n, channels, height, width = x.shape
    last = x.permute(0, 2, 3, 1)  # of channels that are last in memory, whole pixels are copied
    cells = last.reshape(n, rows, height // rows, columns, width // columns, channels)
    return cells.transpose(2, 3).flatten(3, 4).flatten(0, 2)


def rows_as_map(cells: Tensor, rows: int, columns: int, size: tuple[int, int]) -> Tensor:
    """Inverse of `cells_in_rows` for a map of `size`; channels are last in memory."""
    height, width = size
    shape = (-1, rows, columns, height // rows, width // columns, cells.shape[-1])
    x = cells.reshape(shape).transpose(2, 3).reshape(-1, height, width, cells.shape[-1])
    return x.permute(0, 3, 1, 2)


def gather_at_once(block: Sequence[Tensor], rows: int, columns: int) -> Tensor:
    """Attention inside each of rows x columns cells of equal size, of query, key and value.

    Of query and value where the key is the query.
    """
    *pair, value = (cells_in_rows(t, rows, columns) for t in block)
    query, key = pair[0], pair[-1]
    gathered = gather_rows(query, key, value)
    height, width = block[0].shape[-2:]
    return rows_as_map(gathered, rows, columns, (height, width))


def joined(parts: Sequence[Tensor], dim: int) -> Tensor:
    """Parts of a map beside each other. One alone is not copied, as `torch.cat` would."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim)


class CellAttention(PixelAttention):
    """Dense attention, with the scale 1 / sqrt(d), inside each of bins x bins cells.

    The fast form treats cells of equal size as images of one batch: one batch where `bins` divides
    the map, and up to four elsewhere.
    """

    def __init__(self, bins: int, implementation: Implementation) -> None:
        super().__init__(implementation)
        self.bins = bins

    def _reference(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        heights, widths = (cell_lengths(size, self.bins) for size in query.shape[-2:])
        bands = zip(*(torch.split(t, heights, dim=2) for t in (query, key, value)), strict=True)
        gathered = []
        for band in bands:
            cells = zip(*(torch.split(t, widths, dim=3) for t in band), strict=True)
            gathered.append(torch.cat([gather(*cell) for cell in cells], dim=3))
        return torch.cat(gathered, dim=2)

    def _fast(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        down, across = (equal_runs(size, self.bins) for size in query.shape[-2:])
        heights, widths = ([count * length for count, length in runs] for runs in (down, across))
        operands = (query, value) if key is query else (query, key, value)
        bands = zip(*(torch.split(t, heights, dim=2) for t in operands), strict=True)
        gathered = []
        for (rows, _), band in zip(down, bands, strict=True):
            blocks = zip(*(torch.split(t, widths, dim=3) for t in band), strict=True)
            row = [
                gather_at_once(block, rows, columns)
                for (columns, _), block in zip(across, blocks, strict=True)
            ]
            gathered.append(joined(row, dim=3))
        return joined(gathered, dim=2)

    def row(self, query: Tensor, key: Tensor, pixel: tuple[int, int]) -> Tensor:
        """As of dense attention; 0 outside the pixel's cell."""
        (top, bottom), (left, right) = (
            cell_bounds(size, self.bins, at)
            for size, at in zip(query.shape[-2:], pixel, strict=True)
        )
        cell = (slice(None), slice(None), slice(top, bottom), slice(left, right))
        inside = weights_of(query[cell], key[cell], (pixel[0] - top, pixel[1] - left))
        height, width = key.shape[-2:]
        return F.pad(inside, (left, width - right, top, height - bottom))


class CellContext(SelfAttention):
    """Every pixel gathers those of its cell that resemble it: (N, C, h, w) -> (N, C, h, w)."""

    def __init__(
        self,
        channels: int,
        key_channels: int,
        value_channels: int,
        bins: int,
        release: Release,
        implementation: Implementation,
    ) -> None:
        super().__init__(
            channels,
            key_channels=key_channels,
            value_channels=value_channels,
            out_channels=channels,
            share_key_query=True,
            attend=CellAttention(bins, implementation),
            release=release,
        )
        self.bins = bins

    def attended(self, x: Tensor, pixel: tuple[int, int]) -> Attended:
        cells = f"{self.bins}x{self.bins} cells"
        meaning = f"Weights of the values of the pixels in its own cell, one of {cells}; sum 1"
        return Attended(self.row(x, pixel), meaning)


class ObjectContextPyramid(TwoForms):
    """(N, C, h, w) -> (N, width, h, w).

    The fast form sums the convolutions of the parts that F fuses, F = [F_0, ..., F_B], one after
    the other, so that no two parts are held at once in inference.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        key_channels: int,
        value_channels: int,
        bins: Sequence[int],
        release: Release,
        implementation: Implementation,
    ) -> None:
        super().__init__(implementation)
        if not bins or min(bins) < 1:
            raise ValueError(f"bins must be one or more positive, got {list(bins)}")
        activation = abn_activation(release)
        first = nn.Identity if by_authors(release) else relu
        self.reduce = conv_bn_relu(channels, width, 3, bias=True, activation=first)
        self.levels = nn.ModuleList(
            CellContext(width, key_channels, value_channels, b, release, implementation)
            for b in bins
        )
        self.widen = conv_bn_relu(width, len(bins) * width, bias=True, activation=activation)
        self.fuse = conv_bn_relu(2 * len(bins) * width, width, bias=True, activation=activation)

    def _fast(self, features: Tensor) -> Tensor:
        x = self.reduce(features)  # (N, width, h, w)
        fuse = self.fuse.convolution
        widened, gathered = fuse.weight.chunk(2, dim=1)
        total = F.conv2d(self.widen(x), widened, fuse.bias)
        weights = torch.split(gathered, x.shape[1], dim=1)
        for level, weight in zip(self.levels, weights, strict=True):
            total += F.conv2d(level(x), weight)
        return self.fuse.activate(total)

    def _reference(self, features: Tensor) -> Tensor:
        x = self.reduce(features)  # (N, width, h, w)
        fused: Tensor = self.fuse(torch.cat([self.widen(x), *(c(x) for c in self.levels)], dim=1))
        return fused


class PyramidOCHead(Layer4Head):
    context: ObjectContextPyramid

    def __init__(
        self,
        channels: Channels,
        num_classes: int,
        *,
        width: int = 512,
        key_channels: int = 256,
        value_channels: int = 512,
        bins: Sequence[int] = (1, 2, 3, 6),
        release: Release = "paper",
        aux_width: int | None = None,
        dropout: float = 0.1,
        implementation: Implementation = "fast",
    ) -> None:
        context = ObjectContextPyramid(
            channels.layer4, width, key_channels, value_channels, bins, release, implementation
        )
        super().__init__(
            context, channels, num_classes, width=width, aux_width=aux_width, dropout=dropout
        )

    def _attend(self, features: Features, pixel: tuple[int, int]) -> dict[str, Attended]:
        x = self.context.reduce(features.layer4)
        return {
            f"level-{number}": cast(CellContext, level).attended(x, pixel)
            for number, level in enumerate(self.context.levels, 1)
        }
