"""The audit log: who did what to whom, append-only by the database.

Of a vote it says who gave it in which assignment, in the vote's own transaction; what was said is in the events. Left
out: addresses of browsers, which nobody needs for long, and requests that only read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tropism.store import schema
from tropism.store.rows import Rows

_INSERT = "INSERT INTO audit (at, account_id, action, object, detail) VALUES (?, ?, ?, ?, '{}')"


def note(
    connection: Connection,
    account_id: str | None,
    action: str,
    object_: str = "",
    detail: Mapping[str, Any] | None = None,
) -> None:
    """One row, in the transaction of what it tells of. ``action`` is ``noun.verb``, as ``account.role``."""
    row = {
        "at": time.time(),
        "account_id": account_id,
        "action": action,
        "object": object_,
        "detail": dict(detail or {}),
    }
    connection.execute(sa.insert(schema.audit).values(row))


def noting(account_id: str, action: str, object_: str) -> Callable[[Rows], None]:
    """The same for the queue's transactions: a vote and its row of the audit log are stored together or not at all."""

    def write(rows: Rows) -> None:
        rows.run(_INSERT, time.time(), account_id, action, object_)

    return write


def entries(connection: Connection, after: int | None, limit: int, action: str | None) -> list[dict[str, Any]]:
    """Rows newest first; ``after``: only those older than this one."""
    table, accounts = schema.audit, schema.accounts
    joined = table.outerjoin(accounts, accounts.c.id == table.c.account_id)
    statement = sa.select(table, accounts.c.name).select_from(joined).order_by(table.c.seq.desc()).limit(limit)
    if after is not None:
        statement = statement.where(table.c.seq < after)
    if action is not None:
        statement = statement.where(table.c.action == action)
    return [
        {
            "seq": row.seq, "at": row.at, "account": row.name, "action": row.action, "object": row.object,
            "detail": row.detail,
        }
        for row in connection.execute(statement)
    ]  # fmt: skip
