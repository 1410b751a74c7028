"""People: pseudonyms for their votes, and their right to leave.

Names, contacts and texts sit in tables that can be emptied; the votes keep a random pseudonym. Erasing a person is an
event itself: their votes no longer count, and verification survives. Left out: making accounts (the studio's).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tropism.errors import DataError
from tropism.feedback import queue_state
from tropism.feedback.chain import event_digest, seal
from tropism.feedback.values import Erasure, dump_value
from tropism.store.database import Database
from tropism.store.rows import Rows
from tropism.store.schema import accounts, api_tokens, event_texts, events, people, sessions, teachers, text_salts


def register_person(database: Database, name: str, contact: str = "", *, pseudonym: str | None = None) -> str:
    """The pseudonym of a person, made on the first call and the same on every later one with the same name and contact.

    ``pseudonym`` is used if the person is new (an import derives it, so that a replay gives the same events).
    """
    if not name.strip():
        raise DataError("a person without a name", "give the name or handle under which they take part")
    with database.write() as connection:
        return register_in(connection, name, contact, pseudonym)


def register_in(connection: Connection, name: str, contact: str = "", pseudonym: str | None = None) -> str:
    """``register_person`` inside a write transaction."""
    known = connection.execute(
        sa.select(people.c.pseudonym).where(people.c.name == name, people.c.contact == contact)
    ).scalar()
    if known is not None:
        return known
    pseudonym = pseudonym or f"person-{secrets.token_hex(8)}"
    old = connection.execute(sa.select(people).where(people.c.pseudonym == pseudonym)).first()
    if old is not None:
        what = "was erased" if old.erased_at is not None else "belongs to another person"
        raise DataError(f"pseudonym {pseudonym} {what}", "leave this person's rows out, or register them anew")
    now = time.time()
    connection.execute(sa.insert(teachers).values(id=pseudonym, kind="person", created_at=now))
    connection.execute(sa.insert(people).values(pseudonym=pseudonym, name=name, contact=contact, created_at=now))
    connection.execute(sa.insert(text_salts).values(teacher_id=pseudonym, salt=secrets.token_hex(32)))
    return pseudonym


def person(database: Database, pseudonym: str) -> Mapping[str, Any] | None:
    """Name, contact and times of a pseudonym, or None. After an erasure name and contact are None."""
    with database.read() as connection:
        row = connection.execute(sa.select(people).where(people.c.pseudonym == pseudonym)).first()
    return None if row is None else dict(row._mapping)


def erase_person(database: Database, pseudonym: str, reason: str = "asked to be erased") -> str:
    """Remove a person's name, contact, texts and salt, and append the erasure event. Returns the event's id.

    In the studio their drafts and their account's name and password go too, it is closed, and what they held or voted
    on is asked of others.

    Erasing twice changes nothing. What must be made again is told by ``store.lineage.refit_after_erasure``. ``reason``
    stays for ever: write nothing personal into it. Errors: DataError if there is no such person.
    """
    with database.write() as connection:
        row = connection.execute(sa.select(people).where(people.c.pseudonym == pseudonym)).first()
        if row is None:
            raise DataError(f"no person {pseudonym!r}", "give the pseudonym that register_person returned")
        done = connection.execute(
            sa.select(events.c.id).where(events.c.kind == "erasure", events.c.teacher_id == pseudonym)
        ).scalar()
        if done is not None:
            return done
        now = time.time()
        theirs = sa.select(events.c.id).where(events.c.teacher_id == pseudonym)
        connection.execute(sa.delete(event_texts).where(event_texts.c.event_id.in_(theirs)))
        connection.execute(sa.delete(text_salts).where(text_salts.c.teacher_id == pseudonym))
        gone = {"name": None, "contact": None, "erased_at": now}
        connection.execute(sa.update(people).where(people.c.pseudonym == pseudonym).values(gone))
        event = _erasure_row(pseudonym, reason, now)
        connection.execute(sa.insert(events), event)
        queue_state.leave(Rows(connection), pseudonym)
        _close_account(connection, pseudonym, now)
    database.checkpoint()
    seal(database)
    return event["id"]


def _close_account(connection: Connection, pseudonym: str, now: float) -> None:
    """Names are unique and cannot be empty: the account is called by the pseudonym from now on."""
    theirs = sa.select(accounts.c.id).where(accounts.c.pseudonym == pseudonym)
    connection.execute(sa.delete(sessions).where(sessions.c.account_id.in_(theirs)))
    revoked = {"name": "", "revoked_at": sa.func.coalesce(api_tokens.c.revoked_at, now)}
    connection.execute(sa.update(api_tokens).where(api_tokens.c.account_id.in_(theirs)).values(revoked))
    closed: dict[str, Any] = {"name": pseudonym, "password_hash": None, "settings": {}, "status": "disabled"}
    connection.execute(sa.update(accounts).where(accounts.c.pseudonym == pseudonym).values(closed))


def _erasure_row(pseudonym: str, reason: str, now: float) -> dict[str, Any]:
    row: dict[str, Any] = {
        "kind": "erasure",
        "query_id": None,
        "teacher_id": pseudonym,
        "target": "",
        "value": dump_value(Erasure(reason=reason)),
        "text_digest": None,
        "supersedes": None,
        "origin": "",
    }
    digest = event_digest(row)
    return {**row, "id": digest[:24], "digest": digest, "duration_ms": None, "created_at": now}
