"""What stands before every request: host, origin, size and shape of the body; and security headers on every answer.

Plain ASGI, because it is on the path of every vote. Left out: who the caller is (``auth.py``) and TLS (a proxy's).
"""

from __future__ import annotations

import ipaddress
import json
import logging
from collections.abc import Collection
from functools import lru_cache
from urllib.parse import urlsplit

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tropism.studio.problems import refusal

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self' blob:; "
    "connect-src 'self'; font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
)
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_log = logging.getLogger("tropism.studio")


class Guard:
    """Wraps the application. ``names``: host names allowed beside localhost and addresses; sizes in bytes; ``solo``:
    nobody signs in, so nothing may come through a proxy."""

    def __init__(
        self,
        app: ASGIApp,
        names: Collection[str],
        limit: int,
        bulk_limit: int,
        bulk: Collection[str],
        solo: bool = False,
    ) -> None:
        self.app, self.names = app, frozenset(name.lower() for name in names) | {"localhost"}
        self.limit, self.bulk_limit, self.bulk, self.solo = limit, bulk_limit, frozenset(bulk), solo

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it here."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
                return
            await self.app(scope, receive, send)
            return
        started = False

        async def headed(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", []), *_missing(message.get("headers", []), scope)]
            await send(message)

        try:
            refused, receive = await self._look(scope, receive)
            await (refused or self.app)(scope, receive, headed)
        except Exception:
            _log.exception("%s %s failed", scope["method"], scope["path"])
            if started:
                raise  # half an answer is out: the server cuts the connection
            answer = refusal(500, "bug", "the studio failed at this request", "look at the studio's own output")
            await answer(scope, receive, headed)

    async def _look(self, scope: Scope, receive: Receive) -> tuple[Response | None, Receive]:
        """A refusal or None, and where the body is read from now."""
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        name = headers.get(b"host", "")
        if not self._known(name):
            fix = "open the studio by an address, or start it with --name for this one"
            return refusal(421, "wrong_host", f"host {name!r} is not this studio's", fix, host=name), receive
        if self.solo and (b"x-forwarded-for" in headers or b"forwarded" in headers):
            fix = "start the studio without --solo, and make accounts"
            return refusal(403, "not_allowed", "this studio has no login, and this came through a proxy", fix), receive
        if "\x00" in scope["path"] or b"%00" in scope["query_string"]:
            return refusal(404, "not_found", "an address with a zero byte"), receive
        if scope["method"] in SAFE:
            return None, receive
        if not _same_origin(headers):
            return refusal(403, "origin", "a page of another origin sent this", "use the studio's own page"), receive
        return await self._body(scope, headers, receive)

    def _known(self, host: str) -> bool:
        """An address, localhost, or a name of ours: a foreign name that points here (DNS rebinding) is neither."""
        name = _name(host)
        return name is not None and (name in self.names or _is_address(name))

    async def _body(self, scope: Scope, headers: dict[bytes, str], receive: Receive) -> tuple[Response | None, Receive]:
        """Read the body, which is JSON of a bearable size or empty, and hand it on."""
        limit = self.bulk_limit if scope["path"] in self.bulk else self.limit
        declared = headers.get(b"content-length", "0")
        if not (declared.isascii() and declared.isdecimal()) or int(declared[:18]) > limit or len(declared) > 18:
            return _too_large(limit), receive
        parts, size = [], 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                break
            size += len(message.get("body", b""))
            if size > limit:
                return _too_large(limit), receive
            parts.append(message.get("body", b""))
            if not message.get("more_body"):
                break
        body = b"".join(parts)
        if body and headers.get(b"content-type", "").split(";")[0].strip().lower() != "application/json":
            return refusal(415, "not_json", "a body that is not application/json", "send JSON and say so"), receive
        if body and (problem := _json_problem(body)):
            return refusal(422, "malformed", f"the body is {problem}", "send plain JSON in UTF-8"), receive
        return None, _replay(body, receive)


def _too_large(limit: int) -> Response:
    return refusal(413, "too_large", f"a body of more than {limit} bytes", "send less at once", limit=limit)


def _replay(body: bytes, receive: Receive) -> Receive:
    """The body once more, in one piece, and then whatever comes."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _json_problem(body: bytes) -> str | None:
    """Why a body is no JSON that every database and browser can hold, or None."""
    try:
        text = body.decode()
        value = json.loads(text, parse_constant=_refuse)
        if "\\u" in text:
            again = json.dumps(value, ensure_ascii=False)
            again.encode()  # a lone half of a surrogate pair is no character
            if "\\u0000" in again.replace("\\\\", ""):  # not a backslash before u0000
                return "JSON with a zero character"
    except UnicodeEncodeError:
        return "JSON with half a character"
    except UnicodeDecodeError:
        return "not UTF-8"
    except RecursionError:
        return "nested too deeply"
    except ValueError as error:
        return f"not JSON ({str(error)[:80]})"
    return None


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


@lru_cache(maxsize=256)
def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


@lru_cache(maxsize=256)
def _name(host: str) -> str | None:
    """The host of a Host header, without its port; None for what is none."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _same_origin(headers: dict[bytes, str]) -> bool:
    """Browsers say where a request comes from; programs say nothing."""
    if headers.get(b"sec-fetch-site", "same-origin") in ("cross-site", "same-site"):
        return False
    origin = headers.get(b"origin")
    if origin is None:
        return True
    try:
        return urlsplit(origin).netloc.lower() == headers.get(b"host", "").lower()
    except ValueError:
        return False


def _missing(there: list[tuple[bytes, bytes]], scope: Scope) -> list[tuple[bytes, bytes]]:
    """Security headers; and nothing of the interface is kept by a cache unless its answer says so."""
    found = list(HEADERS)
    if scope["path"].startswith("/api/") and not any(name == b"cache-control" for name, _ in there):
        found.append((b"cache-control", b"no-store"))
    return found
