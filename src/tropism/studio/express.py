"""The two addresses of every vote, claim and submit, past what the framework does for the others.

They check the same callers and forms as the routes of ``routes/annotate.py``, and the same functions make the answers.
What is saved is the search for the route, the building of dependencies, and every hop between threads that can be: the
event loop hands a job to the queue's writer and goes on, and one wake-up brings back all that one commit made durable.
Whatever would make the loop wait (a question nobody has shown yet, a look around the queue) is done in a thread. The
routes stay declared, for the description. Left out: everything else.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from anyio import to_thread
from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from tropism.errors import TropismError
from tropism.studio.audit import noting
from tropism.studio.auth import permit, visitor
from tropism.studio.problems import on_tropism, refusal
from tropism.studio.roles import Caller
from tropism.studio.routes import annotate
from tropism.studio.routes.forms import Claim, Submit
from tropism.studio.state import Studio

_T = TypeVar("_T")
_CLAIM: Final = "/api/v1/queue/claim"
_SUBMIT: Final = re.compile(r"/api/v1/assignments/([^/]+)/submit")


@dataclass(frozen=True)
class Named:
    """What the request's time is noted under."""

    path: str


class Arrivals:
    """Brings what another thread has done to the event loop: all that is there by one wake-up, since each costs a
    system call, and the interpreter's lock twice."""

    def __init__(self) -> None:
        self._done: deque[tuple[asyncio.Future[Any], Future[Any]]] = deque()
        self._rung = False

    async def of(self, future: Future[_T]) -> _T:
        """What ``future`` gives. Whoever stops waiting does not take back what was asked for."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[_T] = loop.create_future()

        def arrived(done: Future[_T]) -> None:
            self._done.append((waiter, done))
            if not self._rung:
                self._rung = True
                loop.call_soon_threadsafe(self._hand_on)

        future.add_done_callback(arrived)
        return await waiter

    def _hand_on(self) -> None:
        self._rung = False  # first: whoever is appended after the last look below rings again
        while self._done:
            waiter, done = self._done.popleft()
            if waiter.cancelled():
                continue
            if done.cancelled():
                waiter.cancel()
                continue
            error = done.exception()
            if error is None:
                waiter.set_result(done.result())
            else:
                waiter.set_exception(error)


class Express:
    """Innermost of the application's own layers: the guard has read the body, and the answer is timed outside."""

    def __init__(self, app: ASGIApp, studio: Studio) -> None:
        self.app, self.studio = app, studio
        self._arrivals = Arrivals()

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
            id_ = found[1]
            answer = await self._answer(
                Request(scope, receive), Submit, lambda caller, form: self._submit(caller, id_, form)
            )
        else:
            await self.app(scope, receive, send)
            return
        await answer(scope, receive, send)

    async def _answer(
        self, request: Request, form: type[BaseModel], work: Callable[[Caller, Any], Awaitable[Response]]
    ) -> Response:
        """Who calls, whether they may, what they say; then the work."""
        try:
            caller = permit(await visitor(request, self.studio), "annotator", "feedback")
            return await work(caller, form.model_validate_json(await request.body()))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(["body", *(str(part) for part in first["loc"])])
            return refusal(422, "malformed", f"{where}: {first['msg']}", "see openapi.json for what this takes")
        except TropismError as error:
            return await on_tropism(request, error)

    async def _claim(self, caller: Caller, form: Claim) -> Response:
        studio = self.studio
        also = noting(caller.account_id, "queue.claim", "")
        claimed, empty = await self._arrivals.of(
            studio.queue.claim_soon(caller.pseudonym, form.count, form.kinds, also=also)
        )
        if not claimed:  # before saying so, the queue is looked through
            return await to_thread.run_sync(annotate.claim, studio, caller, form)
        if studio.has_at_hand([each.query for each in claimed]):
            return annotate.given(studio, caller, claimed, empty)
        return await to_thread.run_sync(annotate.given, studio, caller, claimed, empty)

    async def _submit(self, caller: Caller, id_: str, form: Submit) -> Response:
        studio = self.studio
        held = studio.assignments.kept(id_, caller.pseudonym)
        if held is not None and studio.presenter.has_kept([held.query]):
            said = annotate.said(studio, caller, id_, form)
        else:
            said = await to_thread.run_sync(annotate.said, studio, caller, id_, form)
        stored = await self._arrivals.of(
            studio.queue.submit_soon(
                id_, caller.pseudonym, str(form.submission_id), said.answers,
                also=noting(caller.account_id, "vote.submit", id_),
            )
        )  # fmt: skip
        return annotate.taken(studio, said, stored)
