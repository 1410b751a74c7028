"""The queue: who is asked what, leases, overlap, lateness, why there is nothing (traps 43, 45, 46)."""

from __future__ import annotations

from collections import Counter

import pytest
import sqlalchemy as sa
from feedback_cases import candidates, query, task
from queue_cases import Case, violations

from tropism.errors import LeaseLost
from tropism.feedback.queue import Queue
from tropism.feedback.records import Answer
from tropism.feedback.teachers import pending
from tropism.store import schema
from tropism.store.database import Database


def test_a_claimed_question_is_answered_and_the_study_hears_of_it(database: Database) -> None:
    case = Case(database, n=1)
    (claimed,) = case.claim()
    assert claimed.query == case.queries[0]
    assert sorted(claimed.shown_order) == [0, 1]
    assert claimed.expires_at == case.clock.now + 300
    assert pending(case.log, case.queries) == list(case.queries)
    stored = case.submit(claimed, choice="b", strength=2)
    assert (stored.late, stored.again, stored.undo_until) == (False, False, case.clock.now + 30)
    assert pending(case.log, case.queries) == []
    (judgement,) = case.log.judgements()
    assert judgement.event_id == stored.event_ids[0]
    assert judgement.value == {"kind": "comparison", "choice": "b", "strength": 2}
    assert judgement.text == "words"
    (row,) = case.assignments()
    assert (row.status, row.duration_ms, row.event_ids) == ("submitted", 1200, list(stored.event_ids))
    assert violations(database) == []


def test_trap_43_the_order_shown_is_drawn_for_each_assignment_and_stored(database: Database) -> None:
    case = Case(database, n=20, people=8, votes_per_query=8)
    seen: dict[str, set[tuple[int, ...]]] = {q.id: set() for q in case.queries}
    for person in range(8):
        for _ in range(20):
            (claimed,) = case.claim(person)
            seen[claimed.query.id].add(claimed.shown_order)
            case.submit(claimed, person)
    stored = Counter(tuple(row.shown_order) for row in case.assignments())
    assert 55 <= stored[0, 1] <= 105  # of 160: within four deviations of one half
    assert sum(len(orders) == 2 for orders in seen.values()) >= 15  # people saw one query both ways round


def test_trap_45_no_query_has_more_people_on_it_than_are_wanted(database: Database) -> None:
    case = Case(database, n=2, people=4, votes_per_query=2)
    first = [case.claim(person, 2) for person in range(2)]
    assert all({c.query.id for c in claimed} == {q.id for q in case.queries} for claimed in first)
    assert case.queue.claim(case.people[2])[1] is not None
    with pytest.raises(sa.exc.IntegrityError), database.write() as connection:
        connection.execute(sa.update(schema.query_state).values(open=3, taken=3))
    for person, claimed in enumerate(first):
        for one in claimed:
            case.submit(one, person)
    assert {row.votes for row in case.states().values()} == {2}
    assert violations(database) == []


def test_trap_45_one_person_is_asked_once(database: Database) -> None:
    case = Case(database, n=3, votes_per_query=2)
    asked = []
    while claimed := case.claim():
        asked.append(claimed[0].query.id)
        case.submit(claimed[0])
    assert sorted(asked) == sorted(q.id for q in case.queries)
    (row, *_) = case.assignments()
    twice = {**row._mapping, "id": "another", "submission_id": None}
    with pytest.raises(sa.exc.IntegrityError), database.write() as connection:
        connection.execute(sa.insert(schema.assignments).values(twice))


def test_breadth_comes_first_and_priority_before_it(database: Database) -> None:
    case = Case(database, n=3, people=3, votes_per_query=2)
    case.queue.want([case.queries[2].id], 2, priority=-1)
    assert case.claim(0)[0].query.id == case.queries[2].id
    others = {case.claim(person)[0].query.id for person in (1, 2)}
    assert case.queries[2].id in others  # a second vote there comes before the first elsewhere
    assert len(others) == 2


def test_claiming_again_gives_the_same_questions_and_fills_up(database: Database) -> None:
    case = Case(database, n=6)
    first = case.claim(count=3)
    case.clock.now += 100
    again = case.claim(count=4)
    assert [c.assignment_id for c in again[:3]] == [c.assignment_id for c in first]
    assert [c.shown_order for c in again[:3]] == [c.shown_order for c in first]
    assert {c.expires_at for c in again} == {case.clock.now + 300}
    assert case.claim(count=2) == again[:2]


def test_kinds_can_be_chosen(database: Database) -> None:
    case = Case(database, n=2)
    case.log.add_candidates(candidates(task("0"), 3))
    rating = query(task("0"), "rating", 1)
    case.log.add_queries([rating])
    person = case.people[0]
    assert [c.query for c in case.queue.claim(person, 4, ["rating", "label"])[0]] == [rating]
    held, empty = case.queue.claim(person, 1, ["ranking"])
    assert held == []
    assert empty is not None
    assert (empty.reason, empty.open, empty.claimed) == ("wrong_kind", 2, 1)


def test_trap_46_an_empty_queue_says_why(database: Database) -> None:
    case = Case(database, n=0)
    person, other, third = case.people

    def reason(who: str) -> tuple[str, int, int]:
        empty = case.queue.claim(who)[1]
        assert empty is not None
        return empty.reason, empty.open, empty.claimed

    assert reason(person) == ("nothing_asked", 0, 0)
    case.log.add_tasks([task("0")])
    case.log.add_candidates(candidates(task("0")))
    case.log.add_queries([query(task("0"))])
    case.clock.now += 0.1  # new queries are seen at once by whoever would get nothing
    (claimed,) = case.claim(0)
    assert reason(other) == ("all_claimed", 0, 1)
    case.submit(claimed)
    assert reason(other) == ("done", 0, 0)
    case.queue.want([claimed.query.id], 2)
    assert reason(person) == ("yours_are_done", 1, 0)
    assert case.queue.claim(third)[0] != []


def test_trap_46_a_lease_that_ran_out_frees_the_place(database: Database) -> None:
    case = Case(database, n=1)
    (claimed,) = case.claim(0)
    case.clock.now += 200
    until = case.queue.heartbeat(claimed.assignment_id, case.people[0])
    assert until == case.clock.now + 300
    case.clock.now += 299
    assert case.claim(1) == []
    case.clock.now += 2
    assert [c.query.id for c in case.claim(1)] == [claimed.query.id]
    with pytest.raises(LeaseLost) as caught:
        case.queue.heartbeat(claimed.assignment_id, case.people[0])
    assert "answer it all the same" in caught.value.fix
    assert case.claim(0) == []
    assert violations(database) == []


def test_trap_46_a_late_answer_is_kept_and_flagged(database: Database) -> None:
    case = Case(database, n=1)
    (slow,) = case.claim(0)
    case.clock.now += 301
    (quick,) = case.claim(1)
    late = case.submit(slow, 0, choice="tie")
    assert late.late
    assert not case.submit(quick, 1).late
    (state,) = case.states().values()
    assert (state.votes, state.open, state.late, state.wanted) == (1, 0, 1, 1)
    assert {j.event_id for j in case.log.judgements()} >= set(late.event_ids)
    assert violations(database) == []


def test_a_late_answer_whose_place_is_still_free_is_not_late(database: Database) -> None:
    case = Case(database, n=1)
    (slow,) = case.claim(0)
    case.clock.now += 301
    assert case.queue.expire() == 1
    assert case.states()[slow.query.id].open == 0
    assert not case.submit(slow, 0).late
    (state,) = case.states().values()
    assert (state.votes, state.open, state.late) == (1, 0, 0)


def test_trap_47_a_closed_laptop_finds_its_question_and_draft_again(database: Database) -> None:
    case = Case(database, n=2)
    (claimed,) = case.claim(0)
    case.queue.draft(claimed.assignment_id, case.people[0], {"text": "half a sen"})
    case.queue.draft(claimed.assignment_id, case.people[0], {"text": "half a sentence"})
    case.clock.now += 10_000
    assert case.queue.expire() == 1
    (found,) = case.claim(0)
    assert (found.assignment_id, found.shown_order) == (claimed.assignment_id, claimed.shown_order)
    assert found.draft == {"text": "half a sentence"}
    case.submit(found)
    with database.read() as connection:
        assert connection.execute(sa.select(schema.drafts)).all() == []
    assert violations(database) == []


def test_what_ran_out_for_good_hides_nothing_that_is_held(database: Database) -> None:
    case = Case(database, n=6)
    lost = case.claim(0, 3)
    case.clock.now += 301
    for claimed in case.claim(1, 3):
        case.submit(claimed, 1)
    held = case.claim(0, 2)
    assert {c.assignment_id for c in held}.isdisjoint(c.assignment_id for c in lost)
    assert case.claim(0, 2) == held
    assert case.claim(0, 4)[:2] == held


def test_a_released_question_is_free_for_others(database: Database) -> None:
    case = Case(database, n=1)
    (claimed,) = case.claim(0)
    case.queue.release(claimed.assignment_id, case.people[0])
    assert [c.query for c in case.claim(1)] == [claimed.query]
    assert case.claim(0) == []


def test_a_queue_of_another_process_sees_the_same(database: Database) -> None:
    case = Case(database, n=2)
    other = Queue(database, case.queue.settings, clock=case.clock)
    (claimed,) = case.claim()
    assert other.claim(case.people[0])[0] == [claimed]
    other.submit(claimed.assignment_id, case.people[0], "s", [Answer({"choice": "a"})])
    assert case.queue.submit(claimed.assignment_id, case.people[0], "s", [Answer({"choice": "a"})]).again
