"""Asking while the work goes on: how a domain that learns online puts questions, and finds the answers given so far.

Left out: a study's own asker, which writes to its log (``study/online.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from tropism.errors import StoreError
from tropism.feedback.records import Candidate, Judgement, Query, Task
from tropism.feedback.teachers import QueryContext, Standard, Teacher


class Desk(Protocol):
    """Takes questions to a teacher. Asking again what was asked before (the same ids) changes nothing."""

    @property
    def policy_id(self) -> str:
        """Who makes the candidates, for their provenance."""
        ...

    @property
    def answers_at_once(self) -> bool:
        """True of programs; people and imports answer when they do."""
        ...

    @property
    def round(self) -> int:
        """The round that questions are put in."""
        ...

    def keep(self, write: Callable[[Path], None]) -> str:
        """Store what candidates show, for good: ``write`` fills an empty folder. Returns its content address, or ``""``
        where nobody will look at it (and ``write`` was not called)."""
        ...

    def folder(self, artifact: str) -> Path:
        """The folder of something kept, for reading only."""
        ...

    def ask(
        self,
        tasks: Sequence[Task],
        candidates: Sequence[Candidate],
        queries: Sequence[Query],
        step_utilities: Mapping[str, Sequence[Sequence[float]]] | None,
    ) -> int:
        """Put queries; ``step_utilities[query id]`` ``[K][T]`` are true ones by slot and step, for oracles. Returns how
        many were answered: of people 0 here. A skip is no answer."""
        ...

    def judgements(self) -> list[Judgement]:
        """All current judgements, in an order that does not depend on when they came; the same list, not to be changed,
        until there are others."""
        ...


class Asker(Desk, Protocol):
    """A desk at which somebody waits for answers, or goes on until they come."""

    def open(self) -> Collection[str]:
        """Ids of the questions of this round that may still get an answer: of people those that have too few votes and
        that not everybody has passed over. Of programs, which answer or skip at once, none."""
        ...

    def asked(self) -> Sequence[tuple[Query, Task]]:
        """The questions of this round that are known to whoever will answer: more than their asker remembers, where it
        was stopped after putting them. Of programs none: they are asked again, and say the same."""
        ...

    def wait(self) -> None:
        """Come back when nothing asked here is open."""
        ...

    def rest(self, news: Callable[[], bool]) -> None:
        """Called before a turn of work that is ahead of people: rest the longer, the longer there was no news, so that
        no night is worked through. Comes back at once when there is."""
        ...

    def publish(self, write: Callable[[Path], None]) -> None:
        """There is a new version of what was learned: ``write`` writes it into an empty folder, for others to use while
        the learning goes on. Not called where nobody could find it."""
        ...

    def state(self) -> dict[str, Any]:
        """What the answers to come hang on, beside the questions; JSON values, for a checkpoint."""
        ...

    def restore(self, meta: Mapping[str, Any]) -> None:
        """Be what ``state`` said."""
        ...


class MemoryAsker:
    """A teacher that answers at once and judgements that nobody stores: for jobs, benchmarks and tests."""

    policy_id = "run"
    answers_at_once = True
    round = 1

    def __init__(self, teacher: Teacher) -> None:
        self.teacher = teacher
        self._standard: Standard | None = None
        self._found: dict[str, Judgement] = {}
        self._listed: list[Judgement] | None = None

    def keep(self, write: Callable[[Path], None]) -> str:
        """Nothing is kept."""
        return ""

    def folder(self, artifact: str) -> Path:
        """Errors: StoreError, since nothing is kept."""
        raise StoreError(f"artifact {artifact} is not kept in memory", "use a study, which has a store")

    def ask(
        self,
        tasks: Sequence[Task],
        candidates: Sequence[Candidate],
        queries: Sequence[Query],
        step_utilities: Mapping[str, Sequence[Sequence[float]]] | None,
    ) -> int:
        """See ``Asker``; ratings are measured against the first questions ever put."""
        context = QueryContext.build(tasks, candidates, None, step_utilities, self._standard)
        self._standard = context.measure
        answered = 0
        for query, answer in zip(queries, self.teacher.answer(queries, context), strict=True):
            if answer.value is None:
                continue
            answered += 1
            self._listed = None
            shown = tuple(context.candidates[id_] for id_ in query.candidate_ids)
            self._found[query.id] = Judgement(
                query.id, self.teacher.id, query, context.tasks[query.task_id], shown, answer.value, answer.text,
                self.teacher.kind,
            )  # fmt: skip
        return answered

    def open(self) -> Collection[str]:
        """Nothing: all is answered or skipped."""
        return ()

    def asked(self) -> Sequence[tuple[Query, Task]]:
        """None that anybody has yet to answer."""
        return ()

    def wait(self) -> None:
        """Everything is answered."""

    def rest(self, news: Callable[[], bool]) -> None:
        """Nobody is waited for."""

    def publish(self, write: Callable[[Path], None]) -> None:
        """Nobody could find it."""

    def state(self) -> dict[str, Any]:
        """What ratings and skips are measured against."""
        return {"standard": None if self._standard is None else asdict(self._standard)}

    def restore(self, meta: Mapping[str, Any]) -> None:
        """See ``Asker``."""
        self._standard = None if meta["standard"] is None else Standard(**meta["standard"])

    def judgements(self) -> list[Judgement]:
        """See ``Asker``."""
        if self._listed is None:
            self._listed = list(self._found.values())
        return self._listed
