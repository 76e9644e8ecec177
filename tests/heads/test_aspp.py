"""Atrous pyramid against loops, and the taps that its fast form leaves out."""

import pytest
import torch
from torch import nn

from heads.aspp import ASPPHead, AtrousPyramid
from heads.blocks import VisibleTapsConv2d
from heads.interface import Implementation
from tests.heads import loops
from tests.heads.small import CHANNELS, CLASSES, IMPLEMENTATIONS, randomize_norms, small_features


def looped(image: loops.Map, context: AtrousPyramid) -> loops.Map:
    height, width = loops.size_of(image)
    stacked = list(loops.conv_bn_relu(image, context.pixel))
    for branch in context.atrous:
        stacked += loops.conv_bn_relu(image, branch)
    if context.image is not None:
        mean = loops.conv_bn_relu(loops.pool(image, 1), context.image.transform)
        stacked += loops.resize(mean, height, width)
    return loops.conv_bn_relu(stacked, context.fuse)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("image_pooling", [True, False])
@pytest.mark.parametrize("fuse_kernel", [1, 3])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (6, 4)])
def test_context_equals_loops(
    implementation: Implementation, image_pooling: bool, fuse_kernel: int, size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    head = ASPPHead(
        CHANNELS,
        CLASSES,
        dilations=(1, 2, 3),
        width=4,
        image_pooling=image_pooling,
        fuse_kernel=fuse_kernel,
        implementation=implementation,
    )
    randomize_norms(head.double().eval())
    x = small_features(*size, dtype=torch.float64).layer4
    expected = [looped(image, head.context) for image in x.tolist()]
    torch.testing.assert_close(head.context(x), loops.stacked(expected))


def test_the_refinement_is_one_more_convolution_behind_the_pyramid() -> None:
    torch.manual_seed(0)
    head = ASPPHead(CHANNELS, CLASSES, dilations=(1, 2, 3), width=4, refine=True)
    randomize_norms(head.double().eval())
    pyramid, refinement = head.context.children()
    x = small_features(6, 4, dtype=torch.float64).layer4
    expected = [loops.conv_bn_relu(image, refinement) for image in pyramid(x).tolist()]
    torch.testing.assert_close(head.context(x), loops.stacked(expected))


def test_default_dilations_are_those_for_output_stride_8() -> None:
    context = ASPPHead(CHANNELS, CLASSES).context
    assert [branch[0].dilation for branch in context.atrous] == [(12, 12), (24, 24), (36, 36)]


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (4, 9), (9, 4), (5, 5), (4, 4), (3, 3)])
def test_invisible_taps_contribute_nothing(size: tuple[int, int]) -> None:
    """Dilation 4: sizes below, at and above the point where the outer taps come into sight."""
    torch.manual_seed(0)
    full = nn.Conv2d(3, 2, 3, padding=4, dilation=4).double()
    visible = VisibleTapsConv2d(3, 2, 3, padding=4, dilation=4).double()
    visible.load_state_dict(full.state_dict())
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(visible(x), full(x))
    gradients = [
        torch.autograd.grad(layer(x).square().sum(), [x, layer.weight]) for layer in (visible, full)
    ]
    torch.testing.assert_close(*gradients)
