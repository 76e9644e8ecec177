"""Base object context against loops over pairs of pixels."""

import math

import pytest
import torch

from heads.ocnet import ObjectContext, OCNetHead
from tests.heads import loops
from tests.heads.small import IMPLEMENTATIONS, small_features, small_head


def looped(image: loops.Map, context: ObjectContext, slope: float) -> loops.Map:
    x = loops.conv_bn_relu(image, context.reduce, slope)
    attention = context.attention
    query_block = attention.key if attention.query is None else attention.query
    queries = loops.pixels_of(loops.conv_bn_relu(x, query_block, slope))
    keys = loops.pixels_of(loops.conv_bn_relu(x, attention.key, slope))
    values = loops.pixels_of(loops.convolve(x, attention.value))
    gathered = []
    for query in queries:
        weights = loops.softmax([loops.dot(query, key) / math.sqrt(len(key)) for key in keys])
        columns = list(zip(*values, strict=True))
        gathered.append([loops.dot(weights, list(column)) for column in columns])
    gathered_map = loops.map_of(gathered, *loops.size_of(x))
    return loops.conv_bn_relu(
        loops.convolve(gathered_map, attention.output) + x,  # lists of channels: concatenation
        context.fuse,
        slope,
    )


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("variant", ["ocnet", "ocnet-two-transforms", "ocnet-authors"])
def test_context_equals_loops(variant: str, implementation: str) -> None:
    head = small_head(variant, implementation).double().eval()
    assert isinstance(head, OCNetHead)
    x = small_features(2, 3, dtype=torch.float64).layer4
    slope = 0.01 if variant == "ocnet-authors" else 0.0
    expected = [looped(image, head.context, slope) for image in x.tolist()]
    torch.testing.assert_close(head.context(x), loops.stacked(expected))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_shared_transform_runs_once_a_step(implementation: str) -> None:
    """Run twice, its batch norm would move the running statistics twice."""
    head = small_head("ocnet", implementation)
    head(small_features())
    assert head.get_submodule("context.attention.key.1").num_batches_tracked == 1


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_context_reaches_every_pixel(implementation: str) -> None:
    """A change in one corner moves the opposite one, far beyond the 3x3 reduction."""
    head, features = small_head("ocnet", implementation).eval(), small_features(9, 9)
    changed = features.layer4.clone()
    changed[..., 0, 0] += 5
    difference = head.get_submodule("context")(features.layer4) - head.context(changed)
    assert difference[..., -1, -1].abs().max() > 1e-4
