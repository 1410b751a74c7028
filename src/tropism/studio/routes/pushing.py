"""Putting questions from outside into the queue: tasks, candidates and queries by their places in the request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from fastapi import APIRouter
from starlette.responses import Response

from tropism.feedback.chance import shuffled
from tropism.feedback.records import Candidate, Provenance, Query, Task
from tropism.store import schema
from tropism.studio.audit import note
from tropism.studio.auth import Engineer, Here
from tropism.studio.blinding import mark_looked
from tropism.studio.problems import ApiError, reply
from tropism.studio.routes import answers_run as told
from tropism.studio.routes.forms import NewCandidate, NewQuery, NewTask, Pushed

router = APIRouter(tags=["engineer"])
NO_CANDIDATES = ("demonstration",)


@router.post("/queries", response_model=told.Pushed)
def push(studio: Here, caller: Engineer, form: Pushed) -> Response:
    """Add tasks, candidates and queries in one transaction; what is there already stays as it is."""
    tasks = [_task(each, place) for place, each in enumerate(form.tasks)]
    candidates = [_candidate(each, tasks, place) for place, each in enumerate(form.candidates)]
    queries = [_query(each, tasks, candidates, place) for place, each in enumerate(form.queries)]
    count = sa.select(sa.func.count()).select_from(schema.queries)
    with studio.database.write() as connection:
        before = connection.execute(count).scalar_one()
        studio.log.put_in(connection, tasks, candidates, queries)
        mark_looked(connection, {query.id: query.task_id for query in queries})
        new = connection.execute(count).scalar_one() - before
        note(connection, caller.account_id, "queries.push", "", {"queries": len(queries), "new": new})
    found: dict[str, Any] = {"tasks": [t.id for t in tasks], "candidates": [c.id for c in candidates]}
    return reply(found | {"queries": [q.id for q in queries], "new": new})


def _task(form: NewTask, place: int) -> Task:
    payload = form.payload
    prompt, messages = payload.get("prompt"), payload.get("messages")
    chat = isinstance(messages, list) and all(
        isinstance(m, Mapping) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str)
        for m in messages
    )
    if not (isinstance(prompt, str) and prompt.strip()) or not (messages is None or chat):
        fix = 'give {"prompt": "…"}, and for a chat "messages": [{"role": "user", "content": "…"}] beside it'
        raise ApiError(400, "bad_value", f"tasks[{place}].payload has no usable prompt", fix)
    _check_form(payload.get("form"), place)
    return Task(form.split, payload)


def _check_form(form: Any, place: int) -> None:
    """A form as in an item: anything else would fail only when somebody is asked."""
    if form is None:
        return
    bad = ApiError(400, "bad_value", f"tasks[{place}].payload.form is no form", "see Item in docs/studio-api.md")
    if not isinstance(form, Mapping) or not set(form) <= {"aspects", "labels", "strengths"}:
        raise bad
    labels, aspects = form.get("labels", ["good"]), form.get("aspects", [])
    if not isinstance(labels, list) or not labels or not all(isinstance(x, str) and x for x in labels):
        raise bad
    if not isinstance(aspects, list) or not isinstance(form.get("strengths", True), bool):
        raise bad
    for aspect in aspects:
        scale = aspect.get("scale") if isinstance(aspect, Mapping) and isinstance(aspect.get("name"), str) else None
        ends = isinstance(scale, list) and len(scale) == 2 and all(type(end) in (int, float) for end in scale)
        if scale is None or not ends or not scale[0] < scale[1] or set(aspect) != {"name", "scale"}:
            raise bad


def _candidate(form: NewCandidate, tasks: Sequence[Task], place: int) -> Candidate:
    text = form.content.get("text")
    if not isinstance(text, str):
        raise ApiError(400, "bad_value", f"candidates[{place}].content has no text", 'give {"text": "…"}')
    task = _id(form.task, tasks, f"candidates[{place}].task")
    return Candidate(task, form.kind, form.content, Provenance(f"api:{form.source}"))


def _query(form: NewQuery, tasks: Sequence[Task], candidates: Sequence[Candidate], place: int) -> Query:
    task = _id(form.task, tasks, f"queries[{place}].task")
    ids = tuple(_id(each, candidates, f"queries[{place}].candidates") for each in form.candidates)
    if len(set(ids)) < len(ids):
        raise ApiError(400, "bad_value", f"queries[{place}] has a candidate twice", "ask about different ones")
    if (form.kind in NO_CANDIDATES) != (not ids):
        need = "none" if form.kind in NO_CANDIDATES else "one or more"
        raise ApiError(400, "bad_value", f"queries[{place}] has {len(ids)} candidates", f"a {form.kind} has {need}")
    return Query(task, form.kind, ids, shuffled(len(ids), 0, "shown", *ids), form.round)


def _id(given: int | str, known: Sequence[Task | Candidate], where: str) -> str:
    """An id as it is, or the id of the record at a place of the request."""
    if isinstance(given, str):
        return given
    if not 0 <= given < len(known):
        raise ApiError(400, "bad_value", f"{where}: {given} of {len(known)}", "count from 0, or give an id")
    return known[given].id
