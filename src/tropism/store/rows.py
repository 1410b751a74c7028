"""Raw statements on the connection of a running transaction, for what is asked so often that building SQL would cost.

One text serves both databases: ``?`` marks a value, and only what SQLite and PostgreSQL share is used. Left out:
conversions, but for JSON, which is canonical text on the way in.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from sqlalchemy.engine import Connection

from tropism.digests import canonical_json
from tropism.errors import StoreError


class Rows:
    """Statements inside one transaction, which whoever made it commits. ``connection`` is the same transaction, for
    SQLAlchemy's own statements."""

    def __init__(self, connection: Connection) -> None:
        driver = connection.connection.driver_connection
        if driver is None:
            raise StoreError("the connection to the database is closed", "open the study again")
        self.connection = connection
        self.postgres = connection.dialect.name == "postgresql"
        self.done = 0  # statements that have been answered
        self._cursor = driver.cursor()

    def all(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """All rows of a question."""
        return list(self._run(statement, values).fetchall())

    def one(self, statement: str, *values: Any) -> tuple[Any, ...] | None:
        """The first row, or None."""
        found: tuple[Any, ...] | None = self._run(statement, values).fetchone()
        return found

    def run(self, statement: str, *values: Any) -> int:
        """Change something; returns how many rows it touched."""
        return int(self._run(statement, values).rowcount)

    def many(self, statement: str, values: list[tuple[Any, ...]]) -> None:
        """The same change for many rows."""
        self._cursor.executemany(_for_postgres(statement) if self.postgres else statement, values)

    def _run(self, statement: str, values: tuple[Any, ...]) -> Any:
        found = self._cursor.execute(_for_postgres(statement) if self.postgres else statement, values)
        self.done += 1
        return found


def to_json(value: Any) -> str:
    """What a JSON column is given."""
    return canonical_json(value).decode()


def from_json(stored: Any) -> Any:
    """What a JSON column of objects or lists gives: text from SQLite, the value itself from PostgreSQL."""
    return json.loads(stored) if isinstance(stored, str) else stored


@lru_cache(maxsize=512)
def _for_postgres(statement: str) -> str:
    return statement.replace("?", "%s")
