"""Where a reward model fails and whom it follows: accuracy by annotator and by length, and against majorities.

Left out: agreement between annotators, which says nothing of the model (feedback's quality has it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tropism.feedback.records import Judgement
from tropism.reward import calibration
from tropism.reward.dataset import RewardData
from tropism.reward.pairs import Floats, Ints, Pairs, clustered_share, credits
from tropism.reward.share import Share

FEW = 10
"""Annotators with fewer pairs than this are shown together."""
OTHERS = "(fewer than 10 pairs each)"


@dataclass(frozen=True)
class LengthBin:
    """Pairs whose lengths differ by ``low`` to ``high`` (inclusive)."""

    low: float
    high: float
    accuracy: Share


@dataclass(frozen=True)
class ByLength:
    """Accuracy in quartiles of the difference in length, and where the shorter or the longer side was chosen.

    A model that has learned length alone is right where the longer one was chosen and wrong where the shorter one was.
    """

    quartiles: list[LengthBin]
    shorter_chosen: Share | None
    longer_chosen: Share | None


@dataclass(frozen=True)
class Majority:
    """Against the majority of each pair's votes, every pair counting once; ties are left out."""

    accuracy: Share
    log_likelihood: float
    """Nats per pair; to be read beside the likelihood per vote, which knows how sure people were."""
    split: float
    """Share of these pairs whose votes were not unanimous."""


def by_length(scores: Floats, pairs: Pairs, lengths: NDArray[np.floating]) -> ByLength:
    """Break accuracy down by the lengths ``[n]`` of the candidates."""
    gap = lengths[pairs.first] - lengths[pairs.second]
    credit, apart = credits(scores, pairs), np.abs(gap)
    edges = np.unique(np.quantile(apart, [0, 0.25, 0.5, 0.75, 1.0]))
    number = np.clip(np.searchsorted(edges, apart, side="left") - 1, 0, max(len(edges) - 2, 0))
    quartiles = []
    for b in np.unique(number):
        rows = number == b
        accuracy = clustered_share(credit[rows], pairs.take(rows))
        quartiles.append(LengthBin(float(apart[rows].min()), float(apart[rows].max()), accuracy))
    shorter, longer = ((pairs.target - 0.5) * gap * sign < 0 for sign in (1, -1))
    return ByLength(quartiles, _of(credit, pairs, shorter), _of(credit, pairs, longer))


def against_majority(scores: Floats, pairs: Pairs) -> Majority | None:
    """Measure against majorities; None where every pair was judged unanimously (or is a tie)."""
    decided = pairs.target != 0.5
    split = decided & (pairs.target > 0) & (pairs.target < 1)
    if not split.any():
        return None
    kept = pairs.take(decided)
    votes = replace(kept, target=np.round(kept.target), weight=np.ones(len(kept)))
    gap = scores[votes.first] - scores[votes.second]
    accuracy = clustered_share(credits(scores, votes), votes)
    return Majority(accuracy, calibration.log_likelihood(gap, votes), float(split.sum() / decided.sum()))


def by_teacher(
    scores: Floats, data: RewardData, judgements: Sequence[Judgement], clusters: Ints | None = None
) -> dict[str, Share]:
    """Accuracy on each annotator's own votes, those of ``judgements``; empty where there is one annotator alone.

    ``scores`` ``[n]`` are of ``data.candidates``; ``clusters`` ``[tasks]`` is what intervals count as independent.
    """
    if len({j.teacher_id for j in judgements}) < 2:
        return {}
    number = {candidate.id: i for i, candidate in enumerate(data.candidates)}
    task = {task.id: i for i, task in enumerate(data.tasks)}
    # without a kind, every teacher is a stream of its own, and votes of several are not merged
    apart = RewardData.from_judgements([replace(j, teacher_kind="") for j in judgements])
    pairs = Pairs.of(apart)
    credit = credits(scores[[number[c.id] for c in apart.candidates]], pairs)
    tasks = np.array([task[t.id] for t in apart.tasks], dtype=np.int64)
    tasks = tasks if clusters is None else clusters[tasks]
    pairs = replace(pairs, task=tasks[pairs.task])
    often = np.bincount(pairs.stream, minlength=len(apart.streams)) >= FEW
    found = {
        name: clustered_share(credit[pairs.stream == i], pairs.take(pairs.stream == i))
        for name, i in sorted((name, i) for i, name in enumerate(apart.streams))
        if often[i]
    }
    rest = ~often[pairs.stream]
    return found | ({OTHERS: clustered_share(credit[rest], pairs.take(rest))} if rest.any() else {})


def _of(credit: Floats, pairs: Pairs, rows: NDArray[np.bool_]) -> Share | None:
    return clustered_share(credit[rows], pairs.take(rows)) if rows.any() else None
