"""Reading what came after the last number seen, where transactions do not end in the order in which they began."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from studio_cases import Running, ask, make_study, running

from databases import new_address
from tropism.feedback.chain import event_digest
from tropism.feedback.records import Query
from tropism.store import schema
from tropism.store.horizon import settled_to
from tropism.store.server import note_address
from tropism.studio.feed import feed
from tropism.studio.roles import Caller
from tropism.studio.webhooks import Deliverer

READER = Caller("acc", "reader", "viewer", "nobody", {}, None, "", "read")


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Running]:
    folder = make_study(tmp_path / "s", place=False)
    with new_address() as url:
        note_address(folder / "study.db", url)
        with running(folder) as made:
            made.studio.log.register_teacher("program", "import")
            yield made


def write(connection: sa.Connection, query: Query) -> int:
    """Write an event as any writer does, and say its number."""
    row = {
        "kind": "comparison", "query_id": query.id, "teacher_id": "program", "target": "", "supersedes": None,
        "value": {"kind": "comparison", "choice": "a", "strength": 0}, "text_digest": None, "origin": "",
    }  # fmt: skip
    name = event_digest(row)
    stored = row | {"id": name[:24], "digest": name, "created_at": time.time()}
    statement = sa.insert(schema.events).values(stored).returning(schema.events.c.seq)
    return int(connection.execute(statement).scalar_one())


def read(here: Running, after: int) -> dict[str, Any]:
    return feed(here.studio, READER, after, 100)


def test_an_event_whose_transaction_ends_late_is_not_passed_over(here: Running) -> None:
    queries = ask(here.studio, "comparison", 3)
    engine = here.studio.database.engine
    with engine.connect() as early, engine.connect() as late:
        first = write(early, queries[0])
        second = write(late, queries[1])
        assert second > first
        late.commit()
        page = read(here, 0)
        assert (page["items"], page["next"]) == ([], 0)  # the second is there, and the first may still come before it
        assert settled_to(here.studio.database) < first
        early.commit()
    page = read(here, 0)
    assert [item["seq"] for item in page["items"]] == [first, second]
    assert read(here, page["next"])["items"] == []


def test_what_is_taken_back_holds_nobody_up(here: Running) -> None:
    queries = ask(here.studio, "comparison", 3)
    engine = here.studio.database.engine
    with engine.connect() as early, engine.connect() as late:
        write(early, queries[0])
        second = write(late, queries[1])
        late.commit()
        with early.begin_nested() as point:
            write(early, queries[2])
            point.rollback()
        assert read(here, 0)["items"] == []  # the first one is held by its transaction, not by the savepoint
        early.rollback()
    page = read(here, 0)
    assert ([item["seq"] for item in page["items"]], page["next"]) == ([second], second)
    with engine.connect() as third:  # a number given out inside a savepoint that is taken back leaves no lock behind
        with third.begin_nested() as point:
            write(third, queries[2])
            point.rollback()
        assert settled_to(here.studio.database) >= second
        with third.begin_nested():
            late_number = write(third, queries[2])
        assert settled_to(here.studio.database) < late_number
        third.commit()
    assert settled_to(here.studio.database) == late_number


def test_a_webhook_is_told_of_an_event_that_comes_late(here: Running) -> None:
    queries = ask(here.studio, "comparison", 3)
    told: list[str] = []

    def hear(request: httpx.Request) -> httpx.Response:
        import json

        told.extend(event["query_id"] for event in json.loads(request.content)["data"].get("events", []))
        return httpx.Response(204)

    admin = here.person("admin")
    engine = here.studio.database.engine
    with engine.connect() as before:
        write(before, queries[0])  # it is under way when the webhook is made, and comes after that
        made = admin.post("webhooks", json={"url": "https://elsewhere.example/hook", "events": ["feedback"]})
        assert made.status_code == 200, made.text
        before.commit()
    here.app.state.housekeeper.stop()  # what it has sent by now failed, and waits: nothing is at that address
    with here.studio.database.write() as connection:
        connection.execute(sa.update(schema.deliveries).values(next_at=time.time(), attempts=0))
    deliverer = Deliverer(here.studio.database, httpx.Client(transport=httpx.MockTransport(hear)))
    with engine.connect() as early, engine.connect() as late:
        write(early, queries[1])
        write(late, queries[2])
        late.commit()
        deliverer.turn()
        assert told == [queries[0].id]
        early.commit()
    deliverer.turn()
    assert told == [query.id for query in queries]


def test_a_file_is_settled_to_its_end(tmp_path: Path) -> None:
    with running(make_study(tmp_path / "s")) as here:
        queries = ask(here.studio, "comparison", 2)
        here.studio.log.register_teacher("program", "import")
        with here.studio.database.write() as connection:
            numbers = [write(connection, query) for query in queries]
        assert [item["seq"] for item in read(here, 0)["items"]] == numbers
