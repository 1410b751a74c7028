"""The queue: leases, overlap, lateness, idempotence, undo, gold, repeats, why there is nothing (traps 43 to 47)."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from feedback_cases import candidates, query, task
from queue_cases import VALUES, Case, violations

from databases import DATABASES, new_database
from tropism.errors import AlreadyAnswered, ConfigError, DataError, LeaseLost, NotYours, UndoTooLate
from tropism.feedback.chain import verify
from tropism.feedback.people import erase_person
from tropism.feedback.queue import Queue, QueueSettings
from tropism.feedback.queue_claims import due
from tropism.feedback.records import Answer
from tropism.feedback.teachers import pending
from tropism.feedback.values import ASIDE
from tropism.store import schema
from tropism.store.database import Database


@pytest.fixture(params=DATABASES)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    with new_database(request.param, tmp_path) as made:
        yield made


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


# ---- more votes, gold, repeats, adjudication ----


def test_more_votes_can_be_wanted_and_are_never_lowered(database: Database) -> None:
    case = Case(database, n=2)
    asked = case.queries[0].id
    case.queue.want([asked], 3)
    case.queue.want([asked], 1)
    purposes = []
    for person in range(3):
        for claimed in case.claim(person, 4):
            case.submit(claimed, person)
    purposes = Counter(row.purpose for row in case.assignments())
    assert case.states()[asked].votes == 3
    assert purposes == {"work": 2, "extra": 2}
    assert case.queue.counts() == {"queries": 2, "wanted": 4, "votes": 4, "open": 0, "late": 0, "complete": 2}
    with pytest.raises(DataError, match="no query 'x'"):
        case.queue.want(["x"], 2)


def test_votes_from_elsewhere_count(database: Database) -> None:
    case = Case(database, n=2, votes_per_query=2)
    case.log.append(case.queries[0], "o", Answer({"choice": "a"}))
    claimed = case.claim(0, 4)
    assert len(claimed) == 2
    assert [c.query for c in case.claim(1, 4)] == [case.queries[1]]
    for one in claimed:
        case.submit(one)
    assert pending(case.log, case.queries, 2) == [case.queries[1]]
    assert violations(database) == []


def test_test_tasks_are_asked_about_for_comparisons_of_policies_alone(database: Database) -> None:
    case = Case(database, n=0)
    held_out = task("held out", "test")
    case.log.add_tasks([held_out])
    case.log.add_candidates(candidates(held_out))
    case.log.add_queries([query(held_out)])
    assert case.claim() == []
    with database.write() as connection:
        for id_ in ("p", "q"):
            policy = {"id": id_, "artifact": "x", "round": 0, "status": "candidate", "values": {}}
            connection.execute(sa.insert(schema.policies).values(policy))
        connection.execute(
            sa.insert(schema.ab_tests).values(
                id="t", policy_a="p", policy_b="q", name="p or q", wanted=1, created_by="lead", created_at=0.0
            )
        )
    case.queue.want([query(held_out).id], 1, ab_test="t")
    (claimed,) = case.claim()
    assert claimed.purpose == "ab"
    case.submit(claimed)
    assert case.log.judgements() == []
    assert len(case.log.judgements(splits=("test",))) == 1


def test_gold_is_asked_of_everyone_and_is_no_evidence(database: Database) -> None:
    case = Case(database, n=40, people=2, gold_rate=0.25)
    gold = [q.id for q in case.queries[:5]]
    for id_ in gold:
        case.queue.set_gold(id_, {"choice": "b"}, "lead")
    while given := [(claimed, person) for person in (0, 1) for claimed in case.claim(person)]:
        for claimed, person in given:
            case.submit(claimed, person, choice="a")
    purposes = {(row.query_id, row.teacher_id): row.purpose for row in case.assignments()}
    met = [pair for pair in purposes if pair[0] in gold]
    assert len(met) > 5  # some of both people
    assert all(state.votes == 1 for state in case.states().values())
    evidence = case.log.judgements()
    assert len(evidence) == 40
    with database.read() as connection:
        targets = list(connection.execute(sa.select(schema.events.c.target)).scalars())
    aside = [target for target in targets if target.startswith(ASIDE)]
    assert len(aside) == sum(purpose == "gold" for purpose in purposes.values()) > 0
    assert len(targets) == len(evidence) + len(aside)
    assert verify(database).ok
    assert violations(database) == []
    with pytest.raises(DataError, match="choice"):
        case.queue.set_gold(gold[0], {"choice": "left"}, "lead")


def test_a_repeat_is_shown_the_other_way_round_and_does_not_collide(database: Database) -> None:
    case = Case(database, n=30, repeat_rate=0.3, repeat_after=4)
    while claimed := case.claim():
        case.submit(claimed[0], choice="a")
    rows = {row.id: row for row in case.assignments()}
    repeats = [row for row in rows.values() if row.purpose == "repeat"]
    assert len(repeats) >= 7
    for row in repeats:
        first = rows[row.repeat_of]
        assert row.query_id == first.query_id
        assert row.shown_order == first.shown_order[::-1]
        assert row.ordinal - first.ordinal > 4
    assert len({row.repeat_of for row in repeats}) == len(repeats)
    assert len(case.log.judgements()) == 30
    assert case.log.counts()["events"] == 30 + len(repeats)
    assert violations(database) == []


def test_a_repeat_can_be_undone(database: Database) -> None:
    case = Case(database, n=30, repeat_rate=0.3, repeat_after=2)
    while (claimed := case.claim()[0]).purpose != "repeat":
        case.submit(claimed)
    case.submit(claimed)
    opened = case.queue.undo(claimed.assignment_id, case.people[0])
    assert (opened.purpose, opened.shown_order) == ("repeat", claimed.shown_order)
    case.submit(opened, choice="b")
    assert verify(database).ok
    assert violations(database) == []


def test_gold_and_repeats_come_at_their_rates_and_never_more_often() -> None:
    settings = QueueSettings(gold_rate=0.1, repeat_rate=0.05)
    places = set()
    for person in range(5):
        given = [due(settings, f"p{person}", n) for n in range(1000)]
        found = [n for n, x in enumerate(given) if x is not None]
        assert all(count <= 0.15 * (n + 1) + 1 for count, n in enumerate(found, start=1))
        assert Counter(given)["gold"] == pytest.approx(100, abs=1)
        assert Counter(given)["repeat"] == pytest.approx(50, abs=1)
        assert len({b - a for a, b in itertools.pairwise(found)}) > 5  # nobody can count their way to it
        places.add(tuple(found[:10]))
    assert len(places) == 5
    assert due(QueueSettings(), "p", 0) is None
    with pytest.raises(ConfigError, match="at most one half"):
        QueueSettings(gold_rate=0.4, repeat_rate=0.2)


def test_an_adjudicator_may_have_voted_before(database: Database) -> None:
    case = Case(database, n=1, people=3, votes_per_query=2)
    for person, choice in ((0, "a"), (1, "b")):
        case.submit(case.claim(person)[0], person, choice=choice)
    lead, outsider, asked = case.people[0], case.people[2], case.queries[0].id
    settled = case.queue.adjudicate(asked, lead, "s1", [Answer({"choice": "b"}, "b answers the question")])
    assert case.queue.adjudicate(asked, lead, "s1", [Answer({"choice": "b"})]).event_ids == settled.event_ids
    case.queue.adjudicate(asked, outsider, "s2", [Answer({"choice": "b"})])
    assert {j.teacher_id: j.value["choice"] for j in case.log.judgements()} == dict.fromkeys(case.people, "b")
    (state,) = case.states().values()
    assert (state.votes, state.late) == (2, 0)
    assert verify(database).ok
    assert violations(database) == []


def test_who_leaves_leaves_room_for_others(database: Database) -> None:
    case = Case(database, n=3)
    held = case.claim(0, 2)
    case.submit(held[0])
    case.queue.draft(held[1].assignment_id, case.people[0], {"text": "mine"})
    account = {"id": "a", "name": "ada", "role": "lead", "pseudonym": case.people[0], "password_hash": "argon",
               "settings": {}, "status": "active", "created_at": 0.0}  # fmt: skip
    session = {"token_hash": "h", "account_id": "a", "csrf": "c", "created_at": 0.0, "seen_at": 0.0, "expires_at": 9e9}
    token = {
        "id": "t",
        "token_hash": "h",
        "account_id": "a",
        "name": "ada's laptop",
        "scope": "read",
        "created_at": 0.0,
    }
    with database.write() as connection:
        connection.execute(sa.insert(schema.accounts).values(account))
        connection.execute(sa.insert(schema.sessions).values(session))
        connection.execute(sa.insert(schema.api_tokens).values(token))
    erase_person(database, case.people[0])
    assert case.queue.leave(case.people[0]) == 0  # done along
    assert pending(case.log, case.queries) == list(case.queries)
    with pytest.raises(DataError, match="was erased"):
        case.claim(0)
    with pytest.raises(DataError, match="was erased"):
        case.submit(held[1])
    for claimed in case.claim(1, 4):
        case.submit(claimed, 1)
    assert pending(case.log, case.queries) == []
    with database.read() as connection:
        assert connection.execute(sa.select(schema.drafts)).all() == []
        assert connection.execute(sa.select(schema.sessions)).all() == []
        closed = connection.execute(sa.select(schema.accounts)).one()
        assert (closed.name, closed.password_hash, closed.status) == (case.people[0], None, "disabled")
        revoked = connection.execute(sa.select(schema.api_tokens)).one()
        assert revoked.name == ""
        assert revoked.revoked_at is not None


def test_a_queue_of_another_process_sees_the_same(database: Database) -> None:
    case = Case(database, n=2)
    other = Queue(database, case.queue.settings, clock=case.clock)
    (claimed,) = case.claim()
    assert other.claim(case.people[0])[0] == [claimed]
    other.submit(claimed.assignment_id, case.people[0], "s", [Answer({"choice": "a"})])
    assert case.queue.submit(claimed.assignment_id, case.people[0], "s", [Answer({"choice": "a"})]).again
