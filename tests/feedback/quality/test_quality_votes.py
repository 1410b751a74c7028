"""From judgements to arrays: canonical slots, the place shown, lengths, and what is left out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tropism.errors import DataError
from tropism.feedback.quality.votes import table_of, votes_of
from tropism.feedback.records import Candidate, Judgement, Provenance, Query, Task

TASK = Task("train", {"prompt": "say it"})
TEXTS = ("short", "a good deal longer", "in between")
CANDIDATES = tuple(
    Candidate(TASK.id, "text", {"text": text}, Provenance("sft", seed=i)) for i, text in enumerate(TEXTS)
)


def judgement(
    event: str, who: str, value: dict[str, Any], slots: tuple[int, ...] = (0, 1), shown: tuple[int, ...] = (0, 1)
) -> Judgement:
    shown_of = tuple(CANDIDATES[i] for i in slots)
    query = Query(TASK.id, value["kind"], tuple(c.id for c in shown_of), shown, 1)
    return Judgement(event, who, query, TASK, shown_of, value, None, "person")


def choose(choice: str) -> dict[str, Any]:
    return {"kind": "comparison", "choice": choice, "strength": 0}


def test_comparisons_become_votes_in_canonical_slots() -> None:
    said = [
        judgement("e1", "ann", choose("a")),
        judgement("e2", "bob", choose("b"), shown=(1, 0)),
        judgement("e3", "ann", choose("tie"), slots=(1, 2)),
    ]
    found = votes_of(said, {"e3": "b"})
    votes = found.votes
    assert votes.items == tuple(c.id for c in CANDIDATES)
    assert votes.annotators == ("ann", "bob")
    assert found.event_ids == ("e1", "e2", "e3")
    assert found.query_ids == tuple(each.query.id for each in said)
    np.testing.assert_array_equal(votes.a, [0, 0, 1])
    np.testing.assert_array_equal(votes.b, [1, 1, 2])
    np.testing.assert_array_equal(votes.annotator, [0, 1, 0])
    np.testing.assert_array_equal(votes.choice, [0, 1, 2])
    np.testing.assert_array_equal(votes.first, [1, -1, -1])  # the assignment's order goes before the query's
    assert votes.length[0] == pytest.approx(np.log1p(len(TEXTS[0])) - np.log1p(len(TEXTS[1])))
    assert not found.left_out


def test_what_compares_nothing_is_left_out_and_counted() -> None:
    rating = {"kind": "rating", "slot": "c1", "score": 3, "scale": [1, 5], "aspect": "overall"}
    said = [
        judgement("e1", "ann", choose("both_bad")),
        judgement("e2", "ann", choose("cannot_judge")),
        judgement("e3", "ann", rating),
        judgement("e4", "ann", choose("a")),
    ]
    found = votes_of(said)
    assert len(found.votes) == 1
    assert found.left_out == {"both_bad": 1, "cannot_judge": 1, "rating": 1}


def test_segments_are_as_long_as_their_steps() -> None:
    clips = tuple(Candidate(TASK.id, "segment", {"artifact": "x", "length": n}, Provenance("sft")) for n in (9, 99))
    said = replace(judgement("e1", "ann", choose("a")), candidates=clips)
    assert votes_of([said]).votes.length[0] == pytest.approx(np.log(0.1))


def test_an_order_that_names_no_slot_is_an_error() -> None:
    with pytest.raises(DataError, match="c1"):
        votes_of([judgement("e1", "ann", choose("a"))], {"e1": "c1"})


def test_no_judgements_are_no_votes() -> None:
    assert len(votes_of([]).votes) == 0


def test_a_table_of_comparisons_leaves_cannot_judge_empty() -> None:
    said = [
        judgement("e1", "ann", choose("a")),
        judgement("e2", "bob", choose("both_bad")),
        judgement("e3", "cy", choose("cannot_judge")),
        judgement("e4", "ann", choose("a"), slots=(1, 2)),
    ]
    table = table_of(said, "comparison")
    assert table.annotators == ("ann", "bob")
    assert table.names == ("a", "both_bad")
    np.testing.assert_array_equal(table.values, [[0, 1], [0, np.nan]])


def test_ratings_are_numbers_by_aspect_and_place() -> None:
    def rate(event: str, who: str, score: int, aspect: str) -> Judgement:
        value = {"kind": "rating", "slot": "c1", "score": score, "scale": [1, 5], "aspect": aspect}
        return judgement(event, who, value, slots=(0,), shown=(0,))

    table = table_of(
        [rate("e1", "ann", 4, "tone"), rate("e2", "bob", 5, "tone"), rate("e3", "bob", 1, "facts")], "rating"
    )
    np.testing.assert_array_equal(table.values, [[4, 5], [np.nan, 1]])
    assert table.names == ()


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ({"kind": "label", "slot": "c1", "name": "safe", "good": False}, ("no",)),
        ({"kind": "approval", "slot": "c1", "approved": True}, ("up",)),
        ({"kind": "best_of", "best": "c2"}, ("c2",)),
    ],
)
def test_labels_approvals_and_best_of(value: dict[str, Any], names: tuple[str, ...]) -> None:
    assert table_of([judgement("e1", "ann", value)], value["kind"]).names == names


def test_agreement_on_free_text_is_refused() -> None:
    with pytest.raises(DataError, match="critique"):
        table_of([], "critique")
