"""Atrous pyramid with object context against loops over pooled pixels, and its counts."""

import math

import pytest
import torch
from torch import Tensor, nn

from heads.asp_oc import ASPOCHead, AtrousObjectContext, PooledContext, halved
from heads.blocks import ConvBnRelu
from tests.heads import loops
from tests.heads.counting import PAPER, Count, Setting, counted, layer, product, small_setting
from tests.heads.small import IMPLEMENTATIONS, small_features, small_head

every_form = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)


def looped_maxima(x: loops.Map) -> loops.Map:
    """Over 2x2 pixels; a last odd row or column is dropped, a single one is kept."""
    height, width = loops.size_of(x)
    across, down = (range(max(1, size // 2)) for size in (width, height))

    def pair(cell: int, size: int) -> range:
        return range(2 * cell, min(2 * cell + 2, size))

    return [
        [
            [max(plane[i][j] for i in pair(y, height) for j in pair(x_, width)) for x_ in across]
            for y in down
        ]
        for plane in x
    ]


def looped_object(x: loops.Map, branch: PooledContext, authors: bool) -> loops.Map:
    slope = 0.01 if authors else 0.0
    pooled = looped_maxima(loops.conv_bn_relu(x, branch.local, slope))
    keys = loops.pixels_of(loops.conv_bn_relu(pooled, branch.attention.key, slope))
    values = loops.pixels_of(loops.convolve(pooled, branch.attention.value))
    columns = [list(column) for column in zip(*values, strict=True)]
    gathered = []
    for query in keys:
        weights = loops.softmax([loops.dot(query, key) / math.sqrt(len(key)) for key in keys])
        gathered.append([loops.dot(weights, column) for column in columns])
    attended = loops.map_of(gathered, *loops.size_of(pooled))
    expanded = loops.convolve(attended, branch.attention.output)
    resized = loops.resize(expanded, *loops.size_of(x), align_corners=authors)
    if isinstance(branch.activate, ConvBnRelu):  # the authors' additional convolution
        return loops.conv_bn_relu(resized, branch.activate, slope)
    assert isinstance(branch.activate, nn.Sequential)
    norm = branch.activate[0]
    assert isinstance(norm, nn.BatchNorm2d)
    return [
        [[loops.normalize_relu(value, norm, c) for value in row] for row in plane]
        for c, plane in enumerate(resized)
    ]


def looped(image: loops.Map, context: AtrousObjectContext, authors: bool) -> loops.Map:
    slope = 0.01 if authors else 0.0
    x = loops.conv_bn_relu(image, context.reduce, slope)
    parts = looped_object(x, context.object, authors) + loops.conv_bn_relu(x, context.pixel, slope)
    for branch in context.atrous:
        parts = parts + loops.conv_bn_relu(x, branch, slope)  # lists of channels: concatenation
    return loops.conv_bn_relu(parts, context.fuse, slope)


def fit_norms(context: nn.Module, x: Tensor) -> None:
    """Statistics of `x` itself, so that every ReLU cuts and the place of each one matters."""
    for norm in context.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = 1
    context.train()(x)
    context.eval()


@every_form
@pytest.mark.parametrize("variant", ["asp_oc", "asp_oc-authors"])
@pytest.mark.parametrize("size", [(2, 3), (1, 4), (5, 4)])
def test_context_equals_loops(implementation: str, variant: str, size: tuple[int, int]) -> None:
    """Odd heights and widths, a side of one pixel, and several pooled pixels to attend to."""
    head = small_head(variant, implementation).double().eval()
    assert isinstance(head, ASPOCHead)
    x = small_features(*size, dtype=torch.float64).layer4
    fit_norms(head.context, x)
    authors = variant == "asp_oc-authors"
    expected = [looped(image, head.context, authors) for image in x.tolist()]
    torch.testing.assert_close(head.context(x), loops.stacked(expected))


@every_form
def test_dilated_branches_look_twelve_pixels_away(implementation: str) -> None:
    """The object branch silenced, only a tap of dilation 12 joins pixels that far apart."""
    head = small_head("asp_oc", implementation).double().eval()
    head.get_submodule("context.object").register_forward_hook(lambda _, __, y: torch.zeros_like(y))
    x = small_features(1, 16, dtype=torch.float64).layer4
    changed = x.clone()
    changed[..., 0] += 5
    context = head.get_submodule("context")
    moved = (context(x) - context(changed)).abs().amax(dim=(0, 1, 2)) > 0
    # The 3x3 reduction spreads the change over pixels 0 and 1.
    assert moved.nonzero().flatten().tolist() == [0, 1, 12, 13]


@every_form
def test_object_branch_reaches_every_pixel(implementation: str) -> None:
    """A change in one corner moves the opposite one of a map that no dilated tap crosses."""
    head = small_head("asp_oc", implementation).double().eval()
    features = small_features(9, 9, dtype=torch.float64)
    changed = features.layer4.clone()
    changed[..., 0, 0] += 5
    context = head.get_submodule("context")
    difference = context(features.layer4) - context(changed)
    assert difference[..., -1, -1].abs().max() > 1e-10  # rounding is 1e-16


@pytest.mark.parametrize(("size", "pooled"), [((1, 1), (1, 1)), ((1, 5), (1, 2)), ((4, 7), (2, 3))])
def test_pooling_halves_but_keeps_a_pixel(size: tuple[int, int], pooled: tuple[int, int]) -> None:
    assert halved(torch.zeros(2, 3, *size)).shape[-2:] == pooled


@every_form
def test_key_and_query_are_evaluated_once_a_step(implementation: str) -> None:
    """Run twice, their batch norm would move the running statistics twice."""
    head = small_head("asp_oc", implementation)
    head(small_features())
    assert head.get_submodule("context.object.attention.key.1").num_batches_tracked == 1


def closed_form(
    s: Setting, pooled: int, width: int = 512, branch: int = 256, key: int = 128, value: int = 256
) -> Count:
    total = layer(s.channels.layer4, width, s.pixels, kernel=3, extra=3)
    total += layer(width, branch, s.pixels, kernel=3, extra=3)
    total += layer(branch, key, pooled, extra=3)  # key and query
    total += layer(branch, value, pooled, extra=1)
    total += product(pooled, pooled, key) + product(pooled, pooled, value)
    total += layer(value, branch, pooled, extra=1)  # output
    total += Count(2 * branch, 0)  # batch norm behind it
    total += layer(width, branch, s.pixels)
    for _ in range(3):
        total += layer(width, branch, s.pixels, kernel=3)
    return total + layer(5 * branch, width, s.pixels)


# The count that is given for this head evaluates the shared transform of 64 x 64 pixels twice.
PUBLISHED = Count(15_112_832, 252_060_893_184)
SECOND_EVALUATION = 64 * 64 * 256 * 128


@every_form
def test_counts_at_the_papers_setting(implementation: str) -> None:
    """FlopCounter sees all but max pooling, resizing, softmax, batch norm and ReLU."""
    expected = Count(PUBLISHED.parameters, PUBLISHED.macs - SECOND_EVALUATION)
    assert closed_form(PAPER, 64 * 64) == expected
    assert counted("asp_oc", PAPER, (128, 128), implementation=implementation) == expected
    more = layer(256, 256, PAPER.pixels, extra=1)  # the authors' additional convolution
    options = {"release": "authors", "implementation": implementation}
    assert counted("asp_oc", PAPER, (128, 128), **options) == expected + more


def test_counts_at_a_small_setting() -> None:
    """33 x 29 is pooled to 16 x 14. The fast form drops taps that reach no pixel."""
    small = small_setting(33, 29)
    options = {"width": 32, "branch_width": 20, "key_channels": 12, "value_channels": 28}
    expected = closed_form(small, 16 * 14, 32, 20, 12, 28)
    reference = counted("asp_oc", small, (33, 29), implementation="reference", **options)
    fast = counted("asp_oc", small, (33, 29), **options)
    skipped = 8 * 32 * 20 * small.pixels  # dilation 36 sees its centre only
    assert reference == expected
    assert fast == Count(expected.parameters, expected.macs - skipped)
