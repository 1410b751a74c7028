"""Every kind of preference as weighted pairs, for what is measured on pairs: accuracy, likelihood, calibration.

Left out: ratings and labels, which say nothing about a pair of candidates of one task without a model of the rater.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from tropism.reward.dataset import RewardData
from tropism.reward.share import Share, weighted_share

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Pairs:
    """P weighted pairs of candidates; all arrays are ``[P]``."""

    first: Ints
    """Candidate number, into whatever array of scores is measured."""
    second: Ints
    target: Floats
    """Probability that the first is preferred: 1, 0, ½ for a tie, or a share of votes."""
    weight: Floats
    """Votes. A choice among K or a ranking counts as one vote, spread over its pairs."""
    task: Ints
    stream: Ints

    def __len__(self) -> int:
        return len(self.first)

    def take(self, rows: NDArray[np.bool_]) -> Self:
        """The pairs given by a bool mask ``[P]``."""
        return type(self)(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def candidates(self) -> torch.Tensor:
        """Sorted numbers of all candidates that occur, long ``[n]``."""
        return torch.from_numpy(np.unique(np.concatenate([self.first, self.second])))

    @classmethod
    def of(cls, data: RewardData) -> Pairs:
        """All comparisons, choices and rankings of ``data``.

        A choice among K gives the pairs of the chosen with every other, each 1/(K − 1) of a vote; a ranking gives all
        pairs of ranked candidates in equal shares of a vote.
        """
        rows: list[tuple[int, int, float, float, int, int]] = []
        c = data.choices
        for index, mask, target, weight, task, stream in zip(
            c.index.tolist(), c.mask.tolist(), c.target.double().tolist(), c.weight.tolist(), c.task.tolist(),
            c.stream.tolist(), strict=True,
        ):  # fmt: skip
            k = sum(mask)
            for i in range(k):
                for j in range(i + 1, k):
                    both = target[i] + target[j]
                    if both > 0:
                        row = (index[i], index[j], target[i] / both, weight * both / (k - 1), task, stream)
                        rows.append(row)
        r = data.rankings
        for index, tiers, weight, task, stream in zip(
            r.index.tolist(), r.tiers.tolist(), r.weight.tolist(), r.task.tolist(), r.stream.tolist(), strict=True
        ):
            ranked = [(i, t) for i, t in zip(index, tiers, strict=True) if t >= 0]
            share = weight / math.comb(len(ranked), 2)
            for a, (i, tier) in enumerate(ranked):
                for j, other in ranked[a + 1 :]:
                    rows.append((i, j, 0.5 if tier == other else float(tier < other), share, task, stream))
        return cls._from_rows(rows)

    @classmethod
    def from_utilities(cls, utilities: Floats) -> Pairs:
        """All pairs within the rows of true utilities ``[N, K]``; equal utilities are ties.

        Candidate ``[n, k]`` has number n·K + k, so measure scores ``[N, K]`` after ``reshape(-1)``. Row n is task n.
        """
        k = utilities.shape[1]
        rows = [
            (r * k + i, r * k + j, 0.5 if u[i] == u[j] else float(u[i] > u[j]), 1.0, r, 0)
            for r, u in enumerate(utilities.tolist())
            for i in range(k)
            for j in range(i + 1, k)
        ]
        return cls._from_rows(rows)

    @classmethod
    def _from_rows(cls, rows: list[tuple[int, int, float, float, int, int]]) -> Pairs:
        columns = list(zip(*rows, strict=True)) if rows else [()] * 6
        whole = [np.array(columns[i], dtype=np.int64) for i in (0, 1, 4, 5)]
        real = [np.array(columns[i], dtype=np.float64) for i in (2, 3)]
        return cls(whole[0], whole[1], real[0], real[1], whole[2], whole[3])


def credits(scores: Floats, pairs: Pairs) -> Floats:
    """What each pair adds to accuracy ``[P]``: the target's mass on the side that ``scores`` ``[n]`` prefer.

    Equal scores earn ½, and so does any prediction on a tie: neither is right, neither is wrong.
    """
    gap = scores[pairs.first] - scores[pairs.second]
    return np.where(gap > 0, pairs.target, np.where(gap < 0, 1 - pairs.target, 0.5))


def pair_accuracy(scores: NDArray[np.floating], pairs: Pairs) -> float:
    """Share of votes on the side that ``scores`` ``[n]`` prefer; ties count half."""
    return float(np.average(credits(np.asarray(scores, dtype=np.float64), pairs), weights=pairs.weight))


def clustered_share(credit: Floats, pairs: Pairs) -> Share:
    """Weighted mean of ``credit`` ``[P]`` with an interval that counts tasks, not pairs, as independent."""
    return weighted_share(credit, pairs.weight, pairs.task)
