"""Context probes: the same everywhere, all groups in each image, and no class told too cheaply."""

import hashlib
import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from contextbench.data.base import DataError
from contextbench.data.probe import (
    BLOBS,
    HUE_CIRCLE,
    KEYS,
    LARGE,
    SCENE,
    SMALL,
    Bits,
    ContextProbe,
    Disc,
    Patch,
    Plan,
    draw_plan,
    hue_to_rgb,
    render,
)

SIZE = (96, 96)
# Probe version 1; sizes 64x64, 192x192 and 96x130, and the second with two blobs a hue.
GOLDEN = ["5ca40731efe9bc0f", "0ee91b3367768365", "55e050f4fcb574eb", "e88e09cd3fa2870e"]
NAMES = ContextProbe.labels.classes
ID = {name: index for index, name in enumerate(NAMES)}


def plans(count: int) -> list[Plan]:
    return [draw_plan(Bits(0, 0, index), SIZE) for index in range(count)]


def rendered(plan: Plan, size: tuple[int, int] = SIZE) -> tuple[NDArray, NDArray]:
    """Always with the same noise, so that two plans differ by what they say only."""
    image, labels = render(plan, Bits(5), size)
    return image.astype(int), labels


def test_pixels_and_labels_are_the_same_on_every_machine() -> None:
    """Golden digests. A change needs a new `PROBE_VERSION`: old results stop being comparable."""
    samples = [ContextProbe(length=4, size=size, seed=3)[2] for size in [(64, 64), (192, 192)]]
    samples.append(ContextProbe(length=9, size=(96, 130), seed=0, split="val")[8])
    samples.append(ContextProbe(length=4, size=(192, 192), seed=3, blobs=2)[2])
    digests = [
        hashlib.sha256(s.image.numpy().tobytes() + s.labels.numpy().tobytes()).hexdigest()[:16]
        for s in samples
    ]
    assert digests == GOLDEN


def test_samples_have_the_declared_form() -> None:
    dataset = ContextProbe(length=2, size=(64, 80), seed=0)
    assert len(list(dataset)) == 2  # iteration ends: IndexError past the last
    sample = dataset[1]
    assert sample.name == "train-000001"
    assert sample.image.shape == (3, 64, 80)
    assert sample.labels.shape == (64, 80)
    assert sample.image.dtype == sample.labels.dtype == torch.uint8


@pytest.mark.parametrize("blobs", [1, 2])
@pytest.mark.parametrize("size", [(64, 64), (96, 150), (192, 192)])
def test_every_image_holds_all_four_groups(size: tuple[int, int], blobs: int) -> None:
    for sample in ContextProbe(length=20, size=size, seed=1, blobs=blobs):
        present = set(sample.labels.unique().tolist())
        either = {name for name in NAMES if name.startswith(("scene_", "local_marker_"))}
        assert {ID[name] for name in set(NAMES) - either} <= present
        assert (ID["scene_a"] in present) == (ID["local_marker_white"] in present)
        assert (ID["scene_b"] in present) == (ID["local_marker_black"] in present)
        assert len(present & {ID["scene_a"], ID["scene_b"]}) == 1


@pytest.mark.parametrize("blobs", [1, 2])
def test_a_grid_is_full_and_each_hue_has_its_key_and_blobs(blobs: int) -> None:
    """16 cells hold one figure each; a grey or plain blob is three discs."""
    for index in range(50):
        drawn = Counter(f.material for f in draw_plan(Bits(0, 0, index), SIZE, blobs).figures)
        discs = sum(drawn[material] for material in (SCENE, *BLOBS))
        assert discs / 3 + sum(drawn.values()) - discs == 16
        assert [drawn[key] for key in KEYS] == [1, 1, 1]
        assert [drawn[blob] for blob in BLOBS] == [3 * blobs] * 3


def test_both_scenes_and_all_patterns_are_equally_frequent() -> None:
    drawn = plans(2000)
    # Standard deviation of a fair coin's mean over 2000 is 0.011; 0.05 is more than four of them.
    assert abs(np.mean([plan.marker for plan in drawn]) - 0.5) < 0.05
    assert np.all(abs(np.mean([plan.patterns for plan in drawn], axis=0) - 0.5) < 0.05)


def test_swapping_the_marker_swaps_the_scene_and_changes_no_pixel_outside_the_marker() -> None:
    plan = plans(1)[0]
    image, labels = rendered(plan)
    swapped_image, swapped_labels = rendered(plan._replace(marker=1 - plan.marker))
    scene = np.isin(labels, (ID["scene_a"], ID["scene_b"]))
    assert scene.any()
    marker = labels == ID[f"local_marker_{('white', 'black')[plan.marker]}"]
    np.testing.assert_array_equal(swapped_labels[~scene & ~marker], labels[~scene & ~marker])
    assert np.all(swapped_labels[marker] == ID[f"local_marker_{('black', 'white')[plan.marker]}"])
    assert np.all(swapped_labels[scene] == ID["scene_a"] + ID["scene_b"] - labels[scene])
    rows, columns = np.nonzero((image != swapped_image).any(axis=0))
    np.testing.assert_array_equal(np.nonzero(marker), (rows, columns))
    # The marker's square: 10/48 of a grid cell of 24 pixels either side of its centre.
    assert len(rows) == (2 * (10 * 24 // 48) + 1) ** 2
    assert np.ptp(rows) == np.ptp(columns) == 2 * (10 * 24 // 48)


def test_swapping_the_keys_patterns_swaps_recall_classes_and_changes_no_pixel_of_a_blob() -> None:
    plan = plans(1)[0]
    other = {"stripes": "checks", "bars": "checks", "checks": "stripes"}
    figures = tuple(
        figure._replace(pattern=other[figure.pattern])
        if isinstance(figure, Patch) and figure.material in KEYS
        else figure
        for figure in plan.figures
    )
    swapped = plan._replace(patterns=tuple(1 - p for p in plan.patterns), figures=figures)
    (image, labels), (swapped_image, swapped_labels) = rendered(plan), rendered(swapped)
    recall = np.isin(labels, (ID["recall_striped"], ID["recall_checked"]))
    assert recall.any()
    assert np.all(swapped_labels[recall] != labels[recall])
    np.testing.assert_array_equal(swapped_image[:, recall], image[:, recall])
    keys = np.isin(labels, (ID["local_striped"], ID["local_checked"]))
    np.testing.assert_array_equal(swapped_image[:, ~keys], image[:, ~keys])
    assert (swapped_image != image)[:, keys].any()


def test_small_and_large_discs_have_one_appearance() -> None:
    """A plan whose discs are all called large gives the same pixels and other labels."""
    plan = plans(1)[0]
    figures = tuple(
        f._replace(material=LARGE) if isinstance(f, Disc) and f.material == SMALL else f
        for f in plan.figures
    )
    (image, labels), (same_image, same_labels) = (
        rendered(plan),
        rendered(plan._replace(figures=figures)),
    )
    np.testing.assert_array_equal(image, same_image)
    assert np.all(same_labels[labels == ID["size_small"]] == ID["size_large"])


def test_discs_differ_in_size_without_overlap() -> None:
    radii: dict[int, set[int]] = {SMALL: set(), LARGE: set()}
    for plan in plans(100):
        for figure in plan.figures:
            if figure.material in radii:
                radii[figure.material].add(figure.radius)
    # 8..11 and 18..22 48ths of a cell of 24 pixels.
    assert radii == {SMALL: {4, 5}, LARGE: {9, 10, 11}}


def test_a_recall_blob_has_the_class_of_the_key_of_its_hue() -> None:
    for plan in plans(20):
        _, labels = rendered(plan)
        shown = {f.material: f.pattern for f in plan.figures if isinstance(f, Patch)}
        for figure in plan.figures:
            if figure.material in BLOBS:
                key = KEYS[BLOBS.index(figure.material)]
                expected = "recall_checked" if shown[key] == "checks" else "recall_striped"
                assert labels[figure.y, figure.x] == ID[expected]


def test_hues_of_an_image_differ_clearly_and_cover_the_circle() -> None:
    drawn = np.array([plan.hues for plan in plans(500)])
    gaps = abs(drawn - np.roll(drawn, 1, axis=1))
    assert np.minimum(gaps, HUE_CIRCLE - gaps).min() >= HUE_CIRCLE // 3 - 2 * 96
    assert np.all(np.histogram(drawn, bins=8, range=(0, HUE_CIRCLE))[0] > 0)


def test_hues_are_the_hexagon_model() -> None:
    """Red, yellow, green, cyan, blue, magenta at every sixth, between 40 and 230."""
    lit = [hue_to_rgb(sixth * 256) for sixth in range(6)]
    on = [tuple(int(value == 230) for value in colour) for colour in lit]
    assert on == [(1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 1, 1), (0, 0, 1), (1, 0, 1)]
    assert {value for colour in lit for value in colour} == {40, 230}
    assert hue_to_rgb(128) == (230, 135, 40)  # half way from red to yellow


def test_figures_do_not_overlap_and_stay_inside() -> None:
    """Each figure of the plan lies in a grid cell of its own."""
    for plan in plans(50):
        cells = [
            {((f.y + dy) // 24, (f.x + dx) // 24) for dy in span for dx in span}
            for f in plan.figures
            for span in [(-f.radius, 0, f.radius)]
        ]
        assert all(len(cell) == 1 for cell in cells)
        owners: dict[tuple[int, int], set[int]] = {}
        for figure, cell in zip(plan.figures, cells, strict=True):
            owners.setdefault(next(iter(cell)), set()).add(figure.material)
        assert len(owners) == 16
        assert all(0 <= side < 4 for cell in owners for side in cell)
        assert all(len(materials) == 1 for materials in owners.values())
        assert sum(SCENE in materials for materials in owners.values()) == 3


def test_the_same_index_gives_the_same_image_and_another_gives_another() -> None:
    dataset = ContextProbe(length=9, size=SIZE, seed=4)
    again = pickle.loads(pickle.dumps(dataset))
    torch.testing.assert_close(dataset[7].image, again[7].image, rtol=0, atol=0)
    assert not torch.equal(dataset[7].image, dataset[8].image)
    assert not torch.equal(dataset[7].image, ContextProbe(length=9, size=SIZE, seed=5)[7].image)


def test_splits_share_no_image() -> None:
    digests = [
        hashlib.sha256(sample.image.numpy().tobytes()).digest()
        for split in ("train", "val", "test")
        for seed in (0, 1, 2)
        for sample in ContextProbe(length=5, size=(64, 64), seed=seed, split=split)
    ]
    assert len(set(digests)) == len(digests) == 45


def test_the_size_of_an_image_is_known_without_drawing_it() -> None:
    scenes = ContextProbe(length=1, size=(64, 96), seed=0)
    assert scenes.image_size(0) == tuple(scenes[0].image.shape[1:]) == (64, 96)


def test_the_fingerprint_tells_what_differs() -> None:
    base = {"length": 5, "size": SIZE, "seed": 0, "split": "train"}
    changes = [{}, {"length": 6}, {"size": (64, 64)}, {"seed": 1}, {"split": "val"}, {"blobs": 2}]
    prints = [ContextProbe(**{**base, **change}).fingerprint() for change in changes]
    assert len(set(prints)) == len(prints)
    assert prints[0] == ContextProbe(**base).fingerprint()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "trian"}, "'trian'.*train, val, test"),
        ({"length": 0}, "length 0"),
        ({"seed": -1}, "seed -1"),
        ({"size": (32, 96)}, r"\(32, 96\).*64"),
        ({"blobs": 3}, "blobs 3.*1 or 2"),
    ],
)
def test_impossible_requests_are_refused(change: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ContextProbe(**{"length": 5, "size": SIZE, "seed": 0, **change})


def test_groups_hold_every_class_but_the_background_once() -> None:
    grouped = [index for members in ContextProbe.labels.groups.values() for index in members]
    assert list(ContextProbe.labels.groups) == ["local", "scene", "size", "recall"]
    assert sorted(grouped) == list(range(1, len(NAMES)))


def test_the_palette_is_readable_without_colour_vision() -> None:
    """The two classes of a group pair differ in luma by a tenth of the range at least."""
    weights = np.array([0.299, 0.587, 0.114])
    luma = {n: float(weights @ c) for n, c in zip(NAMES, ContextProbe.labels.palette, strict=True)}
    for first, second in zip(NAMES[1::2], NAMES[2::2], strict=True):
        assert abs(luma[first] - luma[second]) > 25.5, (first, second)


def test_random_integers_are_uniform() -> None:
    bits = Bits(1)
    counts = np.bincount([bits.between(-1, 1) + 1 for _ in range(3000)])
    assert counts.tolist() == pytest.approx([1000] * 3, abs=110)  # four standard deviations of 26
    assert sorted(bits.shuffled(16)) == list(range(16))
    assert bits.between(3, 1) == 3
