"""What a person may know about their own work: how much, and how far others agree.

Agreement counts only queries that have all their votes and are not in this person's hands: what the others said must
not be guessed from it while an own vote could still change. Left out: comparisons between people (a lead's page).
"""

from __future__ import annotations

import time
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tropism.digests import canonical_json
from tropism.feedback.projection import current_view
from tropism.store import schema

DAY_S = 86400.0
NEWEST = 500
"""Agreement is about the newest answers: people learn."""


def own_work(connection: Connection, pseudonym: str) -> dict[str, Any]:
    """``{today, total, skipped, agreement, kinds}``; ``agreement`` None where nobody else has answered the same;
    ``kinds`` of questions that still want votes."""
    table = schema.assignments
    since = time.time() // DAY_S * DAY_S
    answered = sa.and_(table.c.teacher_id == pseudonym, table.c.status == "submitted")
    today = sa.func.sum(sa.case((table.c.submitted_at >= since, 1), else_=0))
    total, now = connection.execute(sa.select(sa.func.count(), today).where(answered)).one()
    skipped = connection.execute(
        sa.select(sa.func.count()).where(table.c.teacher_id == pseudonym, table.c.status == "skipped")
    ).scalar_one()
    found = {"today": int(now or 0), "total": total, "skipped": skipped, "agreement": _agreement(connection, pseudonym)}
    return found | {"kinds": _kinds(connection)}


def _kinds(connection: Connection) -> list[str]:
    state, queries = schema.query_state, schema.queries
    wanting = sa.select(queries.c.kind).join_from(state, queries, queries.c.id == state.c.query_id)
    return sorted(connection.execute(wanting.where(state.c.votes < state.c.wanted).distinct()).scalars())


def _agreement(connection: Connection, pseudonym: str) -> float | None:
    """The share of own answers that say what most others say (a tie between the others counts half)."""
    events, state = schema.events, schema.query_state
    full = sa.select(state.c.query_id).where(state.c.votes >= state.c.wanted, state.c.wanted > 1)
    mine = (
        sa.select(events.c.query_id, events.c.target, events.c.value)
        .where(*current_view(), events.c.teacher_id == pseudonym, events.c.query_id.in_(full))
        .where(events.c.kind.in_(("comparison", "best_of", "label", "approval")))
        .order_by(events.c.seq.desc())
        .limit(NEWEST)
    )
    own = {(row.query_id, row.target): _said(row.value) for row in connection.execute(mine)}
    if not own:
        return None
    others = sa.select(events.c.query_id, events.c.target, events.c.value).where(
        *current_view(), events.c.teacher_id != pseudonym, events.c.query_id.in_(sorted({q for q, _ in own}))
    )
    votes: dict[tuple[str, str], dict[bytes, int]] = {}
    for row in connection.execute(others):
        counts = votes.setdefault((row.query_id, row.target), {})
        counts[_said(row.value)] = counts.get(_said(row.value), 0) + 1
    scores = []
    for key, said in own.items():
        counts = votes.get(key, {})
        most = [what for what, count in counts.items() if count == max(counts.values())]
        if most:
            scores.append((1.0 if len(most) == 1 else 0.5) if said in most else 0.0)
    return sum(scores) / len(scores) if scores else None


def _said(value: Any) -> bytes:
    """A value without how strongly it was said."""
    return canonical_json({name: what for name, what in dict(value).items() if name != "strength"})
