"""Expectation maximisation against loops; its running bases; what the fast form leaves out."""

import math

import pytest
import torch
from torch import Tensor

from heads import build_head
from heads.blocks import RefinedContext
from heads.emanet import BasesOfMap
from tests.heads import loops
from tests.heads.counting import PAPER, Count, Setting, counted, layer, product, small_setting
from tests.heads.small import CHANNELS, CLASSES, IMPLEMENTATIONS, small_features, small_head
from tests.heads.test_non_local import added, around, normalized

every_form = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
Columns = list[loops.Vector]  # a vector for each base


def unit(vector: loops.Vector) -> loops.Vector:
    length = math.sqrt(loops.dot(vector, vector))
    return [value / length for value in vector]


def staged(x: loops.Map, bases: BasesOfMap) -> tuple[Columns, list[loops.Vector]]:
    """The bases after the last stage, and the assignments of every pixel."""
    weight, offset = bases.projection.tolist(), bases.offset.tolist()
    pixels = [
        [loops.dot(row, pixel) + b for row, b in zip(weight, offset, strict=True)]
        for pixel in loops.pixels_of(x)
    ]
    mu: Columns = [list(column) for column in zip(*bases.running.tolist(), strict=True)]
    for _ in range(bases.stages):
        z = [loops.softmax([loops.dot(pixel, base) for base in mu]) for pixel in pixels]
        shares = [[value / sum(own) for value in own] for own in zip(*z, strict=True)]
        columns = [list(column) for column in zip(*pixels, strict=True)]
        mu = [unit([loops.dot(share, column) for column in columns]) for share in shares]
    return mu, z


def looped(image: loops.Map, context: RefinedContext) -> loops.Map:
    x, block = loops.conv_bn_relu(image, context.reduce), context.attention
    mu, z = staged(x, block.bases)
    rebuilt = [
        [max(loops.dot(own, list(channel)), 0.0) for channel in zip(*mu, strict=True)] for own in z
    ]
    mixed = normalized(loops.map_of(rebuilt, *loops.size_of(x)), block.output[1], block.output[2])
    summed = [[[max(v, 0.0) for v in row] for row in plane] for plane in added(x, mixed)]
    return around(image, context, summed)


def small_context(variant: str, implementation: str) -> RefinedContext:
    context = small_head(variant, implementation).double().context
    assert isinstance(context, RefinedContext)
    torch.nn.init.normal_(context.attention.bases.offset)  # which starts at zero, and hides then
    return context


@every_form
@pytest.mark.parametrize("variant", ["emanet", "emanet-concat"])
def test_context_equals_loops(variant: str, implementation: str) -> None:
    context = small_context(variant, implementation).eval()
    x = small_features(2, 3, dtype=torch.float64).layer4
    expected = [looped(image, context) for image in x.tolist()]
    torch.testing.assert_close(context(x), loops.stacked(expected))


@every_form
def test_running_bases_move_towards_the_mean_over_images_in_training_only(
    implementation: str,
) -> None:
    context = small_context("emanet", implementation)
    bases = context.attention.bases
    x = torch.randn(2, 9, 3, 4, dtype=torch.float64)
    before = bases.running.clone()
    bases.eval()(x)
    torch.testing.assert_close(bases.running, before, rtol=0, atol=0)
    found = [staged(image, bases)[0] for image in x.tolist()]
    mean = torch.tensor(found, dtype=torch.float64).mean(dim=0).T
    bases.train()(x)
    torch.testing.assert_close(bases.running, 0.9 * before + 0.1 * mean)


def test_they_are_averaged_by_what_trains_with_several_processes() -> None:
    """As if the other process had images whose bases are all zero."""
    alone, two = (small_context("emanet", "fast").attention.bases.train() for _ in range(2))
    two.load_state_dict(alone.state_dict())
    two.average = lambda own: own / 2
    x = torch.randn(2, 9, 3, 4, dtype=torch.float64)
    before = alone.running.clone()
    alone(x)
    two(x)
    torch.testing.assert_close(2 * (two.running - 0.9 * before), alone.running - 0.9 * before)


@every_form
def test_fewer_pixels_than_bases_and_large_features_are_finite(implementation: str) -> None:
    head = small_head("emanet", implementation).eval()
    features = small_features(1, 2)
    assert head(features).logits.isfinite().all()
    with torch.autocast("cpu", torch.bfloat16):
        assert head(features._replace(layer4=features.layer4 * 1e3)).logits.isfinite().all()


@pytest.mark.parametrize(("option", "value"), [("stages", 0), ("momentum", 1.5)])
def test_what_cannot_be_is_refused(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{option} must be .*, got {value}"):
        build_head("emanet", CHANNELS, CLASSES, **{option: value})


def around_stages(s: Setting, width: int, inner: int) -> Count:
    total = layer(s.channels.layer4, inner, s.pixels, kernel=3)
    return total + layer(inner, inner, s.pixels) + layer(inner, width, s.pixels, kernel=3)


def emanet(s: Setting, width: int = 256, inner: int = 512, bases: int = 64) -> Count:
    """P, three stages of two products each, and the map rebuilt; P is no parameter."""
    total = around_stages(s, width, inner) + product(inner, inner, s.pixels)
    return total + product(7, s.pixels, inner, bases)


def emanet_fast(s: Setting, width: int = 256, inner: int = 512, bases: int = 64) -> Count:
    """P on bases instead of pixels, twice a stage."""
    total = around_stages(s, width, inner) + product(7, s.pixels, inner, bases)
    return total + product(6, inner, inner, bases)


def test_counts() -> None:
    small, given = small_setting(33, 29), {"width": 32, "inner_channels": 9, "bases": 5}
    expected = emanet(small, width=32, inner=9, bases=5)
    assert counted("emanet", small, (33, 29), implementation="reference", **given) == expected
    assert counted("emanet", PAPER, (128, 128), implementation="reference") == emanet(PAPER)


def test_the_fast_form_saves_the_projection_of_all_pixels() -> None:
    """But for what the offset of P costs: a number a base, and a sum over pixels, in each stage."""
    offsets = 3 * (512 * 64 + 512 * 64 * PAPER.pixels)
    found, expected = counted("emanet", PAPER, (128, 128)), emanet_fast(PAPER)
    assert found.parameters == expected.parameters
    assert 0 <= found.macs - expected.macs <= offsets


def test_the_map_is_not_a_leaf_of_the_stages() -> None:
    """Nothing is learned through them, as in the authors' code."""
    bases = BasesOfMap(4, 3, 2, 0.9, "fast")
    x: Tensor = torch.randn(1, 4, 2, 2, requires_grad=True)
    assert not bases(x).requires_grad
