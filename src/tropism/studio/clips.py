"""Clips of segments for the browser: drawn when somebody asks, in a process of their own, and kept in ``DIR/clips``.

Drawing takes a second of a core and a simulator, which the process that serves pages must not load. The folder is a
cache: everything in it can be drawn again. Left out: clearing it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tropism.errors import StoreError, TropismError
from tropism.store.artifacts import ArtifactStore
from tropism.studio.helping import Helper
from tropism.studio.problems import ApiError

FILES: Final = {
    "clip.mp4": "video/mp4",
    "clip.webm": "video/webm",
    "still.png": "image/png",
    "clip.json": "application/json",
}
"""What a clip's folder has, and as what it is sent."""
CLIP: Final[dict[int | str, dict[str, Any]]] = {200: {"content": {kind: {} for kind in FILES.values()}}}
"""The same for the description."""
LONGEST_S: Final = 120.0

Place = tuple[str, int]
"""(artifact, row) of a segment."""


@dataclass(frozen=True)
class Drawn:
    """A clip that is there: its folder, pictures per second and how many."""

    folder: Path
    rate: float
    frames: int


class Clips:
    """The clips of one study. Threads share it; whoever asks for the same clip waits for the same drawing."""

    def __init__(self, folder: Path, artifacts: ArtifactStore) -> None:
        self.folder, self.artifacts = folder, artifacts
        self._pool: Helper | None = None
        self._drawing: dict[Place, Future[Drawn | tuple[str, str]]] = {}
        self._unfinished = set[Future[Drawn | tuple[str, str]]]()
        self._lock = threading.Lock()

    def addresses(self, base: str, place: Place) -> dict[str, Any]:
        """Where a browser gets a clip's files, and its rate where it is drawn already. Asks for the drawing."""
        future = self._ask(place)
        found = future.result() if future.done() and future.exception() is None else None
        return {
            "h264": f"{base}/clip.mp4",
            "vp9": f"{base}/clip.webm",
            "poster": f"{base}/still.png",
            "about": f"{base}/clip.json",
            "frames": found.frames if isinstance(found, Drawn) else None,
            "fps": found.rate if isinstance(found, Drawn) else None,
        }

    def draw_ahead(self, places: Sequence[Place]) -> None:
        """Begin to draw the first of these that nobody asked for yet, where nothing is being drawn: so no request waits
        for it, and none waits behind it for long. What cannot be drawn is said to whoever asks."""
        with self._lock:
            if self._unfinished:
                return
            for place in places:
                if place not in self._drawing:
                    self._begin(place)
                    return

    def file(self, place: Place, name: str) -> Path:
        """A clip's file, drawn now if need be. Errors: ApiError, 404 for another name, 503 where nothing is drawn."""
        if name not in FILES:
            raise ApiError(404, "not_found", f"a clip has no {name!r:.40}", f"it has {', '.join(FILES)}")
        try:
            made = self._ask(place).result(timeout=LONGEST_S)
        except (TimeoutError, BrokenProcessPool) as error:
            self._forget(place)
            fix = "look at the studio's own output; ask again"
            raise ApiError(503, "no_clip", "drawing this clip failed", fix, retry_s=5) from error
        if isinstance(made, tuple):
            self._forget(place)
            raise ApiError(503, "no_clip", f"this clip cannot be drawn here: {made[0]}", made[1])
        return made.folder / name

    def close(self) -> None:
        """End the process that draws."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    def _ask(self, place: Place) -> Future[Drawn | tuple[str, str]]:
        with self._lock:
            known = self._drawing.get(place)
            if known is not None and not (known.done() and isinstance(known.exception(), BrokenProcessPool)):
                return known
            return self._begin(place)

    def _begin(self, place: Place) -> Future[Drawn | tuple[str, str]]:
        """Under the lock: have a clip drawn."""
        try:
            future = self._helper().submit(_draw, self.folder, self.artifacts.root, *place)
        except BrokenProcessPool:  # its process was killed: the next one may live
            self._pool = None
            future = self._helper().submit(_draw, self.folder, self.artifacts.root, *place)
        self._drawing[place] = future
        self._unfinished.add(future)
        future.add_done_callback(self._unfinished.discard)
        return future

    def _helper(self) -> Helper:
        if self._pool is None:
            self._pool = Helper()
        return self._pool

    def _forget(self, place: Place) -> None:
        """Try anew next time, unless it is still being drawn."""
        with self._lock:
            if place in self._drawing and self._drawing[place].done():
                del self._drawing[place]


def _draw(cache: Path, artifacts: Path, artifact: str, row: int) -> Drawn | tuple[str, str]:
    """In the drawing process: the clip of one segment, or (problem, fix)."""
    from tropism.environments.clips import ClipCache
    from tropism.environments.segments import Segment

    try:
        # the layout of ``control.questions``: one folder for each row
        folder = ArtifactStore(artifacts).path(artifact) / f"{row:05d}"
        if not folder.is_dir():
            raise StoreError(f"artifact {artifact} has no segment {row}", "restore the artifacts folder from a copy")
        (cache / "tmp").mkdir(parents=True, exist_ok=True)
        with ClipCache(cache) as clips:
            made = clips.clip(Segment.read(folder))
    except TropismError as error:
        return error.problem, error.fix
    return Drawn(made.folder, made.rate, made.frames)
