"""How far one annotator can be relied on: repeats, cycles, questions of known answer, and times out of the ordinary.

Every number comes with its interval or with what chance gives, and none is a verdict on a person by itself. Left out:
what to do about it, which is for people to decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from tropism.errors import DataError
from tropism.feedback.quality.estimates import Estimate, share
from tropism.feedback.quality.votes import A_WINS, B_WINS, TIE, Floats, Integers, Votes
from tropism.runtime.seeding import derive

_MAD = 1.4826  # a Gaussian's standard deviation in units of its median absolute deviation
_LEAST_SCALE = 0.1  # in log seconds: whoever takes 10 % more or less is regular, however regular they are otherwise
_LEAST_TIMES = 10


@dataclass(frozen=True)
class Retest:
    """How often a repeated question got the same answer, in canonical slots.

    ``same``: over all repeats; ``straight`` and ``swapped``: of those with the order kept and reversed.
    ``flipped_straight`` and ``flipped_swapped``: a against b, ties aside. After a swap a flip is the same place chosen
    twice: what the second share exceeds the first by is the pull of the place.
    """

    same: Estimate
    straight: Estimate
    swapped: Estimate
    flipped_straight: Estimate
    flipped_swapped: Estimate
    by_annotator: dict[int, Estimate]


def retest(annotator: Integers, first: Integers, second: Integers, swapped: NDArray[np.bool_]) -> Retest:
    """Repeats ``[N]``: who, the choices of the first and second time (0 a, 1 b, 2 tie), and whether places changed."""
    if not annotator.shape == first.shape == second.shape == swapped.shape:
        raise DataError("repeats with columns of different lengths", "give one row for each repeat")
    same = first == second
    flipped = ~same & (first != TIE) & (second != TIE)

    def of(hits: NDArray[np.bool_], where: NDArray[np.bool_]) -> Estimate:
        return share(int((hits & where).sum()), int(where.sum()))

    return Retest(
        of(same, np.ones_like(same)), of(same, ~swapped), of(same, swapped), of(flipped, ~swapped),
        of(flipped, swapped), {int(k): of(same, annotator == k) for k in np.unique(annotator)},
    )  # fmt: skip


@dataclass(frozen=True)
class Cycles:
    """Intransitive triples: ``cyclic`` of ``triples`` with all three pairs decided; ``share`` is NaN without any.

    Coin flips give ``chance`` (a quarter), 95 % of the time between ``chance_low`` and ``chance_high`` on the very
    pairs that were judged. A ``share`` below ``chance_low`` is more order than chance has.
    """

    triples: int
    cyclic: int
    share: float
    chance: float
    chance_low: float
    chance_high: float


def cycles(votes: Votes, *, draws: int = 200, seed: int = 0) -> Cycles:
    """Cycles a > b > c > a (Kendall and Babington Smith 1940) among the majorities of ``votes``.

    Give one annotator's votes (``votes.take``) for their own consistency. A pair without a majority is undecided.
    """
    n = len(votes.items)
    side = np.select([votes.choice == A_WINS, votes.choice == B_WINS], [1, -1], 0)
    low, high = np.minimum(votes.a, votes.b), np.maximum(votes.a, votes.b)
    keys, place = np.unique(low * n + high, return_inverse=True)
    net = np.sign(np.bincount(place, np.where(votes.a < votes.b, side, -side), len(keys)))
    decided = net != 0
    low, high, net = keys[decided] // n, keys[decided] % n, net[decided]
    ones = np.ones(len(net))
    graph = _square(low, high, ones, n)
    triples = round(_closed(graph + graph.T) / 6)
    if not triples:
        return Cycles(0, 0, np.nan, 0.25, np.nan, np.nan)

    def cyclic(sign: Floats) -> int:
        return round(_closed(_square(np.where(sign > 0, low, high), np.where(sign > 0, high, low), ones, n)) / 3)

    random = np.random.Generator(np.random.Philox(derive(seed, "cycles by chance", len(net))))
    chance = [cyclic(random.choice([-1.0, 1.0], len(net))) / triples for _ in range(draws)]
    found = cyclic(net)
    bounds = np.quantile(chance, [0.025, 0.975])
    return Cycles(triples, found, found / triples, 0.25, float(bounds[0]), float(bounds[1]))


def _square(rows: Integers, columns: Integers, values: Floats, n: int) -> sparse.csr_matrix:
    return sparse.csr_matrix((values, (rows, columns)), shape=(n, n))


def _closed(graph: sparse.csr_matrix) -> float:
    """The trace of the graph's third power: closed walks of three steps."""
    return float((graph @ graph).multiply(graph.T).sum())


def gold_accuracy(annotator: Integers, right: NDArray[np.bool_]) -> dict[int, Estimate]:
    """Share of right answers to questions of known answer, by annotator."""
    return {int(k): share(int(right[annotator == k].sum()), int((annotator == k).sum())) for k in np.unique(annotator)}


@dataclass(frozen=True)
class Times:
    """``z [N]``: each vote's log duration in robust deviations from its person's median for its kind of question (NaN
    where there are too few). ``slow`` and ``hasty`` ``[N]``: beyond the limit. ``person_z``: the median of a person's
    log durations within a kind against all people's medians, by (annotator, kind); only where enough people have one.
    """

    z: Floats
    hasty: NDArray[np.bool_]
    slow: NDArray[np.bool_]
    person_z: dict[tuple[int, str], float]


def time_outliers(annotator: Integers, kind: Sequence[str], duration_ms: Floats, limit: float = 3.5) -> Times:
    """Votes given in a time out of the ordinary for this person and kind of question (Iglewicz and Hoaglin 1993).

    ``duration_ms [N]``: NaN where unknown. Errors: DataError for a duration that is not positive.
    """
    if (duration_ms <= 0).any():
        raise DataError(f"a duration of {duration_ms[duration_ms <= 0][0]} ms", "give positive times, NaN if unknown")
    kinds = np.asarray(kind)
    logs, z = np.log(duration_ms), np.full(len(duration_ms), np.nan)
    person_z: dict[tuple[int, str], float] = {}
    for name in np.unique(kinds):
        people: list[int] = []
        middles: list[float] = []
        for k in np.unique(annotator):
            own = (annotator == k) & (kinds == name) & np.isfinite(logs)
            if own.sum() >= _LEAST_TIMES:
                z[own] = _robust(logs[own])
                people.append(int(k))
                middles.append(float(np.median(logs[own])))
        if len(people) >= 5:  # of fewer nobody can be said to be unusual
            person_z.update({(k, str(name)): float(x) for k, x in zip(people, _robust(np.array(middles)), strict=True)})
    known = np.nan_to_num(z, nan=0.0)
    return Times(z, known < -limit, known > limit, person_z)


def _robust(values: Floats) -> Floats:
    middle = np.median(values)
    scale = max(_MAD * float(np.median(np.abs(values - middle))), _LEAST_SCALE)
    return (values - middle) / scale
