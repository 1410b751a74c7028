"""Errors as the interface says them: ``{"error": {"code", "message", "fix", "values"}}`` with the fitting status.

``values`` are those that a page in another language puts into its own sentence for the code.

Left out: what a client may do about each; docs/studio-api.md lists the codes.
"""

from __future__ import annotations

import json
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from tropism.errors import TropismError


class ApiError(TropismError):
    """A request that is refused: ``status`` of HTTP, and a ``code`` for programs. ``retry_s``: when to come back.
    ``values``: what the sentence in ``problem`` says, by name."""

    def __init__(
        self, status: int, code: str, problem: str, fix: str = "", retry_s: float | None = None, **values: str | float
    ) -> None:
        super().__init__(problem, fix)
        self.status, self.code, self.retry_s, self.values = status, code, retry_s, values


_STATUS: dict[str, tuple[int, str]] = {
    "NotYours": (403, "not_yours"),
    "LeaseLost": (409, "lease_lost"),
    "AlreadyAnswered": (409, "already_answered"),
    "UndoTooLate": (409, "undo_too_late"),
    "QueueError": (409, "conflict"),
    "BusyError": (503, "busy"),
    "DataError": (400, "bad_value"),
    "ConfigError": (400, "bad_request"),
    "StoreError": (503, "store"),
}
"""By the name of the error's class, or of the nearest of its bases that is here."""
_HTTP = {400: "bad_request", 401: "not_signed_in", 403: "not_allowed", 404: "not_found", 405: "not_allowed"}


def reply(content: Any, status: int = 200) -> Response:
    """JSON as it is: no copying, no conversion. Floats must be finite."""
    body = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    return Response(body, status, media_type="application/json")


def refusal(
    status: int, code: str, message: str, fix: str = "", retry_s: float | None = None, **values: str | float
) -> Response:
    """An error's response."""
    made = reply({"error": {"code": code, "message": message, "fix": fix, "values": values}}, status)
    if retry_s is not None:
        made.headers["Retry-After"] = str(max(1, round(retry_s)))
    return made


def place(error: TropismError) -> tuple[int, str]:
    """(status, code) of an error of ours."""
    if isinstance(error, ApiError):
        return error.status, error.code
    for cls in type(error).__mro__:
        if cls.__name__ in _STATUS:
            return _STATUS[cls.__name__]
    return 400, "bad_request"


async def on_tropism(_request: Request, error: Exception) -> Response:
    """Errors made on purpose: they name the value and the fix."""
    assert isinstance(error, TropismError)
    status, code = place(error)
    if isinstance(error, ApiError):
        return refusal(status, code, error.problem, error.fix, error.retry_s, **error.values)
    return refusal(status, code, error.problem, error.fix, 1.0 if status == 503 else None)


async def on_invalid(_request: Request, error: Exception) -> Response:
    """A body, query or path that has another shape than the interface says. What was sent is not sent back."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return refusal(422, "malformed", f"{where}: {first['msg']}", "see openapi.json for what this address takes")


async def on_http(_request: Request, error: Exception) -> Response:
    """What the framework refuses by itself: unknown addresses and methods."""
    assert isinstance(error, HTTPException)
    made = refusal(error.status_code, _HTTP.get(error.status_code, "bad_request"), str(error.detail))
    made.headers.update(error.headers or {})
    return made


class ErrorBody(BaseModel):
    """What went wrong, and what to do about it."""

    code: str
    message: str
    fix: str
    values: dict[str, str | float]


class ErrorAnswer(BaseModel):
    """The body of every refusal."""

    error: ErrorBody


DOCUMENTED: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorAnswer} for code in (400, 401, 403, 404, 409, 410, 413, 415, 421, 422, 429, 503)
}
"""For the description of every address."""
