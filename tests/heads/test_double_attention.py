"""Double attention against loops over pixels and regions, and its counts."""

import pytest
import torch
from torch import Tensor, nn

from heads.blocks import ReducedContext
from heads.double_attention import DoubleAttention
from tests.heads import loops
from tests.heads.counting import PAPER, Count, Setting, counted, layer, product, small_setting
from tests.heads.small import IMPLEMENTATIONS, WIDTH, small_features, small_head

every_form = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)


def small_context(implementation: str) -> ReducedContext:
    context = small_head("double_attention", implementation).context
    assert isinstance(context, ReducedContext)
    return context.double().eval()


def planes_of(x: loops.Map) -> list[loops.Vector]:
    """All pixels of every channel, row by row."""
    return [[value for row in plane for value in row] for plane in x]


def looped(image: loops.Map, context: ReducedContext) -> loops.Map:
    x = loops.conv_bn_relu(image, context.reduce)
    attention = context.attention
    channels = planes_of(loops.conv_bn_relu(x, attention.phi))
    scores_of_regions = planes_of(loops.convolve(x, attention.theta))
    gather = [loops.softmax(scores) for scores in scores_of_regions]  # over pixels
    regions = [[loops.dot(weights, channel) for channel in channels] for weights in gather]
    distributed = []
    for scores in loops.pixels_of(loops.convolve(x, attention.rho)):
        weights = loops.softmax(scores)  # over regions
        columns = zip(*regions, strict=True)
        distributed.append([loops.dot(weights, list(column)) for column in columns])
    z = loops.map_of(distributed, *loops.size_of(x))
    expanded = loops.conv_bn_relu(z, attention.psi)
    return loops.conv_bn_relu(expanded + x, context.fuse.fuse)  # lists of channels: concatenation


@every_form
def test_context_equals_loops(implementation: str) -> None:
    context = small_context(implementation)
    x = small_features(2, 3, dtype=torch.float64).layer4
    expected = [looped(image, context) for image in x.tolist()]
    torch.testing.assert_close(context(x), loops.stacked(expected))


def random_map(height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(2, WIDTH, height, width, generator=generator, dtype=torch.float64)


@every_form
def test_every_pixel_reaches_every_other(implementation: str) -> None:
    attention = small_context(implementation).attention
    x = random_map(4, 5)
    changed = x.clone()
    changed[..., 0, 0] += 5
    difference = (attention(x) - attention(changed)).abs().amax(dim=(0, 1))
    assert (difference > 0).all()


@every_form
def test_pixels_are_a_set(implementation: str) -> None:
    """Nothing depends on where a pixel is: a permuted map gives the permuted output."""
    attention = small_context(implementation).attention
    x = random_map(3, 4)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3))

    def permuted(t: Tensor) -> Tensor:
        return t.flatten(2)[..., order].view(t.shape)

    torch.testing.assert_close(attention(permuted(x)), permuted(attention(x)))


@every_form
def test_uniform_weights_give_the_mean_everywhere(implementation: str) -> None:
    """Zero scores: each region gathers the mean of phi, and every pixel gets that mean."""
    attention = small_context(implementation).attention
    assert isinstance(attention, DoubleAttention)
    for scores in (attention.theta, attention.rho):
        nn.init.zeros_(scores.weight)
        nn.init.zeros_(scores.bias)  # type: ignore[arg-type]
    x = random_map(3, 4)
    mean = attention.phi(x).mean(dim=(2, 3), keepdim=True)
    torch.testing.assert_close(attention(x), attention.psi(mean).expand_as(x))


def double_attention(s: Setting, width: int = 512, key: int = 256, regions: int = 64) -> Count:
    """Not counted, as in every table: batch norm, ReLU and both softmaxes."""
    total = layer(s.channels.layer4, width, s.pixels, kernel=3, extra=3)
    total += layer(width, key, s.pixels, extra=3)  # phi
    total += layer(width, regions, s.pixels, extra=1)  # theta
    total += layer(width, regions, s.pixels, extra=1)  # rho
    total += product(regions, s.pixels, key) + product(regions, s.pixels, key)
    total += layer(key, width, s.pixels, extra=3)  # psi
    return total + layer(2 * width, width, s.pixels, extra=3)


def test_published_counts() -> None:
    published = Count(10_294_656, 169_114_337_280)
    assert double_attention(PAPER) == published
    assert counted("double_attention", PAPER, (128, 128), implementation="reference") == published


@pytest.mark.parametrize("regions", [64, 7])
def test_small_counts(regions: int) -> None:
    small = small_setting(33, 29)
    options = {"width": 32, "regions": regions, "implementation": "reference"}
    expected = double_attention(small, width=32, regions=regions)
    assert counted("double_attention", small, (33, 29), **options) == expected


def test_fast_form_expands_regions_instead_of_pixels() -> None:
    """psi convolves 64 positions instead of all, and 512 channels are dealt out instead of 256."""
    saved = 256 * 512 * (PAPER.pixels - 64) - 64 * (512 - 256) * PAPER.pixels
    parameters, macs = double_attention(PAPER)
    assert counted("double_attention", PAPER, (128, 128)) == Count(parameters, macs - saved)
