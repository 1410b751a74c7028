"""How far a study is: its stages, the activity of this moment, and who runs it. Reads only."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tropism.feedback.events import FeedbackLog
from tropism.store import schema
from tropism.store.database import Database
from tropism.store.lease import holder_lives
from tropism.study.config import Config
from tropism.study.stages import stage_place


@dataclass(frozen=True)
class StageStatus:
    """One stage: ``status`` is done, running (begun, perhaps stopped) or replaced (by other settings)."""

    name: str
    round: int
    status: str
    seconds: float | None
    cpu_seconds: float | None
    folders: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StudyStatus:
    """A study at one moment. ``holder`` is who runs it (pid, host, command), or None."""

    name: str
    folder: Path
    rounds: int
    rounds_done: int
    finished: bool
    stages: tuple[StageStatus, ...]
    activity: Mapping[str, Any]
    """stage, activity, done, total, note, seconds, cpu_seconds of the newest mark; empty where nothing runs."""
    holder: Mapping[str, Any] | None
    feedback: Mapping[str, int]


def read_status(folder: Path, config: Config, database: Database) -> StudyStatus:
    """Read a study's status; stages that were replaced by other settings are left out."""
    with database.read() as connection:
        rows = connection.execute(sa.select(schema.stages).where(schema.stages.c.status != "replaced")).mappings().all()
        lease = connection.execute(sa.select(schema.lease)).mappings().first()
    stages = sorted((_stage(row) for row in rows), key=lambda s: stage_place(s.name, s.round))
    done = {stage.name for stage in stages if stage.status == "done"}
    rounds_done = sum(f"decide-{r}" in done for r in range(1, config.study.rounds + 1))
    return StudyStatus(
        name=config.study.name,
        folder=folder,
        rounds=config.study.rounds,
        rounds_done=rounds_done,
        finished=rounds_done == config.study.rounds,
        stages=tuple(stages),
        activity=_activity(folder / "scratch" / "status.json"),
        holder=_holder(lease),
        feedback=FeedbackLog(database).counts(),
    )


def _stage(row: sa.RowMapping) -> StageStatus:
    outputs = row["outputs"] or {}
    return StageStatus(
        row["name"],
        row["round"],
        row["status"],
        row["seconds"],
        row["cpu_seconds"],
        outputs.get("folders", {}),
        outputs.get("values", {}),
    )


def _activity(path: Path) -> dict[str, Any]:
    try:
        state = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}  # nothing runs, or a power cut took the unsynced mark
    return dict(state) if isinstance(state, dict) else {}


def _holder(lease: sa.RowMapping | None) -> dict[str, Any] | None:
    """Who holds the lease, unless that process is known to be dead or its heartbeat is old."""
    if lease is None:
        return None
    alive = holder_lives(dict(lease), time.time())
    return {key: lease[key] for key in ("pid", "host", "command", "acquired_at")} if alive else None
