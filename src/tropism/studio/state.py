"""Everything one running studio holds: the study's stores, the queue, sessions, and what it remembers.

Left out: threads and processes beside the requests (``serving.py`` and ``app.py`` start them).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa

from tropism.digests import digest
from tropism.errors import StoreError
from tropism.feedback.events import FeedbackLog
from tropism.feedback.queue import Queue, QueueSettings
from tropism.feedback.records import Query
from tropism.store import schema
from tropism.store.artifacts import ArtifactStore
from tropism.store.database import Database
from tropism.studio.assessor import Assessor
from tropism.studio.blinding import Blind, blind_for, note_looked, note_seen, queries_on
from tropism.studio.clips import Clips
from tropism.studio.curves import Curves
from tropism.studio.held import Assignments
from tropism.studio.instruments import Instruments
from tropism.studio.presenting import Presenter
from tropism.studio.roles import Caller
from tropism.studio.sessions import Sessions
from tropism.studio.settings import StudioSettings, StudyFacts, read_facts


@dataclass
class Studio:
    """One study, opened for the studio. Threads share it."""

    facts: StudyFacts
    settings: StudioSettings
    database: Database
    queue: Queue
    log: FeedbackLog
    artifacts: ArtifactStore
    curves: Curves
    sessions: Sessions
    presenter: Presenter
    clips: Clips
    assignments: Assignments
    assessor: Assessor
    counters: Instruments = field(default_factory=Instruments)
    stirred: threading.Event = field(default_factory=threading.Event)
    """Set when feedback has come: whoever tells others about it wakes up."""
    solo_account: str | None = None
    setup_needed: bool = False
    cookie: str = ""
    """The name of the session's cookie: of this study's own, since browsers send cookies to every port of a host, and
    two studios may stand on one."""
    _guideline: tuple[float, int | None] = (0.0, None)

    @classmethod
    def open(cls, folder: Path, settings: StudioSettings) -> Studio:
        """Open a study folder. Errors: StoreError if it is none; ConfigError if study.toml cannot be read."""
        facts = read_facts(folder)
        if settings.database_url is not None and "://" not in settings.database_url:
            raise StoreError(f"database {settings.database_url!r} is no address", "give postgresql://USER@HOST/NAME")
        database = open_database(folder, settings)
        artifacts = ArtifactStore(folder / "artifacts")
        asked = QueueSettings(
            lease_s=settings.lease_s,
            votes_per_query=facts.votes_per_query,
            gold_rate=settings.gold_rate,
            repeat_rate=settings.repeat_rate,
            undo_s=settings.undo_s,
        )
        clips = Clips(folder / "clips", artifacts)
        return cls(
            facts=facts,
            settings=settings,
            database=database,
            queue=Queue(database, asked),
            log=FeedbackLog(database),
            artifacts=artifacts,
            curves=Curves(folder / "metrics.db"),
            sessions=Sessions(database, settings.session_s, settings.idle_s),
            presenter=Presenter(database, clips),
            clips=clips,
            cookie=f"tropism_{digest(str(folder.resolve()))[:10]}",
            assignments=Assignments(database),
            assessor=Assessor(settings.database_url or folder / "study.db", settings.most_votes),
        )

    def has_at_hand(self, queries: Sequence[Query]) -> bool:
        """Whether these questions can be shown without waiting for the database."""
        return self.presenter.has_kept(queries) and time.monotonic() < self._guideline[0]

    def guideline_version(self) -> int | None:
        """The version of now, as of a second ago at most; it goes with every claimed question."""
        until, version = self._guideline
        if time.monotonic() >= until:
            with self.database.read() as connection:
                version = connection.execute(sa.select(sa.func.max(schema.guidelines.c.version))).scalar()
            self._guideline = (time.monotonic() + 1.0, version)
        return version

    def newest_event(self) -> int:
        """The number of the newest feedback event; 0 where there is none."""
        with self.database.read() as connection:
            return connection.execute(sa.select(sa.func.max(schema.events.c.seq))).scalar() or 0

    def blind(self, caller: Caller, queries: Collection[str] | None = None) -> Blind:
        """What a caller must not see now, of some queries or of all."""
        self.queue.counts()  # takes new queries into the queue: what may be asked is then known
        with self.database.read() as connection:
            return blind_for(connection, caller, self.settings.undo_s, queries)

    def reveal(self, caller: Caller, queries: Collection[str]) -> Blind:
        """``blind``, of queries that are shown to a caller now: those that are not hidden are noted as seen, and the
        caller is not asked about them any more."""
        blind = self.blind(caller, queries)
        open_ = set(queries) - blind.queries
        if note_seen(self.database, caller, open_):
            blind |= self.blind(caller, open_)  # somebody who claimed one in that moment must not see it
        return blind

    def reveal_tasks(self, caller: Caller, tasks: Collection[str]) -> Blind:
        """``reveal``, of all queries about some tasks."""
        with self.database.read() as connection:
            queries = queries_on(connection, tasks)
        blind = self.reveal(caller, queries) if queries else Blind(frozenset(), frozenset())
        if not self.settings.solo:  # whoever is alone has nobody else to ask
            note_looked(self.database, caller, set(tasks) - blind.tasks)
            with self.database.read() as connection:
                since = queries_on(connection, tasks) - queries
            if since:  # asked by somebody in that moment
                blind |= self.reveal(caller, since)
        return blind

    def close(self) -> None:
        """Give back what is held."""
        self.clips.close()
        self.assessor.close()
        self.curves.close()
        self.database.close()


def open_database(folder: Path, settings: StudioSettings) -> Database:
    """The study's database: its study.db, or the server's that the settings name."""
    if settings.database_url is None:
        return Database.open(folder / "study.db")
    return Database.open(settings.database_url)
