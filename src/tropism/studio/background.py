"""What a studio does beside answering: leases that ran out, questions made ready or asked further, sealing, webhooks.

One thread, woken by votes and by the clock; it never holds a request. What fails is written to the log and tried again
at the next turn; a bug ends the thread, and ``/healthz`` says so. Left out: curves and the stream (``stream.py``),
which run on the event loop.
"""

from __future__ import annotations

import logging
import threading
import time

import sqlalchemy as sa

from tropism.errors import TropismError
from tropism.studio.state import Studio
from tropism.studio.webhooks import Deliverer

TURN_S, LOOK_S = 1.0, 3.0
"""Between turns, and between looks at the whole queue, which take longer the longer it is."""
WARMED = 500
"""Questions made ready in one turn."""
_log = logging.getLogger("tropism.studio")


class Housekeeper:
    """The thread. ``start`` and ``stop`` once each."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self.deliverer = Deliverer(studio.database)
        self._asked_by, self._looked_at = 0.0, float("-inf")
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="studio-housekeeper", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after the turn that is under way."""
        self._ended.set()
        self.studio.stirred.set()
        self._thread.join(timeout=10)

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._thread.is_alive()

    def turn(self) -> None:
        """Everything once."""
        if time.monotonic() - self._looked_at >= LOOK_S:
            self._looked_at = time.monotonic()
            self.studio.queue.counts()  # takes in what the study asks, and frees what has run out
            self._ask_further()
        self.studio.presenter.warm(WARMED)
        self.studio.log.seal()
        self.deliverer.turn()

    def _ask_further(self) -> None:
        """Adaptive overlap: raise how many people are asked about comparisons that their votes leave unsure."""
        if not self.studio.settings.most_votes:
            return
        report, _ = self.studio.assessor.newest(self.studio.newest_event())
        if report is None or report["at"] == self._asked_by:
            return
        self._asked_by = report["at"]
        by_votes: dict[int, list[str]] = {}
        for query, votes in report.get("wanted", {}).items():
            if votes > self.studio.facts.votes_per_query:
                by_votes.setdefault(votes, []).append(query)
        for votes, queries in by_votes.items():
            self.studio.queue.want(queries, votes)

    def _run(self) -> None:
        while not self._ended.is_set():
            self.studio.stirred.wait(TURN_S)
            self.studio.stirred.clear()
            try:
                self.turn()
            except (TropismError, sa.exc.SQLAlchemyError, OSError):  # a lock held too long, a database that restarts
                _log.exception("housekeeping failed; the next turn tries again")
            self._ended.wait(TURN_S / 4)  # many votes a second are dealt with a few times a second
