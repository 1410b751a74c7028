"""Waiting for people: the log is looked at now and then, the process sleeps, and a stop is heeded at once.

Left out: notifying people. The studio shows them what is open.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from tropism.errors import DataError
from tropism.feedback.events import FeedbackLog
from tropism.feedback.records import Query
from tropism.feedback.teachers import AwaitedTeacher
from tropism.runtime.interrupts import StopRequest
from tropism.runtime.stage import StageRun

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 10.0
REST = 0.25
"""Of the time since there was news: how long whoever works without it rests before the next piece of work. In t seconds
these are 4 log(1 + t/2) pieces of half a second: 14 in the first minute, 38 in a night."""


def wait_for_people(
    teacher: AwaitedTeacher,
    log: FeedbackLog,
    queries: Sequence[Query],
    run: StageRun,
    stop: StopRequest,
    hours: float,
    enough: int | None = None,
) -> int:
    """Wait until every query has its answer, or ``enough`` of them; returns how many have. Looks every second, less
    often when idle.

    Errors: InterruptedRun when asked to stop (the answers stay); DataError when ``hours`` have passed.
    """
    began, pause, before = time.monotonic(), FIRST_PAUSE_S, -1
    note = f"people answer in the studio; where none is open, `tropism studio {log.database.path.parent}` opens it"
    while True:
        state = teacher.poll(log, queries)
        run.progress.update("wait for people", state.answered, len(queries), note)
        if state.done or (enough is not None and state.answered >= enough):
            return state.answered
        if stop.requested():
            raise stop.error(f"in stage {run.name}, with {state.answered} of {len(queries)} answers")
        if time.monotonic() - began > hours * 3600:
            raise DataError(
                f"{len(state.open)} of {len(queries)} queries had no answer after {hours:g} hours",
                "give more answers and run the same command again, or raise feedback.wait_hours",
            )
        pause = FIRST_PAUSE_S if state.answered != before else min(LONGEST_PAUSE_S, pause * 1.5)
        before = state.answered
        stop.sleep(pause)


class Quiet:
    """Between two pieces of work that people's answers are awaited with."""

    def __init__(self) -> None:
        self._news_at = self._event_at = time.monotonic()
        self._events = -1

    def end(self) -> None:
        """There was news, whoever noticed it."""
        self._news_at = time.monotonic()

    def rest(self, news: Callable[[], bool], events: Callable[[], int], stop: StopRequest, hours: float) -> None:
        """Rest for ``REST`` of the time since there was news, or until there is, or a stop is requested: whoever works
        goes on to their durable point then. ``events()`` counts all that was ever answered.

        Errors: DataError when nothing has been answered for ``hours``.
        """
        until = time.monotonic() + REST * (time.monotonic() - self._news_at)
        while True:
            now, found = time.monotonic(), events()
            if found != self._events:
                self._events, self._event_at = found, now
            if news():
                self.end()
                return
            if now - self._event_at > hours * 3600:
                raise DataError(
                    f"nobody has answered anything for {hours:g} hours",
                    "give answers and run the same command again, or raise feedback.wait_hours",
                )
            if now >= until or stop.requested():
                return
            stop.sleep(min(until - now, FIRST_PAUSE_S))
