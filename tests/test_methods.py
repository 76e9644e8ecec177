"""Student's distribution and the comparison of heads, against scipy, sums and simulation."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from contextbench.statistics import student
from contextbench.statistics.methods import Parts

DEGREES = (0.7, 1.0, 2.0, 2.7, 8.0, 95.0, 3e4, 9e5)


def test_tails_are_those_of_scipy():
    t, df = np.meshgrid([0.0, 1e-6, 0.3, 1.0, 2.5, 17.0, 1e4, 1e200], DEGREES)
    np.testing.assert_allclose(student.two_sided(t, df), 2 * scipy.stats.t.sf(t, df), rtol=1e-8)
    np.testing.assert_array_equal(student.two_sided(-t, df), student.two_sided(t, df))


def test_tails_without_a_number_have_none():
    tails = student.two_sided([math.nan, 1.0, 1.0, math.inf], [3.0, math.nan, 0.0, 3.0])
    np.testing.assert_array_equal(tails, [math.nan, math.nan, math.nan, 0.0])
    assert student.two_sided(1.96, math.inf) == pytest.approx(0.05, abs=1e-4)


@pytest.mark.parametrize("df", [*DEGREES, math.inf])
def test_quantiles_are_those_of_scipy(df):
    for probability in (0.001, 0.2, 0.5, 0.8, 0.975, 0.99999):
        expected = scipy.stats.t.ppf(probability, df)
        assert student.quantile(probability, df) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("df", [1.0, 2.0, 3.5, 20.0, 1e7])
def test_power_is_the_tail_of_the_noncentral_distribution(df):
    for shift, alpha in itertools.product((0.0, 1.0, 3.0, 6.0), (0.05, 0.05 / 15)):
        critical = scipy.stats.t.ppf(1 - alpha / 2, df)
        expected = scipy.stats.nct.sf(critical, df, shift) + scipy.stats.nct.cdf(
            -critical, df, shift
        )
        if not math.isnan(expected):  # as scipy answers far in the tails
            assert student.power(shift, df, alpha) == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize(("df", "alpha"), [(2.0, 0.05), (4.3, 0.05 / 15), (math.inf, 0.01)])
def test_detectable_shifts_are_found_as_often_as_asked(df, alpha):
    for chance in (0.5, 0.8):
        shift = student.detectable(df, alpha, chance)
        assert student.power(shift, df, alpha) == pytest.approx(chance, abs=1e-6)


def parts(deviations=(1.0, 2.0), seeds=(3, 5), image_error=0.3, units=96):
    return Parts(deviations, seeds, image_error, units)


def test_variances_of_trainings_and_images_add_up():
    assert parts().error ** 2 == pytest.approx(1 / 3 + 4 / 5 + 0.09)
    assert parts().bottleneck == "seeds"
    assert parts(image_error=2.0).bottleneck == "images"
    single = parts(deviations=(1.0, math.nan), seeds=(3, 1))
    assert (math.isnan(single.error), single.bottleneck) == (True, None)
    assert math.isnan(single.p_value(3.0))
    assert math.isnan(single.reach(0.95))
    assert math.isnan(single.smallest_difference(0.05))


def test_degrees_of_freedom_are_those_of_the_part_that_is_left():
    many = 10**9
    assert parts((1.0, 0.0), (4, 4), 0.0).df == pytest.approx(3)
    assert parts((0.0, 0.0)).df == pytest.approx(95)
    # Alike and without images: Welch's, twice S - 1, whatever a part counts.
    assert parts((2.0, 2.0), (5, 5), 0.0).df == pytest.approx(8)
    assert parts((1e-9, 1e-9), (many, many), 0.3).df == pytest.approx(95, rel=1e-3)


def test_without_images_the_test_is_that_of_welch():
    generator = np.random.default_rng(0)
    one, other = generator.normal(0, 1, 7), generator.normal(0.5, 1, 7)
    found = parts((one.std(ddof=1), other.std(ddof=1)), (7, 7), 0.0).p_value(
        one.mean() - other.mean()
    )
    assert found == pytest.approx(scipy.stats.ttest_ind(one, other, equal_var=False).pvalue)


def test_no_variance_is_no_evidence():
    nothing = parts((0.0, 0.0), image_error=0.0)
    assert (nothing.p_value(0.0), nothing.reach(0.95)) == (1.0, 0.0)
    assert math.isnan(nothing.p_value(1.0))


def test_what_more_trainings_and_images_would_give():
    more = parts((1.0, 1.0), (3, 3), 0.3, 96).with_more(seeds=12, units=384)
    assert more.of_trainings == pytest.approx(2 / 12)
    assert more.image_error == pytest.approx(0.15)
    assert (more.seeds, more.units) == ((12, 12), 384)


def test_the_smallest_difference_is_found_in_four_of_five_experiments():
    """Trainings and images drawn from their distributions, 1500 times."""
    generator = np.random.default_rng(1)
    true = parts((1.0, 1.0), (5, 5), 0.4, 100)
    least = true.smallest_difference(0.05)
    found = 0
    for _ in range(1500):
        one, other = generator.normal(least, 1.0, 5), generator.normal(0.0, 1.0, 5)
        images = generator.normal(0.0, 4.0, 100)
        error = images.std(ddof=1) / 10
        difference = one.mean() - other.mean() + images.mean()
        sample = Parts((one.std(ddof=1), other.std(ddof=1)), (5, 5), error, 100)
        # By the quantile rather than the p-value: the same test, but cheap.
        found += abs(difference) > scipy.stats.t.ppf(0.975, sample.df) * sample.error
    assert found / 1500 == pytest.approx(0.8, abs=0.04)  # degrees of freedom are estimated
