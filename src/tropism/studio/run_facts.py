"""How the study's run stands, for whoever watches: stages, the activity of this moment, the queue. Reads only.

As ``study.status``, but without the study's settings, which would load its domain.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tropism.store import schema
from tropism.store.database import Database
from tropism.store.lease import holder_lives
from tropism.studio.settings import StudyFacts
from tropism.study.stages import stage_place


def read_stages(database: Database) -> list[dict[str, Any]]:
    """Stages in their order, those replaced by other settings left out: key, name, round, status, seconds, values."""
    table = schema.stages
    with database.read() as connection:
        rows = connection.execute(sa.select(table).where(table.c.status != "replaced")).all()
    found = [
        {
            "key": row.key, "name": row.name, "round": row.round, "status": row.status, "seconds": row.seconds,
            "values": (row.outputs or {}).get("values", {}), "folders": (row.outputs or {}).get("folders", {}),
        }
        for row in rows
    ]  # fmt: skip
    return sorted(found, key=lambda stage: stage_place(stage["name"], stage["round"]))


def read_activity(folder: Path) -> dict[str, Any]:
    """The mark of the running stage; empty where nothing runs."""
    try:
        state = json.loads((folder / "scratch" / "status.json").read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return dict(state) if isinstance(state, dict) else {}


def read_queue(database: Database) -> dict[str, int]:
    """Queries in the queue, votes wanted, votes given, questions held."""
    state = schema.query_state
    sums = [sa.func.coalesce(sa.func.sum(column), 0) for column in (state.c.wanted, state.c.votes, state.c.open)]
    with database.read() as connection:
        row = connection.execute(sa.select(sa.func.count(), *sums)).one()
    return dict(zip(("queries", "wanted", "votes", "open"), map(int, row), strict=True))


def read_run(facts: StudyFacts, database: Database) -> dict[str, Any]:
    """The whole run at this moment."""
    with database.read() as connection:
        lease = connection.execute(sa.select(schema.lease)).mappings().first()
    holder = None
    if lease is not None and holder_lives(dict(lease), time.time()):
        holder = {key: lease[key] for key in ("pid", "host", "command", "acquired_at")}
    stages = read_stages(database)
    done = sum(stage["name"].startswith("decide-") and stage["status"] == "done" for stage in stages)
    shown = [{k: v for k, v in stage.items() if k not in ("key", "folders")} for stage in stages]
    return {
        "study": facts.name,
        "rounds": facts.rounds,
        "rounds_done": done,
        "holder": holder,
        "activity": read_activity(facts.folder),
        "stages": shown,
    }
