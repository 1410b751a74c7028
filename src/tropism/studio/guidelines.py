"""What people are asked to look for: one text in versions, each answered under the one that was shown.

Left out: guidelines by kind of question; one text can have headings.
"""

from __future__ import annotations

import bisect
import time
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tropism.store import schema
from tropism.studio.audit import note
from tropism.studio.problems import ApiError
from tropism.studio.roles import Caller

_table = schema.guidelines


def newest(connection: Connection) -> tuple[int, str] | None:
    """(version, text) of the guideline of now, or None."""
    row = connection.execute(sa.select(_table).order_by(_table.c.version.desc()).limit(1)).first()
    return None if row is None else (row.version, row.text)


def in_force(connection: Connection, times: Sequence[float]) -> list[int | None]:
    """The version that was the newest at each of ``times`` (UTC seconds); None before the first."""
    published = connection.execute(sa.select(_table.c.created_at).order_by(_table.c.version)).scalars().all()
    return [bisect.bisect_right(published, at) or None for at in times]


def publish(connection: Connection, caller: Caller, text: str) -> int:
    """A new version, in a write transaction. Errors: ApiError (409) where it says what the newest says."""
    old = newest(connection)
    if old is not None and old[1] == text:
        raise ApiError(409, "conflict", f"version {old[0]} says the same", "change something, or leave it")
    version = 1 if old is None else old[0] + 1
    row = {"version": version, "text": text, "created_by": caller.account_id, "created_at": time.time()}
    connection.execute(sa.insert(_table).values(row))
    note(connection, caller.account_id, "guideline.publish", str(version))
    return version


def versions(connection: Connection, after: int | None, limit: int) -> list[dict[str, Any]]:
    """Versions, newest first."""
    accounts = schema.accounts
    statement = (
        sa.select(_table, accounts.c.name)
        .select_from(_table.outerjoin(accounts, accounts.c.id == _table.c.created_by))
        .order_by(_table.c.version.desc())
        .limit(limit)
    )
    if after is not None:
        statement = statement.where(_table.c.version < after)
    return [
        {"version": row.version, "created_at": row.created_at, "created_by": row.name, "text": row.text}
        for row in connection.execute(statement)
    ]
