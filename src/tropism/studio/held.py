"""Assignments by id: whose they are, about which query, in which order it was shown. None of that ever changes.

Left out: their state, which the queue alone decides by.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from tropism.errors import NotYours
from tropism.feedback.projection import read_queries
from tropism.feedback.queue_records import Claimed
from tropism.feedback.records import Query
from tropism.store import schema
from tropism.store.database import Database

KEPT = 16_384


@dataclass(frozen=True)
class Held:
    """One assignment's fixed part."""

    query: Query
    shown_order: tuple[int, ...]


class Assignments:
    """What was given out lately, and the table for what was not. Threads share it."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._kept: OrderedDict[tuple[str, str], Held] = OrderedDict()
        self._lock = threading.Lock()

    def remember(self, claimed: Sequence[Claimed], teacher_id: str) -> None:
        """Keep what was just given to a person."""
        with self._lock:
            for each in claimed:
                self._kept[each.assignment_id, teacher_id] = Held(each.query, each.shown_order)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)

    def kept(self, assignment_id: str, teacher_id: str) -> Held | None:
        """A person's assignment, if it was given out lately."""
        return self._kept.get((assignment_id, teacher_id))

    def find(self, assignment_id: str, teacher_id: str) -> Held:
        """A person's assignment. Errors: NotYours if there is none, or if it is another person's: which is not told."""
        found = self.kept(assignment_id, teacher_id)
        if found is not None:
            return found
        table = schema.assignments
        with self.database.read() as connection:
            row = connection.execute(
                sa.select(table.c.query_id, table.c.shown_order).where(
                    table.c.id == assignment_id, table.c.teacher_id == teacher_id
                )
            ).first()
            if row is None:
                raise NotYours(f"no assignment {assignment_id!r:.80} of yours", "claim one")
            query = read_queries(connection, [row.query_id])[row.query_id]
        return Held(query, tuple(row.shown_order))
