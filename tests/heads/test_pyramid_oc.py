"""Pyramid object context against loops over the pixels of each cell, and its counts."""

import math

import pytest
import torch
from torch import Tensor, nn

from heads import build_head
from heads.interface import Implementation
from heads.pyramid_oc import (
    CellAttention,
    CellContext,
    ObjectContextPyramid,
    PyramidOCHead,
    cell_lengths,
)
from tests.heads import loops
from tests.heads.counting import PAPER, Count, Setting, counted, layer, product, small_setting
from tests.heads.small import CHANNELS, CLASSES, IMPLEMENTATIONS, small_features, small_head

every_form = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
BINS = (1, 2, 3, 6)


def cell_of(position: int, size: int, bins: int) -> int:
    """Cells of floor(size / bins) pixels, the last one with the rest; of one pixel at least."""
    bins = min(bins, size)
    return min(position // (size // bins), bins - 1)


def cells_of_pixels(height: int, width: int, bins: int) -> list[tuple[int, int]]:
    return [
        (cell_of(y, height, bins), cell_of(x, width, bins))
        for y in range(height)
        for x in range(width)
    ]


def looped_level(x: loops.Map, level: CellContext, bins: int, slope: float) -> loops.Map:
    keys = loops.pixels_of(loops.conv_bn_relu(x, level.key, slope))
    values = loops.pixels_of(loops.convolve(x, level.value))
    cells = cells_of_pixels(*loops.size_of(x), bins)
    gathered = []
    for query, own in zip(keys, cells, strict=True):
        inside = [j for j, cell in enumerate(cells) if cell == own]
        weights = loops.softmax([loops.dot(query, keys[j]) / math.sqrt(len(query)) for j in inside])
        columns = zip(*(values[j] for j in inside), strict=True)
        gathered.append([loops.dot(weights, list(column)) for column in columns])
    return loops.convolve(loops.map_of(gathered, *loops.size_of(x)), level.output)


def looped(image: loops.Map, context: ObjectContextPyramid, authors: bool) -> loops.Map:
    """In the authors' release negative values stay behind W, and 1 % of them elsewhere."""
    first, slope = (1.0, 0.01) if authors else (0.0, 0.0)
    x = loops.conv_bn_relu(image, context.reduce, first)
    parts = loops.conv_bn_relu(x, context.widen, slope)
    for level, bins in zip(context.levels, BINS, strict=True):
        assert isinstance(level, CellContext)
        parts = parts + looped_level(x, level, bins, slope)  # lists of channels: concatenation
    return loops.conv_bn_relu(parts, context.fuse, slope)


@every_form
@pytest.mark.parametrize("variant", ["pyramid_oc", "pyramid_oc-authors"])
@pytest.mark.parametrize("size", [(2, 3), (4, 7)])
def test_context_equals_loops(implementation: str, variant: str, size: tuple[int, int]) -> None:
    """2x3 has cells of one pixel at every level but the first; 4x7 has cells of six sizes."""
    head = small_head(variant, implementation).double().eval()
    assert isinstance(head, PyramidOCHead)
    x = small_features(*size, dtype=torch.float64).layer4
    authors = variant == "pyramid_oc-authors"
    expected = [looped(image, head.context, authors) for image in x.tolist()]
    torch.testing.assert_close(head.context(x), loops.stacked(expected))


@pytest.mark.parametrize("size", range(1, 20))
@pytest.mark.parametrize("bins", BINS)
def test_cells_cover_a_side_and_the_last_takes_the_rest(size: int, bins: int) -> None:
    lengths = cell_lengths(size, bins)
    assert sum(lengths) == size
    assert len(lengths) == min(bins, size)
    assert set(lengths[:-1]) <= {max(1, size // bins)}
    assert lengths[-1] >= max(1, size // bins)


@every_form
@pytest.mark.parametrize("widths", [(3, 3), (3, 5)])  # fused kernels ask for equal widths
@pytest.mark.parametrize("size", [(12, 18), (13, 17), (4, 5)])
def test_attention_never_leaves_a_cell(
    implementation: Implementation, widths: tuple[int, int], size: tuple[int, int]
) -> None:
    """One cell at a time through dense attention; the sizes divide by six, do not, are smaller."""
    torch.manual_seed(0)
    key_width, value_width = widths
    query, key, value = (torch.randn(2, c, *size) for c in (key_width, key_width, value_width))
    gathered = CellAttention(6, implementation)(query, key, value)
    cells = cells_of_pixels(*size, 6)
    for own in set(cells):
        inside = torch.tensor([cell == own for cell in cells])
        q, k, v = (t.flatten(2)[..., inside] for t in (query, key, value))
        weights = (q.transpose(1, 2) @ k / math.sqrt(key_width)).softmax(dim=-1)
        expected = v @ weights.transpose(1, 2)
        torch.testing.assert_close(gathered.flatten(2)[..., inside], expected)


@every_form
def test_single_pixels_attend_to_themselves(implementation: Implementation) -> None:
    """With cells of one pixel every weight is 1, whatever query and key are."""
    query, key, value = (torch.randn(2, channels, 3, 4) for channels in (5, 5, 2))
    torch.testing.assert_close(CellAttention(6, implementation)(query, key, value), value)


def sensitivity(head: nn.Module, x: Tensor) -> Tensor:
    """How much every output pixel moves with the pixel in the first corner: (h, w)."""
    changed = x.clone()
    changed[..., 0, 0] += 5
    return (
        (head.get_submodule("context")(x) - head.get_submodule("context")(changed))
        .abs()
        .amax(dim=(0, 1))
    )


@every_form
@pytest.mark.parametrize(("bins", "reach"), [((1,), 12), ((2,), 6), ((3,), 4), ((6,), 2)])
def test_a_level_reaches_as_far_as_its_cells(
    implementation: str, bins: tuple[int, ...], reach: int
) -> None:
    """On a 12x12 map. The 3x3 reduction spreads the corner over 2x2 pixels, all in one cell."""
    torch.manual_seed(0)
    head = build_head(
        "pyramid_oc", CHANNELS, CLASSES, width=8, bins=bins, implementation=implementation
    ).eval()
    moved = sensitivity(head, small_features(12, 12).layer4)
    assert moved[:reach, :reach].min() > 0
    assert moved[reach:].sum() == moved[:, reach:].sum() == 0


@every_form
def test_key_and_query_are_evaluated_once_a_step(implementation: str) -> None:
    """Run twice, their batch norm would move the running statistics twice."""
    head = small_head("pyramid_oc", implementation)
    head(small_features())
    for level in range(4):
        norm = head.get_submodule(f"context.levels.{level}.key.1")
        assert norm.num_batches_tracked == 1


@pytest.mark.parametrize("bins", [(), (2, 0)])
def test_bins_are_one_or_more_positive(bins: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="bins must be one or more positive"):
        build_head("pyramid_oc", CHANNELS, CLASSES, bins=bins)


def closed_form(
    s: Setting, size: tuple[int, int], width: int = 512, key: int = 256, value: int = 512
) -> Count:
    total = layer(s.channels.layer4, width, s.pixels, kernel=3, extra=3)
    for bins in BINS:
        total += layer(width, key, s.pixels, extra=3)  # key and query
        total += layer(width, value, s.pixels, extra=1)
        total += layer(value, width, s.pixels, extra=1)  # output
        # Pairs inside the cells: the sum of (a b)^2 over cells a x b.
        down, across = (sum(length**2 for length in cell_lengths(n, bins)) for n in size)
        total += product(down, across, key) + product(down, across, value)
    total += layer(width, 4 * width, s.pixels, extra=3)
    return total + layer(8 * width, width, s.pixels, extra=3)


# The count that is given for this head evaluates the four shared transforms twice.
PUBLISHED = Count(15_220_736, 544_065_555_456)
SECOND_EVALUATION = 4 * 128 * 128 * 512 * 256


@every_form
@pytest.mark.parametrize("release", ["paper", "authors"])
def test_counts_at_the_papers_setting(release: str, implementation: str) -> None:
    """FlopCounter sees all but softmax, batch norm and activations, where the releases differ."""
    expected = Count(PUBLISHED.parameters, PUBLISHED.macs - SECOND_EVALUATION)
    assert closed_form(PAPER, (128, 128)) == expected
    options = {"release": release, "implementation": implementation}
    assert counted("pyramid_oc", PAPER, (128, 128), **options) == expected


@every_form
def test_counts_at_a_small_setting(implementation: str) -> None:
    """Both forms multiply the same numbers."""
    small = small_setting(33, 29)
    options = {"width": 32, "key_channels": 24, "value_channels": 40}
    expected = closed_form(small, (33, 29), 32, 24, 40)
    assert (
        counted("pyramid_oc", small, (33, 29), implementation=implementation, **options) == expected
    )
