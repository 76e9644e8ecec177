"""Image and labels go through one geometry, and the generator alone decides which."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from contextbench.data.base import IGNORE, DataError, LabelSet
from contextbench.data.transforms import (
    MEAN,
    STD,
    TrainTransform,
    check_crop,
    mirror_labels,
    normalise,
)


def generator(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def halves(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Labels 0/1 in four quadrants; the image is 40 where the label is 0 and 200 where it is 1."""
    rows, columns = torch.arange(height) >= height // 2, torch.arange(width) >= width // 3
    labels = (rows[:, None] ^ columns).to(torch.uint8)
    return (40 + 160 * labels).expand(3, height, width).contiguous(), labels


def denormalised(image: Tensor) -> Tensor:
    return (image * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)) * 255


def test_normalise_is_the_published_formula() -> None:
    image = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8, generator=generator(0))
    before = image.clone()
    result = normalise(image)
    for channel in range(3):
        expected = (image[:, channel].double() / 255 - MEAN[channel]) / STD[channel]
        torch.testing.assert_close(result[:, channel], expected.float())
    torch.testing.assert_close(normalise(image[0]), result[0])
    assert torch.equal(image, before)


def test_without_randomness_it_is_normalisation_only() -> None:
    image, labels = halves(12, 16)
    transform = TrainTransform(crop=(12, 16), scale=(1.0, 1.0), flip=False, jitter=0.0)
    got_image, got_labels = transform(image, labels, generator(0))
    torch.testing.assert_close(got_image, normalise(image))
    assert torch.equal(got_labels, labels)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(
    seed=st.integers(0, 2**31),
    size=st.tuples(st.integers(8, 40), st.integers(8, 40)),
    crop=st.tuples(st.integers(8, 48), st.integers(8, 48)),
    scale=st.floats(0.4, 2.5),
)
def test_image_and_labels_stay_aligned_at_every_scale_and_crop(
    seed: int, size: tuple[int, int], crop: tuple[int, int], scale: float
) -> None:
    """Label boundaries lie where the image's grey value crosses its middle, to half a pixel.

    Bilinear weights are symmetric about a boundary, so on either side of it the resized grey value
    is on the side of its label; a nearest neighbour that is off by half a pixel breaks this.
    Within rounding of the middle (a boundary that falls on a pixel's centre) both are right.
    """
    image, labels = halves(*size)
    transform = TrainTransform(crop=crop, scale=(scale, scale), flip=True, jitter=0.0)
    got_image, got_labels = transform(image, labels, generator(seed))
    assert got_image.shape == (3, *crop)
    assert got_image.dtype == torch.float32
    assert got_labels.shape == crop
    assert got_labels.dtype == torch.uint8
    grey = denormalised(got_image)[0]
    seen = got_labels != IGNORE
    wrong = seen & ((grey > 120) != (got_labels == 1)) & ((grey - 120).abs() > 8)
    corner = _near_both_boundaries(got_labels)  # two boundaries meet: bilinear mixes four values
    assert not (wrong & ~corner).any()


def _near_both_boundaries(labels: Tensor, reach: int = 4) -> Tensor:
    """Pixels within `reach` of a row where labels change and of a column where they change."""
    rows = (labels[1:] != labels[:-1]).any(1).nonzero().flatten()
    columns = (labels[:, 1:] != labels[:, :-1]).any(0).nonzero().flatten()
    near_row, near_column = torch.zeros(labels.shape[0]), torch.zeros(labels.shape[1])
    for row in rows.tolist():
        near_row[max(0, row - reach + 1) : row + reach + 1] = 1
    for column in columns.tolist():
        near_column[max(0, column - reach + 1) : column + reach + 1] = 1
    return (near_row[:, None] * near_column).bool()


def test_a_crop_is_a_window_of_the_image() -> None:
    image = torch.arange(3 * 10 * 12, dtype=torch.uint8).view(3, 10, 12)
    labels = torch.arange(120, dtype=torch.uint8).view(10, 12)
    transform = TrainTransform(crop=(4, 5), scale=(1.0, 1.0), flip=False, jitter=0.0)
    seen = set()
    for seed in range(200):
        got_image, got_labels = transform(image, labels, generator(seed))
        row, column = divmod(int(got_labels[0, 0]), 12)
        seen.add((row, column))
        assert torch.equal(got_labels, labels[row : row + 4, column : column + 5])
        expected = normalise(image[:, row : row + 4, column : column + 5])
        torch.testing.assert_close(got_image, expected)
    assert {row for row, _ in seen} == set(range(7))
    assert {column for _, column in seen} == set(range(8))


def test_padding_is_the_mean_in_the_image_and_ignored_in_the_labels() -> None:
    image, labels = torch.full((3, 6, 8), 255, dtype=torch.uint8), torch.zeros(6, 8).byte()
    transform = TrainTransform(crop=(10, 11), scale=(1.0, 1.0), flip=False, jitter=0.0)
    offsets = set()
    for seed in range(100):
        got_image, got_labels = transform(image, labels, generator(seed))
        inside = got_labels == 0
        assert int(inside.sum()) == 48
        assert bool((got_labels[~inside] == IGNORE).all())
        assert bool((got_image[:, ~inside] == 0).all())
        assert bool((got_image[:, inside] > 0).all())
        offsets.add(tuple(inside.nonzero()[0].tolist()))
    assert offsets == {(row, column) for row in range(5) for column in range(4)}


@pytest.mark.parametrize("scale", [0.5, 0.8, 1.5, 2.0])
def test_the_scale_is_the_size_of_what_is_seen(scale: float) -> None:
    """A square of 20 pixels covers 20 * scale pixels of the crop, to one pixel a side."""
    labels = torch.zeros(40, 40, dtype=torch.uint8)
    labels[10:30, 10:30] = 1
    transform = TrainTransform(crop=(80, 80), scale=(scale, scale), flip=False, jitter=0.0)
    _, got = transform(labels.expand(3, 40, 40), labels, generator(0))
    side = int((got == 1).any(1).sum())
    assert abs(side - 20 * scale) <= 1


def test_flips_are_left_to_right_and_happen_half_of_the_time() -> None:
    image, labels = halves(6, 9)
    transform = TrainTransform(crop=(6, 9), scale=(1.0, 1.0), flip=True, jitter=0.0)
    flips = 0
    for seed in range(400):
        got_image, got_labels = transform(image, labels, generator(seed))
        flipped = not torch.equal(got_labels, labels)
        flips += flipped
        assert torch.equal(got_labels, labels.flip(-1) if flipped else labels)
        torch.testing.assert_close(got_image, normalise(image.flip(-1) if flipped else image))
    assert abs(flips - 200) < 50  # five standard deviations of a fair coin over 400


def test_jitter_changes_colours_within_its_strength_and_no_labels() -> None:
    image, labels = torch.full((3, 4, 4), 100, dtype=torch.uint8), torch.zeros(4, 4).byte()
    transform = TrainTransform(crop=(4, 4), scale=(1.0, 1.0), flip=False, jitter=0.3)
    levels = []
    for seed in range(60):
        got_image, got_labels = transform(image, labels, generator(seed))
        levels.append(float(denormalised(got_image)[0, 0, 0]))
        assert torch.equal(got_labels, labels)
    # Contrast and saturation leave a uniform grey as it is, so brightness alone shows; the margin
    # is one level of rounding for each of three steps in 8 bits.
    assert 70 - 3 <= min(levels) < 80
    assert 120 < max(levels) <= 130 + 3


def test_the_generator_alone_decides_and_nothing_is_written_into_the_arguments() -> None:
    image, labels = halves(20, 30)
    before = image.clone(), labels.clone()
    transform = TrainTransform(crop=(16, 16), scale=(0.5, 2.0), flip=True, jitter=0.4)
    first, second, other = (transform(image, labels, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], other[0])
    first[0].zero_(), first[1].zero_()
    assert torch.equal(image, before[0])
    assert torch.equal(labels, before[1])


def test_results_do_not_share_memory_with_the_arguments() -> None:
    image, labels = halves(8, 8)
    before = labels.clone()
    transform = TrainTransform(crop=(8, 8), scale=(1.0, 1.0), flip=False, jitter=0.0)
    transform(image, labels, generator(0))[1].fill_(7)
    assert torch.equal(labels, before)


def test_a_crop_larger_than_any_scaled_image_is_refused() -> None:
    check_crop((180, 240), (360, 480), (0.5, 2.0))
    check_crop((720, 960), (360, 480), (0.5, 2.0))
    with pytest.raises(DataError, match=r"crop \[800, 240\].*\[360, 480\].*\[0\.5, 2\.0\].*720"):
        check_crop((800, 240), (360, 480), (0.5, 2.0))


@pytest.mark.parametrize(
    "change", [{"scale": (2.0, 1.0)}, {"scale": (0.0, 1.0)}, {"crop": (0, 4)}, {"jitter": 1.5}]
)
def test_impossible_settings_are_refused(change: dict) -> None:
    settings = {"crop": (4, 4), "scale": (1.0, 1.0), "flip": False, "jitter": 0.0, **change}
    with pytest.raises(DataError):
        TrainTransform(**settings)


SWAP = ((14, 15), (16, 17), (18, 19))  # LIP: left and right arms, legs, shoes


def test_mirrored_labels_exchange_left_and_right() -> None:
    labels = torch.tensor([[14, 0, 17], [19, IGNORE, 13]], dtype=torch.uint8)
    assert mirror_labels(labels, SWAP).tolist() == [[16, 0, 15], [13, IGNORE, 18]]
    assert mirror_labels(labels, ()).tolist() == [[17, 0, 14], [13, IGNORE, 19]]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_mirroring_labels_twice_gives_them_back(dtype: torch.dtype) -> None:
    labels = torch.randint(0, 20, (2, 5, 7), generator=generator(0)).to(dtype)
    before = labels.clone()
    once = mirror_labels(labels, SWAP)
    assert once.dtype == dtype
    assert not torch.equal(once, labels)
    assert torch.equal(mirror_labels(once, SWAP), labels)
    assert torch.equal(labels, before)


def test_mirrored_labels_follow_mirrored_logits() -> None:
    """One-hot logits of a mirrored label map, mirrored back by `LabelSet.mirrored`, are the map."""
    labels = torch.randint(0, 20, (1, 5, 7), generator=generator(1))
    mirrored = LabelSet(("c",) * 20, ((0, 0, 0),) * 20, swap=SWAP).mirrored
    one_hot = torch.nn.functional.one_hot(mirror_labels(labels, SWAP), 20).permute(0, 3, 1, 2)
    back = one_hot.flip(-1)[:, list(mirrored)]
    assert torch.equal(back.argmax(dim=1), labels)


def test_training_crops_swap_exactly_where_they_flip() -> None:
    image = torch.arange(3 * 4 * 6, dtype=torch.uint8).reshape(3, 4, 6)
    labels = torch.arange(14, 20, dtype=torch.uint8).expand(4, 6).contiguous()
    transform = TrainTransform(crop=(4, 6), scale=(1.0, 1.0), flip=True, jitter=0.0, swap=SWAP)
    seen = set()
    for seed in range(12):
        got_image, got_labels = transform(image, labels, generator(seed))
        flipped = torch.equal(got_image, normalise(image.flip(-1)))
        expected = [18, 19, 16, 17, 14, 15] if flipped else [14, 15, 16, 17, 18, 19]
        assert got_labels.tolist() == [expected] * 4
        assert flipped or torch.equal(got_image, normalise(image))
        seen.add(flipped)
    assert seen == {True, False}


def test_padding_and_ignored_pixels_are_not_swapped() -> None:
    labels = torch.full((4, 4), IGNORE, dtype=torch.uint8)
    transform = TrainTransform(crop=(6, 6), scale=(1.0, 1.0), flip=True, jitter=0.0, swap=SWAP)
    image = torch.zeros(3, 4, 4, dtype=torch.uint8)
    for seed in range(4):
        assert set(transform(image, labels, generator(seed))[1].unique().tolist()) == {IGNORE}
