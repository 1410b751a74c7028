"""Reading the feedback back: records by id, and the current view of what teachers said.

Few, large queries: ten thousand judgements come back in well under a second.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tropism.errors import DataError
from tropism.feedback.records import Candidate, Judgement, Provenance, Query, Split, Task
from tropism.feedback.values import ASIDE
from tropism.store.schema import candidates, event_texts, events, queries, query_slots, tasks, teachers
from tropism.store.studio_schema import assignments

CHUNK = 500
"""Ids looked up at once: well below SQLite's limit on bound values."""


def chunks(items: Sequence[str]) -> Iterator[Sequence[str]]:
    """``items`` in pieces of at most CHUNK."""
    for start in range(0, len(items), CHUNK):
        yield items[start : start + CHUNK]


def current_view() -> list[sa.ColumnElement[bool]]:
    """Conditions on ``events`` for what counts now: votes that nothing supersedes, of people who have not left.

    Left out are retractions (the vote they supersede is gone, and they say nothing) and answers to gold questions and
    repeats (see ``values.ASIDE``).
    """
    newer = events.alias("newer")
    gone = events.alias("gone")
    return [
        events.c.query_id.is_not(None),
        events.c.kind != "retraction",
        events.c.target.not_like(f"{ASIDE}%"),
        ~sa.exists().where(newer.c.supersedes == events.c.id),
        events.c.teacher_id.not_in(sa.select(gone.c.teacher_id).where(gone.c.kind == "erasure")),
    ]


def settled_view() -> sa.ColumnElement[bool]:
    """Condition on ``events`` joined with ``queries``: where a disagreement was settled, only who settled it counts.

    It is about answers of the kind that was asked for; remarks beside them stay. The votes that are overruled are
    still in the log, and still count where it is asked how far people agree.
    """
    gone = events.alias("settled_and_gone")
    settled = [
        assignments.c.purpose == "adjudication",
        assignments.c.status == "submitted",
        assignments.c.teacher_id.not_in(sa.select(gone.c.teacher_id).where(gone.c.kind == "erasure")),
    ]
    who = sa.tuple_(events.c.query_id, events.c.teacher_id)
    return sa.or_(
        events.c.kind != queries.c.kind,
        events.c.query_id.not_in(sa.select(assignments.c.query_id).where(*settled)),
        who.in_(sa.select(assignments.c.query_id, assignments.c.teacher_id).where(*settled)),
    )


def load_judgements(
    connection: Connection, splits: Sequence[Split], kinds: Sequence[str] | None, overruled: bool = False
) -> list[Judgement]:
    """Current judgements on tasks of ``splits``, by query round, query, teacher and event digest; with the votes that
    an adjudication has ``overruled`` if those are asked for."""
    where = [*current_view(), tasks.c.split.in_(splits)]
    if not overruled:
        where.append(settled_view())
    if kinds is not None:
        where.append(events.c.kind.in_(kinds))
    about = events.join(queries, queries.c.id == events.c.query_id).join(tasks, tasks.c.id == queries.c.task_id)
    statement = (
        sa.select(
            events.c.id,
            events.c.teacher_id,
            teachers.c.kind.label("teacher_kind"),
            events.c.query_id,
            events.c.value,
            event_texts.c.text,
        )
        .select_from(
            about.join(teachers, teachers.c.id == events.c.teacher_id).outerjoin(
                event_texts, event_texts.c.event_id == events.c.id
            )
        )
        .where(*where)
        .order_by(queries.c.round, events.c.query_id, events.c.teacher_id, events.c.digest)
    )
    rows = connection.execute(statement).all()
    asked = sa.select(events.c.query_id).select_from(about).where(*where)
    known = _queries_where(connection, queries.c.id.in_(asked))
    held = sa.select(query_slots.c.candidate_id).where(query_slots.c.query_id.in_(asked))
    judged = _candidates_where(connection, candidates.c.id.in_(held))
    task_ids = sa.select(queries.c.task_id).where(queries.c.id.in_(asked))
    asked_about = _tasks_where(connection, tasks.c.id.in_(task_ids))
    found = []
    for row in rows:
        query = known[row.query_id]
        shown = tuple(judged[id] for id in query.candidate_ids)
        task = asked_about[query.task_id]
        found.append(Judgement(row.id, row.teacher_id, query, task, shown, row.value, row.text, row.teacher_kind))
    return found


def read_tasks(connection: Connection, ids: list[str] | None) -> dict[str, Task]:
    """Tasks by id; ``ids`` None reads all. Errors: DataError if one is missing."""
    if ids is None:
        return _tasks_where(connection, sa.true())
    found = _merged(_tasks_where(connection, tasks.c.id.in_(part)) for part in chunks(ids))
    return _complete("task", ids, found)


def read_candidates(connection: Connection, ids: list[str] | None) -> dict[str, Candidate]:
    """Candidates by id; ``ids`` None reads all. Errors: DataError if one is missing."""
    if ids is None:
        return _candidates_where(connection, sa.true())
    found = _merged(_candidates_where(connection, candidates.c.id.in_(part)) for part in chunks(ids))
    return _complete("candidate", ids, found)


def read_queries(connection: Connection, ids: list[str] | None, round: int | None = None) -> dict[str, Query]:
    """Queries by id; ``ids`` None reads all, or all of a round. Errors: DataError if one is missing."""
    if ids is None:
        return _queries_where(connection, sa.true() if round is None else queries.c.round == round)
    found = _merged(_queries_where(connection, queries.c.id.in_(part)) for part in chunks(ids))
    return _complete("query", ids, found)


def _tasks_where(connection: Connection, where: sa.ColumnElement[bool]) -> dict[str, Task]:
    rows = connection.execute(sa.select(tasks).where(where).order_by(tasks.c.id))
    return {row.id: Task(row.split, row.payload, row.id) for row in rows}


def _candidates_where(connection: Connection, where: sa.ColumnElement[bool]) -> dict[str, Candidate]:
    rows = connection.execute(sa.select(candidates).where(where).order_by(candidates.c.id))
    return {
        row.id: Candidate(
            row.task_id, row.kind, row.content, Provenance(row.policy_id, row.sampling, row.engine, row.seed), row.id
        )
        for row in rows
    }


def _queries_where(connection: Connection, where: sa.ColumnElement[bool]) -> dict[str, Query]:
    statement = (
        sa.select(queries, query_slots.c.candidate_id, query_slots.c.shown_position)
        .outerjoin(query_slots, query_slots.c.query_id == queries.c.id)
        .where(where)
        .order_by(queries.c.id, query_slots.c.slot)
    )
    slots: dict[str, list[sa.Row[Any]]] = {}
    for row in connection.execute(statement):
        slots.setdefault(row.id, []).append(row)
    return {id: _query(rows) for id, rows in slots.items()}


def _query(rows: list[sa.Row[Any]]) -> Query:
    first = rows[0]
    filled = [row for row in rows if row.candidate_id is not None]  # a demonstration has no candidates
    shown = sorted(range(len(filled)), key=lambda slot: filled[slot].shown_position)
    held = tuple(row.candidate_id for row in filled)
    return Query(first.task_id, first.kind, held, tuple(shown), first.round, first.id)


def _merged(parts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    return {id: record for part in parts for id, record in part.items()}


def _complete(what: str, ids: list[str], found: dict[str, Any]) -> dict[str, Any]:
    """The records in the order asked for."""
    for id in ids:
        if id not in found:
            raise DataError(f"no {what} {id!r} in this study", "add it first, or check the id")
    return {id: found[id] for id in ids}
