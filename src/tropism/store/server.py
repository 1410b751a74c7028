"""A study's database on a PostgreSQL server, for a team: its address, its engine, and making it a study's.

A study folder whose database is on a server holds ``study.url``, one line, readable by its owner alone, in the place of
study.db; every command finds it there. One database of the server holds one study. No password is ever written: a study
folder is copied, backed up and shared. libpq finds it where it always looks (``PGPASSWORD``, ``~/.pgpass``), or it
comes with the whole address in the environment (``VARIABLE``).

Left out: making databases and users on the server, and SSL files, which libpq takes from the address.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from tropism.digests import canonical_json
from tropism.errors import StoreError
from tropism.files import sync_path

VARIABLE = "TROPISM_DATABASE_URL"
"""Set while a study is made, it puts the study's database on a server; later it brings that address's password."""
CONNECTIONS = 16
"""Connections that one process keeps at most."""
_SECRETS = ("password", "sslpassword")
"""What libpq also takes in an address's query, and nobody should read."""
_LOCK = 0x54524F50
"""The advisory lock of ``Database.write``: one writer at a time in a study's database, as in a file."""


def is_address(text: str) -> bool:
    """Whether a text is meant as the address of a server."""
    return text.startswith(("postgresql://", "postgres://", "postgresql+psycopg://"))


def address_beside(path: Path) -> str | None:
    """The address in ``study.url`` beside where ``study.db`` would be, if there is one; with the password of the
    environment's address where that is the same one."""
    file = path.with_suffix(".url")
    if not file.is_file():
        return None
    address = file.read_text("utf-8").strip()
    given = os.environ.get(VARIABLE, "")
    return given if is_address(given) and without_password(given) == without_password(address) else address


def note_address(path: Path, url: str) -> None:
    """Write ``study.url``, without the address's password."""
    file = path.with_suffix(".url")
    partial = file.with_name(f".{file.name}.new-{os.getpid()}")
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as writing:
        writing.write(f"{without_password(url)}\n")
    sync_path(partial)
    partial.rename(file)
    sync_path(file.parent)


def without_password(url: str) -> str:
    """The address as it may be written down: whoever uses it brings the password. Errors: StoreError if it is none."""
    parsed = _parsed(url)
    query = {name: value for name, value in parsed.query.items() if name not in _SECRETS}
    parts = (parsed.username, None, parsed.host, parsed.port, parsed.database)
    return sa.URL.create("postgresql", *parts, query).render_as_string(hide_password=False)


def has_password(url: str) -> bool:
    """Whether an address carries a password."""
    parsed = _parsed(url)
    return parsed.password is not None or any(name in parsed.query for name in _SECRETS)


def make_engine(url: str, ping: bool = True) -> Engine:
    """An engine for an address. ``ping``: a connection that rested is tried before it is used, which costs a question
    to the server each time. Errors: StoreError if it is none of a PostgreSQL server, or psycopg is missing."""
    if not is_address(url):
        kind = url.partition("//")[0][:40]  # not all of it: it may hold a password
        raise StoreError(f"{kind!r} begins no address of a PostgreSQL server", "give postgresql://USER@HOST/NAME")
    try:
        import psycopg  # noqa: F401 - an optional dependency
    except ImportError as error:
        raise StoreError("psycopg is not installed", 'pip install "tropism[postgres]"') from error
    parsed = _parsed(url)
    if not parsed.database:
        raise StoreError(f"{without_password(url)} names no database", "give postgresql://USER@HOST/NAME")
    return sa.create_engine(
        parsed.set(drivername="postgresql+psycopg"),
        json_serializer=lambda value: canonical_json(value).decode(),  # refuses NaN, which JSON cannot hold
        pool_size=CONNECTIONS,
        max_overflow=0,  # whoever asks for more waits for a connection, and does not burden the server
        pool_timeout=30,
        pool_pre_ping=ping,  # a server that was started anew is no error
        connect_args=_options(parsed),
    )


def _parsed(url: str) -> sa.URL:
    """The address's parts. Errors: StoreError, which does not repeat it: it may hold a password."""
    try:
        return sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError) as error:  # no address; a port that is no number
        raise StoreError("the database's address cannot be read", "give postgresql://USER@HOST/NAME") from error


def _options(url: sa.URL) -> dict[str, Any]:
    """How to connect; every wait has its end, unless the address says otherwise."""
    options: dict[str, Any] = {"application_name": "tropism", "connect_timeout": 10}
    if "options" not in url.query:
        options["options"] = "-c lock_timeout=60s"
    return options


def check_foreign(connection: Connection) -> bool:
    """Whether the database is empty. Errors: StoreError if it holds tables, but no study's."""
    tables = set(sa.inspect(connection).get_table_names())
    if tables and not {"alembic_version", "events", "lease"} <= tables:
        raise StoreError(
            f"database {connection.engine.url.database} holds tables that are no study's ({min(tables)}, …)",
            "give the study a database of its own: createdb NAME",
        )
    return not tables


def is_untouched(connection: Connection) -> bool:
    """Whether a study's database holds nothing yet: it may have been made for a study whose making was killed."""
    return not any(
        connection.exec_driver_sql(f"SELECT 1 FROM {table} LIMIT 1").first()
        for table in ("tasks", "stages", "events", "accounts", "teachers")
    )


def take_turn(connection: Connection, timeout_s: float) -> None:
    """Wait for the study's write lock, which the transaction's end gives back."""
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = {max(1, int(timeout_s * 1000))}")
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")


def vacuum(engine: Engine, tables: tuple[str, ...]) -> None:
    """Write tables anew without what was deleted from them. The server's log and its backups may hold it still."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for table in tables:
            connection.exec_driver_sql(f"VACUUM (FULL) {table}")


@contextmanager
def snapshot(engine: Engine) -> Iterator[Connection]:
    """A read-only transaction that sees one state of the database."""
    options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    with engine.connect().execution_options(**options) as connection, connection.begin():
        yield connection
