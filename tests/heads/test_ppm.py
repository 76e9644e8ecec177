"""Pyramid pooling against loops, and its fast form."""

import pytest
import torch
from torch.nn import functional as F

from heads.blocks import PooledBranch
from heads.ppm import PPMHead, PyramidPooling, spreading_matrix
from tests.heads import loops
from tests.heads.small import CHANNELS, CLASSES, IMPLEMENTATIONS, small_features, small_head


def looped(image: loops.Map, context: PyramidPooling, *, maximum: bool) -> loops.Map:
    height, width = loops.size_of(image)
    stacked = list(image)
    for bins, branch in zip(context.bins, context.branches, strict=True):
        cells = loops.pool(image, bins, maximum=maximum)
        if isinstance(branch, PooledBranch):
            cells = loops.conv_bn_relu(cells, branch.transform)
        stacked += loops.resize(cells, height, width, align_corners=context.align_corners)
    return loops.conv_bn_relu(stacked, context.fuse)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("variant", ["ppm", "ppm-max", "ppm-no-reduction"])
@pytest.mark.parametrize("size", [(2, 3), (7, 5)])  # smaller and larger than most grids
def test_context_equals_loops(implementation: str, variant: str, size: tuple[int, int]) -> None:
    head = small_head(variant, implementation).double().eval()
    assert isinstance(head, PPMHead)
    x = small_features(*size, dtype=torch.float64).layer4
    maximum = variant == "ppm-max"
    expected = [looped(image, head.context, maximum=maximum) for image in x.tolist()]
    torch.testing.assert_close(head.context(x), loops.stacked(expected))


def test_published_proportions() -> None:
    head = PPMHead(CHANNELS, CLASSES)
    assert head.context.bins == (1, 2, 3, 6)
    widths = [branch.transform.convolution.out_channels for branch in head.context.branches]
    assert widths == [CHANNELS.layer4 // 4] * 4


def test_without_reduction_every_grid_has_all_channels() -> None:
    context = PPMHead(CHANNELS, CLASSES, bins=[1, 6], reduction=False).context
    assert not [name for name, _ in context.branches.named_parameters()]
    assert context.fuse.convolution.in_channels == 3 * CHANNELS.layer4  # x and two grids


def test_options_that_are_not_allowed_are_named() -> None:
    with pytest.raises(ValueError, match="unknown pooling 'maximum'; allowed: average, max"):
        PPMHead(CHANNELS, CLASSES, pooling="maximum")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="pool_width 4 is of the reduction"):
        PPMHead(CHANNELS, CLASSES, pool_width=4, reduction=False)


def test_spreading_matrix_of_one_cell_counts_the_taps_inside() -> None:
    """One cell spread everywhere is 1, so a tap contributes 1 unless it falls on the padding."""
    spread = spreading_matrix([1], torch.empty(1, 1, 3, 4)).view(9, 3, 4)
    expected = torch.tensor([[4, 6, 6, 4], [6, 9, 9, 6], [4, 6, 6, 4]], dtype=spread.dtype)
    torch.testing.assert_close(spread.sum(dim=0), expected)


def test_spreading_matrix_is_the_convolution_of_the_resized_cells() -> None:
    torch.manual_seed(0)
    cells, taps = torch.randn(1, 1, 3, 3), torch.randn(1, 1, 3, 3)
    resized = F.interpolate(cells, size=(7, 5), mode="bilinear", align_corners=False)
    expected = F.conv2d(resized, taps, padding=1).flatten()
    products = torch.outer(cells.flatten(), taps.flatten()).flatten()  # (cell, tap)
    torch.testing.assert_close(products @ spreading_matrix([3], resized), expected)
