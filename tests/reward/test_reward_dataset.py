"""From judgements to arrays: every kind of value, every reason for leaving one out."""

from __future__ import annotations

import pytest
import torch
from reward_fixtures import candidate, judge, task, world

from tropism.errors import DataError
from tropism.feedback.records import Task
from tropism.reward.dataset import RewardData

ONE = task(1)
A, B, C, D = (candidate(ONE, text) for text in "abcd")


def compare(choice: str, teacher: str = "t1", kind: str = "person", **more: int):
    return judge(ONE, (A, B), "comparison", {"choice": choice, **more}, teacher, teacher_kind=kind)


def test_votes_on_one_query_become_a_soft_target():
    votes = [compare("a", "t1"), compare("a", "t2"), compare("tie", "t3"), compare("b", "t4")]
    data = RewardData.from_judgements(votes)
    assert len(data.choices) == 1
    assert data.choices.target.tolist() == [[2.5 / 4, 1.5 / 4]]
    assert data.choices.weight.tolist() == [4]
    assert data.streams == ("person",)
    assert data.used == {"comparison": 4}


def test_streams_are_not_mixed():
    data = RewardData.from_judgements([compare("a", "t1"), compare("b", "t2", "oracle")])
    assert data.streams == ("person", "oracle")
    assert data.choices.target.tolist() == [[1, 0], [0, 1]]
    assert data.choices.stream.tolist() == [0, 1]


def test_a_teacher_of_unknown_kind_is_a_stream_of_its_own():
    data = RewardData.from_judgements([compare("a", "t1", ""), compare("b", "t2", "")])
    assert data.streams == ("t1", "t2")
    assert len(data.choices) == 2


def test_a_teacher_may_say_more_than_was_asked():
    """A rating and a critique beside the answer to a comparison: each is read as what it is."""
    rating = {"kind": "rating", "slot": "b", "score": 4, "scale": [1, 5]}
    more = [judge(ONE, (A, B), "comparison", value) for value in (rating, {"kind": "critique", "slot": "a"})]
    data = RewardData.from_judgements([compare("a"), *more])
    assert data.used == {"comparison": 1, "rating": 1}
    assert data.dropped == {"critique: no evidence for a reward model": 1}
    assert data.candidates[int(data.ratings.index[0])].id == B.id


def test_strength_is_a_margin_for_the_chosen_one():
    strong, weak = compare("b", "t1", strength=3), compare("b", "t2")
    assert RewardData.from_judgements([strong], strength_margin=0.6).choices.margin.tolist() == [
        [0, pytest.approx(0.6)]
    ]
    both = RewardData.from_judgements([strong, weak], strength_margin=0.6)
    assert both.choices.margin.tolist() == [[0, pytest.approx(0.3)]]
    assert RewardData.from_judgements([strong]).choices.margin.abs().sum() == 0


def test_both_bad_is_two_negative_labels_and_no_comparison():
    data = RewardData.from_judgements([compare("both_bad")])
    assert len(data.choices) == 0
    assert data.labels.target.tolist() == [0, 0]
    assert sorted(data.labels.index.tolist()) == [0, 1]
    assert data.used == {"comparison": 1}


def test_cannot_judge_trains_nothing_and_is_counted():
    data = RewardData.from_judgements([compare("cannot_judge"), compare("a", "t2")])
    assert data.dropped == {"cannot_judge": 1}
    assert data.used == {"comparison": 1}
    assert len(data) == 1


def test_best_of_ranking_rating_label_approval():
    four = (A, B, C, D)
    data = RewardData.from_judgements(
        [
            compare("a"),
            judge(ONE, four, "best_of", {"best": "c3"}),
            judge(ONE, four[:3], "best_of", {"best": "tie"}),
            judge(ONE, four, "ranking", {"rank": [["c2"], ["c1", "c4"]], "unranked": ["c3"]}),
            judge(ONE, (B,), "rating", {"score": 4, "scale": [1, 5], "aspect": "helpful"}),
            judge(ONE, (C,), "rating", {"score": 0.25, "scale": [0, 1]}),
            judge(ONE, (C,), "label", {"name": "safe", "good": True}),
            judge(ONE, (D,), "approval", {"approved": False}),
        ]
    )
    assert data.choices.index.tolist() == [[0, 1, 0, 0], [0, 1, 2, 3], [0, 1, 2, 0]]
    assert data.choices.mask.tolist() == [[True, True, False, False], [True] * 4, [True, True, True, False]]
    assert data.choices.target[1].tolist() == [0, 0, 1, 0]
    assert data.choices.target[2].tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])
    assert data.rankings.tiers.tolist() == [[1, 0, -1, 1]]
    assert data.ratings.score.tolist() == pytest.approx([0.5, -0.5])
    assert data.ratings.category.tolist() == [3, -1]
    assert [s.levels for s in data.scales] == [5, 0]
    assert data.labels.target.tolist() == [1, 0]
    assert data.label_names == ("safe", "approval")
    assert data.used == {"comparison": 1, "best_of": 2, "ranking": 1, "rating": 2, "label": 1, "approval": 1}


def test_what_is_no_evidence_is_counted_by_reason():
    data = RewardData.from_judgements(
        [
            compare("a"),
            judge(ONE, (A,), "critique", {"slot": "c1"}),
            judge(ONE, (A,), "demonstration", {}),
            judge(ONE, (A,), "rating", {"score": 1, "scale": [0, 1], "step": 3}),
        ]
    )
    assert data.dropped == {
        "critique: no evidence for a reward model": 1,
        "demonstration: no evidence for a reward model": 1,
        "rating of a part of a candidate": 1,
    }
    assert sum(data.used.values()) + sum(data.dropped.values()) == 4


def test_split_is_by_task():
    data = RewardData.from_judgements(world("comparison", 20))
    train, validation = data.fold(True), data.fold(False)
    assert (len(train), len(validation)) == (15, 5)
    tasks = [{data.tasks[t].split for t in part.choices.task.tolist()} for part in (train, validation)]
    assert tasks == [{"train"}, {"validation"}]
    assert train.candidates == data.candidates
    assert torch.equal(data.candidate_task, torch.arange(20).repeat_interleave(2))
    assert data.summary()["rows_validation"] == 5


def test_test_tasks_are_refused():
    about = task(5, "test")
    with pytest.raises(DataError, match="test split"):
        RewardData.from_judgements(
            [judge(about, (candidate(about, "x"), candidate(about, "y")), "comparison", {"choice": "a"})]
        )


def test_one_task_in_two_splits_is_refused():
    twin = Task("validation", dict(ONE.payload))
    other = judge(twin, (candidate(twin, "x"), candidate(twin, "y")), "comparison", {"choice": "a"})
    with pytest.raises(DataError, match="two splits"):
        RewardData.from_judgements([compare("a"), other])


def test_malformed_values_are_named():
    with pytest.raises(DataError, match="'c'"):
        RewardData.from_judgements([compare("c")])
    with pytest.raises(DataError, match="c9"):
        RewardData.from_judgements([judge(ONE, (A, B), "best_of", {"best": "c9"})])
    with pytest.raises(DataError, match="twice"):
        RewardData.from_judgements([judge(ONE, (A, A), "comparison", {"choice": "a"})])


def test_no_judgements_give_empty_arrays():
    data = RewardData.from_judgements([])
    assert len(data) == 0
    assert data.choices.index.shape == (0, 2)
    assert len(data.fold(True)) == 0
