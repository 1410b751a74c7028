"""Over-optimisation of a proxy reward: does the true reward fall while the proxy still rises?

"Gold" is whatever the proxy was not trained on: a rubric, people, a held-out reward model. The axis is d = √KL to the
reference (Gao et al. 2022, "Scaling laws for reward model overoptimization", section 3).

Left out: their functional form of gold over d, its scaling with the size of the reward model, and best-of-n curves.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

from tropism.errors import DataError


@dataclass(frozen=True)
class Overoptimisation:
    """The verdict on one run; all differences are of the last window minus the best earlier one."""

    detected: bool
    """The proxy rose significantly and gold fell significantly."""
    gold_change: float
    gold_z: float
    """Gold's change in standard errors; negative is a fall."""
    proxy_change: float
    proxy_z: float
    peak_step: int
    """Index of the middle of the window in which gold was best."""
    peak_kl: float
    """Mean KL of that window, in the unit given."""
    threshold: float
    """Standard errors that count as significant, corrected for the number of windows compared."""

    def as_json(self) -> dict[str, Any]:
        """Plain values; a change without any scatter, whose standard errors are 0, has z None (JSON knows no inf)."""
        return {k: None if isinstance(v, float) and math.isinf(v) else v for k, v in asdict(self).items()}


def detect(
    kl: ArrayLike, proxy: ArrayLike, gold: ArrayLike, window: int = 8, alpha: float = 0.01
) -> Overoptimisation | None:
    """Compare the last ``window`` steps with the earlier window in which gold was best.

    ``kl``, ``proxy`` and ``gold`` are ``[T]``, one mean per step. Standard errors come from the scatter around a line
    within each window, so that a trend is no noise. The test is one-sided at ``alpha`` over the number of earlier
    windows (Bonferroni), because the best of many is high by chance. None for a run shorter than two windows.
    """
    if window < 4:
        raise DataError(f"a window of {window} steps", "use at least 4, or the scatter cannot be estimated")
    k, p, g = _series(kl, proxy, gold)
    earlier = len(g) - 2 * window + 1
    if earlier < 1:
        return None
    starts = [g[s : s + window].mean() for s in range(earlier)]
    best = int(np.argmax(starts))
    peak, last = slice(best, best + window), slice(len(g) - window, len(g))
    threshold = float(norm.ppf(1 - alpha / earlier))
    gold_change, gold_z = _change(g[peak], g[last])
    proxy_change, proxy_z = _change(p[peak], p[last])
    return Overoptimisation(
        detected=bool(gold_z < -threshold and proxy_z > threshold),
        gold_change=gold_change,
        gold_z=gold_z,
        proxy_change=proxy_change,
        proxy_z=proxy_z,
        peak_step=best + window // 2,
        peak_kl=float(k[peak].mean()),
        threshold=threshold,
    )


def _change(before: NDArray[np.float64], after: NDArray[np.float64]) -> tuple[float, float]:
    change = float(after.mean() - before.mean())
    error = math.hypot(_standard_error(before), _standard_error(after))
    if error == 0:
        return change, 0.0 if change == 0 else math.copysign(math.inf, change)
    return change, change / error


def _standard_error(x: NDArray[np.float64]) -> float:
    t = np.arange(len(x)) - (len(x) - 1) / 2
    residual = x - x.mean() - t * float((t * x).sum() / (t * t).sum())
    return math.sqrt(float((residual**2).sum()) / (len(x) - 2) / len(x))


def _series(kl: ArrayLike, proxy: ArrayLike, gold: ArrayLike) -> tuple[NDArray[np.float64], ...]:
    series = tuple(np.asarray(x, dtype=np.float64) for x in (kl, proxy, gold))
    if len({x.shape for x in series}) != 1 or series[0].ndim != 1 or not len(series[0]):
        raise DataError(f"series of shapes {[x.shape for x in series]}", "give one value of each for every step")
    if not all(np.isfinite(x).all() for x in series):
        raise DataError("a series holds NaN or infinity", "leave out the steps that were not measured")
    return series
