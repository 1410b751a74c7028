"""Which candidates are asked about: random pairs, or those on which an ensemble of reward models disagrees.

Both are deterministic, skip pairs that look the same, and store a random order of showing. Left out: information-gain
selection (BALD, D-optimal), and queries other than pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tropism.digests import digest
from tropism.errors import DataError
from tropism.feedback.chance import shuffled, uniform
from tropism.feedback.records import Candidate, Query


def random_pairs(
    candidates: Sequence[Sequence[Candidate]], count: int, *, seed: int, round: int, per_task: int | None = None
) -> list[Query]:
    """Up to ``count`` comparisons over ``[N][K]`` candidates, spread evenly over the tasks, in random order.

    ``per_task`` caps how many a task may have. Fewer come back if there are not enough pairs that differ.
    """
    ranked = []
    for row in candidates:
        pairs = sorted(_different(row), key=lambda pair: uniform(seed, "pair", row[pair[0]].id, row[pair[1]].id))
        for place, pair in enumerate(pairs[:per_task]):  # every task's first pair comes before any task's second
            ranked.append((place, uniform(seed, "task", row[0].task_id, place), row, pair))
    ranked.sort(key=lambda entry: entry[:2])
    return [_comparison(row, pair, seed, round) for _, _, row, pair in ranked[:count]]


def by_disagreement(
    candidates: Sequence[Sequence[Candidate]],
    scores: NDArray[np.float64],
    count: int,
    *,
    seed: int,
    round: int,
    per_task: int | None = 1,
) -> list[Query]:
    """The comparisons whose outcome an ensemble's members predict most differently (Christiano et al. 2017, 2.2.4).

    ``scores [members, N, K]``. Members are brought to mean 0 and deviation 1 one by one before they are compared, or
    one with a large scale would decide alone. The measure is the variance over members of sigmoid(r_a − r_b).
    """
    n, k = len(candidates), max((len(row) for row in candidates), default=0)
    if scores.ndim != 3 or scores.shape[1:] != (n, k) or scores.shape[0] < 2:
        raise DataError(
            f"ensemble scores of shape {scores.shape} for {n} x {k} candidates", "give [members >= 2, N, K]"
        )
    held = np.array([[slot < len(row) for slot in range(k)] for row in candidates])
    scaled = standardised(scores, held)
    found = []
    for i, row in enumerate(candidates):
        pairs = []
        for a, b in _different(row):
            tie_break = uniform(seed, "pair", row[a].id, row[b].id)
            pairs.append((-float(disagreement(scaled[:, i, a], scaled[:, i, b])), tie_break, row, (a, b)))
        found += sorted(pairs, key=lambda entry: entry[:2])[:per_task]
    found.sort(key=lambda entry: entry[:2])
    return [_comparison(row, pair, seed, round) for _, _, row, pair in found[:count]]


def standardised(scores: NDArray[np.float64], held: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
    """Scores ``[members, N, K]`` with each member at mean 0 and deviation 1 over the candidates ``held`` ``[N, K]``."""
    counted = scores.reshape(len(scores), -1) if held is None else scores[:, held]
    if not np.isfinite(counted).all():
        raise DataError("ensemble scores with NaN or infinity", "check the reward model that gave them")
    mean, deviation = counted.mean(axis=1), counted.std(axis=1)
    return (scores - mean[:, None, None]) / np.maximum(deviation, 1e-8)[:, None, None]


def disagreement(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Variance over members of P(a over b), from standardised scores ``[members, ...]`` of the two sides."""
    return _chance(a, b).var(axis=0)


def entropy(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Entropy in nats of the members' mean P(a over b), from standardised scores ``[members, ...]``: uncertain pairs,
    be it that members disagree or that all of them think the sides alike."""
    p = np.clip(_chance(a, b).mean(axis=0), 1e-12, 1 - 1e-12)
    return -(p * np.log(p) + (1 - p) * np.log(1 - p))


def k_centre(points: NDArray[np.float64], count: int, taken: NDArray[np.float64] | None = None) -> NDArray[np.int64]:
    """``count`` of the points ``[N, F]``, each the farthest from all chosen before it and from ``taken`` ``[M, F]``
    (greedy k-centre, Gonzalez 1985; B-Pref's coverage sampling). Without ``taken`` the first is the one farthest from
    the mean."""
    if count > len(points):
        raise DataError(f"{count} centres of {len(points)} points", "sample more candidates")
    if taken is None or not len(taken):
        near = ((points - points.mean(0)) ** 2).sum(1)
    else:
        near = np.min([((points - other) ** 2).sum(1) for other in taken], axis=0)
    chosen: list[int] = []
    for _ in range(count):
        chosen.append(int(np.argmax(near)))
        distance = ((points - points[chosen[-1]]) ** 2).sum(1)
        near = distance if len(chosen) == 1 and (taken is None or not len(taken)) else np.minimum(near, distance)
        near[chosen] = -1.0
    return np.array(chosen, np.int64)


def _chance(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-(a - b)))


def single(candidates: Sequence[Candidate], kind: str, *, seed: int, round: int) -> Query:
    """One query of any kind over all the candidates given (of one task), shown in a random stored order."""
    if not candidates:
        raise DataError("a query without candidates", "give the candidates of one task")
    ids = tuple(candidate.id for candidate in candidates)
    order = shuffled(len(ids), seed, "shown", round, *ids)
    return Query(candidates[0].task_id, kind, ids, order, round)  # type: ignore[arg-type]


def _different(row: Sequence[Candidate]) -> list[tuple[int, int]]:
    """Pairs of slots whose candidates look different; of candidates that look the same, the first stands for all."""
    first: dict[str, int] = {}
    for slot, candidate in enumerate(row):
        first.setdefault(digest(_look(candidate)), slot)
    slots = sorted(first.values())
    return [(a, b) for i, a in enumerate(slots) for b in slots[i + 1 :]]


def _look(candidate: Candidate) -> Any:
    """What a teacher would see of a candidate: text without the tokens behind it, otherwise all of the content."""
    return candidate.content["text"] if "text" in candidate.content else dict(candidate.content)


def _comparison(row: Sequence[Candidate], pair: tuple[int, int], seed: int, round: int) -> Query:
    # the canonical slots are shuffled, too: samplers that sort their candidates must not make slot a the better one
    flip = uniform(seed, "slot", row[pair[0]].id, row[pair[1]].id) < 0.5
    a, b = (row[pair[1]], row[pair[0]]) if flip else (row[pair[0]], row[pair[1]])
    return single([a, b], "comparison", seed=seed, round=round)
