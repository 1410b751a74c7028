"""Drift: how well a reward model agrees with feedback that was given after it was fitted, on newer policies' outputs.

Left out: intervals and calibration; the refitted model's assessment has them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from tropism.errors import RewardError
from tropism.feedback.records import Judgement
from tropism.feedback.values import slot_names
from tropism.runtime.stage import StageRun
from tropism.study.protocol import Domain


def agreement(domain: Domain, reward: Path, judgements: Sequence[Judgement], run: StageRun) -> dict[str, float]:
    """``{"accuracy", "pairs"}`` of a reward model on the pairs that the judgements order; empty if they order none.

    Equal scores count one half; ties of the teacher are left out. Errors: RewardError if a score is not finite.
    """
    hits: list[float] = []
    for size in sorted({len(j.candidates) for j in judgements}):
        group = [(j, better_pairs(j)) for j in judgements if len(j.candidates) == size]
        group = [(j, pairs) for j, pairs in group if pairs]
        if not group:
            continue
        scores = domain.score(reward, [j.task for j, _ in group], [j.candidates for j, _ in group], run)
        if not np.isfinite(scores).all():
            raise RewardError(f"reward model {reward.name} gave a score that is not finite", "fit it again")
        for row, (_, pairs) in zip(scores, group, strict=True):
            hits += [0.5 * (1 + float(np.sign(row[better] - row[worse]))) for better, worse in pairs]
    return {"accuracy": float(np.mean(hits)), "pairs": float(len(hits))} if hits else {}


def better_pairs(judgement: Judgement) -> list[tuple[int, int]]:
    """(better, worse) slot indices that a comparison, ranking or best-of-K states; other kinds order nothing."""
    kind, value = judgement.query.kind, judgement.value
    index = {name: i for i, name in enumerate(slot_names(kind, len(judgement.candidates)))}
    if kind == "comparison":
        return {"a": [(0, 1)], "b": [(1, 0)]}.get(str(value["choice"]), [])
    if kind == "best_of":
        best = index.get(str(value["best"]))
        return [] if best is None else [(best, other) for other in index.values() if other != best]
    if kind == "ranking":
        return _ranked_pairs(value, index)
    return []


def _ranked_pairs(value: Mapping[str, Any], index: Mapping[str, int]) -> list[tuple[int, int]]:
    return [
        (index[better], index[worse])
        for upper, lower in combinations(value["rank"], 2)
        for better in upper
        for worse in lower
    ]
