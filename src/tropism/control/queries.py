"""Which segments are asked about: a pool of recent steps, and pairs or, for ratings, single ones chosen from it.

A segment never crosses an episode's end. The last environments (by number) are held out: what they do is asked about on
validation tasks only, so that no episode is on both sides of the split.

Left out: queries of more than two segments.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tropism.control.networks import Floats
from tropism.control.reward_network import LearnedReward, Shape
from tropism.environments.segments import Chunk, Segment
from tropism.environments.stepping import Observations
from tropism.errors import ConfigError, DataError
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
    """N questions about segments, by their places in the pool: ``sides`` has one array ``[N, 3]`` for each segment that
    is shown, two to be compared or one to be rated."""

    pool: SegmentPool
    sides: tuple[NDArray[np.int64], ...]

    def __len__(self) -> int:
        return len(self.sides[0])


def choose(
    pool: SegmentPool,
    environments: range,
    count: int,
    sides: Literal[1, 2],
    how: Selection,
    oversample: int,
    reward: LearnedReward | None,
    shape: Shape,
    random: np.random.Generator,
) -> Chosen:
    """``count`` questions about one or two segments, out of ``count · oversample`` random ones. By disagreement are
    those on which members differ most: about which is better, or about what a single one is worth. Without a reward to
    ask, choice by an ensemble is random.

    Errors: DataError where no segments fit into the pool; ConfigError for a choice that takes two sides of one.
    """
    if how == "entropy" and sides == 1:
        fix = 'choose them by "random", "disagreement" or "k_centre"'
        raise ConfigError('feedback.selection = "entropy" of ratings, which have no two sides', fix)
    places, asks = _places(pool, environments, sides), _asks(how, reward)
    drawn = _drawn(places, pool.length, count * (oversample if asks != "random" else 1), sides, random)
    if asks == "random":
        return Chosen(pool, drawn)
    features = [pool.rows(at).features(shape) for at in drawn]
    if asks == "k_centre":
        rows = _spread_out(features, shape, count)
    else:
        rows = np.argsort(-_unsure(_members(features, reward, asks), asks), kind="stable")[:count]
    return Chosen(pool, tuple(at[rows] for at in drawn))


def _places(pool: SegmentPool, environments: range, least: int) -> NDArray[np.int64]:
    places = pool.places(environments)
    if len(places) < least:
        raise DataError(
            f"no {'two segments' if least > 1 else 'segment'} of {pool.length} steps fit into the "
            f"{len(pool.chunks)} chunks of steps seen so far",
            "shorten preferences.segment_length, or lengthen the chunks",
        )
    return places


def _asks(how: Selection, reward: LearnedReward | None) -> Selection:
    return how if how == "k_centre" or (how != "random" and reward is not None) else "random"


def _spread_out(sides: Sequence[Tensor], shape: Shape, count: int) -> NDArray[np.int64]:
    """Rows of ``count`` questions that look most different, of the features ``[n, L, width]`` of their sides."""
    points = np.concatenate([shape.looks(features).mean(1) for features in sides], 1).astype(np.float64)
    return k_centre((points - points.mean(0)) / (points.std(0) + 1e-8), count)


def _members(sides: Sequence[Tensor], reward: LearnedReward | None, how: Selection) -> NDArray[np.float64]:
    """Members' standardised scores ``[E, n, sides]``. Errors: DataError for an ensemble of one."""
    assert reward is not None
    members = [reward.segment_members(features).double().numpy() for features in sides]
    if len(members[0]) < 2:
        raise DataError(f"choice by {how} needs an ensemble, and the reward has one member", "raise reward.members")
    return standardised(np.stack(members, 2))


def _unsure(scaled: NDArray[np.float64], how: Selection) -> NDArray[np.float64]:
    """How unsure members are of each of n questions, of their scores ``[E, n, sides]``."""
    if scaled.shape[2] == 1:
        return np.asarray(scaled[..., 0].var(axis=0))
    measure = disagreement if how == "disagreement" else entropy
    return measure(scaled[..., 0], scaled[..., 1])


def _drawn(
    places: NDArray[np.int64], length: int, count: int, sides: int, random: np.random.Generator
) -> tuple[NDArray[np.int64], ...]:
    """Random places for each side; the two of a pair do not overlap, as far as that can be had."""
    drawn = tuple(places[random.integers(len(places), size=count)] for _ in range(sides))
    if sides == 1:
        return drawn
    a, b = drawn
    for _ in range(16):
        same = (a[:, [0, 2]] == b[:, [0, 2]]).all(1) & (np.abs(a[:, 1] - b[:, 1]) < length)
        if not same.any():
            break
        b[same] = places[random.integers(len(places), size=int(same.sum()))]
    return drawn
