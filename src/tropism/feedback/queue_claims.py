"""Giving questions to people: what they hold already first, then gold questions and repeats where they are due, then
the query that wants votes most.

Where gold and repeats fall is a function of the person and the number of their question: in every stretch of questions
that holds one at the given rate there is exactly one, at a place drawn by a counter, so nobody can count their way to
it. What is due and not to be had (no gold question left, nothing old enough to repeat) is not made up for later, so
they are never more often. Left out: which queries deserve more votes (``quality``, which calls ``Queue.want``).
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from tropism.digests import digest
from tropism.errors import DataError
from tropism.feedback import queue_state
from tropism.feedback.chance import shuffled, uniform
from tropism.feedback.queue_records import REPEATABLE, Claimed, Empty, Purpose, QueueSettings
from tropism.feedback.records import Query
from tropism.store.rows import Rows, from_json, to_json

_PERSON = """
SELECT p.erased_at, (SELECT max(a.ordinal) FROM assignments a WHERE a.teacher_id = t.id)
FROM teachers t LEFT JOIN people p ON p.pseudonym = t.id WHERE t.id = ?
"""
_HELD = """
SELECT a.id, a.query_id, a.purpose, a.shown_order, a.status, d.body, q.kind, a.ordinal
FROM assignments a JOIN queries q ON q.id = a.query_id LEFT JOIN drafts d ON d.assignment_id = a.id
WHERE a.teacher_id = ? AND a.status IN ('open', 'expired') AND (a.status = 'open' OR a.purpose IN ('gold', 'repeat')
    OR EXISTS (SELECT 1 FROM query_state s WHERE s.query_id = a.query_id AND s.taken < s.wanted))
"""
_RENEW = "UPDATE assignments SET heartbeat_at = ?, expires_at = ? WHERE id = ?"
_REVIVE = "UPDATE assignments SET status = 'open', placed = ?, heartbeat_at = ?, expires_at = ? WHERE id = ?"
# what somebody has been asked, has settled, or has seen the answers to is not asked of them
_NOT_THEIRS = """NOT EXISTS (SELECT 1 FROM assignments a WHERE a.query_id = {query} AND a.teacher_id = ?
AND a.purpose <> 'repeat' AND a.status <> 'undone')
AND NOT EXISTS (SELECT 1 FROM seen n WHERE n.query_id = {query} AND n.teacher_id = ?)"""
_FREE = """SELECT s.query_id FROM query_state s JOIN queries q ON q.id = s.query_id
WHERE s.taken < s.wanted AND {not_theirs} {kinds} ORDER BY s.priority, s.taken, s.seq LIMIT 1"""
_PICK = """UPDATE query_state SET open = open + 1, taken = taken + 1 WHERE query_id = ({free})
RETURNING query_id, taken, ab_test"""
_GOLD = (
    "SELECT g.query_id FROM gold g JOIN queries q ON q.id = g.query_id WHERE {not_theirs} {kinds} ORDER BY g.query_id"
)
_REPEATS = """
SELECT a.id, a.query_id, a.shown_order FROM assignments a JOIN queries q ON q.id = a.query_id
WHERE a.teacher_id = ? AND a.ordinal <= ? AND a.status = 'submitted' AND a.purpose IN ('work', 'extra')
AND NOT EXISTS (SELECT 1 FROM assignments r WHERE r.repeat_of = a.id AND r.status <> 'undone')
AND NOT EXISTS (SELECT 1 FROM seen n WHERE n.query_id = a.query_id AND n.teacher_id = a.teacher_id) {kinds}
ORDER BY a.ordinal
"""
_INSERT = """
INSERT INTO assignments (id, query_id, teacher_id, purpose, ordinal, shown_order, repeat_of, replaces, placed,
claimed_at, heartbeat_at, expires_at, status, late, event_ids)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'open', FALSE, '[]')
"""
_QUERY = """
SELECT q.task_id, q.kind, q.round, s.candidate_id, s.shown_position
FROM queries q LEFT JOIN query_slots s ON s.query_id = q.id WHERE q.id = ? ORDER BY s.slot
"""


@dataclass(frozen=True)
class _Chosen:
    """What somebody is to be asked next."""

    query_id: str
    purpose: Purpose
    placed: bool = False
    repeat_of: str | None = None
    shown_order: tuple[int, ...] | None = None


class Claims:
    """Claims inside write transactions, for one queue's settings."""

    def __init__(self, settings: QueueSettings) -> None:
        self.settings = settings
        self._queries: dict[str, Query] = {}

    def claim(
        self, rows: Rows, teacher_id: str, count: int, kinds: Collection[str] | None, now: float
    ) -> tuple[list[Claimed], Empty | None]:
        """See ``Queue.claim``."""
        ordinal = check_person(rows, teacher_id)
        held = self._held(rows, teacher_id, count, kinds, now)
        while len(held) < count:
            chosen = self._choose(rows, teacher_id, kinds, ordinal)
            if chosen is None:
                break
            held.append(self._give(rows, teacher_id, chosen, ordinal, now))
            ordinal += 1
        if held:
            return held, None
        # of other kinds: what the person has put aside, or what nobody is on
        elsewhere = kinds is not None and (
            bool(rows.all(_HELD, teacher_id)) or self._free(rows, teacher_id, None) is not None
        )
        return [], queue_state.empty(rows, elsewhere)

    def query(self, rows: Rows, query_id: str) -> Query:
        """A query by its id; they never change, so the last ones are kept. Errors: DataError if it is missing."""
        known = self._queries.get(query_id)
        if known is not None:
            return known
        found = rows.all(_QUERY, query_id)
        if not found:
            raise DataError(f"no query {query_id!r} in this study", "add the query first")
        task_id, kind, round_ = found[0][:3]
        slots = [(row[3], row[4]) for row in found if row[3] is not None]
        shown = tuple(sorted(range(len(slots)), key=lambda slot: slots[slot][1]))
        if len(self._queries) > 10_000:
            self._queries.clear()
        made = Query(task_id, kind, tuple(slot[0] for slot in slots), shown, round_, query_id)
        return self._queries.setdefault(query_id, made)

    def reopen(self, rows: Rows, old: Any, placed: bool, now: float) -> Claimed:
        """A new assignment in the place of one that was taken back: the same question in the same order."""
        query = self.query(rows, old.query_id)
        id_ = digest([old.id, "again"])[:24]
        until = now + self.settings.lease_s
        rows.run(
            _INSERT, id_, old.query_id, old.teacher_id, old.purpose, old.ordinal, to_json(list(old.shown_order)),
            old.repeat_of, old.id, placed, now, now, until,
        )  # fmt: skip
        return Claimed(id_, query, old.shown_order, old.purpose, until)

    def open_adjudication(self, rows: Rows, id_: str, query_id: str, teacher_id: str, now: float) -> None:
        """An assignment beside those that are given out: whoever settles a disagreement sees all slots as they are."""
        ordinal = check_person(rows, teacher_id)
        order = list(range(len(self.query(rows, query_id).candidate_ids)))
        rows.run(
            _INSERT, id_, query_id, teacher_id, "adjudication", ordinal, to_json(order), None, None, False, now, now,
            now + self.settings.lease_s,
        )  # fmt: skip

    def _held(
        self, rows: Rows, teacher_id: str, count: int, kinds: Collection[str] | None, now: float
    ) -> list[Claimed]:
        """What the person has claimed before, under a new lease: what is theirs, then what ran out and can be again."""
        until = now + self.settings.lease_s
        # locked before any query is, and queries in one order: so two transactions never wait for one another
        theirs = rows.all(f"{_HELD} FOR UPDATE OF a" if rows.postgres else _HELD, teacher_id)
        # not in SQL: for the order of questions SQLite would read all that a person ever did
        theirs.sort(key=lambda row: (row[4] == "expired", row[7]))
        wanted = [row for row in theirs if kinds is None or row[6] in kinds][:count]
        lost = set()
        for id_, query_id, purpose, _, status, *_ in sorted(wanted, key=lambda row: row[1]):
            if status == "open":
                rows.run(_RENEW, now, until, id_)
            elif not self._revive(rows, id_, query_id, purpose, now, until):
                lost.add(id_)
        return [
            Claimed(
                id_, self.query(rows, query_id), tuple(from_json(order)), purpose, until,
                None if draft is None else from_json(draft),
            )
            for id_, query_id, purpose, order, _, draft, *_ in wanted if id_ not in lost
        ]  # fmt: skip

    def _revive(self, rows: Rows, id_: str, query_id: str, purpose: str, now: float, until: float) -> bool:
        placed = purpose not in ("gold", "repeat", "adjudication")
        if placed and queue_state.take(rows, query_id) is None:
            return False
        rows.run(_REVIVE, placed, now, until, id_)
        return True

    def _choose(self, rows: Rows, teacher_id: str, kinds: Collection[str] | None, ordinal: int) -> _Chosen | None:
        """What is due: gold, a repeat, or (also where those are not to be had) the next query that wants votes."""
        extra = due(self.settings, teacher_id, ordinal)
        chosen = None
        if extra == "gold":
            chosen = self._gold(rows, teacher_id, kinds, ordinal)
        elif extra == "repeat":
            chosen = self._repeat(rows, teacher_id, kinds, ordinal)
        return chosen or self._work(rows, teacher_id, kinds)

    def _work(self, rows: Rows, teacher_id: str, kinds: Collection[str] | None) -> _Chosen | None:
        free, values = _free_statement(rows, teacher_id, kinds)
        found = rows.one(_PICK.format(free=free), *values)
        return None if found is None else self._placed(found[0], int(found[1]), found[2])

    def _placed(self, query_id: str, taken: int, ab_test: str | None) -> _Chosen:
        purpose: Purpose = "extra" if taken > self.settings.votes_per_query else "work"
        return _Chosen(query_id, "ab" if ab_test is not None else purpose, placed=True)

    def _free(self, rows: Rows, teacher_id: str, kinds: Collection[str] | None) -> str | None:
        free, values = _free_statement(rows, teacher_id, kinds, lock=False)
        found = rows.one(free, *values)
        return None if found is None else found[0]

    def _gold(self, rows: Rows, teacher_id: str, kinds: Collection[str] | None, ordinal: int) -> _Chosen | None:
        """A gold question that the person has not met. Where its query still wants votes it is ordinary work whose
        answer happens to be known: the vote counts, and the query is not kept waiting for people who have met it."""
        which, values = _of_kinds(kinds)
        statement = _GOLD.format(not_theirs=_NOT_THEIRS.format(query="g.query_id"), kinds=which)
        found = rows.all(statement, teacher_id, teacher_id, *values)
        if not found:
            return None
        query_id = found[self._draw(len(found), "gold", teacher_id, ordinal)][0]
        place = queue_state.take_if_unlocked(rows, query_id)
        return _Chosen(query_id, "gold") if place is None else self._placed(query_id, *place)

    def _repeat(self, rows: Rows, teacher_id: str, kinds: Collection[str] | None, ordinal: int) -> _Chosen | None:
        """A question that the person has answered a while ago, once more, shown the other way round."""
        can = [kind for kind in REPEATABLE if kinds is None or kind in kinds]
        which, values = _of_kinds(can)
        found = rows.all(_REPEATS.format(kinds=which), teacher_id, ordinal - self.settings.repeat_after - 1, *values)
        if not found:
            return None
        id_, query_id, order = found[self._draw(len(found), "repeat", teacher_id, ordinal)]
        return _Chosen(query_id, "repeat", repeat_of=id_, shown_order=tuple(reversed(from_json(order))))

    def _draw(self, count: int, *key: Any) -> int:
        return int(uniform(self.settings.seed, *key) * count)

    def _give(self, rows: Rows, teacher_id: str, chosen: _Chosen, ordinal: int, now: float) -> Claimed:
        seed = self.settings.seed
        query = self.query(rows, chosen.query_id)
        id_ = digest([seed, "assignment", teacher_id, ordinal])[:24]
        order = chosen.shown_order
        if order is None:
            order = shuffled(len(query.candidate_ids), seed, "shown", id_)
        until = now + self.settings.lease_s
        rows.run(
            _INSERT, id_, chosen.query_id, teacher_id, chosen.purpose, ordinal, to_json(list(order)),
            chosen.repeat_of, None, chosen.placed, now, now, until,
        )  # fmt: skip
        return Claimed(id_, query, order, chosen.purpose, until)


def due(settings: QueueSettings, teacher_id: str, ordinal: int) -> Literal["gold", "repeat"] | None:
    """What a person's question number ``ordinal`` (from 0) should be beside work, if anything."""
    gold, repeat = (Fraction(rate).limit_denominator(10**6) for rate in (settings.gold_rate, settings.repeat_rate))
    rate = gold + repeat
    if rate == 0:
        return None
    k = math.floor(ordinal * rate)  # stretch k holds the questions from ceil(k / rate) to below ceil((k + 1) / rate)
    begin, end = math.ceil(k / rate), math.ceil((k + 1) / rate)
    if ordinal != begin + int(uniform(settings.seed, "extra", teacher_id, k) * (end - begin)):
        return None
    share, offset = gold / rate, Fraction(uniform(settings.seed, "which", teacher_id))
    return "gold" if math.floor((k + 1) * share + offset) > math.floor(k * share + offset) else "repeat"


def check_person(rows: Rows, teacher_id: str) -> int:
    """The number of a person's next question, from 0. Two claims of one person at once find the same number; the
    later one is refused its assignment's id, and done again. Errors: DataError if nobody goes by this id, or they have
    left."""
    found = rows.one(_PERSON, teacher_id)
    if found is None:
        raise DataError(f"no teacher {teacher_id!r} in this study", "register the person first")
    if found[0] is not None:
        raise DataError(f"teacher {teacher_id!r} was erased", "register the person again under a new pseudonym")
    return 0 if found[1] is None else int(found[1]) + 1


def _free_statement(
    rows: Rows, teacher_id: str, kinds: Collection[str] | None, lock: bool = True
) -> tuple[str, list[str]]:
    which, values = _of_kinds(kinds)
    free = _FREE.format(not_theirs=_NOT_THEIRS.format(query="s.query_id"), kinds=which)
    if rows.postgres and lock:  # a query that somebody else is just being given is passed over, not waited for
        free += " FOR UPDATE OF s SKIP LOCKED"
    return free, [teacher_id, teacher_id, *values]


def _of_kinds(kinds: Collection[str] | None) -> tuple[str, list[str]]:
    if kinds is None:
        return "", []
    values = sorted(set(kinds))
    return f"AND q.kind IN ({', '.join('?' * len(values))})" if values else "AND FALSE", values
