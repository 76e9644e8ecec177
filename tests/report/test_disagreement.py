"""Who is right where heads differ: worked by hand on a few pixels, and against slow loops."""

from dataclasses import replace

import numpy as np
import pytest

from contextbench.report.examples import HEAD_SHADES, SHARED_SHADES, head_picture, shared_picture
from contextbench.report.figures.examples import disagreement_grid
from contextbench.statistics.disagreement import disagreement, disputed_pixel
from tests.report.records import examples

# Six pixels: not labelled; all right; only a right; a and c right; all wrong alike; all wrong apart
TRUTH = np.array([[255, 1, 2, 3, 4, 5]], dtype=np.uint8)
HEADS = {
    "a": np.array([[0, 1, 2, 3, 0, 0]], dtype=np.uint8),
    "b": np.array([[1, 1, 0, 0, 0, 1]], dtype=np.uint8),
    "c": np.array([[2, 1, 1, 3, 0, 0]], dtype=np.uint8),
}


def random_case(seed: int, heads: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, 3, (5, 7)).astype(np.uint8)
    truth[generator.random(truth.shape) < 0.2] = 255
    masks = generator.integers(0, 3, (heads, 5, 7)).astype(np.uint8)
    return truth, {f"h{i}": mask for i, mask in enumerate(masks)}


def shade_indices(image: np.ndarray, shades) -> list[list[int]]:
    """Which shade each pixel has."""
    colours = [tuple(bytes.fromhex(shade.colour[1:])) for shade in shades]
    return [[colours.index(tuple(pixel)) for pixel in row] for row in image.tolist()]


def test_six_pixels_by_hand():
    found = disagreement(TRUTH, HEADS)
    assert found.heads == ("a", "b", "c")
    assert found.labelled.tolist() == [[False, True, True, True, True, True]]
    assert found.distinct.tolist() == [[0, 1, 3, 2, 1, 2]]
    assert found.all_right.tolist() == [[False, True, False, False, False, False]]
    assert found.all_wrong.tolist() == [[False, False, False, False, True, True]]
    assert found.split.tolist() == [[False, False, True, True, False, False]]
    assert found.right_alone("a").tolist() == [[False, False, True, False, False, False]]
    assert not found.right_alone("c").any()


def test_colours_of_six_pixels_by_hand():
    image = shared_picture(disagreement(TRUTH, HEADS))
    assert image.shape == (1, 6, 3)
    assert image.dtype == np.uint8
    assert shade_indices(image, SHARED_SHADES) == [[0, 1, 2, 2, 3, 4]]
    each = {
        head: shade_indices(head_picture(disagreement(TRUTH, HEADS), head), HEAD_SHADES)
        for head in HEADS
    }
    assert each == {
        "a": [[0, 1, 2, 3, 5, 5]],
        "b": [[0, 1, 4, 4, 5, 5]],
        "c": [[0, 1, 4, 3, 5, 5]],
    }


@pytest.mark.parametrize("heads", [1, 2, 5])
@pytest.mark.parametrize("seed", range(3))
def test_pixel_by_pixel_loop_agrees(heads, seed):
    truth, masks = random_case(seed, heads)
    found = disagreement(truth, masks)
    for (y, x), label in np.ndenumerate(truth):
        given = [int(mask[y, x]) for mask in masks.values()]
        right = [value == label for value in given]
        known = label != 255
        assert found.distinct[y, x] == (len(set(given)) if known else 0)
        assert found.right[:, y, x].tolist() == right
        assert found.all_right[y, x] == all(right)
        assert found.all_wrong[y, x] == (known and not any(right))
        assert found.split[y, x] == (any(right) and not all(right))
        for i, head in enumerate(masks):
            assert found.right_alone(head)[y, x] == (right[i] and sum(right) == 1)


def test_ignored_pixels_change_nothing():
    """Whatever is predicted where there is no label, images are the same."""
    truth, masks = random_case(3, 3)
    other = {name: np.where(truth == 255, 2 - mask, mask) for name, mask in masks.items()}
    assert any((other[name] != mask).any() for name, mask in masks.items())
    np.testing.assert_array_equal(
        shared_picture(disagreement(truth, masks)), shared_picture(disagreement(truth, other))
    )
    assert disputed_pixel(truth, masks) == disputed_pixel(truth, other)


def test_one_head_is_right_alone_or_wrong_with_all():
    picture = head_picture(disagreement(TRUTH, {"a": HEADS["a"]}), "a")
    assert {i for row in shade_indices(picture, HEAD_SHADES) for i in row} == {
        0, 1, 5,
    }  # fmt: skip


@pytest.mark.parametrize("masks", [{}, {"a": TRUTH.T}, {"a": TRUTH, "b": TRUTH[:, :2]}])
def test_wrong_sizes_are_refused(masks):
    with pytest.raises(ValueError, match="predictions of the labels' size"):
        disagreement(TRUTH, masks)


def disputed(*places, shape=(32, 48), ignored=()) -> tuple[int, int]:
    """The pixel chosen where two heads differ at `places` only."""
    truth, one = np.zeros(shape, dtype=np.uint8), np.zeros(shape, dtype=np.uint8)
    two = one.copy()
    for place in places:
        two[place] = 1
    for place in ignored:
        truth[place] = 255
    return disputed_pixel(truth, {"one": one, "two": two})


def test_the_pixel_is_inside_the_largest_dispute():
    """A 5 x 5 square: with a reach of 32 // 16 = 2, only its middle has all 25 around it."""
    square = np.s_[20:25, 30:35]
    assert disputed(square, np.s_[0:1, :], (16, 24)) == (22, 32)


def test_of_equal_pixels_the_nearest_to_the_centre_then_the_first():
    assert disputed((0, 0), (10, 10), (31, 47)) == (10, 10)
    assert disputed((16, 20), (16, 28)) == (16, 20)  # both 4 from the centre (16, 24)


def test_without_dispute_among_labelled_pixels_the_centre():
    assert disputed() == (16, 24)
    place = np.s_[3:6, 3:6]
    assert disputed(place, ignored=[place]) == (16, 24)
    assert disputed_pixel(TRUTH, {"a": HEADS["a"]}) == (0, 3)


def test_more_classes_in_dispute_weigh_more():
    truth = np.zeros((32, 48), dtype=np.uint8)
    masks = {name: truth.copy() for name in "abc"}
    masks["a"][16, 24] = 1  # two classes at the centre, three in a corner
    masks["a"][1, 1], masks["b"][1, 1] = 1, 2
    assert disputed_pixel(truth, masks) == (1, 1)


def test_the_chosen_pixel_is_that_of_a_slow_search():
    truth, masks = random_case(5, 3)
    truth, masks = (
        np.kron(truth, np.ones((8, 8), np.uint8)),
        {name: np.kron(mask, np.ones((8, 8), np.uint8)) for name, mask in masks.items()},
    )
    excess = disagreement(truth, masks).distinct.astype(int).clip(1) - 1
    height, width = truth.shape
    reach = min(height, width) // 16
    best, chosen = (-1, 0), None
    for y in range(height):
        for x in range(width):
            near = np.s_[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
            rank = (excess[near].sum(), -((y - height // 2) ** 2) - (x - width // 2) ** 2)
            if excess[y, x] > 0 and rank > best:
                best, chosen = rank, (y, x)
    assert disputed_pixel(truth, masks) == chosen


def test_colours_of_a_legend_are_far_apart_even_without_hue():
    """Neighbouring luminances differ, so that the maps survive grey printing and colour blindness.

    Relative luminance of sRGB, as in WCAG 2.2; a step of 0.04 is visible side by side.
    """
    for shades in (SHARED_SHADES, HEAD_SHADES):
        values = np.array([list(bytes.fromhex(shade.colour[1:])) for shade in shades]) / 255
        linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
        luminance = np.sort(linear @ [0.2126, 0.7152, 0.0722])
        assert np.diff(luminance).min() > 0.04


def test_the_grid_has_a_panel_for_every_view_and_both_legends():
    given = examples(2)
    figure = disagreement_grid(given, "Where heads differ")
    panels = [axes for axes in figure.axes if axes.images]
    assert len(panels) == 2 * (2 + len(given.predictions))
    names = ["image", "all heads", *given.predictions]
    assert [axes.get_title() for axes in panels] == 2 * names
    drawn = panels[1].images[0].get_array()
    first = {head: maps[0] for head, maps in given.predictions.items()}
    np.testing.assert_array_equal(drawn, shared_picture(disagreement(given.truths[0], first)))
    texts = {text.get_text() for key in figure.legends for text in key.texts}
    assert texts == {shade.meaning for shade in (*SHARED_SHADES, *HEAD_SHADES)}


def test_a_grid_of_nothing_is_refused():
    for empty in (replace(examples(1), predictions={}), examples(1).spread(0)):
        with pytest.raises(ValueError, match="at least one image"):
            disagreement_grid(empty, "nothing")
