"""ASP-OCR against loops: OCR beside a pixel branch and dilated branches."""

import pytest
import torch

from heads import build_head
from heads.asp_ocr import ASPOCRHead, AtrousRegionPyramid
from tests.heads import loops
from tests.heads.small import CHANNELS, CLASSES, IMPLEMENTATIONS, small_features, small_head
from tests.heads.test_ocr import looped_regions


def looped(image: loops.Map, maps: loops.Map, context: AtrousRegionPyramid) -> loops.Map:
    """z = relu(bn(V [y, f_0, f_d1, ...])): lists of channels, concatenated."""
    x = loops.conv_bn_relu(image, context.reduce)
    joined = looped_regions(x, maps, context.regions)
    for branch in (context.pixel, *context.atrous):
        joined = joined + loops.conv_bn_relu(image, branch)
    return loops.conv_bn_relu(joined, context.fuse)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_context_equals_loops(implementation: str) -> None:
    head = small_head("asp_ocr", implementation).double().eval()
    assert isinstance(head, ASPOCRHead)
    x, coarse = head.context_inputs(small_features(2, 3, dtype=torch.float64))
    pairs = zip(x.tolist(), coarse.tolist(), strict=True)
    expected = [looped(image, maps, head.context) for image, maps in pairs]
    torch.testing.assert_close(head.context(x, coarse), loops.stacked(expected))


def test_released_widths() -> None:
    """Five branches of 256 channels, two layers to keys of 128, dilations 12, 24, 36."""
    with torch.device("meta"):
        head = build_head("asp_ocr", CHANNELS, CLASSES)
    assert isinstance(head, ASPOCRHead)
    assert head.context.fuse.convolution.weight.shape == (512, 5 * 256, 1, 1)
    assert head.context.regions.delta.convolution.weight.shape == (128, 256, 1, 1)
    assert len(head.get_submodule("context.regions.relation.phi")) == 2
    dilations = [branch.convolution.dilation for branch in head.context.atrous]
    assert dilations == [(12, 12), (24, 24), (36, 36)]


def test_dilations_are_checked() -> None:
    with pytest.raises(ValueError, match="dilations must be one or more positive"):
        build_head("asp_ocr", CHANNELS, CLASSES, dilations=[])
