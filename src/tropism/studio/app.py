"""The application: addresses put together, guarded, with what runs beside the requests.

    app = create_app(Path("study"), StudioSettings())

Left out: the server and its process (``serving.py``).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tropism import __version__
from tropism.errors import TropismError
from tropism.studio import accounts, problems
from tropism.studio.background import Housekeeper
from tropism.studio.express import Express
from tropism.studio.guard import Guard
from tropism.studio.instruments import Instruments
from tropism.studio.routes import admin, annotate, engineer, lead, operations, pushing, quality, session, tests
from tropism.studio.settings import StudioSettings
from tropism.studio.state import Studio
from tropism.studio.stream import Stream

API = "/api/v1"
BULK = (f"{API}/queries",)
"""Addresses that take large bodies."""
ROUTERS = (session, annotate, lead, quality, engineer, pushing, tests, admin)


def create_app(folder: Path, settings: StudioSettings | None = None) -> FastAPI:
    """The studio on a study's folder. Its state is ``app.state.studio``.

    Errors: StoreError if the folder is no study; ConfigError if study.toml cannot be read.
    """
    settings = settings or StudioSettings()
    studio = Studio.open(folder, settings)
    studio.setup_needed = not settings.solo and not accounts.any_account(studio.database)
    if settings.solo:
        studio.solo_account = accounts.solo_account(studio.database)
    app = FastAPI(
        title="tropism studio",
        version=__version__,
        description="People give feedback, leads see whether it can be trusted, engineers watch the run.",
        openapi_url=f"{API}/openapi.json",
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        lifespan=_beside,
        exception_handlers={
            TropismError: problems.on_tropism,
            RequestValidationError: problems.on_invalid,
            HTTPException: problems.on_http,
        },
    )
    app.state.studio, app.state.stream = studio, Stream(studio)
    for module in ROUTERS:
        app.include_router(module.router, prefix=API, responses=problems.DOCUMENTED)
    app.include_router(operations.router)
    # the last one added is the first one asked
    app.add_middleware(Express, studio=studio)
    limits = {"limit": settings.body_limit, "bulk_limit": settings.bulk_limit}
    app.add_middleware(Guard, names=settings.names, bulk=BULK, solo=settings.solo, **limits)
    app.add_middleware(Timed, instruments=studio.counters)  # outside: what the guard answers counts, too
    return app


@contextlib.asynccontextmanager
async def _beside(app: FastAPI) -> AsyncIterator[None]:
    """The stream's reader and the housekeeper, as long as the application runs."""
    studio: Studio = app.state.studio
    stream: Stream = app.state.stream
    keeper = app.state.housekeeper = Housekeeper(studio)
    keeper.start()
    reading = asyncio.create_task(stream.run())
    try:
        yield
    finally:
        stream.close()
        reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reading
        await asyncio.to_thread(keeper.stop)
        studio.close()


class Timed:
    """Measures requests by their address's pattern."""

    def __init__(self, app: ASGIApp, instruments: Instruments) -> None:
        self.app, self.instruments = app, instruments

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and note how long its answer took to begin."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "other")
                label = self.instruments.requests.labels(scope["method"], route, str(message["status"]))
                label.observe(time.perf_counter() - began)
            await send(message)

        await self.app(scope, receive, noted)
