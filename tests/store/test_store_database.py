"""The study database: creation, migration, locking, and what happens when the disk or another process is in the way."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from tropism.errors import StoreError
from tropism.store import schema
from tropism.store.database import BusyError, Database

KILLED_MIDWAY = """
import os, signal, sys
from pathlib import Path
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from tropism.store.database import Database
left = int(sys.argv[3])

@sa.event.listens_for(Engine, "after_cursor_execute")
def count(*_):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

getattr(Database, sys.argv[1])(Path(sys.argv[2]))
"""


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database.create(tmp_path / "study.db")
    yield made
    made.close()


def add_task(database: Database, id: str, split: str = "train") -> None:
    with database.write() as connection:
        connection.execute(sa.insert(schema.tasks).values(id=id, split=split, payload={"prompt": id}))


def task_ids(database: Database) -> set[str]:
    with database.read() as connection:
        return set(connection.execute(sa.select(schema.tasks.c.id)).scalars())


def differences(database: Database) -> list[object]:
    with database.read() as connection:
        return compare_metadata(MigrationContext.configure(connection), schema.metadata)


def trigger_names(database: Database) -> set[str]:
    with database.read() as connection:
        return set(connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'").scalars())


def test_migrated_database_agrees_with_schema(database: Database) -> None:
    assert differences(database) == []
    with database.read() as connection:
        assert set(sa.inspect(connection).get_table_names()) == set(schema.metadata.tables) | {"alembic_version"}
    expected = {f"{table}_no_{action}" for table in schema.APPEND_ONLY for action in ("update", "delete")}
    assert trigger_names(database) == expected


def test_constraints_of_the_migration_are_those_of_the_schema(database: Database) -> None:
    """What Alembic's comparison does not look at: checks, partial indexes, autoincrement."""
    made = sa.create_engine("sqlite://")
    schema.metadata.create_all(made)
    with made.connect() as plain, database.read() as migrated:
        for table in schema.metadata.tables:
            wanted, found = ((sa.inspect(c).get_check_constraints(table), indexes(c, table)) for c in (plain, migrated))
            assert found == wanted
        tables = "SELECT name FROM sqlite_master WHERE sql LIKE '%AUTOINCREMENT%' ORDER BY name"
        assert migrated.exec_driver_sql(tables).scalars().all() == plain.exec_driver_sql(tables).scalars().all()
        assert len(sa.inspect(plain).get_check_constraints("policies")) == 1


def indexes(connection: sa.Connection, table: str) -> list[str]:
    statement = "SELECT sql FROM sqlite_master WHERE type = 'index' AND tbl_name = ? AND sql IS NOT NULL ORDER BY name"
    return list(connection.exec_driver_sql(statement, (table,)).scalars())


def test_what_is_written_is_there_after_opening_again(tmp_path: Path) -> None:
    made = Database.create(tmp_path / "study.db")
    add_task(made, "t1")
    made.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["study.db"]
    again = Database.open(tmp_path / "study.db")
    assert task_ids(again) == {"t1"}
    with again.read() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")
        }
        assert pragmas == {"journal_mode": "wal", "synchronous": 2}
        for name in ("foreign_keys", "secure_delete", "recursive_triggers"):
            assert connection.exec_driver_sql(f"PRAGMA {name}").scalar() == 1
    again.close()


def test_odd_folder_names_are_taken_as_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "a ?mode=ro&%20 #1 é"
    folder.mkdir()
    made = Database.create(folder / "study.db")
    add_task(made, "t1")
    made.close()
    assert task_ids(Database.open(folder / "study.db")) == {"t1"}


def test_creating_over_a_study_is_refused(database: Database) -> None:
    add_task(database, "t1")
    with pytest.raises(StoreError, match="exists already"):
        Database.create(database.path)
    assert task_ids(database) == {"t1"}


@pytest.mark.parametrize("table", schema.APPEND_ONLY)
def test_append_only_tables_refuse_changes(database: Database, table: str) -> None:
    rows = {
        "seals": {"seq": 1, "digest": "d", "previous": "p", "members_digest": "m", "count": 1, "created_at": 0.0},
        "events": {"id": "e", "digest": "d", "kind": "erasure", "teacher_id": "o", "target": "", "value": {},
                   "origin": "", "created_at": 0.0},
        "seal_members": {"seal": 1, "position": 0, "event_id": "e"},
        "event_sets": {"id": "s", "count": 1, "created_at": 0.0},
        "event_set_members": {"event_set_id": "s", "event_id": "e"},
        "audit": {"at": 0.0, "action": "log in", "object": "", "detail": {}},
    }  # fmt: skip
    with database.write() as connection:
        connection.execute(sa.insert(schema.teachers).values(id="o", kind="oracle", created_at=0.0))
        for name, row in sorted(rows.items(), key=lambda item: schema.APPEND_ONLY.index(item[0])):
            connection.execute(sa.insert(schema.metadata.tables[name]).values(row))
    column = next(iter(schema.metadata.tables[table].columns)).name
    for statement in (f"UPDATE {table} SET {column} = {column}", f"DELETE FROM {table}"):
        with pytest.raises(sa.exc.IntegrityError, match=f"{table} is append-only"), database.write() as connection:
            connection.exec_driver_sql(statement)
    with database.read() as connection:
        row = connection.exec_driver_sql(f"SELECT * FROM {table}").one()
    places = ", ".join("?" * len(row))
    with pytest.raises(sa.exc.IntegrityError), database.write() as connection:  # REPLACE deletes what is in its way
        connection.exec_driver_sql(f"INSERT OR REPLACE INTO {table} VALUES ({places})", tuple(row))


def test_missing_empty_and_foreign_files_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        Database.open(tmp_path / "study.db")
    (tmp_path / "empty.db").touch()
    with pytest.raises(StoreError, match="is empty"):
        Database.open(tmp_path / "empty.db")
    with sqlite3.connect(tmp_path / "other.db") as other:
        other.execute("CREATE TABLE birds (name TEXT)")
    with pytest.raises(StoreError, match="not a study"):
        Database.open(tmp_path / "other.db")
    (tmp_path / "text.db").write_text("this is a letter, not a database. " * 100)
    with pytest.raises(StoreError, match="not a database"):
        Database.open(tmp_path / "text.db")
    with pytest.raises(StoreError, match="does not exist"):
        Database.create(tmp_path / "nowhere" / "study.db")


def test_newer_schema_is_refused(database: Database) -> None:
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreError, match="schema 9999, which is newer") as caught:
        Database.open(database.path)
    assert "upgrade" in caught.value.fix


@pytest.mark.parametrize("statements", [2, 40])
def test_kill_inside_creation_leaves_no_study(tmp_path: Path, statements: int) -> None:
    path = tmp_path / "study.db"
    done = subprocess.run([sys.executable, "-c", KILLED_MIDWAY, "create", path, str(statements)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not path.exists()
    made = Database.create(path)
    assert differences(made) == []


@pytest.mark.parametrize("statements", [9, 44])
def test_kill_inside_migration_leaves_the_older_schema_whole(tmp_path: Path, statements: int) -> None:
    path = tmp_path / "study.db"
    with sqlite3.connect(path) as older:  # a study from before the first revision
        older.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
    done = subprocess.run([sys.executable, "-c", KILLED_MIDWAY, "open", path, str(statements)], check=False)
    assert done.returncode == -signal.SIGKILL
    with sqlite3.connect(path) as older:
        assert older.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    opened = Database.open(path)
    assert differences(opened) == []
    assert len(trigger_names(opened)) == 2 * len(schema.APPEND_ONLY)


def test_a_study_of_an_earlier_revision_is_brought_up_to_date_with_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    made = Database.create(path)
    add_task(made, "t1")
    made.close()
    with sqlite3.connect(path) as older:  # as revision 0003 left it
        older.execute("DROP TABLE looked")
        older.execute("UPDATE alembic_version SET version_num = '0003'")
    opened = Database.open(path)
    assert differences(opened) == []
    assert task_ids(opened) == {"t1"}
    opened.close()


def test_error_rolls_back_and_frees_the_lock(database: Database) -> None:
    def fail_midway() -> None:
        with database.write() as connection:
            connection.execute(sa.insert(schema.tasks).values(id="t1", split="train", payload={}))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_midway()
    assert task_ids(database) == set()
    add_task(database, "t2")
    assert task_ids(database) == {"t2"}


def test_nested_write_is_refused_at_once(database: Database) -> None:
    with database.write(), pytest.raises(RuntimeError, match="inside write"), database.write():
        pass


def test_nan_is_refused_by_json_columns(database: Database) -> None:
    with pytest.raises(sa.exc.StatementError, match="JSON compliant"), database.write() as connection:
        connection.execute(sa.insert(schema.tasks).values(id="t", split="train", payload={"x": float("nan")}))


def test_trap_51_read_then_write_never_fails_for_upgrading(database: Database) -> None:
    """A deferred transaction that reads, then writes, fails at once if another process committed in between."""
    with database.write() as connection:
        connection.execute(sa.insert(schema.artifacts).values(digest="n", kind="count", bytes=0, created_at=0.0))
    failures: list[BaseException] = []

    def count_up() -> None:
        own = Database.open(database.path)  # its own lock and connections, as another process would have
        try:
            for _ in range(25):
                with own.write() as connection:
                    n = connection.execute(sa.select(schema.artifacts.c.bytes)).scalar_one()
                    connection.execute(sa.update(schema.artifacts).values(bytes=n + 1))
        except BaseException as error:  # noqa: BLE001 - reported by the main thread
            failures.append(error)
        own.close()

    threads = [threading.Thread(target=count_up) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    with database.read() as connection:
        assert connection.execute(sa.select(schema.artifacts.c.bytes)).scalar_one() == 100


def test_readers_are_not_blocked_by_a_writer(database: Database) -> None:
    add_task(database, "t1")
    with database.write() as connection:
        connection.execute(sa.insert(schema.tasks).values(id="t2", split="train", payload={}))
        assert task_ids(database) == {"t1"}
    assert task_ids(database) == {"t1", "t2"}


def test_busy_error_names_the_trainer(database: Database) -> None:
    with database.write() as connection:
        connection.execute(
            sa.insert(schema.lease).values(
                id=1, token="x", host="elsewhere", pid=4711, process_start="", command="tropism run birds",
                acquired_at=0.0, heartbeat_at=0.0, ttl_s=30.0,
            )
        )  # fmt: skip
    other = Database.open(database.path)
    refused = pytest.raises(BusyError, match=r"pid 4711 on elsewhere: tropism run birds")
    with other.write(), refused as caught, database.write(timeout_s=0.3):
        pass
    assert "0.3 s" in caught.value.problem
    add_task(database, "t1")  # and afterwards all is well


def test_full_database_rolls_back_and_says_so(tmp_path: Path) -> None:
    database = Database.create(tmp_path / "study.db")

    @sa.event.listens_for(database.engine, "connect")
    def small(raw: sqlite3.Connection, _record: object) -> None:
        raw.execute("PRAGMA max_page_count = 120")

    database.engine.dispose()
    rows = [{"id": f"t{i}", "split": "train", "payload": {"x": "y" * 500}} for i in range(5000)]
    with pytest.raises(StoreError, match="is full") as caught, database.write() as connection:
        connection.execute(sa.insert(schema.tasks), rows)
    assert "space" in caught.value.fix
    assert task_ids(database) == set()
    add_task(database, "small")
    assert task_ids(database) == {"small"}


@pytest.fixture
def powerless() -> Iterator[Path]:
    """A folder with a study that the effective user may read but not write."""
    folder = Path(tempfile.mkdtemp())
    Database.create(folder / "study.db").close()
    was = os.geteuid()
    os.chmod(folder / "study.db", 0o444)
    os.chmod(folder, 0o555)
    if was == 0:  # the superuser may write anywhere
        os.seteuid(65534)
    yield folder
    os.seteuid(was)
    os.chmod(folder, 0o755)
    shutil.rmtree(folder)


def test_read_only_folder_is_a_clear_error(powerless: Path) -> None:
    with pytest.raises(StoreError, match="read-only"):
        Database.open(powerless / "study.db")
    with pytest.raises(StoreError, match=r"read-only|cannot be opened") as caught:
        Database.create(powerless / "second.db")
    assert "permission" in caught.value.fix
    assert [p.name for p in powerless.iterdir()] == ["study.db"]
