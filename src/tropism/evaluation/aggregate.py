"""Scores over tasks and seeds as one number with an interval: interquartile mean, bootstrap within tasks.

Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice". A few seeds say little
about each task, and much about all together; a mean is moved by one outlier, a median ignores half of the scores.

Left out: performance profiles, probability of improvement.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from tropism.errors import DataError
from tropism.evaluation.intervals import Interval, percentile_interval

Scores = Sequence[Sequence[float]]
"""One list of scores, one of each seed, for every task."""


def interquartile_mean(scores: NDArray[np.float64]) -> float:
    """Mean of the middle half of ``scores`` ``[n]``: the lowest and the highest quarter are left out, their edges in
    part where n is not a multiple of four."""
    ordered, n = np.sort(np.asarray(scores, np.float64)), len(scores)
    if not n:
        raise DataError("an interquartile mean of nothing", "give scores")
    # each score is a piece of width 1/n; what of it lies between the quartiles counts
    edges = np.arange(n + 1) / n
    inside = np.clip(np.minimum(edges[1:], 0.75) - np.maximum(edges[:-1], 0.25), 0, None)
    return float((ordered * inside).sum() / inside.sum())


def stratified(
    scores: Scores,
    statistic: Callable[[NDArray[np.float64]], float] = interquartile_mean,
    *,
    seed: int = 0,
    resamples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """``statistic`` of all scores of all tasks, with the interval of drawing seeds anew within each task. Errors:
    DataError for a task without scores, or one that is not finite."""
    tasks = [np.asarray(task, np.float64) for task in scores]
    for number, task in enumerate(tasks):
        if task.ndim != 1 or not len(task) or not np.isfinite(task).all():
            raise DataError(f"task {number} has the scores {task.tolist()}", "give finite numbers, one for each seed")
    random = np.random.default_rng(seed)
    draws = np.array(
        [
            statistic(np.concatenate([task[random.integers(0, len(task), len(task))] for task in tasks]))
            for _ in range(resamples)
        ]
    )
    everything = np.concatenate(tasks)
    return percentile_interval(statistic(everything), draws, len(everything), level)
