"""Statistics against closed forms, scipy as a second implementation, and simulation."""

import numpy as np
import pytest
from scipy import stats

from inpaintlib import BadInput
from inpaintlib.harness.statistics import bootstrap, holm, interval, paired, spearman_trend, spread


def test_interval_of_three_values_by_hand():
    # mean 2, standard error 1 / sqrt(3), t(0.975, 2) = 4.302653
    found = interval([1.0, 2.0, 3.0])
    assert (found.mean, found.n) == (2.0, 3)
    assert found.high == pytest.approx(2 + 4.302653 / np.sqrt(3), abs=1e-6)
    assert found.low == pytest.approx(2 - 4.302653 / np.sqrt(3), abs=1e-6)


def test_interval_covers_the_true_mean_as_often_as_it_says():
    samples = np.random.default_rng(0).normal(5.0, 2.0, size=(4000, 4))
    found = [interval(sample, level=0.9) for sample in samples]
    share = np.mean([f.low <= 5.0 <= f.high for f in found])
    assert share == pytest.approx(0.9, abs=4 * np.sqrt(0.9 * 0.1 / 4000))


def test_spread_covers_the_true_deviation_as_often_as_it_says():
    found = [spread(sample, level=0.9) for sample in np.random.default_rng(0).normal(5.0, 2.0, size=(4000, 4))]
    share = np.mean([f.low <= 2.0 <= f.high for f in found])
    assert share == pytest.approx(0.9, abs=4 * np.sqrt(0.9 * 0.1 / 4000))
    assert np.isnan([spread([3.0]).mean, spread([3.0]).low, spread([3.0]).high]).all()


@pytest.mark.parametrize("of_one", [interval, bootstrap])
def test_one_value_has_no_interval(of_one):
    found = of_one([3.0])
    assert (found.mean, found.n) == (3.0, 1)
    assert np.isnan([found.low, found.high]).all()


@pytest.mark.parametrize("values", [[], [[1.0, 2.0]], [1.0, np.nan], [1.0, np.inf]])
def test_values_that_are_no_sample_are_refused(values):
    with pytest.raises(BadInput, match=r"^values must be"):
        interval(values)
    with pytest.raises(BadInput, match=r"^values must be"):
        bootstrap(values)


def test_bootstrap_agrees_with_scipy_on_skewed_values():
    x = np.random.default_rng(1).exponential(size=40)
    ours = bootstrap(x, n_boot=50_000)
    theirs = stats.bootstrap((x,), np.mean, n_resamples=50_000, method="BCa", random_state=2).confidence_interval
    monte_carlo = 0.02 * x.std()  # several standard errors of a 2.5 % quantile of 50,000 resamples
    assert ours.low == pytest.approx(theirs.low, abs=monte_carlo)
    assert ours.high == pytest.approx(theirs.high, abs=monte_carlo)
    assert ours.high - ours.mean > 1.15 * (ours.mean - ours.low)  # a percentile interval without BCa is less skewed


def test_bootstrap_covers_the_mean_of_skewed_values():
    samples = np.random.default_rng(3).exponential(size=(500, 60))
    found = [bootstrap(sample, n_boot=500, seed=i) for i, sample in enumerate(samples)]
    assert 0.91 <= np.mean([f.low <= 1.0 <= f.high for f in found]) <= 0.98


def test_bootstrap_depends_on_the_seed_only_and_needs_several_blocks():
    x = np.random.default_rng(4).normal(size=2000)
    assert bootstrap(x, n_boot=5000, seed=1) == bootstrap(x, n_boot=5000, seed=1)
    assert bootstrap(x, n_boot=5000, seed=1) != bootstrap(x, n_boot=5000, seed=2)
    assert bootstrap(x, n_boot=5000).high == pytest.approx(x.mean() + 1.96 * stats.sem(x), rel=0.05)
    assert bootstrap(np.full(9, 0.5)).low == bootstrap(np.full(9, 0.5)).high == 0.5


def test_paired_over_seeds_is_the_paired_t_test_of_the_seeds_means():
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(2, 5, 30)) + rng.normal(size=(1, 30))
    theirs = stats.ttest_rel(a.mean(axis=1), b.mean(axis=1))
    found = paired(a, b)
    assert found.p_value == pytest.approx(theirs.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(theirs.confidence_interval()))
    assert found.difference == pytest.approx((a - b).mean())
    assert (found.n_seeds, found.n_images, found.unit) == (5, 30, "seeds")


def test_paired_with_one_seed_resamples_images_and_says_so():
    rng = np.random.default_rng(6)
    b = rng.normal(size=200)
    a = b + 0.1 + rng.normal(size=200)
    found = paired(a, b)
    assert (found.n_seeds, found.n_images, found.unit) == (1, 200, "images")
    assert found == paired(a[None], b[None])
    assert found.p_value == pytest.approx(stats.ttest_rel(a, b).pvalue, abs=0.02)
    flat = bootstrap(a - b)
    assert (found.low, found.high) == (flat.low, flat.high)


@pytest.mark.parametrize(("shift", "p_value"), [(0.0, 1.0), (0.25, 0.0)])
def test_paired_when_every_seed_differs_by_the_same(shift, p_value):
    b = np.arange(12.0).reshape(3, 4)
    assert paired(b + shift, b).p_value == p_value


def test_paired_refuses_arms_of_other_shapes():
    with pytest.raises(BadInput, match=r"one shape, not \(3, 4\) and \(2, 4\)"):
        paired(np.zeros((3, 4)), np.zeros((2, 4)))


def test_holm_by_hand():
    # sorted: 0.01 * 4 = 0.04, 0.02 * 3 = 0.06, 0.03 * 2 = 0.06, 0.6 * 1
    assert holm([0.03, 0.6, 0.01, 0.02]) == pytest.approx([0.06, 0.6, 0.04, 0.06])
    # what comes later is never smaller, nothing exceeds 1, and NaN is no test
    assert holm([0.04, np.nan, 0.03, 0.9, 0.8]) == pytest.approx([0.12, np.nan, 0.12, 1, 1], nan_ok=True)
    assert holm([]).size == 0


def test_trend_is_spearmans_rho_of_each_seed():
    ratios = [1, 100, 200, 500, np.inf]
    y = np.random.default_rng(7).normal(size=(4, 5))
    rho = [stats.spearmanr(ratios, row).statistic for row in y]
    found = spearman_trend(ratios, y)
    assert found.rho == pytest.approx(np.mean(rho))
    assert (found.low, found.high) == pytest.approx((interval(rho).low, interval(rho).high))


def test_trends_p_value_is_that_of_all_orders():
    # one seed in perfect order: 2 of the 4! orders are as extreme; five such seeds: 2 / 4!^5
    assert spearman_trend([1, 2, 3, 4], [5, 6, 7, 9]).p_value == pytest.approx(2 / 24, abs=0.01)
    assert spearman_trend([1, 2, 3, 4], [[9, 7, 6, 5]] * 5).p_value < 1e-3
    assert spearman_trend([1, 2, 3, 4], [[9, 7, 6, 5]] * 5).rho == pytest.approx(-1)


@pytest.mark.parametrize(
    ("x", "y"), [([1, 2], [1, 2]), ([1, 2, 3], [1, 2]), ([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [4] * 3)]
)
def test_trend_refuses_what_has_no_order(x, y):
    with pytest.raises(BadInput, match=r"^a trend needs"):
        spearman_trend(x, y)
