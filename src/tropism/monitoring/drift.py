"""Drift: a reward model on fresh feedback against the day it was fitted, and lengths against the reference's.

Left out: drift of the prompts (the study's tasks are fixed), and of people's judgement over time (feedback's quality).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import t as student

from tropism.errors import DataError
from tropism.reward.pairs import Share


@dataclass(frozen=True)
class Drift:
    """A difference (now minus then) with its 95 % interval; ``drifted`` where the interval leaves out 0."""

    now: float
    then: float
    change: float
    low: float
    high: float

    @property
    def drifted(self) -> bool:
        """The interval leaves out 0."""
        return self.low > 0 or self.high < 0

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"drifted": self.drifted}


def accuracy_drift(fresh: Share, at_fit: Share) -> Drift:
    """Accuracy on fresh feedback, measured *before* it is fitted, minus held-out accuracy at the last fit.

    The interval joins the two Wilson intervals (Newcombe 1998, method 10), so it is honest near 0 and 1. A fall says
    that the policy has moved to answers which the reward model has not seen.
    """
    change = fresh.value - at_fit.value
    low = change - math.hypot(fresh.value - fresh.low, at_fit.high - at_fit.value)
    high = change + math.hypot(fresh.high - fresh.value, at_fit.value - at_fit.low)
    return Drift(fresh.value, at_fit.value, change, max(-1.0, low), min(1.0, high))


def length_drift(lengths: ArrayLike, reference_lengths: ArrayLike) -> Drift:
    """Mean length now minus the reference's, in tokens, with Welch's interval; each side needs two lengths."""
    a, b = np.asarray(lengths, dtype=np.float64), np.asarray(reference_lengths, dtype=np.float64)
    if len(a) < 2 or len(b) < 2:
        raise DataError(f"{len(a)} and {len(b)} lengths", "give at least two of each")
    change = float(a.mean() - b.mean())
    va, vb = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
    if va + vb == 0:
        return Drift(float(a.mean()), float(b.mean()), change, change, change)
    freedom = (va + vb) ** 2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1))
    half = float(student.ppf(0.975, freedom) * math.sqrt(va + vb))
    return Drift(float(a.mean()), float(b.mean()), change, change - half, change + half)
