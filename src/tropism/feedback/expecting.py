"""What a reward model expects people to say of comparisons that they are asked about.

It is noted when the questions are asked, by the reward model of the round before, which has not seen their answers; so
adaptive overlap can ask for one more vote where a vote and the reward model disagree (``quality.overlap``). Nobody who
judges sees it, and no reward model is fitted on it. Left out: other kinds than comparisons.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tropism.errors import DataError
from tropism.store import schema
from tropism.store.database import Database

_table = schema.expectations


def note_expected(database: Database, a_wins: Mapping[str, float], reward_model: str) -> None:
    """Note P(slot a over slot b) by query id, in the place of what was noted before.

    Errors: DataError for what is no probability.
    """
    for query, chance in a_wins.items():
        if not 0 <= chance <= 1:
            raise DataError(f"a chance of {chance} that slot a of query {query} wins", "give a number from 0 to 1")
    now = time.time()
    rows = [
        {"query_id": query, "a_wins": float(chance), "reward_model": reward_model, "at": now}
        for query, chance in sorted(a_wins.items())
    ]
    with database.write() as connection:
        for row in rows:
            connection.execute(sa.delete(_table).where(_table.c.query_id == row["query_id"]))
        if rows:
            connection.execute(sa.insert(_table), rows)


def expected(connection: Connection) -> dict[str, float]:
    """P(slot a over slot b) by query id, of the comparisons of which it is known."""
    rows = connection.execute(sa.select(_table.c.query_id, _table.c.a_wins)).all()
    return {row.query_id: row.a_wins for row in rows}
