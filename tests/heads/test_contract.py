"""What every head promises, whatever its method, in both forms."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from heads import HEADS, Channels, ContextHead, Features, build_head
from tests.heads.small import (
    CHANNELS,
    CLASSES,
    IMPLEMENTATIONS,
    ONE_CELL,
    VARIANTS,
    WIDTH,
    scalar_loss,
    small_features,
    small_head,
    tensors,
)

every_variant = pytest.mark.parametrize("variant", VARIANTS)
every_form = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
every_size = pytest.mark.parametrize("size", [(17, 13), (2, 3), (40, 39), (1, 1)])


@every_variant
@every_form
@every_size
def test_shapes(variant: str, implementation: str, size: tuple[int, int]) -> None:
    head, features = small_head(variant, implementation), small_features(*size)
    output = head(features)
    assert output.logits.shape == (2, CLASSES, *size)
    assert all(logits.shape == (2, CLASSES, *size) for logits in output.pixel_aux.values())
    assert all(logits.shape == (2, CLASSES) for logits in output.image_aux.values())
    context = head.context(*head.context_inputs(features))
    assert context.shape == (2, WIDTH, *size)


@every_variant
def test_layer3_may_be_larger_than_layer4(variant: str) -> None:
    layer1, layer2, layer3, _ = small_features(6, 10)
    layer4 = small_features(3, 5).layer4
    output = small_head(variant)(Features(layer1, layer2, layer3, layer4))
    assert output.logits.shape == (2, CLASSES, 3, 5)
    for name, logits in output.pixel_aux.items():
        size = (6, 10) if name in ("aux", "coarse") else (3, 5)  # of the stage that it is made from
        assert logits.shape == (2, CLASSES, *size), name


@every_variant
def test_training_emits_exactly_the_weighted_terms(variant: str) -> None:
    head = small_head(variant)
    output = head(small_features())
    assert {*output.pixel_aux, *output.image_aux} == set(head.loss_weights)
    assert not {*output.pixel_aux} & {*output.image_aux}


def layers_run(head: ContextHead, call: Callable[[Features], object]) -> set[str]:
    """Names of the head's own parts in which `call` runs a convolution or a linear layer."""
    ran: set[str] = set()
    hooks = [
        module.register_forward_hook(lambda *_, name=name: ran.add(name.split(".")[0]))
        for name, module in head.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    call(small_features())
    for hook in hooks:
        hook.remove()
    return ran


@every_variant
def test_evaluation_runs_nothing_that_only_training_needs(variant: str) -> None:
    head = small_head(variant).eval()
    preparing = layers_run(head, head.context_inputs)  # OCR's coarse logits define its regions
    assert layers_run(head, head) - {"context"} == {"classifier"} | preparing
    output = head(small_features())
    assert set(output.pixel_aux) == preparing & set(head.loss_weights)
    assert output.image_aux == {}


@every_variant
@every_form
def test_logits_are_classifier_of_context(variant: str, implementation: str) -> None:
    head, features = small_head(variant, implementation).eval(), small_features()
    expected = head.classifier(head.context(*head.context_inputs(features)))
    torch.testing.assert_close(head(features).logits, expected)


@every_variant
@every_form
def test_images_of_a_batch_are_independent_in_evaluation(variant: str, implementation: str) -> None:
    head = small_head(variant, implementation).eval()
    features = small_features(batch=3)
    alone = head(Features(*(stage[1:2] for stage in features)))
    torch.testing.assert_close(head(features).logits[1:2], alone.logits)


@every_variant
@every_form
def test_every_parameter_gets_a_gradient(variant: str, implementation: str) -> None:
    head = small_head(variant, implementation)
    scalar_loss(head(small_features())).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # A bias in front of batch norm has gradient zero; weights have not.
        assert parameter.ndim == 1 or parameter.grad.abs().sum() > 0, name


@every_variant
@every_form
def test_inputs_are_left_alone(variant: str, implementation: str) -> None:
    features = small_features()
    small_head(variant, implementation)(features)
    for stage, before in zip(features, small_features(), strict=True):
        torch.testing.assert_close(stage, before, rtol=0, atol=0)


@every_variant
def test_both_forms_share_state(variant: str) -> None:
    fast, reference = (small_head(variant, form).state_dict() for form in ("fast", "reference"))
    assert list(fast) == list(reference)
    torch.testing.assert_close(fast, reference, rtol=0, atol=0)


@every_variant
@every_form
def test_copies_and_pickles_compute_the_same(variant: str, implementation: str) -> None:
    head, features = small_head(variant, implementation).eval(), small_features()
    expected = tensors(head(features))  # before copying: running must leave nothing behind
    for clone in (copy.deepcopy(head), pickle.loads(pickle.dumps(head))):
        torch.testing.assert_close(tensors(clone(features)), expected, rtol=0, atol=0)


@every_variant
@every_form
def test_dropout_acts_in_training_only(variant: str, implementation: str) -> None:
    head = small_head(variant, implementation, dropout=0.5)
    features = small_features()
    for norm in head.modules():  # batch statistics would hide which part changed
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            norm.eval()
    first, second = tensors(head(features)), tensors(head(features))
    pixel_terms = len(first) - len(head(features).image_aux)
    assert all(not torch.equal(a, b) for a, b in zip(first[:pixel_terms], second, strict=False))
    head.eval()
    assert torch.equal(head(features).logits, head(features).logits)


@pytest.mark.parametrize("name", ONE_CELL)
@every_form
def test_one_image_cannot_train_a_branch_pooled_to_one_cell(name: str, implementation: str) -> None:
    head, features = small_head(name, implementation), small_features(batch=1)
    with pytest.raises(ValueError, match=r"batch norm over one value.*batch of at least 2"):
        head(features)
    for norm in head.modules():  # frozen statistics need no second image
        if isinstance(norm, nn.BatchNorm2d):
            norm.eval()
    head(features)


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v not in ONE_CELL])
def test_other_heads_train_on_one_image(variant: str) -> None:
    scalar_loss(small_head(variant)(small_features(batch=1))).backward()


def test_pyramid_without_a_single_cell_trains_on_one_image() -> None:
    head = build_head("ppm", CHANNELS, CLASSES, width=WIDTH, bins=[2, 3])
    scalar_loss(head(small_features(batch=1))).backward()


ENCNET_TERMS: list[tuple[dict[str, Any], dict[str, float]]] = [
    ({}, {"aux": 0.4, "presence": 0.2}),
    ({"se_loss": False}, {"aux": 0.4}),
    ({"se_stage3": True}, {"aux": 0.4, "presence": 0.2, "presence3": 0.2}),
    ({"se_loss": False, "se_stage3": True}, {"aux": 0.4, "presence3": 0.2}),
]


@pytest.mark.parametrize(("options", "weights"), ENCNET_TERMS)
def test_encnet_weights_follow_its_options(
    options: dict[str, Any], weights: dict[str, float]
) -> None:
    assert build_head("encnet", CHANNELS, CLASSES, **options).loss_weights == weights


@pytest.mark.parametrize("name", HEADS)
def test_auxiliary_supervision_weighs_the_same_in_every_head(name: str) -> None:
    weights = build_head(name, CHANNELS, CLASSES).loss_weights
    assert [weights[term] for term in ("aux", "coarse") if term in weights] == [0.4]


@pytest.mark.parametrize("name", HEADS)
def test_the_branch_on_layer3_is_the_same_in_every_head(name: str) -> None:
    with torch.device("meta"):
        head = build_head(name, Channels(256, 512, 1024, 2048), 19)
    branch = head.get_submodule("auxiliary" if "aux" in head.loss_weights else "coarse")
    convolution = 1024 * 512 * 9 + 2 * 512
    assert sum(p.numel() for p in branch.parameters()) == convolution + 512 * 19 + 19
