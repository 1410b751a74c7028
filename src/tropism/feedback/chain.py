"""Tamper evidence: events are sealed in batches into a hash chain, and everything can be verified at any time.

A seal's digest covers the previous seal, its number and its members' digests; an event's digest covers its content.
Writers append without looking at the chain's head, and a batch is sealed afterwards in a short transaction of its own;
whatever a kill leaves open is sealed by the next append. Left out: proof against someone who rewrites the whole chain,
for which ``VerifyReport.head`` should be kept elsewhere, and the deletion of rows that are not sealed yet.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tropism.digests import digest
from tropism.feedback.records import Candidate, Provenance, Query, Task
from tropism.store.database import BusyError, Database
from tropism.store.schema import (
    candidates,
    event_set_members,
    event_sets,
    event_texts,
    events,
    queries,
    query_slots,
    seal_members,
    seals,
    tasks,
    text_salts,
)

GENESIS = digest("tropism feedback chain 1")
"""What the first seal names as the previous one."""


@dataclass
class VerifyReport:
    """What ``verify`` found. ``head`` is the newest seal's digest: noted elsewhere, it shows later cuts."""

    events: int = 0
    sealed: int = 0
    open: int = 0
    seals: int = 0
    head: str = GENESIS
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """True if nothing is wrong."""
        return not self.problems


def event_digest(row: Mapping[str, Any]) -> str:
    """SHA-256 of an event's content: all but clock times and row ids."""
    names = ("kind", "query_id", "teacher_id", "target", "value", "text_digest", "supersedes", "origin")
    return digest({name: row[name] for name in names})


def text_digest(salt: str, text: str) -> str:
    """HMAC-SHA-256 of free text: without the salt, which goes when its person goes, nobody can guess the text back."""
    return hmac.new(salt.encode(), text.encode(), hashlib.sha256).hexdigest()


def public_salt(teacher_id: str) -> str:
    """The salt of a teacher who is no person: not secret, so that replays in another study give equal digests."""
    return f"tropism text {teacher_id}"


def seal_digest(seq: int, previous: str, members_digest: str) -> str:
    """SHA-256 that chains a seal to the one before."""
    return digest([seq, previous, members_digest])


def open_rows(connection: Connection, floor: int = 0) -> list[sa.Row[Any]]:
    """(seq, id, digest, created_at) of events with seq > ``floor`` that no seal covers, oldest first."""
    sealed = sa.exists().where(seal_members.c.event_id == events.c.id)
    statement = sa.select(events.c.seq, events.c.id, events.c.digest, events.c.created_at)
    return list(connection.execute(statement.where(events.c.seq > floor, ~sealed).order_by(events.c.seq)))


def seal(
    database: Database, every_rows: int = 256, older_than_s: float = 1.0, *, floor: int = 0, timeout_s: float = 0.5
) -> int:
    """Seal the open rows if there are ``every_rows`` of them, or one is older than ``older_than_s`` seconds.

    Returns how many rows were sealed. ``floor``: no row with seq <= floor is open (saves looking). If another writer
    holds the database for ``timeout_s``, nothing is sealed now: the rows are safe, and the next append seals them.
    """
    with database.read() as connection:
        waiting = open_rows(connection, floor)
    if not _due(waiting, every_rows, older_than_s):
        return 0
    try:
        with database.write(timeout_s=timeout_s) as connection:
            rows = open_rows(connection, floor)  # again: another process may have sealed them meanwhile
            for start in range(0, len(rows), every_rows):
                _write_seal(connection, rows[start : start + every_rows])
            return len(rows)
    except BusyError:
        return 0


def _due(rows: list[sa.Row[Any]], every_rows: int, older_than_s: float) -> bool:
    if not rows:
        return False
    # abs: a clock that was set back must not keep rows open for ever
    return len(rows) >= every_rows or abs(time.time() - min(row.created_at for row in rows)) >= older_than_s


def _write_seal(connection: Connection, rows: list[sa.Row[Any]]) -> None:
    last = connection.execute(sa.select(seals.c.seq, seals.c.digest).order_by(seals.c.seq.desc()).limit(1)).first()
    seq, previous = (last.seq + 1, last.digest) if last else (1, GENESIS)
    members = digest([row.digest for row in rows])
    connection.execute(
        sa.insert(seals),
        {
            "seq": seq,
            "digest": seal_digest(seq, previous, members),
            "previous": previous,
            "members_digest": members,
            "count": len(rows),
            "created_at": time.time(),
        },
    )
    connection.execute(
        sa.insert(seal_members), [{"seal": seq, "position": i, "event_id": row.id} for i, row in enumerate(rows)]
    )


def verify(database: Database, expected_head: str | None = None) -> VerifyReport:
    """Recompute every digest of the study's feedback, sealed and open, and say what does not fit.

    ``expected_head``: a seal digest noted earlier, which must still be in the chain.
    """
    report = VerifyReport()
    with database.read() as connection:
        digests = _verify_events(connection, report)
        sealed = _verify_seals(connection, report, digests, expected_head)
        report.sealed, report.open = len(sealed), len(set(digests) - sealed)
        report.problems += _verify_texts(connection)
        report.problems += _verify_sets(connection, set(digests))
        report.problems += _verify_judged(connection)
    return report


def _verify_events(connection: Connection, report: VerifyReport) -> dict[str, str]:
    """Event id -> stored digest, after recomputing each from its content."""
    digests: dict[str, str] = {}
    known_queries = set(connection.execute(sa.select(queries.c.id)).scalars())
    superseded: list[tuple[str, str]] = []
    for row in connection.execute(sa.select(events).order_by(events.c.seq)):
        report.events += 1
        found = event_digest(dict(row._mapping))
        if row.id in digests:
            report.problems.append(f"event {row.id} is doubled (row {row.seq})")
        if found != row.digest or row.id != row.digest[:24]:
            report.problems.append(f"event {row.id} (row {row.seq}) was changed: its content has digest {found[:24]}")
        if row.query_id is not None and row.query_id not in known_queries:
            report.problems.append(f"event {row.id} answers query {row.query_id}, which is missing")
        if row.supersedes is not None:
            superseded.append((row.id, row.supersedes))
        digests[row.id] = row.digest
    for newer, older in superseded:
        if older not in digests:
            report.problems.append(f"event {newer} supersedes event {older}, which is missing")
    return digests


def _verify_seals(
    connection: Connection, report: VerifyReport, digests: Mapping[str, str], expected_head: str | None
) -> set[str]:
    """Ids of the sealed events, after walking the chain."""
    members: dict[int, list[sa.Row[Any]]] = {}
    for row in connection.execute(sa.select(seal_members).order_by(seal_members.c.seal, seal_members.c.position)):
        members.setdefault(row.seal, []).append(row)
    sealed: set[str] = set()
    previous, heads = GENESIS, {GENESIS}
    for number, seal_row in enumerate(connection.execute(sa.select(seals).order_by(seals.c.seq)), start=1):
        name, rows = f"seal {seal_row.seq}", members.pop(seal_row.seq, [])
        if seal_row.seq != number:
            report.problems.append(f"seal {number} is missing (the next one is {name})")
        if seal_row.previous != previous:
            report.problems.append(f"{name} does not follow the seal before it")
        if seal_row.digest != seal_digest(seal_row.seq, seal_row.previous, seal_row.members_digest):
            report.problems.append(f"{name} was changed")
        report.problems += _verify_members(name, seal_row, rows, digests, sealed)
        sealed.update(row.event_id for row in rows)
        previous = seal_row.digest
        heads.add(previous)
        report.seals, report.head = number, previous
    report.problems += [f"members of seal {seq}, which is missing" for seq in sorted(members)]
    if expected_head is not None and expected_head not in heads:
        report.problems.append(f"the noted head {expected_head[:24]} is not in the chain: it was cut or rewritten")
    return sealed


def _verify_members(
    name: str, seal_row: sa.Row[Any], rows: list[sa.Row[Any]], digests: Mapping[str, str], sealed: set[str]
) -> Iterator[str]:
    for row in rows:
        if row.event_id not in digests:
            yield f"event {row.event_id} of {name} is missing"
        if row.event_id in sealed:
            yield f"event {row.event_id} of {name} is sealed twice"
    if [row.position for row in rows] != list(range(seal_row._mapping["count"])):
        yield f"{name} has {len(rows)} members, not the {seal_row._mapping['count']} it was made of"
    if digest([digests.get(row.event_id, "") for row in rows]) != seal_row.members_digest:
        yield f"the members of {name} are not those it was made of, or not in their order"


def _verify_texts(connection: Connection) -> Iterator[str]:
    """Texts must fit their digests; a text may be missing only if its person was erased."""
    erased = sa.select(events.c.teacher_id).where(events.c.kind == "erasure")
    statement = (
        sa.select(events.c.id, events.c.teacher_id, events.c.text_digest, event_texts.c.text, text_salts.c.salt)
        .outerjoin(event_texts, event_texts.c.event_id == events.c.id)
        .outerjoin(text_salts, text_salts.c.teacher_id == events.c.teacher_id)
        .where(events.c.text_digest.is_not(None), events.c.teacher_id.not_in(erased))
        .order_by(events.c.seq)
    )
    for row in connection.execute(statement):
        if row.text is None:
            yield f"the text of event {row.id} is missing, and its teacher was not erased"
        elif text_digest(row.salt or public_salt(row.teacher_id), row.text) != row.text_digest:
            yield f"the text of event {row.id} was changed"


def _verify_sets(connection: Connection, known: set[str]) -> Iterator[str]:
    """An event set's id is the digest of its members' ids."""
    members: dict[str, list[str]] = {}
    for row in connection.execute(sa.select(event_set_members)):
        members.setdefault(row.event_set_id, []).append(row.event_id)
    for set_id in connection.execute(sa.select(event_sets.c.id).order_by(event_sets.c.id)).scalars():
        ids = sorted(members.get(set_id, []))
        if digest(ids) != set_id:
            yield f"event set {set_id[:24]} does not hold the events it was frozen with"
        for missing in sorted(set(ids) - known):
            yield f"event set {set_id[:24]} holds event {missing}, which is missing"


def _verify_judged(connection: Connection) -> Iterator[str]:
    """Tasks, candidates and queries whose ids are content digests must still have that content."""
    for row in connection.execute(sa.select(tasks)):
        if _is_digest(row.id) and Task(row.split, row.payload).id != row.id:
            yield f"task {row.id} was changed"
    for row in connection.execute(sa.select(candidates)):
        made_by = Provenance(row.policy_id, row.sampling, row.engine, row.seed)
        if _is_digest(row.id) and Candidate(row.task_id, row.kind, row.content, made_by).id != row.id:
            yield f"candidate {row.id} was changed"
    slots: dict[str, list[sa.Row[Any]]] = {}
    for row in connection.execute(sa.select(query_slots).order_by(query_slots.c.query_id, query_slots.c.slot)):
        slots.setdefault(row.query_id, []).append(row)
    for row in connection.execute(sa.select(queries)):
        places = slots.get(row.id, [])
        shown = tuple(place.slot for place in sorted(places, key=lambda place: place.shown_position))
        held = tuple(place.candidate_id for place in places)
        if _is_digest(row.id) and Query(row.task_id, row.kind, held, shown, row.round).id != row.id:
            yield f"query {row.id} was changed"


def _is_digest(id: str) -> bool:
    """Whether an id has the form that records.py gives; ids chosen by hand prove nothing about the content."""
    return len(id) == 24 and set(id) <= set("0123456789abcdef")
