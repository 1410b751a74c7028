"""Accounts: made by the first administrator's link or an invitation, and changed by their owners and by leads.

Every account is a person of the feedback log too: votes carry the pseudonym, never the name. Left out: sessions
(``sessions.py``); mail, which the studio never sends; erasing a person (``tropism feedback erase``).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tropism.feedback.people import register_in
from tropism.store import schema
from tropism.store.database import Database
from tropism.studio.audit import note
from tropism.studio.passwords import hash_password, new_token, password_fits, token_digest, wait_s
from tropism.studio.problems import ApiError
from tropism.studio.roles import Caller, Role, rank

SOLO = "solo"
"""The name of the one account of ``--solo``."""
_table = schema.accounts


def any_account(database: Database) -> bool:
    """Whether anybody can sign in."""
    statement = sa.select(_table.c.id).where(_table.c.password_hash.is_not(None), _table.c.status == "active").limit(1)
    with database.read() as connection:
        return connection.execute(statement).first() is not None


def create_in(connection: Connection, name: str, role: Role, password: str | None) -> str:
    """A new account and its pseudonym, in a write transaction; returns its id. ``password`` is hashed already.

    Errors: ApiError (409) if the name is taken.
    """
    name = name.strip()
    if connection.execute(sa.select(_table.c.id).where(sa.func.lower(_table.c.name) == name.lower())).first():
        raise ApiError(409, "conflict", f"the name {name!r} is taken", "choose another name")
    made = f"account-{secrets.token_hex(8)}"
    row: dict[str, Any] = {
        "id": made,
        "name": name,
        "role": role,
        "password_hash": password,
        "settings": {},
        "status": "active",
    }
    pseudonym = register_in(connection, name, made)
    connection.execute(sa.insert(_table).values(row | {"pseudonym": pseudonym, "created_at": time.time()}))
    return made


def judging(connection: Connection) -> set[str]:
    """Pseudonyms of all who may be asked."""
    table = schema.accounts
    active = sa.select(table.c.pseudonym, table.c.role).where(table.c.status == "active")
    return {row.pseudonym for row in connection.execute(active) if rank(row.role) >= rank("annotator")}


def solo_account(database: Database) -> str:
    """The id of the one account of ``--solo``, made on the first call. It has no password: nobody signs in as it."""
    find = sa.select(_table.c.id).where(_table.c.name == SOLO, _table.c.password_hash.is_(None))
    with database.write() as connection:
        return connection.execute(find).scalar() or create_in(connection, SOLO, "admin", None)


def invite(database: Database, role: Role, created_by: str | None, life_s: float) -> tuple[str, float]:
    """(token, when it expires) of a new invitation; ``created_by`` None: the first administrator's link."""
    token, now = new_token(), time.time()
    row = {"token_hash": token_digest(token), "role": role, "created_by": created_by, "created_at": now}
    with database.write() as connection:
        connection.execute(sa.insert(schema.invitations).values(row | {"expires_at": now + life_s}))
        note(connection, created_by, "invitation.create", "", {"role": role})
    return token, now + life_s


def invitation(connection: Connection, token: str, first: bool | None = None) -> sa.Row[Any]:
    """The row of an open invitation; ``first``: whether it must be the first administrator's link, or must not.

    Errors: ApiError, 404 if there is none, 410 if it was used or has expired.
    """
    table = schema.invitations
    row = connection.execute(sa.select(table).where(table.c.token_hash == token_digest(token))).first()
    if row is None or (first is not None and first != (row.created_by is None)):
        raise ApiError(404, "not_found", "no such link", "ask for a new one")
    if row.used_by is not None or row.expires_at < time.time():
        what = "was used" if row.used_by is not None else "has expired"
        raise ApiError(410, "gone", f"this link {what}", "ask for a new one, or restart the studio for a setup link")
    return row


def accept(database: Database, token: str, name: str, password: str, *, first: bool) -> str:
    """The id of the account that an invitation makes; each makes one. Errors: as ``invitation``, and 409 for a name."""
    with database.read() as connection:
        invitation(connection, token, first)  # before the costly hash
    hashed = hash_password(password)
    with database.write() as connection:
        row = invitation(connection, token, first)
        if first and connection.execute(sa.select(_table.c.id).where(_table.c.password_hash.is_not(None))).first():
            raise ApiError(410, "gone", "this studio has an administrator already", "sign in, or ask for an invitation")
        made = create_in(connection, name, row.role, hashed)
        used = sa.update(schema.invitations).where(schema.invitations.c.token_hash == row.token_hash)
        connection.execute(used.values(used_by=made))
        note(connection, made, "account.create", made, {"role": row.role})
    return made


def sign_in(database: Database, name: str, password: str, free: int) -> str:
    """The id of the account with this name and password. ``free``: wrong ones before waits begin.

    An attempt is counted before the password is looked at, so that many at once are no way round the wait. Whoever
    guesses at a name keeps its owner waiting too, at most a quarter of an hour. Errors: ApiError, 401 if it does not
    fit, 429 while one has to wait (the password is not looked at then).
    """
    key = f"name:{name.strip().lower()}"[:200]
    failures = schema.login_failures
    with database.write() as connection:
        failed = connection.execute(sa.select(failures).where(failures.c.key == key)).first()
        now = time.time()
        if failed is not None and failed.blocked_until > now:
            left = failed.blocked_until - now
            fix = f"wait {left:.0f} seconds"
            raise ApiError(
                429, "slow_down", "too many wrong passwords for this name", fix, retry_s=left, seconds=round(left)
            )
        count = 1 if failed is None else int(failed._mapping["count"]) + 1
        connection.execute(sa.delete(failures).where(failures.c.key == key))
        row = {"key": key, "count": count, "blocked_until": now + wait_s(count, free)}
        connection.execute(sa.insert(failures).values(row))
        account = connection.execute(
            sa.select(_table).where(sa.func.lower(_table.c.name) == name.strip().lower())
        ).first()
    active = account is not None and account.status == "active"
    fits = password_fits(password, account.password_hash if account is not None and active else None)
    with database.write() as connection:
        if fits and account is not None:
            connection.execute(sa.delete(failures).where(failures.c.key == key))
            note(connection, account.id, "session.create", account.id)
            return str(account.id)
        note(connection, None if account is None else account.id, "session.refuse", "", {"failures": count})
    raise ApiError(401, "wrong_password", "name and password do not fit", "check both; names ignore case")


def change_settings(database: Database, caller: Caller, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The caller's settings after ``changes`` (None takes one back)."""
    with database.write() as connection:
        old = connection.execute(sa.select(_table.c.settings).where(_table.c.id == caller.account_id)).scalar_one()
        made = {name: value for name, value in {**(old or {}), **changes}.items() if value is not None}
        connection.execute(sa.update(_table).where(_table.c.id == caller.account_id).values(settings=made))
    return made


def change_password(database: Database, caller: Caller, old: str, new: str) -> str:
    """Check the old password; returns the new one's hash, to be stored with the sessions' end. Errors: ApiError 401."""
    with database.read() as connection:
        stored = connection.execute(
            sa.select(_table.c.password_hash).where(_table.c.id == caller.account_id)
        ).scalar_one()
    if not password_fits(old, stored):
        raise ApiError(401, "wrong_password", "the old password does not fit", "give the password of now")
    return hash_password(new)


def change_person(
    connection: Connection, caller: Caller, account_id: str, role: Role | None, status: str | None
) -> None:
    """Give a person another role or status, in a write transaction.

    Errors: ApiError, 404 for nobody, 403 for somebody who is not below the caller (an administrator may change
    administrators, but not themselves: one must stay).
    """
    row = connection.execute(sa.select(_table).where(_table.c.id == account_id)).first()
    if row is None:
        raise ApiError(404, "not_found", "no such person", "take an id of lead/people")
    admin = caller.role == "admin"
    allowed = row.id != caller.account_id and (admin or rank(row.role) < rank(caller.role))
    if not allowed or (role is not None and not admin and rank(role) >= rank(caller.role)):
        raise ApiError(403, "not_allowed", f"{row.name} has role {row.role}", "ask an administrator")
    changed = {name: value for name, value in (("role", role), ("status", status)) if value is not None}
    if changed:
        connection.execute(sa.update(_table).where(_table.c.id == account_id).values(changed))
        note(connection, caller.account_id, "account.change", account_id, changed)


def find_in(connection: Connection, account_id: str) -> sa.Row[Any]:
    """One account's row. Errors: ApiError 404."""
    row = connection.execute(sa.select(_table).where(_table.c.id == account_id)).first()
    if row is None:
        raise ApiError(404, "not_found", "no such person", "take an id of lead/people")
    return row
