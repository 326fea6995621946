"""Statistics on scipy's and statsmodels' shoulders: intervals, differences, equality, trends, power.

The unit of a claim is the seed: networks trained anew differ more than photos do. Where a fill has no seed, its
interval resamples pictures, never crops: crops of one picture are alike. A t test takes the seeds' values as normal;
what takes nothing, the exact sign-flip test, cannot go below ``sign_flip_minimum``. p-values are two-sided.
"""

import bisect
import functools
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import DescrStatsW

from inpaintlib import BadInput

ALPHA, POWER, LEVEL = 0.05, 0.8, 0.95
MAX_SEEDS = 1000  # more than anybody trains: "inf" is said instead
BLOCK = 1 << 22  # resampled values held at once


@dataclass(frozen=True)
class Interval:
    """A number from ``n`` values and the ends of its interval, NaN where n = 1; of a test also its p-value and the
    values' standard deviation."""

    mean: float
    low: float
    high: float
    n: int
    p: float = np.nan
    sd: float = np.nan


def interval(values: ArrayLike, null: float = 0.0, level: float = LEVEL) -> Interval:
    """Student's t interval of the mean of (n,) independent values, such as one metric over seeds, and the p-value of
    "the mean is ``null``"; of values that are all the same, which leave a t test no spread, the sign-flip test's.

    Raises BadInput for no values and for values that are not finite.
    """
    x = _finite(values)
    if x.size == 1:
        return Interval(float(x[0]), np.nan, np.nan, 1)
    if _same(x):
        p = 1.0 if x[0] == null else sign_flip_minimum(x.size)
        return Interval(float(x[0]), float(x[0]), float(x[0]), x.size, p, 0.0)
    test = stats.ttest_1samp(x, null)
    low, high = test.confidence_interval(level)
    return Interval(float(x.mean()), float(low), float(high), x.size, float(test.pvalue), float(x.std(ddof=1)))


def tost(values: ArrayLike, low: float, high: float) -> tuple[float, float]:
    """Two one-sided t tests over seeds (n,): the p of "the mean is not within (low, high)", and that of "it is within".

    The first is below .05 where the 90 % interval lies inside the margin, the second where it lies wholly outside.
    Raises BadInput for fewer than 2 values and a margin without width.
    """
    x = _finite(values)
    if x.size < 2 or not low < high:
        raise BadInput(f"equality needs 2 values or more and a margin above 0, not {x.size} and [{low:g}, {high:g}].")
    if _same(x):
        inside, least = low < x[0] < high, sign_flip_minimum(x.size) / 2
        return (least, 1.0) if inside else (1.0, least)
    inside, (_, above_low, _), (_, below_high, _) = DescrStatsW(x).ttost_mean(low, high)
    return float(inside), float(min(1 - above_low, 1 - below_high))


def spread(values: ArrayLike, level: float = LEVEL) -> Interval:
    """Standard deviation (as ``mean``) of (n,) values taken as normal, and its chi-squared interval."""
    x = _finite(values)
    if x.size == 1:
        return Interval(np.nan, np.nan, np.nan, 1)
    sd, ends = float(x.std(ddof=1)), stats.chi2.ppf([(1 + level) / 2, (1 - level) / 2], x.size - 1)
    low, high = sd * np.sqrt((x.size - 1) / ends)
    return Interval(sd, float(low), float(high), x.size)


def spread_p(sd: float, n: int, null: float) -> float:
    """Two-sided chi-squared p of "the standard deviation is ``null``", of n normal values' deviation ``sd``."""
    statistic = (n - 1) * (sd / null) ** 2
    return float(min(1, 2 * min(stats.chi2.cdf(statistic, n - 1), stats.chi2.sf(statistic, n - 1))))


def bootstrap(
    values: ArrayLike, groups: ArrayLike | None = None, weights: ArrayLike | None = None, n_boot: int = 2_000,
    level: float = LEVEL, seed: int = 0,
) -> Interval:  # fmt: skip
    """Interval of the mean of (n,) photos' values that resamples whole ``groups`` (n,), such as the pictures they were
    cut from; n of the result counts the groups. With ``weights`` (n,) it is that of sum(values) / sum(weights).

    Bias-corrected and accelerated (Efron 1987) for up to 500 groups, percentiles of more. Raises BadInput as
    ``interval`` does.
    """
    x = _finite(values)
    weights = np.ones_like(x) if weights is None else _finite(weights)
    labels = np.arange(x.size) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    above, below = np.bincount(labels, x), np.bincount(labels, weights)
    mean, n = float(above.sum() / below.sum()), above.size
    if n == 1 or np.allclose(above, mean * below, rtol=1e-12, atol=0):
        end = np.nan if n == 1 else mean
        return Interval(mean, end, end, n)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a jackknife that has no spread, whose ends are NaN and said below
        found = stats.bootstrap(
            (above, below), lambda a, b, axis: a.sum(axis) / b.sum(axis), n_resamples=n_boot, confidence_level=level,
            method="BCa" if n <= 500 else "percentile", paired=True, vectorized=True, batch=max(1, BLOCK // n),
            rng=np.random.default_rng(seed),
        )  # fmt: skip
    low, high = found.confidence_interval
    if np.isnan(low) or np.isnan(high):
        low, high = np.quantile(found.bootstrap_distribution, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, float(low), float(high), n)


@dataclass(frozen=True)
class Trend:
    """Page's test: the seeds' mean rank correlation with the levels, its two-sided p, and each seed's own."""

    rho: float
    p: float
    rhos: tuple[float, ...]


def trend(y: ArrayLike) -> Trend:
    """Does y (seeds, levels) rise (rho 1) or fall (-1) from level to level? Seeds are rankings, joined by Page's test
    (Page 1963), exact for up to 8 levels. Raises BadInput for fewer than 2 seeds or 3 levels."""
    y = np.atleast_2d(np.asarray(y, dtype=float))
    if y.ndim != 2 or y.shape[0] < 2 or y.shape[1] < 3 or not np.isfinite(y).all():
        raise BadInput(f"a trend needs finite values of 2 seeds or more at 3 levels or more, not an array {y.shape}.")
    seeds, levels = y.shape
    method = "exact" if levels <= 8 and seeds <= 12 else "asymptotic"
    p = min(stats.page_trend_test(rows, method=method).pvalue for rows in (y, -y))
    ranks, order = stats.rankdata(y, axis=1), np.arange(1, levels + 1)
    rhos = [float(stats.pearsonr(order, row).statistic) if np.ptp(row) else 0.0 for row in ranks]
    return Trend(float(np.mean(rhos)), float(min(1, 2 * p)), tuple(rhos))


def holm(p_values: ArrayLike) -> np.ndarray:
    """Holm's adjusted p-values (n,) (Holm 1979); NaN, a test that was not made, stays NaN and does not count.

    statsmodels' ``multipletests`` has the same numbers, and calls Python's garbage collector each time: .1 s to 2 s.
    """
    p = np.asarray(p_values, dtype=float)
    adjusted, order = np.full(p.shape, np.nan), np.argsort(p)[: np.sum(~np.isnan(p))]  # NaN comes last
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)).clip(max=1)
    return adjusted


def holm_levels(p_values: ArrayLike, alpha: float = ALPHA) -> np.ndarray:
    """The level (n,) at which Holm's procedure tests each p-value: alpha over the number of those not below it."""
    p = np.asarray(p_values, dtype=float)
    return np.array([alpha / max(1, (p >= one).sum()) for one in p])


def sign_flip_minimum(n: int) -> float:
    """The smallest two-sided p that an exact sign-flip test of n seeds' differences can reach: 2^(1-n)."""
    return 2.0 ** (1 - n)


def detectable(sd: float, n: int, alpha: float = ALPHA, sides: int = 2) -> float:
    """The smallest distance from the null that n seeds of standard deviation ``sd`` show with 80 % power in a (paired)
    t test at ``alpha``; NaN for fewer than 2."""
    return sd * _detectable(n, alpha, sides) if n > 1 else np.nan


@functools.cache
def _detectable(n: int, alpha: float, sides: int) -> float:
    return float(np.exp(optimize.brentq(lambda log: _power(np.exp(log), n, alpha, sides) - POWER, -7, 12, rtol=1e-6)))


def seeds_needed(distance: float, sd: float, alpha: float = ALPHA, sides: int = 2) -> float:
    """How many seeds (3 to 1000, else inf) would decide with 80 % power, were today's ``distance`` from the null and
    standard deviation the true ones."""
    if not sd:
        return _first(lambda n: float(distance != 0 and sign_flip_minimum(n) * sides / 2 < alpha))
    return _first(lambda n: _power(abs(distance) / sd, n, alpha, sides))


def spread_seeds(sd: float, null: float, alpha: float = ALPHA) -> float:
    """As ``seeds_needed``, for the test that the standard deviation ``sd`` is ``null``."""

    def power(n: int) -> float:
        low, high = stats.chi2.ppf([alpha / 2, 1 - alpha / 2], n - 1) * (null / sd) ** 2
        return stats.chi2.sf(high, n - 1) if sd > null else stats.chi2.cdf(low, n - 1)

    return _first(power) if sd else 3.0


def spread_ratio(n: int, alpha: float = ALPHA) -> float:
    """The smallest ratio of a standard deviation to the null's that n values show with 80 % power."""
    return float(np.sqrt(stats.chi2.isf(alpha / 2, n - 1) / stats.chi2.isf(POWER, n - 1)))


def trend_size(n: int, levels: int, alpha: float = ALPHA) -> float:
    """The smallest mean rho that Page's test of n seeds shows with 80 % power, by the normal approximation (without a
    trend a seed's rho has the variance 1 / (levels - 1)); above 1 there is none."""
    return float((stats.norm.isf(alpha / 2) + stats.norm.isf(1 - POWER)) / np.sqrt(n * (levels - 1)))


def _first(power) -> float:
    n = bisect.bisect_left(range(3, MAX_SEEDS + 1), POWER, key=power) + 3
    return float(n) if n <= MAX_SEEDS else np.inf


def _power(size: float, n: int, alpha: float, sides: int) -> float:
    """Power of a t test, of two sides without what the wrong side adds: less than alpha / 2, and statsmodels has it
    wrong for large effects, as its solver is for few seeds. Beyond the noncentral t distribution's range it is 1."""
    power = TTestPower().power(size, n, alpha / sides, alternative="larger")
    return float(power) if np.isfinite(power) else 1.0


def _same(x: np.ndarray) -> bool:
    """Whether all values are one, up to rounding."""
    return bool(np.ptp(x) <= 1e-9 * np.abs(x).max())


def _finite(values: ArrayLike) -> np.ndarray:
    x = np.asarray(values, dtype=float)
    if x.size == 0 or x.ndim != 1:
        raise BadInput(f"values must be a list of one number or more, not an array of shape {x.shape}.")
    if not np.isfinite(x).all():
        raise BadInput(f"values must be finite, and {(~np.isfinite(x)).sum()} of {x.size} are not.")
    return x
