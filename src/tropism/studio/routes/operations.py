"""The front end's files, and what operators ask: health and figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from tropism.studio.auth import Here, LeadReads
from tropism.studio.instruments import CONTENT_TYPE
from tropism.studio.problems import DOCUMENTED, ApiError, reply
from tropism.studio.routes.answers import Health
from tropism.studio.run_facts import read_queue

FIGURES: Final[dict[int | str, dict[str, Any]]] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}
router = APIRouter(tags=["operations"], responses={code: DOCUMENTED[code] for code in (401, 403, 421)})
STATIC: Final = Path(__file__).parent.parent / "static"
KINDS: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
}
_UNBUILT: Final = b"""<!doctype html><html lang="en"><meta charset="utf-8"><title>tropism studio</title>
<h1>The studio runs, but its pages were not built</h1>
<p>In <code>web/</code> of the source: <code>npm ci &amp;&amp; npm run build</code>, then load this again.</p>
<p>The interface is at <code>/api/v1</code> all the same.</p></html>"""


@router.get("/healthz", response_model=Health)
async def health(request: Request) -> Response:
    """Whether the process answers, and does what it does beside answering."""
    alive = request.app.state.housekeeper.alive
    return reply({"ok": alive}, 200 if alive else 503)


@router.get("/metrics", response_class=Response, responses=FIGURES)
def figures(studio: Here, _caller: LeadReads) -> Response:
    """Figures of the studio for Prometheus."""
    for name, value in read_queue(studio.database).items():
        studio.counters.queue.labels(name).set(value)
    return Response(studio.counters.text(), media_type=CONTENT_TYPE)


@router.get("/", include_in_schema=False)
def index(request: Request) -> Response:
    """The one page."""
    if not (STATIC / "index.html").is_file():
        return Response(_UNBUILT, media_type="text/html")
    return _file("index.html", request)


@router.get("/{path:path}", include_in_schema=False)
def static(request: Request, path: str) -> Response:
    """A file of the front end; nothing outside its folder."""
    return _file(path, request)


def _file(name: str, request: Request) -> Response:
    missing = ApiError(404, "not_found", f"no {name!r:.80} here", "the interface lies under /api/v1")
    try:
        path = (STATIC / name).resolve()
        inside = path.is_relative_to(STATIC.resolve()) and path.suffix in KINDS and path.is_file()
    except (OSError, ValueError):  # a name that is too long, or no name at all
        inside = False
    if name.startswith("api/") or not inside:
        raise missing
    accepted = {word.split(";")[0].strip() for word in request.headers.get("accept-encoding", "").split(",")}
    headers = {"Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
    packed = path.with_name(f"{path.name}.br")
    if "br" in accepted and packed.is_file():
        return FileResponse(packed, media_type=KINDS[path.suffix], headers=headers | {"Content-Encoding": "br"})
    return FileResponse(path, media_type=KINDS[path.suffix], headers=headers)
