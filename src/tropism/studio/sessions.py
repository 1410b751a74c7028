"""Sessions of browsers and tokens of programs: from what a request carries to its caller.

Both are random and stored as digests. A caller that was found is remembered for a second, so that a vote costs no
question about who gives it; what this process itself ends, ends at once. Left out: cookies (``auth.py``).
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tropism.store import schema
from tropism.store.database import Database
from tropism.studio.passwords import new_token, token_digest
from tropism.studio.roles import Caller

REMEMBERED_S = 1.0
SEEN_EVERY_S = 300.0
"""How exactly it is known when a session was last used: a write per request would be too many."""


@dataclass(frozen=True)
class Opened:
    """A new session: the cookie's value, and what the page sends along with every write."""

    token: str
    csrf: str


class Sessions:
    """Sessions and tokens of one database. ``life_s``, ``idle_s``: a session's length, and how long it may rest."""

    def __init__(self, database: Database, life_s: float, idle_s: float) -> None:
        self.database, self.life_s, self.idle_s = database, life_s, idle_s
        self._known: dict[str, tuple[Caller, float]] = {}
        self._lock = threading.Lock()

    def remembered(self, token: str) -> Caller | None:
        """The caller of a token that was looked up a moment ago."""
        found = self._known.get(token)
        return found[0] if found is not None and time.monotonic() < found[1] else None

    def forget(self) -> None:
        """Look everybody up anew: something about accounts has changed."""
        with self._lock:
            self._known.clear()

    def by_cookie(self, token: str) -> Caller | None:
        """The caller of a living session of an active account, or None."""
        now, name = time.time(), token_digest(token)
        table, accounts = schema.sessions, schema.accounts
        statement = (
            sa.select(table.c.csrf, table.c.seen_at, accounts)
            .join_from(table, accounts, accounts.c.id == table.c.account_id)
            .where(table.c.token_hash == name, table.c.expires_at > now, table.c.seen_at > now - self.idle_s)
            .where(accounts.c.status == "active")
        )
        with self.database.read() as connection:
            row = connection.execute(statement).first()
        if row is None:
            return None
        if now - row.seen_at > SEEN_EVERY_S:
            with self.database.write() as connection:
                connection.execute(sa.update(table).where(table.c.token_hash == name).values(seen_at=now))
        return self._keep(token, _caller(row, session=name, csrf=row.csrf, scope="write"))

    def by_bearer(self, token: str) -> Caller | None:
        """The caller of an API token that is neither expired nor revoked, of an active account, or None."""
        table, accounts = schema.api_tokens, schema.accounts
        statement = (
            sa.select(table.c.scope, accounts)
            .join_from(table, accounts, accounts.c.id == table.c.account_id)
            .where(table.c.token_hash == token_digest(token), table.c.revoked_at.is_(None))
            .where(sa.or_(table.c.expires_at.is_(None), table.c.expires_at > time.time()))
            .where(accounts.c.status == "active")
        )
        with self.database.read() as connection:
            row = connection.execute(statement).first()
        return None if row is None else self._keep(f"b{token}", _caller(row, session=None, csrf="", scope=row.scope))

    def open_in(self, connection: Connection, account_id: str) -> Opened:
        """A new session, in a write transaction; ended ones are cleared on the way."""
        table, now = schema.sessions, time.time()
        connection.execute(
            sa.delete(table).where(sa.or_(table.c.expires_at < now, table.c.seen_at < now - self.idle_s))
        )
        made = Opened(new_token(), new_token())
        row = {"token_hash": token_digest(made.token), "account_id": account_id, "csrf": made.csrf}
        times = {"created_at": now, "seen_at": now, "expires_at": now + self.life_s}
        connection.execute(sa.insert(table).values(row | times))
        return made

    def end(self, token_hash: str) -> None:
        """End one session."""
        with self.database.write() as connection:
            connection.execute(sa.delete(schema.sessions).where(schema.sessions.c.token_hash == token_hash))
        self.forget()

    def end_all_in(self, connection: Connection, account_id: str, but: str | None = None) -> None:
        """End an account's sessions, except the one of digest ``but``; call ``forget`` after the transaction."""
        table = schema.sessions
        where = [table.c.account_id == account_id, *([] if but is None else [table.c.token_hash != but])]
        connection.execute(sa.delete(table).where(*where))

    def _keep(self, token: str, caller: Caller) -> Caller:
        with self._lock:
            if len(self._known) > 10_000:
                self._known.clear()
            self._known[token] = (caller, time.monotonic() + REMEMBERED_S)
        return caller


def _caller(row: Any, session: str | None, csrf: str, scope: Any) -> Caller:
    return Caller(row.id, row.name, row.role, row.pseudonym, row.settings or {}, session, csrf, scope)
