"""Who answers queries: the protocol of teachers that answer at once, and of those that are waited for.

An oracle or a judge answers in the call. A person answers in the studio, an import in its file: their events arrive in
the log from elsewhere, and the study asks ``poll`` what is still open. Left out: who is asked which query (the
studio's queue), and judges, which are language policies and live with them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import sqlalchemy as sa

from tropism.errors import DataError
from tropism.feedback.events import FeedbackLog
from tropism.feedback.projection import chunks, current_view
from tropism.feedback.records import Answer, Candidate, Query, Task
from tropism.store.schema import accounts, assignments, events
from tropism.store.schema import queries as asked

DEMONSTRATOR = "demonstrations"
"""Who showed what a policy was started from, in the log."""


@dataclass(frozen=True)
class Standard:
    """What single candidates are measured against: a utility's place is (u − center) / spread.

    Measured once and kept, so that one utility gets the same rating in every wave and round.
    """

    center: float
    spread: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.center) and math.isfinite(self.spread) and self.spread > 0):
            raise DataError(f"a standard with center {self.center} and spread {self.spread}", "measure it on utilities")


@dataclass(frozen=True)
class QueryContext:
    """What a teacher may look at, by id. People see tasks and candidates only; oracles need utilities.

    ``utilities[query id]``: gold utility of each canonical slot, ``[K]``. ``step_utilities[query id]``: utilities by
    step, ``[K][T]`` (T may differ between slots), for myopic oracles. ``center`` and ``spread`` are measured on the
    whole context (the mean utility, and the deviation within queries), so asking a part of its queries gives the same
    answers. ``spread`` is the unit of Boltzmann noise and of equality between candidates of one query: the noise then
    keeps its size however far policies have come. Ratings, labels and skips are absolute, and are measured against
    ``standard`` where one is given.
    """

    tasks: Mapping[str, Task]
    candidates: Mapping[str, Candidate]
    utilities: Mapping[str, Sequence[float]] = field(default_factory=dict)
    step_utilities: Mapping[str, Sequence[Sequence[float]]] = field(default_factory=dict)
    center: float = 0.0
    spread: float = 1.0
    standard: Standard | None = None

    @property
    def measure(self) -> Standard:
        """What ratings, labels and skips are measured against: the standard given, else this context's own."""
        return self.standard or Standard(self.center, self.spread)

    @classmethod
    def build(
        cls,
        tasks: Iterable[Task],
        candidates: Iterable[Candidate],
        utilities: Mapping[str, Sequence[float]] | None = None,
        step_utilities: Mapping[str, Sequence[Sequence[float]]] | None = None,
        standard: Standard | None = None,
    ) -> QueryContext:
        """A context with ``center`` and ``spread`` measured on the utilities given (spread 1 if they are all equal).

        Errors: DataError if a utility is NaN or infinite.
        """
        steps = step_utilities or {}
        gold = dict(utilities or {id: [math.fsum(slot) for slot in slots] for id, slots in steps.items()})
        for id, values in gold.items():
            for value in values:
                if not math.isfinite(value):
                    raise DataError(f"gold utility {value} in query {id}", "a gold reward must be a finite number")
        every = [float(value) for values in gold.values() for value in values]
        center = math.fsum(every) / len(every) if every else 0.0
        spread = _spread(gold.values())
        return cls({t.id: t for t in tasks}, {c.id: c for c in candidates}, gold, steps, center, spread, standard)


def _spread(queries: Iterable[Sequence[float]]) -> float:
    """Pooled standard deviation within queries: tasks of different difficulty do not widen it."""
    squares: list[float] = []
    freedom = 0
    singles: list[float] = []
    for values in queries:
        singles.extend(values)
        if len(values) > 1:
            mean = math.fsum(values) / len(values)
            squares += [(value - mean) ** 2 for value in values]
            freedom += len(values) - 1
    if freedom == 0 and len(singles) > 1:  # ratings ask about one candidate each: the deviation between them
        mean = math.fsum(singles) / len(singles)
        squares, freedom = [(value - mean) ** 2 for value in singles], len(singles) - 1
    found = math.sqrt(math.fsum(squares) / freedom) if freedom else 0.0
    return found if found > 0 else 1.0


class Teacher(Protocol):
    """A teacher that answers at once. ``answer`` gives one Answer per query, in order; a skip has value None."""

    @property
    def id(self) -> str: ...

    @property
    def kind(self) -> str: ...

    def answer(self, queries: Sequence[Query], context: QueryContext) -> list[Answer]: ...


@dataclass(frozen=True)
class Waiting:
    """How far an awaited teacher is: queries with a current answer, and those still open, in the order asked. What
    everybody has passed over is neither."""

    answered: int
    open: list[Query]

    @property
    def done(self) -> bool:
        """True when nothing is open."""
        return not self.open


class AwaitedTeacher(Protocol):
    """A teacher whose answers arrive in the log from elsewhere: the study polls until nothing is open."""

    @property
    def id(self) -> str: ...

    @property
    def kind(self) -> str: ...

    def poll(self, log: FeedbackLog, queries: Sequence[Query]) -> Waiting: ...


@dataclass(frozen=True)
class PersonTeacher:
    """People: any of them may answer; a query is answered once ``votes_per_query`` different people have. One that
    everybody has answered or skipped is not waited for: skipping is for good, and a lone judge would wait for ever."""

    id: str = "people"
    votes_per_query: int = 1
    kind: str = "person"

    def poll(self, log: FeedbackLog, queries: Sequence[Query]) -> Waiting:
        """What is answered and what is open. Cheap: a few database queries, nothing is locked."""
        left = pending(log, queries, self.votes_per_query)
        over = passed_over(log, left)
        return Waiting(len(queries) - len(left), [query for query in left if query.id not in over])


def pending(
    log: FeedbackLog, queries: Sequence[Query], votes: int = 1, *, teacher_id: str | None = None
) -> list[Query]:
    """The queries that fewer than ``votes`` teachers have answered (``teacher_id`` alone, if given).

    Only a current value of the kind that was asked for is an answer: a remark beside a comparison leaves it open.
    """
    voted: dict[str, int] = {}
    where = [*current_view(), asked.c.kind == events.c.kind]
    if teacher_id is not None:
        where.append(events.c.teacher_id == teacher_id)
    statement = (
        sa.select(events.c.query_id, sa.func.count(sa.distinct(events.c.teacher_id)))
        .join(asked, asked.c.id == events.c.query_id)
        .group_by(events.c.query_id)
    )
    with log.database.read() as connection:
        for part in chunks(sorted({query.id for query in queries})):
            rows = connection.execute(statement.where(*where, events.c.query_id.in_(part)))
            voted.update((id, count) for id, count in rows)
    return [query for query in queries if voted.get(query.id, 0) < votes]


def passed_over(log: FeedbackLog, queries: Sequence[Query]) -> set[str]:
    """Ids of the queries that somebody skipped and no account can answer any more, since each has answered or skipped
    them. Empty where there are no accounts: then people answer from elsewhere."""
    may = accounts.c.status == "active", accounts.c.role != "viewer"
    theirs, given = sa.select(accounts.c.pseudonym).where(*may), assignments.c
    dealt_with = (
        sa.select(given.query_id, sa.func.count(sa.distinct(given.teacher_id)))
        .where(given.status.in_(("submitted", "skipped")), given.teacher_id.in_(theirs))
        .group_by(given.query_id)
        .having(sa.func.sum(sa.case((given.status == "skipped", 1), else_=0)) > 0)
    )
    found: set[str] = set()
    with log.database.read() as connection:
        judges = connection.execute(sa.select(sa.func.count()).select_from(accounts).where(*may)).scalar_one()
        if not judges:
            return found
        for part in chunks(sorted({query.id for query in queries})):
            rows = connection.execute(dealt_with.where(given.query_id.in_(part)))
            found.update(id for id, count in rows if count >= judges)
    return found
