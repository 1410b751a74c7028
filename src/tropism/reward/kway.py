"""Scores against rankings and choices of K candidates: is the best one on top, and is the order right?

Beside chance and beside the length-only baseline, with intervals by a bootstrap over clusters (tasks, or trees and
topics), because rows of one cluster share their texts. Left out: weights for positions (NDCG and the like).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from tropism.reward.dataset import RewardData
from tropism.reward.pairs import Floats, Ints

DRAWS = 2000
BLOCK = 4_000_000
"""Numbers drawn at once: memory does not grow with the clusters."""


@dataclass(frozen=True)
class Interval:
    """A mean over votes with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class KWay:
    """What is measured on rows of K candidates; ``None`` without lengths or without a direction for them."""

    rows: int
    sizes: dict[str, int]
    """Rows by K."""
    clusters: int
    top1: Interval
    """Share of rows whose best-scored candidate is (one of) the best; equal scores share the credit."""
    top1_chance: float
    top1_over_chance: Interval
    top1_length_only: Interval | None
    top1_over_length_only: Interval | None
    tau: Interval | None
    """Kendall's tau-b with rankings that are not all ties (chance: 0); None where there is none."""
    tau_length_only: Interval | None
    tau_over_length_only: Interval | None


@dataclass(frozen=True)
class Row:
    """Candidates of one judgement with their tiers (0 is best), its votes, task, and whether tiers order the rest."""

    index: Ints
    tiers: Ints
    weight: float
    task: int
    ordered: bool


def rows_of(data: RewardData) -> list[Row]:
    """Rankings of two or more, and choices among more than two (which say who is best and nothing of the rest)."""
    rows = []
    r, c = data.rankings, data.choices
    for index, tiers, weight, task in zip(
        r.index.numpy(), r.tiers.numpy(), r.weight.tolist(), r.task.tolist(), strict=True
    ):
        ranked = tiers >= 0
        rows.append(Row(index[ranked], tiers[ranked], weight, task, True))
    for index, mask, target, weight, task in zip(
        c.index.numpy(), c.mask.numpy(), c.target.double().numpy(), c.weight.tolist(), c.task.tolist(), strict=True
    ):
        if mask.sum() > 2:
            best = target[mask] >= target[mask].max() - 1e-9
            rows.append(Row(index[mask], np.where(best, 0, 1), weight, task, False))
    return rows


def assess_rows(
    scores: Floats,
    rows: list[Row],
    clusters: Ints,
    lengths: NDArray[np.floating] | None,
    longer: bool | None,
    seed: int,
) -> KWay | None:
    """Assess ``scores`` ``[n]`` on rows; ``clusters`` ``[tasks]`` is the cluster of every task. None without rows.

    ``lengths`` ``[n]`` and ``longer`` (the baseline's direction) bring the length-only columns.
    """
    if not rows:
        return None
    baseline = None if lengths is None or longer is None else (1.0 if longer else -1.0) * lengths
    weight = np.array([row.weight for row in rows])
    cluster = clusters[np.array([row.task for row in rows])]
    draw = _Bootstrap(weight, cluster, seed)
    chance = np.array([float((row.tiers == row.tiers.min()).mean()) for row in rows])
    top = np.array([top_credit(scores, row) for row in rows])
    tau = np.array([rank_agreement(scores, row) for row in rows])
    top_length = None if baseline is None else np.array([top_credit(baseline, row) for row in rows])
    tau_length = None if baseline is None else np.array([rank_agreement(baseline, row) for row in rows])
    ranked = bool(np.isfinite(tau).any())
    return KWay(
        rows=len(rows),
        sizes={str(k): n for k, n in sorted(Counter(len(row.index) for row in rows).items())},
        clusters=len(np.unique(cluster)),
        top1=draw.mean(top),
        top1_chance=float(np.average(chance, weights=weight)),
        top1_over_chance=draw.mean(top - chance),
        top1_length_only=None if top_length is None else draw.mean(top_length),
        top1_over_length_only=None if top_length is None else draw.mean(top - top_length),
        tau=draw.mean(tau) if ranked else None,
        tau_length_only=draw.mean(tau_length) if ranked and tau_length is not None else None,
        tau_over_length_only=draw.mean(tau - tau_length) if ranked and tau_length is not None else None,
    )


def top_credit(scores: NDArray[np.floating], row: Row) -> float:
    """Share of the best-scored candidates (several where scores are equal) that are best."""
    own = scores[row.index]
    return float((row.tiers[own == own.max()] == row.tiers.min()).mean())


def rank_agreement(scores: NDArray[np.floating], row: Row) -> float:
    """Kendall's tau-b of scores and ranks; 0 for scores that are all equal, NaN where the row orders nothing."""
    if not row.ordered or np.ptp(row.tiers) == 0:
        return float("nan")
    own = scores[row.index]
    return 0.0 if np.ptp(own) == 0 else float(kendalltau(own, -row.tiers).statistic)


class _Bootstrap:
    """Weighted means under resampled clusters: the same draws for every quantity, so that differences are paired."""

    def __init__(self, weight: Floats, cluster: Ints, seed: int) -> None:
        _, self.cluster = np.unique(cluster, return_inverse=True)
        self.weight, self.seed = weight, seed
        self.clusters = int(self.cluster.max()) + 1

    def mean(self, values: Floats) -> Interval:
        """Mean of ``values`` ``[rows]`` over votes; NaN rows are left out, and so are draws without any other."""
        known = np.isfinite(values)
        total = np.bincount(self.cluster[known], self.weight[known] * values[known], self.clusters)
        votes = np.bincount(self.cluster[known], self.weight[known], self.clusters)
        random, evenly = np.random.default_rng(self.seed), np.full(self.clusters, 1 / self.clusters)
        means: list[Floats] = []
        block = max(1, min(DRAWS, BLOCK // self.clusters))
        for start in range(0, DRAWS, block):  # draw by draw the same, whatever the block
            times = random.multinomial(self.clusters, evenly, min(block, DRAWS - start)).astype(np.float64)
            drawn = times @ votes
            means.append((times @ total)[drawn > 0] / drawn[drawn > 0])
        low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
        return Interval(float(total.sum() / votes.sum()), float(low), float(high))
