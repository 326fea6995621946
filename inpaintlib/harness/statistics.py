"""Statistics: intervals, paired differences, corrections for many tests.

The unit of a claim is the seed: networks trained anew differ more than photos do. ``interval`` and ``paired`` treat
seeds as the sample; only with one seed does ``paired`` fall back on the photos, and says so: its result then holds
for that one trained network. Nothing here returns a bare mean.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from inpaintlib import BadInput

BLOCK = 1 << 22  # resampled values held at once


@dataclass(frozen=True)
class Interval:
    """A mean over ``n`` values and the ends of its interval (NaN where n = 1)."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Paired:
    """Mean of a - b with its interval, and the two-sided p-value of "no difference". ``unit`` is what was the sample:
    ``seeds``, or ``images`` where there was one seed."""

    difference: float
    low: float
    high: float
    p_value: float
    n_seeds: int
    n_images: int
    unit: str


@dataclass(frozen=True)
class Trend:
    """Spearman's rho, mean over seeds, with its interval over seeds and the two-sided p-value of "no order"."""

    rho: float
    low: float
    high: float
    p_value: float
    n_seeds: int


def interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Student's t interval of the mean of (n,) independent values, such as one metric over seeds.

    Raises BadInput for no values and for values that are not finite.
    """
    x = _finite(values, "values", ndim=1)
    if x.size == 1:
        return Interval(float(x[0]), np.nan, np.nan, 1)
    half = stats.t.ppf((1 + level) / 2, x.size - 1) * stats.sem(x)
    return Interval(float(x.mean()), float(x.mean() - half), float(x.mean() + half), x.size)


def spread(values: ArrayLike, level: float = 0.95) -> Interval:
    """Standard deviation (as ``mean``) of (n,) independent values and its interval, chi-squared with n - 1 degrees.

    It takes the values as normal. Raises BadInput as ``interval`` does.
    """
    x = _finite(values, "values", ndim=1)
    if x.size == 1:
        return Interval(np.nan, np.nan, np.nan, 1)
    deviation, degrees = float(x.std(ddof=1)), x.size - 1
    low, high = (deviation * np.sqrt(degrees / stats.chi2.ppf((1 + side * level) / 2, degrees)) for side in (1, -1))
    return Interval(deviation, float(low), float(high), x.size)


def bootstrap(values: ArrayLike, n_boot: int = 10_000, level: float = 0.95, seed: int = 0) -> Interval:
    """Bias-corrected and accelerated bootstrap interval of the mean of (n,) per-image values.

    Source: Efron, "Better bootstrap confidence intervals", JASA 1987; for a mean the jackknife's acceleration has
    the closed form used here. Raises BadInput as ``interval`` does.
    """
    x = _finite(values, "values", ndim=1)
    mean, deviations = x.mean(), x - x.mean()
    spread = (deviations**2).sum()
    if x.size == 1:
        return Interval(float(mean), np.nan, np.nan, 1)
    if spread == 0:
        return Interval(float(mean), float(mean), float(mean), x.size)
    means = _resampled_means(x, n_boot, seed)
    bias = stats.norm.ppf(np.clip(_share_below(means, mean), 1 / (n_boot + 1), n_boot / (n_boot + 1)))
    acceleration = (deviations**3).sum() / (6 * spread**1.5)
    z = bias + stats.norm.ppf([(1 - level) / 2, (1 + level) / 2])
    low, high = np.quantile(means, stats.norm.cdf(bias + z / (1 - acceleration * z)))
    return Interval(float(mean), float(low), float(high), x.size)


def paired(a: ArrayLike, b: ArrayLike, level: float = 0.95, n_boot: int = 10_000, seed: int = 0) -> Paired:
    """Compare two arms on the same TestSet: per-image values (seeds, images), or (images,) for one seed.

    With two seeds or more, a paired t test on the seeds' mean differences; row i of both arms must come from the same
    seed. With one seed, the bootstrap over images: interval as ``bootstrap``, p-value from the same resamples
    centred at no difference. Raises BadInput when the shapes differ or a value is not finite.
    """
    a, b = _finite(a, "a"), _finite(b, "b")
    if a.shape != b.shape or a.ndim not in (1, 2):
        raise BadInput(f"paired needs two arrays (seeds, images) of one shape, not {a.shape} and {b.shape}.")
    differences = np.atleast_2d(a - b)
    n_seeds, n_images = differences.shape
    if n_seeds > 1:
        means = differences.mean(axis=1)
        found, unit = interval(means, level), "seeds"
        error = stats.sem(means)
        p_value = 2 * stats.t.sf(abs(found.mean) / error, n_seeds - 1) if error else float(found.mean == 0)
    else:
        found, unit = bootstrap(differences[0], n_boot, level, seed), "images"
        resampled = _resampled_means(differences[0] - found.mean, n_boot, seed)
        p_value = (1 + (np.abs(resampled) >= abs(found.mean)).sum()) / (1 + n_boot) if n_images > 1 else np.nan
    return Paired(found.mean, found.low, found.high, float(p_value), n_seeds, n_images, unit)


def holm(p_values: ArrayLike) -> np.ndarray:
    """Holm's step-down adjusted p-values (n,), which control the chance of any false rejection among all n tests.

    NaN (a test that could not be made) stays NaN and does not count. Source: Holm, Scandinavian Journal of
    Statistics 1979.
    """
    p = np.asarray(p_values, dtype=float)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    adjusted = np.full(p.shape, np.nan)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(order.size, 0, -1)))
    return adjusted


def spearman_trend(x: ArrayLike, y: ArrayLike, level: float = 0.95, n_perm: int = 10_000, seed: int = 0) -> Trend:
    """Does y (seeds, levels) rise (rho 1) or fall (rho -1) with the levels x (levels,), such as ratios up to infinity?

    The p-value compares the seeds' mean rho with that of random orders within each seed. Raises BadInput when the
    shapes do not fit, when there are fewer than 3 levels, or when all of x or of a seed's y are equal.
    """
    y = np.atleast_2d(_finite(y, "y"))
    x = np.asarray(x, dtype=float)
    if x.ndim != 1 or y.ndim != 2 or x.size != y.shape[1] or x.size < 3:
        raise BadInput(
            f"a trend needs x (levels,) and y (seeds, levels) of 3 levels or more, not {x.shape}, {y.shape}."
        )
    x_scores, y_scores = _rank_scores(x), _rank_scores(y)
    if np.isnan(x_scores).any() or np.isnan(y_scores).any():
        raise BadInput("a trend needs levels and values that are not all equal.")
    rho = y_scores @ x_scores
    shuffled = np.random.default_rng(seed).permuted(np.tile(x_scores, (n_perm, len(y), 1)), axis=2)
    null = np.einsum("psl,sl->p", shuffled, y_scores) / len(y)
    p_value = (1 + (np.abs(null) >= abs(rho.mean()) - 1e-12).sum()) / (1 + n_perm)
    found = interval(rho, level)
    return Trend(found.mean, found.low, found.high, float(p_value), len(y))


def _finite(values: ArrayLike, name: str, ndim: int | None = None) -> np.ndarray:
    x = np.asarray(values, dtype=float)
    if x.size == 0 or (ndim is not None and x.ndim != ndim):
        raise BadInput(f"{name} must be a list of one number or more, not an array of shape {x.shape}.")
    if not np.isfinite(x).all():
        raise BadInput(f"{name} must be finite, and {(~np.isfinite(x)).sum()} of {x.size} are not.")
    return x


def _resampled_means(x: np.ndarray, n_boot: int, seed: int) -> np.ndarray:
    """Means of ``n_boot`` resamples (n_boot,), in blocks that fit in memory."""
    rng = np.random.default_rng(seed)
    rows = max(1, BLOCK // x.size)
    sizes = [min(rows, n_boot - start) for start in range(0, n_boot, rows)]
    return np.concatenate([x[rng.integers(x.size, size=(size, x.size), dtype=np.int32)].mean(axis=1) for size in sizes])


def _share_below(means: np.ndarray, mean: float) -> float:
    """Share of resampled means below the mean, those equal to it counted half."""
    return float(((means < mean).mean() + (means <= mean).mean()) / 2)


def _rank_scores(x: np.ndarray) -> np.ndarray:
    """Ranks along the last axis, centred and of length 1, so that Spearman's rho is a dot product."""
    centred = stats.rankdata(x, axis=-1) - (x.shape[-1] + 1) / 2
    norm = np.linalg.norm(centred, axis=-1, keepdims=True)
    return np.divide(centred, norm, out=np.full_like(centred, np.nan), where=norm > 0)
