"""Drift: a reward model on fresh feedback against the day it was fitted.

Left out: drift of lengths (evaluation compares them prompt by prompt), of the prompts (the study's tasks are fixed),
and of people's judgement over time (feedback's quality).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from tropism.reward.share import Share


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
