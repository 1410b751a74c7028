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
from tropism.environments.segments import Chunk, Segment
from tropism.environments.stepping import Observations
from tropism.errors import DataError
from tropism.feedback.selection import disagreement, entropy, k_centre, standardised

Selection = Literal["random", "disagreement", "entropy", "k_centre"]


@dataclass(frozen=True)
class SegmentRows:
    """S segments of L steps as arrays: observations ``[S, L, D]``, actions, successors, true rewards ``[S, L]``."""

    observations: Observations
    actions: Floats
    successors: Observations
    rewards: Floats

    def __len__(self) -> int:
        return len(self.observations)

    def features(self, shape: Shape) -> Tensor:
        """``[S, L, width]`` as a reward network reads them."""
        return shape.features(self.observations, self.actions, self.successors)


class SegmentPool:
    """The newest steps, of which segments of ``length`` are cut. ``keep``: how many chunks of steps stay."""

    def __init__(self, length: int, keep: int) -> None:
        self.length = length
        self.chunks: deque[Chunk] = deque(maxlen=keep)

    def places(self, environments: range) -> NDArray[np.int64]:
        """Every (chunk, step, environment) at which a segment of one of ``environments`` begins, ``[P, 3]``."""
        found = [np.zeros((0, 3), np.int64)]
        for number, chunk in enumerate(self.chunks):
            at = chunk.places(self.length)
            at = at[np.isin(at[:, 1], environments)]
            found.append(np.insert(at, 0, number, axis=1))
        return np.concatenate(found)

    def rows(self, places: NDArray[np.int64]) -> SegmentRows:
        """The segments at ``places`` ``[S, 3]``, as arrays."""
        chunks = list(self.chunks)

        def of(name: str) -> Floats:
            return np.stack([getattr(chunks[c].steps, name)[t : t + self.length, n] for c, t, n in places.tolist()])

        return SegmentRows(of("observations"), of("actions"), of("successors"), of("rewards"))

    def segments(self, places: NDArray[np.int64]) -> list[Segment]:
        """The same with all that is needed to see them again."""
        chunks = list(self.chunks)
        return [chunks[c].cut(t, n, self.length) for c, t, n in places.tolist()]


@dataclass(frozen=True)
class Chosen:
    """N pairs of segments to be compared, by their places in the pool ``[N, 3]``."""

    pool: SegmentPool
    first: NDArray[np.int64]
    second: NDArray[np.int64]

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
        return Chosen(pool, a, b)
    first, second = pool.rows(a), pool.rows(b)
    if asks == "k_centre":
        looks = [shape.looks(rows.features(shape)).mean(1) for rows in (first, second)]
        points = np.concatenate(looks, 1).astype(np.float64)
        rows = k_centre((points - points.mean(0)) / (points.std(0) + 1e-8), count)
        return Chosen(pool, a[rows], b[rows])
    assert reward is not None
    members = [reward.segment_members(rows.features(shape)).double().numpy() for rows in (first, second)]
    if len(members[0]) < 2:
        raise DataError(f"choice by {asks} needs an ensemble, and the reward has one member", "raise reward.members")
    scaled = standardised(np.stack(members, 2))
    measure = disagreement if asks == "disagreement" else entropy
    rows = np.argsort(-measure(scaled[..., 0], scaled[..., 1]), kind="stable")[:count]
    return Chosen(pool, a[rows], b[rows])


def _random_pairs(
    places: NDArray[np.int64], length: int, count: int, random: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of places that do not overlap, as far as that can be had."""
    a, b = (places[random.integers(len(places), size=count)] for _ in range(2))
    for _ in range(16):
        same = (a[:, [0, 2]] == b[:, [0, 2]]).all(1) & (np.abs(a[:, 1] - b[:, 1]) < length)
        if not same.any():
            break
        b[same] = places[random.integers(len(places), size=int(same.sum()))]
    return a, b
