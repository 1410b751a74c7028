"""Curves for a browser: metrics read beside the process that writes them, thinned so that nothing that stands out goes.

The file belongs to whoever trains; here it is only read, and it may appear later or not at all. Left out: writing.
"""

from __future__ import annotations

import math
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path

from tropism.errors import StoreError

Point = tuple[int, float | None]
"""(step, value); None where the value was no number."""

_STAGES = """WITH RECURSIVE s(stage) AS (
    SELECT min(stage) FROM metrics UNION ALL
    SELECT (SELECT min(stage) FROM metrics WHERE stage > s.stage) FROM s WHERE s.stage IS NOT NULL
) SELECT stage FROM s WHERE stage IS NOT NULL"""
_NAMES = """WITH RECURSIVE n(name) AS (
    SELECT min(name) FROM metrics WHERE stage = :stage UNION ALL
    SELECT (SELECT min(name) FROM metrics WHERE stage = :stage AND name > n.name) FROM n WHERE n.name IS NOT NULL
) SELECT name FROM n WHERE name IS NOT NULL"""
"""Both jump from one value to the next in the primary key instead of reading every row."""


class Curves:
    """The metrics of one study. Threads share it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._db: sqlite3.Connection | None = None
        self._lock = threading.Lock()

    def stages(self) -> list[str]:
        """The stages that wrote any."""
        return [row[0] for row in self._rows(_STAGES)]

    def names(self, stage: str) -> list[str]:
        """The metrics of a stage, sorted."""
        return [row[0] for row in self._rows(_NAMES, stage=stage)]

    def series(self, stage: str, name: str, points: int) -> list[Point]:
        """One curve of at most ``points`` points (at least 4)."""
        rows = self._rows(
            "SELECT step, value FROM metrics WHERE stage = :stage AND name = :name ORDER BY step",
            stage=stage,
            name=name,
        )
        return thin([(step, _finite(value)) for step, value in rows], points)

    def since(self, stage: str, step: int) -> dict[int, dict[str, float | None]]:
        """What a stage wrote at ``step`` and later: step -> name -> value."""
        found: dict[int, dict[str, float | None]] = {}
        for name in self.names(stage):
            for at, value in self._rows(
                "SELECT step, value FROM metrics WHERE stage = :stage AND name = :name AND step >= :step ORDER BY step",
                stage=stage, name=name, step=step,
            ):  # fmt: skip
                found.setdefault(at, {})[name] = _finite(value)
        return dict(sorted(found.items()))

    def newest(self, stage: str) -> int:
        """The last step of a stage; -1 where it has none."""
        steps = [
            row[0]
            for name in self.names(stage)
            for row in self._rows(
                "SELECT max(step) FROM metrics WHERE stage = :stage AND name = :name", stage=stage, name=name
            )
        ]
        return max(steps, default=-1)

    def version(self) -> int:
        """A number that changes when another process has written; -1 while there is no file."""
        rows = self._rows("PRAGMA data_version")
        return int(rows[0][0]) if rows else -1

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._db is not None:
                self._db.close()
                self._db = None

    def _rows(self, statement: str, **arguments: object) -> list[tuple]:
        with self._lock:
            try:
                if self._db is None:
                    if not self.path.is_file():
                        return []
                    uri = f"{self.path.absolute().as_uri()}?mode=ro"
                    self._db = sqlite3.connect(uri, uri=True, timeout=5, isolation_level=None, check_same_thread=False)
                return self._db.execute(statement, arguments).fetchall()
            except sqlite3.DatabaseError as error:
                raise StoreError(
                    f"metrics file {self.path}: {error}", "a damaged metrics file may be deleted"
                ) from error


def thin(curve: Sequence[Point], points: int) -> list[Point]:
    """At most ``points`` of a curve's points: the least and the greatest of each part, the first and the last.

    What is no number is kept where a part has nothing else, so that a gap stays a gap.
    """
    if len(curve) <= points:
        return list(curve)
    parts = max(1, (points - 2) // 2)
    inner, kept = curve[1:-1], [curve[0]]
    for part in range(parts):
        piece = inner[part * len(inner) // parts : (part + 1) * len(inner) // parts]
        known = [(value, step) for step, value in piece if value is not None]
        if known:
            extremes = {(step, value) for value, step in (min(known), max(known))}
            kept += sorted(extremes, key=lambda point: point[0])
        elif piece:
            kept.append(piece[0])
    return [*kept, curve[-1]]


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
