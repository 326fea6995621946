"""Statistics against closed forms, other implementations, and simulation."""

import itertools

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from inpaintlib import BadInput
from inpaintlib.harness import statistics
from inpaintlib.harness.statistics import bootstrap, holm, interval, spread, tost, trend


def test_interval_of_three_values_by_hand():
    found = interval([1.0, 2.0, 3.0])  # mean 2, standard error 1 / sqrt(3), t(0.975, 2) = 4.302653
    assert (found.mean, found.n, found.sd) == (2.0, 3, 1.0)
    half = 4.302653 / np.sqrt(3)
    assert (found.low, found.high) == pytest.approx((2 - half, 2 + half), abs=1e-6)
    # t = 2 sqrt(3), and with 2 degrees of freedom p = 1 - t / sqrt(2 + t^2)
    assert found.p == pytest.approx(1 - np.sqrt(12 / 14))
    assert interval([1.0, 2.0, 3.0], null=2.0).p == pytest.approx(1.0)


def test_intervals_cover_the_truth_as_often_as_they_say():
    samples = np.random.default_rng(0).normal(5.0, 2.0, size=(2000, 4))
    for found, truth in ((interval, 5.0), (spread, 2.0)):
        ends = [found(sample, level=0.9) for sample in samples]
        covered = np.mean([f.low <= truth <= f.high for f in ends])
        assert covered == pytest.approx(0.9, abs=4 * np.sqrt(0.9 * 0.1 / 2000))


@pytest.mark.parametrize("of_one", [interval, bootstrap, spread])
def test_one_value_has_no_interval(of_one):
    found = of_one([3.0])
    assert found.n == 1
    assert np.isnan([found.low, found.high, found.p]).all()


@pytest.mark.parametrize("values", [[], [[1.0, 2.0]], [1.0, np.nan], [1.0, np.inf]])
def test_values_that_are_no_sample_are_refused(values):
    for function in (interval, bootstrap):
        with pytest.raises(BadInput, match=r"^values must be"):
            function(values)


def test_bootstrap_is_scipys_bca_of_the_mean():
    x = np.random.default_rng(1).exponential(size=40)
    theirs = stats.bootstrap((x,), np.mean, n_resamples=20_000, rng=np.random.default_rng(2)).confidence_interval
    ours = bootstrap(x, n_boot=20_000)
    assert (ours.mean, ours.n) == (pytest.approx(x.mean()), 40)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)
    assert bootstrap(x) == bootstrap(x) != bootstrap(x, seed=1)


def test_bootstrap_resamples_pictures_not_crops():
    pictures = np.random.default_rng(3).normal(size=16)
    crops, groups = np.repeat(pictures, 8), np.repeat(np.arange(16), 8)
    of_groups, of_pictures = bootstrap(crops, groups), bootstrap(pictures)
    assert (of_groups.low, of_groups.high, of_groups.n) == pytest.approx((of_pictures.low, of_pictures.high, 16))
    assert of_groups.high - of_groups.low > 2.3 * (bootstrap(crops).high - bootstrap(crops).low)  # sqrt(8) = 2.8
    names = np.repeat([f"{i:02d}.jpg" for i in range(16)], 8)
    assert bootstrap(crops, names) == of_groups


def test_bootstrap_covers_the_mean_of_pictures_of_unequal_crops():
    rng, covered = np.random.default_rng(4), []
    for i in range(300):
        sizes = rng.integers(1, 6, size=30)
        crops = np.repeat(rng.exponential(size=30), sizes) + rng.normal(0, 0.1, size=sizes.sum())
        found = bootstrap(crops, np.repeat(np.arange(30), sizes), n_boot=500, seed=i)
        covered.append(found.low <= 1.0 <= found.high)
    assert 0.88 <= np.mean(covered) <= 0.98


def test_bootstrap_with_weights_is_the_ratio_of_sums():
    above, below = np.array([1.0, 10.0, 3.0]), np.array([2.0, 2.0, 4.0])
    found = bootstrap(above, weights=below)
    assert found.mean == 14 / 8
    assert 0.5 <= found.low < found.mean < found.high <= 5
    exact = bootstrap(3 * below, weights=below)  # every picture has the same ratio
    assert (exact.low, exact.mean, exact.high) == (3, 3, 3)
    many = np.random.default_rng(5).normal(size=600)  # percentiles of so many agree with the normal interval
    assert bootstrap(many).high == pytest.approx(many.mean() + 1.96 * stats.sem(many), rel=0.1)


def test_paired_is_the_paired_t_test():
    a, b = np.random.default_rng(6).normal(size=(2, 5))
    theirs, found = stats.ttest_rel(a, b), interval(a - b)
    assert found.p == pytest.approx(theirs.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(theirs.confidence_interval()))
    assert (found.mean, found.n) == (pytest.approx((a - b).mean()), 5)


@pytest.mark.parametrize(("shift", "p"), [(0.0, 1.0), (0.25, 0.25)])
def test_paired_when_every_seed_differs_by_the_same_is_a_sign_flip_test(shift, p):
    b = np.arange(3.0)
    assert interval(b + shift - b).p == p


def test_equality_is_two_one_sided_tests_and_agrees_with_the_90_per_cent_interval():
    rng = np.random.default_rng(7)
    for _ in range(200):
        x = rng.normal(rng.uniform(-2, 2), 0.3, size=5)
        inside, outside = tost(x, -1, 1)
        sides = [stats.ttest_1samp(x, -1, alternative="greater").pvalue,
                 stats.ttest_1samp(x, 1, alternative="less").pvalue]  # fmt: skip
        assert inside == pytest.approx(max(sides))
        assert outside == pytest.approx(min(1 - p for p in sides))
        found = interval(x, level=0.9)
        assert (inside < 0.05) == (found.low > -1 and found.high < 1)
        assert (outside < 0.05) == (found.low > 1 or found.high < -1)
    assert tost([0.5, 0.5], -1, 1) == (0.25, 1)
    assert tost([2.0, 2.0, 2.0], -1, 1) == (1, 0.125)
    with pytest.raises(BadInput, match="margin above 0"):
        tost([1.0, 2.0], 1, 1)


def test_spread_p_is_two_sided_and_fits_the_interval():
    x = np.random.default_rng(8).normal(size=6)
    found = spread(x)
    assert statistics.spread_p(found.mean, 6, found.low) == pytest.approx(0.05)
    assert statistics.spread_p(found.mean, 6, found.high) == pytest.approx(0.05)
    # 2 degrees of freedom: chi-squared's upper tail is exp(-x / 2)
    assert statistics.spread_p(2.0, 3, 1.0) == pytest.approx(2 * np.exp(-4))


def test_trend_is_pages_exact_test():
    # each of 3 seeds in perfect order: 1 of 3!^3 outcomes as high, as many as low
    found = trend([[1, 2, 3], [4, 5, 9], [0, 1, 2]])
    assert (found.p, found.rho) == (pytest.approx(2 / 216), pytest.approx(1))
    assert trend([[3, 2, 1]] * 3).rho == pytest.approx(-1)
    assert trend([[3, 2, 1]] * 3).p == pytest.approx(2 / 216)


def test_trends_p_is_that_of_all_orders_and_its_rhos_are_spearmans():
    y = np.random.default_rng(9).normal(size=(2, 4))
    found, levels = trend(y), np.arange(4)
    rhos = [stats.spearmanr(levels, row).statistic for row in y]
    assert found.rhos == pytest.approx(rhos)
    orders = [stats.spearmanr(levels, order).statistic for order in itertools.permutations(range(4))]
    means = np.add.outer(orders, orders).ravel() / 2
    one_sided = min((means >= np.mean(rhos) - 1e-9).mean(), (means <= np.mean(rhos) + 1e-9).mean())
    assert found.p == pytest.approx(min(1, 2 * one_sided))


@pytest.mark.parametrize("y", [[1.0, 2.0, 3.0], [[1, 2], [1, 2]], [[1, 2, np.nan], [1, 2, 3]]])
def test_trend_refuses_what_has_no_order(y):
    with pytest.raises(BadInput, match=r"^a trend needs"):
        trend(y)


def test_holm_by_hand():
    # sorted: 0.01 * 4 = 0.04, 0.02 * 3 = 0.06, 0.03 * 2 = 0.06, 0.6 * 1
    p = [0.03, 0.6, 0.01, 0.02]
    assert holm(p) == pytest.approx([0.06, 0.6, 0.04, 0.06])
    assert statistics.holm_levels(p) == pytest.approx([0.05 / 2, 0.05, 0.05 / 4, 0.05 / 3])
    # what comes later is never smaller, nothing exceeds 1, and NaN is no test
    assert holm([0.04, np.nan, 0.03, 0.9, 0.8]) == pytest.approx([0.12, np.nan, 0.12, 1, 1], nan_ok=True)
    assert holm([]).size == 0
    p = np.random.default_rng(0).random(40).round(2) ** 3  # some are equal
    assert np.array_equal(holm(p), multipletests(p, method="holm")[1])


def test_sign_flips_of_n_seeds_have_2_to_the_n_outcomes():
    differences = np.array([1.0, 2.0, 3.0, 4.0])
    flips = [abs(np.dot(signs, differences)) for signs in itertools.product([1, -1], repeat=4)]
    assert statistics.sign_flip_minimum(4) == np.mean(np.array(flips) >= differences.sum())


@pytest.mark.parametrize(("n", "alpha"), [(3, 0.05), (5, 0.05), (10, 0.01)])
def test_the_detectable_effect_is_found_in_four_of_five_experiments(n, alpha):
    effect = statistics.detectable(2.0, n, alpha)
    samples = np.random.default_rng(10).normal(effect, 2.0, size=(4000, n))
    assert (stats.ttest_1samp(samples, 0, axis=1).pvalue < alpha).mean() == pytest.approx(0.8, abs=0.03)


def test_power_agrees_with_statsmodels_where_its_solver_works():
    for n, sides, alternative in ((4, 2, "two-sided"), (20, 1, "larger")):
        theirs = TTestPower().solve_power(nobs=n, alpha=0.05, power=0.8, alternative=alternative)
        assert statistics.detectable(1.0, n, sides=sides) == pytest.approx(theirs, rel=1e-4)
    assert statistics.seeds_needed(0.5, 1.0) == 34  # the textbook's n for d = .5
    assert statistics.seeds_needed(-5.0, 1.0) == 3
    assert statistics.seeds_needed(0.01, 1.0) == np.inf
    assert statistics.seeds_needed(0.0, 0.0) == np.inf
    assert statistics.seeds_needed(0.1, 0.0) == 6  # 2^-5 is the first below .05
    assert np.isnan(statistics.detectable(1.0, 1))


def test_seeds_for_a_spread_and_a_trend_have_the_power_they_promise():
    n = int(statistics.spread_seeds(1.0, 0.5))
    rng = np.random.default_rng(11)
    found = [statistics.spread_p(rng.normal(size=n).std(ddof=1), n, 0.5) < 0.05 for _ in range(2000)]
    assert np.mean(found) >= 0.77
    assert statistics.spread_seeds(0.5, 0.5) == np.inf
    assert statistics.trend_size(4, 5) == pytest.approx(2.8016 / 4, abs=1e-4)  # (1.95996 + 0.84162) / sqrt(4 * 4)
