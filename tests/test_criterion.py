"""The losses that a protocol may turn on, against per-pixel loops and their formulas."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from contextbench.config.protocols import load_protocol
from contextbench.config.training import LossConfig, OhemConfig
from contextbench.models.segmenter import resize_logits
from contextbench.training.losses import (
    Criterion,
    dice_loss,
    hard_pixels,
    loss_terms,
    lovasz_softmax,
    pixel_cross_entropy,
)
from heads.interface import HeadOutput

IGNORE = 255
CLASSES = 4


def _logits(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _labels() -> Tensor:
    """(2, 6, 7) with every class but the last and some ignored pixels."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, CLASSES - 1, (2, 6, 7), generator=generator, dtype=torch.uint8)
    labels[0, 0] = IGNORE
    return labels


def _log_probabilities(logits: Tensor, labels: Tensor) -> list[tuple[int, list[float]]]:
    """(label, log softmax) of each labelled pixel, as Python numbers."""
    resized = resize_logits(logits, (labels.shape[1], labels.shape[2])).log_softmax(dim=1)
    pixels = itertools.product(*map(range, labels.shape))
    return [
        (int(labels[i, y, x]), resized[i, :, y, x].tolist())
        for i, y, x in pixels
        if labels[i, y, x] != IGNORE
    ]


def test_without_options_it_is_the_plain_cross_entropy() -> None:
    logits, labels = _logits(2, CLASSES, 3, 3), _labels()
    criterion = Criterion.of(load_protocol("camvid-small"), None)
    assert load_protocol("camvid-small").train.loss == LossConfig()
    assert torch.equal(criterion.pixel_loss(logits, labels), pixel_cross_entropy(logits, labels))
    assert criterion.extra_weights == criterion.extra_terms(logits, labels) == {}


def test_class_weights_are_divided_out() -> None:
    """sum_i w_{y_i} l_i / sum_i w_{y_i}: equal weights of any size change nothing."""
    logits, labels = _logits(2, CLASSES, 3, 3), _labels()
    weights = [0.5, 2.0, 0.0, 7.0]
    pixels = _log_probabilities(logits, labels)
    expected = sum(weights[y] * -p[y] for y, p in pixels) / sum(weights[y] for y, _ in pixels)
    loss = Criterion(torch.tensor(weights)).pixel_loss(logits, labels)
    torch.testing.assert_close(loss, torch.tensor(expected))
    equal = Criterion(torch.full((CLASSES,), 3.0)).pixel_loss(logits, labels)
    torch.testing.assert_close(equal, pixel_cross_entropy(logits, labels))


def test_label_smoothing_mixes_in_the_uniform_distribution() -> None:
    logits, labels = _logits(2, CLASSES, 3, 3), _labels()
    pixels = _log_probabilities(logits, labels)
    losses = [-0.9 * p[y] - 0.1 * sum(p) / CLASSES for y, p in pixels]
    loss = Criterion(label_smoothing=0.1).pixel_loss(logits, labels)
    torch.testing.assert_close(loss, torch.tensor(sum(losses) / len(losses)))


@pytest.mark.parametrize("threshold", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("keep", [1, 20, 1000])
def test_ohem_averages_over_the_hard_pixels(threshold: float, keep: int) -> None:
    """By the true class's probability: the `keep` lowest, and all that are up to the threshold."""
    logits, labels = _logits(2, CLASSES, 6, 7), _labels()
    losses = sorted((-p[y] for y, p in _log_probabilities(logits, labels)), reverse=True)
    hard = [loss for rank, loss in enumerate(losses) if rank < keep or math.exp(-loss) <= threshold]
    loss = Criterion(ohem=OhemConfig(threshold=threshold, keep=keep)).pixel_loss(logits, labels)
    torch.testing.assert_close(loss, torch.tensor(sum(hard) / len(hard)))


def test_ignored_pixels_are_never_hard() -> None:
    labels = _labels().long()
    losses = F.cross_entropy(
        _logits(2, CLASSES, 6, 7), labels, ignore_index=IGNORE, reduction="none"
    )
    hard = hard_pixels(losses, labels != IGNORE, OhemConfig(threshold=1.0, keep=1))
    assert torch.equal(hard, labels != IGNORE)


def test_class_weights_and_smoothing_do_not_change_which_pixels_are_hard() -> None:
    """The mean of weighted, smoothed losses over the pixels that are hard by the plain one."""
    logits, labels = _logits(2, CLASSES, 6, 7), _labels().long()
    ohem, weights = OhemConfig(threshold=0.3, keep=20), torch.tensor([1.0, 9.0, 0.2, 3.0])
    plain = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")
    hard = torch.zeros_like(plain, dtype=torch.bool).flatten()
    order = plain.flatten().sort(descending=True).indices.tolist()
    for rank, pixel in enumerate(order):
        hard[pixel] = rank < 20 or math.exp(-plain.flatten()[pixel]) <= 0.3
    hard = hard.view_as(plain) & (labels != IGNORE)
    smoothed = F.cross_entropy(
        logits, labels, weights, ignore_index=IGNORE, reduction="none", label_smoothing=0.1
    )
    expected = smoothed[hard].sum() / weights[labels[hard]].sum()
    criterion = Criterion(class_weights=weights, ohem=ohem, label_smoothing=0.1)
    torch.testing.assert_close(criterion.pixel_loss(logits, labels), expected)


@pytest.mark.parametrize(
    "criterion",
    [
        Criterion(),
        Criterion(ohem=OhemConfig(threshold=0.3, keep=20)),
        Criterion(class_weights=torch.tensor([1.0, 9.0, 0.2, 3.0]), label_smoothing=0.1),
    ],
    ids=["plain", "ohem", "weights, smoothing"],
)
def test_the_layout_of_logits_changes_neither_loss_nor_gradient(criterion: Criterion) -> None:
    """Rows of classes, which channels-last logits are taken as, against the strided dimension."""
    labels = _labels()
    losses, gradients = [], []
    for layout in (torch.contiguous_format, torch.channels_last):
        logits = _logits(2, CLASSES, 3, 4).contiguous(memory_format=layout).requires_grad_()
        loss = criterion.pixel_loss(logits, labels)
        loss.backward()
        assert logits.grad is not None
        losses.append(loss.detach())
        gradients.append(logits.grad)
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_dice_by_hand() -> None:
    """Two pixels of class 0, one of 1, none of 2 and 3: 1 - 2 overlap / (predicted + true)."""
    p = torch.tensor([[0.5, 0.3, 0.1, 0.1], [0.7, 0.1, 0.1, 0.1], [0.2, 0.6, 0.1, 0.1]])
    zero = 1 - 2 * (0.5 + 0.7) / (0.5 + 0.7 + 0.2 + 2)
    one = 1 - 2 * 0.6 / (0.3 + 0.1 + 0.6 + 1)
    loss = dice_loss(p, torch.tensor([0, 0, 1]))
    torch.testing.assert_close(loss, torch.tensor((zero + one) / 2))


def _jaccard_loss(wrong: set[int], foreground: set[int]) -> float:
    """1 - IoU of a prediction that is wrong on `wrong`: |wrong| / |foreground or wrong|."""
    return len(wrong) / len(foreground | wrong) if wrong else 0.0


def test_lovasz_is_the_extension_of_the_jaccard_loss() -> None:
    """sum_i m_(i) (J({1..i}) - J({1..i-1})), errors m in falling order, from the set function."""
    probabilities = _logits(9, CLASSES).softmax(dim=1)
    truth = torch.tensor([0, 0, 1, 2, 2, 2, 1, 0, 1])
    losses = []
    for k in range(CLASSES - 1):  # the last class is absent
        errors = [abs(float(truth[i] == k) - float(probabilities[i, k])) for i in range(9)]
        order = sorted(range(9), key=lambda i: -errors[i])
        foreground = {i for i in range(9) if truth[i] == k}
        growth = [
            _jaccard_loss(set(order[: n + 1]), foreground)
            - _jaccard_loss(set(order[:n]), foreground)
            for n in range(9)
        ]
        losses.append(sum(errors[i] * g for i, g in zip(order, growth, strict=True)))
    loss = lovasz_softmax(probabilities, truth)
    torch.testing.assert_close(loss, torch.tensor(sum(losses) / len(losses)))


@pytest.mark.parametrize("wrong", [0, 2, 5])
def test_lovasz_of_a_hard_prediction_is_one_minus_iou(wrong: int) -> None:
    truth = torch.tensor([0] * 6 + [1] * 6)
    predicted = torch.tensor([1] * wrong + [0] * (6 - wrong) + [1] * 6)
    iou = [(6 - wrong) / 6, 6 / (6 + wrong)]
    loss = lovasz_softmax(torch.nn.functional.one_hot(predicted, 2).double(), truth)
    torch.testing.assert_close(loss, torch.tensor(1 - sum(iou) / 2, dtype=torch.float64))


@pytest.mark.parametrize("function", [dice_loss, lovasz_softmax])
def test_gradients_of_added_losses(function) -> None:
    logits = _logits(7, CLASSES, seed=3).double().requires_grad_()
    truth = torch.tensor([0, 1, 2, 0, 1, 2, 2])
    assert torch.autograd.gradcheck(lambda x: function(x.softmax(dim=1), truth), (logits,))


@pytest.mark.parametrize(
    "criterion",
    [
        Criterion(torch.ones(CLASSES)),
        Criterion(ohem=OhemConfig(keep=5)),
        Criterion(label_smoothing=0.1, dice=1.0, lovasz=1.0),
    ],
)
def test_a_crop_without_labels_teaches_nothing(criterion: Criterion) -> None:
    logits = _logits(2, CLASSES, 3, 3).requires_grad_()
    labels = torch.full((2, 6, 7), IGNORE, dtype=torch.uint8)
    terms = loss_terms(HeadOutput(logits, {}, {}), labels, IGNORE, criterion)
    total = torch.stack(list(terms.values())).sum()
    assert total.item() == 0.0
    total.backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_terms_of_the_protocol_stand_beside_those_of_the_head() -> None:
    criterion = Criterion(dice=0.5, lovasz=2.0)
    logits, labels = _logits(2, CLASSES, 3, 3), _labels()
    terms = loss_terms(HeadOutput(logits, {"aux": logits}, {}), labels, IGNORE, criterion)
    assert set(terms) == {"main", "aux", "dice", "lovasz"}
    assert criterion.extra_weights == {"dice": 0.5, "lovasz": 2.0}
    assert torch.equal(terms["main"], terms["aux"])  # neither is in either


def test_ohem_and_weights_reach_every_pixel_term() -> None:
    criterion = Criterion(torch.tensor([1.0, 2.0, 3.0, 4.0]), OhemConfig(threshold=0.2, keep=3))
    logits, labels = _logits(2, CLASSES, 3, 3), _labels()
    terms = loss_terms(HeadOutput(logits, {"aux": logits}, {}), labels, IGNORE, criterion)
    assert torch.equal(terms["main"], terms["aux"])
    assert not torch.allclose(terms["main"], pixel_cross_entropy(logits, labels))


def test_aligned_corners_of_a_protocol_reach_every_loss() -> None:
    """Of logits at another size: main, auxiliary and further terms alike."""
    logits, labels = _logits(2, CLASSES, 3, 3), _labels()
    resized = torch.nn.functional.interpolate(logits, (6, 7), mode="bilinear", align_corners=True)
    settings = ["align_corners=true", "train.loss.dice=0.5", "train.loss.label_smoothing=0.1"]
    for overrides in (settings[:1], settings):
        aligned = Criterion.of(load_protocol("probe", overrides), None)
        plain = Criterion.of(load_protocol("probe", overrides[1:]), None)
        output = HeadOutput(logits, {"aux": logits}, {})
        expected = HeadOutput(resized, {"aux": resized}, {})
        ours = loss_terms(output, labels, IGNORE, aligned)
        theirs = loss_terms(expected, labels, IGNORE, plain)
        assert ours.keys() == theirs.keys()
        for name, term in ours.items():
            torch.testing.assert_close(term, theirs[name])
