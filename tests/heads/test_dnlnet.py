"""The disentangled block against loops, and what whitening does and does not change."""

from typing import Any

import pytest
import torch

from heads import build_head
from heads.blocks import RefinedContext
from heads.dnlnet import WhitenedAttention
from tests.heads import loops
from tests.heads.counting import PAPER, counted, layer, small_setting
from tests.heads.small import CHANNELS, CLASSES, IMPLEMENTATIONS, small_features, small_head
from tests.heads.test_non_local import added, around, non_local, normalized

PUBLISHED = {"temperature": 0.05, "scaled": True}
every_form = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)


def whitened(pixels: list[loops.Vector]) -> list[loops.Vector]:
    means = [sum(channel) / len(pixels) for channel in zip(*pixels, strict=True)]
    return [[value - mean for value, mean in zip(pixel, means, strict=True)] for pixel in pixels]


def looped(image: loops.Map, context: RefinedContext, temperature: float) -> loops.Map:
    x, block = loops.conv_bn_relu(image, context.reduce), context.attention
    queries, keys, values, (mask,) = (
        loops.pixels_of(loops.convolve(x, block.theta)),
        loops.pixels_of(loops.convolve(x, block.phi)),
        loops.pixels_of(loops.convolve(x, block.g)),
        zip(*loops.pixels_of(loops.convolve(x, block.mask)), strict=True),
    )
    unary = loops.softmax(list(mask))
    gathered = []
    for query in whitened(queries):
        scores = [loops.dot(query, key) / temperature for key in whitened(keys)]
        weights = [w + u for w, u in zip(loops.softmax(scores), unary, strict=True)]
        columns = zip(*values, strict=True)
        gathered.append([loops.dot(weights, list(channel)) for channel in columns])
    mixed = loops.map_of(gathered, *loops.size_of(x))
    return around(image, context, added(x, normalized(mixed, *block.output)))


@every_form
@pytest.mark.parametrize("temperature", [1.0, 0.05])
def test_context_equals_loops(temperature: float, implementation: str) -> None:
    head = small_head("dnlnet", implementation).double().eval()
    head.context.attention.attend.scale = 1 / temperature
    x = small_features(2, 3, dtype=torch.float64).layer4
    expected = [looped(image, head.context, temperature) for image in x.tolist()]
    torch.testing.assert_close(head.context(x), loops.stacked(expected))


@every_form
def test_what_all_pixels_share_decides_nothing(implementation: str) -> None:
    attend = WhitenedAttention(implementation, temperature=0.5)
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 5, 3, 4, generator=generator).double() for _ in range(3))
    shift = torch.randn(2, 5, 1, 1, generator=generator).double()
    expected = attend(query, key, value)
    torch.testing.assert_close(attend(query + shift, key, value), expected)
    torch.testing.assert_close(attend(query, key + shift, value), expected)


@every_form
def test_large_features_are_finite_in_half_precision(implementation: str) -> None:
    head = small_head("dnlnet", implementation).eval()
    features = small_features()
    large = features._replace(layer4=features.layer4 * 1e3)
    with torch.autocast("cpu", torch.bfloat16):
        assert head(large).logits.isfinite().all()


@pytest.mark.parametrize(("options", "scale"), [({}, 1.0), (PUBLISHED, 20 / 256**0.5)])
def test_scores_are_divided_by_the_published_temperature(
    options: dict[str, Any], scale: float
) -> None:
    head = build_head("dnlnet", CHANNELS, CLASSES, **options)
    assert head.get_submodule("context.attention.attend").scale == pytest.approx(scale)


def test_a_temperature_is_positive() -> None:
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        build_head("dnlnet", CHANNELS, CLASSES, temperature=0)


@every_form
def test_counts(implementation: str) -> None:
    """Those of the non-local block, a map of unary scores, and one sum of the values by it."""
    small, options = small_setting(33, 29), {"width": 32, "key_channels": 9}
    expected = non_local(small, width=32, key=9) + layer(32, 1, small.pixels, extra=1)
    expected += (0, small.pixels * 9)
    found = counted("dnlnet", small, (33, 29), implementation=implementation, **options)
    assert found == expected
    whole = non_local(PAPER) + layer(512, 1, PAPER.pixels, extra=1) + (0, PAPER.pixels * 256)
    assert counted("dnlnet", PAPER, (128, 128), implementation="reference") == whole
