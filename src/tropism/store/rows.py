"""Raw statements on the connection of a running transaction, for what is asked so often that building SQL would cost.

One text serves both databases: ``?`` marks a value, and only what SQLite and PostgreSQL share is used. Left out:
conversions, but for JSON, which is canonical text on the way in.
"""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from sqlalchemy.engine import Connection

from tropism.digests import canonical_json
from tropism.errors import StoreError
from tropism.store.prepared import Prepared


class Rows:
    """Statements inside one transaction, which whoever made it commits. ``connection`` is the same transaction, for
    SQLAlchemy's own statements."""

    def __init__(self, connection: Connection) -> None:
        driver: Any = connection.connection.driver_connection
        if driver is None:
            raise StoreError("the connection to the database is closed", "open the study again")
        self.connection = connection
        self.postgres = connection.dialect.name == "postgresql"
        self.done = 0  # statements that have been answered
        self._server = Prepared(driver) if self.postgres else None
        self._cursor: sqlite3.Cursor | None = None if self.postgres else driver.cursor()

    def all(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """All rows of a question."""
        return self._run(statement, values)[0]

    def one(self, statement: str, *values: Any) -> tuple[Any, ...] | None:
        """The first row, or None."""
        found = self._run(statement, values)[0]
        return found[0] if found else None

    def run(self, statement: str, *values: Any) -> int:
        """Change something; returns how many rows it touched."""
        return self._run(statement, values)[1]

    def commit(self) -> None:
        """End the transaction now, if that is quicker than leaving it to whoever made it."""
        if self._server is not None:
            self._server.commit()

    def _run(self, statement: str, values: tuple[Any, ...]) -> tuple[list[tuple[Any, ...]], int]:
        if self._server is not None:
            found = self._server.execute(statement, values)
        else:
            assert self._cursor is not None
            self._cursor.execute(statement, values)
            found = self._cursor.fetchall(), self._cursor.rowcount
        self.done += 1
        return found


def to_json(value: Any) -> str:
    """What a JSON column is given."""
    return canonical_json(value).decode()


def from_json(stored: str) -> Any:
    """What a JSON column gave."""
    return json.loads(stored)
