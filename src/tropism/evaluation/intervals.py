"""Confidence intervals: percentile bootstrap (plain, paired, clustered) and Wilson's for a share.

Every bootstrap has a seed and is deterministic. Left out: bias-corrected (BCa) intervals, which matter for skewed
statistics and not for the means and rates used here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

from tropism.errors import DataError

RESAMPLES = 2000
_CHUNK = 2_000_000  # numbers held at once while resampling


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval, in the estimate's own unit, from ``n`` independent items or clusters."""

    value: float
    low: float
    high: float
    n: int
    level: float = 0.95

    def as_json(self) -> dict[str, float]:
        """Plain values."""
        return asdict(self)


def resampled_rows(n: int, resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Bootstrap rows in chunks ``[r, n]``, ``resamples`` rows in all; the chunks depend on the arguments alone."""
    random = np.random.default_rng(seed)
    step = max(1, _CHUNK // max(n, 1))
    for start in range(0, resamples, step):
        yield random.integers(0, n, (min(step, resamples - start), n))


def percentile_interval(value: float, draws: NDArray[Any], n: int, level: float = 0.95) -> Interval:
    """The interval between the percentiles of bootstrap ``draws``."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), n, level)


def bootstrap_mean(
    values: ArrayLike,
    *,
    clusters: ArrayLike | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = 0.95,
) -> Interval:
    """Mean of ``values`` ``[n]``. With ``clusters`` ``[n]`` (any labels, e.g. prompts) whole clusters are drawn,
    because items of one cluster are not independent. DataError for no values or a value that is not finite."""
    x = _finite(values)
    if clusters is None:
        sums, sizes = x, np.ones_like(x)
    else:
        labels = np.asarray(clusters)
        if labels.shape != x.shape:
            raise DataError(f"{labels.shape} cluster labels for {x.shape} values", "give one label for each value")
        _, group = np.unique(labels, return_inverse=True)
        sums, sizes = np.bincount(group, x).astype(np.float64), np.bincount(group).astype(np.float64)
    rows = resampled_rows(len(sums), resamples, seed)
    draws = np.concatenate([sums[r].sum(1) / sizes[r].sum(1) for r in rows])
    return percentile_interval(float(x.mean()), draws, len(sums), level)


def bootstrap_paired(
    a: ArrayLike, b: ArrayLike, *, clusters: ArrayLike | None = None, seed: int = 0, resamples: int = RESAMPLES,
    level: float = 0.95,
) -> Interval:  # fmt: skip
    """Mean of ``a − b`` over items measured twice (both ``[n]``, in the same order)."""
    left, right = _finite(a), _finite(b)
    if left.shape != right.shape:
        raise DataError(f"{left.shape} against {right.shape} values", "pair the same items in the same order")
    return bootstrap_mean(left - right, clusters=clusters, seed=seed, resamples=resamples, level=level)


def wilson(successes: float, n: float, level: float = 0.95) -> Interval:
    """Wilson's score interval (1927) of a share; it stays inside [0, 1] and is not empty at 0 or n successes."""
    if not (n > 0 and 0 <= successes <= n):
        raise DataError(f"{successes} successes of {n}", "give 0 <= successes <= n and n > 0")
    z, p = float(norm.ppf((1 + level) / 2)), successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Interval(p, max(0.0, centre - half), min(1.0, centre + half), int(n), level)


def _finite(values: ArrayLike) -> NDArray[np.float64]:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or not len(x):
        raise DataError(f"values of shape {x.shape}", "give at least one value in one dimension")
    if not np.isfinite(x).all():
        where = int(np.flatnonzero(~np.isfinite(x))[0])
        raise DataError(f"value {x[where]} at position {where}", "leave out, and count, what could not be measured")
    return x
