"""Returns of agents as shares of what the true reward gives, and differences, with intervals over independent runs.

A share's 0 is random actions, its 1 the mean of some runs on the true reward. Those are few runs, too: an interval that
took their mean for exact would be too narrow. So the bootstrap draws them anew along with the runs that are measured
(stratified: seeds within each task and arm, Agarwal et al. 2021). Runs of two arms are independent, whatever their
seeds are called, so a difference of theirs has Welch's interval.

Left out: the error of the random actions' mean, which is over a hundred episodes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tropism.evaluation.aggregate import interquartile_mean
from tropism.evaluation.intervals import Interval, percentile_interval

RESAMPLES = 2000
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Arm:
    """True returns of an arm's runs on one task ``[n]``, of the runs on the true reward there ``[m]``, and of random
    actions. Errors: ValueError where a run on the true reward is no better than random actions: there is then nothing
    to measure by."""

    task: str
    returns: Array
    true: Array
    chance: float

    def __post_init__(self) -> None:
        if not self.true.min() > self.chance:
            raise ValueError(
                f"{self.task}: of the runs on the true reward {self.true.tolist()} one is no better than random "
                f"actions ({self.chance:.4g}), so no share of theirs can be told"
            )

    @classmethod
    def of(cls, task: str, runs: Sequence[Mapping[str, Any]], true: Sequence[Mapping[str, Any]]) -> Arm:
        """From runs as ``control_runs.play`` describes them."""
        returns, top = (np.array([r["true_return"] for r in each], np.float64) for each in (runs, true))
        return cls(task, returns, top, float(true[0]["random_return"]))

    @property
    def shares(self) -> Array:
        """Of every run, ``[n]``."""
        return (self.returns - self.chance) / (self.true.mean() - self.chance)

    def drawn(self, stream: np.random.Generator) -> Array:
        """``shares`` of runs drawn anew, on both sides of the division."""
        returns, true = (x[stream.integers(len(x), size=len(x))] for x in (self.returns, self.true))
        return (returns - self.chance) / (true.mean() - self.chance)


def share(arms: Sequence[Arm], statistic: Callable[[Array], float] = interquartile_mean) -> Interval:
    """``statistic`` of all shares of all tasks, with its bootstrap interval (95 %)."""
    stream = np.random.default_rng(0)
    draws = np.array([statistic(np.concatenate([arm.drawn(stream) for arm in arms])) for _ in range(RESAMPLES)])
    everything = np.concatenate([arm.shares for arm in arms])
    return percentile_interval(statistic(everything), draws, len(everything))


def mean(values: Array) -> float:
    """As a statistic of ``share``."""
    return float(values.mean())


def difference(ours: Sequence[float], theirs: Sequence[float]) -> Interval:
    """Mean of ``ours`` less that of ``theirs``, independent runs, with Welch's t interval (95 %). Errors: ValueError
    for fewer than two runs on a side, which say nothing of their spread."""
    from scipy.stats import t

    a, b = (np.asarray(side, np.float64) for side in (ours, theirs))
    if min(len(a), len(b)) < 2:
        raise ValueError(f"{len(a)} runs against {len(b)}: an interval needs two or more of each")
    value = float(a.mean() - b.mean())
    parts = np.array([a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)])
    if not parts.sum() > 0:
        return Interval(value, value, value, len(a) + len(b))
    freedom = parts.sum() ** 2 / (parts**2 / np.array([len(a) - 1, len(b) - 1])).sum()
    half = float(t.ppf(0.975, freedom)) * math.sqrt(parts.sum())
    return Interval(value, value - half, value + half, len(a) + len(b))
