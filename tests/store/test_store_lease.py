"""The trainer's lease: one holder, dead ones are replaced at once, a lost lease is noticed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from databases import DATABASES, new_database
from tropism.errors import LeaseHeldError, StoreError
from tropism.store import schema
from tropism.store.database import Database
from tropism.store.lease import TrainerLease, process_start

HOLDER = """
import sys, time
from pathlib import Path
from tropism.store.database import Database
from tropism.store.lease import TrainerLease
with TrainerLease(Database.open(Path(sys.argv[1]))).acquire():
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(params=DATABASES)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    with new_database(request.param, tmp_path) as made:
        yield made


def row(database: Database) -> sa.Row | None:
    with database.read() as connection:
        return connection.execute(sa.select(schema.lease)).first()


def plant(database: Database, **changes: object) -> None:
    """A lease of someone else, with some fields as given."""
    held = {"id": 1, "token": "theirs", "host": socket.gethostname(), "pid": os.getpid(), "command": "tropism run x",
            "process_start": process_start(os.getpid()), "acquired_at": time.time(), "heartbeat_at": time.time(),
            "ttl_s": 30.0}  # fmt: skip
    with database.write() as connection:
        connection.execute(sa.delete(schema.lease))
        connection.execute(sa.insert(schema.lease).values({**held, **changes}))


def test_second_trainer_is_told_who_holds_it_and_a_killed_one_is_replaced_at_once(database: Database) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, database.path], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LeaseHeldError) as caught, TrainerLease(database).acquire():
            pass
        for part in (f"pid {holder.pid}", socket.gethostname(), "-c", "since 20"):
            assert part in caught.value.problem
    finally:
        holder.send_signal(signal.SIGKILL)
    # not reaped yet: a zombie is dead, too
    time.sleep(0.05)
    with TrainerLease(database).acquire() as lease:
        lease.check()
        held = row(database)
        assert held is not None
        assert held.pid == os.getpid()
    assert row(database) is None
    holder.wait(10)


def test_a_reused_pid_is_not_the_holder(database: Database) -> None:
    start = process_start(os.getpid())
    assert start is not None
    plant(database, process_start=f"{start.rpartition('/')[0]}/1")
    with TrainerLease(database).acquire() as lease:
        lease.check()


def test_another_host_holds_it_until_its_heartbeat_expires(database: Database) -> None:
    plant(database, host="far-away", heartbeat_at=time.time() - 29)
    with pytest.raises(LeaseHeldError, match="far-away"), TrainerLease(database).acquire():
        pass
    plant(database, host="far-away", heartbeat_at=time.time() - 31)
    with TrainerLease(database).acquire() as lease:
        lease.check()


def test_a_living_holder_here_keeps_it_however_late_its_heartbeat(database: Database) -> None:
    plant(database, heartbeat_at=time.time() - 3600)
    with pytest.raises(LeaseHeldError), TrainerLease(database).acquire():
        pass


def test_heartbeat_moves_and_a_lost_lease_is_noticed(database: Database) -> None:
    with TrainerLease(database, ttl_s=0.3).acquire() as lease:
        first = row(database)
        assert first is not None
        time.sleep(0.5)
        later = row(database)
        assert later is not None
        assert later.heartbeat_at > first.heartbeat_at
        lease.check()
        plant(database)  # another machine took over while this one slept
        with pytest.raises(StoreError, match="was lost"), database.write() as connection:
            lease.check(connection)
        with pytest.raises(StoreError, match="was lost"):
            lease.check()
    left = row(database)
    assert left is not None
    assert left.token == "theirs"


def test_the_heartbeat_itself_notices_the_loss(database: Database) -> None:
    with TrainerLease(database, ttl_s=0.3).acquire() as lease:
        plant(database)
        time.sleep(0.4)
        with pytest.raises(StoreError, match="was lost"):
            lease.check()
