"""Keeps the newest report on the judgements, and has it made anew, in another process, when there is more feedback.

Where that fails, what went wrong is told beside the report before, and it is tried again after a rest.
Left out: keeping it across a restart; it is made again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from tropism.errors import TropismError
from tropism.studio.helping import Helper

REST_S = 20.0
"""A new report is made no sooner than this after the last one."""
_log = logging.getLogger("tropism.studio")


def _report(place: Path | str, most_votes: int) -> dict[str, Any]:
    from tropism.studio import judged  # scipy's statistics take seconds to load: in that process alone

    return judged.report(place, most_votes)


class Assessor:
    """The reports of one study. ``place``: its database; ``most_votes``: see ``judged.report``. Threads share it."""

    def __init__(self, place: Path | str, most_votes: int = 0) -> None:
        self.place, self.most_votes = place, most_votes
        self._pool: Helper | None = None
        self._making: Future[dict[str, Any]] | None = None
        self._made: tuple[Mapping[str, Any], int, float] | None = None
        self._asked_for = 0
        self._problem: tuple[str, str] | None = None
        self._failed_at = float("-inf")
        self._lock = threading.Lock()

    def newest(self, events: int) -> tuple[Mapping[str, Any] | None, bool]:
        """(the newest report or None, whether a newer one is being made). ``events``: how many there are now."""
        with self._lock:
            self._take_in()
            stale = self._made is None or (self._made[1] != events and time.monotonic() - self._made[2] > REST_S)
            rested = time.monotonic() - self._failed_at > REST_S
            if stale and rested and self._making is None:
                if self._pool is None:
                    self._pool = Helper()
                self._asked_for, self._making = events, self._pool.submit(_report, self.place, self.most_votes)
            return (None if self._made is None else self._made[0]), self._making is not None

    def problem(self) -> dict[str, str] | None:
        """Why the newest attempt at a report failed: ``{message, fix}``; None where it did not."""
        return None if self._problem is None else dict(zip(("message", "fix"), self._problem, strict=True))

    def close(self) -> None:
        """End the process."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    def _take_in(self) -> None:
        """Take the report that was being made, if it is done."""
        if self._making is None or not self._making.done():
            return
        making, self._making = self._making, None
        try:
            self._made, self._problem = (making.result(), self._asked_for, time.monotonic()), None
        except (TropismError, BrokenProcessPool) as error:
            _log.warning("the report on judgements was not made: %s", error)
            self._failed_at = time.monotonic()
            self._problem = ("the process that makes it ended", "look at the machine's memory; it is tried again")
            if isinstance(error, TropismError):
                self._problem = (error.problem, error.fix)
            else:
                self._pool = None
