"""A study's asker: a domain that learns online puts its questions to the study's teacher, and finds the answers here.

An oracle answers in the call. People answer when they do: the log is looked at now and then (one cheap question to the
database), and whatever has come is in the next fit. Ids are digests of content, so a turn that is done again after a
kill asks nothing twice.

Left out: imported feedback for online domains; their candidates do not exist before they are made.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tropism.errors import ConfigError
from tropism.feedback.events import FeedbackLog
from tropism.feedback.oracles import Oracle
from tropism.feedback.records import Candidate, Judgement, Query, Task
from tropism.feedback.teachers import PersonTeacher, QueryContext, Standard
from tropism.runtime.interrupts import StopRequest
from tropism.runtime.seeding import derive
from tropism.runtime.stage import StageRun
from tropism.store import schema
from tropism.store.artifacts import ArtifactStore
from tropism.study.config import Config
from tropism.study.live import FOLDER, publish
from tropism.study.waiting import Quiet, wait_for_people

POLL_S = 1.0
"""Between two looks at which questions are open."""


class StudyAsker:
    """Meets ``feedback.asking.Asker`` for one stage of a study. ``standard``: what an oracle rates against, as measured
    by the first round; None measures it on the first questions."""

    def __init__(
        self,
        config: Config,
        log: FeedbackLog,
        artifacts: ArtifactStore,
        run: StageRun,
        stop: StopRequest,
        round_: int,
        policy_id: str,
        standard: Standard | None,
    ) -> None:
        if config.feedback.teacher == "import":
            raise ConfigError(
                f'feedback.teacher = "import", but domain {config.study.domain} asks about what it has just done',
                'set feedback.teacher = "oracle" or "person"',
            )
        self.log, self.artifacts, self.run, self.stop = log, artifacts, run, stop
        self.round, self.policy_id, self.standard = round_, policy_id, standard
        self._settings = config.feedback
        given = config.feedback.oracle.model_dump(exclude_none=True)
        self._oracle = Oracle(seed=derive(config.study.seed, "oracle"), **given)
        self._seen, self._judgements = -1, list[Judgement]()
        self._people = PersonTeacher(votes_per_query=config.feedback.votes_per_query)
        self._polled: tuple[int, float, frozenset[str]] | None = None
        self._quiet = Quiet()

    @property
    def answers_at_once(self) -> bool:
        """True of an oracle."""
        return self._settings.teacher == "oracle"

    def keep(self, write: Callable[[Path], None]) -> str:
        """Store a folder among the study's artifacts, at once: the studio shows it."""
        folder = self.run.folder / "keeping"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write(folder)
        address = self.artifacts.put(folder)
        shutil.rmtree(folder)
        return address

    def folder(self, artifact: str) -> Path:
        """Where an artifact lies."""
        return self.artifacts.path(artifact)

    def ask(
        self,
        tasks: Sequence[Task],
        candidates: Sequence[Candidate],
        queries: Sequence[Query],
        step_utilities: Mapping[str, Sequence[Sequence[float]]] | None,
    ) -> int:
        """See ``Asker``. Errors: ConfigError for an oracle where nobody knows true utilities."""
        self.log.put(tasks, candidates, queries)
        self._polled = None
        if not self.answers_at_once:
            return 0
        if step_utilities is None:
            raise ConfigError('feedback.teacher = "oracle" where nobody knows true utilities', 'ask "person"')
        context = QueryContext.build(tasks, candidates, None, step_utilities, self.standard)
        self.standard = context.measure
        self.log.register_teacher(self._oracle.id, self._oracle.kind)
        answers = self._oracle.answer(queries, context)
        self.log.append_many([(q, self._oracle.id, a) for q, a in zip(queries, answers, strict=True)])
        return sum(answer.value is not None for answer in answers)

    def open(self) -> Collection[str]:
        """See ``Asker``; looked at again where an answer has come, and else every second: a skip is no event."""
        if self.answers_at_once:
            return ()
        events, now = self._events(), time.monotonic()
        if self._polled is None or self._polled[0] != events or now - self._polled[1] > POLL_S:
            state = self._people.poll(self.log, self._asked())
            self._polled = events, now, frozenset(query.id for query in state.open)
        return self._polled[2]

    def asked(self) -> list[tuple[Query, Task]]:
        """See ``Asker``."""
        if self.answers_at_once:
            return []
        queries = self._asked()
        tasks = self.log.tasks(sorted({query.task_id for query in queries}))
        return [(query, tasks[query.task_id]) for query in queries]

    def wait(self) -> None:
        """Wait, without burning CPU, until nothing that was asked in this round is open. Errors: InterruptedRun;
        DataError after ``feedback.wait_hours``."""
        if not self.answers_at_once:
            hours = self._settings.wait_hours
            wait_for_people(self._people, self.log, self._asked(), self.run, self.stop, hours)
            self._polled = None

    def rest(self, news: Callable[[], bool]) -> None:
        """See ``Asker``. Errors: DataError where nobody has answered anything for ``feedback.wait_hours``."""
        if not self.answers_at_once:
            self._quiet.rest(news, self._events, self.stop, self._settings.wait_hours)

    def publish(self, write: Callable[[Path], None]) -> None:
        """See ``Asker``: it is found in the study's ``live/reward``."""
        publish(self.artifacts.root.parent / FOLDER, write)
        self._quiet.end()

    def state(self) -> dict[str, Any]:
        """What an oracle measures ratings and skips against: it was measured on questions that are not put again."""
        return {"standard": None if self.standard is None else asdict(self.standard)}

    def restore(self, meta: Mapping[str, Any]) -> None:
        """See ``Asker``."""
        self.standard = None if meta["standard"] is None else Standard(**meta["standard"])

    def judgements(self) -> list[Judgement]:
        """See ``Asker``; the log is read again only where it has grown."""
        known = self._events()
        if known != self._seen:
            self._seen, self._judgements = known, self.log.judgements()
        return self._judgements

    def _events(self) -> int:
        """How many events there are."""
        with self.log.database.read() as connection:
            # counted, not the newest number: on a server a row may be committed after one with a higher number
            return int(connection.execute(sa.select(sa.func.count()).select_from(schema.events)).scalar_one())

    def _asked(self) -> list[Query]:
        return list(self.log.queries(round=self.round).values())
