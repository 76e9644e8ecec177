"""Interlaced sparse self-attention against loops over the pixels of each group, and its counts."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from heads import build_head
from heads.blocks import ConvBnRelu, ReducedContext
from heads.isa import GroupAttention, InterlacedAttention
from tests.heads import loops
from tests.heads.counting import PAPER, Count, Setting, counted, layer, product, small_setting
from tests.heads.small import (
    CHANNELS,
    CLASSES,
    IMPLEMENTATIONS,
    WIDTH,
    randomize_norms,
    small_features,
)

every_form = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)

Pixel = tuple[int, int]


def far_group(pixel: Pixel, factor: int) -> Pixel:
    return pixel[0] % factor, pixel[1] % factor


def near_group(pixel: Pixel, factor: int) -> Pixel:
    return pixel[0] // factor, pixel[1] // factor


def context_of(factor: int, implementation: str) -> ReducedContext:
    torch.manual_seed(0)
    head = build_head(
        "isa",
        CHANNELS,
        CLASSES,
        width=WIDTH,
        key_channels=7,
        down_factor=factor,
        implementation=implementation,
    )
    randomize_norms(head)
    assert isinstance(head.context, ReducedContext)
    return head.context.double().eval()


def twice(x: loops.Map, transform: nn.Module) -> list[loops.Vector]:
    first, second = transform.children()
    assert isinstance(first, ConvBnRelu)
    assert isinstance(second, ConvBnRelu)
    return loops.pixels_of(loops.conv_bn_relu(loops.conv_bn_relu(x, first), second))


def looped_attention(
    x: loops.Map, attention: GroupAttention, group: Callable[[Pixel, int], Pixel], factor: int
) -> loops.Map:
    height, width = loops.size_of(x)
    groups = [group((y, x_), factor) for y in range(height) for x_ in range(width)]
    queries, keys = twice(x, attention.query), twice(x, attention.key)
    values = loops.pixels_of(loops.convolve(x, attention.value))
    gathered = []
    for query, own in zip(queries, groups, strict=True):
        inside = [j for j, other in enumerate(groups) if other == own]
        weights = loops.softmax([loops.dot(query, keys[j]) / math.sqrt(len(query)) for j in inside])
        columns = zip(*(values[j] for j in inside), strict=True)
        gathered.append([loops.dot(weights, list(column)) for column in columns])
    return loops.conv_bn_relu(loops.map_of(gathered, height, width), attention.output)


def surrounded(x: loops.Map, top: int, left: int, height: int, width: int) -> loops.Map:
    """A map of zeros with x at (top, left)."""

    def value(plane: list[list[float]], y: int, x_: int) -> float:
        inside = 0 <= y < len(plane) and 0 <= x_ < len(plane[0])
        return plane[y][x_] if inside else 0.0

    return [
        [[value(plane, y - top, x_ - left) for x_ in range(width)] for y in range(height)]
        for plane in x
    ]


def looped(image: loops.Map, context: ReducedContext, factor: int) -> loops.Map:
    x = loops.conv_bn_relu(image, context.reduce)
    height, width = loops.size_of(x)
    whole_height, whole_width = (math.ceil(size / factor) * factor for size in (height, width))
    top, left = (whole_height - height) // 2, (whole_width - width) // 2
    z = surrounded(x, top, left, whole_height, whole_width)
    z = looped_attention(z, context.attention.far, far_group, factor)
    z = looped_attention(z, context.attention.near, near_group, factor)
    cropped = [[row[left : left + width] for row in plane[top : top + height]] for plane in z]
    return loops.conv_bn_relu(cropped + x, context.fuse.fuse)  # lists of channels: concatenation


@every_form
@pytest.mark.parametrize("factor", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [(2, 3), (4, 6)])
def test_context_equals_loops(implementation: str, factor: int, size: tuple[int, int]) -> None:
    """4x6 needs no padding for 1 and 2; 2x3 gets 1 and 2 rows and columns for 3 and 5."""
    context = context_of(factor, implementation)
    x = small_features(*size, dtype=torch.float64).layer4
    expected = [looped(image, context, factor) for image in x.tolist()]
    torch.testing.assert_close(context(x), loops.stacked(expected))


def moved(attention: nn.Module, size: tuple[int, int], pixel: Pixel) -> set[Pixel]:
    """The output pixels that move with one input pixel."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(1, WIDTH, *size, generator=generator, dtype=torch.float64)
    changed = x.clone()
    changed[..., pixel[0], pixel[1]] += 5
    difference = (attention(x) - attention(changed)).abs().amax(dim=(0, 1))
    return {(int(y), int(x_)) for y, x_ in difference.nonzero()}


@every_form
@pytest.mark.parametrize("pixel", [(0, 0), (3, 7)])
def test_each_step_reaches_its_group_and_both_reach_the_map(
    implementation: str, pixel: Pixel
) -> None:
    attention = context_of(2, implementation).attention
    pixels = {(y, x) for y in range(6) for x in range(8)}
    assert moved(attention, (6, 8), pixel) == pixels
    for step, group in (("near", far_group), ("far", near_group)):  # what is left without the step
        alone = context_of(2, implementation).attention
        setattr(alone, step, nn.Identity())
        own = {other for other in pixels if group(other, 2) == group(pixel, 2)}
        assert moved(alone, (6, 8), pixel) == own


@every_form
@pytest.mark.parametrize("size", [(6, 8), (5, 9), (1, 1)])
def test_regrouping_puts_every_pixel_back(implementation: str, size: tuple[int, int]) -> None:
    attention = context_of(3, implementation).attention
    attention.far, attention.near = nn.Identity(), nn.Identity()  # type: ignore[assignment]
    x = torch.randn(2, WIDTH, *size)
    torch.testing.assert_close(attention(x), x, rtol=0, atol=0)


@every_form
def test_padding_is_attended_to(implementation: str) -> None:
    """Zeros added by hand on the sides where the head adds them change nothing."""
    attention = context_of(4, implementation).attention
    x = torch.randn(1, WIDTH, 5, 6, dtype=torch.float64)
    by_hand = nn.functional.pad(x, (1, 1, 1, 2))
    torch.testing.assert_close(attention(x), attention(by_hand)[..., 1:6, 1:7])


def test_factor_is_positive() -> None:
    with pytest.raises(ValueError, match="down_factor must be positive, got 0"):
        InterlacedAttention(4, 2, 0, "fast")


def isa(s: Setting, padded: int, factor: int, width: int = 512, key: int = 256) -> Count:
    """`padded` counts the pixels in groups; `s.pixels` those outside of the attention.

    Not counted, as in every table: batch norm, ReLU, softmax, padding and regrouping.
    """
    total = layer(s.channels.layer4, width, s.pixels, kernel=3)
    for group in (padded // factor**2, factor**2):  # far groups, near groups
        for _ in ("query", "key"):
            total += layer(width, key, padded) + layer(key, key, padded)
        total += layer(width, width, padded, extra=0)  # value
        total += product(padded, group, key) + product(padded, group, width)
        total += layer(width, width, padded)  # output
    return total + layer(2 * width, width, s.pixels)


def test_published_counts() -> None:
    """Of the authors' layers, none of which has a bias: the paper prints none."""
    published = Count(11_804_672, 197_300_060_160)
    assert isa(PAPER, PAPER.pixels, 8) == published
    assert counted("isa", PAPER, (128, 128), implementation="reference") == published


@pytest.mark.parametrize("factor", [8, 5])
def test_counts_of_a_padded_map(factor: int) -> None:
    padded = {8: 40 * 32, 5: 35 * 30}[factor]
    small = small_setting(33, 29)
    options = {"width": 32, "down_factor": factor, "implementation": "reference"}
    assert counted("isa", small, (33, 29), **options) == isa(small, padded, factor, width=32)


def test_fast_form_multiplies_output_and_value_weights_instead_of_pixels() -> None:
    saved = 2 * 512 * 512 * (PAPER.pixels - 512)
    parameters, macs = isa(PAPER, PAPER.pixels, 8)
    assert counted("isa", PAPER, (128, 128)) == Count(parameters, macs - saved)


@pytest.mark.slow
def test_exported_context_takes_all_multiples_of_the_factor() -> None:
    context = context_of(4, "fast").float()
    rows, columns = (4 * torch.export.Dim(name, min=2) for name in ("rows", "columns"))
    dynamic = ({2: rows, 3: columns},)
    traced = (small_features(12, 16).layer4,)
    program = torch.export.export(context, traced, dynamic_shapes=dynamic).module()
    for size in [(8, 12), (96, 100)]:  # groups of 6 and of 600 pixels
        x = small_features(*size).layer4
        torch.testing.assert_close(program(x), context(x))
