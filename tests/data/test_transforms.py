"""Image and labels go through one geometry, and the generator alone decides which."""

import math

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
    "change",
    [
        {"scale": (2.0, 1.0)},
        {"scale": (0.0, 1.0)},
        {"crop": (0, 4)},
        {"jitter": 1.5},
        {"aspect": (1.1, 0.9)},
        {"rotate": -1.0},
        {"rotate": 181.0},
        {"max_class_share": 0.0},
        {"max_class_share": 1.5},
    ],
)
def test_impossible_settings_are_refused(change: dict) -> None:
    settings = {"crop": (4, 4), "scale": (1.0, 1.0), "flip": False, "jitter": 0.0, **change}
    with pytest.raises(DataError):
        TrainTransform(**settings)


def test_draws_of_published_runs_are_kept() -> None:
    """With the later options off, seeds draw what they drew before there were any.

    The sums were taken from the version of the records in `results`; a draw more, less or in
    another order moves the crops.
    """
    labels = (torch.arange(40 * 60).reshape(40, 60) % 251).to(torch.uint8)
    image = (torch.arange(3 * 40 * 60).reshape(3, 40, 60) * 7 % 256).to(torch.uint8)
    transform = TrainTransform(crop=(32, 36), scale=(0.5, 2.0), flip=True, jitter=0.0)
    weights = torch.arange(1, 32 * 36 + 1).reshape(32, 36)
    got = [int((transform(image, labels, generator(s))[1] * weights).sum()) for s in range(4)]
    assert got == [86673074, 121377752, 87960546, 109555721]


def test_an_aspect_stretches_the_width_and_keeps_the_area() -> None:
    """Ratio 4: twice the width and half the height, so a square of 20 is 10 high and 40 wide."""
    labels = torch.zeros(80, 80, dtype=torch.uint8)
    labels[30:50, 30:50] = 1
    transform = TrainTransform(
        crop=(40, 160), scale=(1.0, 1.0), flip=False, jitter=0.0, aspect=(4.0, 4.0)
    )
    image, got = transform((200 * labels).expand(3, 80, 80), labels, generator(0))
    rows, columns = (got == 1).any(1), (got == 1).any(0)
    assert (int(rows.sum()), int(columns.sum())) == (10, 40)
    assert torch.equal(denormalised(image)[0] > 100, got == 1)


def test_aspects_are_within_their_range() -> None:
    labels = torch.zeros(80, 80, dtype=torch.uint8)
    labels[20:60, 20:60] = 1
    transform = TrainTransform(
        crop=(100, 100), scale=(1.0, 1.0), flip=False, jitter=0.0, aspect=(0.5, 2.0)
    )
    ratios = []
    for seed in range(60):
        got = transform(labels.expand(3, 80, 80), labels, generator(seed))[1] == 1
        ratios.append(int(got.any(0).sum()) / int(got.any(1).sum()))
    # A side of 28 to 57 pixels, rounded on either axis: 7 % at most.
    assert 0.5 / 1.07 <= min(ratios) < 0.65
    assert 1.8 < max(ratios) <= 2.0 * 1.07


def turned(picture: Tensor, labels: Tensor, degrees: float, seed: int = 0, **options: object):
    """The crop that shows the whole image, turned by exactly `degrees`."""
    settings = {"crop": tuple(labels.shape), "scale": (1.0, 1.0), "flip": False, "jitter": 0.0}
    transform = TrainTransform(**{**settings, "rotate": abs(degrees), **options})
    # Uniform numbers in 0 .. 1 have the two ends of the range at 0 and at 1.
    ends = iter([0.0, 1.0 if degrees > 0 else 0.0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "contextbench.data.transforms._uniform",
            lambda low, high, _: low + (high - low) * next(ends),
        )
        return transform(picture, labels, generator(seed))


@pytest.mark.parametrize(("degrees", "quarters"), [(90.0, 1), (-90.0, -1), (180.0, 2)])
def test_quarter_turns_are_exact_and_counter_clockwise(degrees: float, quarters: int) -> None:
    image = torch.randint(0, 256, (3, 9, 9), dtype=torch.uint8, generator=generator(0))
    labels = torch.arange(81, dtype=torch.uint8).reshape(9, 9)
    got_image, got_labels = turned(image, labels, degrees)
    assert torch.equal(got_labels, labels.rot90(quarters))
    torch.testing.assert_close(got_image, normalise(image.rot90(quarters, (1, 2))))


def test_padding_turns_with_the_crop() -> None:
    """Half a turn of a crop larger than the image is the upright crop upside down."""
    image = torch.randint(0, 256, (3, 9, 7), dtype=torch.uint8, generator=generator(0))
    labels = torch.arange(63, dtype=torch.uint8).reshape(9, 7)
    for seed in range(5):
        upright = turned(image, labels, 0.0, seed, crop=(16, 20))
        upside_down = turned(image, labels, 180.0, seed, crop=(16, 20))
        assert torch.equal(upside_down[1], upright[1].rot90(2))
        torch.testing.assert_close(upside_down[0], upright[0].rot90(2, (1, 2)))


def test_a_turned_crop_follows_the_rotation_matrix_and_pads_beyond_the_image() -> None:
    """Against a loop over pixels: the label at (cos dy + sin dx, cos dx - sin dy) from the centre.

    Pixels within 1e-3 of an edge between two source pixels may fall to either side.
    """
    labels = torch.arange(12 * 20, dtype=torch.uint8).reshape(12, 20)
    image, got = turned(labels.expand(3, 12, 20), labels, 30.0)
    cosine, sine = math.cos(math.radians(30)), math.sin(math.radians(30))
    padded = 0
    for row in range(12):
        for column in range(20):
            dy, dx = row + 0.5 - 6, column + 0.5 - 10
            y, x = 6 + cosine * dy + sine * dx, 10 + cosine * dx - sine * dy
            if min(abs(y - round(y)), abs(x - round(x))) < 1e-3:
                continue
            inside = 0 <= y < 12 and 0 <= x < 20
            padded += not inside
            expected = labels[int(y), int(x)] if inside else IGNORE
            assert got[row, column] == expected
            assert inside or not image[:, row, column].any()
    assert padded > 20


def test_the_corners_of_a_turned_crop_show_what_the_image_has_there() -> None:
    """A crop of 20 from an image of 60 has no padding, wherever the image goes on for 5 more."""
    labels = torch.zeros(60, 60, dtype=torch.uint8)
    transform = TrainTransform(crop=(20, 20), scale=(1.0, 1.0), flip=False, jitter=0.0, rotate=45.0)
    unpadded = 0
    for seed in range(50):
        image, got = transform(labels.expand(3, 60, 60), labels, generator(seed))
        assert torch.equal(got == IGNORE, (image == 0).all(0))
        unpadded += not bool((got == IGNORE).any())
    assert unpadded > 25  # 31 of 41 places an axis at the least, so more than half


@pytest.mark.parametrize("size", [(30, 44), (9, 7)])
@pytest.mark.parametrize("crop", [(16, 24), (40, 12)])
def test_all_options_together_keep_image_and_labels_aligned(
    size: tuple[int, int], crop: tuple[int, int]
) -> None:
    """As without rotation: where the image is bright the label is 1, but near boundaries."""
    image, labels = halves(*size)
    transform = TrainTransform(
        crop=crop,
        scale=(0.5, 2.0),
        flip=True,
        jitter=0.0,
        rotate=40.0,
        aspect=(0.8, 1.25),
        max_class_share=0.8,
    )
    for seed in range(40):
        got_image, got = transform(image, labels, generator(seed))
        assert got_image.shape == (3, *crop)
        assert got.shape == crop
        assert set(got.unique().tolist()) <= {0, 1, IGNORE}
        grey = denormalised(got_image)[0]
        sure = (got != IGNORE) & ((grey - 120).abs() > 75)  # bilinear mixes nothing there
        assert torch.equal((grey > 120)[sure], (got == 1)[sure])
        assert torch.equal(got_image[:, got == IGNORE], torch.zeros(3, int((got == IGNORE).sum())))
        again = transform(image, labels, generator(seed))
        assert torch.equal(again[0], got_image)
        assert torch.equal(again[1], got)


def test_a_crop_of_one_class_is_drawn_again() -> None:
    """Class 1 fills a corner, so a crop of 8 has both classes in 175 of its 625 places.

    A single draw hits one of them in 28 % of the cases, one of eleven in 1 - 0.72^11 = 97 %.
    """
    labels = torch.zeros(32, 32, dtype=torch.uint8)
    labels[:16, :16] = 1
    settings = {"crop": (8, 8), "scale": (1.0, 1.0), "flip": False, "jitter": 0.0}
    mixed = {}
    for share in (None, 0.999):
        transform = TrainTransform(**settings, max_class_share=share)
        crops = [transform(labels.expand(3, 32, 32), labels, generator(s))[1] for s in range(300)]
        mixed[share] = sum(len(crop.unique()) == 2 for crop in crops) / 300
    once, eleven = 175 / 625, 1 - (450 / 625) ** 11
    assert abs(mixed[None] - once) < 5 * math.sqrt(once * (1 - once) / 300)
    assert abs(mixed[0.999] - eleven) < 5 * math.sqrt(eleven * (1 - eleven) / 300)


def test_ignored_pixels_count_for_no_share_and_a_crop_without_labels_is_drawn_again() -> None:
    """A column of labels in ignored pixels: half of each class wherever a crop has it."""
    labels = torch.full((8, 40), IGNORE, dtype=torch.uint8)
    labels[::2, 20], labels[1::2, 20] = 3, 4
    transform = TrainTransform(
        crop=(8, 30), scale=(1.0, 1.0), flip=False, jitter=0.0, max_class_share=0.5
    )
    labelled = 0
    for seed in range(20):
        got = transform(labels.expand(3, 8, 40), labels, generator(seed))[1]
        plain = TrainTransform(crop=(8, 30), scale=(1.0, 1.0), flip=False, jitter=0.0)
        assert torch.equal(got, plain(labels.expand(3, 8, 40), labels, generator(seed))[1])
        labelled += bool((got != IGNORE).any())
    assert labelled == 20  # every window of 30 has column 20, and the first draw is kept
    narrow = TrainTransform(
        crop=(8, 10), scale=(1.0, 1.0), flip=False, jitter=0.0, max_class_share=0.5
    )
    found = [narrow(labels.expand(3, 8, 40), labels, generator(s))[1] for s in range(100)]
    # 10 of 31 places have the column; a single draw would have found it in 32 of 100.
    assert sum(bool((got != IGNORE).any()) for got in found) > 90


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
