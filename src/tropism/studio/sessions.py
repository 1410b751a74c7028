"""Sessions of browsers and tokens of programs: from what a request carries to its caller.

Both are random and stored as digests. A caller that was found is remembered for a second, so that a vote costs no
question about who gives it, and cookies in use are looked up again together. What this process itself ends, ends at
once. Left out: cookies (``auth.py``).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tropism.errors import TropismError
from tropism.store import schema
from tropism.store.database import Database
from tropism.studio.passwords import new_token, token_digest
from tropism.studio.roles import Caller

REMEMBERED_S = 1.0
SEEN_EVERY_S = 300.0
"""How exactly it is known when a session was last used: a write per request would be too many."""
_AT_ONCE = 500
"""Sessions in one question."""
BEARER = "bearer\n"
"""What stands before a token of the interface where both kinds are remembered: no cookie can begin so."""
_log = logging.getLogger("tropism.studio")


@dataclass(frozen=True)
class Opened:
    """A new session: the cookie's value, and what the page sends along with every write."""

    token: str
    csrf: str


@dataclass(slots=True)
class _Known:
    """A caller who was looked up; ``until`` (monotonic seconds) nobody asks again. ``used``: since the last renewal."""

    caller: Caller
    until: float
    used: bool = True


class Sessions:
    """Sessions and tokens of one database. ``life_s``, ``idle_s``: a session's length, and how long it may rest."""

    def __init__(self, database: Database, life_s: float, idle_s: float) -> None:
        self.database, self.life_s, self.idle_s = database, life_s, idle_s
        self._known: dict[str, _Known] = {}
        self._lock = threading.Lock()
        self._changes = 0  # what was read before the newest change must not be remembered after it
        self._renewed_at, self._renewing = 0.0, False

    def remembered(self, token: str) -> Caller | None:
        """The caller of a cookie (or, with ``BEARER`` before it, a token) that was looked up a moment ago."""
        found = self._known.get(token)
        if found is None or time.monotonic() >= found.until:
            return None
        found.used = True
        return found.caller

    def forget(self) -> None:
        """Look everybody up anew: something about accounts has changed."""
        with self._lock:
            self._changes += 1
            self._known.clear()

    def renewal_due(self) -> bool:
        """Whether somebody should call ``renew`` now; told to one caller only."""
        if self._renewing or time.monotonic() - self._renewed_at < REMEMBERED_S / 2:
            return False
        with self._lock:
            due, self._renewing = not self._renewing, True
        return due

    def renew(self) -> None:
        """Look up the cookies that were used lately, all at once, before they are forgotten: so that of many people
        who judge nobody waits, and a session still ends a second after another process ended it."""
        try:
            began = time.monotonic()
            with self._lock:
                changes, known = self._changes, list(self._known.items())
                for token, each in known:
                    if began >= each.until:
                        del self._known[token]
            used = [token for token, each in known if each.used and not token.startswith(BEARER)]
            for start in range(0, len(used), _AT_ONCE):
                part = used[start : start + _AT_ONCE]
                found = self._look_up(part)
                with self._lock:
                    if changes != self._changes:
                        return
                    for token in part:
                        if token in found:
                            self._known[token] = _Known(found[token], began + REMEMBERED_S, used=False)
                        else:
                            self._known.pop(token, None)
        except (TropismError, sa.exc.SQLAlchemyError):  # who comes next asks for themselves, and is told
            _log.exception("sessions were not looked up again")
        finally:
            self._renewed_at, self._renewing = time.monotonic(), False

    def by_cookie(self, token: str) -> Caller | None:
        """The caller of a living session of an active account, or None."""
        changes = self._changes
        caller = self._look_up([token]).get(token)
        return None if caller is None else self._keep(token, caller, changes)

    def by_bearer(self, token: str) -> Caller | None:
        """The caller of an API token that is neither expired nor revoked, of an active account, or None."""
        table, accounts, changes = schema.api_tokens, schema.accounts, self._changes
        statement = (
            sa.select(table.c.scope, accounts)
            .join_from(table, accounts, accounts.c.id == table.c.account_id)
            .where(table.c.token_hash == token_digest(token), table.c.revoked_at.is_(None))
            .where(sa.or_(table.c.expires_at.is_(None), table.c.expires_at > time.time()))
            .where(accounts.c.status == "active")
        )
        with self.database.read() as connection:
            row = connection.execute(statement).first()
        if row is None:
            return None
        return self._keep(BEARER + token, _caller(row, session=None, csrf="", scope=row.scope), changes)

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

    def _look_up(self, tokens: Sequence[str]) -> dict[str, Caller]:
        """The callers of living sessions of active accounts, by cookie; when they were last used is noted."""
        now, names = time.time(), {token_digest(token): token for token in tokens}
        table, accounts = schema.sessions, schema.accounts
        statement = (
            sa.select(table.c.token_hash, table.c.csrf, table.c.seen_at, accounts)
            .join_from(table, accounts, accounts.c.id == table.c.account_id)
            .where(table.c.token_hash.in_(list(names)), table.c.expires_at > now, table.c.seen_at > now - self.idle_s)
            .where(accounts.c.status == "active")
        )
        with self.database.read() as connection:
            rows = connection.execute(statement).all()
        old = [row.token_hash for row in rows if now - row.seen_at > SEEN_EVERY_S]
        if old:
            with self.database.write() as connection:
                connection.execute(sa.update(table).where(table.c.token_hash.in_(old)).values(seen_at=now))
        return {
            names[row.token_hash]: _caller(row, session=row.token_hash, csrf=row.csrf, scope="write") for row in rows
        }

    def _keep(self, token: str, caller: Caller, changes: int) -> Caller:
        with self._lock:
            if len(self._known) > 10_000:
                self._known.clear()
            if changes == self._changes:
                self._known[token] = _Known(caller, time.monotonic() + REMEMBERED_S)
        return caller


def _caller(row: Any, session: str | None, csrf: str, scope: Any) -> Caller:
    return Caller(row.id, row.name, row.role, row.pseudonym, row.settings or {}, session, csrf, scope)
