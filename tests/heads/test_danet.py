"""Dual attention against loops over pairs of pixels and pairs of channels."""

from typing import Any

import pytest
import torch
from torch import nn

from heads import build_head
from heads.danet import ChannelAttention, DANetHead, PositionAttention
from heads.interface import Implementation
from tests.heads import loops
from tests.heads.counting import PAPER, Count, Setting, counted, layer, product, small_setting
from tests.heads.small import CHANNELS, CLASSES, IMPLEMENTATIONS, small_features, small_head

every_form = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)


def weighted(weights: loops.Vector, vectors: list[loops.Vector]) -> loops.Vector:
    return [loops.dot(weights, list(values)) for values in zip(*vectors, strict=True)]


def gated(gate: float, gathered: list[loops.Vector], own: list[loops.Vector]) -> list[loops.Vector]:
    return [
        [gate * c + a for c, a in zip(context, vector, strict=True)]
        for context, vector in zip(gathered, own, strict=True)
    ]


def between_pixels(x: loops.Map, attention: PositionAttention) -> loops.Map:
    layers = (attention.query, attention.key, attention.value)
    queries, keys, values = (loops.pixels_of(loops.convolve(x, part)) for part in layers)
    gathered = [
        weighted(loops.softmax([loops.dot(query, key) for key in keys]), values)
        for query in queries
    ]
    pixels = gated(attention.gate.item(), gathered, loops.pixels_of(x))
    return loops.map_of(pixels, *loops.size_of(x))


def between_channels(x: loops.Map, attention: ChannelAttention) -> loops.Map:
    height, width = loops.size_of(x)
    channels = [[value for row in plane for value in row] for plane in x]
    gathered = []
    for channel in channels:
        energies = [loops.dot(channel, other) for other in channels]
        weights = loops.softmax([max(energies) - energy for energy in energies])
        gathered.append(weighted(weights, channels))
    planes = gated(attention.gate.item(), gathered, channels)
    return [[plane[y * width : (y + 1) * width] for y in range(height)] for plane in planes]


def looped(image: loops.Map, head: DANetHead) -> loops.Map:
    attended = []
    for branch in head.context.branches.values():
        x = loops.conv_bn_relu(image, branch.reduce)
        if isinstance(branch.attention, PositionAttention):
            x = between_pixels(x, branch.attention)
        else:
            x = between_channels(x, branch.attention)
        attended.append(loops.pixels_of(loops.conv_bn_relu(x, branch.refine)))
    pixels = [
        [sum(values) for values in zip(*vectors, strict=True)]
        for vectors in zip(*attended, strict=True)
    ]
    return loops.map_of(pixels, *loops.size_of(image))


@every_form
@pytest.mark.parametrize("variant", ["danet", "danet-position", "danet-channel"])
def test_context_equals_loops(variant: str, implementation: str) -> None:
    head = small_head(variant, implementation).double().eval()
    assert isinstance(head, DANetHead)
    x = small_features(2, 3, dtype=torch.float64).layer4
    expected = [looped(image, head) for image in x.tolist()]
    torch.testing.assert_close(head.context(x), loops.stacked(expected))


def danet(
    s: Setting, width: int = 512, key: int = 64, *, position: bool = True, channel: bool = True
) -> Count:
    """Softmax, gates and sums are not counted."""
    around = layer(s.channels.layer4, width, s.pixels, kernel=3)
    around += layer(width, width, s.pixels, kernel=3)
    total = Count(0, 0)
    if position:
        total += around + layer(width, 2 * key + width, s.pixels, extra=1) + Count(1, 0)
        total += product(s.pixels, s.pixels, key) + product(s.pixels, s.pixels, width)
    if channel:
        total += around + Count(1, 0)
        total += product(width, width, s.pixels) + product(width, width, s.pixels)
    return total


def test_published_setting() -> None:
    published = Count(23_925_378, 555_124_523_008)
    assert danet(PAPER) == published
    assert counted("danet", PAPER, (128, 128), implementation="reference") == published


BRANCHES: list[dict[str, Any]] = [{}, {"channel": False}, {"position": False}]


@pytest.mark.parametrize("branches", BRANCHES)
@every_form
def test_small_setting(branches: dict[str, Any], implementation: str) -> None:
    small = small_setting(33, 29)
    options = {"width": 32, "key_channels": 5, **branches}
    expected = danet(small, width=32, key=5, **branches)
    assert counted("danet", small, (33, 29), implementation=implementation, **options) == expected


@pytest.mark.parametrize("branches", BRANCHES)
def test_branches_are_supervised_where_there_are_two(branches: dict[str, Any]) -> None:
    weights = {"aux": 0.4} if branches else {"aux": 0.4, "position": 1.0, "channel": 1.0}
    head = build_head("danet", CHANNELS, CLASSES, **branches)
    assert head.loss_weights == weights
    parameters = sum(p.numel() for p in head.get_submodule("branch_classifiers").parameters())
    assert parameters == (len(weights) - 1) * (512 + 1) * CLASSES


def test_each_term_supervises_its_branch_alone() -> None:
    head, features = small_head("danet"), small_features()
    terms = head(features).pixel_aux
    branches = head.get_submodule("context.branches")
    for own, other in [("position", "channel"), ("channel", "position")]:
        reached = list(branches.get_submodule(own).parameters())
        not_reached = list(branches.get_submodule(other).parameters())
        gradients = torch.autograd.grad(
            terms[own].square().sum(), reached + not_reached, allow_unused=True, retain_graph=True
        )
        assert all(gradient is not None for gradient in gradients[: len(reached)])
        assert all(gradient is None for gradient in gradients[len(reached) :])


def test_no_branch_is_refused() -> None:
    with pytest.raises(ValueError, match="one of position and channel must be true"):
        build_head("danet", CHANNELS, CLASSES, position=False, channel=False)


@every_form
def test_attention_starts_as_identity(implementation: Implementation) -> None:
    x = small_features().layer4
    for attention in (
        PositionAttention(CHANNELS.layer4, 3, implementation),
        ChannelAttention(implementation),
    ):
        torch.testing.assert_close(attention(x), x, rtol=0, atol=0)


@every_form
def test_equal_scores_gather_the_mean_of_all_pixels(implementation: Implementation) -> None:
    """Queries of 0 score every pixel alike; values are the input."""
    attention = PositionAttention(12, 3, implementation).double()
    for parameter in (*attention.query.parameters(), attention.value.bias):
        nn.init.zeros_(parameter)
    nn.init.dirac_(attention.value.weight)
    nn.init.ones_(attention.gate)
    x = small_features(5, 3, dtype=torch.float64).layer4
    expected = x + x.mean(dim=(2, 3), keepdim=True)
    torch.testing.assert_close(attention(x), expected)


@every_form
def test_channels_prefer_those_unlike_themselves(implementation: Implementation) -> None:
    """Of channels a, a and b with a.a = 40 and a.b = b.b = 0, each takes b or shares evenly."""
    attention = ChannelAttention(implementation).double()
    nn.init.ones_(attention.gate)
    a, b = [[2.0, 6.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]
    x = torch.tensor([[a, a, b]], dtype=torch.float64)
    mean = (x[:, 0] + x[:, 1] + x[:, 2]) / 3
    expected = torch.stack([x[:, 0] + x[:, 2], x[:, 1] + x[:, 2], x[:, 2] + mean], dim=1)
    torch.testing.assert_close(attention(x), expected)  # exp(-40) is below the tolerance


@every_form
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_channel_energies_keep_full_precision(
    dtype: torch.dtype, implementation: Implementation
) -> None:
    """Energies near 83 000: bfloat16 would round them to multiples of 512, float16 overflows."""
    attention = ChannelAttention(implementation)
    nn.init.ones_(attention.gate)
    signs = torch.randint(0, 2, (1, 6, 32, 32), generator=torch.Generator().manual_seed(0))
    x = 8.0 + 2 * signs  # 8 and 10 are numbers of both types
    with torch.autocast("cpu", dtype):
        low = attention(x.to(dtype))
    # One rounding of the gathered channel, one of the sum.
    torch.testing.assert_close(low.float(), attention(x), rtol=2 * torch.finfo(dtype).eps, atol=0)
