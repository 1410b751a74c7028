"""The trainer's lease: one process at a time improves a study. Any process may still append feedback.

A holder on this machine counts as alive while its process lives (a pid that was given to another process is told apart
by its start time); a holder elsewhere while its heartbeat is younger than its ``ttl_s``, so machines that share a study
need clocks that agree to within that. Left out: a queue of waiting trainers.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tropism.errors import LeaseHeldError, StoreError
from tropism.store.database import BusyError, Database
from tropism.store.schema import lease as table

_over: set[str] = set()
"""Tokens of this process's leases that have ended: a full disk may have kept their row from being taken out."""


class TrainerLease:
    """``with TrainerLease(database).acquire() as lease: … lease.check() …``

    ``ttl_s``: how long the lease outlives its last heartbeat for a machine that cannot look at this process.
    """

    def __init__(self, database: Database, ttl_s: float = 30.0) -> None:
        if ttl_s <= 0:
            raise ValueError(f"ttl_s must be positive, not {ttl_s}")
        self.database = database
        self.ttl_s = ttl_s
        self.token = uuid.uuid4().hex
        self._lost = threading.Event()
        self._stop = threading.Event()
        self._beaten_at = 0.0

    @contextmanager
    def acquire(self) -> Iterator[TrainerLease]:
        """Hold the lease for the block. Errors: LeaseHeldError naming pid, host, command and since when."""
        self._take()
        _over.discard(self.token)
        self._lost.clear()
        self._stop.clear()
        beat = threading.Thread(target=self._beat, name="trainer-lease", daemon=True)
        beat.start()
        try:
            yield self
        finally:
            self._stop.set()
            beat.join(timeout=self.ttl_s)
            _over.add(self.token)
            with self.database.write() as connection:
                connection.execute(sa.delete(table).where(table.c.token == self.token))

    def check(self, connection: Connection | None = None) -> None:
        """Raise StoreError if the lease was lost (this machine slept, and another one took over).

        Give the connection of a write transaction to make sure of it in that very transaction.
        """
        late = time.monotonic() - self._beaten_at > self.ttl_s
        if connection is not None:
            self._check_row(connection)
        elif late and not self._lost.is_set():
            with self.database.read() as reading:
                self._check_row(reading)
        if self._lost.is_set():
            raise StoreError(
                f"the trainer's lease on {self.database.path} was lost to another process",
                "stop one of the two trainers, then run the command again; it goes on from the last checkpoint",
            )

    def _check_row(self, connection: Connection) -> None:
        if connection.execute(sa.select(table.c.token)).scalar() != self.token:
            self._lost.set()

    def _take(self) -> None:
        now = time.time()
        mine = {
            "token": self.token,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "process_start": process_start(os.getpid()) or "unknown",
            "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:200],
            "acquired_at": now,
            "heartbeat_at": now,
            "ttl_s": self.ttl_s,
        }
        with self.database.write() as connection:
            holder = connection.execute(sa.select(table)).first()
            if holder is not None and holder_lives(dict(holder._mapping), now) and holder.token not in _over:
                since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder.acquired_at))
                raise LeaseHeldError(
                    f"{self.database.path} is being trained by pid {holder.pid} on {holder.host} since {since}: "
                    f"{holder.command}",
                    "wait until it ends, or stop it; the same command then goes on where it was",
                )
            connection.execute(sa.delete(table))
            connection.execute(sa.insert(table).values(id=1, **mine))
        self._beaten_at = time.monotonic()

    def _beat(self) -> None:
        while not self._stop.wait(self.ttl_s / 3):
            try:
                with self.database.write(timeout_s=self.ttl_s / 3) as connection:
                    mine = sa.update(table).where(table.c.token == self.token).values(heartbeat_at=time.time())
                    if connection.execute(mine).rowcount == 0:
                        self._lost.set()
                        return
                self._beaten_at = time.monotonic()
            except BusyError:  # a long write elsewhere; the next beat tries again and check() looks at the row
                continue


def holder_lives(holder: Mapping[str, Any], now: float) -> bool:
    """Whether the holder in a row of the lease still lives, as far as this process can know; ``now`` in seconds."""
    machine, _, _start = holder["process_start"].rpartition("/")
    if holder["host"] == socket.gethostname() and machine == _machine():
        return process_start(holder["pid"]) == holder["process_start"]
    return bool(now - holder["heartbeat_at"] < holder["ttl_s"])


def process_start(pid: int) -> str | None:
    """``machine/start`` of a living process: unlike a pid, it never names two processes. None if it is dead."""
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        # proc(5): after the command's closing bracket come the state and, as 20th field from there, the start time
        return None if fields[0] in "ZX" else f"{_machine()}/{fields[19]}"
    shown = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, timeout=10, check=False
    ).stdout.strip()
    return f"{_machine()}/{shown}" if shown else None


def _machine() -> str:
    """What must be equal for a pid to mean the same thing: this boot, and this process name space."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    space = Path("/proc/self/ns/pid")
    known = boot.read_text().strip() if boot.exists() else ""
    return f"{known}:{os.readlink(space) if space.is_symlink() else ''}"
