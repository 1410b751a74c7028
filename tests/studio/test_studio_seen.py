"""Whoever has seen what others said about a question is not asked about it, however many votes are wanted later."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from studio_cases import Caller, Running, ask, events, make_study, running

from tropism.feedback.records import Query
from tropism.store import schema
from tropism.studio.settings import StudioSettings


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Running]:
    with running(make_study(tmp_path / "s", votes=2), StudioSettings(undo_s=0.0)) as made:
        yield made


def disagreed(here: Running) -> Query:
    """A question that has its two votes, which differ."""
    (query,) = ask(here.studio, "comparison")
    for choice, name in (("a", "Ann"), ("b", "Ben")):
        person = here.person("annotator", name)
        (item,) = person.claim()
        slot_first = here.studio.assignments.find(item["assignment"], here.pseudonym(name)).shown_order[0]
        assert person.submit(item["assignment"], {"choice": "1" if "ab"[slot_first] == choice else "2"}).is_success
    assert {row.value["choice"] for row in events(here.studio)} == {"a", "b"}
    return query


def by_disagreements(person: Caller, query: Query) -> bool:
    return query.id in [item["query"] for item in person.get("lead/disagreements").json()["items"]]


def by_feed(person: Caller, query: Query) -> bool:
    return query.id in [item["query"] for item in person.get("feedback").json()["items"]]


def by_lineage(person: Caller, query: Query) -> bool:
    event = next(e for e in person.get("feedback").json()["items"] if e["query"] == query.id)
    return person.get(f"lineage/{event['id']}").is_success


def by_adjudication(person: Caller, query: Query) -> bool:
    return person.post(f"lead/adjudications/{query.id}", json={"value": {"choice": "tie"}}).is_success


@pytest.mark.parametrize("look", [by_disagreements, by_feed, by_lineage, by_adjudication])
def test_who_has_seen_the_votes_is_not_asked_when_more_are_wanted(
    here: Running, look: Callable[[Caller, Query], bool]
) -> None:
    query = disagreed(here)
    curious, other = here.person("engineer", "Curious"), here.person("engineer", "Other")
    assert look(curious, query)
    here.studio.queue.want([query.id], 4)
    answer = curious.post("queue/claim", json={}).json()
    assert (answer["items"], answer["empty"]["reason"]) == ([], "yours_are_done")
    assert not by_disagreements(other, query)  # who has not looked is asked, and stays blind until then
    assert not by_feed(other, query)
    assert len(other.claim()) == 1
    if look is not by_adjudication:
        assert by_disagreements(curious, query)  # what is known needs no hiding


def test_a_page_that_hides_a_question_says_nothing_of_it_and_leaves_no_mark(here: Running) -> None:
    query = disagreed(here)
    here.studio.queue.want([query.id], 3)
    engineer = here.person("engineer")
    assert engineer.get("feedback").json()["hidden"] == 2
    assert engineer.get(f"lead/disagreements/{query.id}/clips/a/clip.mp4").status_code == 403
    with here.studio.database.read() as connection:
        assert connection.execute(sa.select(schema.seen)).all() == []
    assert len(engineer.claim()) == 1


def test_gold_that_was_seen_before_it_was_gold_is_not_asked(tmp_path: Path) -> None:
    settings = StudioSettings(undo_s=0.0, gold_rate=0.5)
    with running(make_study(tmp_path / "s", votes=2), settings) as here:
        query = disagreed(here)
        engineer = here.person("engineer")
        assert by_feed(engineer, query)
        assert here.person("lead").post(f"lead/gold/{query.id}", json={"value": {"choice": "a"}}).status_code == 204
        ask(here.studio, "comparison", 12)
        asked: list[Any] = []
        for _ in range(12):
            (item,) = engineer.claim()
            asked.append(here.studio.assignments.find(item["assignment"], here.pseudonym("the engineer")).query.id)
            assert engineer.submit(item["assignment"], {"choice": "1"}).is_success
        assert query.id not in asked
        # the same rate gives it to somebody who has not seen it
        fresh = here.person("annotator", "Fresh")
        given = []
        for _ in range(12):
            (item,) = fresh.claim()
            given.append(here.studio.assignments.find(item["assignment"], here.pseudonym("Fresh")).query.id)
            assert fresh.submit(item["assignment"], {"choice": "1"}).is_success
        assert query.id in given


def test_a_repeat_is_not_asked_of_who_has_looked_the_question_up(tmp_path: Path) -> None:
    with running(make_study(tmp_path / "s"), StudioSettings(undo_s=0.0, repeat_rate=0.5)) as here:
        ask(here.studio, "comparison", 60)
        engineer, ann = here.person("engineer"), here.person("annotator", "Ann")

        def repeats(person: Caller, name: str, count: int) -> int:
            for _ in range(count):
                (item,) = person.claim()
                assert person.submit(item["assignment"], {"choice": "1"}).is_success
            table = schema.assignments
            counted = sa.select(sa.func.count()).where(
                table.c.purpose == "repeat", table.c.teacher_id == here.pseudonym(name)
            )
            with here.studio.database.read() as connection:
                return int(connection.execute(counted).scalar_one())

        for _ in range(21):
            (item,) = engineer.claim()
            assert engineer.submit(item["assignment"], {"choice": "1"}).is_success
        assert engineer.get("feedback?limit=500").json()["hidden"] == 0
        assert repeats(engineer, "the engineer", 4) == 0  # all that is old enough has been looked up
        assert repeats(ann, "Ann", 25) > 0


def test_samples_that_show_a_task_count_as_seen(here: Running) -> None:
    query = disagreed(here)
    engineer = here.person("engineer")
    caller = here.studio.sessions.by_cookie(engineer.cookies[here.studio.cookie])
    assert caller is not None
    assert here.studio.reveal_tasks(caller, [query.task_id]).queries == frozenset()
    here.studio.queue.want([query.id], 3)
    assert engineer.claim() == []
