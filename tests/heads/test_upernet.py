"""The feature pyramid against loops, and its counts."""

from functools import partial

import pytest
import torch

from heads import build_head
from heads.upernet import FeaturePyramid
from tests.heads import loops
from tests.heads.counting import PAPER, Count, Setting, counted, layer, product, small_setting
from tests.heads.small import CHANNELS, CLASSES, IMPLEMENTATIONS, small_features, small_head
from tests.heads.test_non_local import added
from tests.heads.test_ppm import looped as pooled

every_form = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)


def looped(stages: list[loops.Map], context: FeaturePyramid) -> loops.Map:
    *earlier, deepest = stages
    above = pooled(deepest, context.top, maximum=False)
    resize = partial(loops.resize, align_corners=context.align_corners)
    maps = [above]
    for number in (2, 1, 0):
        own = loops.conv_bn_relu(earlier[number], context.laterals[number])
        above = added(own, resize(above, *loops.size_of(own)))
        maps.insert(0, loops.conv_bn_relu(above, context.pyramid[number]))
    size = loops.size_of(maps[0])
    stacked = [plane for each in maps for plane in resize(each, *size)]
    return loops.conv_bn_relu(stacked, context.fuse.fuse)


@every_form
@pytest.mark.parametrize("variant", ["upernet", "upernet-aligned"])
def test_context_equals_loops(variant: str, implementation: str) -> None:
    context = small_head(variant, implementation).double().eval().context
    assert isinstance(context, FeaturePyramid)
    features = small_features(2, 3, dtype=torch.float64)
    images = zip(*(stage.tolist() for stage in features), strict=True)
    expected = [looped(list(stages), context) for stages in images]
    torch.testing.assert_close(context(*features), loops.stacked(expected))


@every_form
def test_stages_may_have_four_sizes(implementation: str) -> None:
    """As at output stride 32, for which the method was made; odd sides are no multiples."""
    sizes = [(13, 11), (7, 6), (4, 3), (2, 2)]
    generator = torch.Generator().manual_seed(0)
    stages = [
        torch.randn(1, channels, *size, generator=generator).double()
        for channels, size in zip(CHANNELS, sizes, strict=True)
    ]
    context = small_head("upernet", implementation).double().eval().context
    expected = [looped([stage[0].tolist() for stage in stages], context)]
    torch.testing.assert_close(context(*stages), loops.stacked(expected))


def upernet(s: Setting, width: int = 512) -> Count:
    """Layer1 has four times the pixels of the other stages, as at output stride 8."""
    c, fine = s.channels, 4 * s.pixels
    total = layer(c.layer4 + 4 * width, width, s.pixels, kernel=3)
    for b in (1, 2, 3, 6):
        total += layer(c.layer4, width, b * b)
    for stage, pixels in ((c.layer1, fine), (c.layer2, s.pixels), (c.layer3, s.pixels)):
        total += layer(stage, width, pixels) + layer(width, width, pixels, kernel=3)
    return total + layer(4 * width, width, fine, kernel=3)


def test_counts() -> None:
    small, options = small_setting(33, 29), {"implementation": "reference"}
    assert counted("upernet", small, (33, 29), width=32, **options) == upernet(small, width=32)
    assert counted("upernet", PAPER, (128, 128), **options) == upernet(PAPER)


def test_the_fast_form_pools_as_that_of_the_pyramid_of_cells() -> None:
    """3x3 on the cells of all grids, spread over the map, instead of on four resized maps."""
    cells, pixels = 1 + 4 + 9 + 36, PAPER.pixels
    saved = product(4 * 512, 512, 9, pixels).macs
    instead = product(cells, 9, 512, 512).macs + product(cells, 9, 512, pixels).macs
    expected = upernet(PAPER) + Count(0, instead - saved)
    assert counted("upernet", PAPER, (128, 128)) == expected


@pytest.mark.parametrize("bins", [[], [0]])
def test_grids_have_cells(bins: list[int]) -> None:
    with pytest.raises(ValueError, match="bins must be one or more positive grid sizes"):
        build_head("upernet", CHANNELS, CLASSES, bins=bins)
