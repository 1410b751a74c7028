"""Finding an event or a policy by its id or the beginning of it, and summing up the votes behind a policy.

Left out: candidates, queries and reward models as starting points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from tropism.errors import StoreError
from tropism.store.database import Database
from tropism.store.schema import events, policies, queries

_CHUNK = 500  # bound parameters of one statement


Kind = Literal["event", "policy"]
_PLACES: tuple[tuple[Kind, sa.Column[Any]], ...] = (("event", events.c.id), ("policy", policies.c.id))


@dataclass(frozen=True)
class Found:
    """What an id names."""

    kind: Kind
    id: str


@dataclass(frozen=True)
class VoteCount:
    """How many events one teacher gave in one round (None: events on no query)."""

    teacher: str
    round: int | None
    events: int


def find(database: Database, id_: str) -> Found:
    """The event or policy whose id is ``id_`` or, if no other does, begins with it.

    Errors: StoreError if there is none, or several.
    """
    matches: set[Found] = set()
    with database.read() as connection:
        for kind, column in _PLACES:
            if connection.execute(sa.select(column).where(column == id_)).first() is not None:
                return Found(kind, id_)
            begins = sa.select(column).where(column.startswith(id_, autoescape=True)).order_by(column).limit(3)
            matches.update(Found(kind, found) for found in connection.execute(begins).scalars())
        some = connection.execute(sa.select(policies.c.id).order_by(policies.c.round, policies.c.id).limit(5)).scalars()
        policies_there = ", ".join(some) or "none yet"
    if not id_ or not matches:
        raise StoreError(
            f"no event and no policy has an id that begins with {id_!r}", f"policies of this study: {policies_there}"
        )
    if len(matches) > 1:
        shown = ", ".join(f"{found.kind} {found.id}" for found in sorted(matches, key=lambda f: f.id)[:3])
        raise StoreError(f"{id_!r} is the beginning of several ids: {shown}", "give more of the id")
    return matches.pop()


def count_votes(database: Database, event_ids: Sequence[str]) -> list[VoteCount]:
    """The events by round and teacher."""
    counts: dict[tuple[int | None, str], int] = {}
    joined = events.outerjoin(queries, queries.c.id == events.c.query_id)
    statement = sa.select(queries.c.round, events.c.teacher_id, sa.func.count()).select_from(joined)
    grouped = statement.group_by(queries.c.round, events.c.teacher_id)
    with database.read() as connection:
        for start in range(0, len(event_ids), _CHUNK):
            part = list(event_ids[start : start + _CHUNK])
            for round_, teacher, count in connection.execute(grouped.where(events.c.id.in_(part))):
                counts[round_, teacher] = counts.get((round_, teacher), 0) + count
    rows = sorted(counts.items(), key=lambda item: (item[0][0] is not None, item[0][0] or 0, item[0][1]))
    return [VoteCount(teacher, round_, count) for (round_, teacher), count in rows]
