"""The study's database: opening, migrating, reading, and writing by one writer at a time.

SQLite in WAL mode, a file in the study's folder; or PostgreSQL, for a team (``server.py``). SQLite's writes begin
IMMEDIATE: a deferred transaction that upgrades from read to write fails at once, whatever the busy time-out, when
another process has committed in between. On a server an advisory lock does the same. Migrations run inside one such
transaction, so a killed migration leaves the older schema whole. Left out: other databases.
"""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Engine

from tropism.digests import canonical_json
from tropism.errors import StoreError
from tropism.files import sync_path
from tropism.store import schema, server
from tropism.store.failures import BusyError as BusyError
from tropism.store.failures import as_store_error, is_busy
from tropism.store.turns import Turns

_MIGRATIONS = Path(__file__).parent / "migrations"
_BUSY_SLICE_MS = 250  # SQLite's own wait; the loop around it keeps the deadline and the fairness


class Database:
    """One study's database. Threads share an instance; processes open their own.

    ``path`` is where study.db is, or would be if the database were not on a server. ``timeout_s`` bounds every wait for
    the write lock.
    """

    def __init__(self, path: Path, engine: Engine, timeout_s: float) -> None:
        self.path = path
        self.engine = engine
        self.timeout_s = timeout_s
        self.is_server = engine.dialect.name == "postgresql"
        self.place: Path | str = server.without_password(_plain(engine.url)) if self.is_server else path
        self._quick = server.make_engine(_plain(engine.url), ping=False) if self.is_server else engine
        self._turns = Turns()
        self._writing = threading.local()

    @classmethod
    def create(cls, path: Path, timeout_s: float = 30.0) -> Database:
        """Make a new study database. It appears under ``path`` only when it is complete, so a kill leaves none.

        Where the environment names a server (``server.VARIABLE``), it is made there, and ``path`` with the suffix
        ``.url`` says so from then on. Errors: StoreError if ``path`` exists or the folder is missing, read-only or
        full.
        """
        if path.exists() or server.address_beside(path) is not None:
            raise StoreError(f"{path} exists already", "open it, or choose another folder")
        if not path.parent.is_dir():
            raise StoreError(f"folder {path.parent} does not exist", "make the folder first")
        if url := os.environ.get(server.VARIABLE):
            made = cls._on_server(url, path, timeout_s, new=True)
            with as_store_error(path):
                server.note_address(path, url)
            return made
        return cls.create_file(path, timeout_s)

    @classmethod
    def create_file(cls, path: Path, timeout_s: float = 30.0) -> Database:
        """Make a new study database in a file, whatever server the environment names. Errors: as ``create``."""
        if path.exists():
            raise StoreError(f"{path} exists already", "open it, or choose another folder")
        with as_store_error(path):
            for left in path.parent.glob(f".{path.name}.new-*"):  # of creations that were killed
                if time.time() - left.stat().st_mtime > 600:
                    left.unlink()
        partial = path.parent / f".{path.name}.new-{os.getpid()}-{threading.get_ident()}"
        try:
            engine = _engine(partial)
            with as_store_error(path):
                with _begin(engine, timeout_s, partial) as connection:
                    connection.exec_driver_sql(f"PRAGMA application_id = {schema.APPLICATION_ID}")
                    _upgrade(connection)
                _checkpoint(engine)
                engine.dispose()
                try:
                    os.link(partial, path)  # unlike a rename, this never replaces what another process just made
                except FileExistsError as error:
                    raise StoreError(f"{path} was just made by another process", "run the command again") from error
                sync_path(path.parent)
        finally:
            for suffix in ("", "-wal", "-shm"):
                Path(f"{partial}{suffix}").unlink(missing_ok=True)
        return cls.open(path, timeout_s)

    @classmethod
    def open(cls, place: Path | str, timeout_s: float = 30.0) -> Database:
        """Open an existing study database, migrating an older one first: a file, a file in whose place ``study.url``
        names a server, or the address of a server, where an empty database becomes a study's.

        Errors: StoreError if it is missing, no study, of a newer schema, damaged, read-only, or the disk is full.
        """
        if isinstance(place, str) and server.is_address(place):
            return cls._on_server(place, Path("study.db"), timeout_s, new=False)
        path = Path(place)
        if not path.exists() and (url := server.address_beside(path)):
            return cls._on_server(url, path, timeout_s, new=False)
        if not path.is_file():
            raise StoreError(f"{path} does not exist", "give a study's folder, or make one with `tropism new`")
        if path.stat().st_size == 0:
            raise StoreError(f"{path} is empty, not a study's database", "delete it and run the command again")
        engine = _engine(path)
        database = cls(path, engine, timeout_s)
        try:
            with as_store_error(path):
                with engine.connect() as connection:
                    mark = connection.exec_driver_sql("PRAGMA application_id").scalar()
                    if mark != schema.APPLICATION_ID:
                        raise StoreError(
                            f"{path} is an SQLite file but not a study", "give a folder made by `tropism new`"
                        )
                    if not _writable(path):
                        raise StoreError(
                            f"{path} or its folder is read-only", "give write permission to the study's folder"
                        )
                    current = MigrationContext.configure(connection).get_current_revision()
                database._migrate(current)
        except BaseException:
            engine.dispose()
            raise
        return database

    @classmethod
    def _on_server(cls, url: str, path: Path, timeout_s: float, new: bool) -> Database:
        """Open a server's database, making an empty one a study's; with ``new`` it may hold nothing yet."""
        database = cls(path, server.make_engine(url), timeout_s)
        try:
            with database.write() as connection:  # one process makes the tables, the others wait for it
                empty = server.check_foreign(connection)
                if new and not empty and not server.is_untouched(connection):
                    raise StoreError(
                        f"{database.place} holds a study already", f"unset {server.VARIABLE}, or give another database"
                    )
                current = None if empty else MigrationContext.configure(connection).get_current_revision()
                if _is_older(current, database.place):
                    _upgrade(connection)
        except BaseException:
            database.close()
            raise
        return database

    def _migrate(self, current: str | None) -> None:
        if _is_older(current, self.place):
            with self.write() as connection:
                _upgrade(connection)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A consistent snapshot to read from; it blocks no writer."""
        if self.is_server:
            with as_store_error(self.place), server.snapshot(self.engine) as connection:
                yield connection
            return
        with as_store_error(self.place), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A transaction for statements that are safe beside other writers by themselves (constraints, row locks). On a
        server many run at once, and the first statement may fail on a connection that has broken while it rested; on
        SQLite it is ``write``."""
        if self.is_server:
            with as_store_error(self.place), self._quick.begin() as connection:
                yield connection
            return
        with self.write() as connection:
            yield connection

    @contextmanager
    def write(self, timeout_s: float | None = None) -> Iterator[Connection]:
        """The write transaction: BEGIN IMMEDIATE, commit at the end of the block, roll back on any error.

        Errors: BusyError, naming who holds the database, if the lock is not had within ``timeout_s``; StoreError if
        the disk is full or read-only.
        """
        timeout_s = self.timeout_s if timeout_s is None else timeout_s
        if getattr(self._writing, "now", False):
            raise RuntimeError("write() inside write(): pass the connection on instead")
        deadline = time.monotonic() + timeout_s
        if not self._turns.acquire(timeout=timeout_s):
            raise self._busy(timeout_s, "another thread of this process")
        self._writing.now = True
        try:
            with as_store_error(self.place), self._begin_to_write(timeout_s, deadline) as connection:
                yield connection
        finally:
            self._writing.now = False
            self._turns.release()

    @contextmanager
    def _begin_to_write(self, timeout_s: float, deadline: float) -> Iterator[Connection]:
        left = max(deadline - time.monotonic(), 0.0)
        if self.is_server:
            with self.engine.begin() as connection:
                server.take_turn(connection, left)
                yield connection
            return
        try:
            with _begin(self.engine, left, self.path) as connection:
                yield connection
        except _LockWaitError as error:
            raise self._busy(timeout_s, self._blame()) from error

    def checkpoint(self) -> None:
        """Bring the write-ahead log into the file and empty it, as far as readers allow: erased bytes are gone then.

        On a server the tables with what is erasable are written anew; its log and its backups are the server's.
        """
        with as_store_error(self.place):
            if self.is_server:
                server.vacuum(self.engine, schema.ERASABLE)
            else:
                _checkpoint(self.engine)

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()
        self._quick.dispose()

    def _busy(self, timeout_s: float, who: str) -> BusyError:
        return BusyError(
            f"{self.place} stayed locked for {timeout_s:g} s by {who}",
            "wait for that process, or end it, and try again",
        )

    def _blame(self) -> str:
        """Who is likely to hold the write lock: the study's trainer, if there is one. SQLite itself does not know."""
        with self.engine.connect() as connection:
            row = connection.execute(sa.select(schema.lease)).first()
        if row is None:
            return "another process (no trainer holds this study; a backup or another program has the file open)"
        return f"another process (the study's trainer is pid {row.pid} on {row.host}: {row.command})"


def insert_new(connection: Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows whose key is not there yet; the others stay as they are (their keys are digests of their content)."""
    if not rows:
        return
    dialect = connection.dialect.name
    insert = postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)
    keys = [column.name for column in table.primary_key.columns]
    connection.execute(insert.on_conflict_do_nothing(index_elements=keys), list(rows))


def _plain(url: sa.URL) -> str:
    return url.render_as_string(hide_password=False)


def _is_older(current: str | None, place: Path | str) -> bool:
    """Whether a database of this revision must be migrated. Errors: StoreError if it is newer than this program."""
    script = ScriptDirectory(str(_MIGRATIONS))
    if current is not None and current not in {revision.revision for revision in script.walk_revisions()}:
        raise StoreError(f"{place} has schema {current}, which is newer than this tropism", "upgrade tropism")
    return current != script.get_current_head()


class _LockWaitError(Exception):
    """BEGIN IMMEDIATE was not granted before the deadline."""


def _engine(path: Path) -> Engine:
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=str(path)),  # not a string: a folder may have ? or % in its name
        json_serializer=lambda value: canonical_json(value).decode(),  # refuses NaN, which JSON cannot hold
        pool_timeout=30,
        connect_args={"timeout": _BUSY_SLICE_MS / 1000},
    )

    @sa.event.listens_for(engine, "connect")
    def _on_connect(raw: sqlite3.Connection, _record: Any) -> None:
        raw.isolation_level = None  # the driver must not begin or commit on its own: DDL belongs inside transactions
        _patiently(raw, "PRAGMA journal_mode=WAL")
        raw.execute("PRAGMA synchronous=FULL")
        raw.execute("PRAGMA foreign_keys=ON")
        raw.execute("PRAGMA secure_delete=ON")  # an erased name must not linger in a free page
        raw.execute("PRAGMA recursive_triggers=ON")  # else INSERT OR REPLACE would delete past the append-only triggers

    @sa.event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get("tropism_begin", "BEGIN"))

    return engine


def _patiently(raw: sqlite3.Connection, statement: str, timeout_s: float = 10.0) -> None:
    """Run a pragma, waiting out the moments in which SQLite answers busy at once (switching to WAL, recovery)."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            raw.execute(statement)
            return
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


@contextmanager
def _begin(engine: Engine, timeout_s: float, path: Path) -> Iterator[Connection]:
    """One BEGIN IMMEDIATE transaction, asked for again and again until ``timeout_s`` has passed."""
    deadline = time.monotonic() + timeout_s
    with engine.connect().execution_options(tropism_begin="BEGIN IMMEDIATE") as connection:
        while True:
            try:
                transaction = connection.begin()
                break
            except sa.exc.OperationalError as error:
                connection.rollback()
                if not is_busy(error.orig):
                    raise
                if time.monotonic() >= deadline:
                    raise _LockWaitError(str(path)) from error
                time.sleep(random.uniform(0.001, 0.01))  # two waiters must not stay in step
        with transaction:
            yield connection


def _checkpoint(engine: Engine) -> None:
    raw = engine.raw_connection()  # without SQLAlchemy's BEGIN: a checkpoint cannot run inside a transaction
    try:
        raw.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        raw.close()


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _writable(path: Path) -> bool:
    effective = os.access in os.supports_effective_ids  # permissions are those of the effective user
    return all(os.access(place, os.W_OK, effective_ids=effective) for place in (path, path.parent))
