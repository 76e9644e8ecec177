"""Loss terms against per-pixel loops, and what they do without labels."""

import math

import pytest
import torch
from torch import Tensor

from contextbench.models.segmenter import resize_logits
from contextbench.training.losses import (
    loss_terms,
    pixel_cross_entropy,
    presence_loss,
    weighted_sum,
)
from heads.interface import HeadOutput

IGNORE = 255
CLASSES = 4


def _logits(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def _labels(*shape: int, ignored: float = 0.3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, CLASSES, shape, generator=generator, dtype=torch.uint8)
    return torch.where(torch.rand(shape, generator=generator) < ignored, IGNORE, labels).to(
        torch.uint8
    )


def _loop_cross_entropy(logits: Tensor, labels: Tensor) -> float:
    """-log softmax at the label, averaged over labelled pixels, in Python floats."""
    losses = []
    n, _, height, width = logits.shape
    for i in range(n):
        for y in range(height):
            for x in range(width):
                label = int(labels[i, y, x])
                if label != IGNORE:
                    scores = logits[i, :, y, x].tolist()
                    losses.append(math.log(sum(map(math.exp, scores))) - scores[label])
    return sum(losses) / len(losses)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_cross_entropy_averages_over_labelled_pixels(dtype: torch.dtype) -> None:
    logits, labels = _logits(2, CLASSES, 3, 4), _labels(2, 17, 25)
    resized = resize_logits(logits, (17, 25))
    loss = pixel_cross_entropy(logits, labels.to(dtype), IGNORE)
    torch.testing.assert_close(loss, torch.tensor(_loop_cross_entropy(resized, labels)))


def test_uniform_logits_cost_log_k() -> None:
    loss = pixel_cross_entropy(torch.zeros(1, CLASSES, 2, 2), _labels(1, 8, 8, ignored=0.5))
    torch.testing.assert_close(loss, torch.tensor(math.log(CLASSES)))


def test_another_ignore_value() -> None:
    logits, labels = _logits(1, CLASSES, 4, 4), _labels(1, 4, 4, ignored=0.0)
    as_ignored = torch.where(labels == 2, IGNORE, labels.long())
    expected = pixel_cross_entropy(logits, as_ignored, IGNORE)
    torch.testing.assert_close(pixel_cross_entropy(logits, labels, 2), expected)


@pytest.mark.parametrize("loss", [pixel_cross_entropy, presence_loss])
def test_no_labelled_pixel_gives_zero_with_zero_gradients(loss: object) -> None:
    shape = (2, CLASSES, 3, 3) if loss is pixel_cross_entropy else (2, CLASSES)
    logits = _logits(*shape).requires_grad_()
    labels = torch.full((2, 12, 12), IGNORE, dtype=torch.uint8)
    value = loss(logits, labels, IGNORE)  # type: ignore[operator]
    assert value.item() == 0.0
    value.backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.zeros(shape))


def test_presence_is_bce_with_the_classes_of_each_crop() -> None:
    """-log sigmoid(s) where a class is present and -log(1 - sigmoid(s)) where not, averaged."""
    logits = _logits(2, CLASSES)
    labels = torch.tensor([[[1, 1], [3, IGNORE]], [[0, 0], [0, 0]]], dtype=torch.uint8)
    present = [{1, 3}, {0}]  # class 0 is not present in the first image for its ignored pixel
    losses = []
    for i in range(2):
        for k in range(CLASSES):
            probability = 1 / (1 + math.exp(-logits[i, k].item()))
            losses.append(-math.log(probability if k in present[i] else 1 - probability))
    value = presence_loss(logits, labels, IGNORE)
    torch.testing.assert_close(value, torch.tensor(sum(losses) / len(losses)))


def test_presence_leaves_out_crops_without_labels() -> None:
    logits, labels = _logits(3, CLASSES), _labels(3, 5, 5)
    labels = torch.where(torch.arange(3)[:, None, None] == 1, IGNORE, labels)
    expected = presence_loss(logits[[0, 2]], labels[[0, 2]], IGNORE)
    torch.testing.assert_close(presence_loss(logits, labels, IGNORE), expected)


@pytest.mark.parametrize("loss", [pixel_cross_entropy, presence_loss])
def test_float32_under_autocast(loss: object) -> None:
    """bfloat16 logits inside autocast: the value is that of the same numbers in float32."""
    logits = _logits(2, CLASSES, 3, 3) if loss is pixel_cross_entropy else _logits(2, CLASSES)
    rounded = logits.bfloat16()
    expected = loss(rounded.float(), _labels(2, 9, 9), IGNORE)  # type: ignore[operator]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(rounded, _labels(2, 9, 9), IGNORE)  # type: ignore[operator]
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected)


def test_labels_are_not_written_to() -> None:
    labels = _labels(2, 9, 9)
    before = labels.clone()
    pixel_cross_entropy(_logits(2, CLASSES, 3, 3), labels, IGNORE)
    presence_loss(_logits(2, CLASSES), labels, IGNORE)
    assert torch.equal(labels, before)


def test_loss_terms_have_the_names_of_the_output() -> None:
    labels = _labels(2, 16, 16)
    coarse, presence = _logits(2, CLASSES, 4, 4), _logits(2, CLASSES)
    logits = _logits(2, CLASSES, 2, 2)
    terms = loss_terms(HeadOutput(logits, {"coarse": coarse}, {"presence": presence}), labels, 255)
    assert list(terms) == ["main", "coarse", "presence"]
    torch.testing.assert_close(terms["main"], pixel_cross_entropy(logits, labels))
    torch.testing.assert_close(terms["coarse"], pixel_cross_entropy(coarse, labels))
    torch.testing.assert_close(terms["presence"], presence_loss(presence, labels))


def test_weighted_sum_by_hand() -> None:
    terms = {"main": torch.tensor(2.0), "aux": torch.tensor(5.0), "presence": torch.tensor(3.0)}
    total = weighted_sum(terms, {"presence": 0.0, "aux": 0.4})
    torch.testing.assert_close(total, torch.tensor(2.0 + 0.4 * 5.0))
    torch.testing.assert_close(weighted_sum({"main": terms["main"]}, {}), torch.tensor(2.0))


@pytest.mark.parametrize(
    "weights", [{}, {"aux": 0.4, "presence": 0.2}, {"coarse": 0.4}, {"main": 1.0, "aux": 0.4}]
)
def test_weighted_sum_refuses_other_names(weights: dict[str, float]) -> None:
    terms = {"main": torch.tensor(2.0), "aux": torch.tensor(5.0)}
    with pytest.raises(ValueError, match=r"loss terms are \['aux', 'main'\]"):
        weighted_sum(terms, weights)


def test_weighted_sum_needs_a_main_term() -> None:
    with pytest.raises(ValueError, match="'main' has weight 1"):
        weighted_sum({"aux": torch.tensor(1.0)}, {"aux": 0.4})
