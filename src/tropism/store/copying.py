"""A study's database as it was at one moment, in a file; and the way back, onto a server too. For backups.

A file is copied by SQLite's own online backup, while others write to it (copying the bytes of a database in WAL mode
is not safe). A server's rows are read in one snapshot and written into a file of the same schema, so that a backup is
the same thing whatever it was made of, needs none of the server's programs, and may be restored onto either. JSON goes
over as the text it is stored as.

Left out: rows that belong to a moment and a machine (``LEFT_OUT``): who trains, who is signed in, who guesses passwords
wrongly.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tropism.errors import StoreError
from tropism.store import schema, server
from tropism.store.database import Database
from tropism.store.failures import as_store_error

LEFT_OUT: Final = ("lease", "sessions", "login_failures")
"""Tables that a copy has empty."""
BATCH: Final = 1000
Row = sa.RowMapping


def snapshot(source: Database, path: Path) -> None:
    """Write the study that ``source`` holds, as of one moment, into a new file. Nobody who writes has to wait.

    Errors: StoreError if the file exists, or the disk is full.
    """
    if source.is_server:
        copy = Database.create_file(path)
        try:
            with source.read() as reading, copy.write() as writing:
                _copy_rows(reading, writing)
        finally:
            copy.close()
        return
    if path.exists():
        raise StoreError(f"{path} exists already", "give the copy another name")
    copy_file(source, path)
    copy = Database.open(path)
    try:
        with copy.write() as connection:
            for name in LEFT_OUT:
                connection.execute(sa.delete(schema.metadata.tables[name]))
        copy.checkpoint()  # one file, that says everything
    finally:
        copy.close()


def copy_file(source: Database, path: Path) -> None:
    """SQLite's online backup of a study's file, in one step: one moment. Errors: StoreError if the disk is full."""
    raw = source.engine.raw_connection()
    try:
        with as_store_error(path), closing(sqlite3.connect(path)) as target:
            driver: Any = raw.driver_connection
            driver.backup(target)
    finally:
        raw.close()


def load(source: Database, url: str) -> None:
    """Put a study onto a server, all of it or nothing: into an empty database, which becomes the study's.

    Errors: StoreError if it cannot be reached, or holds something already.
    """
    target = Database.open(url)
    try:
        with source.read() as reading, target.write() as writing:
            if not server.is_untouched(writing):
                fix = "give an empty one: createdb NAME"
                raise StoreError(f"{target.place} holds a study already", fix)
            _copy_rows(reading, writing)
            for table in schema.metadata.sorted_tables:
                if table.autoincrement_column is not None and table.name in ("events", "audit"):
                    _go_on_counting(writing, table)
    finally:
        target.close()


def _copy_rows(reading: Connection, writing: Connection) -> None:
    """Every row of every table but those left out; what others refer to first."""
    for table in schema.metadata.sorted_tables:
        if table.name in LEFT_OUT:
            continue
        statement = _insertion(table, writing.dialect.name == "postgresql")
        found = reading.execute(_selection(table), execution_options={"yield_per": BATCH}).mappings()
        batch: list[dict[str, Any]] = []
        for row in _in_order(table, found):
            batch.append({_bound(name): value for name, value in row.items()})
            if len(batch) == BATCH:
                writing.execute(statement, batch)
                batch = []
        if batch:
            writing.execute(statement, batch)


def _selection(table: sa.Table) -> sa.Select[Any]:
    """All rows by key, JSON as text: NULL and the JSON value null stay apart, and no number changes its form."""
    columns = [sa.cast(c, sa.Text).label(c.name) if isinstance(c.type, sa.JSON) else c for c in table.columns]
    return sa.select(*columns).order_by(*table.primary_key.columns)


def _insertion(table: sa.Table, on_server: bool) -> sa.Insert:
    """The statement that takes rows of ``_selection``."""
    plain = sa.table(table.name, *(sa.column(c.name, _plain(c)) for c in table.columns))
    values: dict[str, Any] = {}
    for column in table.columns:
        value: sa.ColumnElement[Any] = sa.bindparam(_bound(column.name), type_=_plain(column))
        if on_server and isinstance(column.type, sa.JSON):
            value = sa.cast(value, sa.JSON)  # SQLite knows no such type, and would make a number of the text
        values[column.name] = value
    return sa.insert(plain).values(values)


def _plain(column: sa.Column[Any]) -> sa.types.TypeEngine[Any]:
    return sa.Text() if isinstance(column.type, sa.JSON) else column.type


def _bound(name: str) -> str:
    return f"given_{name}"  # SQLAlchemy keeps the columns' own names for itself


def _in_order(table: sa.Table, rows: Iterable[Row]) -> Iterator[Row]:
    """The rows, each after the rows of the same table that it refers to. Errors: StoreError if one of those is missing.

    Rows that come too early wait in memory; the keys seen are kept there, too.
    """
    own = {c.name: key.column.name for c in table.columns for key in c.foreign_keys if key.column.table is table}
    if not own:
        yield from rows
        return
    (referred,) = set(own.values())
    seen: set[Any] = set()
    waiting: dict[Any, list[Row]] = {}
    for row in rows:
        ready = [row]
        while ready:
            each = ready.pop()
            missing = next((each[name] for name in own if each[name] is not None and each[name] not in seen), None)
            if missing is not None:
                waiting.setdefault(missing, []).append(each)
                continue
            seen.add(each[referred])
            yield each
            ready += waiting.pop(each[referred], [])
    if waiting:
        raise StoreError(
            f"rows of {table.name} refer to {next(iter(waiting))!r}, which is missing: the database is damaged",
            "restore it from an older copy",
        )


def _go_on_counting(connection: Connection, table: sa.Table) -> None:
    """A server counts rows apart from them: the next row must get a number that none has."""
    column = table.autoincrement_column
    assert column is not None
    highest = connection.execute(sa.select(sa.func.max(column))).scalar()
    if highest is not None:
        counter = sa.func.pg_get_serial_sequence(table.name, column.name)
        connection.execute(sa.select(sa.func.setval(counter, highest)))
