"""The writer that commits for many: a job's error is its own, what was acknowledged is on the disk, turns are kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from databases import DATABASES, new_database
from tropism.store import schema
from tropism.store.database import BusyError, Database
from tropism.store.rows import Rows, from_json, to_json
from tropism.store.turns import Turns
from tropism.store.writer import GroupWriter

INSERT = "INSERT INTO tasks (id, split, payload) VALUES (?, 'train', ?)"

WRITE_FOREVER = """
import sys, threading
from tropism.store.database import Database
from tropism.store.writer import GroupWriter
from pathlib import Path
writer = GroupWriter(Database.open(Path(sys.argv[1])))
told = threading.Lock()
def work(name):
    i = 0
    while True:
        id_ = f"{name}-{i}"
        writer.run(lambda rows: rows.run("INSERT INTO tasks (id, split, payload) VALUES (?, 'train', '{}')", id_))
        with told:
            print(id_, flush=True)
        i += 1
for n in range(8):
    threading.Thread(target=work, args=(f"{sys.argv[2]}-{n}",)).start()
"""


@pytest.fixture(params=DATABASES)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    with new_database(request.param, tmp_path) as made:
        yield made


def ids(database: Database) -> set[str]:
    with database.read() as connection:
        return set(connection.execute(sa.select(schema.tasks.c.id)).scalars())


def test_a_job_gives_its_result_and_is_durable(database: Database) -> None:
    writer = GroupWriter(database)

    def job(rows: Rows) -> object:
        rows.run(INSERT, "t", to_json({"x": [1, None, "é"]}))
        found = rows.one("SELECT payload FROM tasks WHERE id = ?", "t")
        assert found is not None
        return from_json(found[0])

    assert writer.run(job) == {"x": [1, None, "é"]}
    assert ids(database) == {"t"}
    rows = writer.run(
        lambda rows: (rows.all("SELECT id FROM tasks"), rows.one("SELECT id FROM tasks WHERE id = ?", ""))
    )
    assert rows == ([("t",)], None)


def test_values_come_back_as_they_went_in(database: Database) -> None:
    values = ["", "é'\"\\?%s $1", 0, -(2**62), 0.1, 1e300, -2.5e-8, True, False, None]
    kinds = {str: "TEXT", int: "BIGINT", float: "DOUBLE PRECISION", bool: "BOOLEAN", type(None): "TEXT"}

    def job(rows: Rows) -> list[object]:
        rows.run(f"CREATE TABLE t ({', '.join(f'c{i} {kinds[type(v)]}' for i, v in enumerate(values))})")
        insert = f"INSERT INTO t VALUES ({', '.join('?' * len(values))})"
        assert [rows.run(insert, *values) for _ in range(2)] == [1, 1]
        assert rows.run("UPDATE t SET c0 = ? WHERE c2 = ?", "x", 1) == 0
        found = rows.all("UPDATE t SET c0 = ? RETURNING c0", "")
        assert found == [("",), ("",)]
        assert rows.one("SELECT sum(c2), count(*), coalesce(sum(CASE WHEN c7 THEN 1 ELSE 0 END), 0) FROM t") == (
            0,
            2,
            2,
        )
        row = rows.one("SELECT * FROM t")
        assert row is not None
        return list(row)

    assert GroupWriter(database).run(job) == values


def test_jobs_of_many_threads_are_all_done(database: Database) -> None:
    writer = GroupWriter(database)
    commits: list[object] = []
    sa.event.listen(database.engine, "commit", commits.append)

    def work(n: int) -> None:
        for i in range(10):
            writer.run(lambda rows, id_=f"{n}-{i}": rows.run(INSERT, id_, "{}"))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(ids(database)) == 160
    if not database.is_server:
        assert len(commits) < 80  # several jobs shared a commit


def test_a_job_that_fails_takes_back_itself_alone(database: Database) -> None:
    writer = GroupWriter(database)

    def fail(rows: Rows) -> None:
        rows.run(INSERT, "bad", "{}")
        raise ZeroDivisionError("inside")

    futures = [writer.submit(lambda rows, id_=f"t{i}": rows.run(INSERT, id_, "{}")) for i in range(5)]
    failing = writer.submit(fail)
    futures += [writer.submit(lambda rows, id_=f"u{i}": rows.run(INSERT, id_, "{}")) for i in range(5)]
    with pytest.raises(ZeroDivisionError, match="inside"):
        failing.result(30)
    assert [future.result(30) for future in futures] == [1] * 10
    with pytest.raises(Exception, match=r"(?i)unique"):
        writer.run(lambda rows: rows.run(INSERT, "t1", "{}"))
    assert ids(database) == {f"{x}{i}" for x in "tu" for i in range(5)}


def test_everybody_hears_of_a_lock_that_was_not_had(tmp_path: Path) -> None:
    with new_database("sqlite", tmp_path) as database:
        other = Database.open(database.path)
        database.timeout_s = 0.3
        writer = GroupWriter(database)
        with other.write():
            futures = [writer.submit(lambda rows: rows.run(INSERT, "t", "{}")) for _ in range(2)]
            for future in futures:
                with pytest.raises(BusyError):
                    future.result(30)
        assert writer.run(lambda rows: rows.run(INSERT, "t", "{}")) == 1
        other.close()


def test_a_job_nobody_waits_for_any_more_is_not_done(tmp_path: Path) -> None:
    with new_database("sqlite", tmp_path) as database:
        writer = GroupWriter(database)
        with database.write():  # the writer's thread waits for this turn, with the first job in hand
            first = writer.submit(lambda rows: rows.run(INSERT, "first", "{}"))
            while not first.running():
                time.sleep(0.001)
            second = writer.submit(lambda rows: rows.run(INSERT, "second", "{}"))
            assert second.cancel()
        third = writer.submit(lambda rows: rows.run(INSERT, "third", "{}"))
        assert third.result(30) == 1
        assert ids(database) == {"first", "third"}


def test_what_a_killed_writer_acknowledged_is_there(database: Database) -> None:
    for name in ("a", "b"):
        program = [sys.executable, "-c", WRITE_FOREVER, str(database.path), name]
        process = subprocess.Popen(
            program, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        assert process.stdout is not None
        told = [process.stdout.readline() for _ in range(60)]
        process.send_signal(signal.SIGKILL)
        told += process.stdout.readlines()
        process.wait(30)
        complete = {line.strip() for line in told if line.endswith("\n")}
        assert len(complete) >= 60
        assert complete <= ids(database)


def test_a_deadlock_is_tried_again(tmp_path: Path) -> None:
    with new_database("postgresql", tmp_path) as database:
        writer = GroupWriter(database)
        for id_ in ("a", "b"):
            writer.run(lambda rows, id_=id_: rows.run(INSERT, id_, "{}"))
        meet = threading.Barrier(2)
        update = "UPDATE tasks SET payload = '{\"x\": 1}' WHERE id = ?"
        tries = {"ab": 0, "ba": 0}

        def job(rows: Rows, order: str) -> None:
            tries[order] += 1
            rows.run(update, order[0])
            if tries[order] == 1:
                meet.wait(10)
            rows.run(update, order[1])

        futures = [writer.submit(lambda rows, order=order: job(rows, order)) for order in tries]
        for future in futures:
            future.result(30)
        assert sorted(tries.values()) == [1, 2]


def test_connections_that_broke_while_they_rested_are_no_error(tmp_path: Path) -> None:
    with new_database("postgresql", tmp_path) as database:
        writer = GroupWriter(database)
        assert writer.run(lambda rows: rows.run(INSERT, "a", "{}")) == 1
        with database.write() as connection:
            connection.exec_driver_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        assert writer.run(lambda rows: rows.run(INSERT, "b", "{}")) == 1
        assert ids(database) == {"a", "b"}


def test_a_key_that_somebody_was_quicker_to_insert_is_seen_the_next_time(tmp_path: Path) -> None:
    with new_database("postgresql", tmp_path) as database:
        writer, meet = GroupWriter(database), threading.Barrier(2)
        tries: list[int] = []

        def job(rows: Rows) -> int:
            found = rows.one("SELECT count(*) FROM tasks")
            assert found is not None
            tries.append(found[0])
            if len(tries) <= 2:
                meet.wait(10)
            return rows.run(INSERT, f"t{found[0]}", "{}")

        assert [future.result(30) for future in [writer.submit(job), writer.submit(job)]] == [1, 1]
        assert ids(database) == {"t0", "t1"}
        assert tries == [0, 0, 1]


def test_turns_go_to_whoever_has_waited_longest() -> None:
    turns, order = Turns(), list[int]()
    assert turns.acquire()

    def wait(n: int) -> None:
        turns.acquire()
        order.append(n)
        turns.release()

    threads = []
    for n in range(5):
        threads.append(threading.Thread(target=wait, args=(n,)))
        threads[-1].start()
        while len(turns._waiting) <= n:
            time.sleep(0.001)
    assert not turns.acquire(timeout=0.05)
    turns.release()
    for thread in threads:
        thread.join(10)
    assert order == [0, 1, 2, 3, 4]
    assert turns.acquire(timeout=0)


def test_several_places_are_had_at_once_and_no_more() -> None:
    turns = Turns(3)
    assert [turns.acquire(timeout=0) for _ in range(4)] == [True, True, True, False]
    turns.release()
    with turns:
        assert not turns.acquire(timeout=0.01)
    assert turns.acquire(timeout=0)


def test_a_busy_writer_lets_others_of_its_process_in(tmp_path: Path) -> None:
    with new_database("sqlite", tmp_path) as database:
        writer, stop = GroupWriter(database), threading.Event()

        def work(n: int) -> None:
            i = 0
            while not stop.is_set():
                writer.run(lambda rows, id_=f"{n}-{i}": rows.run(INSERT, id_, "{}"))
                i += 1

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(20):
                with database.write(timeout_s=5.0):
                    pass
        finally:
            stop.set()
            for thread in threads:
                thread.join(30)
