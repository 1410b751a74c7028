"""Blinding: whoever may still judge a query sees no policy, score or vote of it, on any address.

A caller may still judge it as long as no answer or skip of theirs is settled (an answer can be taken back for a while)
and they hold it, or it wants more votes. Held and answered are by person; a role below annotator never judges. Whoever
is shown what is hidden from others is noted (``reveal``), and the queue does not ask them about it any more, however
many votes are wanted later, nor about what is made later of answers that they have seen under a policy's name. Left
out: what people tell one another, and a studio of one person, who has nobody else to ask.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tropism.store import schema
from tropism.store.database import Database, insert_new
from tropism.studio.problems import ApiError
from tropism.studio.roles import Caller, rank


@dataclass(frozen=True)
class Blind:
    """What a caller must not see: queries by id, and tasks by id."""

    queries: frozenset[str]
    tasks: frozenset[str]

    def __or__(self, other: Blind) -> Blind:
        return Blind(self.queries | other.queries, self.tasks | other.tasks)

    def check(self, query_id: str) -> None:
        """Errors: ApiError (403) for a query among them."""
        if query_id in self.queries:
            fix = "answer or skip it first; for a while after that it stays hidden, since an answer can be taken back"
            raise ApiError(403, "blind", f"you may still judge query {query_id}", fix, query=query_id)


def blind_for(connection: Connection, caller: Caller, undo_s: float, queries: Collection[str] | None = None) -> Blind:
    """What ``caller`` must not see, of some ``queries`` or of all."""
    if rank(caller.role) < rank("annotator"):
        return Blind(frozenset(), frozenset())
    table, state, asked = schema.assignments, schema.query_state, schema.queries
    mine = sa.select(table.c.query_id).where(table.c.teacher_id == caller.pseudonym)
    final = time.time() - undo_s
    settled = mine.where(table.c.status.in_(("submitted", "skipped")), table.c.submitted_at < final)
    # a repeat is held apart from the first answer, and must not be looked up either; who adjudicates has seen the votes
    fresh = sa.and_(table.c.status.in_(("submitted", "skipped")), table.c.submitted_at >= final)
    held = mine.where(
        sa.or_(table.c.status.in_(("open", "expired")), sa.and_(fresh, table.c.purpose != "adjudication"))
    )
    joined = asked.join(schema.tasks, schema.tasks.c.id == asked.c.task_id)
    looked = sa.select(schema.seen.c.query_id).where(schema.seen.c.teacher_id == caller.pseudonym)
    # every query that may be asked is in the queue by now (``Studio.blind`` sees to it); gold is asked without end
    wanting = asked.c.id.in_(
        sa.union(sa.select(state.c.query_id).where(state.c.taken < state.c.wanted), sa.select(schema.gold.c.query_id))
    )
    statement = (
        sa.select(asked.c.id, asked.c.task_id, schema.tasks.c.payload["of"].as_string().label("of"))
        .select_from(joined)
        .where(sa.or_(asked.c.id.in_(held), sa.and_(wanting, asked.c.id.not_in(settled), asked.c.id.not_in(looked))))
    )
    if queries is not None:
        statement = statement.where(asked.c.id.in_(sorted(queries)))
    rows = connection.execute(statement).all()
    tasks = {row.task_id for row in rows} | {row.of for row in rows if row.of is not None}
    return Blind(frozenset(row.id for row in rows), frozenset(tasks))


def note_seen(database: Database, caller: Caller, queries: Collection[str]) -> bool:
    """Note that a caller is shown these queries' votes, scores or policies; whether any of it is new."""
    if rank(caller.role) < rank("annotator") or not queries:
        return False
    table, asked = schema.seen, schema.queries
    known = sa.select(table.c.query_id).where(table.c.teacher_id == caller.pseudonym)
    unknown = sa.select(asked.c.id).where(asked.c.id.in_(sorted(queries)), asked.c.id.not_in(known))
    with database.read() as connection:
        new = connection.execute(unknown).scalars().all()
    if not new:
        return False
    now = time.time()
    rows = [{"query_id": query, "teacher_id": caller.pseudonym, "at": now} for query in new]
    with database.write() as connection:
        insert_new(connection, table, rows)
    return True


def note_looked(database: Database, caller: Caller, tasks: Collection[str]) -> None:
    """Note that a caller is shown which policy answered what to these tasks."""
    if rank(caller.role) < rank("annotator") or not tasks:
        return
    table, wanted = schema.looked, set(tasks)
    mine = sa.select(table.c.task_id).where(table.c.teacher_id == caller.pseudonym, table.c.task_id.in_(sorted(wanted)))
    with database.read() as connection:
        new = wanted - set(connection.execute(mine).scalars())
    if new:
        rows = [{"task_id": task, "teacher_id": caller.pseudonym, "at": time.time()} for task in sorted(new)]
        with database.write() as connection:
            insert_new(connection, table, rows)


def looked_at(connection: Connection, tasks: Collection[str]) -> dict[str, set[str]]:
    """Who has been shown policies' answers to these tasks: pseudonyms by task, where there are any."""
    table = schema.looked
    found: dict[str, set[str]] = {}
    for row in connection.execute(sa.select(table).where(table.c.task_id.in_(sorted(tasks)))):
        found.setdefault(row.task_id, set()).add(row.teacher_id)
    return found


def mark_looked(connection: Connection, queries: Mapping[str, str]) -> None:
    """Inside the transaction that makes ``queries`` (id -> the task whose answers they are about): who has been shown
    policies' answers to it is not asked."""
    known = looked_at(connection, set(queries.values()))
    now = time.time()
    rows = [
        {"query_id": query, "teacher_id": teacher, "at": now}
        for query, task in queries.items()
        for teacher in sorted(known.get(task, ()))
    ]
    insert_new(connection, schema.seen, rows)


def queries_on(connection: Connection, tasks: Collection[str]) -> set[str]:
    """The queries about some tasks, also where people compare two policies on them."""
    asked, about = schema.queries, schema.tasks
    wanted = sorted(tasks)
    found = sa.select(asked.c.id).join_from(asked, about, about.c.id == asked.c.task_id)
    where = sa.or_(about.c.id.in_(wanted), about.c.payload["of"].as_string().in_(wanted))
    return set(connection.execute(found.where(where)).scalars())
