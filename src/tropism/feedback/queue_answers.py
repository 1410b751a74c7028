"""Taking answers to claimed questions: checked events into the append-only log, and what taking them back leaves there.

An answer is stored with the assignment's state in one transaction, so it is there exactly once or not at all. Undo is a
retraction that supersedes the vote; the next answer supersedes the retraction. Left out: who is asked what.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tropism.errors import AlreadyAnswered, DataError, NotYours, UndoTooLate
from tropism.feedback import queue_state
from tropism.feedback.appending import event_row
from tropism.feedback.chain import event_digest, public_salt, text_digest
from tropism.feedback.queue_claims import Claims
from tropism.feedback.queue_records import COUNTED, Assignment, Claimed, Submitted
from tropism.feedback.records import Answer, Query
from tropism.feedback.values import ASIDE, Retraction, dump_value
from tropism.store.rows import Rows, from_json, to_json

ORIGIN = "studio"

# everything that an answer needs to know, in one question; ``?`` are the submission and the assignment
_LOAD = """
SELECT a.id, a.query_id, a.teacher_id, a.purpose, a.ordinal, a.shown_order, a.repeat_of, a.replaces, a.placed,
    a.expires_at, a.status, a.submitted_at, a.late, a.submission_id, a.event_ids, p.erased_at, s.salt,
    (SELECT d.assignment_id FROM drafts d WHERE d.assignment_id = a.id),
    (SELECT o.id FROM assignments o WHERE o.submission_id = ?)
FROM assignments a LEFT JOIN people p ON p.pseudonym = a.teacher_id
LEFT JOIN text_salts s ON s.teacher_id = a.teacher_id
WHERE a.id = ?
"""
_SUCCESSOR = "SELECT id FROM assignments WHERE replaces = ?"
_CLOSE = """
UPDATE assignments SET status = ?, placed = ?, late = ?, submitted_at = ?, submission_id = ?, event_ids = ?,
duration_ms = ? WHERE id = ?
"""
_UNDONE = "UPDATE assignments SET status = 'undone', placed = FALSE WHERE id = ?"
_NO_DRAFT = "DELETE FROM drafts WHERE assignment_id = ?"
# || '': SQLite would look a query's few events up among all that the person ever said
_HEAD = """
SELECT e.id, e.kind FROM events e WHERE e.query_id = ? AND e.teacher_id || '' = ? AND e.target = ?
AND NOT EXISTS (SELECT 1 FROM events n WHERE n.supersedes = e.id)
"""
_EVENT = """
INSERT INTO events (id, digest, kind, query_id, teacher_id, target, value, text_digest, supersedes, origin, duration_ms,
created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING
"""
_TEXT = "INSERT INTO event_texts (event_id, text) VALUES (?, ?)"
_TARGET = "SELECT target FROM events WHERE id = ?"
_NEWER = "SELECT id FROM events WHERE supersedes = ?"


@dataclass(frozen=True)
class Loaded(Assignment):
    """An assignment with what else an answer to it needs: whether its person has left, their salt, whether there is a
    draft, and which assignment has the submission already."""

    erased: bool
    salt: str | None
    has_draft: bool
    submitted_to: str | None


def load(rows: Rows, assignment_id: str, teacher_id: str, submission_id: str | None = None) -> Loaded:
    """An assignment, locked where the database locks rows. Errors: NotYours if it is not this person's."""
    found = rows.one(f"{_LOAD} FOR UPDATE OF a" if rows.postgres else _LOAD, submission_id, assignment_id)
    if found is None or found[2] != teacher_id:
        raise NotYours(f"no assignment {assignment_id!r} of teacher {teacher_id}", "claim a question first")
    id_, query_id, teacher, purpose, ordinal, order, repeat_of, replaces, placed, until, status, at, late, *rest = found
    submission, events, erased_at, salt, draft, submitted_to = rest
    return Loaded(
        id_, query_id, teacher, purpose, ordinal, tuple(from_json(order)), repeat_of, replaces, bool(placed), until,
        status, at, bool(late), submission, tuple(from_json(events)), erased_at is not None, salt, draft is not None,
        submitted_to,
    )  # fmt: skip


def prepare(query: Query, assignment: Assignment, answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """Checked events of an answer, still without what they supersede.

    Errors: DataError naming the value and the fix; an answer must hold a value of the kind that was asked for.
    """
    made = []
    for answer in answers:
        if answer.value is None:
            raise DataError(f"a skip of query {query.id} as an answer", "skip the assignment with Queue.skip")
        row = event_row(query, assignment.teacher_id, answer, None, ORIGIN)
        made.append({**row, "target": _aside(assignment) + row["target"]})
    if not any(row["kind"] == query.kind for row in made):
        kinds = ", ".join(row["kind"] for row in made) or "nothing"
        raise DataError(f"query {query.id} asks for a {query.kind} and was given {kinds}", f"give a {query.kind}")
    targets = [row["target"] for row in made]
    for target in targets:
        if targets.count(target) > 1:
            raise DataError(f"two values about {target!r} in one answer", "give one value for each slot and aspect")
    return made


def submit(
    rows: Rows,
    assignment: Loaded,
    submission_id: str,
    prepared: Sequence[dict[str, Any]],
    now: float,
    undo_s: float,
) -> Submitted:
    """Store an answer. Errors: AlreadyAnswered; DataError if the submission's id is another assignment's."""
    if _stored_before(assignment, submission_id):
        return _again(assignment, undo_s)
    ids = _append(rows, assignment, prepared, now)
    counted = assignment.purpose in COUNTED
    in_place = counted and queue_state.vote(rows, assignment.query_id, assignment.placed)
    late = counted and not in_place
    duration = next((row["duration_ms"] for row in prepared if row["duration_ms"] is not None), None)
    rows.run(_CLOSE, "submitted", in_place, late, now, submission_id, to_json(ids), duration, assignment.id)
    if assignment.has_draft:
        rows.run(_NO_DRAFT, assignment.id)
    return Submitted(tuple(ids), late, now + undo_s, again=False)


def skip(rows: Rows, assignment: Loaded, submission_id: str, now: float, undo_s: float) -> Submitted:
    """Close an assignment without an answer: no event, no vote, and the person is not asked again."""
    if _stored_before(assignment, submission_id):
        return _again(assignment, undo_s)
    if assignment.placed:
        queue_state.give_back(rows, assignment.query_id)
    rows.run(_CLOSE, "skipped", False, False, now, submission_id, "[]", None, assignment.id)
    if assignment.has_draft:
        rows.run(_NO_DRAFT, assignment.id)
    return Submitted((), False, now + undo_s, again=False)


def undo(rows: Rows, claims: Claims, assignment: Loaded, now: float) -> Claimed:
    """Take an answer or a skip back; the question is open again. Doing it twice gives the same new assignment.

    Errors: UndoTooLate; NotYours if there is nothing to take back.
    """
    if assignment.status == "undone":
        successor = rows.one(_SUCCESSOR, assignment.id)
        assert successor is not None
        new = load(rows, successor[0], assignment.teacher_id)
        return Claimed(new.id, claims.query(rows, new.query_id), new.shown_order, new.purpose, new.expires_at)
    if assignment.status not in ("submitted", "skipped") or assignment.submitted_at is None:
        raise NotYours(f"assignment {assignment.id} has no answer to take back", "answer it first")
    undo_s = claims.settings.undo_s
    if not now <= assignment.submitted_at + undo_s:
        raise UndoTooLate(
            f"assignment {assignment.id} was answered {now - assignment.submitted_at:.0f} s ago",
            f"an answer can be taken back for {undo_s:g} s; tell whoever leads the study",
        )
    _retract(rows, assignment, now)
    rows.run(_UNDONE, assignment.id)
    placed = assignment.placed
    if placed:
        queue_state.unvote(rows, assignment.query_id)
    elif assignment.late:
        queue_state.not_late(rows, assignment.query_id)
    elif assignment.status == "skipped" and assignment.purpose in COUNTED:
        placed = queue_state.take(rows, assignment.query_id) is not None
    return claims.reopen(rows, assignment, placed, now)


def _aside(assignment: Assignment) -> str:
    """How the targets of answers begin that say something about the person, not about the candidates."""
    if assignment.purpose == "gold":
        return f"{ASIDE}gold/"
    return f"{ASIDE}repeat/{assignment.repeat_of}/" if assignment.purpose == "repeat" else ""


def _stored_before(assignment: Loaded, submission_id: str) -> bool:
    if assignment.submission_id == submission_id:
        return True
    if assignment.status not in ("open", "expired"):
        what = {"submitted": "answered", "skipped": "skipped", "undone": "taken back"}[assignment.status]
        raise AlreadyAnswered(
            f"assignment {assignment.id} was {what} already, under another submission", "claim the next question"
        )
    if assignment.submitted_to is not None:
        raise DataError(
            f"submission {submission_id!r} is of assignment {assignment.submitted_to}",
            "give every answer an id of its own",
        )
    return False


def _again(assignment: Assignment, undo_s: float) -> Submitted:
    assert assignment.submitted_at is not None
    return Submitted(assignment.event_ids, assignment.late, assignment.submitted_at + undo_s, again=True)


def _append(rows: Rows, assignment: Loaded, prepared: Sequence[dict[str, Any]], now: float) -> list[str]:
    if assignment.erased:
        raise DataError(f"teacher {assignment.teacher_id!r} was erased", "register the person again")
    salt = assignment.salt if assignment.salt is not None else public_salt(assignment.teacher_id)
    # who has said nothing before is not asked for: the index of first votes knows
    is_first = assignment.replaces is None and assignment.purpose != "adjudication"
    ids = []
    for row in prepared:
        text = row["text"]
        event = {key: value for key, value in row.items() if key != "text"}
        event["text_digest"] = None if text is None else text_digest(salt, text)
        stored = _insert(rows, event, text, now) if is_first else None
        ids.append(_insert_after(rows, assignment, event, text, now) if stored is None else stored)
    return ids


def _insert_after(rows: Rows, assignment: Assignment, event: dict[str, Any], text: str | None, now: float) -> str:
    """Append what may follow something that the person has said before. Errors: AlreadyAnswered if it may not."""
    head = rows.one(_HEAD, event["query_id"], event["teacher_id"], event["target"])
    if head is not None and head[0] == event_digest(event)[:24]:  # said before, from elsewhere
        return str(head[0])
    # an answer follows an undo, and whoever adjudicates may have voted before; nobody else answers twice
    if head is not None and head[1] != "retraction" and assignment.purpose != "adjudication":
        raise AlreadyAnswered(
            f"teacher {event['teacher_id']} has answered query {event['query_id']} outside the queue (event {head[0]})",
            "skip the question, or correct that event",
        )
    stored = _insert(rows, {**event, "supersedes": None if head is None else head[0]}, text, now)
    if stored is None:
        raise AlreadyAnswered(f"query {event['query_id']} was answered elsewhere in this moment", "look at it again")
    return stored


def _insert(rows: Rows, event: Mapping[str, Any], text: str | None, now: float) -> str | None:
    """The event's id, or None if it, or another first vote in its place, is there already."""
    name = event_digest(event)
    new = rows.run(
        _EVENT, name[:24], name, event["kind"], event["query_id"], event["teacher_id"], event["target"],
        to_json(event["value"]), event["text_digest"], event["supersedes"], event["origin"], event["duration_ms"], now,
    )  # fmt: skip
    if not new:
        return None
    if text is not None:
        rows.run(_TEXT, name[:24], text)
    return name[:24]


def _retract(rows: Rows, assignment: Assignment, now: float) -> None:
    for event_id in assignment.event_ids:
        target = rows.one(_TARGET, event_id)
        newer = rows.one(_NEWER, event_id)
        assert target is not None
        if newer is not None:
            raise UndoTooLate(f"event {event_id} was corrected already, by {newer[0]}", f"correct {newer[0]}")
        event = {
            "kind": "retraction",
            "query_id": assignment.query_id,
            "teacher_id": assignment.teacher_id,
            "target": target[0],
            "value": dump_value(Retraction()),
            "text_digest": None,
            "supersedes": event_id,
            "origin": ORIGIN,
            "duration_ms": None,
        }
        if _insert(rows, event, None, now) is None:
            raise UndoTooLate(f"event {event_id} was corrected in this moment", "look at it again")
