"""Watching the run: stages and curves, the stream, samples, reward models, lineage, the feedback as it comes."""

from __future__ import annotations

from typing import Annotated, Any, Final

import sqlalchemy as sa
from fastapi import APIRouter, Header, Query
from starlette.responses import Response, StreamingResponse

from tropism.errors import StoreError
from tropism.store import lineage, schema, trace
from tropism.studio import sampled
from tropism.studio.auth import EngineerReads, Here, Viewer
from tropism.studio.feed import feed
from tropism.studio.live import Live
from tropism.studio.problems import ApiError, reply
from tropism.studio.roles import Caller
from tropism.studio.routes import answers_run as told
from tropism.studio.routes.answers import Listed
from tropism.studio.routes.forms import Limit, Number
from tropism.studio.run_facts import read_run, read_stages
from tropism.studio.sampled import Page, Range, Wanted
from tropism.studio.state import Studio
from tropism.studio.stream import TYPES

router = APIRouter(tags=["engineer"])
Bound = Annotated[float | None, Query(allow_inf_nan=False)]
STREAM: Final = "text/event-stream"
EVENTS: Final[dict[int | str, dict[str, Any]]] = {200: {"content": {STREAM: {"schema": {"type": "string"}}}}}
NOTHING_YET: Final[dict[str, Any]] = {"stage": None, "items": [], "next": None, "hidden": 0}
"""A page of samples where no stage has made any."""
Short = Annotated[str | None, Query(max_length=200)]


@router.get("/runs", response_model=told.Run)
def runs(studio: Here, _caller: Viewer) -> Response:
    """The run: its stages, what it does at this moment, who runs it."""
    return reply(read_run(studio.facts, studio.database))


@router.get("/runs/{stage}/metrics", response_model=told.Curves)
def metrics(
    studio: Here,
    _caller: Viewer,
    stage: str,
    names: Annotated[str, Query(max_length=4000)] = "",
    points: Annotated[int, Query(ge=4, le=5000)] = 400,
) -> Response:
    """Curves of a stage, thinned to ``points``; ``names`` with commas between."""
    known = studio.curves.names(stage)
    wanted = [name for name in names.split(",") if name]
    for name in wanted:
        if name not in known:
            raise ApiError(404, "not_found", f"stage {stage!r:.80} has no metric {name!r:.80}", "names lists them")
    series = {name: studio.curves.series(stage, name, points) for name in wanted}
    return reply({"stage": stage, "names": known, "series": series})


@router.get("/stream", response_class=StreamingResponse, responses=EVENTS)
async def stream(
    live: Live,
    _caller: Viewer,
    types: Annotated[str, Query(max_length=200)] = ",".join(TYPES),
    last_event_id: Annotated[str | None, Header(max_length=64)] = None,
) -> Response:
    """What happens, as server-sent events; who comes back with their last id gets what came since."""
    wanted = [kind for kind in types.split(",") if kind]
    for kind in wanted:
        if kind not in TYPES:
            raise ApiError(400, "bad_request", f"no events of type {kind!r:.40}", f"choose of {', '.join(TYPES)}")
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(live.listen(last_event_id, wanted), media_type=STREAM, headers=headers)


@router.get("/samples", response_model=told.Samples)
def samples(
    studio: Here,
    caller: EngineerReads,
    stage: Short = None,
    round: Annotated[int | None, Query(ge=0, lt=2**31)] = None,
    step: Annotated[int | None, Query(ge=0, lt=2**53)] = None,
    reward_min: Bound = None,
    reward_max: Bound = None,
    length_min: Bound = None,
    length_max: Bound = None,
    kl_min: Bound = None,
    kl_max: Bound = None,
    text: Short = None,
    after: Annotated[str | None, Query(max_length=200)] = None,
    limit: Limit = 50,
) -> Response:
    """Rollouts of one improve stage (the newest, unless ``stage`` or ``round`` says which), filtered."""
    there = _folders(studio, "rollouts")
    wanted = stage or (f"improve-{round}" if round is not None else next(reversed(there), None))
    if wanted is None:
        return reply(NOTHING_YET)
    if wanted not in there:
        raise ApiError(404, "not_found", f"no rollouts of stage {wanted!r:.80}", f"there are: {', '.join(there)}")
    conditions = Wanted(Range(reward_min, reward_max), Range(length_min, length_max), Range(kl_min, kl_max), step, text)
    page = sampled.rollouts(there[wanted], conditions, studio.blind(caller).tasks, after, limit)
    return reply({"stage": wanted, **_seen(studio, caller, page)})


@router.get("/samples/side-by-side", response_model=told.SideBySide)
def side_by_side(
    studio: Here,
    caller: EngineerReads,
    round: Annotated[int | None, Query(ge=0, lt=2**31)] = None,
    after: Number = None,
    limit: Limit = 50,
) -> Response:
    """The evaluation's answers of all policies to the same tasks, of a round or the newest."""
    there = _folders(studio, "samples")
    wanted = f"evaluate-{round}" if round is not None else next(reversed(there), None)
    if wanted is None:
        return reply(NOTHING_YET)
    if wanted not in there:
        raise ApiError(404, "not_found", f"no samples of {wanted}", f"there are: {', '.join(there)}")
    page = sampled.side_by_side(there[wanted], studio.blind(caller).tasks, after or 0, limit)
    return reply({"stage": wanted, **_seen(studio, caller, page)})


@router.get("/reward-models", response_model=Listed[told.RewardModel])
def reward_models(studio: Here, _caller: EngineerReads) -> Response:
    """Reward models with what was measured of them."""
    return reply({"items": _reward_models(studio), "next": None})


@router.get("/reward-models/{id_}", response_model=told.RewardModel)
def reward_model(studio: Here, _caller: EngineerReads, id_: str) -> Response:
    """One reward model."""
    for model in _reward_models(studio):
        if model["id"] == id_:
            return reply(model)
    raise ApiError(404, "not_found", f"no reward model {id_!r:.80}", "reward-models lists them")


@router.get("/lineage", response_model=told.Graph)
def whole_lineage(studio: Here, _caller: EngineerReads) -> Response:
    """Event sets, reward models, policies and evaluations, and what went into what."""
    found = lineage.graph(studio.database)
    nodes = [{"id": n.id, "kind": n.kind, "round": n.round, "values": dict(n.values)} for n in found.nodes]
    edges = [{"source": e.source, "target": e.target, "kind": e.kind} for e in found.edges]
    return reply({"nodes": nodes, "edges": edges})


@router.get("/lineage/{id_}", response_model=told.EventLineage | told.PolicyLineage)
def lineage_of(studio: Here, caller: EngineerReads, id_: str) -> Response:
    """What a vote shaped, or which votes are behind a policy; ``id_`` may be the beginning of one."""
    try:
        found = trace.find(studio.database, id_)
    except StoreError as error:
        raise ApiError(404, "not_found", error.problem, error.fix) from error
    if found.kind == "policy":
        events = lineage.events_behind(studio.database, found.id)
        votes = [vars(count) for count in trace.count_votes(studio.database, events)]
        models = _models(lineage.reward_models_behind(studio.database, found.id))
        made = {"kind": "policy", "id": found.id, "reward_models": models, "votes": votes, "events": events[:200]}
        return reply(made | {"events_total": len(events)})
    table = schema.events
    with studio.database.read() as connection:
        query = connection.execute(sa.select(table.c.query_id).where(table.c.id == found.id)).scalar()
    if query is not None:
        studio.reveal(caller, [query]).check(query)
    policies = lineage.policies_shaped_by(studio.database, found.id)
    shaped = [{"id": p.id, "round": p.round, "status": p.status} for p in policies]
    models = _models(lineage.reward_models_shaped_by(studio.database, found.id))
    return reply({"kind": "event", "id": found.id, "query": query, "reward_models": models, "policies": shaped})


@router.get("/feedback", response_model=told.Feed)
def feedback(studio: Here, caller: EngineerReads, after: Number = None, limit: Limit = 50) -> Response:
    """Feedback in the order in which it came, without what the caller may still judge."""
    return reply(feed(studio, caller, after or 0, limit))


def _seen(studio: Studio, caller: Caller, page: Page) -> dict[str, Any]:
    """A page as the interface gives it; it is noted who sees what."""
    hidden = studio.reveal_tasks(caller, {str(item["task_id"]) for item in page.items if item.get("task_id")}).tasks
    items = [item for item in page.items if item.get("task_id") not in hidden]
    return {"items": items, "next": page.next, "hidden": page.hidden + len(page.items) - len(items)}


def _folders(studio: Studio, name: str) -> dict[str, Any]:
    scratch = studio.facts.folder / "scratch"
    return sampled.folders(read_stages(studio.database), studio.artifacts, scratch, name)


def _reward_models(studio: Studio) -> list[dict[str, Any]]:
    table = schema.reward_models
    with studio.database.read() as connection:
        rows = connection.execute(sa.select(table).order_by(table.c.round, table.c.id)).all()
    return [
        {
            "id": row.id, "round": row.round, "event_set": row.event_set_id,
            "assessment": (row._mapping["values"] or {}).get("assessment", {}),
        }
        for row in rows
    ]  # fmt: skip


def _models(rows: list[lineage.RewardModelRow]) -> list[dict[str, Any]]:
    return [{"id": row.id, "round": row.round, "event_set": row.event_set_id} for row in rows]
