"""Which segments are asked about: a pool of recent steps, and pairs chosen from it.

A segment never crosses an episode's end. The last environments (by number) are held out: what they do is asked about on
validation tasks only, so that no episode is on both sides of the split.

Left out: queries of more than two segments.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tropism.control.networks import Floats
from tropism.control.reward_network import LearnedReward, Shape
from tropism.control.rollouts import Steps
from tropism.errors import DataError
from tropism.feedback.selection import disagreement, entropy, k_centre, standardised

Selection = Literal["random", "disagreement", "entropy", "k_centre"]


@dataclass(frozen=True)
class SegmentRows:
    """S segments of L steps, cut out of steps: observations ``[S, L, D]``, actions, successors, true rewards."""

    observations: Floats
    actions: Floats
    successors: Floats
    rewards: Floats
    states: list[list[NDArray[np.float64]]] | None
    """Simulator states ``[S][L]``, where they were recorded."""

    def __len__(self) -> int:
        return len(self.observations)

    def features(self, shape: Shape) -> Tensor:
        """``[S, L, width]`` as a reward network reads them."""
        return shape.features(self.observations, self.actions, self.successors)

    def take(self, rows: NDArray[np.int64]) -> SegmentRows:
        """Some of them."""
        states = None if self.states is None else [self.states[int(i)] for i in rows]
        return SegmentRows(
            self.observations[rows], self.actions[rows], self.successors[rows], self.rewards[rows], states
        )

    @property
    def returns(self) -> NDArray[np.float64]:
        """True returns ``[S]``: what an oracle judges by."""
        return self.rewards.astype(np.float64).sum(1)


class SegmentPool:
    """The newest steps, of which segments of ``length`` are cut. ``keep``: how many chunks of steps stay."""

    def __init__(self, length: int, keep: int) -> None:
        self.length = length
        self.chunks: deque[Steps] = deque(maxlen=keep)

    def add(self, steps: Steps) -> None:
        """Take in a chunk; the oldest leaves."""
        self.chunks.append(steps)

    def places(self, environments: range) -> NDArray[np.int64]:
        """Every (chunk, environment, first step) at which a segment fits, ``[P, 3]``."""
        found = []
        for number, steps in enumerate(self.chunks):
            for env in environments:
                ends = steps.ends[:, env]
                # the first end at or after each step; a segment may finish with it
                upto = np.where(ends, np.arange(len(ends)), len(ends) - 1)
                upto = np.minimum.accumulate(upto[::-1])[::-1]
                first = np.flatnonzero(np.arange(len(ends)) + self.length - 1 <= upto)
                found.append(np.stack([np.full_like(first, number), np.full_like(first, env), first], 1))
        return np.concatenate(found) if found else np.zeros((0, 3), np.int64)

    def cut(self, places: NDArray[np.int64]) -> SegmentRows:
        """The segments at ``places`` ``[S, 3]``."""
        chunks = list(self.chunks)

        def of(name: str) -> Floats:
            rows = [getattr(chunks[c], name)[t : t + self.length, n] for c, n, t in places.tolist()]
            return np.stack(rows)

        states = None
        if chunks and chunks[0].states is not None:
            states = [[chunks[c].states[s][n] for s in range(t, t + self.length)] for c, n, t in places.tolist()]
        return SegmentRows(of("observations"), of("actions"), of("successors"), of("rewards"), states)


@dataclass(frozen=True)
class Chosen:
    """N pairs of segments to be compared."""

    first: SegmentRows
    second: SegmentRows

    def __len__(self) -> int:
        return len(self.first)


def choose_pairs(
    pool: SegmentPool,
    environments: range,
    count: int,
    how: Selection,
    oversample: int,
    reward: LearnedReward | None,
    shape: Shape,
    random: np.random.Generator,
) -> Chosen:
    """``count`` pairs out of ``count · oversample`` random ones. Without a reward to ask, choice by an ensemble is
    random. Errors: DataError where no two segments fit into the pool."""
    places = pool.places(environments)
    if len(places) < 2:
        raise DataError(
            f"no two segments of {pool.length} steps fit into the {len(pool.chunks)} chunks of steps seen so far",
            "shorten preferences.segment_length, or lengthen the chunks",
        )
    asks = how if how == "k_centre" or (how != "random" and reward is not None) else "random"
    candidates = count * (oversample if asks != "random" else 1)
    a, b = _random_pairs(places, pool.length, candidates, random)
    if asks == "random":
        return Chosen(pool.cut(a), pool.cut(b))
    first, second = pool.cut(a), pool.cut(b)
    if asks == "k_centre":
        looks = [rows.features(shape).numpy().mean(1) for rows in (first, second)]
        points = np.concatenate(looks, 1).astype(np.float64)
        rows = k_centre((points - points.mean(0)) / (points.std(0) + 1e-8), count)
        return Chosen(first.take(rows), second.take(rows))
    assert reward is not None
    members = [reward.segment_members(rows.features(shape)).double().numpy() for rows in (first, second)]
    if len(members[0]) < 2:
        raise DataError(f"choice by {asks} needs an ensemble, and the reward has one member", "raise reward.members")
    scaled = standardised(np.stack(members, 2))
    measure = disagreement if asks == "disagreement" else entropy
    rows = np.argsort(-measure(scaled[..., 0], scaled[..., 1]), kind="stable")[:count]
    return Chosen(first.take(rows), second.take(rows))


def _random_pairs(
    places: NDArray[np.int64], length: int, count: int, random: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of places that do not overlap, as far as that can be had."""
    a, b = (places[random.integers(len(places), size=count)] for _ in range(2))
    for _ in range(16):
        same = (a[:, :2] == b[:, :2]).all(1) & (np.abs(a[:, 2] - b[:, 2]) < length)
        if not same.any():
            break
        b[same] = places[random.integers(len(places), size=int(same.sum()))]
    return a, b
