"""What a view counts beside the pixels of classes, against loops over pixels and other packages."""

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from contextbench.config.evaluation import EvaluateConfig
from contextbench.data.base import IGNORE, LabelSet, Sample
from contextbench.evaluation.counters import Seen, count
from contextbench.evaluation.counting import _interleaved, confusion_table, evaluate
from contextbench.evaluation.prediction import Predictor
from contextbench.records.counters import BINS, CONFIDENCE, Pixels, Sparse, check, wanted
from contextbench.records.counts import Areas, read_areas, write_areas
from contextbench.records.stored import RecordError
from contextbench.records.views import ViewResult
from tests.report import records

K = 4
ALL: dict[str, Any] = {
    "confusion": True,
    "calibration": True,
    "boundary": {"diagonal": 0.05, "pixels": [1, 3]},
    "trimap": [1, 2, 4],
}
CONFIG = EvaluateConfig.model_validate(ALL)
Maps = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float32]]


def maps(seed: int, height: int = 19, width: int = 26) -> Maps:
    """Labels in patches with ignored ones, a prediction whose boundaries are elsewhere, and how
    sure it is."""
    generator = np.random.default_rng(seed)
    patches = generator.choice([0, 1, 2, 3, IGNORE], (5, 6), p=[0.3, 0.3, 0.2, 0.1, 0.1])
    labels = patches.repeat(4, axis=0)[:height].repeat(5, axis=1)[:, :width]
    prediction = np.roll(labels, (1, 2), (0, 1))
    prediction = np.where(prediction == IGNORE, 1, prediction)
    confidence = generator.uniform(0.25, 1, labels.shape)
    return labels.astype(np.uint8), prediction.astype(np.uint8), confidence.astype(np.float32)


def counted(name: Any, of: Maps, config: EvaluateConfig = CONFIG) -> NDArray[np.int64]:
    labels, prediction, confidence = map(torch.from_numpy, of)
    table = confusion_table(prediction, labels, K)
    found = count(name, Seen(table, prediction, labels, confidence, config))
    assert tuple(found.shape) == wanted(config, K)[name]
    assert found.dtype == torch.int64
    return found.numpy()


def test_a_confusion_is_counted_pixel_by_pixel() -> None:
    labels, prediction, _ = of = maps(0)
    expected = np.zeros((K, K), int)
    for label, guess in zip(labels.flat, prediction.flat, strict=True):
        if label != IGNORE:
            expected[label, guess] += 1
    np.testing.assert_array_equal(counted("confusion", of), expected)


def eroded(mask: NDArray[np.bool_], distance: int) -> NDArray[np.bool_]:
    """As OpenCV erodes `distance` times with 3 x 3 pixels after a frame of zeros was put around."""
    padded = np.pad(mask, 1)
    for _ in range(distance):
        windows = np.lib.stride_tricks.sliding_window_view(
            np.pad(padded, 1, constant_values=True), (3, 3)
        )
        padded = windows.all(axis=(2, 3))
    return padded[1:-1, 1:-1]


def test_boundary_bands_are_masks_less_their_erosion_class_by_class() -> None:
    """Cheng et al.: G_d and P_d of each class's masks, their intersection and their sizes."""
    labels, prediction, _ = of = maps(1)
    masked = np.where(labels == IGNORE, IGNORE, prediction)
    diagonal = max(1, round(0.05 * math.hypot(*labels.shape)))
    found = counted("boundary", of)
    for band, distance in enumerate((diagonal, 1, 3)):
        for k in range(K):
            truth, guess = labels == k, masked == k
            truth, guess = (mask & ~eroded(mask, distance) for mask in (truth, guess))
            expected = [(truth & guess).sum(), guess.sum(), truth.sum()]
            np.testing.assert_array_equal(found[band, :, k], expected)


def test_a_trimap_is_all_within_so_many_pixels_of_another_label() -> None:
    labels, prediction, _ = of = maps(2)
    found = counted("trimap", of)
    for row, width in enumerate((1, 2, 4)):
        expected = np.zeros((3, K), int)
        for (y, x), label in np.ndenumerate(labels):
            around = labels[max(0, y - width) : y + width + 1, max(0, x - width) : x + width + 1]
            if label != IGNORE and (around != label).any():
                guess = prediction[y, x]
                expected[0, label] += guess == label
                expected[1, guess] += 1
                expected[2, label] += 1
        np.testing.assert_array_equal(found[row], expected)


def test_a_band_wider_than_the_image_is_all_of_it() -> None:
    labels, prediction, _ = of = maps(3, 9, 7)
    config = EvaluateConfig.model_validate({"boundary": {"diagonal": None, "pixels": [40]}})
    table = confusion_table(torch.from_numpy(prediction), torch.from_numpy(labels), K)
    expected = torch.stack([table.diagonal(), table.sum(0), table.sum(1)])
    np.testing.assert_array_equal(counted("boundary", of, config)[0], expected.numpy())


def test_confidences_are_counted_by_bin_with_their_exact_sums() -> None:
    labels, prediction, confidence = of = maps(4)
    expected = np.zeros((3, BINS), int)
    for label, guess, sure in zip(labels.flat, prediction.flat, confidence.flat, strict=True):
        if label != IGNORE:
            parts = round(float(sure) * CONFIDENCE)
            in_bin = min(BINS - 1, parts * BINS // CONFIDENCE)
            expected[:, in_bin] += [int(guess == label), 1, parts]
    np.testing.assert_array_equal(counted("calibration", of), expected)


def test_a_confidence_of_one_is_in_the_last_bin() -> None:
    labels = prediction = np.zeros((2, 2), np.uint8)
    found = counted("calibration", (labels, prediction, np.ones((2, 2), np.float32)))
    np.testing.assert_array_equal(found[:, -1], [4, 4, 4 * CONFIDENCE])


class Pictures:
    """Labels and logits that a `Drawn` model turns into predictions."""

    labels = LabelSet(tuple("abcd"), ((0, 0, 0),) * K)

    def __init__(self, number: int = 7) -> None:
        self.number = number

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, index: int) -> Sample:
        labels, prediction, _ = maps(index, 16 + index, 20)
        image = torch.from_numpy(np.stack([prediction] * 3))
        return Sample(f"{index:03}", image, torch.from_numpy(labels))


class Scripted(Predictor):
    """Predicts what is in the image, as sure as its place says."""

    def __init__(self, config: EvaluateConfig = CONFIG) -> None:
        super().__init__([torch.nn.Identity()], torch.device("cpu"), None, config)  # type: ignore

    def scored(self, image: Any, labels: Any, *, each: bool) -> list[tuple[Any, Any]]:
        sure = torch.linspace(0.25, 1, labels.numel()).view_as(labels)
        return [(image[0], sure)] * (2 if each else 1)


@pytest.fixture(scope="module")
def areas() -> Areas:
    return evaluate(Scripted(), Pictures())  # type: ignore[arg-type]


def same(one: Areas, other: Areas) -> None:
    assert one.names == other.names
    assert one.further.keys() == other.further.keys()
    for name, counts in one.further.items():
        np.testing.assert_array_equal(counts.dense(), other.further[name].dense())


def test_images_are_stacked_and_agree_with_the_pixels_of_classes(areas: Areas) -> None:
    pixels = Pixels(areas.intersection, areas.predicted, areas.labelled)
    for name, shape in wanted(CONFIG, K).items():
        found = areas.further[name]
        assert found.shape == (7, *shape)
        check(name, found, pixels)
        np.testing.assert_array_equal(found.total(), found.dense().sum(axis=0))
    table = areas.further["confusion"].dense()
    np.testing.assert_array_equal(table.sum(axis=2), areas.labelled)
    np.testing.assert_array_equal(table.diagonal(axis1=1, axis2=2), areas.intersection)


@pytest.mark.parametrize("ranks", [2, 3])
def test_shards_of_several_processes_are_the_whole(areas: Areas, ranks: int) -> None:
    """Rank r has the images r, r + W, ..., as `evaluate` deals them."""

    class Part(Pictures):
        def __init__(self, rank: int) -> None:
            super().__init__(len(range(rank, 7, ranks)))
            self.rank = rank

        def __getitem__(self, index: int) -> Sample:
            return super().__getitem__(self.rank + index * ranks)

    shards = [evaluate(Scripted(), Part(rank)) for rank in range(ranks)]  # type: ignore[arg-type]
    same(_interleaved(shards), areas)


def test_a_plain_view_counts_nothing_more() -> None:
    assert not evaluate(Scripted(EvaluateConfig()), Pictures()).further  # type: ignore[arg-type]


# Files


def run_of(areas: Areas, settings: Any = ALL) -> Any:
    labels = records.LabelInfo(classes=list("abcd"), palette=[(0, 0, 0)] * K)
    run = records.run("fcn", 0, totals=areas.totals(), labels=labels, images=len(areas.names))
    view = ViewResult(
        settings=settings, split="val", fingerprint="f", dataset_fingerprint="d",
        evaluated_images=len(areas.names), totals=areas.totals(),
    )  # fmt: skip
    return run.model_copy(update={"views": {run.first_view: view}})


def test_what_was_counted_is_read_as_it_was_written(tmp_path: Path, areas: Areas) -> None:
    path = tmp_path / "areas.npz"
    write_areas(path, areas)
    same(read_areas(path, run_of(areas)), areas)
    assert not read_areas(path, run_of(areas, {})).further  # a view that did not ask
    assert not read_areas(path).further


def test_counts_that_a_view_asked_for_are_missed(tmp_path: Path, areas: Areas) -> None:
    write_areas(tmp_path / "areas.npz", dataclasses.replace(areas, further={}))
    with pytest.raises(RecordError, match=r"areas\.npz: cannot be read: it has no array 'conf"):
        read_areas(tmp_path / "areas.npz", run_of(areas))


def test_counts_of_other_options_are_refused(tmp_path: Path, areas: Areas) -> None:
    path = tmp_path / "areas.npz"
    write_areas(path, areas)
    with pytest.raises(RecordError, match=r"areas\.npz: cannot be read: trimap"):
        read_areas(path, run_of(areas, {**ALL, "trimap": [1]}))
    with pytest.raises(RecordError, match=r"its settings: .*trimap"):
        read_areas(path, run_of(areas, {**ALL, "trimap": "wide"}))


def changed(counts: Sparse, kind: str) -> Sparse:
    places, values = counts.places.copy(), counts.values.copy()
    if kind == "more":
        values[0] += 1
    elif kind == "moved":
        places[0] = counts.places[0] - 1 if counts.places[0] else places[0]
        places[-1] += 1
    elif kind == "twice":
        places[1] = places[0]
    elif kind == "outside":
        places[-1] = math.prod(counts.shape)
    elif kind == "around":  # ascending by differences of 64 bits, with the ends in their places
        places[-4:-1] = 2**63 - 1, -(2**63), -1
        assert (np.diff(places) > 0).all()
    elif kind == "negative":
        values[2] = -1
    elif kind == "huge":
        values[:] = 2**62
    elif kind == "fractions":
        return Sparse(counts.shape, places, values.astype(float))  # type: ignore[arg-type]
    elif kind == "lengths":
        return Sparse(counts.shape, places, values[:-1])
    return Sparse(counts.shape, places, values)


KINDS = ("more", "moved", "twice", "outside", "around", "negative", "huge", "fractions", "lengths")
POSSIBLE = set(itertools.product(("boundary", "trimap"), ("more", "moved")))  # of other predictions


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (name, kind)
        for name, kind in itertools.product(wanted(CONFIG, K), KINDS)
        if (name, kind) not in POSSIBLE
    ],
)
def test_counts_that_no_prediction_has_are_refused(
    tmp_path: Path, areas: Areas, name: Any, kind: str
) -> None:
    broken = {**areas.further, name: changed(areas.further[name], kind)}
    write_areas(tmp_path / "areas.npz", dataclasses.replace(areas, further=broken))
    with pytest.raises(RecordError, match=rf"areas\.npz: cannot be read: .*{name}"):
        read_areas(tmp_path / "areas.npz", run_of(areas))
