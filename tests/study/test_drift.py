"""Drift: a reward model against feedback it has not seen, counted as the assessment counts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tropism.errors import RewardError
from tropism.feedback.records import Candidate, Judgement, Provenance, Query, QueryKind, Task
from tropism.reward.dataset import RewardData
from tropism.reward.pairs import Pairs, clustered_share, credits
from tropism.runtime.stage import StageRun
from tropism.study.drift import agreement, drift_of, ordered_pairs

VALUES: list[tuple[QueryKind, int, dict[str, Any]]] = [
    ("comparison", 2, {"choice": "a"}),
    ("comparison", 2, {"choice": "b"}),
    ("comparison", 2, {"choice": "tie"}),
    ("comparison", 2, {"choice": "both_bad"}),
    ("best_of", 4, {"best": "c2"}),
    ("best_of", 3, {"best": "tie"}),
    ("ranking", 4, {"rank": [["c3"], ["c1", "c4"]], "unranked": ["c2"]}),
    ("rating", 1, {"score": 1, "scale": [0, 1]}),
    ("comparison", 2, {"kind": "rating", "slot": "a", "score": 1, "scale": [0, 1]}),
]


def judgement(number: int, kind: QueryKind, k: int, value: dict[str, Any]) -> Judgement:
    task = Task("train", {"n": number % 7})
    made = tuple(Candidate(task.id, "arm", {"n": number, "slot": i}, Provenance("p")) for i in range(k))
    query = Query(task.id, kind, tuple(c.id for c in made), tuple(range(k)), 2)
    return Judgement(f"e{number}", "t", query, task, made, value)


def score_of(candidate: Candidate) -> float:
    return float(hash((candidate.content["n"] % 5, candidate.content["slot"])) % 3)


class Scorer:
    """As much of a domain as drift needs: scores by a rule, or one that is broken."""

    def __init__(self, broken: bool = False) -> None:
        self.broken = broken

    def score(
        self, reward: Path, tasks: Sequence[Task], candidates: Sequence[Sequence[Candidate]], run: StageRun
    ) -> np.ndarray:
        found = np.array([[score_of(c) for c in row] for row in candidates])
        return found * np.nan if self.broken else found


JUDGED = [judgement(i, *VALUES[i % len(VALUES)]) for i in range(90)]


def test_drift_counts_as_the_assessment_does(tmp_path: Path) -> None:
    run = StageRun("reward-2", tmp_path, 0)
    data = RewardData.from_judgements(JUDGED)
    pairs = Pairs.of(data)
    expected = clustered_share(credits(np.array([score_of(c) for c in data.candidates]), pairs), pairs)
    found = agreement(Scorer(), tmp_path, JUDGED, run)  # type: ignore[arg-type]
    assert found is not None
    assert found.value == pytest.approx(expected.value)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert (found.pairs, found.tasks) == (expected.pairs, expected.tasks)


def test_drift_is_against_the_day_of_the_fit(tmp_path: Path) -> None:
    run = StageRun("reward-2", tmp_path, 0)
    at_fit = {"value": 0.95, "low": 0.93, "high": 0.97, "pairs": 400, "tasks": 400}
    made = {"assessment": {"validation": {"accuracy": at_fit}}}
    found = drift_of(Scorer(), tmp_path, made, JUDGED, run)  # type: ignore[arg-type]
    assert found["change"] == pytest.approx(found["accuracy"] - 0.95)
    assert found["change_low"] < found["change"] < found["change_high"] < 0
    assert found["drifted"] == 1.0
    for unknown in ({}, {"assessment": {"accuracy": 0.9}}, {"assessment": {"validation": None}}):
        assert "change" not in drift_of(Scorer(), tmp_path, unknown, JUDGED, run)  # type: ignore[arg-type]


def test_nothing_ordered_is_no_drift_and_a_broken_score_is_named(tmp_path: Path) -> None:
    run = StageRun("reward-2", tmp_path, 0)
    ratings = [j for j in JUDGED if not ordered_pairs(j)]
    assert len(ratings) == 30
    assert drift_of(Scorer(), tmp_path, {}, ratings, run) == {}  # type: ignore[arg-type]
    with pytest.raises(RewardError, match="not finite"):
        drift_of(Scorer(broken=True), tmp_path, {}, JUDGED, run)  # type: ignore[arg-type]
