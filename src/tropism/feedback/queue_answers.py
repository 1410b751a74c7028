"""Taking answers to claimed questions: checked events into the append-only log, and what taking them back leaves there.

An answer is stored with the assignment's state in one transaction, so it is there exactly once or not at all. Undo is a
retraction that supersedes the vote; the next answer supersedes the retraction. Left out: who is asked what.
"""

from __future__ import annotations

from collections.abc import Sequence
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

_LOAD = """
SELECT id, query_id, teacher_id, purpose, ordinal, shown_order, repeat_of, replaces, placed, expires_at, status,
submitted_at, late, submission_id, event_ids FROM assignments WHERE id = ?
"""
_BY_SUBMISSION = "SELECT id FROM assignments WHERE submission_id = ?"
_SUCCESSOR = "SELECT id FROM assignments WHERE replaces = ?"
_CLOSE = """
UPDATE assignments SET status = ?, placed = ?, late = ?, submitted_at = ?, submission_id = ?, event_ids = ?,
duration_ms = ? WHERE id = ?
"""
_UNDONE = "UPDATE assignments SET status = 'undone', placed = FALSE WHERE id = ?"
_NO_DRAFT = "DELETE FROM drafts WHERE assignment_id = ?"
_WHO = """
SELECT p.erased_at, s.salt FROM teachers t LEFT JOIN people p ON p.pseudonym = t.id
LEFT JOIN text_salts s ON s.teacher_id = t.id WHERE t.id = ?
"""
_HEAD = """
SELECT e.id, e.kind FROM events e WHERE e.query_id = ? AND e.teacher_id = ? AND e.target = ?
AND NOT EXISTS (SELECT 1 FROM events n WHERE n.supersedes = e.id)
"""
_EVENT = """
INSERT INTO events (id, digest, kind, query_id, teacher_id, target, value, text_digest, supersedes, origin, duration_ms,
created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_TEXT = "INSERT INTO event_texts (event_id, text) VALUES (?, ?)"
_TARGET = "SELECT target FROM events WHERE id = ?"
_NEWER = "SELECT id FROM events WHERE supersedes = ?"


def load(rows: Rows, assignment_id: str, teacher_id: str) -> Assignment:
    """An assignment, locked where the database locks rows. Errors: NotYours if it is not this person's."""
    found = rows.one(f"{_LOAD} FOR UPDATE" if rows.postgres else _LOAD, assignment_id)
    if found is None or found[2] != teacher_id:
        raise NotYours(f"no assignment {assignment_id!r} of teacher {teacher_id}", "claim a question first")
    id_, query_id, teacher, purpose, ordinal, order, repeat_of, replaces, placed, until, status, at, late, *rest = found
    submission, events = rest
    return Assignment(
        id_, query_id, teacher, purpose, ordinal, tuple(from_json(order)), repeat_of, replaces, bool(placed), until,
        status, at, bool(late), submission, tuple(from_json(events)),
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
    assignment: Assignment,
    submission_id: str,
    prepared: Sequence[dict[str, Any]],
    now: float,
    undo_s: float,
) -> Submitted:
    """Store an answer. Errors: AlreadyAnswered; DataError if the submission's id is another assignment's."""
    if _stored_before(rows, assignment, submission_id):
        return _again(assignment, undo_s)
    ids = _append(rows, assignment, prepared, now)
    counted = assignment.purpose in COUNTED
    in_place = counted and queue_state.vote(rows, assignment.query_id, assignment.placed)
    late = counted and not in_place
    duration = next((row["duration_ms"] for row in prepared if row["duration_ms"] is not None), None)
    rows.run(_CLOSE, "submitted", in_place, late, now, submission_id, to_json(ids), duration, assignment.id)
    rows.run(_NO_DRAFT, assignment.id)
    return Submitted(tuple(ids), late, now + undo_s, again=False)


def skip(rows: Rows, assignment: Assignment, submission_id: str, now: float, undo_s: float) -> Submitted:
    """Close an assignment without an answer: no event, no vote, and the person is not asked again."""
    if _stored_before(rows, assignment, submission_id):
        return _again(assignment, undo_s)
    if assignment.placed:
        queue_state.give_back(rows, assignment.query_id)
    rows.run(_CLOSE, "skipped", False, False, now, submission_id, "[]", None, assignment.id)
    rows.run(_NO_DRAFT, assignment.id)
    return Submitted((), False, now + undo_s, again=False)


def undo(rows: Rows, claims: Claims, assignment: Assignment, now: float) -> Claimed:
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


def _stored_before(rows: Rows, assignment: Assignment, submission_id: str) -> bool:
    if assignment.submission_id == submission_id:
        return True
    if assignment.status not in ("open", "expired"):
        what = {"submitted": "answered", "skipped": "skipped", "undone": "taken back"}[assignment.status]
        raise AlreadyAnswered(
            f"assignment {assignment.id} was {what} already, under another submission", "claim the next question"
        )
    other = rows.one(_BY_SUBMISSION, submission_id)
    if other is not None:
        raise DataError(
            f"submission {submission_id!r} is of assignment {other[0]}", "give every answer an id of its own"
        )
    return False


def _again(assignment: Assignment, undo_s: float) -> Submitted:
    assert assignment.submitted_at is not None
    return Submitted(assignment.event_ids, assignment.late, assignment.submitted_at + undo_s, again=True)


def _append(rows: Rows, assignment: Assignment, prepared: Sequence[dict[str, Any]], now: float) -> list[str]:
    who = rows.one(_WHO, assignment.teacher_id)
    if who is None or who[0] is not None:
        raise DataError(f"teacher {assignment.teacher_id!r} was erased", "register the person again")
    salt = who[1] if who[1] is not None else public_salt(assignment.teacher_id)
    ids = []
    for row in prepared:
        text = row["text"]
        event = {key: value for key, value in row.items() if key != "text"}
        event["text_digest"] = None if text is None else text_digest(salt, text)
        head = rows.one(_HEAD, event["query_id"], event["teacher_id"], event["target"])
        if head is not None:
            if event_digest(event)[:24] == head[0]:  # said before, from elsewhere
                ids.append(head[0])
                continue
            # an answer after an undo, and whoever adjudicates may have voted before; nobody else answers twice
            if head[1] != "retraction" and assignment.purpose != "adjudication":
                raise AlreadyAnswered(
                    f"teacher {event['teacher_id']} has answered query {event['query_id']} outside the queue "
                    f"(event {head[0]})",
                    "skip the question, or correct that event",
                )
            event["supersedes"] = head[0]
        ids.append(_insert(rows, event, text, now))
    return ids


def _insert(rows: Rows, event: dict[str, Any], text: str | None, now: float) -> str:
    name = event_digest(event)
    rows.run(
        _EVENT, name[:24], name, event["kind"], event["query_id"], event["teacher_id"], event["target"],
        to_json(event["value"]), event["text_digest"], event["supersedes"], event["origin"], event["duration_ms"], now,
    )  # fmt: skip
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
        _insert(rows, event, None, now)
