"""Writing events: from an answer to a checked row with a content digest, and rows into the append-only table.

Used by ``events.py`` inside its write transactions.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tropism.errors import DataError
from tropism.feedback.chain import event_digest, public_salt, text_digest
from tropism.feedback.projection import chunks
from tropism.feedback.records import Answer, Candidate, Query, QueryKind
from tropism.feedback.values import Erasure, dump_value, parse_value, slot_names, target_beside
from tropism.store.schema import event_texts, events, queries, tasks, teachers, text_salts

_IN_WORDS = ("critique", "demonstration", "correction")  # kinds whose content is the free text


def event_row(query: Query, teacher_id: str, answer: Answer, supersedes: str | None, origin: str) -> dict[str, Any]:
    """A checked event, still without text digest, id and digest; its text is under ``text``.

    Errors: DataError naming the value and the fix.
    """
    assert answer.value is not None
    kind = answer.value.get("kind", query.kind)
    value = parse_value(kind, answer.value, slot_names(query.kind, len(query.candidate_ids)))
    if isinstance(value, Erasure):
        raise DataError("an erasure as an answer", "erase a person with people.erase_person")
    dumped = dump_value(value)
    if kind in _IN_WORDS and not (answer.text or "").strip() and not dumped.get("artifact"):
        raise DataError(f"a {kind} without text (query {query.id}, teacher {teacher_id})", "give the answer's text")
    return {
        "kind": kind,
        "query_id": query.id,
        "teacher_id": teacher_id,
        "target": target_beside(query.kind, value),
        "value": dumped,
        "supersedes": supersedes,
        "origin": origin,
        "duration_ms": answer.duration_ms,
        "text": answer.text or None,
    }


def insert_events(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Insert the rows that are not there yet; returns the ids of all of them, in order."""
    need(connection, teachers.c.id, {row["teacher_id"] for row in rows}, "teacher", "register the teacher first")
    need(connection, queries.c.id, {row["query_id"] for row in rows}, "query", "add the query before its answers")
    _check_present(connection, {row["teacher_id"] for row in rows})
    salts = _salts(connection, {row["teacher_id"] for row in rows if row["text"] is not None})
    now = time.time()
    complete = [_complete(row, salts, now) for row in rows]
    ids = [row["id"] for row in complete]
    there: set[str] = set()
    for part in chunks(sorted(set(ids))):
        there.update(connection.execute(sa.select(events.c.id).where(events.c.id.in_(part))).scalars())
    new = {
        row["id"]: row for row in complete if row["id"] not in there
    }  # a dict: a doubled row in one call is one event
    for row in new.values():
        if row["supersedes"] is not None:
            _check_superseded(connection, row)
    texts = {id: row.pop("text") for id, row in new.items()}
    if new:
        try:
            with connection.begin_nested():  # else PostgreSQL would answer no question about what went wrong
                connection.execute(sa.insert(events), list(new.values()))
        except sa.exc.IntegrityError as error:
            raise _explain(connection, new.values(), error) from error
    written = [{"event_id": id, "text": text} for id, text in texts.items() if text is not None]
    if written:
        connection.execute(sa.insert(event_texts), written)
    return ids


def candidate_row(candidate: Candidate) -> dict[str, Any]:
    """A candidate with its provenance as a row."""
    made_by = candidate.provenance
    return {
        "id": candidate.id,
        "task_id": candidate.task_id,
        "kind": candidate.kind,
        "content": dict(candidate.content),
        "policy_id": made_by.policy_id,
        "sampling": dict(made_by.sampling),
        "engine": made_by.engine,
        "seed": made_by.seed,
    }


def slot_rows(query: Query) -> list[dict[str, Any]]:
    """A query's slots as rows."""
    position = {slot: place for place, slot in enumerate(query.shown_order)}
    return [
        {"query_id": query.id, "slot": slot, "candidate_id": id, "shown_position": position[slot]}
        for slot, id in enumerate(query.candidate_ids)
    ]


def check_query(query: Query, owner: Mapping[str, str]) -> None:
    """A query is well formed: known kind, candidates of its task (``owner``: candidate -> task), a complete order."""
    if query.kind not in get_args(QueryKind):
        raise DataError(f"query {query.id} is of kind {query.kind!r}", f"use one of {', '.join(get_args(QueryKind))}")
    slot_names(query.kind, len(query.candidate_ids))
    if sorted(query.shown_order) != list(range(len(query.candidate_ids))):
        raise DataError(f"query {query.id} is shown in order {query.shown_order}", "name every slot index once")
    for id in query.candidate_ids:
        if id not in owner:
            raise DataError(
                f"query {query.id} asks about candidate {id!r}, which is missing", "add the candidates first"
            )
        if owner[id] != query.task_id:
            raise DataError(
                f"query {query.id} mixes tasks: candidate {id!r} belongs to task {owner[id]}", "compare within one task"
            )


def check_trainable(connection: Connection, ids: Sequence[str]) -> None:
    """Events may be trained on: known votes, not about a task of the test split, not of a person who left."""
    gone = set(connection.execute(sa.select(events.c.teacher_id).where(events.c.kind == "erasure")).scalars())
    known: set[str] = set()
    about = events.join(queries, queries.c.id == events.c.query_id).join(tasks, tasks.c.id == queries.c.task_id)
    for part in chunks(ids):
        statement = sa.select(events.c.id, events.c.teacher_id, tasks.c.id.label("task"), tasks.c.split)
        for row in connection.execute(statement.select_from(about).where(events.c.id.in_(part))):
            known.add(row.id)
            if row.split == "test":
                raise DataError(
                    f"event {row.id} is about task {row.task} of the test split, which is never trained on",
                    'freeze judgements of the splits "train" and "validation" only',
                )
            if row.teacher_id in gone:
                raise DataError(f"event {row.id} is of {row.teacher_id}, who was erased", "read the judgements again")
    for id in ids:
        if id not in known:
            raise DataError(f"no vote {id!r} in this study", "freeze ids that judgements() gave")


def need(connection: Connection, column: sa.Column[Any], ids: Iterable[str], what: str, fix: str) -> None:
    """All ids are there. Errors: DataError naming the first that is not."""
    wanted = sorted(set(ids))
    for part in chunks(wanted):
        there = set(connection.execute(sa.select(column).where(column.in_(part))).scalars())
        for id in part:
            if id not in there:
                raise DataError(f"no {what} {id!r} in this study", fix)


def _check_present(connection: Connection, teacher_ids: Iterable[str]) -> None:
    gone = set(connection.execute(sa.select(events.c.teacher_id).where(events.c.kind == "erasure")).scalars())
    for id in sorted(gone & set(teacher_ids)):
        raise DataError(f"teacher {id!r} was erased", "register the person again under a new pseudonym")


def _salts(connection: Connection, teacher_ids: Iterable[str]) -> dict[str, str]:
    salts = {id: public_salt(id) for id in teacher_ids}
    for part in chunks(sorted(salts)):
        where = text_salts.c.teacher_id.in_(part)
        salts.update((r.teacher_id, r.salt) for r in connection.execute(sa.select(text_salts).where(where)))
    return salts


def _complete(row: Mapping[str, Any], salts: Mapping[str, str], now: float) -> dict[str, Any]:
    full = dict(row)
    full["text_digest"] = None if row["text"] is None else text_digest(salts[row["teacher_id"]], row["text"])
    name = event_digest(full)
    return {**full, "id": name[:24], "digest": name, "created_at": now}


def _check_superseded(connection: Connection, row: Mapping[str, Any]) -> None:
    old = connection.execute(sa.select(events).where(events.c.id == row["supersedes"])).first()
    if old is None:
        raise DataError(f"no event {row['supersedes']!r} to supersede", "give the id that append returned")
    for name in ("query_id", "teacher_id", "target"):
        if old._mapping[name] != row[name]:
            raise DataError(
                f"event {old.id} has {name} {old._mapping[name]!r}, its correction {row[name]!r}",
                "correct the same teacher's value of the same query and target",
            )


def _explain(connection: Connection, rows: Iterable[Mapping[str, Any]], error: sa.exc.IntegrityError) -> DataError:
    """Which row the database refused: the teacher had answered, or the event was corrected already."""
    seen: set[tuple[str, str, str]] = set()
    for row in rows:
        if row["supersedes"] is not None:
            newer = connection.execute(sa.select(events.c.id).where(events.c.supersedes == row["supersedes"])).scalar()
            if newer is not None:
                return DataError(f"event {row['supersedes']} was corrected already, by {newer}", f"correct {newer}")
            continue
        key = (row["query_id"], row["teacher_id"], row["target"])
        first = sa.select(events.c.id, events.c.digest).where(
            events.c.query_id == key[0],
            events.c.teacher_id == key[1],
            events.c.target == key[2],
            events.c.supersedes.is_(None),
        )
        old = connection.execute(first).first()
        if (old is not None and old.id != row["id"]) or key in seen:
            which = " in the same call" if key in seen or old is None else f" (event {old.id})"
            return DataError(
                f"teacher {row['teacher_id']} has already answered query {row['query_id']} differently{which}",
                "correct that event instead of answering twice",
            )
        seen.add(key)
    return DataError(f"the database refused an event: {error.orig}", "check the event's query, teacher and target")
