"""A share of votes with an honest interval. Free of torch, so that a study can measure drift without loading it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Share:
    """A weighted share in [0, 1] with its 95 % interval, and the pairs and tasks behind it."""

    value: float
    low: float
    high: float
    pairs: int
    tasks: int


def weighted_share(credit: NDArray[np.float64], weight: NDArray[np.float64], task: NDArray[np.int64]) -> Share:
    """Weighted mean of ``credit`` ``[P]`` with Wilson's interval at the effective sample size of tasks as clusters.

    The variance is that of a ratio of cluster totals (Cochran 1977, chapter 6), so pairs of one task, which share a
    prompt and often a candidate, do not count as independent; Wilson's form keeps the interval inside [0, 1].
    """
    total, value = float(weight.sum()), float(np.average(credit, weights=weight))
    _, group = np.unique(task, return_inverse=True)
    clusters = int(group.max()) + 1
    residual = np.bincount(group, weight * (credit - value))
    variance = clusters / max(clusters - 1, 1) * float((residual**2).sum()) / total**2
    # a single cluster says nothing of the spread (its residual is 0 but for rounding), nor do clusters that all agree
    n = value * (1 - value) / variance if clusters > 1 and variance > 1e-12 else float(clusters)
    z = 1.959963984540054
    centre = (value + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(value * (1 - value) / n + z * z / (4 * n * n))
    return Share(value, max(0.0, centre - half), min(1.0, centre + half), len(credit), clusters)
