"""The state of each query in the queue: how many votes it wants and has, how many people are on it.

Queries that a study adds come into the queue when it is next looked at, with the votes they have already. Every change
is one statement on one row, and the table's own constraints refuse a vote too many; nothing is read first and written
then. Left out: which person gets which query (``queue_claims.py``).
"""

from __future__ import annotations

from collections.abc import Sequence

from tropism.errors import DataError
from tropism.feedback.queue_records import Empty
from tropism.feedback.values import ASIDE
from tropism.store.rows import Rows

_LOCK = 0x54524F51
"""The advisory lock of whoever brings queries into the queue."""

# votes as ``teachers.pending`` counts them: people and programs with a current value of the kind asked for
_ENTER = """
INSERT INTO query_state (query_id, seq, ab_test, priority, wanted, votes, open, taken, late)
SELECT fresh.id, (SELECT coalesce(max(seq), -1) FROM query_state) + row_number() OVER (ORDER BY fresh.round, fresh.id),
    NULL, 0, ?, CASE WHEN fresh.votes < ? THEN fresh.votes ELSE ? END, 0,
    CASE WHEN fresh.votes < ? THEN fresh.votes ELSE ? END, 0
FROM (
    SELECT q.id, q.round, (
        SELECT count(DISTINCT e.teacher_id) FROM events e
        WHERE e.query_id = q.id AND e.kind = q.kind AND substr(e.target, 1, 1) <> '{aside}'
            AND NOT EXISTS (SELECT 1 FROM events n WHERE n.supersedes = e.id)
            AND NOT EXISTS (SELECT 1 FROM people p WHERE p.pseudonym = e.teacher_id AND p.erased_at IS NOT NULL)
    ) AS votes
    FROM queries q JOIN tasks t ON t.id = q.task_id
    WHERE {which} AND NOT EXISTS (SELECT 1 FROM query_state s WHERE s.query_id = q.id)
) AS fresh WHERE TRUE
ON CONFLICT (query_id) DO NOTHING
"""
_ENTER_NEW = _ENTER.format(aside=ASIDE, which="t.split <> 'test'")
_ENTER_ONE = _ENTER.format(aside=ASIDE, which="q.id = ?")

_OVERDUE = "SELECT id, query_id, placed FROM assignments WHERE status = 'open' AND expires_at < ? ORDER BY query_id"
_EXPIRED = "UPDATE assignments SET status = 'expired', placed = FALSE WHERE id = ?"
_TAKE = """UPDATE query_state SET open = open + 1, taken = taken + 1 WHERE query_id = ? AND taken < wanted
RETURNING taken, ab_test"""
_UNLOCKED = "SELECT 1 FROM query_state WHERE query_id = ? FOR UPDATE SKIP LOCKED"
_GIVE_BACK = "UPDATE query_state SET open = open - 1, taken = taken - 1 WHERE query_id = ?"
_VOTE = "UPDATE query_state SET open = open - 1, votes = votes + 1 WHERE query_id = ?"
_UNVOTE = "UPDATE query_state SET open = open + 1, votes = votes - 1 WHERE query_id = ?"
_DROP_VOTE = "UPDATE query_state SET votes = votes - 1, taken = taken - 1 WHERE query_id = ?"
_THEIRS = """
SELECT id, query_id, status, placed FROM assignments
WHERE teacher_id = ? AND status IN ('open', 'submitted') ORDER BY query_id
"""
_UNPLACE = "UPDATE assignments SET placed = FALSE, status = ? WHERE id = ?"
_NO_DRAFTS = "DELETE FROM drafts WHERE assignment_id IN (SELECT id FROM assignments WHERE teacher_id = ?)"
_VOTE_IF_ROOM = """UPDATE query_state SET votes = votes + 1, taken = taken + 1
WHERE query_id = ? AND taken < wanted"""
_LATE = "UPDATE query_state SET late = late + ? WHERE query_id = ?"
_WANT = "UPDATE query_state SET wanted = ? WHERE query_id = ? AND wanted < ?"
_AB_TEST = "UPDATE query_state SET ab_test = ? WHERE query_id = ?"
_PRIORITY = "UPDATE query_state SET priority = ? WHERE query_id = ?"
_ROOM = "SELECT coalesce(sum(wanted - taken), 0) FROM query_state WHERE taken < wanted"
_HELD = "SELECT count(*) FROM assignments WHERE status = 'open' AND placed"
_COUNTS = """SELECT count(*), coalesce(sum(wanted), 0), coalesce(sum(votes), 0), coalesce(sum(open), 0),
coalesce(sum(late), 0), coalesce(sum(CASE WHEN votes >= wanted THEN 1 ELSE 0 END), 0) FROM query_state"""


def enter_new(rows: Rows, votes: int) -> int:
    """Take in the queries that are not in the queue yet, but those on test tasks. Returns how many.

    In a transaction of its own, like ``want``: they wait for one another.
    """
    _take_turn(rows)
    return rows.run(_ENTER_NEW, votes, votes, votes, votes, votes)


def want(
    rows: Rows, query_ids: Sequence[str], votes: int, base: int, ab_test: str | None, priority: int | None
) -> None:
    """Raise how many people must answer these queries, test tasks' too; it is never lowered.

    Errors: DataError if a query is missing.
    """
    _take_turn(rows)
    for query_id in sorted(set(query_ids)):
        rows.run(_ENTER_ONE, base, base, base, base, base, query_id)
        if rows.one("SELECT 1 FROM query_state WHERE query_id = ?", query_id) is None:
            raise DataError(f"no query {query_id!r} in this study", "add the query first")
        rows.run(_WANT, votes, query_id, votes)
        if ab_test is not None:
            rows.run(_AB_TEST, ab_test, query_id)
        if priority is not None:
            rows.run(_PRIORITY, priority, query_id)


def sweep(rows: Rows, now: float) -> int:
    """Give back the places of claims whose lease has run out, in a transaction of its own. Returns how many."""
    overdue = rows.all(f"{_OVERDUE} FOR UPDATE SKIP LOCKED" if rows.postgres else _OVERDUE, now)
    for assignment_id, query_id, placed in overdue:
        rows.run(_EXPIRED, assignment_id)
        if placed:
            give_back(rows, query_id)
    return len(overdue)


def take(rows: Rows, query_id: str) -> tuple[int, str | None] | None:
    """Take a place of a query: how many are taken now, and its A/B test. None if there was none left."""
    found = rows.one(_TAKE, query_id)
    return None if found is None else (int(found[0]), found[1])


def take_if_unlocked(rows: Rows, query_id: str) -> tuple[int, str | None] | None:
    """``take``, but None, too, where somebody is just about that query: for whoever holds other queries already."""
    if rows.postgres and rows.one(_UNLOCKED, query_id) is None:
        return None
    return take(rows, query_id)


def give_back(rows: Rows, query_id: str) -> None:
    """Somebody is no longer on a query."""
    rows.run(_GIVE_BACK, query_id)


def vote(rows: Rows, query_id: str, placed: bool) -> bool:
    """Count a vote: on its own place, or on a free one where it has none. False if there is none: it is late."""
    if placed:
        rows.run(_VOTE, query_id)
        return True
    if rows.run(_VOTE_IF_ROOM, query_id):
        return True
    rows.run(_LATE, 1, query_id)
    return False


def unvote(rows: Rows, query_id: str) -> None:
    """A vote was taken back, and whoever gave it is on the query again."""
    rows.run(_UNVOTE, query_id)


def leave(rows: Rows, teacher_id: str) -> int:
    """Somebody has left: what they hold is free, their drafts go, and the queries they voted on want one vote more
    again. Returns how many votes no longer count."""
    dropped = 0
    for assignment_id, query_id, status, placed in rows.all(_THEIRS, teacher_id):
        if placed:
            rows.run(_DROP_VOTE if status == "submitted" else _GIVE_BACK, query_id)
            dropped += status == "submitted"
        rows.run(_UNPLACE, "expired" if status == "open" else status, assignment_id)
    rows.run(_NO_DRAFTS, teacher_id)
    return dropped


def not_late(rows: Rows, query_id: str) -> None:
    """A late answer was taken back."""
    rows.run(_LATE, -1, query_id)


def empty(rows: Rows, elsewhere: bool) -> Empty:
    """Why somebody got nothing. ``elsewhere``: there was something of another kind for them."""
    room = int((rows.one(_ROOM) or (0,))[0])
    held = int((rows.one(_HELD) or (0,))[0])
    if elsewhere:
        return Empty("wrong_kind", room, held)
    if room:
        return Empty("yours_are_done", room, held)
    if held:
        return Empty("all_claimed", room, held)
    asked = rows.one("SELECT 1 FROM query_state LIMIT 1") is not None
    return Empty("done" if asked else "nothing_asked", room, held)


def _take_turn(rows: Rows) -> None:
    """On PostgreSQL two processes must not number the same queries at once."""
    if rows.postgres:
        rows.run(f"SELECT pg_advisory_xact_lock({_LOCK})")


def counts(rows: Rows) -> dict[str, int]:
    """Sums over all queries: ``queries``, ``wanted``, ``votes``, ``open``, ``late``, ``complete``."""
    found = rows.one(_COUNTS) or (0,) * 6
    names = ("queries", "wanted", "votes", "open", "late", "complete")
    return {name: int(value) for name, value in zip(names, found, strict=True)}
