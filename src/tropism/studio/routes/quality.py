"""Whether the judgements can be trusted, and what more of them would cost."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from tropism.studio import oversight
from tropism.studio.auth import Here, LeadReads
from tropism.studio.problems import reply

router = APIRouter(tags=["lead"])


@router.get("/lead/cost")
def cost(studio: Here, _caller: LeadReads) -> Response:
    """What a vote costs in people's time."""
    with studio.database.read() as connection:
        return reply(oversight.cost(connection))
