import os
import signal
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contextbench.measure.memory import (
    MemoryPrediction,
    measure_peak_cpu,
    measure_peak_cuda,
    predict_inference,
    predict_training_step,
)
from contextbench.models.backbone import build_backbone
from contextbench.models.precision import Precision
from contextbench.models.segmenter import Segmenter
from contextbench.training.losses import loss_terms, weighted_sum
from heads import build_head
from heads.interface import Channels, HeadOutput
from tests.cases import quick
from tests.measure.allocation import allocated_peak

FLOAT = 4  # bytes
BFLOAT16 = Precision("bfloat16")
MEBIBYTE = 2**20


class Apply(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def total(output: Tensor, target: Tensor) -> Tensor:  # noqa: ARG001
    """The loss whose gradient needs no memory of its own but one number."""
    return output.sum()


def predict_step(
    module: nn.Module,
    loss: Callable[..., Tensor],
    inputs: tuple[Tensor, ...],
    target: Tensor,
    **options: Any,
) -> MemoryPrediction:
    """Of a plain step on one batch."""

    def step(model: nn.Module, batch: tuple[tuple[Tensor, ...], Tensor]) -> None:
        model.zero_grad(set_to_none=True)
        output = model(*batch[0])
        loss(output, batch[1]).backward()

    return predict_training_step(module, step, (inputs, target), **options)


def test_one_convolution_holds_weights_input_and_output() -> None:
    convolution = nn.Conv2d(3, 8, 3, padding=1)
    prediction = predict_inference(convolution, empty(2, 3, 16, 16))
    weights, images, output = 8 * 3 * 9 + 8, 2 * 3 * 256, 2 * 8 * 256
    assert prediction == MemoryPrediction(
        peak_bytes=FLOAT * (weights + images + output),
        weights_bytes=FLOAT * weights,
        input_bytes=FLOAT * images,
        activation_peak_bytes=FLOAT * output,
    )


def test_a_chain_frees_what_it_has_passed() -> None:
    # Widths 8, 16, 4: while the second runs, its input and output live; the third frees the first.
    widths = [1, 8, 16, 4]
    chain = nn.Sequential(*(nn.Conv2d(a, b, 1) for a, b in pairwise(widths)))
    prediction = predict_inference(chain, empty(1, 1, 10, 10))
    assert prediction.activation_peak_bytes == FLOAT * 100 * (8 + 16)


def test_buffers_are_weights_and_a_shared_weight_is_held_once() -> None:
    layer = nn.Linear(4, 4, bias=False)
    norm = nn.BatchNorm1d(4)  # weight, bias, mean, variance; an int64 counter
    prediction = predict_inference(nn.Sequential(layer, layer, norm), empty(2, 4))
    assert prediction.weights_bytes == FLOAT * (16 + 4 * 4) + 8


def test_views_and_operators_in_place_need_nothing() -> None:
    def in_place(x: Tensor) -> Tensor:
        return x.relu_().flatten(1).transpose(0, 1)[1:].mul_(2)

    prediction = predict_inference(Apply(in_place), empty(2, 3, 4, 4))
    assert prediction.activation_peak_bytes == 0


def test_softmax_attention_holds_two_maps_and_fused_attention_none() -> None:
    pixels, width = 64, 16

    def attention(x: Tensor) -> Tensor:
        return (x @ x.transpose(1, 2)).softmax(-1) @ x

    x = empty(1, pixels, width)
    explicit = predict_inference(Apply(attention), x)
    assert explicit.activation_peak_bytes == FLOAT * 2 * pixels**2
    fused = predict_inference(Apply(F.scaled_dot_product_attention), *(empty(1, 1, 64, 16),) * 3)
    # The output and, per query, the logarithm of the softmax's denominator.
    assert fused.activation_peak_bytes == FLOAT * (pixels * width + pixels)


def test_autocast_halves_activations_and_casts_inputs_and_one_weight_at_a_time() -> None:
    """Inference mode keeps no casts of weights: of a chain the copy of one of them lives."""
    widths, pixels = [3, 8, 8, 8], 256
    chain = nn.Sequential(*(nn.Conv2d(a, b, 1, bias=False) for a, b in pairwise(widths)))
    prediction = predict_inference(chain, empty(1, 3, 16, 16), precision=BFLOAT16)
    assert prediction.weights_bytes == FLOAT * (3 * 8 + 2 * 8 * 8)
    assert prediction.activation_peak_bytes == 2 * (8 * 8 + 2 * 8 * pixels)


def test_inference_in_bfloat16_is_what_the_cpu_allocates() -> None:
    """Plain elementwise work between products, which the library does without scratch."""

    def product(x: Tensor, weight: Tensor) -> Tensor:
        return torch.cat([x @ weight, x @ weight], dim=1)

    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = nn.ParameterList(torch.randn(64, 32) for _ in range(6))

        def forward(self, x: Tensor) -> Tensor:
            for weight in self.weights:
                x = product(x, weight)
            return x

    model, x = Chain(), torch.randn(128, 64)

    def forward() -> None:
        with torch.inference_mode(), BFLOAT16.autocast(torch.device("cpu")):
            model(x)

    forward()
    predicted = predict_inference(model, x, precision=BFLOAT16)
    # Copies of all weights would be 24 KiB more.
    assert predicted.activation_peak_bytes == pytest.approx(allocated_peak(forward), abs=4096)


def test_a_training_step_of_a_linear_layer() -> None:
    inputs, outputs, batch = 16, 24, 64
    layer = nn.Linear(inputs, outputs, bias=False)
    prediction = predict_step(layer, total, (empty(batch, inputs),), empty(batch))
    weights = FLOAT * inputs * outputs
    assert prediction.weights_bytes == prediction.gradient_bytes == weights
    assert prediction.optimizer_bytes == weights  # momentum
    assert prediction.input_bytes == FLOAT * (batch * inputs + batch)  # and the target
    # The output, the loss, its gradient (of which the output's is a view), the weight's gradient.
    assert prediction.activation_peak_bytes == FLOAT * (batch * outputs + 1 + 1) + weights
    assert prediction.peak_bytes == (
        prediction.weights_bytes
        + prediction.optimizer_bytes
        + prediction.input_bytes
        + prediction.activation_peak_bytes
    )


def test_gradients_of_the_step_before_are_gone_before_the_forward_pass() -> None:
    """A large temporary of the loss comes before backward, where no gradients live."""
    layer = nn.Linear(16, 24, bias=False)

    def loss(output: Tensor, target: Tensor) -> Tensor:  # noqa: ARG001
        return output.detach().repeat(100, 1).sum() + output.sum()

    prediction = predict_step(layer, loss, (empty(8, 16),), empty(8))
    # The output, its repetition and the sum of that.
    assert prediction.activation_peak_bytes == 101 * FLOAT * 8 * 24 + FLOAT


def test_gradients_of_other_parts_live_during_each_part() -> None:
    layer, parts = nn.Linear(16, 24, bias=False), 3

    def step(model: nn.Module, inputs: Tensor) -> None:
        model.zero_grad(set_to_none=True)
        for _ in range(parts):
            output = model(inputs)
            output.sum().backward()
            del output

    prediction = predict_training_step(layer, step, empty(64, 16))
    weights, output = FLOAT * 16 * 24, FLOAT * 64 * 24
    # The gradients so far and those of this part, which are added to them; output, loss and its
    # gradient, of which the output's is a view.
    assert prediction.activation_peak_bytes == 2 * weights + output + 2 * FLOAT


def test_a_mask_is_taken_to_select_everything() -> None:
    """How many elements it does select only data tell. torch makes numbers of it: 8 bytes each."""
    layer = nn.Linear(4, 5, bias=False)

    def step(model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
        model.zero_grad(set_to_none=True)
        (model(batch[0])[batch[1] > 0] ** 2).sum().backward()

    pixels = 1000
    found = predict_training_step(layer, step, (empty(pixels, 4), empty(pixels)))
    x, mask = torch.randn(pixels, 4), torch.ones(pixels)
    step(layer, (x, mask))
    allocated = allocated_peak(lambda: step(layer, (x, mask)))
    # The gradients of the first step are freed within what is measured.
    assert found.activation_peak_bytes == pytest.approx(allocated, abs=FLOAT * 4 * 5 + 64)


def test_every_saved_map_adds_its_size() -> None:
    def peak(depth: int) -> int:
        chain = nn.Sequential(nn.Conv2d(1, 4, 1), *(nn.Sigmoid() for _ in range(depth)))
        step = predict_step(chain, total, (empty(1, 1, 32, 32),), empty(1))
        return step.activation_peak_bytes

    # A sigmoid saves its output for backward.
    assert peak(6) - peak(5) == FLOAT * 4 * 32**2


def test_adamw_keeps_two_moments() -> None:
    layer = nn.Linear(8, 8)
    layer.bias.requires_grad_(False)  # not trained: no gradient, no state
    step = predict_step(layer, total, (empty(2, 8),), empty(2), optimizer="adamw")
    assert step.optimizer_bytes == 2 * FLOAT * 64
    assert step.gradient_bytes == FLOAT * 64


def test_an_unknown_optimizer_is_refused() -> None:
    with pytest.raises(ValueError, match="'rmsprop'; allowed: sgd, adamw"):
        predict_step(
            nn.Linear(1, 1),
            total,
            (empty(1, 1),),
            empty(1),
            optimizer="rmsprop",  # type: ignore[arg-type]
        )


def test_prediction_is_what_the_cpu_allocates() -> None:
    # Only matrix products and softmax, which allocate nothing but their results.
    def attention(x: Tensor) -> Tensor:
        return (x @ x.transpose(1, 2)).softmax(-1).exp() @ x

    model = nn.Sequential(nn.Linear(24, 16), Apply(attention), nn.Linear(16, 8, bias=False))
    x = torch.randn(2, 40, 24)

    def step() -> None:
        output = model(x)
        loss = output.sum()
        loss.backward()

    # The peak is in the backward pass, when the gradients of the step before are gone already.
    predicted = predict_step(model, total, (x,), empty(1))
    assert predicted.activation_peak_bytes == allocated_peak(step)


# The two with losses of their own.
@pytest.mark.parametrize("name", quick(["ocr", "encnet"], ("ocr",)))
def test_whole_models(name: str) -> None:
    backbone = build_backbone("resnet10", width=8)
    # 19 classes put the peak in the loss, where no convolution takes scratch, which has no part in
    # a prediction.
    head = build_head(name, Channels(8, 16, 32, 64), 19, width=8)
    model = Segmenter(backbone, head)

    def loss(output: HeadOutput, labels: Tensor) -> Tensor:
        return weighted_sum(loss_terms(output, labels), head.loss_weights)

    images, labels = empty(2, 3, 64, 64), empty(2, 64, 64, dtype=torch.int64)
    full = predict_step(model, loss, (images,), labels)
    assert full.gradient_bytes == FLOAT * sum(p.numel() for p in model.parameters())
    assert predict_inference(model, images).peak_bytes < full.peak_bytes

    data = torch.zeros_like(images, device="cpu"), torch.zeros_like(labels, device="cpu")

    def step() -> None:
        model.zero_grad()
        output = model(data[0])
        value = loss(output, data[1])
        value.backward()

    # Two steps, for the gradients that the second one finds. That the real model still runs shows
    # that predicting leaves nothing fake behind.
    allocated = allocated_peak(lambda: [step() for _ in range(2)])
    assert full.activation_peak_bytes == pytest.approx(allocated, rel=1e-3)  # reductions' scratch


def test_the_reference_form_of_attention_needs_its_maps() -> None:
    def peak(implementation: str) -> int:
        head = build_head("ocnet", Channels(2, 4, 8, 16), 3, width=8, key_channels=8,
                          value_channels=8, implementation=implementation)  # fmt: skip
        return predict_inference(head.context, empty(1, 16, 48, 48)).peak_bytes

    assert peak("reference") - peak("fast") > FLOAT * (48 * 48) ** 2


def _hold_100_mebibytes() -> None:
    torch.ones(25, MEBIBYTE)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_fresh_process_measures_what_a_function_adds() -> None:
    ballast = torch.ones(75, MEBIBYTE)  # 300 MiB of this process must not hide the growth
    grown = measure_peak_cpu(_hold_100_mebibytes)
    assert 100 * MEBIBYTE <= grown < 150 * MEBIBYTE  # coarse: code loaded on first use
    assert ballast.numel()


@pytest.mark.slow
def test_a_killed_process_is_out_of_memory() -> None:
    with pytest.raises(MemoryError, match="killed"):
        measure_peak_cpu(_die)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_peak_counts_from_what_is_allocated() -> None:
    device = torch.device("cuda")
    held = torch.ones(MEBIBYTE, device=device)
    measured = measure_peak_cuda(lambda: held + 1, device)
    assert measured.allocated_bytes >= 2 * 4 * MEBIBYTE
    assert measured.reserved_bytes >= measured.allocated_bytes
