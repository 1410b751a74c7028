"""Choosing pairs: deterministic, no identical texts, positions that say nothing, disagreement on equal terms."""

from __future__ import annotations

import numpy as np
import pytest

from tropism.errors import DataError
from tropism.feedback.records import Candidate, Provenance, Task
from tropism.feedback.selection import (
    by_disagreement,
    disagreement,
    entropy,
    k_centre,
    random_pairs,
    single,
    standardised,
)


def rows(n: int, texts: list[str]) -> list[list[Candidate]]:
    tasks = [Task("train", {"prompt": str(i)}) for i in range(n)]
    return [
        [Candidate(t.id, "text", {"text": x, "tokens": [i]}, Provenance("sft", seed=i)) for i, x in enumerate(texts)]
        for t in tasks
    ]


def test_random_pairs_are_deterministic_and_spread_over_tasks() -> None:
    made = rows(20, ["x", "y", "z"])
    chosen = random_pairs(made, 30, seed=1, round=2)
    assert chosen == random_pairs(made, 30, seed=1, round=2)
    assert chosen != random_pairs(made, 30, seed=2, round=2)
    assert len({q.id for q in chosen}) == 30
    per_task = [sum(q.task_id == row[0].task_id for q in chosen) for row in made]
    assert set(per_task) == {1, 2}
    assert {q.round for q in chosen} == {2}
    assert len(random_pairs(made, 1000, seed=1, round=2)) == 60
    assert len(random_pairs(made, 1000, seed=1, round=2, per_task=1)) == 20


def test_texts_that_look_the_same_are_not_compared() -> None:
    made = rows(5, ["x", "x", "y"])
    chosen = random_pairs(made, 100, seed=0, round=0)
    assert len(chosen) == 5  # x against y, once a task
    assert random_pairs(rows(5, ["x", "x"]), 100, seed=0, round=0) == []
    scores = np.zeros((2, 5, 3))
    scores[0, :, 1], scores[0, :, 0] = 5.0, -5.0  # members disagree most about the pair that looks the same
    scores[1, :, 2] = 1.0
    texts = {c.id: c.content["text"] for row in made for c in row}
    for query in by_disagreement(made, scores, 5, seed=0, round=0):
        assert {texts[id] for id in query.candidate_ids} == {"x", "y"}


def test_trap_43_neither_slot_nor_position_tells_the_order_of_sampling() -> None:
    made = rows(400, ["first", "second"])
    texts = {c.id: c.content["text"] for row in made for c in row}
    chosen = random_pairs(made, 400, seed=0, round=0)
    slot_a = sum(texts[q.candidate_ids[0]] == "first" for q in chosen)
    shown = sum(texts[q.candidate_ids[q.shown_order[0]]] == "first" for q in chosen)
    agree = sum(q.shown_order == (0, 1) for q in chosen)
    for count in (slot_a, shown, agree):
        assert 160 < count < 240
    orders = {single(made[0] * 1, "ranking", seed=s, round=0).shown_order for s in range(20)}
    assert orders == {(0, 1), (1, 0)}


def test_disagreement_finds_the_pair_the_members_differ_on() -> None:
    made = rows(4, ["x", "y", "z"])
    scores = np.zeros((3, 4, 3))
    scores[:, :, 0] = 1.0  # all agree that x is better, everywhere
    scores[0, 2, 1], scores[1, 2, 1] = 4.0, -4.0  # but not about y in task 2
    first = by_disagreement(made, scores, 1, seed=0, round=0)[0]
    assert first.task_id == made[2][0].task_id
    assert made[2][1].id in first.candidate_ids
    assert len(by_disagreement(made, scores, 100, seed=0, round=0)) == 4
    assert len(by_disagreement(made, scores, 100, seed=0, round=0, per_task=None)) == 12


def test_trap_25_members_are_normalised_before_they_are_compared() -> None:
    rng = np.random.default_rng(0)
    made, scores = rows(50, ["x", "y", "z"]), rng.normal(size=(3, 50, 3))
    plain = by_disagreement(made, scores, 20, seed=0, round=0)
    stretched = scores * np.array([1.0, 1000.0, 0.01])[:, None, None] + np.array([5.0, -3.0, 0.0])[:, None, None]
    assert by_disagreement(made, stretched, 20, seed=0, round=0) == plain


def test_unusable_scores_are_refused() -> None:
    made = rows(2, ["x", "y"])
    with pytest.raises(DataError, match=r"shape \(1, 2, 2\)"):
        by_disagreement(made, np.zeros((1, 2, 2)), 1, seed=0, round=0)
    with pytest.raises(DataError, match="NaN"):
        by_disagreement(made, np.full((2, 2, 2), np.nan), 1, seed=0, round=0)
    uneven = [made[0], made[1][:1]]  # a task with fewer candidates: what pads the array is not looked at
    scores = np.zeros((2, 2, 2))
    scores[:, 1, 1] = np.nan
    assert len(by_disagreement(uneven, scores, 5, seed=0, round=0)) == 1


def test_measures_of_a_pair() -> None:
    # three members, four pairs: sure and agreed, all undecided, divided, divided and large
    a = np.array([[4.0, 0.0, 3.0, 9.0], [4.0, 0.0, -3.0, -9.0], [4.0, 0.0, 0.0, 0.0]])
    b = np.zeros((3, 4))
    assert list(np.argsort(-disagreement(a, b))) == [3, 2, 0, 1]
    assert disagreement(a, b)[1] == 0
    assert entropy(a, b)[[1, 2, 3]] == pytest.approx(np.log(2))
    assert entropy(a, b)[0] < 0.1


def test_members_are_standardised_one_by_one() -> None:
    scores = np.random.default_rng(0).normal(size=(2, 5, 2)) * np.array([1.0, 100.0])[:, None, None] + 7
    scaled = standardised(scores)
    assert scaled.reshape(2, -1).mean(1) == pytest.approx([0, 0], abs=1e-9)
    assert scaled.reshape(2, -1).std(1) == pytest.approx([1, 1])
    with pytest.raises(DataError, match="NaN"):
        standardised(np.full((2, 3, 2), np.nan))


def test_k_centre_spreads_over_clusters() -> None:
    random = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    points = np.concatenate([c + random.normal(size=(20, 2)) * 0.1 for c in centres])
    assert sorted(k_centre(points, 4) // 20) == [0, 1, 2, 3]
    assert sorted(k_centre(points, 2, taken=centres[:2]) // 20) == [2, 3]
    assert len(set(k_centre(points, 80).tolist())) == 80
    with pytest.raises(DataError, match="81 centres of 80"):
        k_centre(points, 81)
