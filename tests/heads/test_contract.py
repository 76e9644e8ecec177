"""What every head promises, whatever its method, in both forms: `heads.contract` on all of them."""

import re
from typing import Any

import pytest
import torch

from heads import HEADS, Channels, build_head, contract
from tests.cases import quick
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
    subject,
)

every_variant = pytest.mark.parametrize("variant", quick(VARIANTS, HEADS))
every_form = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
every_size = pytest.mark.parametrize("size", contract.MAPS)


@every_variant
@every_form
@every_size
def test_shapes(variant: str, implementation: str, size: tuple[int, int]) -> None:
    contract.shapes(subject(variant), implementation, size)


@every_variant
def test_options_and_parts(variant: str) -> None:
    contract.has_its_parts(subject(variant))
    contract.options_are_accepted(subject(variant))


@every_variant
def test_layer3_may_be_larger_than_layer4(variant: str) -> None:
    output = contract.layer3_may_be_larger(subject(variant))
    for name, logits in output.pixel_aux.items():
        size = (6, 10) if name in ("aux", "coarse") else (3, 5)  # of the stage that it is made from
        assert logits.shape == (2, CLASSES, *size), name


@every_variant
def test_training_emits_exactly_the_weighted_terms(variant: str) -> None:
    contract.training_emits_weighed_terms(subject(variant))


@every_variant
def test_evaluation_runs_nothing_that_only_training_needs(variant: str) -> None:
    """OCR's coarse logits define its regions; its part and its term have one name."""
    output, preparing = contract.evaluation_runs_what_it_needs(subject(variant))
    assert set(output.pixel_aux) == preparing & set(small_head(variant).loss_weights)
    head = small_head(variant).eval()
    assert contract.layers_run(head, head) - {"context"} == {"classifier"} | preparing


@every_variant
@every_form
def test_logits_are_classifier_of_context(variant: str, implementation: str) -> None:
    contract.logits_are_classifier_of_context(subject(variant), implementation)


@every_variant
@every_form
def test_images_of_a_batch_are_independent_in_evaluation(variant: str, implementation: str) -> None:
    contract.images_are_independent(subject(variant), implementation)


@every_variant
@every_form
def test_every_parameter_gets_a_gradient(variant: str, implementation: str) -> None:
    contract.every_parameter_is_trained(subject(variant), implementation)


@every_variant
@every_form
def test_inputs_are_left_alone(variant: str, implementation: str) -> None:
    contract.inputs_are_left_alone(subject(variant), implementation)


@every_variant
def test_both_forms_share_state(variant: str) -> None:
    contract.forms_share_state(subject(variant))


@every_variant
@every_form
def test_copies_and_pickles_compute_the_same(variant: str, implementation: str) -> None:
    contract.copies_compute_the_same(subject(variant), implementation)


@every_variant
@every_form
def test_dropout_acts_in_training_only(variant: str, implementation: str) -> None:
    contract.dropout_acts_in_training_only(subject(variant), implementation)


@pytest.mark.parametrize("variant", ONE_CELL)
@every_form
def test_one_image_cannot_train_a_branch_pooled_to_one_cell(
    variant: str, implementation: str
) -> None:
    refusal = contract.one_image(subject(variant), implementation)
    assert refusal is not None
    assert re.search(r"batch norm over one value.*batch of at least 2", refusal)


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v not in ONE_CELL])
def test_other_heads_train_on_one_image(variant: str) -> None:
    assert contract.one_image(subject(variant)) is None


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
