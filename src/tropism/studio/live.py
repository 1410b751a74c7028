"""The running stream, for the route that serves it."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import Depends
from starlette.requests import Request

from tropism.studio.stream import Stream


async def stream_of(request: Request) -> Stream:
    """The stream of this application."""
    return cast(Stream, request.app.state.stream)


Live = Annotated[Stream, Depends(stream_of)]
