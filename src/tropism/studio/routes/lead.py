"""The lead's pages: progress, guidelines, disagreements, people, invitations, gold."""

from __future__ import annotations

import uuid
from typing import Annotated

import sqlalchemy as sa
from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from tropism.feedback.projection import read_queries
from tropism.feedback.records import Answer
from tropism.feedback.values import slot_names
from tropism.store import schema
from tropism.studio import accounts, guidelines, oversight
from tropism.studio.audit import note
from tropism.studio.auth import Here, Lead, LeadReads, Reviewer, ReviewerReads
from tropism.studio.clips import CLIP, FILES
from tropism.studio.markdown import render
from tropism.studio.problems import ApiError, reply
from tropism.studio.roles import rank
from tropism.studio.routes import answers_lead as told
from tropism.studio.routes.answers import Listed
from tropism.studio.routes.forms import Adjudication, Gold, Guideline, Invitation, Limit, Number, PersonChange

router = APIRouter(tags=["lead"])
Cursor = Annotated[str | None, Query(max_length=200)]


@router.get("/lead/progress", response_model=told.Progress)
def progress(studio: Here, _caller: LeadReads) -> Response:
    """How far the queue is."""
    studio.queue.counts()  # takes in what the study has asked since
    with studio.database.read() as connection:
        return reply(oversight.progress(connection))


@router.get("/lead/guidelines", response_model=Listed[told.GuidelineVersion])
def guideline_versions(studio: Here, _caller: LeadReads, after: Number = None, limit: Limit = 50) -> Response:
    """Versions of the guideline, newest first."""
    with studio.database.read() as connection:
        items = guidelines.versions(connection, after, limit)
    return reply({"items": items, "next": items[-1]["version"] if len(items) == limit else None})


@router.post("/lead/guidelines", response_model=told.GuidelineMade)
def publish_guideline(studio: Here, caller: Lead, form: Guideline) -> Response:
    """A new version; who claims a question from now on sees it."""
    with studio.database.write() as connection:
        version = guidelines.publish(connection, caller, form.text)
    return reply({"version": version, "html": render(form.text)})


@router.post("/lead/guidelines/preview", response_model=told.Html)
def preview_guideline(_studio: Here, _caller: LeadReads, form: Guideline) -> Response:
    """How a text would look. It changes nothing."""
    return reply({"html": render(form.text)})


@router.get("/lead/disagreements", response_model=Listed[told.Disagreement])
def disagreements(studio: Here, caller: ReviewerReads, after: Cursor = None, limit: Limit = 20) -> Response:
    """Questions that people answered differently, but those that the reader may still judge."""
    hidden = studio.blind(caller).queries
    with studio.database.read() as connection:
        items, following = oversight.disagreements(connection, hidden, after, limit)
    hidden = studio.reveal(caller, [item["query"] for item in items]).queries
    items = [item for item in items if item["query"] not in hidden]
    for item in items:
        base = f"/api/v1/lead/disagreements/{item['query']}/clips"
        for candidate in item["candidates"]:
            if candidate["viewer"] == "clip":
                candidate["clip"] = {
                    "h264": f"{base}/{candidate['slot']}/clip.mp4", "vp9": f"{base}/{candidate['slot']}/clip.webm",
                    "poster": f"{base}/{candidate['slot']}/still.png", "about": f"{base}/{candidate['slot']}/clip.json",
                }  # fmt: skip
    return reply({"items": items, "next": following})


@router.get("/lead/disagreements/{query}/clips/{slot}/{file}", response_class=FileResponse, responses=CLIP)
def clip(studio: Here, caller: ReviewerReads, query: str, slot: str, file: str) -> Response:
    """A file of the clip in a slot of a question."""
    studio.reveal(caller, [query]).check(query)
    with studio.database.read() as connection:
        known = connection.execute(sa.select(schema.queries.c.id).where(schema.queries.c.id == query)).first()
        asked = read_queries(connection, [query])[query] if known is not None else None
    names = () if asked is None else slot_names(asked.kind, len(asked.candidate_ids))
    segment = studio.presenter.shown([asked])[0].clips[names.index(slot)] if asked and slot in names else None
    if segment is None:
        raise ApiError(404, "not_found", f"no clip in slot {slot!r:.40}", "take the addresses of the list")
    path = studio.clips.file(segment, file)
    return FileResponse(path, media_type=FILES[file], headers={"Cache-Control": "private, max-age=3600"})


@router.post("/lead/adjudications/{query}", response_model=told.Adjudicated)
def adjudicate(studio: Here, caller: Reviewer, query: str, form: Adjudication) -> Response:
    """Settle a disagreement by one more vote, in canonical slots; an own earlier vote is superseded."""
    studio.blind(caller, [query]).check(query)
    with studio.database.read() as connection:
        row = connection.execute(sa.select(schema.queries.c.kind).where(schema.queries.c.id == query)).first()
    if row is None:
        raise ApiError(404, "not_found", f"no query {query!r:.80}", "lead/disagreements lists them")
    answer = Answer({"kind": row.kind, **form.value}, form.text)
    stored = studio.queue.adjudicate(query, caller.pseudonym, str(uuid.uuid4()), [answer])
    with studio.database.write() as connection:
        note(connection, caller.account_id, "vote.adjudicate", query, {"event": stored.event_ids[0]})
    studio.stirred.set()
    return reply({"event": stored.event_ids[0]})


@router.get("/lead/people", response_model=Listed[told.Person])
def people(studio: Here, _caller: LeadReads, after: Cursor = None, limit: Limit = 100) -> Response:
    """Who takes part, with their work in numbers."""
    with studio.database.read() as connection:
        items = oversight.people(connection, after, limit)
    return reply({"items": items, "next": items[-1]["name"] if len(items) == limit else None})


@router.patch("/lead/people/{id_}", response_model=told.Person)
def change_person(studio: Here, caller: Lead, id_: str, form: PersonChange) -> Response:
    """Another role, or no access any more; sessions of whoever loses access end."""
    with studio.database.write() as connection:
        accounts.change_person(connection, caller, id_, form.role, form.status)
        if form.status == "disabled":
            studio.sessions.end_all_in(connection, id_)
        (item,) = oversight.people(connection, None, 1, only=id_)
    studio.sessions.forget()
    return reply(item)


@router.post("/lead/invitations", response_model=told.Invited)
def invite(request: Request, studio: Here, caller: Lead, form: Invitation) -> Response:
    """A link that makes one account; it is shown this once."""
    if rank(form.role) >= rank(caller.role) and caller.role != "admin":
        raise ApiError(403, "not_allowed", f"a {caller.role} invites to roles below", "ask an administrator")
    token, until = accounts.invite(studio.database, form.role, caller.account_id, studio.settings.invitation_s)
    return reply({"url": f"{request.url.scheme}://{request.url.netloc}/#/invitation/{token}", "expires_at": until})


@router.post("/lead/gold/{query}", status_code=204)
def gold(studio: Here, caller: Lead, query: str, form: Gold) -> Response:
    """Note the right answer to a question, or (null) that there is none any more."""
    if form.value is not None:
        studio.queue.set_gold(query, form.value, caller.account_id)
    with studio.database.write() as connection:
        if form.value is None:
            connection.execute(sa.delete(schema.gold).where(schema.gold.c.query_id == query))
        note(connection, caller.account_id, "gold.set" if form.value is not None else "gold.clear", query)
    return Response(status_code=204)
