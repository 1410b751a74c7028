"""The two addresses of every vote, claim and submit, past what the framework does for the others.

They run the very functions that the routes of ``routes/annotate.py`` run, on the same forms, for the same callers; what
is saved is the search for the route, the building of dependencies and the shared pool of threads, which together cost
several times what storing a vote does. The routes stay declared, for the description. Left out: everything else.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from tropism.errors import TropismError
from tropism.studio.auth import permit, visitor
from tropism.studio.problems import on_tropism, refusal
from tropism.studio.roles import Caller
from tropism.studio.routes import annotate
from tropism.studio.routes.forms import Claim, Submit
from tropism.studio.state import Studio

THREADS: Final = 64
"""Each waits for a commit that many share, so many may wait at once."""
_CLAIM: Final = "/api/v1/queue/claim"
_SUBMIT: Final = re.compile(r"/api/v1/assignments/([^/]+)/submit")


@dataclass(frozen=True)
class Named:
    """What the request's time is noted under."""

    path: str


class Express:
    """Innermost of the application's own layers: the guard has read the body, and the answer is timed outside."""

    def __init__(self, app: ASGIApp, studio: Studio) -> None:
        self.app, self.studio = app, studio
        self._threads = ThreadPoolExecutor(THREADS, "vote")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a claim or a submit; pass everything else on."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        path = scope["path"]
        if path == _CLAIM:
            scope["route"] = Named("/queue/claim")
            answer = await self._answer(Request(scope, receive), Claim, self._claim)
        elif found := _SUBMIT.fullmatch(path):
            scope["route"] = Named("/assignments/{id_}/submit")
            answer = await self._answer(Request(scope, receive), Submit, self._submit(found[1]))
        else:
            await self.app(scope, receive, send)
            return
        await answer(scope, receive, send)

    async def _answer(
        self, request: Request, form: type[BaseModel], work: Callable[[Caller, Any], Response]
    ) -> Response:
        """Who calls, whether they may, what they say; then the work, in a thread that may wait for the disk."""
        try:
            caller = permit(await visitor(request, self.studio), "annotator", "feedback")
            given = form.model_validate_json(await request.body())
            return await asyncio.get_running_loop().run_in_executor(self._threads, work, caller, given)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(["body", *(str(part) for part in first["loc"])])
            return refusal(422, "malformed", f"{where}: {first['msg']}", "see openapi.json for what this takes")
        except TropismError as error:
            return await on_tropism(request, error)

    def _claim(self, caller: Caller, form: Claim) -> Response:
        return annotate.claim(self.studio, caller, form)

    def _submit(self, assignment: str) -> Callable[[Caller, Submit], Response]:
        return lambda caller, form: annotate.submit(self.studio, caller, assignment, form)
