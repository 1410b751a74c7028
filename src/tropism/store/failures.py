"""What databases and disks answer when they cannot, as errors that say what to do about it.

Left out: what a statement did wrong (a constraint, a value): that is for whoever wrote the statement.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from tropism.errors import StoreError

_LITTLE = 1 << 17
"""Bytes of free space with which SQLite's I/O errors mean a full disk."""


class BusyError(StoreError):
    """Another process kept the database locked for longer than the writer was willing to wait."""


def is_busy(error: BaseException | None) -> bool:
    """Whether SQLite says that somebody else holds the lock."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte covers BUSY_SNAPSHOT and BUSY_RECOVERY
    return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


@contextmanager
def as_store_error(place: Path | str) -> Iterator[None]:
    """Turn the driver's and the system's errors about the database itself into a StoreError with a fix.

    ``place``: the file, or the server's address without its password.
    """
    try:
        yield
    except (sa.exc.DBAPIError, sqlite3.DatabaseError, OSError) as error:
        known = _explain(place, error.orig if isinstance(error, sa.exc.DBAPIError) else error)
        if known is None:
            raise
        raise known from error
    except sa.exc.TimeoutError as error:
        raise BusyError(f"no connection to {place} became free", "let fewer threads use it at once") from error
    except Exception as error:
        known = _explain_server(str(place), error)  # the driver's own, of statements that SQLAlchemy did not build
        if known is None:
            raise
        raise known from error


def _explain(place: Path | str, error: BaseException | None) -> StoreError | None:
    return _explain_server(place, error) if isinstance(place, str) else _explain_file(place, error)


def _explain_file(path: Path, error: BaseException | None) -> StoreError | None:
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
    if is_busy(error):
        return BusyError(f"{path} is locked by another process", "wait for that process, or end it, and try again")
    return None


# the first two characters are a class of errors: https://www.postgresql.org/docs/current/errcodes-appendix.html
_SERVER = {
    "28": (
        "the server refused the user or the password",
        "check the address in study.url, and the password in PGPASSWORD, ~/.pgpass or TROPISM_DATABASE_URL",
    ),
    "3D": ("there is no such database on the server", "make it with createdb, or check the address in study.url"),
    "53100": ("the server's disk is full", "free some space there; nothing was half written"),
    "53": ("the server is out of resources", "raise its max_connections or its memory, or start fewer processes"),
    "57": ("the server is stopping, or ended this connection", "wait until it is back and try again"),
    "58": ("the server could not read or write its files", "look at its log and its disk"),
    "25006": ("the server's database is read-only", "give the address of the primary server"),
    "42501": ("the user may not do this on the server", "let the study's user own the database"),
    "08": ("the connection to the server broke", "check that it runs and can be reached, and try again"),
}


def _why_not_connected(text: str) -> str:
    """The class of an error while connecting, of which libpq gives the words alone."""
    if 'database "' in text and "does not exist" in text:
        return "3D"
    refused = ("authentication failed", "no password supplied", 'role "')
    return "28" if any(words in text for words in refused) else "08"


def _explain_server(place: str, error: BaseException | None) -> StoreError | None:
    state = getattr(error, "sqlstate", None)
    if state in ("55P03", "57014"):  # lock_not_available, query_canceled
        return BusyError(f"{place} stayed locked by another process", "wait for it, or end it, and try again")
    if state is None and type(error).__module__.startswith("psycopg") and type(error).__name__ == "OperationalError":
        state = _why_not_connected(str(error))
    known = next((_SERVER[key] for key in (state, (state or "")[:2]) if key in _SERVER), None)
    if known is None or state is None:
        return None
    problem, fix = known
    return StoreError(f"{place}: {problem} ({' '.join(str(error).split())})", fix)
