"""The feedback log: what is judged, who judges, and the append-only events of what they said.

An event's id and digest are content digests, so replaying a step of the loop appends nothing twice. A teacher has one
current value per query and target; a change of mind is a new event that supersedes the old one. The current view
(``judgements``) is a projection: superseded events and those of erased people are left out, in an order that does not
depend on when rows arrived. Left out: the queue of who is asked next (the studio's).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tropism.digests import digest
from tropism.errors import DataError
from tropism.feedback import chain
from tropism.feedback.appending import (
    candidate_row,
    check_query,
    check_trainable,
    event_row,
    insert_events,
    need,
    slot_rows,
)
from tropism.feedback.projection import (
    chunks,
    current_view,
    load_judgements,
    read_candidates,
    read_queries,
    read_tasks,
)
from tropism.feedback.records import Answer, Candidate, Judgement, Query, Split, Task
from tropism.store.database import Database, insert_new
from tropism.store.schema import (
    candidates,
    event_set_members,
    event_sets,
    events,
    queries,
    query_slots,
    tasks,
    teachers,
)

_LONGEST_S = 600.0
"""No transaction on a server that writes events lasts so long."""

Vote = tuple[Query, str, Answer]
"""A query, the teacher's id, and their answer."""


class FeedbackLog:
    """Feedback of one study. Any process may append; see ``store.database`` for the locking."""

    def __init__(self, database: Database, seal_every: int = 256, seal_after_s: float = 1.0) -> None:
        self.database = database
        self.seal_every = seal_every
        self.seal_after_s = seal_after_s
        self._sealed_to = 0  # no row up to this seq is open
        self._marks: deque[tuple[float, int]] = deque()  # when it was found so, on a server

    # ---- what is judged ----

    def put(self, tasks: Iterable[Task], candidates: Iterable[Candidate], queries: Iterable[Query]) -> None:
        """Add questions with all that they are about, or nothing of it; what is there already stays as it is. Errors:
        as of its parts."""
        with self.database.write() as connection:
            self.put_in(connection, tasks, candidates, queries)

    def put_in(
        self, connection: Connection, tasks: Iterable[Task], candidates: Iterable[Candidate], queries: Iterable[Query]
    ) -> None:
        """``put`` inside a write transaction."""
        self.add_tasks_in(connection, tasks)
        self.add_candidates_in(connection, candidates)
        self.add_queries_in(connection, queries)

    def add_tasks(self, new: Iterable[Task]) -> None:
        """Add tasks; those that are there already stay as they are."""
        with self.database.write() as connection:
            self.add_tasks_in(connection, new)

    def add_candidates(self, new: Iterable[Candidate]) -> None:
        """Add candidates of known tasks. Errors: DataError if a task is missing."""
        with self.database.write() as connection:
            self.add_candidates_in(connection, new)

    def add_queries(self, new: Iterable[Query]) -> None:
        """Add queries over known candidates. Errors: DataError if a candidate is missing or of another task."""
        with self.database.write() as connection:
            self.add_queries_in(connection, new)

    def add_tasks_in(self, connection: Connection, new: Iterable[Task]) -> None:
        """``add_tasks`` inside a write transaction."""
        insert_new(connection, tasks, [{"id": t.id, "split": t.split, "payload": dict(t.payload)} for t in new])

    def add_candidates_in(self, connection: Connection, new: Iterable[Candidate]) -> None:
        """``add_candidates`` inside a write transaction."""
        new = list(new)
        need(connection, tasks.c.id, {c.task_id for c in new}, "task", "add the tasks before their candidates")
        insert_new(connection, candidates, [candidate_row(c) for c in new])

    def add_queries_in(self, connection: Connection, new: Iterable[Query]) -> None:
        """``add_queries`` inside a write transaction."""
        new = list(new)
        owner: dict[str, str] = {}
        for part in chunks(sorted({c for q in new for c in q.candidate_ids})):
            where = candidates.c.id.in_(part)
            owner.update((r.id, r.task_id) for r in connection.execute(sa.select(candidates).where(where)))
        for query in new:
            check_query(query, owner)
        need(connection, tasks.c.id, {q.task_id for q in new}, "task", "add the tasks before their queries")
        rows = [{"id": q.id, "task_id": q.task_id, "kind": q.kind, "round": q.round} for q in new]
        insert_new(connection, queries, rows)
        insert_new(connection, query_slots, [row for q in new for row in slot_rows(q)])

    def tasks(self, ids: Iterable[str] | None = None) -> dict[str, Task]:
        """Tasks by id: those asked for, or all. Errors: DataError if one is missing."""
        with self.database.read() as connection:
            return read_tasks(connection, None if ids is None else list(ids))

    def candidates(self, ids: Iterable[str] | None = None) -> dict[str, Candidate]:
        """Candidates by id: those asked for, or all. Errors: DataError if one is missing."""
        with self.database.read() as connection:
            return read_candidates(connection, None if ids is None else list(ids))

    def queries(self, ids: Iterable[str] | None = None, *, round: int | None = None) -> dict[str, Query]:
        """Queries by id: those asked for, those of a round, or all. Errors: DataError if one is missing."""
        with self.database.read() as connection:
            return read_queries(connection, None if ids is None else list(ids), round)

    # ---- who judges ----

    def register_teacher(self, id: str, kind: str, name: str | None = None) -> None:
        """Make a teacher known (``kind``: oracle, judge, import, …). People: see ``people.register_person``."""
        if kind == "person":
            raise DataError(f"teacher {id!r} of kind person", "use people.register_person, which gives a pseudonym")
        with self.database.write() as connection:
            self.register_teacher_in(connection, id, kind, name)

    def register_teacher_in(self, connection: Connection, id: str, kind: str, name: str | None = None) -> None:
        """``register_teacher`` inside a write transaction."""
        old = connection.execute(sa.select(teachers.c.kind).where(teachers.c.id == id)).scalar()
        if old not in (None, kind):
            raise DataError(f"teacher {id!r} is of kind {old}, not {kind}", "give the new teacher another id")
        insert_new(connection, teachers, [{"id": id, "kind": kind, "name": name, "created_at": time.time()}])

    # ---- what they said ----

    def append(
        self, query: Query, teacher_id: str, answer: Answer, *, supersedes: str | None = None, origin: str = ""
    ) -> str:
        """Append one event and return its id. Appending the same again changes nothing.

        Errors: DataError if the value is unusable, the query or teacher unknown, or the teacher has answered already
        and differently (then ``correct`` that event).
        """
        if answer.value is None:
            raise DataError(f"a skip of query {query.id} is no event", "do not append it")
        row = event_row(query, teacher_id, answer, supersedes, origin)
        with self.database.write() as connection:
            ids = insert_events(connection, [row])
        self.seal()
        return ids[0]

    def append_many(self, votes: Iterable[Vote], *, origin: str = "") -> list[str | None]:
        """Append many events in one transaction: all or none. Returns their ids, None for each skip."""
        with self.database.write() as connection:
            ids = self.append_in(connection, votes, origin=origin)
        self.seal()
        return ids

    def append_in(self, connection: Connection, votes: Iterable[Vote], *, origin: str = "") -> list[str | None]:
        """``append_many`` inside a write transaction; call ``seal`` after it."""
        votes = list(votes)
        rows = [event_row(q, t, a, None, origin) if a.value is not None else None for q, t, a in votes]
        ids = iter(insert_events(connection, [row for row in rows if row is not None]))
        return [None if row is None else next(ids) for row in rows]

    def correct(self, event_id: str, answer: Answer, *, origin: str = "") -> str:
        """Append an event that supersedes ``event_id`` (of the same teacher, query and target). Returns its id."""
        with self.database.read() as connection:
            old = connection.execute(sa.select(events).where(events.c.id == event_id)).first()
        if old is None or old.query_id is None:
            raise DataError(f"no vote {event_id!r} to correct", "give the id that append returned")
        query = self.queries([old.query_id])[old.query_id]
        if answer.value is not None:  # a rating stays a rating unless the new value says its kind
            answer = Answer({"kind": old.kind, **answer.value}, answer.text, answer.duration_ms)
        return self.append(query, old.teacher_id, answer, supersedes=event_id, origin=origin)

    def seal(self, *, force: bool = False) -> int:
        """Seal open rows if they are many or old (``force``: in any case). Returns how many were sealed."""
        after_s = 0.0 if force else self.seal_after_s
        timeout_s = self.database.timeout_s if force else 0.5
        sealed = chain.seal(self.database, self.seal_every, after_s, floor=self._sealed_to, timeout_s=timeout_s)
        if sealed:
            with self.database.read() as connection:
                waiting = chain.open_rows(connection, self._sealed_to)
                newest = connection.execute(sa.select(sa.func.max(events.c.seq))).scalar_one()
            self._sealed_to = self._settled(waiting[0].seq - 1 if waiting else newest)
        return sealed

    def _settled(self, seq: int) -> int:
        """Up to which row nothing can appear any more. A file's rows are numbered in the order of their commits; a
        server's when they are written, so one may appear below others, as long as its transaction can last."""
        if not self.database.is_server:
            return seq
        now = time.monotonic()
        self._marks.append((now, seq))
        while len(self._marks) > 1 and self._marks[1][0] <= now - _LONGEST_S:
            self._marks.popleft()
        first, settled = self._marks[0]
        return settled if first <= now - _LONGEST_S else self._sealed_to

    # ---- reading ----

    def judgements(
        self,
        splits: Sequence[Split] = ("train", "validation"),
        kinds: Sequence[str] | None = None,
        *,
        overruled: bool = False,
    ) -> list[Judgement]:
        """The current view, by query round, query, teacher and event digest. ``kinds`` are the values' kinds.

        Where somebody has settled a disagreement, theirs is the answer; ``overruled`` votes are there if asked for.
        """
        with self.database.read() as connection:
            return load_judgements(connection, splits, kinds, overruled)

    def freeze(self, event_ids: Iterable[str]) -> str:
        """Freeze a set of events to fit a reward model on; returns its id, the digest of the sorted event ids.

        Errors: DataError if an event is unknown, is about a task of the test split, or its person was erased.
        """
        ids = sorted(set(event_ids))
        if not ids:
            raise DataError("an empty set of events", "collect feedback before fitting a reward model")
        set_id = digest(ids)
        with self.database.write() as connection:
            check_trainable(connection, ids)
            now = time.time()
            insert_new(connection, event_sets, [{"id": set_id, "count": len(ids), "created_at": now}])
            insert_new(connection, event_set_members, [{"event_set_id": set_id, "event_id": i} for i in ids])
        return set_id

    def event_digests(self) -> list[str]:
        """Digests of all events, sorted: equal for two studies exactly when the same was said in both."""
        with self.database.read() as connection:
            return sorted(connection.execute(sa.select(events.c.digest)).scalars())

    def counts(self) -> dict[str, int]:
        """How many tasks, candidates, queries, events (all, and current ones by kind), and open rows there are."""
        with self.database.read() as connection:
            found = {
                name: connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
                for name, table in (
                    ("tasks", tasks),
                    ("candidates", candidates),
                    ("queries", queries),
                    ("events", events),
                )
            }
            current = (
                sa.select(events.c.kind, sa.func.count().label("n")).where(*current_view()).group_by(events.c.kind)
            )
            kinds = {row.kind: row.n for row in connection.execute(current)}
            found["current"] = sum(kinds.values())
            found.update({f"current/{kind}": n for kind, n in sorted(kinds.items())})
            found["open"] = len(chain.open_rows(connection, self._sealed_to))
        return found
