"""Bradley-Terry ratings of several policies from pairwise outcomes, with bootstrap intervals.

Left out: position and judge effects, and ratings over time (Elo), which depend on the order of games.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from tropism.errors import DataError
from tropism.evaluation.intervals import Interval, percentile_interval, resampled_rows


@dataclass(frozen=True)
class BradleyTerry:
    """Ratings in logits, centred at 0: P(i beats j) = σ(ratings[i] − ratings[j])."""

    ratings: NDArray[np.float64]
    """``[n]``."""
    draws: NDArray[np.float64]
    """``[resamples, n]`` bootstrap ratings."""
    games: int

    def difference(self, i: int, j: int, level: float = 0.95) -> Interval:
        """Rating of i minus rating of j with its bootstrap interval, in logits."""
        return percentile_interval(
            float(self.ratings[i] - self.ratings[j]), self.draws[:, i] - self.draws[:, j], self.games, level
        )


def fit_bradley_terry(
    outcomes: Sequence[tuple[int, int, float]],
    n: int,
    *,
    prior: float = 0.01,
    clusters: ArrayLike | None = None,
    seed: int = 0,
    resamples: int = 500,
) -> BradleyTerry:
    """Ratings of items 0 … n − 1 from ``(i, j, outcome)`` with outcome 1 if i won, 0 if j won, ½ for a tie.

    The penalised maximum likelihood with ``prior``/2 · Σ rating²: an unbeaten item stays finite, and unconnected ones
    are 0. ``clusters`` (a label per outcome, e.g. the prompt) are drawn whole. DataError for an unusable outcome.
    """
    table = np.asarray(outcomes, dtype=np.float64).reshape(-1, 3)
    items = table[:, :2].astype(np.int64)
    usable = (items >= 0).all(1) & (items < n).all(1) & (items[:, 0] != items[:, 1])
    usable &= (table[:, 2] >= 0) & (table[:, 2] <= 1)
    if not len(table) or not usable.all():
        bad = outcomes[int(np.flatnonzero(~usable)[0])] if len(table) else "none"
        raise DataError(
            f"outcome {bad} among {n} items", "give (i, j, outcome) with 0 <= i, j < n, i != j, outcome in [0, 1]"
        )
    labels = np.arange(len(table)) if clusters is None else np.unique(np.asarray(clusters), return_inverse=True)[1]
    games = np.zeros((int(labels.max()) + 1, n, n))  # wins of i over j in each cluster
    np.add.at(games, (labels, items[:, 0], items[:, 1]), table[:, 2])
    np.add.at(games, (labels, items[:, 1], items[:, 0]), 1 - table[:, 2])
    flat = games.reshape(len(games), n * n)
    draws = []
    for rows in resampled_rows(len(flat), resamples, seed):
        counts = np.stack([np.bincount(r, minlength=len(flat)) for r in rows]).astype(np.float64)
        draws.append(_ratings((counts @ flat).reshape(-1, n, n), prior))
    return BradleyTerry(_ratings(games.sum(0)[None], prior)[0], np.concatenate(draws), len(table))


def _ratings(wins: NDArray[np.float64], prior: float) -> NDArray[np.float64]:
    """Newton's method on ``[r, n, n]`` win counts, one set of ratings ``[r, n]`` per table."""
    r, n, _ = wins.shape
    ratings = np.zeros((r, n))
    games = wins + wins.transpose(0, 2, 1)
    diagonal = np.arange(n)
    for _ in range(100):
        p = expit(ratings[:, :, None] - ratings[:, None, :])
        gradient = (wins - games * p).sum(2) - prior * ratings
        curvature = games * p * (1 - p)
        hessian = -curvature
        hessian[:, diagonal, diagonal] += curvature.sum(2) + prior
        step = np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0]
        ratings = ratings + np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-10:
            break
    return ratings
