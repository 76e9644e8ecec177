"""Context encoding against loops over pixels and codewords."""

import math

import pytest
import torch

from heads.encnet import ContextEncoding, EncNetHead, Encoding, SemanticEncoder
from heads.interface import Implementation
from tests.heads import loops
from tests.heads.small import IMPLEMENTATIONS, small_features, small_head

every_form = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)


def encode(pixels: list[loops.Vector], encoding: Encoding) -> list[loops.Vector]:
    codewords, scale = encoding.codewords.tolist(), encoding.scale.tolist()
    encoded = [[0.0] * len(code) for code in codewords]
    for pixel in pixels:
        residuals = [[p - c for p, c in zip(pixel, code, strict=True)] for code in codewords]
        weights = loops.softmax(
            [-s * loops.dot(r, r) for s, r in zip(scale, residuals, strict=True)]
        )
        for k, (weight, residual) in enumerate(zip(weights, residuals, strict=True)):
            encoded[k] = [e + weight * r for e, r in zip(encoded[k], residual, strict=True)]
    return encoded


def semantics(image: loops.Map, encoder: SemanticEncoder) -> tuple[loops.Map, loops.Vector]:
    x = loops.conv_bn_relu(image, encoder.reduce)
    encoded = encode(loops.pixels_of(x), encoder.encoding)
    activated = [
        [loops.normalize_relu(value, encoder.norm[0], k) for value in code]
        for k, code in enumerate(encoded)
    ]
    return x, [sum(column) for column in zip(*activated, strict=True)]


def linear(x: loops.Vector, layer: torch.nn.Linear) -> loops.Vector:
    rows = zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
    return [loops.dot(row, x) + bias for row, bias in rows]


def looped(image: loops.Map, context: ContextEncoding) -> loops.Map:
    x, e = semantics(image, context.encoder)
    gates = [1 / (1 + math.exp(-value)) for value in linear(e, context.gate)]
    return [
        [[gate * value for value in row] for row in plane]
        for gate, plane in zip(gates, x, strict=True)
    ]


@every_form
def test_context_equals_loops(implementation: Implementation) -> None:
    head = small_head("encnet", implementation).double().eval()
    assert isinstance(head, EncNetHead)
    x = small_features(2, 3, dtype=torch.float64).layer4
    expected = [looped(image, head.context) for image in x.tolist()]
    torch.testing.assert_close(head.context(x), loops.stacked(expected))


@every_form
def test_presence_is_a_linear_layer_on_the_semantics(
    implementation: Implementation,
) -> None:
    head = small_head("encnet-stage3", implementation).double().eval()
    assert isinstance(head, EncNetHead)
    assert head.presence is not None
    assert head.presence3 is not None
    features = small_features(2, 3, dtype=torch.float64)
    deep = [semantics(image, head.context.encoder)[1] for image in features.layer4.tolist()]
    third = [semantics(image, head.presence3.encoder)[1] for image in features.layer3.tolist()]
    head.training = head.presence3.training = True  # emit, with the batch norms left in evaluation
    image_aux = head(features).image_aux
    for name, layer, encoded in [
        ("presence", head.presence, deep),
        ("presence3", head.presence3.classifier, third),
    ]:
        expected = torch.tensor([linear(e, layer) for e in encoded], dtype=torch.float64)
        torch.testing.assert_close(image_aux[name], expected)


@every_form
def test_one_codeword_takes_every_pixel(implementation: Implementation) -> None:
    """With one codeword all weights are 1: the encoding is sum x - (h w) c."""
    torch.manual_seed(0)
    encoding = Encoding(3, 1, implementation)
    x = torch.randn(2, 3, 4, 5)
    expected = x.sum(dim=(2, 3)) - 20 * encoding.codewords
    torch.testing.assert_close(encoding(x)[:, 0], expected)


@every_form
def test_norm_acts_on_codewords(implementation: Implementation) -> None:
    """In training each codeword is normalised over images and channels together."""
    head = small_head("encnet", implementation).double()
    assert isinstance(head, EncNetHead)
    encoder = head.context.encoder
    encoder.norm[1] = torch.nn.Identity()
    torch.nn.init.ones_(encoder.norm[0].weight)
    torch.nn.init.zeros_(encoder.norm[0].bias)
    encoded = encoder.encoding(encoder.reduce(small_features(dtype=torch.float64).layer4))
    normalised = encoder.norm(encoded)
    torch.testing.assert_close(normalised.mean(dim=(0, 2)), torch.zeros(32, dtype=torch.float64))


@every_form
def test_gradients_of_the_encoding(implementation: Implementation) -> None:
    torch.manual_seed(0)
    encoding = Encoding(3, 4, implementation).double()
    x = torch.randn(2, 3, 2, 3, dtype=torch.float64, requires_grad=True)

    def encoded(x: torch.Tensor, codewords: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        parameters = {"codewords": codewords, "scale": scale}
        result: torch.Tensor = torch.func.functional_call(encoding, parameters, x)
        return result

    assert torch.autograd.gradcheck(encoded, (x, encoding.codewords, encoding.scale))


@every_form
def test_far_pixels_keep_their_digits_under_autocast(implementation: Implementation) -> None:
    """|x|^2 is 1e4 times the differences that decide; bfloat16 would round them all away."""
    torch.manual_seed(0)
    encoding = Encoding(16, 4, implementation)
    x = 25 + torch.randn(1, 16, 3, 3)
    with torch.no_grad():
        encoding.codewords.copy_(25 + torch.randn(4, 16))
        expected = encoding.double()(x.double())
        encoding.float()
        with torch.autocast("cpu", torch.bfloat16):
            encoded = encoding(x)
    assert encoded.dtype == torch.float32
    # Distances near 30 come out of squares near 1e4, losing 3 of float32's 7 digits.
    torch.testing.assert_close(encoded.double(), expected, rtol=0, atol=2e-2)


def test_codewords_start_as_published() -> None:
    """Uniform within 1 / sqrt(codewords * channels); positive scales sharpen, never repel."""
    torch.manual_seed(0)
    encoding = Encoding(64, 25, "fast")
    bound = 1 / math.sqrt(64 * 25)
    assert 0.9 * bound < encoding.codewords.abs().max() <= bound
    assert 0 <= encoding.scale.min() < encoding.scale.max() <= 1
