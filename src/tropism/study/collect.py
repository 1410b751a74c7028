"""Collecting feedback in one round: tasks, the current policy's candidates, queries, and the teacher's answers.

Everything goes into the log under ids that are digests of content, so that a killed collection, done again, makes the
same rows. At its end all feedback so far is frozen as one event set: what the reward model is fitted on.

Left out: several teachers side by side in one study, and who of several people is asked which query.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from tropism.data.importing import ImportTeacher
from tropism.data.voting import nowhere
from tropism.errors import ConfigError, ContractError, DataError, RewardError
from tropism.feedback.events import FeedbackLog
from tropism.feedback.expecting import note_expected
from tropism.feedback.oracles import Oracle
from tropism.feedback.records import Answer, Candidate, Judgement, Query, Split, Task
from tropism.feedback.selection import by_disagreement, random_pairs, single
from tropism.feedback.teachers import PersonTeacher, QueryContext, Standard
from tropism.runtime.interrupts import StopRequest
from tropism.runtime.seeding import derive
from tropism.runtime.stage import Made, StageRun
from tropism.store import schema
from tropism.study.config import Config
from tropism.study.protocol import Domain, Recorded
from tropism.study.waiting import wait_for_people

ABSOLUTE_KINDS = ("rating", "label")
"""Kinds that judge one candidate by itself."""
MAX_WAVES = 8
"""Skips cost no budget: other tasks are asked about instead, this many times at most."""

Asked = tuple[list[Task], list[list[Candidate]], list[Query]]


@dataclass(frozen=True)
class Expecting:
    """A reward model that has not seen the answers to come: its folder, its id in the lineage, and the temperature that
    makes its gaps logits of people's votes, fitted on held-out feedback."""

    reward: Path
    id: str
    temperature: float


class Collector:
    """Asks one study's teacher. ``file`` is the resolved ``feedback.file``."""

    def __init__(self, config: Config, domain: Domain, log: FeedbackLog, file: Path | None, stop: StopRequest) -> None:
        self.config, self.domain, self.log, self.file, self.stop = config, domain, log, file, stop
        self._settings = config.feedback

    def check(self) -> None:
        """Look at what can be looked at before anything is made: a study must not train for an hour and then say that
        a file has a bad row or a split no task. Errors: DataError, and what the domain raises for an empty split."""
        if self._settings.selection not in ("random", "disagreement"):
            raise ConfigError(
                f'feedback.selection = "{self._settings.selection}" in domain {self.domain.name}',
                'use "random" or "disagreement"; the others are for domains that learn online',
            )
        if self._settings.teacher != "import":
            self.domain.tasks("validation", 1, 0)
        elif self.file is not None:
            self._import_teacher().check(self.log, self.file, skip_bad=self._settings.skip_bad)
        else:
            self._recorded()(self._settings.kind, "train", 1, 0)

    def collect(
        self,
        run: StageRun,
        round_: int,
        policy: Path,
        policy_id: str,
        reward: Path | None,
        standard: Standard | None = None,
        expecting: Expecting | None = None,
    ) -> Made:
        """Ask for one round's feedback, wait for it where people give it, and freeze all feedback so far.

        ``standard``: what an oracle rates against; None measures it on the first wave of queries. ``expecting``: the
        reward model whose view of the questions is noted where people are asked, for adaptive overlap.
        Values: ``event_set``, ``events`` (in it), ``queries``, ``answered``, ``skipped`` (of this round; of people all
        that had no answer when enough had), and of an oracle its ``standard`` (center and spread).
        """
        if self._settings.teacher == "import":
            asked, answered = self._import(run, round_)
        else:
            expecting = expecting if self._settings.teacher == "person" else None
            asked, answered, standard = self._ask(run, round_, policy, policy_id, reward, standard, expecting)
        self.log.seal(force=True)
        judgements = self.log.judgements()
        if not judgements:
            raise DataError(
                f"round {round_} has no feedback to fit a reward model on: {asked} queries, no answer",
                "check feedback.oracle (does it skip everything?), or give some feedback",
            )
        event_set = self.log.freeze(judgement.event_id for judgement in judgements)
        counts = {"queries": asked, "answered": answered, "skipped": asked - answered, "events": len(judgements)}
        run.log(0, {f"feedback/{name}": float(count) for name, count in counts.items()})
        measured = {} if standard is None else {"standard": asdict(standard)}
        return Made(values={"event_set": event_set, **counts, **measured})

    def frozen(self, event_set: str) -> list[Judgement]:
        """The judgements of a frozen set, in the log's order; those erased or superseded since then are left out."""
        members = schema.event_set_members
        with self.log.database.read() as connection:
            query = sa.select(members.c.event_id).where(members.c.event_set_id == event_set)
            ids = set(connection.execute(query).scalars())
        return [judgement for judgement in self.log.judgements() if judgement.event_id in ids]

    def _ask(
        self,
        run: StageRun,
        round_: int,
        policy: Path,
        policy_id: str,
        reward: Path | None,
        standard: Standard | None,
        expecting: Expecting | None,
    ) -> tuple[int, int, Standard | None]:
        """(queries asked, queries answered, the oracle's standard), of the oracle or of people, on train and validation
        tasks."""
        total = self._settings.queries_per_round
        held_out = max(1, round(total * self._settings.validation_fraction))
        open_queries: list[Query] = []
        asked = answered = 0
        budgets: tuple[tuple[Split, int], ...] = (("train", total - held_out), ("validation", held_out))
        for split, budget in budgets:
            left = budget
            for wave in range(MAX_WAVES):
                if left <= 0:
                    break
                run.check_stop()
                run.progress.update("ask", answered, total, split)
                seed = derive(run.seed, split, wave)
                batch = self._queries(run, split, left, seed, round_, policy, policy_id, reward)
                tasks, candidates, queries = batch
                self.log.put(tasks, (candidate for row in candidates for candidate in row), queries)
                asked += len(queries)
                if expecting is not None:
                    self._expect(batch, expecting, run)
                if self._settings.teacher == "person":
                    open_queries += queries
                    break
                votes, standard = self._oracle_votes(batch, standard)
                self.log.append_many(votes)
                given = sum(answer.value is not None for _, _, answer in votes)
                answered, left = answered + given, left - given
        if self._settings.teacher == "person":
            people = PersonTeacher(votes_per_query=self._settings.votes_per_query)
            hours, enough = self._settings.wait_hours, math.ceil(self._settings.enough * len(open_queries))
            answered = wait_for_people(people, self.log, open_queries, run, self.stop, hours, enough)
        run.progress.update("ask", total, total)
        return asked, answered, standard

    def _expect(self, batch: Asked, expecting: Expecting, run: StageRun) -> None:
        """Note what a reward model expects of the comparisons. Errors: RewardError if a score is not finite."""
        tasks, candidates, queries = batch
        scores = self.domain.score(expecting.reward, tasks, candidates, run)
        if not np.isfinite(scores).all():
            raise RewardError(f"reward model {expecting.id} gave a score that is not finite", "fit it again")
        rows = zip(candidates, scores, strict=True)
        by_id = {c.id: float(s) for row, given in rows for c, s in zip(row, given, strict=True)}
        gaps = {
            query.id: by_id[query.candidate_ids[0]] - by_id[query.candidate_ids[1]]
            for query in queries
            if query.kind == "comparison"
        }
        chances = {id_: 0.5 + 0.5 * math.tanh(gap / expecting.temperature / 2) for id_, gap in gaps.items()}
        note_expected(self.log.database, chances, expecting.id)

    def _queries(
        self,
        run: StageRun,
        split: Split,
        count: int,
        seed: int,
        round_: int,
        policy: Path,
        policy_id: str,
        reward: Path | None,
    ) -> Asked:
        """``count`` queries of the configured kind over fresh candidates of the current policy."""
        kind = self._settings.kind
        k = 1 if kind in ABSOLUTE_KINDS else self._settings.candidates_per_query
        tasks = self.domain.tasks(split, count, seed)
        wrong = next((task for task in tasks if task.split != split), None)
        if wrong is not None or not tasks:
            what = f"gave task {wrong.id} of split {wrong.split!r}" if wrong else "has no task"
            raise ContractError(
                f"domain {self.domain.name} {what} where {split!r} was asked for", "keep the splits apart: by task"
            )
        candidates = self.domain.rollout(policy, policy_id, tasks, k, derive(seed, "rollout"), run)
        if kind != "comparison":
            return tasks, candidates, [single(row, kind, seed=seed, round=round_) for row in candidates]
        # enough pairs for the budget where the world has fewer tasks than queries are wanted
        per_task = math.ceil(count / len(tasks))
        if self._settings.selection == "disagreement" and reward is not None:
            scores = self._members()(reward, tasks, candidates, run)
            pairs = by_disagreement(candidates, scores, count, seed=seed, round=round_, per_task=per_task)
        else:
            pairs = random_pairs(candidates, count, seed=seed, round=round_, per_task=per_task)
        return tasks, candidates, pairs

    def _members(self) -> Callable[..., NDArray[np.float64]]:
        scorer = getattr(self.domain, "score_members", None)
        if scorer is None:
            raise ConfigError(
                f'feedback.selection = "disagreement", but domain {self.domain.name} has no score_members',
                'set feedback.selection = "random"',
            )
        return scorer

    def rates(self) -> bool:
        """Whether the oracle's answers hang on its standard."""
        settings = self._settings
        absolute = settings.kind in ABSOLUTE_KINDS or settings.oracle.skip_below is not None
        return settings.teacher == "oracle" and absolute

    def _oracle_votes(
        self, batch: Asked, standard: Standard | None
    ) -> tuple[list[tuple[Query, str, Answer]], Standard]:
        """The oracle's answers, and the standard they were measured by: the one given, or else this batch's own."""
        tasks, candidates, queries = batch
        gold = self.domain.gold(tasks, candidates)
        if gold is None:
            raise ConfigError(
                f'feedback.teacher = "oracle", but domain {self.domain.name} knows no gold utilities',
                'set feedback.teacher = "person", or "import" with feedback.file',
            )
        utility = {
            c.id: float(u) for row, us in zip(candidates, gold, strict=True) for c, u in zip(row, us, strict=True)
        }
        seen = {query.id: [utility[id_] for id_ in query.candidate_ids] for query in queries}
        steps = self._step_utilities(tasks, candidates, queries)
        context = QueryContext.build(tasks, [c for row in candidates for c in row], seen, steps, standard)
        oracle = self._oracle()
        self.log.register_teacher(oracle.id, oracle.kind)
        votes = [(q, oracle.id, a) for q, a in zip(queries, oracle.answer(queries, context), strict=True)]
        return votes, context.measure

    def _step_utilities(
        self, tasks: list[Task], candidates: list[list[Candidate]], queries: list[Query]
    ) -> dict[str, list[list[float]]] | None:
        """Utilities ``[K][T]`` of each query for a myopic oracle; the configuration has seen to it that they exist."""
        if self._settings.oracle.discount == 1:
            return None
        gold = self.domain.step_gold(tasks, candidates)  # type: ignore[attr-defined]
        steps = {
            c.id: [float(u) for u in us]
            for row, found in zip(candidates, gold, strict=True)
            for c, us in zip(row, found, strict=True)
        }
        return {query.id: [steps[id_] for id_ in query.candidate_ids] for query in queries}

    def _oracle(self) -> Oracle:
        given = self._settings.oracle.model_dump(exclude_none=True)
        return Oracle(seed=derive(self.config.study.seed, "oracle"), **given)

    def _import(self, run: StageRun, round_: int) -> tuple[int, int]:
        """Feedback that was there before: the first round takes all of it in, later rounds find it there."""
        if round_ > 1:
            return 0, 0
        if self.file is not None:
            return self._import_file(self.file)
        recorded = self._recorded()
        total = self._settings.queries_per_round
        held_out = max(1, round(total * self._settings.validation_fraction))
        votes: list[tuple[Query, str, Answer]] = []
        self.log.register_teacher("data", "import")
        for split, count in (("train", total - held_out), ("validation", held_out)):
            rows = recorded(self._settings.kind, split, count, derive(run.seed, split))
            shown = [candidate for row in rows for candidate in row.candidates]
            self.log.put((row.task for row in rows), shown, (row.query for row in rows))
            votes += [(row.query, "data", row.answer) for row in rows]
        self.log.append_many(votes, origin="data")
        return len(votes), len(votes)

    def _recorded(self) -> Callable[..., Sequence[Recorded]]:
        recorded = getattr(self.domain, "recorded_feedback", None)
        if recorded is None:
            raise ConfigError(
                f'feedback.teacher = "import", and domain {self.domain.name} has no feedback of its own',
                'set feedback.file = "PATH"',
            )
        return recorded

    def _import_teacher(self) -> ImportTeacher:
        """The domain's own tasks keep their split: no vote on a test task may reach a reward model."""
        return ImportTeacher(
            validation_share=self._settings.validation_fraction,
            known_split=getattr(self.domain, "split_of", nowhere),
            format=self._settings.format,
            columns=self._settings.columns,
            options=self._settings.options,
        )

    def _import_file(self, path: Path) -> tuple[int, int]:
        """Take in a file of judgements; ids are content digests, so doing it again adds nothing."""
        report = self._import_teacher().load(self.log, path, skip_bad=self._settings.skip_bad, round=1)
        return report.events, report.events  # not report.imported, which is 0 when a killed import is replayed
