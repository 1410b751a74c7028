"""Whether the judgements can be trusted, and what more of them would cost."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from tropism.studio import oversight
from tropism.studio.auth import Here, LeadReads
from tropism.studio.problems import reply
from tropism.studio.routes import answers_lead as told

router = APIRouter(tags=["lead"])


@router.get("/lead/quality", response_model=told.Quality, responses={202: {"model": told.Computing}})
def quality(studio: Here, _caller: LeadReads) -> Response:
    """Agreement, the joint fit, repeats, gold, cycles, times; 202 where there is no report yet."""
    made, making = studio.assessor.newest(studio.newest_event())
    if made is None:
        return reply({"computing": making, "problem": studio.assessor.problem()}, 202)
    shown = {name: value for name, value in made.items() if name != "wanted"}
    return reply(shown | {"computing": making, "problem": studio.assessor.problem()})


@router.get("/lead/planner", response_model=told.Plan)
def planner(
    _caller: LeadReads,
    difference: Annotated[float, Query(ge=0.001, lt=0.5)] = 0.1,
    power: Annotated[float, Query(gt=0, lt=1)] = 0.8,
    skill: Annotated[float, Query(ge=0.01, le=10)] = 1.0,
    overlap: Annotated[int, Query(ge=1, le=20)] = 1,
    alike: Annotated[float, Query(ge=0, le=1)] = 0.5,
) -> Response:
    """How many votes tell a win rate of one half plus ``difference`` from one half."""
    from tropism.feedback.quality.planner import plan  # loads scipy's statistics, which takes seconds

    found = asdict(plan(difference, power=power, skill=skill, overlap=overlap, alike=alike))
    return reply({"labels": found["votes"], **found})


@router.get("/lead/cost", response_model=told.Cost)
def cost(studio: Here, _caller: LeadReads) -> Response:
    """What a vote costs in people's time, and an effective one: a vote's worth of a good annotator."""
    with studio.database.read() as connection:
        spent = oversight.cost(connection)
    made, _ = studio.assessor.newest(studio.newest_event())
    worth = (made or {}).get("worth")
    effective = None if worth is None else worth["effective"] / max(worth["votes"], 1) * spent["votes"]
    each = spent["seconds"] / effective if effective else None
    return reply(spent | {"effective_votes": effective, "seconds_per_effective_vote": each})
