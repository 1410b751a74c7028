"""A queue to test: a study with queries, people, and a clock that the test turns."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import sqlalchemy as sa
from feedback_cases import fill

from tropism.feedback.events import FeedbackLog
from tropism.feedback.people import register_person
from tropism.feedback.queue import Claimed, Queue, QueueSettings, Submitted
from tropism.feedback.records import Answer, Query
from tropism.store import schema
from tropism.store.database import Database

VALUES = {
    "comparison": {"choice": "a"},
    "ranking": {"rank": [["c2"], ["c1"]]},
    "best_of": {"best": "c1"},
    "rating": {"score": 3, "scale": [1, 5]},
    "label": {"good": True},
    "approval": {"approved": True},
    "demonstration": {},
    "correction": {"slot": "c1"},
    "critique": {"slot": "c1"},
}
"""A good value of every kind."""


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Case:
    """A study with ``n`` queries of one kind, ``people`` persons, and a queue over it."""

    def __init__(
        self, database: Database, n: int = 4, people: int = 3, kind: str = "comparison", k: int = 2, **settings: float
    ) -> None:
        self.database = database
        self.log = FeedbackLog(database)
        self.queries: Sequence[Query] = fill(self.log, n, k, kind)
        self.people = [register_person(database, f"Person {i}") for i in range(people)]
        self.clock = Clock()
        self.queue = Queue(database, QueueSettings(**settings), clock=self.clock)  # type: ignore[arg-type]

    def claim(self, person: int = 0, count: int = 1) -> list[Claimed]:
        return self.queue.claim(self.people[person], count)[0]

    def submit(self, claimed: Claimed, person: int = 0, **value: object) -> Submitted:
        answer = Answer(value or VALUES[claimed.query.kind], "words", 1200)
        return self.queue.submit(claimed.assignment_id, self.people[person], uuid.uuid4().hex, [answer])

    def states(self) -> dict[str, sa.Row[tuple[object, ...]]]:
        with self.database.read() as connection:
            return {row.query_id: row for row in connection.execute(sa.select(schema.query_state))}

    def assignments(self) -> list[sa.Row[tuple[object, ...]]]:
        with self.database.read() as connection:
            table = schema.assignments
            return list(connection.execute(sa.select(table).order_by(table.c.teacher_id, table.c.ordinal)))


def violations(database: Database) -> list[str]:
    """Everything that must never be in a queue's tables, looked for row by row."""
    found: list[str] = []
    with database.read() as connection:
        rows = list(connection.execute(sa.select(schema.assignments)))
        events = {row.id: row for row in connection.execute(sa.select(schema.events))}
        states = list(connection.execute(sa.select(schema.query_state)))
    held = [row for row in rows if row.status != "undone" and row.purpose not in ("repeat", "adjudication")]
    pairs = [(row.query_id, row.teacher_id) for row in held]
    found += [f"{pair} twice" for pair in set(pairs) if pairs.count(pair) > 1]
    for state in states:
        mine = [row for row in rows if row.query_id == state.query_id and row.placed]
        voted, on_it = (sum(row.status == status for row in mine) for status in ("submitted", "open"))
        others = {row.teacher_id for row in events.values() if row.query_id == state.query_id} - {
            row.teacher_id for row in rows if row.query_id == state.query_id
        }
        if state.votes != voted + min(len(others), state.wanted) or state.open != on_it:
            found.append(f"query {state.query_id} counts {state.votes} + {state.open}, has {voted} + {on_it}")
        if state.votes + state.open > state.wanted:
            found.append(f"query {state.query_id} is over its overlap")
    for row in rows:
        for id_ in row.event_ids:
            event = events.get(id_)
            if event is None or (event.query_id, event.teacher_id) != (row.query_id, row.teacher_id):
                found.append(f"assignment {row.id} has lost event {id_}")
        if row.status == "submitted" and not row.event_ids:
            found.append(f"assignment {row.id} was submitted without an event")
    told = [id_ for row in rows for id_ in row.event_ids]
    found += [f"event {id_} belongs to two assignments" for id_ in set(told) if told.count(id_) > 1]
    return found
