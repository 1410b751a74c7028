"""Who else is asked: more votes, gold questions, repeats, adjudication; and what is left of somebody who leaves."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import sqlalchemy as sa
from feedback_cases import candidates, query, task
from queue_cases import Case, violations

from tropism.errors import ConfigError, DataError
from tropism.feedback.chain import verify
from tropism.feedback.people import erase_person
from tropism.feedback.queue import QueueSettings
from tropism.feedback.queue_claims import due
from tropism.feedback.records import Answer
from tropism.feedback.teachers import pending
from tropism.feedback.values import ASIDE
from tropism.store import schema
from tropism.store.database import Database


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
    said = case.log.judgements(overruled=True)
    assert {j.teacher_id: j.value["choice"] for j in said} == dict.fromkeys(case.people, "b")
    (state,) = case.states().values()
    assert (state.votes, state.late) == (2, 0)
    assert verify(database).ok
    assert violations(database) == []


def test_who_settles_a_disagreement_is_heard_instead_of_the_others(database: Database) -> None:
    case = Case(database, n=2, people=3, votes_per_query=2)
    asked = case.queries[0].id
    for person, choice in ((0, "a"), (1, "b")):
        for claimed in case.claim(person, 2):
            remark = [Answer({"slot": "a", "kind": "critique"}, "too long")] if person == 0 else []
            case.queue.submit(claimed.assignment_id, case.people[person], f"s{person}{claimed.assignment_id}",
                              [Answer({"choice": choice}), *remark])  # fmt: skip
    lead = case.people[2]
    case.queue.adjudicate(asked, lead, "settled", [Answer({"choice": "b"})])

    def heard(overruled: bool = False) -> Counter[tuple[str, str]]:
        found = [j for j in case.log.judgements(overruled=overruled) if j.query.id == asked]
        return Counter((j.teacher_id, j.value.get("choice", "remark")) for j in found)

    ann, bob = case.people[:2]
    assert heard() == {(lead, "b"): 1, (ann, "remark"): 1}
    assert heard(overruled=True) == {(lead, "b"): 1, (ann, "a"): 1, (ann, "remark"): 1, (bob, "b"): 1}
    assert sum(j.query.id != asked for j in case.log.judgements()) == 3  # others are as they were
    erase_person(database, lead)  # and with who settled it goes what they said
    assert heard() == {(ann, "a"): 1, (ann, "remark"): 1, (bob, "b"): 1}


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
