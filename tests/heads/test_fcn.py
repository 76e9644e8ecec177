"""FCN against loops."""

import pytest
import torch

from heads.fcn import FCNHead
from tests.heads import loops
from tests.heads.small import IMPLEMENTATIONS, small_features, small_head


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_context_is_one_convolution(implementation: str) -> None:
    head = small_head("fcn", implementation).double().eval()
    assert isinstance(head, FCNHead)
    x = small_features(2, 3, dtype=torch.float64).layer4
    expected = [loops.conv_bn_relu(image, head.context) for image in x.tolist()]
    torch.testing.assert_close(head.context(x), loops.stacked(expected))


def test_classifier_and_branch() -> None:
    head = small_head("fcn").double().eval()
    assert isinstance(head, FCNHead)
    features = small_features(2, 3, dtype=torch.float64)
    context = [loops.conv_bn_relu(image, head.context) for image in features.layer4.tolist()]
    logits = [loops.convolve(image, head.classifier[1]) for image in context]
    torch.testing.assert_close(head(features).logits, loops.stacked(logits))

    block, classifier = head.auxiliary.branch
    middle = [loops.conv_bn_relu(image, block) for image in features.layer3.tolist()]
    aux = [loops.convolve(image, classifier[1]) for image in middle]
    block.eval()
    head.auxiliary.training = True  # emits, while batch norm keeps the statistics of the loops
    torch.testing.assert_close(head(features).pixel_aux["aux"], loops.stacked(aux))
