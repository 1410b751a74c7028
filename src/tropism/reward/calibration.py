"""Calibration of preference probabilities σ((s₁ − s₂)/T): temperature, expected calibration error, reliability curve.

Left out: isotonic and Platt scaling (a bias has no meaning for a pair whose order is arbitrary).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_expit

from tropism.reward.pairs import Floats, Pairs

BINS = 10


@dataclass(frozen=True)
class ReliabilityPoint:
    """One bin: mean confidence, share of votes on the preferred side, and the share of all votes in it."""

    confidence: float
    accuracy: float
    share: float


def log_likelihood(gap: Floats, pairs: Pairs) -> float:
    """Mean log-probability per vote, in nats, of score gaps ``[P]`` in logits; −0.693 is a coin."""
    terms = pairs.target * log_expit(gap) + (1 - pairs.target) * log_expit(-gap)
    return float(np.average(terms, weights=pairs.weight))


def fit_temperature(gap: Floats, pairs: Pairs) -> float:
    """T > 0 that maximises the likelihood of gap/T (Guo et al. 2017), within e^±5 of the scores' own scale."""
    unit = max(float(np.abs(gap).mean()), 1e-12)
    found = minimize_scalar(
        lambda t: -log_likelihood(gap / (unit * np.exp(t)), pairs), bounds=(-5, 5), method="bounded"
    )
    return float(unit * np.exp(found.x))


def reliability(gap: Floats, pairs: Pairs, bins: int = BINS) -> list[ReliabilityPoint]:
    """The reliability curve over ``bins`` bins of equal weight, by confidence in the preferred side (½ … 1)."""
    confidence = expit(np.abs(gap))
    right = np.where(gap > 0, pairs.target, np.where(gap < 0, 1 - pairs.target, 0.5))
    order = np.argsort(confidence, kind="stable")
    weight = pairs.weight[order]
    middle = (np.cumsum(weight) - weight / 2) / weight.sum()
    number = np.minimum((middle * bins).astype(np.int64), bins - 1)
    points = []
    for b in np.unique(number):
        rows, w = order[number == b], weight[number == b]
        points.append(
            ReliabilityPoint(
                float(np.average(confidence[rows], weights=w)),
                float(np.average(right[rows], weights=w)),
                float(w.sum() / weight.sum()),
            )
        )
    return points


def expected_calibration_error(points: list[ReliabilityPoint]) -> float:
    """Σ share · |accuracy − confidence| over the bins (Naeini et al. 2015)."""
    return float(sum(p.share * abs(p.accuracy - p.confidence) for p in points))


def calibration_noise(gap: Floats, pairs: Pairs, seed: int, draws: int = 50) -> float:
    """The expected calibration error that a *perfectly* calibrated model would show on as many pairs, by simulation.

    ECE is biased upwards on small samples: an ECE of this size is no evidence of miscalibration.
    """
    random = np.random.default_rng(seed)
    probability = expit(gap)
    errors = []
    for _ in range(draws):
        votes = (random.random(len(pairs)) < probability).astype(np.float64)
        simulated = Pairs(pairs.first, pairs.second, votes, pairs.weight, pairs.task, pairs.stream)
        errors.append(expected_calibration_error(reliability(gap, simulated)))
    return float(np.mean(errors))


def cross_fitted(gap: Floats, pairs: Pairs, fold: NDArray[np.bool_]) -> Floats | None:
    """Gaps divided by a temperature that was fitted on the other fold (bool ``[P]``), or None if a fold is empty."""
    if fold.all() or not fold.any():
        return None
    first = fit_temperature(gap[fold], pairs.take(fold))
    second = fit_temperature(gap[~fold], pairs.take(~fold))
    return gap / np.where(fold, second, first)
