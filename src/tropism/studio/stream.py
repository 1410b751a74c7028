"""The stream of what happens, as server-sent events: for any number of listeners one reader of the database and files.

Every event has an id, ``EPOCH.NUMBER``; who comes back with the last one they saw gets what came since. Where that is
no longer known (another process, too long ago) they get ``reset`` and fetch everything anew. Nothing is dropped for a
slow listener: it reads from the same ring, and is reset when the ring has passed it. Left out: events for one listener
alone; what is here, every viewer may see.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections import deque
from collections.abc import AsyncIterator, Collection
from typing import Any, Final

from anyio import to_thread

from tropism.errors import TropismError
from tropism.studio.run_facts import read_activity, read_queue, read_stages
from tropism.studio.state import Studio

TYPES: Final = ("metric", "stage", "progress", "queue")
PAUSE_S: Final = 0.5
BEAT_S: Final = 15.0
_log = logging.getLogger("tropism.studio")


class Reader:
    """What is new in a study since it was last asked. For one thread at a time."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self._version = -2
        self._steps: dict[str, tuple[int, frozenset[str]]] = {}
        self._stages: dict[str, str] | None = None
        self._progress: dict[str, Any] = {}
        self._queue: dict[str, int] = {}

    def now(self) -> list[tuple[str, dict[str, Any]]]:
        """What a listener who comes for the first time should know at once."""
        return [("progress", self._progress), ("queue", self._queue)]

    def news(self) -> list[tuple[str, dict[str, Any]]]:
        """(type, data) of everything new, in a fixed order."""
        return [*self._new_stages(), *self._new_metrics(), *self._new_progress(), *self._new_queue()]

    def _new_metrics(self) -> list[tuple[str, dict[str, Any]]]:
        curves = self.studio.curves
        found: list[tuple[str, dict[str, Any]]] = []
        version = curves.version()
        if version == self._version:
            return []
        first, self._version = self._version == -2, version
        for stage in curves.stages():
            last, said = self._steps.get(stage, (-1, frozenset[str]()))
            newest = curves.newest(stage)
            if first or newest < last:  # history is fetched, not streamed; or the stage was begun anew
                self._steps[stage] = (newest, frozenset(curves.since(stage, newest).get(newest, ())))
                if not first:
                    found.append(("reset", {}))
                continue
            for step, values in curves.since(stage, last).items():
                new = {name: value for name, value in values.items() if step > last or name not in said}
                if new:
                    found.append(("metric", {"stage": stage, "step": step, "values": new}))
                    self._steps[stage] = (step, frozenset(values))
        return found

    def _new_stages(self) -> list[tuple[str, dict[str, Any]]]:
        stages = read_stages(self.studio.database)
        before, self._stages = self._stages, {stage["key"]: stage["status"] for stage in stages}
        return [
            ("stage", {name: stage[name] for name in ("name", "round", "status")})
            for stage in stages
            if before is not None and before.get(stage["key"]) != stage["status"]
        ]

    def _new_progress(self) -> list[tuple[str, dict[str, Any]]]:
        mark = read_activity(self.studio.facts.folder)
        shown = {name: mark.get(name) for name in ("stage", "activity", "done", "total", "note")}
        if shown == self._progress:
            return []
        self._progress = shown
        return [("progress", shown)]

    def _new_queue(self) -> list[tuple[str, dict[str, Any]]]:
        counts = read_queue(self.studio.database)
        if counts == self._queue:
            return []
        self._queue = counts
        return [("queue", counts)]


class Stream:
    """The ring of events, and who listens."""

    def __init__(self, studio: Studio, kept: int = 5000) -> None:
        self.studio, self.epoch = studio, secrets.token_hex(6)
        self._reader = Reader(studio)
        self._ring: deque[tuple[int, str, str]] = deque(maxlen=kept)
        self._next = 1
        self._changed = asyncio.Event()
        self._closed = False

    async def run(self) -> None:
        """Read and publish until cancelled."""
        while True:
            try:
                news = await to_thread.run_sync(self._reader.news)
            except TropismError as error:
                _log.warning("the stream: %s", error)
                news = []
            self.publish(news)
            await asyncio.sleep(PAUSE_S)

    def publish(self, news: Collection[tuple[str, dict[str, Any]]]) -> None:
        """Put events into the ring and wake the listeners. On the event loop."""
        for kind, data in news:
            text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
            self._ring.append((self._next, kind, text))
            self._next += 1
        if news:
            self._wake()

    def close(self) -> None:
        """End every stream: the server is stopping."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def listen(self, last: str | None, types: Collection[str]) -> AsyncIterator[bytes]:
        """The text of one listener's stream. ``last``: the id they saw last, if they have been here before."""
        self.studio.counters.listeners.inc()
        try:
            at, known = self._begin(last)
            yield b"retry: 2000\n\n"
            if not known:
                yield self._text(self._next - 1, "reset", "{}")
            elif last is None:
                for kind, data in self._reader.now():
                    if kind in types:
                        yield self._text(at, kind, json.dumps(data))
            while not self._closed:
                changed = self._changed
                oldest = self._ring[0][0] if self._ring else self._next
                if at + 1 < oldest:
                    at = self._next - 1
                    yield self._text(at, "reset", "{}")
                for number, kind, text in self._after(at):
                    at = number
                    if kind in types or kind == "reset":
                        yield self._text(number, kind, text)
                if at + 1 < self._next:
                    await asyncio.sleep(0)
                    continue
                try:
                    await asyncio.wait_for(changed.wait(), BEAT_S)
                except TimeoutError:
                    yield b": still here\n\n"  # so that a proxy keeps the connection, and a dead one is noticed
        finally:
            self.studio.counters.listeners.dec()

    def _begin(self, last: str | None) -> tuple[int, bool]:
        """(number of the last event this listener has seen, whether that is known)."""
        newest = self._next - 1
        if last is None:
            return newest, True
        epoch, _, number = last.partition(".")
        oldest = self._ring[0][0] if self._ring else self._next
        if epoch == self.epoch and number.isdecimal() and len(number) < 16 and oldest - 1 <= int(number) <= newest:
            return int(number), True
        return newest, False

    def _after(self, at: int) -> list[tuple[int, str, str]]:
        """Events after number ``at``: the ring's numbers have no gaps, so their place is known."""
        if not self._ring or at >= self._ring[-1][0]:
            return []
        start = max(0, at + 1 - self._ring[0][0])
        return [self._ring[i] for i in range(start, len(self._ring))]

    def _text(self, number: int, kind: str, data: str) -> bytes:
        return f"id: {self.epoch}.{number}\nevent: {kind}\ndata: {data}\n\n".encode()
