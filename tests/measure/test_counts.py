import logging
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contextbench.measure.counts import (
    Counts,
    count,
    count_head_scopes,
    count_scopes,
    feature_channels,
    meta_features,
    parse_feature_size,
)
from contextbench.models.backbone import build_backbone
from heads import HEADS, build_head
from heads.interface import Channels, Features
from tests.cases import quick
from tests.measure.heads import CHANNELS, CLASSES, WIDTH, TinyHead

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # fvcore uses parts of torch that torch has deprecated
    from fvcore.nn import FlopCountAnalysis


class Apply(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)


def test_convolution_is_output_positions_times_weights() -> None:
    # 5x7 input, stride 2, padding 1: 3x4 positions, each with 8 x 4 x 3 x 3 products.
    convolution = nn.Conv2d(4, 8, 3, stride=2, padding=1)
    counts = count(convolution, torch.zeros(2, 4, 5, 7))
    assert counts.macs == 2 * (3 * 4) * 8 * 4 * 9
    assert counts.parameters == 8 * 4 * 9 + 8
    assert counts.flops == 2 * counts.macs
    assert counts.uncounted == ()


def test_groups_divide_the_products() -> None:
    convolution = nn.Conv2d(8, 8, 3, padding=1, groups=4, bias=False)
    assert count(convolution, torch.zeros(1, 8, 5, 5)).macs == 25 * 8 * (8 // 4) * 9


@pytest.mark.parametrize(
    ("function", "shapes", "macs"),
    [
        (torch.matmul, [(5, 3), (3, 7)], 5 * 3 * 7),
        (torch.matmul, [(2, 5, 3), (2, 3, 7)], 2 * 5 * 3 * 7),
        (torch.matmul, [(5, 3), (3,)], 5 * 3),
        (torch.matmul, [(3,), (3,)], 3),
        (lambda a, b: torch.einsum("nki,nci->nkc", a, b), [(2, 3, 5), (2, 7, 5)], 2 * 3 * 5 * 7),
        (torch.addmv, [(5,), (5, 3), (3,)], 5 * 3),
        (F.linear, [(4, 3), (7, 3)], 4 * 3 * 7),
    ],
)
def test_products_of_all_kinds_count_one_mac_per_multiplication(
    function: Callable[..., Tensor], shapes: list[tuple[int, ...]], macs: int
) -> None:
    assert count(Apply(function), *(torch.zeros(s) for s in shapes)).macs == macs


def test_fused_attention_counts_both_its_products() -> None:
    # 11 queries, 13 keys: scores of width 5, then sums of values of width 5; two heads.
    q, k = torch.zeros(1, 2, 11, 5), torch.zeros(1, 2, 13, 5)
    counts = count(Apply(F.scaled_dot_product_attention), q, k, k)
    assert counts.macs == 2 * (11 * 13 * 5 + 11 * 13 * 5)
    assert "softmax" in counts.uncounted


def test_operators_without_a_formula_are_named_and_movement_is_not() -> None:
    def mixture(x: Tensor) -> Tensor:
        x = torch.cat([x, x], 1).flatten(2).transpose(1, 2).contiguous()
        return (x.exp() + 1).softmax(-1)

    counts = count(Apply(mixture), torch.zeros(1, 2, 3, 3))
    assert counts == Counts(parameters=0, macs=0, uncounted=("add", "exp", "softmax"))


def test_names_say_what_not_how() -> None:
    block = nn.Sequential(nn.BatchNorm2d(2), nn.ReLU(inplace=True))
    assert count(block, torch.zeros(1, 2, 3, 3)).uncounted == ("batch_norm", "relu")


def test_the_module_is_left_alone() -> None:
    module = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    count(module, torch.randn(2, 1, 4, 4))
    assert module.training
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_a_shared_weight_is_one_weight_used_twice() -> None:
    layer = nn.Linear(4, 4, bias=False)
    counts = count(nn.Sequential(layer, layer), torch.zeros(1, 4))
    assert (counts.parameters, counts.macs) == (16, 2 * 16)


def test_odd_operation_counts_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "contextbench.measure.counts.FlopCounterMode.get_total_flops"
    monkeypatch.setattr(name, lambda _: 7)
    with pytest.raises(ValueError, match="odd number of operations, 7"):
        count(nn.Linear(1, 1), torch.zeros(1, 1))


def test_scopes_leave_out_what_only_training_runs() -> None:
    size = parse_feature_size("16x5x7")
    scopes = count_head_scopes(TinyHead(), meta_features(size))
    context = (CHANNELS.layer4 * WIDTH + WIDTH, 35 * CHANNELS.layer4 * WIDTH)
    classifier = (WIDTH * CLASSES + CLASSES, 35 * WIDTH * CLASSES)
    assert (scopes["context"].parameters, scopes["context"].macs) == context
    head = scopes["head"]
    assert (head.parameters, head.macs) == tuple(
        a + b for a, b in zip(context, classifier, strict=True)
    )


def test_model_is_backbone_and_head() -> None:
    backbone = build_backbone("resnet10", width=8)
    head = build_head("fcn", Channels(8, 16, 32, 64), CLASSES, width=WIDTH)
    scopes = count_scopes(backbone, head, (32, 48))
    assert set(scopes) == {"context", "head", "model"}
    below = count(backbone, torch.zeros(1, 3, 32, 48))
    assert scopes["model"].macs == below.macs + scopes["head"].macs
    # The backbone has no layer that inference leaves out.
    assert below.parameters == sum(p.numel() for p in backbone.parameters())
    assert below.macs == _fvcore_macs(backbone, torch.zeros(1, 3, 32, 48))


def test_coarse_logits_are_in_scope_head_but_not_context() -> None:
    features = meta_features(parse_feature_size("16x5x7"))
    head = build_head("ocr", CHANNELS, CLASSES, width=WIDTH, key_channels=4, aux_width=5)
    scopes = count_head_scopes(head, features)
    outside = sum(p.numel() for part in (head.coarse, head.classifier) for p in part.parameters())
    assert scopes["head"].parameters == scopes["context"].parameters + outside
    coarse = 35 * (9 * CHANNELS.layer3 * 5 + 5 * CLASSES)
    assert scopes["head"].macs == scopes["context"].macs + coarse + 35 * WIDTH * CLASSES


@pytest.mark.parametrize("name", quick(HEADS, ("fcn", "ppm", "ocr", "encnet", "isa", "upernet")))
def test_context_agrees_with_fvcore(name: str) -> None:
    head = build_head(name, CHANNELS, CLASSES, width=WIDTH, implementation="reference").eval()
    shapes = [stage.shape for stage in meta_features(parse_feature_size("16x12x12"))]
    features = Features(*map(torch.zeros, shapes))
    with torch.no_grad():
        inputs = head.context_inputs(features)
    counts = count_head_scopes(head, features)["context"]
    # For contractions in einsum notation fvcore reads a number that numpy prints rounded to four
    # digits.
    plain = ("fcn", "ppm", "aspp", "deeplabv3plus", "upernet")
    rounding = 0 if name in plain else 1e-3
    assert counts.macs == pytest.approx(_fvcore_macs(head.context, *inputs), rel=rounding, abs=0)


def _fvcore_macs(module: nn.Module, *inputs: Tensor) -> int:
    """An independent counter, made to count convolutions and matrix products only."""
    logging.getLogger("fvcore").setLevel(logging.ERROR)
    analysis = FlopCountAnalysis(module.eval(), inputs).unsupported_ops_warnings(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        by_operator = analysis.by_operator()
    products = ("conv", "linear", "addmm", "matmul", "mm", "bmm", "einsum")
    return sum(int(by_operator.get(name, 0)) for name in products)


PIXELS = 128 * 128
REDUCTION = 9 * 2048 * 512  # 3x3, 2048 -> 512, per pixel
FUSION = 1024 * 512

# Convolutions and matrix products at the published widths, per layer. Those of the relatives are in
# tests/heads, beside their equations.
CLOSED_FORMS = {
    "fcn": PIXELS * REDUCTION,
    "ppm": 2048 * 512 * (1 + 4 + 9 + 36) + PIXELS * 9 * 4096 * 512,
    "aspp": 2048 * 256 + PIXELS * (2048 * 256 + 3 * 9 * 2048 * 256 + 5 * 256 * 256),
    # key and query in one, value, output; similarity and weighted sum over all pixels
    "ocnet": PIXELS * (REDUCTION + 3 * 512 * 256 + 2 * PIXELS * 256 + FUSION),
    # distances and aggregation of 32 codewords; the gate
    "encnet": PIXELS * (REDUCTION + 2 * 32 * 512) + 512 * 512,
    # gather, phi, relation and weighted sum of 19 regions, rho; psi and delta on the regions
    "ocr": PIXELS * (REDUCTION + 19 * 512 + 2 * 512 * 256 + 2 * 19 * 256 + FUSION)
    + 19 * 2 * 512 * 256,
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_context_at_the_published_size(name: str) -> None:
    size = parse_feature_size("2048x128x128")
    with torch.device("meta"):
        head = build_head(name, feature_channels(size), 19, implementation="reference")
    counts = count_head_scopes(head, meta_features(size))["context"]
    assert counts.macs == CLOSED_FORMS[name]
    assert counts.parameters == sum(p.numel() for p in head.context.parameters())


def test_feature_sizes() -> None:
    size = parse_feature_size("2048x128x96")
    assert size == (2048, 128, 96)
    assert feature_channels(size) == Channels(256, 512, 1024, 2048)
    features = meta_features(size, batch=2)
    assert features.layer1.shape == (2, 256, 256, 192)
    assert features.layer3.shape == (2, 1024, 128, 96)
    assert features.layer4.is_meta


@pytest.mark.parametrize("text", ["2048x128", "2048*128*128", "0x1x1", "ax1x1", "12x4x4", ""])
def test_a_bad_feature_size_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="expected") as error:
        parse_feature_size(text)
    assert repr(text) in str(error.value)


def test_as_dict_names_what_records_store() -> None:
    counts = Counts(1, 2, ("exp",))
    assert counts.as_dict() == {"parameters": 1, "macs": 2, "uncounted": ["exp"]}
