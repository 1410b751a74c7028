"""Who calls, and whether they may: what every route asks first.

A route says what it needs in the type of its first argument, as ``caller: Annotator``. Left out: what only the object
decides (whose assignment, which query), which the routes ask about themselves.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from typing import Annotated, cast

from anyio import to_thread
from fastapi import Depends
from starlette.requests import Request
from starlette.responses import Response

from tropism.studio.guard import SAFE
from tropism.studio.problems import ApiError
from tropism.studio.roles import Caller, Role, TokenScope
from tropism.studio.sessions import BEARER, Opened
from tropism.studio.state import Studio


async def studio_of(request: Request) -> Studio:
    """The studio that serves this request."""
    return cast(Studio, request.app.state.studio)


Here = Annotated[Studio, Depends(studio_of)]


async def visitor(request: Request, studio: Here) -> Caller | None:
    """The caller, or None for nobody in particular. A bearer that is none is an error, not nobody."""
    given = request.headers.get("authorization")
    if given is not None:
        kind, _, token = given.partition(" ")
        caller = None
        if kind.lower() == "bearer" and token:
            sessions = studio.sessions
            caller = sessions.remembered(BEARER + token) or await to_thread.run_sync(sessions.by_bearer, token)
        if caller is None:
            raise ApiError(401, "bad_token", "this token is unknown, revoked or expired", "make a new one")
        return caller
    token = request.cookies.get(cookie_name(studio), "")
    if not token:
        return None
    if studio.sessions.renewal_due():
        asyncio.get_running_loop().run_in_executor(None, studio.sessions.renew)
    caller = studio.sessions.remembered(token) or await to_thread.run_sync(studio.sessions.by_cookie, token)
    if caller is not None and request.method not in SAFE:
        _check_csrf(request, caller)
    return caller


Visitor = Annotated[Caller | None, Depends(visitor)]


def _check_csrf(request: Request, caller: Caller) -> None:
    given = request.headers.get("x-csrf-token", "")
    if not hmac.compare_digest(given.encode(), caller.csrf.encode()):
        raise ApiError(403, "csrf", "the header X-CSRF-Token is missing or of another session", "GET session has it")


def allow(role: Role, scope: TokenScope) -> Callable[..., Awaitable[Caller]]:
    """The dependency that lets through whoever has this role or a higher one, and a token of this scope."""

    async def check(caller: Visitor) -> Caller:
        return permit(caller, role, scope)

    return check


def permit(caller: Caller | None, role: Role, scope: TokenScope) -> Caller:
    """The caller, who may do this. Errors: ApiError, 401 for nobody, 403 for a role or token that does not suffice."""
    if caller is None:
        raise ApiError(401, "not_signed_in", "this needs an account", "sign in, or send a token")
    if not caller.may(role, scope):
        what = f"role {caller.role}, scope {caller.scope}"
        raise ApiError(
            403, "not_allowed", f"this needs role {role} and scope {scope}; you have {what}", role=role, scope=scope
        )
    return caller


Viewer = Annotated[Caller, Depends(allow("viewer", "read"))]
AnyWriter = Annotated[Caller, Depends(allow("viewer", "write"))]
AnnotatorReads = Annotated[Caller, Depends(allow("annotator", "read"))]
Annotator = Annotated[Caller, Depends(allow("annotator", "feedback"))]
ReviewerReads = Annotated[Caller, Depends(allow("reviewer", "read"))]
Reviewer = Annotated[Caller, Depends(allow("reviewer", "write"))]
LeadReads = Annotated[Caller, Depends(allow("lead", "read"))]
Lead = Annotated[Caller, Depends(allow("lead", "write"))]
EngineerReads = Annotated[Caller, Depends(allow("engineer", "read"))]
Engineer = Annotated[Caller, Depends(allow("engineer", "write"))]
AdminReads = Annotated[Caller, Depends(allow("admin", "read"))]
Admin = Annotated[Caller, Depends(allow("admin", "write"))]


def cookie_name(studio: Studio) -> str:
    """The name of the session's cookie."""
    return studio.cookie


def set_cookie(response: Response, studio: Studio, request: Request, opened: Opened) -> None:
    """Hand the browser its session."""
    response.set_cookie(
        cookie_name(studio),
        opened.token,
        max_age=round(studio.settings.session_s),
        path="/",
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
