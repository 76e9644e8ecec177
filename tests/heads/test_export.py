"""Fast forms outside Python: exported and compiled programs compute what the head computes."""

import copy
import os
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from heads import HEADS
from heads.contract import exported, exports, same_logits
from tests.cases import quick
from tests.heads.small import (
    VARIANTS,
    scalar_loss,
    small_features,
    small_head,
    subject,
    tensors,
)

# Their exported programs refuse other sizes than the traced one: partitions of the map, and blocks
# of queries where keys are narrower than values, are loops that the tracer unrolls.
SIZE_IN_GRAPH = {
    "pyramid_oc",
    "pyramid_oc-equal-widths",
    "pyramid_oc-authors",
    "isa",
    "isa-pairs",
    "asp_oc",
    "asp_oc-equal-widths",
    "asp_oc-authors",
    "danet",
    "ocnet-two-transforms",
}

every_variant = pytest.mark.parametrize("variant", VARIANTS)
needs_compiler = pytest.mark.skipif(
    not any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++")),
    reason="needs a C++ compiler",
)


def any_size_from(smallest: int) -> tuple[tuple[dict[int, Any], ...]]:
    """Dynamic heights and widths of the stages; layer1 is twice as large as the others."""
    height, width = (torch.export.Dim(name, min=smallest) for name in ("height", "width"))
    return (({2: 2 * height, 3: 2 * width}, *[{2: height, 3: width}] * 3),)


@pytest.mark.parametrize("variant", quick(VARIANTS, ("ppm", "ocr", "emanet")))
def test_exported_head_gives_the_same_logits(variant: str) -> None:
    exports(subject(variant))


@pytest.mark.slow
def test_exported_pyramid_takes_any_map_larger_than_its_grids() -> None:
    """Resizing to the size that a map has is skipped, so a grid's own size is another graph."""
    head = small_head("ppm").eval()
    program = exported(head, small_features(), dynamic_shapes=any_size_from(7))
    same_logits(program, head, [(7, 8), (12, 18), (41, 9)])


@pytest.mark.slow
@pytest.mark.parametrize("variant", [v for v in VARIANTS if v not in SIZE_IN_GRAPH])
def test_exported_head_takes_any_map_larger_than_its_dilations(variant: str) -> None:
    """Up to the largest dilation, 36, each size has another set of convolution taps to leave out.

    40 x 50 pixels would be more blocks of queries than the traced map has.
    """
    head = small_head(variant).eval()
    program = exported(head, small_features(38, 37), dynamic_shapes=any_size_from(37))
    same_logits(program, head, [(37, 39), (40, 50)])


@pytest.mark.slow
def test_one_compiled_graph_serves_all_sizes_of_a_pyramid() -> None:
    head, graphs = small_head("ppm").eval(), []

    def keep(graph: fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    compiled = torch.compile(copy.deepcopy(head), backend=keep, fullgraph=True, dynamic=True)
    for size in [(17, 13), (7, 8), (12, 18), (41, 9)]:
        features = small_features(*size)
        torch.testing.assert_close(compiled(features).logits, head(features).logits)
    assert len(graphs) == 1


def outputs_and_gradients(head: nn.Module, size: tuple[int, int]) -> tuple[list[Tensor], ...]:
    features = small_features(*size, dtype=torch.float64)
    leaves = [features.layer3.requires_grad_(), features.layer4.requires_grad_()]
    output = head(features)
    gradients = torch.autograd.grad(scalar_loss(output), [*leaves, *head.parameters()])
    return tensors(output), list(gradients)


@pytest.mark.slow
@pytest.mark.timeout(600)
@needs_compiler
@pytest.mark.parametrize("variant", HEADS)
def test_generated_code_computes_the_same(variant: str) -> None:
    """In float64: batch norm over two values amplifies float32 rounding, which code changes."""
    head = small_head(variant).double()
    # Cells of several sizes are several pieces of code each: minutes to compile.
    size = (12, 18) if variant == "pyramid_oc" else (17, 13)
    torch.compiler.reset()
    compiled = torch.compile(copy.deepcopy(head), fullgraph=True)
    torch.testing.assert_close(
        outputs_and_gradients(compiled, size), outputs_and_gradients(head, size)
    )
