"""Global context against loops, and its counts."""

import math

import pytest
import torch

from heads import build_head
from heads.blocks import RefinedContext
from tests.heads import loops
from tests.heads.counting import PAPER, Count, Setting, counted, layer, small_setting
from tests.heads.small import CHANNELS, CLASSES, IMPLEMENTATIONS, small_features, small_head
from tests.heads.test_non_local import around

every_form = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)


def looped(image: loops.Map, context: RefinedContext) -> loops.Map:
    x, block = loops.conv_bn_relu(image, context.reduce), context.attention
    (scores,) = zip(*loops.pixels_of(loops.convolve(x, block.key)), strict=True)
    weights, pixels = loops.softmax(list(scores)), loops.pixels_of(x)
    gathered = [loops.dot(weights, list(channel)) for channel in zip(*pixels, strict=True)]
    first, norm, _, second = block.transform
    narrow = [value for ((value,),) in loops.convolve([[[value]] for value in gathered], first)]
    mean = sum(narrow) / len(narrow)
    deviation = math.sqrt(sum((v - mean) ** 2 for v in narrow) / len(narrow) + norm.eps)
    gains, shifts = norm.weight.flatten().tolist(), norm.bias.flatten().tolist()
    scaled = [
        max((value - mean) / deviation * gain + shift, 0.0)
        for value, gain, shift in zip(narrow, gains, shifts, strict=True)
    ]
    added = loops.convolve([[[value]] for value in scaled], second)
    shifted = [
        [[value + constant for value in row] for row in plane]
        for plane, ((constant,),) in zip(x, added, strict=True)
    ]
    return around(image, context, shifted)


@every_form
def test_context_equals_loops(implementation: str) -> None:
    context = small_head("gcnet", implementation).double().eval().context
    assert isinstance(context, RefinedContext)
    torch.nn.init.normal_(context.attention.transform[1].weight)
    x = small_features(2, 3, dtype=torch.float64).layer4
    expected = [looped(image, context) for image in x.tolist()]
    torch.testing.assert_close(context(x), loops.stacked(expected))


def test_the_block_starts_as_the_identity() -> None:
    block = build_head("gcnet", CHANNELS, CLASSES, width=8).get_submodule("context.attention")
    x = torch.randn(2, 8, 3, 4)
    torch.testing.assert_close(block(x), x, rtol=0, atol=0)


def gcnet(s: Setting, width: int = 512, bottleneck: int = 128) -> Count:
    total = layer(s.channels.layer4, width, s.pixels, kernel=3)
    total += layer(width, 1, s.pixels, extra=1) + Count(0, width * s.pixels)  # scores, sum
    total += layer(width, bottleneck, 1, extra=3) + layer(bottleneck, width, 1, extra=1)
    total += layer(width, width, s.pixels, kernel=3)
    return total + layer(s.channels.layer4 + width, width, s.pixels, kernel=3)


@every_form
def test_counts(implementation: str) -> None:
    small, options = small_setting(33, 29), {"implementation": implementation}
    given = {"width": 32, "bottleneck": 7, **options}
    assert counted("gcnet", small, (33, 29), **given) == gcnet(small, width=32, bottleneck=7)
    assert counted("gcnet", PAPER, (128, 128), **options) == gcnet(PAPER)
