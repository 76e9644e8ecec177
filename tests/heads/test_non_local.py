"""The non-local block against loops over all pairs of pixels, both ways of summing, its counts."""

from typing import Any

import pytest
import torch
from torch import nn

from heads import build_head
from heads.blocks import RefinedContext
from heads.non_local import DotProductAttention, NonLocalBlock
from tests.heads import loops
from tests.heads.counting import PAPER, Count, Setting, counted, layer, product, small_setting
from tests.heads.small import CHANNELS, CLASSES, IMPLEMENTATIONS, small_features, small_head

every_form = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)


def normalized(x: loops.Map, convolution: nn.Conv2d, norm: nn.Module) -> loops.Map:
    """Batch norm in evaluation mode of a convolution, and nothing after it: a slope of 1."""
    assert isinstance(norm, nn.BatchNorm2d)
    return [
        [[loops.normalize_relu(value, norm, c, slope=1.0) for value in row] for row in plane]
        for c, plane in enumerate(loops.convolve(x, convolution))
    ]


def added(one: loops.Map, other: loops.Map) -> loops.Map:
    return [
        [[a + b for a, b in zip(*rows, strict=True)] for rows in zip(*planes, strict=True)]
        for planes in zip(one, other, strict=True)
    ]


def around(image: loops.Map, context: RefinedContext, attended: loops.Map) -> loops.Map:
    """What every head of this kind does after its attention."""
    refined = loops.conv_bn_relu(attended, context.refine)
    if context.fuse is None:
        return refined
    return loops.conv_bn_relu(image + refined, context.fuse.fuse)  # concatenation of channels


def weights(query: loops.Vector, keys: list[loops.Vector], variant: str) -> loops.Vector:
    products = [loops.dot(query, key) for key in keys]
    if variant == "non_local-product":
        return [value / len(keys) for value in products]
    scale = len(query) ** -0.5 if variant == "non_local-scaled" else 1.0
    return loops.softmax([scale * value for value in products])


def looped(image: loops.Map, context: RefinedContext, variant: str) -> loops.Map:
    x, block = loops.conv_bn_relu(image, context.reduce), context.attention
    queries, keys, values = (
        loops.pixels_of(loops.convolve(x, layer)) for layer in (block.theta, block.phi, block.g)
    )
    gathered = []
    for query in queries:
        own = weights(query, keys, variant)
        gathered.append([loops.dot(own, list(channel)) for channel in zip(*values, strict=True)])
    mixed = loops.map_of(gathered, *loops.size_of(x))
    return around(image, context, added(x, normalized(mixed, *block.output)))


@every_form
@pytest.mark.parametrize("variant", ["non_local", "non_local-scaled", "non_local-product"])
def test_context_equals_loops(variant: str, implementation: str) -> None:
    context = small_head(variant, implementation).double().eval().context
    x = small_features(2, 3, dtype=torch.float64).layer4
    expected = [looped(image, context, variant) for image in x.tolist()]
    torch.testing.assert_close(context(x), loops.stacked(expected))


@pytest.mark.parametrize("pixels", [6, 7, 8])
def test_products_are_summed_either_way_to_the_same(pixels: int) -> None:
    """7 keys and 7 values: all pairs up to 7 pixels, values times keys first from 8 on."""
    fast, reference = (DotProductAttention(form) for form in ("fast", "reference"))
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, 7, 1, pixels, generator=generator).double() for _ in range(3)]
    torch.testing.assert_close(fast(*maps), reference(*maps))


def test_the_block_starts_as_the_identity() -> None:
    block = build_head("non_local", CHANNELS, CLASSES, width=8).get_submodule("context.attention")
    assert isinstance(block, NonLocalBlock)
    x = torch.randn(2, 8, 3, 4)
    torch.testing.assert_close(block(x), x, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairwise": "concatenation"}, "unknown pairwise 'concatenation'; allowed: embedded_gau"),
        ({"pairwise": "dot_product", "scaled": True}, "scaled is of embedded_gaussian"),
    ],
)
def test_what_there_is_not_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_head("non_local", CHANNELS, CLASSES, **options)


def non_local(s: Setting, width: int = 512, key: int = 256, concat: bool = True) -> Count:
    """Softmax, sums and batch norm's work are not counted."""
    total = layer(s.channels.layer4, width, s.pixels, kernel=3)
    total += layer(width, 3 * key, s.pixels, extra=1)  # theta, phi, g
    total += product(s.pixels, s.pixels, key) + product(s.pixels, s.pixels, key)
    total += layer(key, width, s.pixels)  # U
    total += layer(width, width, s.pixels, kernel=3)  # R
    if concat:
        total += layer(s.channels.layer4 + width, width, s.pixels, kernel=3)
    return total


@pytest.mark.parametrize("concat", [True, False])
def test_counts(concat: bool) -> None:
    small, options = small_setting(33, 29), {"concat_input": concat, "implementation": "reference"}
    given = {"width": 32, "key_channels": 9, **options}
    expected = non_local(small, width=32, key=9, concat=concat)
    assert counted("non_local", small, (33, 29), **given) == expected
    assert counted("non_local", PAPER, (128, 128), **options) == non_local(PAPER, concat=concat)


def test_products_in_the_other_order_cost_less() -> None:
    """256 x 256 numbers a pixel instead of 16384 x 256, twice."""
    direct = counted(
        "non_local", PAPER, (128, 128), pairwise="dot_product", implementation="reference"
    )
    fast = counted("non_local", PAPER, (128, 128), pairwise="dot_product")
    assert fast.parameters == direct.parameters
    assert direct.macs - fast.macs == 2 * PAPER.pixels * 256 * (PAPER.pixels - 256)
