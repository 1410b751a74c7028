"""All that a report shows, read from a study's folder: its database, its metrics, its artifacts.

Nothing is computed anew: the report shows what the stages found. Whatever is absent stays an empty collection, and the
page says why. Left out: the feedback's texts, which belong to people and do not go into a file that is passed around.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tropism.errors import StoreError
from tropism.feedback.values import ASIDE
from tropism.store import schema
from tropism.store.artifacts import ArtifactStore
from tropism.store.database import Database
from tropism.store.metrics import MetricStore
from tropism.study.stages import lineage_id

EPISODES = "rollouts.jsonl"
STAGE_ORDER = ("base", "collect", "reward", "improve", "evaluate", "decide")


@dataclass(frozen=True)
class StageRow:
    """A stage of the study and what it handed over."""

    name: str
    round: int
    status: str
    seed: int
    seconds: float | None
    cpu_seconds: float | None
    folders: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def activity(self) -> str:
        """The name without its round: ``improve`` for ``improve-2``."""
        return self.name.rsplit("-", 1)[0] if self.name.rsplit("-", 1)[-1].isdigit() else self.name


@dataclass(frozen=True)
class PolicyRow:
    id: str
    round: int
    parent: str | None
    reference: str | None
    reward_model: str | None
    status: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class RewardRow:
    id: str
    round: int
    events: int
    values: Mapping[str, Any]


@dataclass(frozen=True)
class EvaluationRow:
    policy_id: str
    round: int
    values: Mapping[str, Any]

    @property
    def metrics(self) -> Mapping[str, Any]:
        found = self.values.get("metrics")
        return found if isinstance(found, Mapping) else {}


@dataclass(frozen=True)
class FeedbackCount:
    """Judgements of one kind by one teacher on the queries of one round: those that count now, and that reward models
    may be fitted on or assessed by."""

    round: int | None
    kind: str
    teacher: str
    teacher_kind: str
    events: int


@dataclass(frozen=True)
class Facts:
    """Everything a report needs, as plain values."""

    name: str
    resolved: Mapping[str, Any]
    stages: tuple[StageRow, ...]
    policies: tuple[PolicyRow, ...]
    rewards: tuple[RewardRow, ...]
    evaluations: tuple[EvaluationRow, ...]
    feedback: tuple[FeedbackCount, ...]
    set_aside: Mapping[str, int]
    """Why an event of the log is none of ``feedback`` → how many are not."""
    queries: Mapping[int, int]
    seals: int
    metrics: Mapping[str, Mapping[str, list[tuple[int, float]]]]
    """stage → metric → [(step, value)], ascending."""
    samples: Mapping[int, list[dict[str, Any]]]
    """round → rows of the evaluation's samples.jsonl."""
    sample_folders: Mapping[int, Path]
    """round → the folder of those samples, where their clips lie."""
    episodes: Mapping[int, list[tuple[float, float]]]
    """round → (environment step, true return) of every episode while it trained, where policies act in episodes."""

    def rounds(self) -> list[int]:
        """Every round that left a policy, a reward model or an evaluation."""
        found = {row.round for row in self.policies} | {row.round for row in self.rewards}
        return sorted(round_ for round_ in found if round_ > 0)

    def evaluation(self, round_: int) -> EvaluationRow | None:
        policy = self.policy(round_)
        found = [
            row for row in self.evaluations if row.round == round_ and (policy is None or row.policy_id == policy.id)
        ]
        return found[-1] if found else None

    def reward(self, round_: int) -> RewardRow | None:
        return next((row for row in self.rewards if row.round == round_), None)

    def policy(self, round_: int) -> PolicyRow | None:
        """The round's policy."""
        return next((row for row in self.policies if row.round == round_), None)

    def evaluated(self) -> list[EvaluationRow]:
        """The evaluation of each round's policy, oldest first."""
        return [row for r in self.rounds() if (row := self.evaluation(r)) is not None]


def gather(folder: Path) -> Facts:
    """Read a study's folder. StoreError if it is no study."""
    if not (folder / "study.toml").is_file() and not (folder / "study.db").is_file():
        raise StoreError(f"{folder} is no study (it has no study.toml)", f"tropism new {folder} --recipe NAME")
    database = Database.open(folder / "study.db")
    try:
        with database.read() as connection:
            stages, current = _stages(connection), _current_ids(connection)
            policies = tuple(row for row in _policies(connection) if row.id in current)
            rewards = tuple(row for row in _rewards(connection) if row.id in current)
            evaluations = _evaluations(connection, current)
            (feedback, set_aside), queries = _feedback(connection), _queries(connection)
            seals = connection.execute(sa.select(sa.func.count()).select_from(schema.seals)).scalar_one()
    finally:
        database.close()
    resolved_file = folder / "resolved.json"
    resolved = json.loads(resolved_file.read_text("utf-8")) if resolved_file.is_file() else {}
    name = resolved.get("config", resolved).get("study", {}).get("name") or folder.absolute().name
    artifacts = ArtifactStore(folder / "artifacts")
    found = _sample_folders(artifacts, stages)
    return Facts(
        name=str(name),
        resolved=resolved,
        stages=stages,
        policies=policies,
        rewards=rewards,
        evaluations=evaluations,
        feedback=feedback,
        set_aside=set_aside,
        queries=queries,
        seals=seals,
        metrics=_metrics(folder / "metrics.db", [stage.name for stage in stages]),
        samples={round_: rows for round_, where in found.items() if (rows := list(read_jsonl(where)))},
        sample_folders=found,
        episodes=_episodes(artifacts, stages),
    )


def _stages(connection: sa.Connection) -> tuple[StageRow, ...]:
    rows = []
    current = sa.select(schema.stages).where(schema.stages.c.status != "replaced")
    for row in connection.execute(current).mappings():
        outputs = row["outputs"] or {}
        rows.append(
            StageRow(
                name=row["name"],
                round=row["round"],
                status=row["status"],
                seed=row["seed"],
                seconds=row["seconds"],
                cpu_seconds=row["cpu_seconds"],
                folders=outputs.get("folders") or {},
                values=outputs.get("values") or {},
            )
        )

    def place(stage: StageRow) -> tuple[int, int, str]:
        known = STAGE_ORDER.index(stage.activity) if stage.activity in STAGE_ORDER else len(STAGE_ORDER)
        return stage.round, known, stage.name

    return tuple(sorted(rows, key=place))


def _current_ids(connection: sa.Connection) -> set[str]:
    """Lineage ids of what the current stages make. What a replaced stage made stays in the lineage, but it is not this
    study's result, and nobody rolled it back."""
    table = schema.stages
    keys = connection.execute(sa.select(table.c.key).where(table.c.status != "replaced")).scalars().all()
    return {lineage_id(kind, key) for key in keys for kind in ("policy", "reward", "evaluation")}


def _policies(connection: sa.Connection) -> tuple[PolicyRow, ...]:
    table = schema.policies
    rows = connection.execute(sa.select(table).order_by(table.c.round, table.c.id)).mappings()
    return tuple(
        PolicyRow(
            row["id"], row["round"], row["parent_policy_id"], row["reference_policy_id"], row["reward_model_id"],
            row["status"], row["values"] or {},
        )
        for row in rows
    )  # fmt: skip


def _rewards(connection: sa.Connection) -> tuple[RewardRow, ...]:
    table, sets = schema.reward_models, schema.event_sets
    joined = table.outerjoin(sets, sets.c.id == table.c.event_set_id)
    query = sa.select(table.c.id, table.c.round, table.c["values"], sets.c.count.label("events")).select_from(joined)
    rows = connection.execute(query.order_by(table.c.round, table.c.id)).mappings()
    return tuple(RewardRow(row["id"], row["round"], row["events"] or 0, row["values"] or {}) for row in rows)


def _evaluations(connection: sa.Connection, current: set[str]) -> tuple[EvaluationRow, ...]:
    table = schema.evaluations
    rows = connection.execute(sa.select(table).order_by(table.c.round, table.c.id)).mappings()
    return tuple(EvaluationRow(r["policy_id"], r["round"], r["values"] or {}) for r in rows if r["id"] in current)


def _feedback(connection: sa.Connection) -> tuple[tuple[FeedbackCount, ...], dict[str, int]]:
    """Counts of what fits may use, as ``feedback.projection`` has it, and of all else in the log by why it is not."""
    events, queries, teachers = schema.events, schema.queries, schema.teachers
    columns = (queries.c.round, events.c.kind, events.c.teacher_id, teachers.c.kind.label("teacher_kind"))
    about = events.join(teachers, teachers.c.id == events.c.teacher_id)
    about = about.outerjoin(queries, queries.c.id == events.c.query_id)
    about = about.outerjoin(schema.tasks, schema.tasks.c.id == queries.c.task_id)
    why = _why_aside().label("why")
    query = sa.select(*columns, why, sa.func.count().label("events")).select_from(about)
    counts, aside = [], dict[str, int]()
    for row in connection.execute(query.group_by(*columns, why).order_by(*columns, why)).mappings():
        if row["why"] is None:
            count = FeedbackCount(row["round"], row["kind"], row["teacher_id"], row["teacher_kind"], row["events"])
            counts.append(count)
        else:
            aside[row["why"]] = aside.get(row["why"], 0) + row["events"]
    return tuple(counts), aside


def _why_aside() -> sa.ColumnElement[str | None]:
    """Why nothing is fitted on an event; null where something may be."""
    events, newer, gone = schema.events, schema.events.alias("newer"), schema.events.alias("gone")
    after = sa.exists().where(newer.c.supersedes == events.c.id)
    left = sa.select(gone.c.teacher_id).where(gone.c.kind == "erasure")
    return sa.case(
        (events.c.kind == "erasure", "removals of a person"),
        (events.c.teacher_id.in_(left), "by people who have left"),
        (events.c.kind == "retraction", "retractions"),
        (after.where(newer.c.kind == "retraction"), "taken back"),
        (after, "replaced by a later answer"),
        (events.c.target.like(f"{ASIDE}gold/%"), "answers to gold questions"),
        (events.c.target.like(f"{ASIDE}%"), "answers to repeats"),
        (schema.tasks.c.split == "test", "on test tasks"),
        else_=None,
    )


def _queries(connection: sa.Connection) -> dict[int, int]:
    column = schema.queries.c.round
    rows = connection.execute(sa.select(column, sa.func.count()).group_by(column).order_by(column))
    return {int(row[0]): int(row[1]) for row in rows}


def _metrics(path: Path, stages: list[str]) -> dict[str, dict[str, list[tuple[int, float]]]]:
    if not path.is_file():
        return {}
    store = MetricStore(path)
    try:
        tables = {stage: {name: list(rows) for name, rows in store.table(stage).items()} for stage in stages}
    finally:
        store.close()
    return {stage: table for stage, table in tables.items() if table}


def _sample_folders(artifacts: ArtifactStore, stages: tuple[StageRow, ...]) -> dict[int, Path]:
    """Where each round's samples lie."""
    digests = {stage.round: stage.folders["samples"] for stage in stages if "samples" in stage.folders}
    return {round_: artifacts.path(digest) for round_, digest in digests.items() if artifacts.has(digest)}


def _episodes(artifacts: ArtifactStore, stages: tuple[StageRow, ...]) -> dict[int, list[tuple[float, float]]]:
    """Each round's finished episodes. Rollouts of texts, which are large, lie in files of other names."""
    found: dict[int, list[tuple[float, float]]] = {}
    for stage in stages:
        digest = stage.folders.get("rollouts")
        if digest is None or not artifacts.has(digest) or not (artifacts.path(digest) / EPISODES).is_file():
            continue
        rows = read_jsonl(artifacts.path(digest))
        found[stage.round] = [(float(row["step"]), float(row["true_return"])) for row in rows if "true_return" in row]
    return found


def read_jsonl(folder: Path) -> Iterator[dict[str, Any]]:
    """The rows of every ``*.jsonl`` of an artifact, in the order of the files' names. StoreError on a broken line."""
    for path in sorted(folder.glob("**/*.jsonl")):
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    yield json.loads(line)
                except json.JSONDecodeError as error:
                    raise StoreError(
                        f"line {number} of {path.name} in artifact {folder.name} is no JSON: {error.msg}",
                        "the artifact is damaged: restore it from a copy, or run the study again in a new folder",
                    ) from error
