"""Answers to the queue: stored once, skipped, refused, taken back (traps 44, 47)."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from queue_cases import VALUES, Case, violations

from tropism.errors import AlreadyAnswered, DataError, NotYours, UndoTooLate
from tropism.feedback.chain import verify
from tropism.feedback.records import Answer
from tropism.feedback.teachers import pending
from tropism.store import schema
from tropism.store.database import Database


def test_trap_47_a_submission_is_stored_once(database: Database) -> None:
    case = Case(database, n=2)
    (claimed,) = case.claim()
    answer = [Answer({"choice": "a"}, "why", 10)]
    person, id_ = case.people[0], claimed.assignment_id
    first = case.queue.submit(id_, person, "s1", answer)
    case.clock.now += 5
    again = case.queue.submit(id_, person, "s1", answer)
    assert again.again
    assert (again.event_ids, again.late, again.undo_until) == (first.event_ids, first.late, first.undo_until)
    with pytest.raises(AlreadyAnswered, match="answered already"):
        case.queue.submit(id_, person, "s2", answer)
    (second,) = case.claim()
    with pytest.raises(DataError, match="'s1' is of assignment"):
        case.queue.submit(second.assignment_id, person, "s1", answer)
    assert case.log.counts()["events"] == 1
    case.queue.skip(second.assignment_id, person, "s3")
    assert case.queue.skip(second.assignment_id, person, "s3").again
    with pytest.raises(AlreadyAnswered, match="skipped already"):
        case.queue.submit(second.assignment_id, person, "s4", answer)
    assert violations(database) == []


def test_trap_44_a_skip_is_no_vote_and_frees_the_place(database: Database) -> None:
    case = Case(database, n=1)
    (claimed,) = case.claim(0)
    case.queue.skip(claimed.assignment_id, case.people[0], "s")
    assert case.log.counts()["events"] == 0
    assert case.claim(0) == []
    assert [c.query for c in case.claim(1)] == [claimed.query]
    assert violations(database) == []


def test_nobody_answers_for_somebody_else(database: Database) -> None:
    case = Case(database)
    (claimed,) = case.claim(0)
    id_, other = claimed.assignment_id, case.people[1]
    with pytest.raises(NotYours):
        case.submit(claimed, 1)
    for action in (case.queue.heartbeat, case.queue.release, case.queue.undo):
        with pytest.raises(NotYours):
            action(id_, other)
    with pytest.raises(NotYours):
        case.queue.draft(id_, other, {})
    with pytest.raises(NotYours):
        case.queue.skip(id_, other, "s")
    with pytest.raises(DataError, match="no teacher 'nobody'"):
        case.queue.claim("nobody")
    assert violations(database) == []


@pytest.mark.parametrize("kind", sorted(VALUES))
def test_every_kind_is_taken(database: Database, kind: str) -> None:
    k = {"comparison": 2, "ranking": 3, "best_of": 3, "demonstration": 0}.get(kind, 1)
    case = Case(database, n=1, kind=kind, k=k)
    (claimed,) = case.claim()
    case.submit(claimed)
    assert pending(case.log, case.queries) == []
    assert verify(database).ok


def test_unusable_answers_change_nothing(database: Database) -> None:
    case = Case(database, n=1)
    (claimed,) = case.claim()

    def refused(*answers: Answer, match: str) -> None:
        with pytest.raises(DataError, match=match):
            case.queue.submit(claimed.assignment_id, case.people[0], "s", answers)

    refused(match="was given nothing")
    refused(Answer(None), match="a skip")
    refused(Answer({"choice": "left"}), match="choice")
    refused(Answer({"kind": "retraction"}), match="as an answer")
    refused(Answer({"kind": "critique", "slot": "a"}, "too long"), match="was given critique")
    refused(Answer({"choice": "a"}), Answer({"choice": "b"}), match="two values")
    assert case.claim() != []
    assert case.log.counts()["events"] == 0
    stored = case.queue.submit(
        claimed.assignment_id, case.people[0], "s",
        [Answer({"choice": "a"}), Answer({"kind": "critique", "slot": "b"}, "too long")],
    )  # fmt: skip
    assert len(stored.event_ids) == 2
    assert violations(database) == []


# ---- undo ----


def test_undo_is_an_event_and_the_next_answer_supersedes_it(database: Database) -> None:
    case = Case(database, n=1)
    (claimed,) = case.claim()
    first = case.submit(claimed, choice="a")
    opened = case.queue.undo(claimed.assignment_id, case.people[0])
    assert opened.assignment_id != claimed.assignment_id
    assert (opened.query, opened.shown_order) == (claimed.query, claimed.shown_order)
    assert case.log.judgements() == []
    assert pending(case.log, case.queries) == list(case.queries)
    assert case.queue.undo(claimed.assignment_id, case.people[0]) == opened  # asked again after a lost answer
    assert case.claim()[0].assignment_id == opened.assignment_id
    second = case.submit(opened, choice="b")
    (judgement,) = case.log.judgements()
    assert judgement.value["choice"] == "b"
    with database.read() as connection:
        events = list(connection.execute(sa.select(schema.events).order_by(schema.events.c.seq)))
    assert [row.kind for row in events] == ["comparison", "retraction", "comparison"]
    assert [row.supersedes for row in events] == [None, first.event_ids[0], events[1].id]
    assert second.event_ids == (events[2].id,)
    (state,) = case.states().values()
    assert (state.votes, state.open) == (1, 0)
    assert verify(database).ok
    assert violations(database) == []


def test_the_same_answer_may_be_given_again_after_an_undo(database: Database) -> None:
    case = Case(database, n=1, kind="ranking", k=3)
    (claimed,) = case.claim()
    for _ in range(3):
        case.submit(claimed)
        claimed = case.queue.undo(claimed.assignment_id, case.people[0])
    case.submit(claimed)
    assert len(case.log.judgements()) == 1
    assert case.log.counts()["events"] == 7
    assert verify(database).ok
    assert violations(database) == []


def test_a_late_copy_of_an_undone_submission_changes_nothing(database: Database) -> None:
    case = Case(database, n=1)
    (claimed,) = case.claim()
    answer = [Answer({"choice": "a"})]
    case.queue.submit(claimed.assignment_id, case.people[0], "s1", answer)
    case.queue.undo(claimed.assignment_id, case.people[0])
    assert case.queue.submit(claimed.assignment_id, case.people[0], "s1", answer).again
    assert case.log.judgements() == []
    with pytest.raises(AlreadyAnswered, match="taken back already"):
        case.queue.submit(claimed.assignment_id, case.people[0], "s2", answer)


def test_undo_has_its_time_and_its_place(database: Database) -> None:
    case = Case(database, n=1)
    (claimed,) = case.claim()
    with pytest.raises(NotYours, match="no answer to take back"):
        case.queue.undo(claimed.assignment_id, case.people[0])
    case.submit(claimed)
    case.clock.now += 31
    with pytest.raises(UndoTooLate, match="31 s ago"):
        case.queue.undo(claimed.assignment_id, case.people[0])
    assert len(case.log.judgements()) == 1


def test_a_skip_and_a_late_answer_can_be_taken_back(database: Database) -> None:
    case = Case(database, n=1)
    (claimed,) = case.claim(0)
    case.queue.skip(claimed.assignment_id, case.people[0], "s")
    opened = case.queue.undo(claimed.assignment_id, case.people[0])
    assert case.claim(1) == []  # the place is theirs again
    case.clock.now += 301
    (other,) = case.claim(1)
    assert case.submit(opened, 0).late
    opened = case.queue.undo(opened.assignment_id, case.people[0])
    (state,) = case.states().values()
    assert (state.votes, state.open, state.late) == (0, 1, 0)
    case.submit(other, 1)
    assert case.submit(opened, 0).late
    assert violations(database) == []
