"""The study's database: opening, migrating, reading, and writing by one writer at a time.

SQLite in WAL mode. Writes begin IMMEDIATE: a deferred transaction that upgrades from read to write fails at once,
whatever the busy time-out, when another process has committed in between. Migrations run inside one such transaction,
so a killed migration leaves the older schema whole. Left out: a PostgreSQL server (schema and triggers are portable).
"""

from __future__ import annotations

import os
import random
import shutil
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
from tropism.store import schema

_MIGRATIONS = Path(__file__).parent / "migrations"
_LITTLE = 1 << 17
"""Bytes of free space with which SQLite's I/O errors mean a full disk."""
_BUSY_SLICE_MS = 250  # SQLite's own wait; the loop around it keeps the deadline and the fairness


class BusyError(StoreError):
    """Another process kept the database locked for longer than the writer was willing to wait."""


class Database:
    """One study.db. Threads share an instance; processes open their own.

    ``timeout_s`` bounds every wait for the write lock.
    """

    def __init__(self, path: Path, engine: Engine, timeout_s: float) -> None:
        self.path = path
        self.engine = engine
        self.timeout_s = timeout_s
        self._writer = threading.Lock()
        self._writing_thread: int | None = None

    @classmethod
    def create(cls, path: Path, timeout_s: float = 30.0) -> Database:
        """Make a new study database. It appears under ``path`` only when it is complete, so a kill leaves none.

        Errors: StoreError if ``path`` exists or the folder is missing, read-only or full.
        """
        if path.exists():
            raise StoreError(f"{path} exists already", "open it, or choose another folder")
        if not path.parent.is_dir():
            raise StoreError(f"folder {path.parent} does not exist", "make the folder first")
        with _as_store_error(path):
            for left in path.parent.glob(f".{path.name}.new-*"):  # of creations that were killed
                if time.time() - left.stat().st_mtime > 600:
                    left.unlink()
        partial = path.parent / f".{path.name}.new-{os.getpid()}-{threading.get_ident()}"
        try:
            engine = _engine(partial)
            with _as_store_error(path):
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
    def open(cls, path: Path, timeout_s: float = 30.0) -> Database:
        """Open an existing study database, migrating an older one first.

        Errors: StoreError if it is missing, no study, of a newer schema, damaged, read-only, or the disk is full.
        """
        if not path.is_file():
            raise StoreError(f"{path} does not exist", "give a study's folder, or make one with `tropism new`")
        if path.stat().st_size == 0:
            raise StoreError(f"{path} is empty, not a study's database", "delete it and run the command again")
        engine = _engine(path)
        database = cls(path, engine, timeout_s)
        try:
            with _as_store_error(path):
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

    def _migrate(self, current: str | None) -> None:
        script = ScriptDirectory(str(_MIGRATIONS))
        known = {revision.revision for revision in script.walk_revisions()}
        if current is not None and current not in known:
            raise StoreError(f"{self.path} has schema {current}, which is newer than this tropism", "upgrade tropism")
        if current != script.get_current_head():
            with self.write() as connection:
                _upgrade(connection)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A consistent snapshot to read from; it blocks no writer."""
        with _as_store_error(self.path), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self, timeout_s: float | None = None) -> Iterator[Connection]:
        """The write transaction: BEGIN IMMEDIATE, commit at the end of the block, roll back on any error.

        Errors: BusyError, naming who holds the database, if the lock is not had within ``timeout_s``; StoreError if
        the disk is full or read-only.
        """
        timeout_s = self.timeout_s if timeout_s is None else timeout_s
        if self._writing_thread == threading.get_ident():
            raise RuntimeError("write() inside write(): pass the connection on instead")
        deadline = time.monotonic() + timeout_s
        if not self._writer.acquire(timeout=timeout_s):
            raise self._busy(timeout_s, "another thread of this process")
        try:
            self._writing_thread = threading.get_ident()
            with _as_store_error(self.path):
                try:
                    with _begin(self.engine, max(deadline - time.monotonic(), 0.0), self.path) as connection:
                        yield connection
                except _LockWaitError as error:
                    raise self._busy(timeout_s, self._blame()) from error
        finally:
            self._writing_thread = None
            self._writer.release()

    def checkpoint(self) -> None:
        """Bring the write-ahead log into the file and empty it, as far as readers allow: erased bytes are gone then."""
        with _as_store_error(self.path):
            _checkpoint(self.engine)

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()

    def _busy(self, timeout_s: float, who: str) -> BusyError:
        return BusyError(
            f"{self.path} stayed locked for {timeout_s:g} s by {who}", "wait for that process, or end it, and try again"
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
            if not _is_busy(error) or time.monotonic() > deadline:
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
                if not _is_busy(error.orig):
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


def _is_busy(error: BaseException | None) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte covers BUSY_SNAPSHOT and BUSY_RECOVERY
    return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


@contextmanager
def _as_store_error(path: Path) -> Iterator[None]:
    """Turn the driver's and the system's errors about the file itself into a StoreError with a fix."""
    try:
        yield
    except (sa.exc.OperationalError, sa.exc.DatabaseError, sqlite3.DatabaseError, OSError) as error:
        known = _explain(path, error.orig if isinstance(error, sa.exc.DBAPIError) else error)
        if known is None:
            raise
        raise known from error


def _explain(path: Path, error: BaseException | None) -> StoreError | None:
    text = str(error).lower()
    if "disk is full" in text or "no space left" in text or "quota exceeded" in text:
        return StoreError(f"the disk that holds {path} is full", "free some space; nothing was half written")
    if "readonly" in text or "read-only" in text or "permission denied" in text:
        return StoreError(f"{path} or its folder is read-only", "give write permission to the study's folder")
    if "disk i/o error" in text:
        if shutil.disk_usage(path.parent).free < _LITTLE:  # the shared index of the write-ahead log found no room
            return StoreError(f"the disk that holds {path} is full", "free some space; nothing was half written")
        return StoreError(f"reading or writing {path} failed ({error})", "check the disk, its free space and its mount")
    if "unable to open" in text:
        return StoreError(f"{path} cannot be opened ({error})", "check the folder, its permissions and its free space")
    if "malformed" in text or "not a database" in text:
        return StoreError(f"{path} is damaged or not a database ({error})", "restore it from a copy")
    if _is_busy(error):
        return BusyError(f"{path} is locked by another process", "wait for that process, or end it, and try again")
    return None


def _writable(path: Path) -> bool:
    effective = os.access in os.supports_effective_ids  # permissions are those of the effective user
    return all(os.access(place, os.W_OK, effective_ids=effective) for place in (path, path.parent))
