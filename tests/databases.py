"""Study databases for tests that hold for every database.

A PostgreSQL server is started once in a test process, by the project's own script, where its programs are installed;
``TROPISM_TEST_POSTGRES`` names another one, by the address of a database whose user may make databases.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import sqlalchemy as sa

from tropism.store.database import Database
from tropism.store.server import make_engine, note_address

DATABASES = ("sqlite", "postgresql")
"""What ``new_database`` can make."""
_watching: list[subprocess.Popen[bytes]] = []  # kept, so that their pipes stay open
SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "postgres.sh"


@contextmanager
def new_database(kind: str, folder: Path) -> Iterator[Database]:
    """A fresh study database of this kind; ``folder / "study.db"`` opens it, in other processes too."""
    if kind == "sqlite":
        made = Database.create(folder / "study.db")
        try:
            yield made
        finally:
            made.close()
        return
    with new_address() as url:
        note_address(folder / "study.db", url)
        made = Database.open(folder / "study.db")
        try:
            yield made
        finally:
            made.close()


@contextmanager
def new_address(template: bool = True) -> Iterator[str]:
    """The address of a fresh database on the server: of a study, or an empty one."""
    admin = _server()
    name = f"t_{uuid.uuid4().hex}"
    _admin(admin, f"CREATE DATABASE {name}" + (f" TEMPLATE {_template(admin)}" if template else ""))
    try:
        yield sa.make_url(admin).set(database=name).render_as_string(hide_password=False)
    finally:
        _admin(admin, f"DROP DATABASE {name} WITH (FORCE)")


@cache
def _server() -> str:
    """The address of a server's own database. Skips the test where there is no server to be had."""
    if find_spec("psycopg") is None:
        pytest.skip('psycopg is not installed (pip install "tropism[postgres]")')
    if given := os.environ.get("TROPISM_TEST_POSTGRES"):
        if password := sa.make_url(given).password:  # study.url holds none
            os.environ.setdefault("PGPASSWORD", password)
        return given
    if not list(Path("/usr/lib/postgresql").glob("*/bin/initdb")):
        pytest.skip("PostgreSQL is not installed (scripts/install_debian.sh postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="tropism-pg-"))
    folder.chmod(0o755)  # the server's user must be able to enter
    fast = ["-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off"]  # durability has its tests
    done = subprocess.run(
        [SCRIPT, "start", folder / "pg", *fast], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    # ends with this process, however that ends: the pipe is closed then
    stop = 'cat > /dev/null; "$1" stop "$2/pg"; rm -rf "$2"'
    _watching.append(
        subprocess.Popen(["bash", "-c", stop, "stop", SCRIPT, folder], stdin=subprocess.PIPE, start_new_session=True)
    )
    return done.stdout.strip()


@cache
def _template(admin: str) -> str:
    """A migrated database to copy: migrating each would take a second."""
    name = f"template_{uuid.uuid4().hex}"
    _admin(admin, f"CREATE DATABASE {name}")
    Database.open(sa.make_url(admin).set(database=name).render_as_string(hide_password=False)).close()
    return name


def _admin(url: str, statement: str) -> None:
    engine = make_engine(url)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(statement)
    engine.dispose()
