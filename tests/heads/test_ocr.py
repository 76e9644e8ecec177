"""Object-contextual representations against loops over pixels and regions."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from contextbench.measure.counts import FeatureSize, meta_features
from contextbench.measure.memory import predict_inference
from heads import build_head
from heads.blocks import ConvBnRelu
from heads.interface import ContextHead
from heads.ocr import OCRHead
from heads.regions import (
    CoarseRelation,
    LabelRelation,
    PixelRegionRelation,
    PixelRelation,
    RegionContext,
)
from tests.heads import loops
from tests.heads.counting import PAPER
from tests.heads.small import (
    CHANNELS,
    CLASSES,
    IMPLEMENTATIONS,
    WIDTH,
    randomize_norms,
    small_features,
    small_head,
)

Vectors = list[loops.Vector]

SCHEMES = [
    "ocr",
    "ocr-unsupervised",
    "ocr-double-attention",
    "ocr-acf",
    "ocr-pixel-delta",
    "ocr-two-transforms",
]


def transformed(vectors: Vectors, blocks: nn.Sequential) -> Vectors:
    """Vectors as a map of one column, through 1x1 convolutions."""
    column = loops.map_of(vectors, len(vectors), 1)
    for block in blocks:
        assert isinstance(block, ConvBnRelu)
        column = loops.conv_bn_relu(column, block)
    return loops.pixels_of(column)


def weighted_sums(weights: Vectors, vectors: Vectors) -> Vectors:
    """For each row of weights, sum_i w_i v_i."""
    return [[loops.dot(row, list(c)) for c in zip(*vectors, strict=True)] for row in weights]


def masks(maps: loops.Map) -> Vectors:
    """m_ki: a softmax over the image, per class."""
    return [loops.softmax([value for row in plane for value in row]) for plane in maps]


def ideal_masks(maps: loops.Map) -> Vectors:
    """m_ki: one over the number of the class's pixels, on each of them."""
    planes = [[value for row in plane for value in row] for plane in maps]
    return [[value / max(1, sum(plane)) for value in plane] for plane in planes]


def relations(relation: nn.Module, pixels: Vectors, regions: Vectors, maps: loops.Map) -> Vectors:
    """w_ik: a row for each pixel, with a number for each region."""
    if isinstance(relation, PixelRegionRelation):
        keys = transformed(regions, relation.psi)
        queries = transformed(pixels, relation.phi)
        scores = [[loops.dot(q, k) / math.sqrt(len(k)) for k in keys] for q in queries]
    elif isinstance(relation, PixelRelation):
        weight, bias = relation.predict.weight.flatten(1).tolist(), relation.predict.bias
        assert bias is not None
        scores = [
            [loops.dot(row, x) + b for row, b in zip(weight, bias.tolist(), strict=True)]
            for x in pixels
        ]
    elif isinstance(relation, CoarseRelation):
        scores = loops.pixels_of(maps)
    else:
        assert isinstance(relation, LabelRelation)
        return loops.pixels_of(maps)
    return [loops.softmax(row) for row in scores]


def looped_regions(x: loops.Map, maps: loops.Map, context: RegionContext) -> loops.Map:
    """y = rho(sum_k w_ik v_k), with v_k = delta(sum_i m_ki x_i) or sum_i m_ki delta(x_i)."""
    pixels, delta = loops.pixels_of(x), nn.Sequential(context.delta)
    m = ideal_masks(maps) if context.scheme.ground_truth else masks(maps)
    regions = weighted_sums(m, pixels)
    if context.scheme.delta_on == "regions":
        values = transformed(regions, delta)
    else:
        values = weighted_sums(m, transformed(pixels, delta))
    gathered = weighted_sums(relations(context.relation, pixels, regions, maps), values)
    return loops.conv_bn_relu(loops.map_of(gathered, *loops.size_of(x)), context.rho)


def looped(image: loops.Map, maps: loops.Map, head: OCRHead) -> loops.Map:
    x = loops.conv_bn_relu(image, head.context.reduce)
    augmented = looped_regions(x, maps, head.context.regions)
    return loops.conv_bn_relu(augmented + x, head.context.fuse.fuse)  # lists: concatenation


@pytest.mark.parametrize("variant", SCHEMES)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_context_equals_loops(variant: str, implementation: str) -> None:
    head = small_head(variant, implementation).double().eval()
    assert isinstance(head, OCRHead)
    x, coarse = head.context_inputs(small_features(2, 3, dtype=torch.float64))
    pairs = zip(x.tolist(), coarse.tolist(), strict=True)
    expected = [looped(image, maps, head) for image, maps in pairs]
    torch.testing.assert_close(head.context(x, coarse), loops.stacked(expected))


def test_regions_are_those_of_the_supervised_branch() -> None:
    """The emitted coarse logits are the ones that the context module is given."""
    head, features = small_head("ocr").eval(), small_features()
    output = head(features)
    coarse = output.pixel_aux["coarse"]
    torch.testing.assert_close(coarse, head.get_submodule("coarse")(features.layer3))
    torch.testing.assert_close(output.logits, head.classifier(head.context(features[3], coarse)))


def test_hard_regions_are_described_by_their_mean() -> None:
    """Where a class is certain on two pixels only, they share its mask."""
    coarse = torch.full((2, CLASSES, 2, 3), -100.0, dtype=torch.float64)
    coarse[:, 1, 0, 2] = coarse[:, 1, 1, 0] = 100
    masks = CoarseRelation().masks(coarse)  # (N, K, h w)
    half = torch.tensor([0, 0, 0.5, 0.5, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(masks[:, 1], half.expand(2, 6))
    torch.testing.assert_close(masks[:, 0], torch.full((2, 6), 1 / 6, dtype=torch.float64))


@pytest.mark.parametrize("variant", SCHEMES)
def test_the_main_loss_reaches_the_region_branch(variant: str) -> None:
    """Unsupervised regions are learnt from the main loss alone."""
    head = small_head(variant)
    head(small_features()).logits.square().mean().backward()
    assert all(p.grad is not None for p in head.get_submodule("coarse").parameters())


def test_without_region_supervision_an_auxiliary_branch_has_the_loss() -> None:
    """Of the terms one is replaced by another of equal weight; what is scored stays the same."""
    supervised, ablated = small_head("ocr"), small_head("ocr-unsupervised")
    weights = {name: value for name, value in ablated.state_dict().items() if name[:4] != "auxi"}
    supervised.load_state_dict(weights)
    assert (supervised.loss_weights, ablated.loss_weights) == ({"coarse": 0.4}, {"aux": 0.4})
    features = small_features()
    for training, terms in ((True, {"aux"}), (False, set())):
        output = ablated.train(training)(features)
        assert set(output.pixel_aux) == terms
        expected = supervised.train(training)(features)
        assert set(expected.pixel_aux) == {"coarse"}
        torch.testing.assert_close(output.logits, expected.logits)


def test_a_relation_has_the_parameters_it_needs() -> None:
    def parts(variant: str) -> set[str]:
        names = dict(small_head(variant).get_submodule("context.regions.relation").named_children())
        return set(names)

    assert parts("ocr") == {"phi", "psi"}
    assert parts("ocr-double-attention") == {"predict"}
    assert parts("ocr-acf") == set()


def test_delta_on_pixels_is_another_function_of_the_same_parameters() -> None:
    """In float64, where rounding could not explain a difference of 1e-5."""
    heads = [small_head(variant).double().eval() for variant in ("ocr", "ocr-pixel-delta")]
    regions, pixels = heads
    torch.testing.assert_close(regions.state_dict(), pixels.state_dict(), rtol=0, atol=0)
    features = small_features(dtype=torch.float64)
    assert not torch.allclose(regions(features).logits, pixels(features).logits)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"relation": "labels"}, "unknown relation 'labels'; allowed: ocr, double_attention, acf"),
        ({"delta_on": "classes"}, "unknown delta_on 'classes'; allowed: regions, pixels"),
        ({"transforms": 0}, "at least 1"),
        ({"transforms": 2, "relation": "acf"}, "1 unless relation is 'ocr'"),
        ({"ground_truth_regions": True, "relation": "acf"}, "at their defaults"),
        ({"ground_truth_regions": True, "transforms": 2}, "at their defaults"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_head("ocr", CHANNELS, CLASSES, **options)


@pytest.mark.parametrize(("implementation", "mebibytes"), [("fast", 128), ("reference", 192)])
def test_peak_memory_of_the_context(implementation: str, mebibytes: int) -> None:
    """Maps of 512 channels are 32 MiB. Fast, while the parts are added: x, y, the sum and a part.

    Reference, in batch norm: x, y, both beside each other, the convolved and the normalised.
    """
    with torch.device("meta"):
        head = build_head("ocr", PAPER.channels, PAPER.classes, implementation=implementation)
        inputs = head.context_inputs(meta_features(FeatureSize(2048, 128, 128)))
    prediction = predict_inference(head.context, *inputs)
    assert prediction.activation_peak_bytes == mebibytes * 2**20


def ideal_head(implementation: str = "fast", **options: object) -> OCRHead:
    torch.manual_seed(0)
    head = build_head(
        "ocr",
        CHANNELS,
        CLASSES,
        width=WIDTH,
        key_channels=7,
        dropout=0.0,
        ground_truth_regions=True,
        implementation=implementation,
        **options,
    )
    randomize_norms(head)
    assert isinstance(head, OCRHead)
    return head


def label_maps(*rows: list[int], dtype: torch.dtype = torch.float64) -> Tensor:
    """One image's regions (1, K, h, w); a label of -1 is in none."""
    labels = torch.tensor(rows)
    return torch.stack([labels == k for k in range(CLASSES)])[None].to(dtype)


@pytest.mark.parametrize("delta_on", ["regions", "pixels"])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_ideal_context_equals_loops(implementation: str, delta_on: str) -> None:
    head = ideal_head(implementation, delta_on=delta_on).double().eval()
    features = small_features(2, 3, batch=1, dtype=torch.float64)
    maps = label_maps([0, 3, 3], [-1, 0, 1])  # classes 2 and 4 are absent
    expected = loops.stacked([looped(features.layer4[0].tolist(), maps[0].tolist(), head)])
    torch.testing.assert_close(head.context(features.layer4, maps), expected)
    logits = head.forward_with_regions(features, maps).logits
    torch.testing.assert_close(logits, head.classifier(expected))


def test_ideal_regions_pass_nothing_between_classes() -> None:
    """What a pixel gathers depends on the pixels of its own class, and on none if it has no label.

    Read off the gradient of the gathered values: 2 x 3 pixels, of three classes and one ignored.
    """
    regions = ideal_head().double().eval().context.regions
    x = torch.rand(1, WIDTH, 2, 3, dtype=torch.float64, requires_grad=True)
    labels = [[0, 3, 3], [-1, 0, 1]]
    y = regions(x, label_maps(*labels)).sum(dim=1).flatten()
    flat = [label for row in labels for label in row]
    for total, label in zip(y, flat, strict=True):
        (gradient,) = torch.autograd.grad(total, x, retain_graph=True)
        reached = gradient.abs().sum(dim=1).flatten() > 0
        assert reached.tolist() == [label >= 0 and other == label for other in flat]


def test_an_image_without_labels_gathers_nothing() -> None:
    """`forward` is that of an image whose pixels are all ignored; nothing is NaN."""
    head, features = ideal_head().eval(), small_features()
    nothing = torch.zeros(2, CLASSES, 17, 13)
    output = head.forward_with_regions(features, nothing)
    assert output.logits.isfinite().all()
    torch.testing.assert_close(head(features).logits, output.logits)


def ideal_call(head: ContextHead) -> Callable[[], Tensor]:
    features = small_features()
    labels = torch.arange(2 * 17 * 13).reshape(2, 17, 13) % (CLASSES + 1)  # the last is in no map
    maps = torch.stack([labels == k for k in range(CLASSES)], dim=1).float()
    return lambda: head.forward_with_regions(features, maps).logits


def test_ideal_forms_agree_and_every_parameter_learns() -> None:
    logits = []
    for implementation in IMPLEMENTATIONS:
        head = ideal_head(implementation)
        logits.append(ideal_call(head)())
        logits[-1].sin().sum().backward()
        auxiliary = set(head.get_submodule("auxiliary").parameters())
        learnt = [p for p in head.parameters() if p not in auxiliary and p.ndim > 1]
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in learnt)
    torch.testing.assert_close(*logits)


def test_ideal_head_in_bfloat16_and_compiled() -> None:
    head = ideal_head().eval()
    call = ideal_call(head)
    full = call()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = call()
    assert low.dtype == torch.bfloat16
    # bfloat16 keeps 8 bits: 0.4 % a rounding, of which a head chains about ten.
    assert (low - full).norm() / full.norm() < 0.05
    torch.compiler.reset()
    compiled = torch.compile(call, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(), full)


def test_only_the_ideal_head_takes_regions() -> None:
    assert ideal_head().ideal_regions == CLASSES
    assert ideal_head().loss_weights == {"aux": 0.4}
    head = small_head("ocr")
    assert head.ideal_regions == 0
