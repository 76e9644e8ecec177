"""Strip pooling against loops, and against what every head promises."""

import math

import torch
from contextbench_strip_pooling import StripPooling, StripPoolingHead
from torch import Tensor, nn

from heads.contract import findings
from heads.small import narrow_subject, small_features


def along(means: list[list[float]], layer: nn.Sequential) -> list[list[float]]:
    """A convolution over 3 neighbours, zeros outside, and batch norm: means[channel][position]."""
    convolution, norm = layer
    kernel = convolution.weight.flatten(2).tolist()  # (out, in, 3)
    statistics = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    rows = []
    for weights, (mean, variance, scale, shift) in zip(
        kernel, zip(*(each.tolist() for each in statistics), strict=True), strict=True
    ):
        row = []
        for position in range(len(means[0])):
            total = 0.0
            for channel, taps in zip(means, weights, strict=True):
                for offset, tap in zip((-1, 0, 1), taps, strict=True):
                    if 0 <= position + offset < len(channel):
                        total += tap * channel[position + offset]
            row.append((total - mean) / math.sqrt(variance + norm.eps) * scale + shift)
        rows.append(row)
    return rows


def looped(x: Tensor, context: StripPooling) -> Tensor:
    """The equations for one image (width, h, w), after the reduction."""
    values = x.tolist()
    width, height, length = x.shape
    down = [[sum(row) / length for row in channel] for channel in values]
    across = [[sum(column) / height for column in zip(*channel, strict=True)] for channel in values]
    rows, columns = along(down, context.rows), along(across, context.columns)
    gate, bias = context.gate.weight[:, :, 0, 0].tolist(), context.gate.bias.tolist()
    z = torch.zeros_like(x)
    for i in range(height):
        for j in range(length):
            y = [max(0.0, rows[k][i] + columns[k][j]) for k in range(width)]
            for k in range(width):
                score = bias[k] + sum(g * each for g, each in zip(gate[k], y, strict=True))
                z[k, i, j] = values[k][i][j] / (1 + math.exp(-score))
    return z


def test_pixels_are_weighed_by_their_strips() -> None:
    context = narrow_subject(StripPoolingHead).built().double().eval().context
    assert isinstance(context, StripPooling)
    features = small_features(3, 4, dtype=torch.float64).layer4
    expected = [looped(x, context) for x in context.reduce(features)]
    torch.testing.assert_close(context(features), torch.stack(expected))


def test_every_promise_of_a_head_is_kept() -> None:
    broken = [each for each in findings(narrow_subject(StripPoolingHead)) if each.broken]
    assert broken == []
