"""Draws against the moments of theory; block lengths against another implementation."""

import math

import numpy as np
import pytest

from contextbench.statistics.draws import Draws, Resampling, block_length, optimal_block_length


def weights_of(images: int, block: int, resamples: int = 20_000, seed: int = 0):
    draws = Draws(images, block, Resampling(resamples, seed=seed))
    weights = np.full((resamples, images), np.nan)
    for part, drawn in draws:
        weights[part] = drawn
    return weights


@pytest.mark.parametrize(("images", "block"), [(1, 1), (7, 1), (12, 4), (13, 4), (10, 3)])
def test_every_draw_has_as_many_images_as_the_split(images, block):
    weights = weights_of(images, block, resamples=777)
    assert (weights.sum(axis=1) == images).all()
    assert (weights >= 0).all()


@pytest.mark.parametrize(("images", "block"), [(12, 1), (12, 4)])
def test_weights_have_the_moments_of_circular_blocks(images, block):
    # An image's weight counts which of m = n / b blocks cover it, each with chance b / n. Two
    # images at distance k lie in one block with chance (b - k) / n, so the covariance of their
    # weights is m ((b - k)+ / n - (b / n)^2). With b = 1 these are the multinomial's moments.
    weights = weights_of(images, block)
    covariance = np.cov(weights, rowvar=False)
    distance = np.arange(images)
    distance = np.minimum(distance, images - distance)
    chance = np.maximum(block - distance, 0) / images
    expected = images / block * (chance - (block / images) ** 2)
    np.testing.assert_allclose(weights.mean(axis=0), 1, atol=0.04)
    for image in range(images):  # around the circle: the first and the last image are neighbours
        np.testing.assert_allclose(np.roll(covariance[image], -image), expected, atol=0.05)


def test_equal_arguments_give_equal_draws_and_another_seed_others():
    first = weights_of(9, 2, 600)
    assert (first == weights_of(9, 2, 600)).all()
    assert (first != weights_of(9, 2, 600, seed=1)).any()


@pytest.mark.parametrize("wrong", [{"resamples": 99}, {"level": 0.0}, {"level": 1.0}])
def test_resamplings_without_meaning_are_refused(wrong):
    with pytest.raises(ValueError, match=r"resamples must be at least 100 and level between"):
        Resampling(**wrong)


def autoregressive(n: int, coefficient: float):
    """x_i = coefficient x_(i-1) + sin(i^2): noise that is the same with every library."""
    values = [0.0]
    for i in range(1, n):
        values.append(coefficient * values[-1] + math.sin(i * i))
    return np.array(values)


# Column `circular` of arch.bootstrap.optimal_block_length, arch 8.0.0, for the series above.
ARCH = {
    (101, 0.0): 2.055451413408421,
    (101, 0.3): 2.36801846306304,
    (101, 0.9): 15.83603154636832,
    (233, 0.6): 9.496404427074042,
    (500, 0.9): 26.06655860990107,
    (500, -0.5): 13.115056904137102,
    (2000, 0.6): 20.169249892173593,
    (2000, 0.9): 66.20313262230408,
}


@pytest.mark.parametrize("case", ARCH, ids=str)
def test_block_length_is_that_of_another_implementation(case):
    assert optimal_block_length(autoregressive(*case)) == pytest.approx(ARCH[case], rel=1e-9)


def test_block_length_nears_the_best_one_of_autoregressive_series():
    # R(k) = c^|k| R(0) gives G = 2c / (1 - c)^2 and a spectrum of (1 + c) / (1 - c), over R(0).
    generator, n, c = np.random.default_rng(0), 4000, 0.7
    noise = generator.standard_normal(n)
    values = np.zeros(n)
    for i in range(1, n):
        values[i] = c * values[i - 1] + noise[i]
    g, spectrum = 2 * c / (1 - c) ** 2, (1 + c) / (1 - c)
    best = (2 * g**2 / (4 / 3 * spectrum**2) * n) ** (1 / 3)
    assert optimal_block_length(values) == pytest.approx(best, rel=0.15)


def test_independent_images_need_no_blocks():
    series = np.random.default_rng(3).standard_normal((20, 1000))
    assert np.median([block_length(row[None]) for row in series]) <= 2


def test_the_series_that_needs_the_longest_blocks_decides():
    one, other = autoregressive(233, 0.6), autoregressive(233, 0.9)
    assert block_length(np.stack([one, other])) == round(optimal_block_length(other))
    assert block_length(np.stack([one, other])) > block_length(one[None])


@pytest.mark.parametrize(
    "values",
    [np.zeros(50), np.full(50, 0.1), np.arange(7.0), np.tile([1.0, -1.0], 4)],
    ids=["zero", "constant", "short", "alternating"],
)
def test_block_length_never_falls_below_one_image(values):
    assert 1 <= optimal_block_length(values) <= len(values) / 3


def test_blocks_are_at_most_a_third_of_the_images():
    walks = np.random.default_rng(0).standard_normal((500, 12)).cumsum(axis=1)
    lengths = [optimal_block_length(walk) for walk in walks]
    assert max(lengths) == 12 / 3
    assert min(lengths) < 12 / 3
