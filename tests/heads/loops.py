"""Layers as plain Python loops over numbers, for one image: maps are nested lists [c][y][x].

Written from the definitions, without torch arithmetic, so that a head written with them is an
independent statement of its paper's equations.
"""

import math

import torch
from torch import Tensor, nn

from heads.blocks import ConvBnRelu

Map = list[list[list[float]]]
Vector = list[float]


def size_of(x: Map) -> tuple[int, int]:
    return len(x[0]), len(x[0][0])


def convolve(x: Map, layer: nn.Conv2d) -> Map:
    """Cross-correlation with zero padding that keeps the size; any odd kernel, any dilation."""
    weight = layer.weight.tolist()
    bias = [0.0] * len(weight) if layer.bias is None else layer.bias.tolist()
    height, width = size_of(x)
    kernel, dilation = layer.kernel_size[0], layer.dilation[0]
    offsets = [(tap - kernel // 2) * dilation for tap in range(kernel)]

    def value(out: int, y: int, x_: int) -> float:
        total = bias[out]
        for c, plane in enumerate(x):
            for i, dy in enumerate(offsets):
                for j, dx in enumerate(offsets):
                    if 0 <= y + dy < height and 0 <= x_ + dx < width:
                        total += weight[out][c][i][j] * plane[y + dy][x_ + dx]
        return total

    return [
        [[value(out, y, x_) for x_ in range(width)] for y in range(height)]
        for out in range(len(weight))
    ]


def normalize_relu(
    value: float, norm: nn.BatchNorm1d | nn.BatchNorm2d, channel: int, slope: float = 0.0
) -> float:
    """Batch norm in evaluation mode, then ReLU, or what multiplies negative values by `slope`."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean, variance = norm.running_mean[channel].item(), norm.running_var[channel].item()
    scaled = (value - mean) / math.sqrt(variance + norm.eps)
    normalized = scaled * norm.weight[channel].item() + norm.bias[channel].item()
    return normalized if normalized > 0 else slope * normalized


def conv_bn_relu(x: Map, block: ConvBnRelu, slope: float = 0.0) -> Map:
    norm = block.norm
    assert isinstance(norm, nn.BatchNorm2d)
    return [
        [[normalize_relu(value, norm, c, slope) for value in row] for row in plane]
        for c, plane in enumerate(convolve(x, block.convolution))
    ]


def pool(x: Map, bins: int, *, maximum: bool = False) -> Map:
    """Means or maxima of bins x bins cells.

    Cell b covers floor(b n / bins) .. ceil((b + 1) n / bins).
    """
    height, width = size_of(x)

    def cell(b: int, n: int) -> range:
        return range(b * n // bins, -((b + 1) * n // -bins))

    def pooled(plane: list[list[float]], by: int, bx: int) -> float:
        values = [plane[y][x_] for y in cell(by, height) for x_ in cell(bx, width)]
        return max(values) if maximum else sum(values) / len(values)

    return [[[pooled(plane, by, bx) for bx in range(bins)] for by in range(bins)] for plane in x]


def resize(x: Map, height: int, width: int, *, align_corners: bool = False) -> Map:
    """Bilinear: pixel centres at half integers, borders repeated; or the corners' centres kept."""

    def ends(position: int, given: int, wanted: int) -> tuple[int, int, float]:
        source = min(max((position + 0.5) * given / wanted - 0.5, 0), given - 1)
        if align_corners:
            source = position * (given - 1) / (wanted - 1) if wanted > 1 else 0
        low = int(source)
        return low, min(low + 1, given - 1), source - low

    def value(plane: list[list[float]], y: int, x_: int) -> float:
        top, bottom, v = ends(y, len(plane), height)
        left, right, u = ends(x_, len(plane[0]), width)
        upper = plane[top][left] * (1 - u) + plane[top][right] * u
        lower = plane[bottom][left] * (1 - u) + plane[bottom][right] * u
        return upper * (1 - v) + lower * v

    return [[[value(plane, y, x_) for x_ in range(width)] for y in range(height)] for plane in x]


def softmax(values: Vector) -> Vector:
    exponentials = [math.exp(value) for value in values]
    return [value / sum(exponentials) for value in exponentials]


def dot(a: Vector, b: Vector) -> float:
    return sum(p * q for p, q in zip(a, b, strict=True))


def pixels_of(x: Map) -> list[Vector]:
    """The channel vector of every pixel, row by row."""
    height, width = size_of(x)
    return [[plane[y][x_] for plane in x] for y in range(height) for x_ in range(width)]


def map_of(pixels: list[Vector], height: int, width: int) -> Map:
    """Inverse of `pixels_of`."""
    return [
        [[pixels[y * width + x_][c] for x_ in range(width)] for y in range(height)]
        for c in range(len(pixels[0]))
    ]


def stacked(images: list[Map]) -> Tensor:
    return torch.tensor(images, dtype=torch.float64)
