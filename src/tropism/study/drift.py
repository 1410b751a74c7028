"""Drift: how well a reward model agrees with feedback that was given after it was fitted, on newer policies' outputs.

Left out: calibration; the refitted model's assessment has it.
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
from tropism.monitoring.drift import accuracy_drift
from tropism.reward.share import Share, weighted_share
from tropism.runtime.stage import StageRun
from tropism.study.protocol import Domain


def drift_of(
    domain: Domain, reward: Path, made: Mapping[str, Any], fresh: Sequence[Judgement], run: StageRun
) -> dict[str, float]:
    """A reward model on feedback it has not seen, and against its held-out accuracy on the day it was fitted.

    ``made``: the values of the stage that fitted it. Returns ``accuracy`` with ``accuracy_low`` and ``accuracy_high``,
    ``pairs`` and ``tasks``; and, where ``made`` holds ``assessment.validation.accuracy``, ``change`` with its 95 %
    interval and ``drifted`` (1 or 0), see ``monitoring.drift``. Empty if the feedback orders nothing.
    """
    now = agreement(domain, reward, fresh, run)
    if now is None:
        return {}
    found = {"accuracy": now.value, "accuracy_low": now.low, "accuracy_high": now.high}
    found |= {"pairs": float(now.pairs), "tasks": float(now.tasks)}
    then = _at_fit(made)
    if then is not None:
        change = accuracy_drift(now, then)
        found |= {"change": change.change, "change_low": change.low, "change_high": change.high}
        found["drifted"] = float(change.drifted)
    return found


def agreement(domain: Domain, reward: Path, judgements: Sequence[Judgement], run: StageRun) -> Share | None:
    """A reward model's accuracy on the pairs that the judgements order, or None if they order none.

    As in the assessment: a judgement is one vote, spread over its pairs; a teacher's tie and equal scores count one
    half; tasks are the clusters of the interval. Errors: RewardError if a score is not finite.
    """
    rows: list[tuple[float, float, str]] = []
    for size in sorted({len(j.candidates) for j in judgements}):
        group = [(j, pairs) for j in judgements if len(j.candidates) == size and (pairs := ordered_pairs(j))]
        if not group:
            continue
        scores = domain.score(reward, [j.task for j, _ in group], [j.candidates for j, _ in group], run)
        if not np.isfinite(scores).all():
            raise RewardError(f"reward model {reward.name} gave a score that is not finite", "fit it again")
        for row, (judgement, pairs) in zip(scores, group, strict=True):
            for first, second, target in pairs:
                side = float(np.sign(row[first] - row[second]))
                rows.append((0.5 + side * (target - 0.5), 1 / len(pairs), judgement.task.id))
    if not rows:
        return None
    credit, weight, tasks = zip(*rows, strict=True)
    _, number = np.unique(np.array(tasks), return_inverse=True)
    return weighted_share(np.array(credit), np.array(weight), number)


def ordered_pairs(judgement: Judgement) -> list[tuple[int, int, float]]:
    """(first, second, target) slot indices of a comparison, ranking or best-of-K, target 1 where the first is better
    and ½ for a tie; other kinds order nothing."""
    kind, value = judgement.value.get("kind", judgement.query.kind), judgement.value
    index = {name: i for i, name in enumerate(slot_names(judgement.query.kind, len(judgement.candidates)))}
    if kind == "comparison":
        target = {"a": 1.0, "b": 0.0, "tie": 0.5}.get(str(value["choice"]))
        return [] if target is None else [(0, 1, target)]
    if kind == "best_of":
        if value["best"] == "tie":
            return [(i, j, 0.5) for i, j in combinations(index.values(), 2)]
        best = index.get(str(value["best"]))
        return [] if best is None else [(best, other, 1.0) for other in index.values() if other != best]
    if kind == "ranking":
        tiers = [(index[name], tier) for tier, group in enumerate(value["rank"]) for name in group]
        return [(i, j, 0.5 if a == b else 1.0) for (i, a), (j, b) in combinations(tiers, 2)]
    return []


def _at_fit(made: Mapping[str, Any]) -> Share | None:
    """The held-out accuracy among a reward stage's values, or None where its domain reports none with an interval."""
    found: Any = made
    for name in ("assessment", "validation", "accuracy"):
        found = found.get(name) if isinstance(found, Mapping) else None
    return Share(**found) if isinstance(found, Mapping) else None
