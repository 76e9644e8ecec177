"""Scores against per-pixel sets, torchmetrics and hand-made counts."""

import math
import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from contextbench.statistics.scores import CLASS_METRICS, Scores, group_iou, scores

IGNORE = 255
Maps = tuple[NDArray[np.int64], NDArray[np.int64]]


def _maps(num_classes: int, *, absent: int | None = None, seed: int = 0) -> Maps:
    """A random label map with ignored pixels and a prediction that is right for about half."""
    generator = np.random.default_rng(seed)
    present = [k for k in range(num_classes) if k != absent]
    labels = generator.choice(present, (3, 13, 17))
    guess = generator.choice(present, labels.shape)
    prediction = np.where(generator.random(labels.shape) < 0.5, labels, guess)
    return prediction, np.where(generator.random(labels.shape) < 0.2, IGNORE, labels)


def _counts(maps: Maps, num_classes: int) -> tuple[NDArray[np.int64], ...]:
    """Pixels per image and class, one comparison at a time."""
    prediction, labels = maps
    counts = np.zeros((3, len(labels), num_classes), dtype=np.int64)
    for index, label in np.ndenumerate(labels):
        if label != IGNORE:
            guess = prediction[index]
            counts[0, index[0], label] += guess == label
            counts[1, index[0], guess] += 1
            counts[2, index[0], label] += 1
    return tuple(counts)


def _by_sets(maps: Maps, num_classes: int) -> list[float]:
    """IoU as the size of an intersection over that of a union of pixel sets."""
    prediction, labels = maps
    valid = labels != IGNORE
    iou = []
    for k in range(num_classes):
        guessed = set(np.flatnonzero((prediction == k) & valid).tolist())
        truth = set(np.flatnonzero(labels == k).tolist())
        union = guessed | truth
        iou.append(len(guessed & truth) / len(union) if union else math.nan)
    return iou


@pytest.mark.parametrize("absent", [None, 2])
def test_iou_is_intersection_over_union_of_pixel_sets(absent: int | None) -> None:
    maps = _maps(5, absent=absent)
    result = scores(*_counts(maps, 5))
    expected = _by_sets(maps, 5)
    np.testing.assert_allclose(result.iou_per_class, expected)
    np.testing.assert_allclose(result.miou, np.nanmean(expected))
    assert result.absent == (() if absent is None else (absent,))


def test_accuracies_by_their_definitions() -> None:
    prediction, labels = maps = _maps(5)
    result = scores(*_counts(maps, 5))
    valid = labels != IGNORE
    right = prediction == labels
    shares = [(labels[valid] == k).mean() for k in range(5)]
    np.testing.assert_allclose(result.pixel_accuracy, right[valid].mean())
    per_class = [right[labels == k].mean() for k in range(5)]
    np.testing.assert_allclose(result.mean_accuracy, np.mean(per_class))
    weighted = np.dot(shares, _by_sets(maps, 5))
    np.testing.assert_allclose(result.frequency_weighted_iou, weighted)


@pytest.mark.parametrize("absent", [None, 2])
def test_agrees_with_torchmetrics(absent: int | None) -> None:
    torch = pytest.importorskip("torch")
    classification = pytest.importorskip("torchmetrics.classification")
    maps = _maps(5, absent=absent, seed=1)
    tensors = [torch.from_numpy(each) for each in maps]
    result = scores(*_counts(maps, 5))
    present = [k for k in range(5) if k != absent]
    per_class = classification.MulticlassJaccardIndex(5, average=None, ignore_index=IGNORE)
    np.testing.assert_allclose(
        np.array(result.iou_per_class)[present],
        per_class(*tensors).numpy()[present],
        rtol=1e-6,  # torchmetrics divides in float32
    )
    mean = classification.MulticlassJaccardIndex(5, average="macro", ignore_index=IGNORE)
    np.testing.assert_allclose(result.miou, mean(*tensors).item(), rtol=1e-6)
    micro = classification.MulticlassAccuracy(5, average="micro", ignore_index=IGNORE)
    np.testing.assert_allclose(result.pixel_accuracy, micro(*tensors).item(), rtol=1e-6)


def test_f1_precision_and_recall_agree_with_torchmetrics_class_by_class() -> None:
    torch = pytest.importorskip("torch")
    classification = pytest.importorskip("torchmetrics.classification")
    maps = _maps(5, absent=2, seed=3)
    counts = _counts(maps, 5)
    tensors = [torch.from_numpy(each) for each in maps]
    summed = [each.sum(axis=0) for each in counts]
    present = [k for k in range(5) if k != 2]
    for metric, name in (("f1", "F1Score"), ("precision", "Precision"), ("recall", "Recall")):
        oracle = getattr(classification, f"Multiclass{name}")
        found = CLASS_METRICS[metric](*summed)  # type: ignore[index]
        expected = oracle(5, average=None, ignore_index=IGNORE)(*tensors).numpy()
        np.testing.assert_allclose(found[present], expected[present], rtol=1e-6)  # float32
        assert math.isnan(found[2])
        mean = oracle(5, average="macro", ignore_index=IGNORE)(*tensors).item()
        np.testing.assert_allclose(np.nanmean(found), mean, rtol=1e-6)
    result = scores(*counts)
    np.testing.assert_allclose(result.mean_f1, np.nanmean(CLASS_METRICS["f1"](*summed)))
    np.testing.assert_allclose(
        result.mean_precision, np.nanmean(CLASS_METRICS["precision"](*summed))
    )
    np.testing.assert_allclose(result.mean_accuracy, np.nanmean(CLASS_METRICS["recall"](*summed)))


def test_a_labelled_class_that_is_never_predicted_has_precision_and_f1_zero() -> None:
    """Left out of the mean, a head would gain by never predicting what it is unsure of."""
    result = scores([5, 0], [8, 0], [5, 3])
    assert result.mean_precision == (5 / 8 + 0) / 2
    assert result.mean_f1 == (10 / 13 + 0) / 2


def test_hand_made_counts() -> None:
    """Class 0: I 6, P 8, L 7, so 6/9. Class 1: 2, 3, 4, so 2/5. Class 2 is absent."""
    result = scores([6, 2, 0], [8, 3, 0], [7, 4, 0])
    expected = Scores(
        miou=(6 / 9 + 2 / 5) / 2,
        pixel_accuracy=8 / 11,
        mean_accuracy=(6 / 7 + 2 / 4) / 2,
        frequency_weighted_iou=7 / 11 * 6 / 9 + 4 / 11 * 2 / 5,
        iou_per_class=result.iou_per_class,
        absent=(2,),
        stray=0,
    )
    for name in ("miou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou", "absent"):
        assert getattr(result, name) == pytest.approx(getattr(expected, name)), name
    assert result.iou_per_class == pytest.approx((6 / 9, 2 / 5, math.nan), nan_ok=True)


def test_a_class_that_is_only_predicted_is_left_out_and_its_pixels_counted() -> None:
    """No label can show how well it is found; the class that it was taken from loses 3 pixels."""
    result = scores([5, 0], [5, 3], [8, 0])
    assert result.iou_per_class == pytest.approx((5 / 8, math.nan), nan_ok=True)
    assert result.miou == result.mean_accuracy == 5 / 8
    assert (result.absent, result.stray) == ((1,), 3)


def test_ten_stray_pixels_of_five_million_cost_as_little_as_they_are() -> None:
    right = np.full(19, 256_000)
    right[18] = 0
    labelled = right + 80_000 * (right > 0)
    guessed = labelled.copy()
    stray = guessed.copy()
    stray[0], stray[18] = stray[0] - 10, 10
    before, after = (scores(right, each, labelled) for each in (guessed, stray))
    assert abs(before.miou - after.miou) < 1e-5
    assert (before.stray, after.stray) == (0, 10)


def test_images_are_summed_before_dividing() -> None:
    """One confusion over the split: (3 + 1) / (4 + 4), not the mean of 3/4 and 1/4."""
    per_image = scores([[3, 0], [1, 0]], [[3, 1], [1, 1]], [[3, 1], [2, 0]])
    assert per_image == scores([4, 0], [4, 2], [5, 1])


def test_counts_are_summed_in_int64() -> None:
    """Two images of 2**31 - 1 pixels overflow int32, and 2**53 + 1 is not a float64."""
    big = np.array([[2**31 - 1], [2**31 - 1]], dtype=np.int32)
    assert scores(big, big, big).miou == 1.0
    odd = 2**53
    result = scores([odd, 0], [odd, 1], [odd + 1, 0])
    assert result.pixel_accuracy == pytest.approx(1.0)
    assert result.stray == 1


def test_nothing_labelled_is_nan_without_a_warning() -> None:
    result = scores([0, 0], [0, 0], [0, 0])
    for name in ("miou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou"):
        assert math.isnan(getattr(result, name)), name
    assert result.absent == (0, 1)
    assert math.isnan(scores(*np.zeros((3, 0, 4), dtype=np.int64)).miou)


def test_groups_average_their_present_classes() -> None:
    iou = (0.5, 0.25, math.nan, 0.75)
    groups = {"whole": (0, 1), "part": (2, 3), "gone": (2,)}
    result = group_iou(iou, groups)
    assert result["whole"] == 0.375
    assert result["part"] == 0.75
    assert math.isnan(result["gone"])


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (([1.0], [1.0], [1.0]), "integers"),
        (([1], [1, 2], [1]), r"\(K,\) or \(images, K\)"),
        (([[[1]]], [[[1]]], [[[1]]]), r"\(K,\) or \(images, K\)"),
        (([3], [2], [3]), "exceeds its class"),
        (([-1], [2], [2]), "exceeds its class"),
        (([2], [5], [3]), r"\(5 and 3\)"),  # ignored pixels counted as predicted
    ],
)
def test_impossible_counts_are_refused(counts: tuple[object, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scores(*counts)  # type: ignore[arg-type]


def test_needs_no_torch() -> None:
    code = "import sys, contextbench.statistics.scores; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
