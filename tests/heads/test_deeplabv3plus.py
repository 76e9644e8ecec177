"""The decoder behind the atrous pyramid against loops, and its counts."""

from typing import Any

import pytest
import torch
from torch import nn

from heads import build_head
from heads.aspp import AtrousPyramid
from heads.blocks import ConvBnRelu, SeparableConvBnRelu
from heads.deeplabv3plus import PyramidDecoder
from tests.heads import loops
from tests.heads.counting import PAPER, Count, Setting, counted, layer, small_setting
from tests.heads.small import CHANNELS, CLASSES, IMPLEMENTATIONS, small_features, small_head

every_form = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)


def one_by_one(x: loops.Map, block: ConvBnRelu) -> loops.Map:
    """A convolution of each channel by itself, batch norm, ReLU."""
    convolution, norm = block.convolution, block.norm
    assert isinstance(norm, nn.BatchNorm2d)
    dilation = convolution.dilation[0]
    convolved = []
    for c, plane in enumerate(x):
        own = nn.Conv2d(1, 1, 3, padding=dilation, dilation=dilation, bias=False)
        own.weight = nn.Parameter(convolution.weight[c : c + 1])
        (values,) = loops.convolve([plane], own)
        convolved.append([[loops.normalize_relu(v, norm, c) for v in row] for row in values])
    return convolved


def layers(x: loops.Map, block: nn.Module) -> loops.Map:
    if not isinstance(block, SeparableConvBnRelu):
        assert isinstance(block, ConvBnRelu)
        return loops.conv_bn_relu(x, block)
    each, mixed = block
    assert isinstance(each, ConvBnRelu)
    assert isinstance(mixed, ConvBnRelu)
    return loops.conv_bn_relu(one_by_one(x, each), mixed)


def pyramid(image: loops.Map, encoder: AtrousPyramid) -> loops.Map:
    stacked = loops.conv_bn_relu(image, encoder.pixel)
    for branch in encoder.atrous:
        stacked = stacked + layers(image, branch)
    assert encoder.image is not None
    mean = loops.conv_bn_relu(loops.pool(image, 1), encoder.image.transform)
    return loops.conv_bn_relu(stacked + loops.resize(mean, *loops.size_of(image)), encoder.fuse)


def looped(early: loops.Map, deep: loops.Map, context: PyramidDecoder) -> loops.Map:
    size, aligned = loops.size_of(early), context.align_corners
    encoded = loops.resize(pyramid(deep, context.encoder), *size, align_corners=aligned)
    beside = encoded + loops.conv_bn_relu(early, context.low)
    fuse = context.fuse
    fused = layers(beside, fuse if isinstance(fuse, SeparableConvBnRelu) else fuse.fuse)
    return layers(fused, context.refine)


@every_form
@pytest.mark.parametrize("variant", ["deeplabv3plus", "deeplabv3plus-separable"])
def test_context_equals_loops(variant: str, implementation: str) -> None:
    head = small_head(variant, implementation).double().eval()
    assert isinstance(head.context, PyramidDecoder)
    features = small_features(2, 3, dtype=torch.float64)
    images = zip(features.layer1.tolist(), features.layer4.tolist(), strict=True)
    expected = [looped(early, deep, head.context) for early, deep in images]
    torch.testing.assert_close(
        head.context(features.layer1, features.layer4), loops.stacked(expected)
    )


def separable(c_in: int, c_out: int, pixels: int) -> Count:
    each = Count(9 * c_in + 2 * c_in, 9 * c_in * pixels)
    return each + layer(c_in, c_out, pixels)


def deeplabv3plus(s: Setting, width: int = 256, low: int = 48, apart: bool = False) -> Count:
    """Layer1 has four times the pixels of layer4, as at output stride 8."""
    c, fine = s.channels.layer4, 4 * s.pixels
    total = layer(c, width, 1) + layer(c, width, s.pixels) + layer(5 * width, width, s.pixels)
    for _ in range(3):
        total += separable(c, width, s.pixels) if apart else layer(c, width, s.pixels, kernel=3)
    total += layer(s.channels.layer1, low, fine)
    for c_in in (width + low, width):
        total += separable(c_in, width, fine) if apart else layer(c_in, width, fine, kernel=3)
    return total


@pytest.mark.parametrize("apart", [False, True])
def test_counts(apart: bool) -> None:
    options: dict[str, Any] = {"separable": apart, "implementation": "reference"}
    small, given = small_setting(33, 29), {"width": 32, "low_channels": 5, **options}
    expected = deeplabv3plus(small, width=32, low=5, apart=apart)
    assert counted("deeplabv3plus", small, (33, 29), **given) == expected
    whole = counted("deeplabv3plus", PAPER, (128, 128), **options)
    assert whole == deeplabv3plus(PAPER, apart=apart)


def test_a_fusion_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="fuse_kernel is 1 or 3, got 5"):
        build_head("deeplabv3plus", CHANNELS, CLASSES, fuse_kernel=5)
