"""Context encoding against loops over pixels and codewords."""

import math

import pytest
import torch

from heads import build_head
from heads.blocks import ConvBnRelu
from heads.encnet import ContextEncoding, EncNetHead, Encoding, LateralReduction, SemanticEncoder
from heads.interface import Features, Implementation
from tests.heads import loops
from tests.heads.counting import PAPER, Count, Setting, counted, layer, product, small_setting
from tests.heads.small import CHANNELS, CLASSES, IMPLEMENTATIONS, small_features, small_head

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


def reduced(stages: list[loops.Map], reduce: ConvBnRelu | LateralReduction) -> loops.Map:
    """Of layer4 alone, or of layers 2 to 4: lists of channels, so that + is concatenation."""
    if isinstance(reduce, ConvBnRelu):
        (deepest,) = stages
        return loops.conv_bn_relu(deepest, reduce)
    layer2, layer3, layer4 = stages
    parts = loops.conv_bn_relu(layer4, reduce.deepest)
    for stage, lateral in zip((layer2, layer3), reduce.laterals, strict=True):
        parts = parts + loops.resize(loops.conv_bn_relu(stage, lateral), *loops.size_of(layer4))
    return loops.conv_bn_relu(parts, reduce.fuse)


def semantics(stages: list[loops.Map], encoder: SemanticEncoder) -> tuple[loops.Map, loops.Vector]:
    x = reduced(stages, encoder.reduce)
    pixels = loops.pixels_of(x)
    if encoder.encoding is None:
        return x, [sum(column) / len(pixels) for column in zip(*pixels, strict=True)]
    if isinstance(encoder.before, ConvBnRelu):
        pixels = loops.pixels_of(loops.conv_bn_relu(x, encoder.before))
    encoded = encode(pixels, encoder.encoding)
    activated = [
        [loops.normalize_relu(value, encoder.norm[0], k) for value in code]
        for k, code in enumerate(encoded)
    ]
    terms = len(activated) if encoder.authors else 1  # their mean over codewords, or the sum
    return x, [sum(column) / terms for column in zip(*activated, strict=True)]


def linear(x: loops.Vector, layer: torch.nn.Linear) -> loops.Vector:
    rows = zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
    return [loops.dot(row, x) + bias for row, bias in rows]


def looped(stages: list[loops.Map], context: ContextEncoding) -> loops.Map:
    x, e = semantics(stages, context.encoder)
    gates = [1 / (1 + math.exp(-value)) for value in linear(e, context.gate)]
    added = 1 if context.encoder.authors else 0  # values are positive: the second ReLU keeps them
    return [
        [[(added + gate) * value for value in row] for row in plane]
        for gate, plane in zip(gates, x, strict=True)
    ]


def images_of(inputs: tuple[torch.Tensor, ...]) -> list[list[loops.Map]]:
    """The stages of each image."""
    return [[stage.tolist() for stage in stages] for stages in zip(*inputs, strict=True)]


@every_form
@pytest.mark.parametrize(
    "variant", ["encnet", "encnet-lateral", "encnet-no-codewords", "encnet-authors"]
)
def test_context_equals_loops(variant: str, implementation: Implementation) -> None:
    head = small_head(variant, implementation).double().eval()
    assert isinstance(head, EncNetHead)
    inputs = head.context_inputs(small_features(2, 3, dtype=torch.float64))
    expected = [looped(stages, head.context) for stages in images_of(inputs)]
    torch.testing.assert_close(head.context(*inputs), loops.stacked(expected))


@every_form
def test_lateral_stages_are_resized_to_layer4(implementation: Implementation) -> None:
    """At output stride 32 layers 2 and 3 are four times and twice as high and as wide."""
    head = small_head("encnet-lateral", implementation).double().eval()
    assert isinstance(head, EncNetHead)
    layer1, layer2, *_ = small_features(8, 12, dtype=torch.float64)
    layer3 = small_features(4, 6, dtype=torch.float64).layer3
    layer4 = small_features(2, 3, dtype=torch.float64).layer4
    inputs = head.context_inputs(Features(layer1, layer2, layer3, layer4))
    expected = [looped(stages, head.context) for stages in images_of(inputs)]
    torch.testing.assert_close(head.context(*inputs), loops.stacked(expected))


@every_form
def test_every_lateral_stage_counts(implementation: Implementation) -> None:
    """Each of layers 2 to 4 moves the output; layer1 is no input."""
    head, features = small_head("encnet-lateral", implementation).eval(), small_features()
    logits = head(features).logits
    for stage, moves in zip(Features._fields, (False, True, True, True), strict=True):
        changed = features._replace(**{stage: getattr(features, stage) + 1})
        assert torch.equal(head(changed).logits, logits) is not moves


@pytest.mark.parametrize("codewords", [0, 8, 16, 32])
@every_form
def test_any_number_of_codewords(codewords: int, implementation: Implementation) -> None:
    """Their vectors, scales and batch norm are all that the number changes."""
    options = {"codewords": codewords, "width": 8, "implementation": implementation}
    head = build_head("encnet", CHANNELS, CLASSES, **options)
    head(small_features())
    parameters = sum(p.numel() for p in head.context.parameters())
    assert parameters == layer(12, 8, 1, kernel=3).parameters + codewords * (8 + 3) + 8 * 8 + 8


@every_form
@pytest.mark.parametrize("variant", ["encnet-stage3", "encnet-authors"])
def test_presence_is_a_linear_layer_on_the_semantics(
    variant: str, implementation: Implementation
) -> None:
    head = small_head(variant, implementation).double().eval()
    assert isinstance(head, EncNetHead)
    assert head.presence is not None
    assert head.presence3 is not None
    features = small_features(2, 3, dtype=torch.float64)
    deep = [semantics([image], head.context.encoder)[1] for image in features.layer4.tolist()]
    third = [semantics([image], head.presence3.encoder)[1] for image in features.layer3.tolist()]
    head.training = head.presence3.training = True  # emit, with the batch norms left in evaluation
    image_aux = head(features).image_aux
    for name, classifier, encoded in [
        ("presence", head.presence, deep),
        ("presence3", head.presence3.classifier, third),
    ]:
        expected = torch.tensor([linear(e, classifier) for e in encoded], dtype=torch.float64)
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


def lateral(s: Setting, width: int = 512, codewords: int = 32) -> Count:
    total = layer(s.channels.layer4, width, s.pixels, kernel=3)
    total += layer(s.channels.layer2, width, s.pixels) + layer(s.channels.layer3, width, s.pixels)
    total += layer(3 * width, width, s.pixels, kernel=3)  # fusion
    total += Count(codewords * width + 3 * codewords, 0)  # codewords, scales and batch norm
    total += product(s.pixels, codewords, width)  # distances
    total += product(s.pixels, codewords, width)  # aggregation
    return total + layer(width, width, 1, extra=1)  # gate


@every_form
def test_lateral_counts(implementation: str) -> None:
    """In the reference form the counter sees both products of the encoding, as einsums."""
    options = {"lateral": True, "implementation": implementation}
    assert counted("encnet", PAPER, (128, 128), **options) == lateral(PAPER)
    small = small_setting(33, 29)
    assert counted("encnet", small, (33, 29), width=32, **options) == lateral(small, width=32)


@every_form
def test_counts_of_the_authors_release(implementation: str) -> None:
    """Theirs, with the layer of the SE-loss on 19 classes, has 9,990,259 and 159,450,932,736."""
    more = layer(512, 512, PAPER.pixels)
    expected = Count(9_717_344, 155_155_955_712) + more
    assert expected + layer(512, 19, 1, extra=1) == Count(9_990_259, 159_450_932_736)
    options = {"release": "authors", "implementation": implementation}
    assert counted("encnet", PAPER, (128, 128), **options) == expected


def test_lateral_connections_cost_what_they_add() -> None:
    """1x1 of layers 2 and 3, and a 3x3 on three maps, beside the plain head's integers."""
    weights = (512 + 1024) * 512 + 9 * 3 * 512 * 512
    plain = Count(9_717_344, 155_155_955_712)
    assert lateral(PAPER) == plain + Count(weights + 3 * 2 * 512, weights * 128 * 128)
