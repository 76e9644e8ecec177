"""Criss-cross attention against loops over the row and the column of every pixel."""

import pytest
import torch
from torch import Tensor, nn

from heads.ccnet import CCNetHead, RecurrentCrissCross
from heads.interface import Implementation
from tests.heads import loops
from tests.heads.counting import PAPER, Count, Setting, counted, layer, product, small_setting
from tests.heads.small import CHANNELS, CLASSES, IMPLEMENTATIONS, small_features, small_head

every_form = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)


def crossed(x: loops.Map, attention: RecurrentCrissCross) -> loops.Map:
    """One round. The pixels of a cross are a set: that in the middle is there once."""
    height, width = loops.size_of(x)
    layers = (attention.query, attention.key, attention.value)
    queries, keys, values = (loops.pixels_of(loops.convolve(x, part)) for part in layers)
    gate, gathered = attention.gate.item(), []
    for u, own in enumerate(loops.pixels_of(x)):
        y, x_ = divmod(u, width)
        cross = sorted(
            {y * width + z for z in range(width)} | {z * width + x_ for z in range(height)}
        )
        weights = loops.softmax([loops.dot(queries[u], keys[i]) for i in cross])
        for_each_channel = zip(*(values[i] for i in cross), strict=True)
        context = [loops.dot(weights, list(column)) for column in for_each_channel]
        gathered.append([gate * c + a for c, a in zip(context, own, strict=True)])
    return loops.map_of(gathered, height, width)


def looped(image: loops.Map, head: CCNetHead, slope: float) -> loops.Map:
    context = head.context
    x = loops.conv_bn_relu(image, context.reduce, slope)
    for _ in range(context.attention.recurrence):
        x = crossed(x, context.attention)
    refined = loops.conv_bn_relu(x, context.refine, slope)
    beside = image + refined  # lists of channels: concatenation
    return loops.conv_bn_relu(beside, context.fuse.fuse, slope)


@every_form
@pytest.mark.parametrize("variant", ["ccnet", "ccnet-one-round", "ccnet-authors"])
def test_context_equals_loops(variant: str, implementation: str) -> None:
    head = small_head(variant, implementation).double().eval()
    assert isinstance(head, CCNetHead)
    x = small_features(2, 3, dtype=torch.float64).layer4
    slope = 0.01 if variant == "ccnet-authors" else 0.0
    expected = [looped(image, head, slope) for image in x.tolist()]
    torch.testing.assert_close(head.context(x), loops.stacked(expected))


def ccnet(s: Setting, width: int = 512, key: int = 64, rounds: int = 2, side: int = 256) -> Count:
    """`side` is h + w: every pixel's own score with its column is computed, then masked.

    Softmax, gates and sums are not counted.
    """
    c = s.channels.layer4
    total = layer(c, width, s.pixels, kernel=3) + layer(width, width, s.pixels, kernel=3)
    total += layer(c + width, width, s.pixels, kernel=3)
    projections = layer(width, 2 * key + width, s.pixels, extra=1)
    total += Count(projections.parameters + 1, rounds * projections.macs)  # shared, and the gate
    for _ in range(rounds):
        total += product(s.pixels, side, key) + product(s.pixels, side, width)
    return total


@every_form
@pytest.mark.parametrize("release", ["paper", "authors"])
def test_published_setting(release: str, implementation: str) -> None:
    published = Count(23_924_353, 402_116_313_088)
    assert ccnet(PAPER) == published
    options = {"release": release, "implementation": implementation}
    assert counted("ccnet", PAPER, (128, 128), **options) == published


@pytest.mark.parametrize("rounds", [1, 2, 3])
@every_form
def test_small_setting(rounds: int, implementation: str) -> None:
    small = small_setting(33, 29)
    options = {"width": 32, "key_channels": 5, "recurrence": rounds}
    expected = ccnet(small, width=32, key=5, rounds=rounds, side=33 + 29)
    assert counted("ccnet", small, (33, 29), implementation=implementation, **options) == expected


def attention_with_equal_scores(implementation: Implementation) -> RecurrentCrissCross:
    """Queries of 0, values that are the input, gate 1: y = x + mean over the cross."""
    attention = RecurrentCrissCross(4, 2, 1, implementation).double()
    for name, parameter in attention.named_parameters():
        nn.init.constant_(parameter, 1.0 if name == "gate" else 0.0)
    nn.init.dirac_(attention.value.weight)
    return attention


@every_form
def test_the_own_pixel_counts_once(implementation: Implementation) -> None:
    attention = attention_with_equal_scores(implementation)
    x = small_features(5, 3, dtype=torch.float64).layer4[:, :4]
    column, row = x.sum(dim=2, keepdim=True), x.sum(dim=3, keepdim=True)
    expected = x + (column + row - x) / (5 + 3 - 1)
    torch.testing.assert_close(attention(x), expected)


def moved_by_a_corner(rounds: int, implementation: Implementation) -> Tensor:
    """Where the output of the attention differs, (h, w), when one corner of its input does."""
    torch.manual_seed(0)
    attention = RecurrentCrissCross(4, 3, rounds, implementation)
    nn.init.constant_(attention.gate, 1.0)
    x = small_features(5, 4).layer4[:1, :4]
    changed = x.clone()
    changed[..., 0, 0] += 1
    return (attention(changed) - attention(x)).abs().amax(dim=(0, 1)) > 1e-6


@every_form
def test_one_round_reaches_the_cross_and_two_reach_everything(
    implementation: Implementation,
) -> None:
    cross = torch.zeros(5, 4, dtype=torch.bool)
    cross[0, :] = cross[:, 0] = True
    assert torch.equal(moved_by_a_corner(1, implementation), cross)
    assert moved_by_a_corner(2, implementation).all()


@every_form
def test_attention_starts_as_identity(implementation: Implementation) -> None:
    x = small_features().layer4
    attention = RecurrentCrissCross(CHANNELS.layer4, 3, 2, implementation)
    torch.testing.assert_close(attention(x), x, rtol=0, atol=0)


def test_no_round_is_refused() -> None:
    with pytest.raises(ValueError, match="recurrence must be at least 1, got 0"):
        CCNetHead(CHANNELS, CLASSES, recurrence=0)
