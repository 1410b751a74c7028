"""Judging: claim, submit, skip, undo, drafts, clips. The path of every vote, so little is done in it.

Votes go through ``feedback.queue``; what a person sees is ``presenting.py``'s. Left out: the order of questions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter
from starlette.responses import FileResponse, Response

from tropism.digests import canonical_json
from tropism.feedback.queue_records import Claimed, Empty, Submitted
from tropism.feedback.records import Answer
from tropism.studio import guidelines
from tropism.studio.answering import answers
from tropism.studio.audit import noting
from tropism.studio.auth import Annotator, AnnotatorReads, Here, Viewer
from tropism.studio.clips import CLIP, FILES
from tropism.studio.markdown import render
from tropism.studio.own_work import own_work
from tropism.studio.problems import ApiError, reply
from tropism.studio.roles import Caller
from tropism.studio.routes import answers as told
from tropism.studio.routes.forms import Claim, Draft, Nothing, Skip, Submit
from tropism.studio.state import Studio

router = APIRouter(tags=["annotate"])


@dataclass(frozen=True)
class Said:
    """An answer that can be stored: of which kind the question is, and the values in canonical slots."""

    kind: str
    answers: list[Answer]


@router.post("/queue/claim", response_model=told.Claimed)
def claim(studio: Here, caller: Annotator, form: Claim) -> Response:
    """Questions to answer; those that are held already come first."""
    also = noting(caller.account_id, "queue.claim", "")
    claimed, empty = studio.queue.claim(caller.pseudonym, form.count, form.kinds, also=also)
    return given(studio, caller, claimed, empty)


def given(studio: Studio, caller: Caller, claimed: list[Claimed], empty: Empty | None) -> Response:
    """The answer to a claim."""
    items = _items(studio, caller.pseudonym, claimed)
    studio.counters.claims.inc(len(items))
    why = None if empty is None else {"reason": empty.reason, "open": empty.open, "claimed": empty.claimed}
    return reply({"items": items, "empty": why})


@router.post("/assignments/{id_}/submit", response_model=told.Stored)
def submit(studio: Here, caller: Annotator, id_: str, form: Submit) -> Response:
    """Store an answer, once for each ``submission_id``."""
    what = said(studio, caller, id_, form)
    also = noting(caller.account_id, "vote.submit", id_)
    return taken(
        studio, what, studio.queue.submit(id_, caller.pseudonym, str(form.submission_id), what.answers, also=also)
    )


def said(studio: Studio, caller: Caller, id_: str, form: Submit) -> Said:
    """What a submit says, checked. Errors: NotYours; ApiError (400) for values that do not fit the question."""
    held = studio.assignments.find(id_, caller.pseudonym)
    (shown,) = studio.presenter.shown([held.query])
    remarks = [remark.model_dump() for remark in form.extra]
    made = answers(held.query, held.shown_order, shown.form, form.value, form.text, remarks, form.duration_ms)
    return Said(held.query.kind, made)


def taken(studio: Studio, what: Said, stored: Submitted) -> Response:
    """The answer to a submit that is stored."""
    if not stored.again:
        studio.counters.submits.labels(what.kind).inc()
        studio.stirred.set()
    return reply({"stored": True, "late": stored.late, "undo_until": stored.undo_until, "again": stored.again})


@router.post("/assignments/{id_}/skip", response_model=told.Skipped)
def skip(studio: Here, caller: Annotator, id_: str, form: Skip) -> Response:
    """Pass a question on to others."""
    stored = studio.queue.skip(
        id_, caller.pseudonym, str(form.submission_id), also=noting(caller.account_id, "vote.skip", id_)
    )
    return reply({"stored": True, "again": stored.again})


@router.post("/assignments/{id_}/undo", response_model=told.Undone)
def undo(studio: Here, caller: Annotator, id_: str, _form: Nothing) -> Response:
    """Take an answer back and hold the question again."""
    claimed = studio.queue.undo(id_, caller.pseudonym, also=noting(caller.account_id, "vote.undo", id_))
    studio.stirred.set()
    return reply({"item": _items(studio, caller.pseudonym, [claimed])[0]})


@router.post("/assignments/{id_}/heartbeat", response_model=told.Held)
def heartbeat(studio: Here, caller: Annotator, id_: str, _form: Nothing) -> Response:
    """Hold a question longer."""
    return reply({"expires_at": studio.queue.heartbeat(id_, caller.pseudonym)})


@router.put("/assignments/{id_}/draft", status_code=204)
def draft(studio: Here, caller: Annotator, id_: str, form: Draft) -> Response:
    """Keep an unfinished answer; the next claim brings it back."""
    if len(canonical_json(form.body)) > studio.settings.draft_limit:
        limit = studio.settings.draft_limit
        raise ApiError(413, "too_large", f"a draft of more than {limit} bytes", "submit it, or shorten it", limit=limit)
    studio.queue.draft(id_, caller.pseudonym, form.body)
    return Response(status_code=204)


@router.post("/assignments/{id_}/release", status_code=204)
def release(studio: Here, caller: Annotator, id_: str, _form: Nothing) -> Response:
    """Give a question back unanswered."""
    studio.queue.release(id_, caller.pseudonym)
    return Response(status_code=204)


@router.get("/assignments/{id_}/clips/{key}/{file}", response_class=FileResponse, responses=CLIP)
def clip(studio: Here, caller: AnnotatorReads, id_: str, key: str, file: str) -> Response:
    """A file of the clip that is shown at a place of one's own question."""
    held = studio.assignments.find(id_, caller.pseudonym)
    (shown,) = studio.presenter.shown([held.query])
    place = int(key) - 1 if key.isascii() and key.isdecimal() and len(key) < 3 else -1
    segment = shown.clips[held.shown_order[place]] if 0 <= place < len(held.shown_order) else None
    if segment is None:
        raise ApiError(404, "not_found", f"no clip {key!r:.40}", "take the addresses of the item")
    path = studio.clips.file(segment, file)
    return FileResponse(path, media_type=FILES[file], headers={"Cache-Control": "private, max-age=3600"})


@router.get("/me", response_model=told.OwnWork)
def me(studio: Here, caller: AnnotatorReads) -> Response:
    """One's own work in numbers."""
    with studio.database.read() as connection:
        return reply(own_work(connection, caller.pseudonym))


@router.get("/guideline", response_model=told.GuidelineShown)
def guideline(studio: Here, _caller: Viewer) -> Response:
    """What to look for, in the version of now."""
    with studio.database.read() as connection:
        found = guidelines.newest(connection)
    version, text = found or (None, "")
    return reply({"version": version, "html": render(text)})


def _items(studio: Studio, pseudonym: str, claimed: list[Claimed]) -> list[dict[str, Any]]:
    shown = studio.presenter.shown([each.query for each in claimed])
    studio.assignments.remember(claimed, pseudonym)
    version = studio.guideline_version() if claimed else None
    return [studio.presenter.item(each, seen, version) for each, seen in zip(claimed, shown, strict=True)]
