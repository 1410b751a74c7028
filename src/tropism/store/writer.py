"""One writer that commits for many: jobs of many threads go into one transaction, and one sync makes them all durable.

On SQLite every commit waits for the disk, and only one can be under way; so a thread takes whatever jobs wait, does
them one after the other, commits once, and tells everyone. A job is done only when it is on the disk. Where one fails,
the transaction is taken back and all are done again, each in a savepoint of its own, so that it leaves the others
alone; jobs seldom fail, and savepoints around all of them would be a third of their statements. On PostgreSQL, which
lets many write at once, each job is a transaction of its own in the caller's thread, done again where the server took
it back (a deadlock, a serialisation failure) or the connection had broken before anything was done.

Left out: jobs that take long; everybody behind them waits. Imports and training write by ``Database.write``.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Generic, TypeVar

import sqlalchemy as sa

from tropism.errors import StoreError
from tropism.store.database import Database
from tropism.store.failures import as_store_error
from tropism.store.rows import Rows
from tropism.store.turns import Turns

_T = TypeVar("_T")

_IDLE_S = 5.0
"""The thread ends when nobody writes for so long; the next job starts another."""
_TRIES = 5
_AT_ONCE = 8
"""Transactions that one process has on a server at once: more of them wait for one another there and here."""


class _Waiting(Generic[_T]):
    """A job, whoever waits for it, and how it went."""

    def __init__(self, job: Callable[[Rows], _T]) -> None:
        self.job = job
        self.future: Future[_T] = Future()
        self.result: _T | None = None
        self.error: BaseException | None = None

    def do(self, rows: Rows, place: Path | str) -> bool:
        """Run; False if it failed: the error is kept for whoever waits, and the transaction must be taken back."""
        try:
            with as_store_error(place):
                self.result = self.job(rows)
        except Exception as error:  # noqa: BLE001 - it is raised again where the job was asked for
            self.error = error
        return self.error is None

    def do_apart(self, rows: Rows, place: Path | str) -> None:
        """Run in a savepoint, so that a failure takes back this job alone."""
        self.error = None
        rows.run("SAVEPOINT job")
        if not self.do(rows, place):
            rows.run("ROLLBACK TO SAVEPOINT job")
        rows.run("RELEASE SAVEPOINT job")

    def tell(self) -> None:
        """Let the waiting thread go on."""
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)  # type: ignore[arg-type]


class _OneFailed(Exception):
    """A job of many failed: what the others have written is taken back with it."""


class GroupWriter:
    """Threads share one. ``most``: jobs in one transaction. ``gather_s``: a pause between two transactions while jobs
    keep coming: more of them share a sync, and other processes get their turn at the file."""

    def __init__(self, database: Database, most: int = 128, gather_s: float = 0.001) -> None:
        self.database = database
        self.most, self.gather_s = most, gather_s
        self._jobs: queue.SimpleQueue[_Waiting[Any]] = queue.SimpleQueue()
        self._mutex = threading.Lock()
        self._thread: threading.Thread | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._places = Turns(_AT_ONCE)

    def run(self, job: Callable[[Rows], _T]) -> _T:
        """Do a job and come back when it is durable, with what it gave. Errors: the job's own, and the database's."""
        if self.database.is_server:
            return self._run_alone(job)
        return self.submit(job).result()

    def submit(self, job: Callable[[Rows], _T]) -> Future[_T]:
        """``run`` for those who must not wait in their thread: the future is done when the job is durable."""
        if self.database.is_server:
            with self._mutex:
                if self._pool is None:
                    self._pool = ThreadPoolExecutor(_AT_ONCE, "writer")
            return self._pool.submit(self._run_alone, job)
        waiting = _Waiting(job)
        with self._mutex:
            self._jobs.put(waiting)
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name="group-writer", daemon=True)
                self._thread.start()
        return waiting.future

    def _loop(self) -> None:
        while True:
            try:
                batch = [self._jobs.get(timeout=_IDLE_S)]
            except queue.Empty:
                with self._mutex:
                    if self._jobs.empty():
                        self._thread = None
                        return
                continue
            if not self._jobs.empty():
                time.sleep(self.gather_s)
            while len(batch) < self.most:
                try:
                    batch.append(self._jobs.get_nowait())
                except queue.Empty:
                    break
            self._commit(batch)

    def _commit(self, batch: list[_Waiting[Any]]) -> None:
        batch = [waiting for waiting in batch if waiting.future.set_running_or_notify_cancel()]
        place = self.database.place
        try:
            try:
                with self.database.write() as connection:
                    rows = Rows(connection)
                    for waiting in batch:
                        if not waiting.do(rows, place):
                            raise _OneFailed
            except _OneFailed:
                if len(batch) > 1:
                    with self.database.write() as connection:
                        rows = Rows(connection)
                        for waiting in batch:
                            waiting.do_apart(rows, place)
        except Exception as error:  # noqa: BLE001 - it is raised again where the jobs were asked for
            for waiting in batch:
                waiting.error = waiting.error or error
        for waiting in batch:
            waiting.tell()

    def _run_alone(self, job: Callable[[Rows], _T]) -> _T:
        tried = 0
        while True:
            rows = None
            try:
                with self._places, self.database.transaction() as connection:
                    rows = Rows(connection)
                    result = job(rows)
                    rows.commit()
                    return result
            except Exception as error:
                tried += 1
                untouched = rows is not None and rows.done == 0 and isinstance(error, StoreError)
                if tried == _TRIES or not (untouched or _may_be_tried_again(error)):
                    raise
                time.sleep(0.005 * tried)


def _may_be_tried_again(error: BaseException) -> bool:
    """Whether a transaction will do, or say better what is wrong, when it is done again: the server took it back
    (SQLSTATE 40xxx), or somebody was quicker to insert the same key (23505), which it will see next time."""
    cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    state = str(getattr(cause, "sqlstate", "") or "")
    return state.startswith("40") or state == "23505"
