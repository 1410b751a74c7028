"""A stage: one durable step of a study, as the code that does the work sees it.

A stage is a pure function of its inputs, its settings and its seed. It keeps its progress in checkpoints inside its own
scratch folder; whatever happened after the last checkpoint is done again, bit for bit, by the next process. What a
stage makes (folders, values) becomes visible to the study only when the study commits the stage, in one transaction.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tropism.errors import InterruptedRun
from tropism.files import sync_folder, sync_path


class MetricSink(Protocol):
    """Where metrics go. Writing the same (stage, step, name) again replaces the value, so a replayed step is no
    double."""

    def write(self, stage: str, step: int, values: Mapping[str, float]) -> None: ...


class ProgressSink(Protocol):
    """Where progress is shown: called with the finished and total units of the stage's current activity."""

    def update(self, activity: str, done: int, total: int, note: str = "") -> None: ...


class NoMetrics:
    """Metrics thrown away; for tests and for use without a study."""

    def write(self, stage: str, step: int, values: Mapping[str, float]) -> None: ...


class NoProgress:
    """Progress not shown."""

    def update(self, activity: str, done: int, total: int, note: str = "") -> None: ...


@dataclass
class Made:
    """What a stage hands over: named folders (which become content-addressed artifacts) and JSON values."""

    folders: dict[str, Path] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)


@dataclass
class StageRun:
    """The running stage. ``folder`` is its scratch folder, kept across kills until the stage is committed."""

    name: str
    folder: Path
    seed: int
    metrics: MetricSink = field(default_factory=NoMetrics)
    progress: ProgressSink = field(default_factory=NoProgress)
    stop_requested: Callable[[], bool] = lambda: False

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write metrics (``phase/name`` with the unit in the name) of one step."""
        self.metrics.write(self.name, step, values)

    def check_stop(self) -> None:
        """Raise InterruptedRun if the process was asked to stop. Call it where a replay would lose little."""
        if self.stop_requested():
            raise InterruptedRun(f"stopped cleanly in stage {self.name}", "run the same command again to go on")

    def checkpoint(
        self, activity: str, step: int, save: Callable[[Path], None], meta: Mapping[str, Any] | None = None
    ) -> None:
        """Save the state after ``step`` finished steps of ``activity``, atomically, then drop the older one.

        ``save(folder)`` writes files into an empty folder; they are fsynced and the folder is renamed into place.
        """
        place = self.folder / "checkpoints"
        final = place / f"{activity}-{step:08d}"
        partial = place / f"partial-{activity}-{step:08d}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save(partial)
        (partial / "checkpoint.json").write_text(
            json.dumps({"activity": activity, "step": step, "meta": dict(meta or {})})
        )
        sync_folder(partial)
        if final.exists():  # a replayed step: same bits, so the old one may go
            shutil.rmtree(final)
        partial.rename(final)
        sync_path(place)
        for older, _ in self._checkpoints(activity):
            if older < step:
                shutil.rmtree(place / f"{activity}-{older:08d}", ignore_errors=True)

    def latest_checkpoint(self, activity: str) -> tuple[int, Path, dict[str, Any]] | None:
        """(finished steps, folder, meta) of the newest complete checkpoint of ``activity``, or None."""
        found = self._checkpoints(activity)
        if not found:
            return None
        step, folder = max(found)
        return step, folder, json.loads((folder / "checkpoint.json").read_text())["meta"]

    def _checkpoints(self, activity: str) -> list[tuple[int, Path]]:
        place = self.folder / "checkpoints"
        if not place.is_dir():
            return []
        head = f"{activity}-"
        names = [p for p in place.iterdir() if p.name.startswith(head) and p.name[len(head) :].isdigit()]
        return [(int(p.name[len(head) :]), p) for p in names if (p / "checkpoint.json").is_file()]

    @contextmanager
    def making(self, name: str) -> Iterator[Path]:
        """A fresh folder to fill; it appears as ``folder/name`` only when the block ends without an error."""
        final, partial = self.folder / name, self.folder / f"partial-{name}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
