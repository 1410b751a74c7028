"""Curves, in an SQLite file of their own, so that they never contend with votes.

The file is a convenience, not a record: it may be deleted, and a replayed step writes the same numbers again. For
the same reason it is synced lazily (a power cut may lose the last seconds, a killed process nothing).
"""

from __future__ import annotations

import math
import sqlite3
import threading
from collections.abc import Mapping
from pathlib import Path

from tropism.errors import StoreError

_TABLE = """CREATE TABLE IF NOT EXISTS metrics (
    stage TEXT NOT NULL, name TEXT NOT NULL, step INTEGER NOT NULL, value REAL,
    PRIMARY KEY (stage, name, step)
) WITHOUT ROWID"""


class MetricStore:
    """Metrics by (stage, step, name). Implements ``runtime.stage.MetricSink``; threads may share an instance.

    NaN is kept (as NULL) and comes back as NaN; infinities are kept as they are.
    """

    def __init__(self, path: Path, timeout_s: float = 30.0) -> None:
        self.path = path
        self._lock = threading.Lock()
        try:
            self._db = sqlite3.connect(path, timeout=timeout_s, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(_TABLE)
        except sqlite3.DatabaseError as error:
            raise self._explain(error) from error

    def write(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Write one step's values in one transaction; a value that is there already is replaced."""
        rows = [(stage, name, step, _stored(float(value))) for name, value in values.items()]
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    self._db.executemany("INSERT OR REPLACE INTO metrics VALUES (?, ?, ?, ?)", rows)
                    self._db.execute("COMMIT")
                except BaseException:
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
                    raise
            except sqlite3.DatabaseError as error:
                raise self._explain(error) from error

    def series(self, name: str, stage: str | None = None) -> list[tuple[str, int, float]]:
        """(stage, step, value) of one metric, by stage and step."""
        return [
            (s, t, _given(v))
            for s, t, v in self._rows(
                "SELECT stage, step, value FROM metrics WHERE name = ? AND stage = coalesce(?, stage) "
                "ORDER BY stage, step",
                (name, stage),
            )
        ]

    def names(self, stage: str | None = None) -> list[str]:
        """Names of the metrics there are, sorted."""
        return [
            row[0]
            for row in self._rows(
                "SELECT DISTINCT name FROM metrics WHERE stage = coalesce(?, stage) ORDER BY name", (stage,)
            )
        ]

    def stages(self) -> list[str]:
        """Names of the stages that wrote metrics, sorted."""
        return [row[0] for row in self._rows("SELECT DISTINCT stage FROM metrics ORDER BY stage", ())]

    def table(self, stage: str) -> dict[str, list[tuple[int, float]]]:
        """All metrics of a stage: name -> [(step, value)] by step."""
        found: dict[str, list[tuple[int, float]]] = {}
        for name, step, value in self._rows(
            "SELECT name, step, value FROM metrics WHERE stage = ? ORDER BY name, step", (stage,)
        ):
            found.setdefault(name, []).append((step, _given(value)))
        return found

    def last(self, stage: str) -> dict[str, float]:
        """The newest value of every metric of a stage."""
        return {name: points[-1][1] for name, points in self.table(stage).items()}

    def forget(self, stage: str, after_step: int) -> None:
        """Drop a stage's values of steps greater than ``after_step``: those of steps that will be done again."""
        with self._lock:
            try:
                self._db.execute("DELETE FROM metrics WHERE stage = ? AND step > ?", (stage, after_step))
            except sqlite3.DatabaseError as error:
                raise self._explain(error) from error

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _rows(self, statement: str, arguments: tuple[object, ...]) -> list[tuple]:
        with self._lock:
            try:
                return self._db.execute(statement, arguments).fetchall()
            except sqlite3.DatabaseError as error:
                raise self._explain(error) from error

    def _explain(self, error: sqlite3.DatabaseError) -> StoreError:
        return StoreError(
            f"metrics file {self.path}: {error}",
            "check the disk's space and the folder's permissions; a damaged metrics file may be deleted",
        )


def _stored(value: float) -> float | None:
    return None if math.isnan(value) else value


def _given(value: float | None) -> float:
    return math.nan if value is None else value
