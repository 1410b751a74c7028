"""A study on a PostgreSQL server: the same schema and triggers, made once, found again; what goes wrong is said."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from databases import new_address, new_database
from tropism.errors import StoreError
from tropism.store import schema, server
from tropism.store.database import BusyError, Database

COUNT_UP = """
import sys
import sqlalchemy as sa
from tropism.store import schema
from tropism.store.database import Database
database = Database.open(sys.argv[1])
for _ in range(25):
    with database.write() as connection:
        n = connection.execute(sa.select(schema.artifacts.c.bytes)).scalar_one()
        connection.execute(sa.update(schema.artifacts).values(bytes=n + 1))
"""


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with new_database("postgresql", tmp_path) as made:
        yield made


@pytest.fixture
def url() -> Iterator[str]:
    with new_address(template=False) as made:
        yield made


def test_migrated_database_agrees_with_schema(database: Database) -> None:
    plain = sa.create_engine("sqlite://")
    schema.metadata.create_all(plain)
    wanted = sa.inspect(plain)
    with database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []
        inspector = sa.inspect(connection)
        assert set(inspector.get_table_names()) == set(schema.metadata.tables) | {"alembic_version"}
        for table in schema.metadata.sorted_tables:
            checks = [{c["name"] for c in of.get_check_constraints(table.name)} for of in (inspector, wanted)]
            assert checks[0] == checks[1]
        triggers = set(connection.exec_driver_sql("SELECT tgname FROM pg_trigger WHERE NOT tgisinternal").scalars())
    kept = {f"{table}_{kind}" for table in schema.APPEND_ONLY for kind in ("append_only", "no_truncate")}
    assert triggers == kept | {"events_hold_place"}


@pytest.mark.parametrize("table", ["audit", "event_sets"])
def test_append_only_tables_refuse_changes(database: Database, table: str) -> None:
    rows = {
        "audit": {"at": 0.0, "action": "log in", "object": "", "detail": {}},
        "event_sets": {"id": "s", "count": 1, "created_at": 0.0},
    }
    with database.write() as connection:
        connection.execute(sa.insert(schema.metadata.tables[table]).values(rows[table]))
    column = next(iter(schema.metadata.tables[table].columns)).name
    for statement in (f"UPDATE {table} SET {column} = {column}", f"DELETE FROM {table}", f"TRUNCATE {table} CASCADE"):
        with pytest.raises(sa.exc.DBAPIError, match=f"{table} is append-only"), database.write() as connection:
            connection.exec_driver_sql(statement)


def test_a_study_is_made_on_a_server_and_found_there(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(server.VARIABLE, url)
    made = Database.create(tmp_path / "study.db")
    with made.write() as connection:
        connection.execute(sa.insert(schema.tasks).values(id="t", split="train", payload={"x": 1}))
    made.close()
    assert [path.name for path in tmp_path.iterdir()] == ["study.url"]
    assert (tmp_path / "study.url").stat().st_mode & 0o777 == 0o600
    with pytest.raises(StoreError, match="exists already"):
        Database.create(tmp_path / "study.db")
    (tmp_path / "other").mkdir()
    with pytest.raises(StoreError, match="holds a study already") as caught:
        Database.create(tmp_path / "other" / "study.db")
    assert server.VARIABLE in caught.value.fix
    monkeypatch.delenv(server.VARIABLE)
    for place in (tmp_path / "study.db", url):
        again = Database.open(place)
        assert again.is_server
        with again.read() as connection:
            assert connection.execute(sa.select(schema.tasks.c.payload)).scalar_one() == {"x": 1}
        again.close()


def test_a_study_whose_making_was_killed_can_be_made_again(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Database.open(url).close()
    monkeypatch.setenv(server.VARIABLE, url)
    Database.create(tmp_path / "study.db").close()
    assert (tmp_path / "study.url").read_text().strip() == url


def test_several_processes_open_an_empty_database_at_once(url: str) -> None:
    opening = "import sys; from tropism.store.database import Database; Database.open(sys.argv[1])"
    started = [subprocess.Popen([sys.executable, "-c", opening, url]) for _ in range(3)]
    assert [process.wait(60) for process in started] == [0, 0, 0]


def test_foreign_and_newer_databases_are_refused(database: Database, url: str) -> None:
    engine = server.make_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE birds (name TEXT)")
    engine.dispose()
    with pytest.raises(StoreError, match=r"no study's \(birds") as caught:
        Database.open(url)
    assert "createdb" in caught.value.fix
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreError, match="schema 9999, which is newer"):
        Database.open(database.path)


def test_what_cannot_be_reached_is_said_without_the_password(database: Database) -> None:
    there = database.engine.url
    absent = there.set(database="absent").render_as_string(hide_password=False)
    with pytest.raises(StoreError, match="no such database"):
        Database.open(absent)
    with pytest.raises(StoreError, match="connection to the server broke") as caught:
        Database.open("postgresql://me:secret@127.0.0.1:1/study")
    assert "secret" not in str(caught.value)
    with pytest.raises(StoreError, match="no address"):
        server.make_engine("mysql://me@host/study")
    with pytest.raises(StoreError, match="names no database"):
        server.make_engine("postgresql://me@host")


def test_writers_wait_for_one_another_and_lose_nothing(database: Database) -> None:
    with database.write() as connection:
        connection.execute(sa.insert(schema.artifacts).values(digest="n", kind="count", bytes=0, created_at=0.0))
    where = database.engine.url.render_as_string(hide_password=False)
    started = [subprocess.Popen([sys.executable, "-c", COUNT_UP, where]) for _ in range(4)]
    assert [process.wait(120) for process in started] == [0] * 4
    with database.read() as connection:
        assert connection.execute(sa.select(schema.artifacts.c.bytes)).scalar_one() == 100


def test_a_held_database_is_a_busy_error(database: Database) -> None:
    other = Database.open(database.path)
    with other.write(), pytest.raises(BusyError, match="stayed locked"), database.write(timeout_s=0.3):
        pass
    with database.write() as connection:  # and afterwards all is well
        connection.execute(sa.insert(schema.tasks).values(id="t", split="train", payload={}))
    other.close()


def test_a_reader_sees_one_state_and_cannot_write(database: Database) -> None:
    with database.read() as reading:
        assert reading.execute(sa.select(schema.tasks.c.id)).all() == []
        with database.write() as connection:
            connection.execute(sa.insert(schema.tasks).values(id="t", split="train", payload={}))
        assert reading.execute(sa.select(schema.tasks.c.id)).all() == []
    with pytest.raises(StoreError, match="read-only"), database.read() as reading:
        reading.execute(sa.insert(schema.tasks).values(id="u", split="train", payload={}))


def test_a_broken_connection_is_replaced(database: Database) -> None:
    with database.read() as connection:
        connection.exec_driver_sql("SELECT 1")
    admin = server.make_engine(database.engine.url.render_as_string(hide_password=False))
    with admin.connect() as connection:
        ended = connection.exec_driver_sql(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).scalar_one()
    admin.dispose()
    assert ended >= 1
    with database.write() as connection:
        connection.execute(sa.insert(schema.tasks).values(id="t", split="train", payload={}))


def test_threads_share_a_database(database: Database) -> None:
    failures: list[BaseException] = []

    def write(i: int) -> None:
        try:
            with database.write() as connection:
                connection.execute(sa.insert(schema.tasks).values(id=f"t{i}", split="train", payload={}))
        except BaseException as error:  # noqa: BLE001 - reported by the main thread
            failures.append(error)

    threads = [threading.Thread(target=write, args=(i,)) for i in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    with database.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(schema.tasks)).scalar_one() == 40
