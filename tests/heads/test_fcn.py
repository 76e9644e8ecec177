"""FCN against loops."""

import pytest
import torch
from torch import nn

from heads.blocks import ConvBnRelu
from heads.fcn import ConcatConvolutions, FCNHead
from tests.heads import loops
from tests.heads.small import CHANNELS, CLASSES, IMPLEMENTATIONS, small_features, small_head


def stacked(image: loops.Map, layers: nn.Module) -> loops.Map:
    for layer in layers.children():
        assert isinstance(layer, ConvBnRelu)
        image = loops.conv_bn_relu(image, layer)
    return image


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_context_is_one_convolution(implementation: str) -> None:
    head = small_head("fcn", implementation).double().eval()
    assert isinstance(head.context, nn.Sequential)
    assert len(head.context) == 1
    x = small_features(2, 3, dtype=torch.float64).layer4
    expected = [stacked(image, head.context) for image in x.tolist()]
    torch.testing.assert_close(head.context(x), loops.stacked(expected))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_context_with_its_input_beside(implementation: str) -> None:
    head = small_head("fcn-concat", implementation).double().eval()
    context = head.context
    assert isinstance(context, ConcatConvolutions)
    x = small_features(2, 3, dtype=torch.float64).layer4
    expected = [
        loops.conv_bn_relu(image + stacked(image, context.convolutions), context.fuse.fuse)
        for image in x.tolist()  # lists of channels: concatenation
    ]
    torch.testing.assert_close(context(x), loops.stacked(expected))


def test_a_head_without_convolutions_is_refused() -> None:
    with pytest.raises(ValueError, match="convolutions must be 1 or more, got 0"):
        FCNHead(CHANNELS, CLASSES, convolutions=0)


def test_classifier_and_branch() -> None:
    head = small_head("fcn").double().eval()
    assert isinstance(head, FCNHead)
    features = small_features(2, 3, dtype=torch.float64)
    context = [stacked(image, head.context) for image in features.layer4.tolist()]
    logits = [loops.convolve(image, head.classifier[1]) for image in context]
    torch.testing.assert_close(head(features).logits, loops.stacked(logits))

    block, classifier = head.auxiliary.branch
    middle = [loops.conv_bn_relu(image, block) for image in features.layer3.tolist()]
    aux = [loops.convolve(image, classifier[1]) for image in middle]
    block.eval()
    head.auxiliary.training = True  # emits, while batch norm keeps the statistics of the loops
    torch.testing.assert_close(head(features).pixel_aux["aux"], loops.stacked(aux))
