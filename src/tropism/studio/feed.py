"""The feedback as a feed: events in the order in which they came, for programs and engineers.

Answers to gold questions and repeats are left out: they are no evidence, and would tell which questions those are. What
is not settled yet (``store/horizon.py``) comes with the next page.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from tropism.feedback.values import ASIDE
from tropism.store import schema
from tropism.store.horizon import settled_to
from tropism.studio.guidelines import in_force
from tropism.studio.roles import Caller
from tropism.studio.state import Studio


def feed(studio: Studio, caller: Caller, after: int, limit: int) -> dict[str, Any]:
    """``{items, next, hidden}``; ``next`` is where to go on, also where nothing more has come yet."""
    table, texts = schema.events, schema.event_texts
    upto = settled_to(studio.database)
    statement = (
        sa.select(table, texts.c.text)
        .select_from(table.outerjoin(texts, texts.c.event_id == table.c.id))
        .where(table.c.seq > after, table.c.seq <= upto, table.c.query_id.is_not(None))
        .order_by(table.c.seq)
        .limit(limit)
    )
    with studio.database.read() as connection:
        rows = connection.execute(statement).all()
        guidelines = in_force(connection, [row.created_at for row in rows])
    blind = studio.reveal(caller, {row.query_id for row in rows}) if rows else None
    items = [
        {
            "seq": row.seq, "id": row.id, "kind": row.kind, "query": row.query_id, "teacher": row.teacher_id,
            "value": row.value, "text": row.text, "supersedes": row.supersedes, "origin": row.origin,
            "duration_ms": row.duration_ms, "guideline": guideline, "at": row.created_at,
        }
        for row, guideline in zip(rows, guidelines, strict=True)
        if blind is not None and row.query_id not in blind.queries and not row.target.startswith(ASIDE)
    ]  # fmt: skip
    hidden = sum(blind is not None and row.query_id in blind.queries for row in rows)
    return {"items": items, "next": rows[-1].seq if rows else after, "hidden": hidden, "more": len(rows) == limit}
