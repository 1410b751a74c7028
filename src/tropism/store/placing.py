"""Where a study's database is, decided after the study was made: on a server, from now on, for every command.

A study is made with a file, study.db. As long as nothing is in it, ``tropism studio DIR --database-url URL`` puts the
study on a server instead: ``study.url`` then stands in the file's place, so that a run started later looks at the same
store. Left out: moving what is in the file already, which a backup and a restore do.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from tropism.errors import StoreError
from tropism.store import schema, server
from tropism.store.database import Database
from tropism.store.failures import as_store_error


def place_on_server(folder: Path, url: str) -> str:
    """Make a server's database the study's, for good; returns what to tell whoever asked, or "" where it was so before.

    Errors: StoreError if the folder is no study, the study is elsewhere already, or the database cannot be used.
    """
    path = folder / "study.db"
    if not (folder / "study.toml").is_file():
        raise StoreError(f"{folder} is no study (it has no study.toml)", f"tropism new {folder} --recipe NAME")
    if not server.is_address(url):
        raise StoreError("--database-url is no address of a PostgreSQL server", "give postgresql://USER@HOST/NAME")
    address = server.without_password(url)
    noted = server.address_beside(path)
    if noted is not None and not path.exists():
        before = server.without_password(noted)
        if before != address:
            raise StoreError(
                f"{folder} has its database at {before}, not at {address}",
                "leave --database-url out; where the server has moved, change the line in study.url",
            )
        return ""
    if path.exists() and _in_use(path):
        raise StoreError(
            f"{path} holds this study's data, which {address} would not have",
            f"leave --database-url out, or move it: tropism backup {folder} COPY, "
            "then tropism restore COPY NEW --database-url URL",
        )
    Database.open(url).close()  # before anything is noted: it is there, and a study's
    with as_store_error(path):
        server.note_address(path, url)
        for suffix in ("", "-wal", "-shm"):  # an empty study's; after the note, so that a kill leaves one of the two
            Path(f"{path}{suffix}").unlink(missing_ok=True)
    said = f"{folder / 'study.url'} names {address} now; every command on {folder} uses it"
    if server.has_password(url):
        said += f". The password is not written down: give it in PGPASSWORD, ~/.pgpass or {server.VARIABLE}"
    return said


def _in_use(path: Path) -> bool:
    """Whether a study's file holds anything, or a process that trains holds it."""
    database = Database.open(path)
    try:
        with database.write() as connection:
            held = connection.execute(sa.select(schema.lease.c.token)).first() is not None
            return held or not server.is_untouched(connection)
    finally:
        database.close()
