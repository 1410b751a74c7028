"""An estimate with its interval, the interval of a share, and bootstrap weights, as this package uses them.

Left out: bootstraps of means and win rates, which belong to the evaluation of policies.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import beta

from tropism.errors import DataError
from tropism.feedback.quality.votes import Floats
from tropism.runtime.seeding import derive


@dataclass(frozen=True)
class Estimate:
    """A value with the interval ``low`` … ``high`` that ``n`` observations leave; NaN where it is not defined."""

    value: float
    low: float
    high: float
    n: int


def share(hits: int, n: int, level: float = 0.95) -> Estimate:
    """A share with Jeffreys' interval (the posterior under a Beta(½, ½) prior), closed at 0 and 1 (Brown et al. 2001).

    Of nothing it is NaN with the interval 0 … 1. Errors: DataError unless 0 ≤ hits ≤ n.
    """
    if not 0 <= hits <= n:
        raise DataError(f"{hits} hits of {n}", "give 0 <= hits <= n")
    if n == 0:
        return Estimate(np.nan, 0.0, 1.0, 0)
    low, high = beta.ppf([(1 - level) / 2, (1 + level) / 2], hits + 0.5, n - hits + 0.5)
    return Estimate(hits / n, 0.0 if hits == 0 else float(low), 1.0 if hits == n else float(high), n)


def bootstrap_weights(n: int, draws: int, seed: int) -> Floats:
    """How often each of ``n`` items was drawn in each of ``draws`` resamples ``[draws, n]``."""
    random = np.random.Generator(np.random.Philox(derive(seed, "bootstrap over items", n)))
    return random.multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float64)


def percentiles(value: float, draws: Floats, n: int, level: float = 0.95) -> Estimate:
    """``value`` between the percentiles of its bootstrap ``draws``; draws that are not defined (NaN) are left out."""
    defined = draws[np.isfinite(draws)]
    if not len(defined):
        return Estimate(value, np.nan, np.nan, n)
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(low), float(high), n)
