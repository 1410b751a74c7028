"""The queue of questions to people: claims as leases, answers that are stored once, skips, undo, gold and repeats.

Synchronous, and callable from any thread; every method is one write transaction or none. The database itself refuses
what must not be: more people on a query than are wanted, one person twice on it, a submission stored twice. A lease
that ran out frees the place; the answer to it is kept all the same, and flagged where the place was given away.

Left out: who may call what (the studio's), screens, and which queries deserve more votes (``feedback/quality``).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from tropism.digests import digest
from tropism.errors import AlreadyAnswered, LeaseLost
from tropism.feedback import queue_answers, queue_state
from tropism.feedback.events import FeedbackLog
from tropism.feedback.queue_claims import Claims
from tropism.feedback.queue_records import (
    COUNTED,
    Assignment,
    Claimed,
    Empty,
    Purpose,
    QueueSettings,
    Submitted,
)
from tropism.feedback.records import Answer
from tropism.feedback.values import dump_value, parse_value, slot_names
from tropism.store.database import Database
from tropism.store.rows import Rows, to_json
from tropism.store.writer import GroupWriter

__all__ = ["Assignment", "Claimed", "Empty", "Purpose", "Queue", "QueueSettings", "Submitted"]

Also = Callable[[Rows], None] | None
"""Something to be written in the same transaction: an audit row."""

_T = TypeVar("_T")
Job = Callable[[Rows], _T]
"""Something done in one write transaction."""
Found = tuple[list[Claimed], Empty | None]
"""What a claim gives: questions, or why there is none."""

_LOOK_EVERY_S = 1.0
_SEAL_EVERY_S, _SEAL_EVERY_ROWS = 1.0, 256

_BEAT = "UPDATE assignments SET heartbeat_at = ?, expires_at = ? WHERE id = ?"
_REVIVE = "UPDATE assignments SET status = 'open', placed = ?, heartbeat_at = ?, expires_at = ? WHERE id = ?"
_DRAFT = """
INSERT INTO drafts (assignment_id, body, saved_at) VALUES (?, ?, ?)
ON CONFLICT (assignment_id) DO UPDATE SET body = excluded.body, saved_at = excluded.saved_at
"""
_RELEASE = "UPDATE assignments SET status = 'expired', placed = FALSE, expires_at = ? WHERE id = ?"
_GOLD = """
INSERT INTO gold (query_id, value, created_by, created_at) VALUES (?, ?, ?, ?)
ON CONFLICT (query_id) DO UPDATE SET value = excluded.value, created_by = excluded.created_by
"""
_BY_SUBMISSION = "SELECT id FROM assignments WHERE submission_id = ? AND teacher_id = ?"


class Queue:
    """Questions of one study to people. ``clock`` gives UTC seconds."""

    def __init__(
        self, database: Database, settings: QueueSettings | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self.database = database
        self.writer = GroupWriter(database)
        self.settings = settings or QueueSettings()
        self.log = FeedbackLog(database)
        self._clock = clock
        self._claims = Claims(self.settings)
        self._looked_at = float("-inf")
        self._sealing = threading.Lock()
        self._sealed_at, self._unsealed = time.monotonic(), 0

    # ---- asking ----

    def claim(
        self, teacher_id: str, count: int = 1, kinds: Collection[str] | None = None, *, also: Also = None
    ) -> Found:
        """Up to ``count`` questions for a person (of some ``kinds`` of queries only), or why there is none.

        What they hold already comes first, with a new lease and its draft; so asking again after a lost answer or a
        reload gives the same questions, and whoever wants the next three beside the one on the screen asks for four.
        Errors: DataError if nobody goes by this id.
        """

        job = self._claim_job(teacher_id, count, kinds, also)
        fresh = 0 <= self._clock() - self._looked_at < _LOOK_EVERY_S
        if not fresh:
            self._look_around()
        found = self._write(job)
        if fresh and not found[0]:  # before saying that there is nothing: new queries, and leases that ran out
            self._look_around()
            found = self._write(job)
        return found

    def claim_soon(
        self, teacher_id: str, count: int = 1, kinds: Collection[str] | None = None, *, also: Also = None
    ) -> Future[Found]:
        """``claim`` for those who must not wait in their thread. It does not look around for what is new: where it
        gives nothing, ask ``claim``."""
        return self.writer.submit(self._claim_job(teacher_id, count, kinds, also))

    def heartbeat(self, assignment_id: str, teacher_id: str) -> float:
        """Hold a claim longer; returns until when (UTC seconds). Errors: NotYours; AlreadyAnswered; LeaseLost if the
        place was given to somebody else meanwhile: an answer is still taken, so a draft should not be thrown away."""

        def job(rows: Rows) -> float:
            held = self._open(rows, assignment_id, teacher_id)
            return self._extend(rows, held)

        return self._write(job)

    def draft(self, assignment_id: str, teacher_id: str, body: Mapping[str, Any]) -> None:
        """Keep what somebody has written so far, also where the lease ran out. Errors: NotYours; AlreadyAnswered."""

        def job(rows: Rows) -> None:
            self._open(rows, assignment_id, teacher_id)
            rows.run(_DRAFT, assignment_id, to_json(dict(body)), self._clock())

        self._write(job)

    def release(self, assignment_id: str, teacher_id: str) -> None:
        """Give a claim back for others; its draft is kept. Errors: NotYours; AlreadyAnswered."""

        def job(rows: Rows) -> None:
            held = self._open(rows, assignment_id, teacher_id)
            if held.placed:
                queue_state.give_back(rows, held.query_id)
            rows.run(_RELEASE, self._clock(), assignment_id)

        self._write(job)

    # ---- answering ----

    def submit(
        self, assignment_id: str, teacher_id: str, submission_id: str, answers: Sequence[Answer], *, also: Also = None
    ) -> Submitted:
        """Store an answer, in canonical slots: one value of the kind that was asked for, and others beside it.

        Doing it again with the same ``submission_id`` changes nothing. Errors: NotYours; AlreadyAnswered (under another
        submission); DataError if a value is unusable.
        """

        stored = self._write(self._submit_job(assignment_id, teacher_id, submission_id, answers, also))
        self._seal(0 if stored.again else len(stored.event_ids))
        return stored

    def submit_soon(
        self, assignment_id: str, teacher_id: str, submission_id: str, answers: Sequence[Answer], *, also: Also = None
    ) -> Future[Submitted]:
        """``submit`` for those who must not wait in their thread: the future is done when the answer is durable.
        Events are not sealed by it; whoever calls sees to that (``FeedbackLog.seal``)."""
        return self.writer.submit(self._submit_job(assignment_id, teacher_id, submission_id, answers, also))

    def skip(self, assignment_id: str, teacher_id: str, submission_id: str, *, also: Also = None) -> Submitted:
        """Pass over a question for good; idempotent like ``submit``. Errors: NotYours; AlreadyAnswered."""

        def job(rows: Rows) -> Submitted:
            held = queue_answers.load(rows, assignment_id, teacher_id, submission_id)
            stored = queue_answers.skip(rows, held, submission_id, self._clock(), self.settings.undo_s)
            if also is not None and not stored.again:
                also(rows)
            return stored

        return self._write(job)

    def undo(self, assignment_id: str, teacher_id: str, *, also: Also = None) -> Claimed:
        """Take back an answer or a skip of at most ``undo_s`` ago; the question is open again, as it was shown.

        Nothing is deleted: the vote is superseded by a retraction. Errors: NotYours; UndoTooLate.
        """

        def job(rows: Rows) -> Claimed:
            held = queue_answers.load(rows, assignment_id, teacher_id)
            opened = queue_answers.undo(rows, self._claims, held, self._clock())
            if also is not None:
                also(rows)
            return opened

        return self._write(job)

    def adjudicate(self, query_id: str, teacher_id: str, submission_id: str, answers: Sequence[Answer]) -> Submitted:
        """Settle a disagreement: a vote beyond those wanted, which counts instead of the others'; whoever gives it may
        have voted before, and that vote is superseded then. Idempotent like ``submit``. Errors: DataError if a value is
        unusable."""

        def job(rows: Rows) -> Submitted:
            before = rows.one(_BY_SUBMISSION, submission_id, teacher_id)
            if before is None:
                id_ = digest(["adjudication", query_id, teacher_id, submission_id])[:24]
                self._claims.open_adjudication(rows, id_, query_id, teacher_id, self._clock())
            held = queue_answers.load(rows, id_ if before is None else before[0], teacher_id, submission_id)
            prepared = queue_answers.prepare(self._claims.query(rows, query_id), held, answers)
            return queue_answers.submit(rows, held, submission_id, prepared, self._clock(), self.settings.undo_s)

        stored = self._write(job)
        self._seal(len(stored.event_ids))
        return stored

    # ---- the lead's and the study's ----

    def expire(self, now: float | None = None) -> int:
        """Free the places of claims whose lease has run out; ``claim`` does so, too. Returns how many there were."""
        return self._write(lambda rows: queue_state.sweep(rows, self._clock() if now is None else now))

    def want(
        self, query_ids: Sequence[str], votes: int, *, ab_test: str | None = None, priority: int | None = None
    ) -> None:
        """Ask for at least ``votes`` people on each query; never lowered. ``priority``: smaller is asked sooner (0 is
        usual). ``ab_test`` marks the queries of a people's comparison of two policies, which may be on test tasks."""
        base = self.settings.votes_per_query if ab_test is None else min(votes, self.settings.votes_per_query)
        self._write(lambda rows: queue_state.want(rows, query_ids, votes, base, ab_test, priority))

    def set_gold(self, query_id: str, value: Mapping[str, Any], by: str) -> None:
        """Note the right answer to a query (canonical slots), by which people's are measured; a later one replaces it.
        Errors: DataError if the query is missing or the value unusable."""

        def job(rows: Rows) -> None:
            query = self._claims.query(rows, query_id)
            kind = str(value.get("kind", query.kind))
            checked = parse_value(kind, value, slot_names(query.kind, len(query.candidate_ids)))
            rows.run(_GOLD, query_id, to_json(dump_value(checked)), by, self._clock())

        self._write(job)

    def leave(self, teacher_id: str) -> int:
        """Somebody's drafts go, and the queries they voted on want other people's votes: ``people.erase_person`` does
        it. Returns how many votes no longer count."""
        return self._write(lambda rows: queue_state.leave(rows, teacher_id))

    def counts(self) -> dict[str, int]:
        """Sums over all queries: ``queries``, ``wanted``, ``votes``, ``open`` (somebody is on them), ``late``,
        ``complete`` (queries that have all their votes)."""

        self._look_around()
        return self._write(queue_state.counts)

    # ---- inside ----

    def _write(self, job: Callable[[Rows], _T]) -> _T:
        return self.writer.run(job)

    def _claim_job(self, teacher_id: str, count: int, kinds: Collection[str] | None, also: Also) -> Job[Found]:
        def job(rows: Rows) -> Found:
            found = self._claims.claim(rows, teacher_id, count, kinds, self._clock())
            if also is not None and found[0]:
                also(rows)
            return found

        return job

    def _submit_job(
        self, assignment_id: str, teacher_id: str, submission_id: str, answers: Sequence[Answer], also: Also
    ) -> Job[Submitted]:
        def job(rows: Rows) -> Submitted:
            held = queue_answers.load(rows, assignment_id, teacher_id, submission_id)
            prepared = queue_answers.prepare(self._claims.query(rows, held.query_id), held, answers)
            now, undo_s = self._clock(), self.settings.undo_s
            stored = queue_answers.submit(rows, held, submission_id, prepared, now, undo_s)
            if also is not None and not stored.again:
                also(rows)
            return stored

        return job

    def _look_around(self) -> None:
        """Free what has run out, and take in what has been asked. Twice a transaction of its own, since neither must
        wait for a query while it holds others that a claim is waiting for."""
        now = self._clock()
        self._looked_at = now
        self._write(lambda rows: queue_state.sweep(rows, now))
        self._write(lambda rows: queue_state.enter_new(rows, self.settings.votes_per_query))

    def _open(self, rows: Rows, assignment_id: str, teacher_id: str) -> Assignment:
        held = queue_answers.load(rows, assignment_id, teacher_id)
        if held.status not in ("open", "expired"):
            raise AlreadyAnswered(f"assignment {assignment_id} is {held.status} already", "claim the next question")
        return held

    def _extend(self, rows: Rows, held: Assignment) -> float:
        now = self._clock()
        until = now + self.settings.lease_s
        if held.status == "open":
            rows.run(_BEAT, now, until, held.id)
            return until
        placed = held.purpose in COUNTED
        if placed and queue_state.take(rows, held.query_id) is None:
            raise LeaseLost(
                f"the claim {held.id} ran out, and somebody else was asked", "answer it all the same: it is kept"
            )
        rows.run(_REVIVE, placed, now, until, held.id)
        return until

    def _seal(self, appended: int) -> None:
        """Seal events now and then; one thread does, the others go on."""
        self._unsealed += appended
        now = time.monotonic()
        if self._unsealed < _SEAL_EVERY_ROWS and now - self._sealed_at < _SEAL_EVERY_S:
            return
        if self._sealing.acquire(blocking=False):
            try:
                self._sealed_at, self._unsealed = now, 0
                self.log.seal()
            finally:
                self._sealing.release()
