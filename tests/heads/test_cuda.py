"""Both forms of every head on a CUDA device: `pytest -m gpu tests/heads/test_cuda.py`."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from contextbench.measure.counts import FeatureSize, feature_channels, meta_features
from contextbench.measure.memory import measure_peak_cuda, predict_inference
from heads import HEADS, build_head
from tests.heads.small import VARIANTS, scalar_loss, small_features, small_head, tensors

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
every_variant = pytest.mark.parametrize("variant", VARIANTS)
CUDA = torch.device("cuda")


def on_device(values: Any) -> Any:
    return tree_map_only(Tensor, lambda t: t.to(CUDA), values)


@every_variant
@pytest.mark.parametrize("size", [(17, 13), (1, 1)])
def test_both_forms_are_one_function(variant: str, size: tuple[int, int]) -> None:
    def trained_once(implementation: str) -> list[Tensor]:
        head = small_head(variant, implementation).double().to(CUDA)
        features = on_device(small_features(*size, dtype=torch.float64))
        output = head(features)
        gradients = torch.autograd.grad(scalar_loss(output), list(head.parameters()))
        return [*tensors(output), *gradients]

    torch.testing.assert_close(trained_once("fast"), trained_once("reference"))


@every_variant
@pytest.mark.parametrize("implementation", ["fast", "reference"])
def test_the_device_changes_nothing(variant: str, implementation: str) -> None:
    head, features = small_head(variant, implementation).double().eval(), small_features()
    features = tree_map_only(Tensor, lambda t: t.double(), features)
    expected = head(features).logits
    on_cuda = copy.deepcopy(head).to(CUDA)(on_device(features)).logits
    torch.testing.assert_close(on_cuda.cpu(), expected)


@every_variant
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_finite(variant: str, dtype: torch.dtype) -> None:
    head, features = small_head(variant, sharp=False).to(CUDA), on_device(small_features())
    with torch.autocast("cuda", dtype):
        output = head(features)
        loss = scalar_loss(output)
    gradients = torch.autograd.grad(loss, list(head.parameters()))
    assert all(tensor.isfinite().all() for tensor in [*tensors(output), *gradients])


@every_variant
def test_compiles_to_one_graph(variant: str) -> None:
    head, features = small_head(variant).double().eval().to(CUDA), small_features()
    features = on_device(tree_map_only(Tensor, lambda t: t.double(), features))
    torch.compiler.reset()
    compiled = torch.compile(copy.deepcopy(head), fullgraph=True)
    torch.testing.assert_close(tensors(compiled(features)), tensors(head(features)))


@pytest.mark.parametrize("name", HEADS)
def test_predicted_memory_of_reference_forms_is_within_a_tenth(name: str) -> None:
    """At 1 x 2048 x 64 x 64; the allocator's rounding and convolution workspaces are on top."""
    size = FeatureSize(2048, 64, 64)
    head = build_head(name, feature_channels(size), 19, implementation="reference").eval()
    features = tree_map_only(
        Tensor, lambda t: torch.randn(t.shape, device=CUDA), meta_features(size)
    )
    head = head.to(CUDA)
    with torch.inference_mode():
        inputs = head.context_inputs(features)
        head.context(*inputs)  # libraries take their workspace once
        before = torch.cuda.memory_allocated()
        measured = measure_peak_cuda(lambda: head.context(*inputs)).allocated_bytes - before
    predicted = predict_inference(head.context, *inputs).activation_peak_bytes
    assert measured == pytest.approx(predicted, rel=0.1)
