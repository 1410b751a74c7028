"""Win rates of one policy over another on the same prompts, raw and with length held equal.

Left out: the per-prompt difficulty and per-model terms of AlpacaEval 2's regression (they need many models on one set).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from tropism.errors import DataError
from tropism.evaluation.intervals import RESAMPLES, Interval, bootstrap_mean, percentile_interval, resampled_rows

PRIOR_DEVIATION = 3.0
"""Deviation, in logits, of the normal prior on both coefficients: weak, but separable outcomes stay finite."""


def outcomes(a_scores: ArrayLike, b_scores: ArrayLike) -> NDArray[np.float64]:
    """1 where a scores higher than b on a prompt, 0 where lower, ½ where equal; all ``[n]``."""
    a, b = np.asarray(a_scores, dtype=np.float64), np.asarray(b_scores, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise DataError(
            f"{a.shape} against {b.shape} scores", "score both policies on the same prompts, one score each"
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise DataError("a score is NaN or infinite", "leave out, and count, the prompts that could not be scored")
    return np.where(a > b, 1.0, np.where(a < b, 0.0, 0.5))


def win_rate(
    a_scores: ArrayLike, b_scores: ArrayLike, *, clusters: ArrayLike | None = None, seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:  # fmt: skip
    """Share of prompts on which a beats b, ties half, with a 95 % bootstrap interval over prompts (or clusters)."""
    return bootstrap_mean(outcomes(a_scores, b_scores), clusters=clusters, seed=seed, resamples=resamples)


def length_controlled_win_rate(
    outcome: ArrayLike, a_lengths: ArrayLike, b_lengths: ArrayLike, *, seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """The win rate at equal length: logistic regression P(a wins) = σ(θ + γ·tanh(Δ/σ_Δ)), evaluated at Δ = 0.

    ``outcome`` ``[n]`` in [0, 1] (ties ½), lengths ``[n]`` in tokens, Δ = a − b and σ_Δ its root mean square (Dubois et
    al. 2024, "Length-controlled AlpacaEval", equation 2 without the instruction term). 95 % bootstrap interval.
    """
    y = np.asarray(outcome, dtype=np.float64)
    delta = np.asarray(a_lengths, dtype=np.float64) - np.asarray(b_lengths, dtype=np.float64)
    if y.shape != delta.shape or y.ndim != 1 or not len(y):
        raise DataError(f"{y.shape} outcomes for {delta.shape} lengths", "give one of each for every prompt")
    if not (np.isfinite(delta).all() and ((y >= 0) & (y <= 1)).all()):
        raise DataError("an outcome is outside [0, 1], or a length is not finite", "score every prompt, ties as 0.5")
    spread = float(np.sqrt((delta**2).mean()))
    x = np.tanh(delta / spread) if spread > 0 else np.zeros_like(delta)
    draws = [_at_equal_length(y[rows], x[rows]) for rows in resampled_rows(len(y), resamples, seed)]
    value = float(_at_equal_length(y[None], x[None])[0])
    return percentile_interval(value, np.concatenate(draws), len(y))


def _at_equal_length(y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """σ(θ) of one regression per row of ``y`` and ``x`` ``[r, n]``, by Newton's method on the two coefficients."""
    theta, gamma = np.zeros(len(y)), np.zeros(len(y))
    prior = 1 / PRIOR_DEVIATION**2
    for _ in range(25):
        p = expit(theta[:, None] + gamma[:, None] * x)
        residual, curvature = y - p, p * (1 - p)
        g0, g1 = residual.sum(1) - prior * theta, (residual * x).sum(1) - prior * gamma
        weighted = curvature * x
        h00, h01, h11 = curvature.sum(1) + prior, weighted.sum(1), (weighted * x).sum(1) + prior
        determinant = h00 * h11 - h01 * h01
        step0, step1 = (h11 * g0 - h01 * g1) / determinant, (h00 * g1 - h01 * g0) / determinant
        # a bounded step: far from the optimum the curvature vanishes and a full Newton step overshoots
        theta, gamma = theta + np.clip(step0, -2, 2), gamma + np.clip(step1, -2, 2)
        if max(np.abs(step0).max(), np.abs(step1).max()) < 1e-9:
            break
    return expit(theta)
