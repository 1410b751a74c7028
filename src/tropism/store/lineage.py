"""Lineage: from a vote to every policy it shaped, and back, each in one recursive query.

Policies and reward models are nodes. A reward model is shaped by the events of its frozen set and by the policy whose
answers were judged last; a policy by its parent, by the reference it is leashed to, and by its reward model.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tropism.digests import canonical_json
from tropism.errors import StoreError
from tropism.store.database import Database
from tropism.store.schema import (
    artifacts,
    candidates,
    evaluations,
    event_set_members,
    event_sets,
    events,
    policies,
    reward_models,
    stages,
)

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class PolicyRow:
    """One policy of the lineage. ``status``: reference, candidate, promoted or rejected."""

    id: str
    artifact: str
    round: int
    parent_policy_id: str | None
    reference_policy_id: str | None
    reward_model_id: str | None
    status: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class RewardModelRow:
    """One reward model of the lineage, and the frozen set of events it was fitted on."""

    id: str
    round: int
    event_set_id: str | None


@dataclass(frozen=True)
class Refit:
    """Ids of what must be made again after an erasure, sorted by round."""

    reward_models: list[str]
    policies: list[str]


@dataclass(frozen=True)
class Node:
    """A node of the graph; ``kind``: event_set, reward_model, policy or evaluation. ``round`` is -1 for event sets."""

    id: str
    kind: str
    round: int
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Edge:
    """``source`` went into ``target``; ``kind``: fitted_on, base, parent, reference, reward or evaluated."""

    source: str
    target: str
    kind: str


@dataclass(frozen=True)
class Graph:
    """Nodes by round and kind, edges in a fixed order."""

    nodes: list[Node]
    edges: list[Edge]


def record_artifact(connection: Connection, digest: str, kind: str, size: int) -> None:
    """Note a stored artifact (``kind``: policy, reward, rollouts, samples, …; ``size`` in bytes)."""
    _record(connection, artifacts, {"digest": digest, "kind": kind, "bytes": size, "created_at": time.time()})


def record_reward_model(
    connection: Connection,
    id: str,
    artifact: str,
    round: int,
    event_set_id: str | None,
    values: Mapping[str, Any],
    *,
    base_policy_id: str | None = None,
) -> None:
    """Note a reward model and the frozen event set it was fitted on (None: on no feedback at all).

    ``base_policy_id`` is the policy whose answers were judged last, if any. The same record again changes nothing;
    another record under the same id is a StoreError.
    """
    _known(connection, event_sets.c.id, event_set_id, "event set", "freeze the events first")
    _known(connection, policies.c.id, base_policy_id, "policy", "record the policy before the reward model")
    row = {"id": id, "artifact": artifact, "round": round, "event_set_id": event_set_id}
    _record(connection, reward_models, {**row, "base_policy_id": base_policy_id, "values": _json(values)})


def record_policy(
    connection: Connection,
    id: str,
    artifact: str,
    round: int,
    parent_policy_id: str | None,
    reference_policy_id: str | None,
    reward_model_id: str | None,
    status: str,
    values: Mapping[str, Any],
) -> None:
    """Note a policy. The same record again changes nothing, except that a decided status stays as it was decided."""
    _known(connection, policies.c.id, parent_policy_id, "policy", "record the parent first")
    _known(connection, policies.c.id, reference_policy_id, "policy", "record the reference first")
    _known(connection, reward_models.c.id, reward_model_id, "reward model", "record the reward model first")
    row = {
        "id": id,
        "artifact": artifact,
        "round": round,
        "parent_policy_id": parent_policy_id,
        "reference_policy_id": reference_policy_id,
        "reward_model_id": reward_model_id,
        "values": _json(values),
    }
    _record(connection, policies, {**row, "status": status}, free=("status",))


def set_policy_status(connection: Connection, id: str, status: str) -> None:
    """Decide on a policy: ``promoted`` or ``rejected``. Errors: StoreError if there is no such policy."""
    changed = connection.execute(sa.update(policies).where(policies.c.id == id).values(status=status)).rowcount
    if changed == 0:
        raise StoreError(f"no policy {id!r} in the lineage", "record the policy before deciding on it")


def record_evaluation(connection: Connection, id: str, policy_id: str, round: int, values: Mapping[str, Any]) -> None:
    """Note an evaluation of a policy. The same record again changes nothing."""
    _known(connection, policies.c.id, policy_id, "policy", "record the policy first")
    _record(connection, evaluations, {"id": id, "policy_id": policy_id, "round": round, "values": _json(values)})


def policies_shaped_by(database: Database, event_id: str) -> list[PolicyRow]:
    """Every policy that a vote shaped, directly or through its ancestors, by round and id. One query."""
    shaped = _downstream(_fitted_on(event_id))
    statement = (
        sa.select(policies)
        .where(policies.c.id.in_(sa.select(shaped.c.id).where(shaped.c.kind == "policy")))
        .order_by(policies.c.round, policies.c.id)
    )
    with database.read() as connection:
        return [_policy_row(row) for row in connection.execute(statement)]


def events_behind(database: Database, policy_id: str) -> list[str]:
    """Ids of all events that shaped a policy, its ancestors' included, sorted. One query."""
    behind = _upstream(policy_id)
    sets = (
        sa.select(reward_models.c.event_set_id)
        .join(behind, reward_models.c.id == behind.c.id)
        .where(behind.c.kind == "reward_model")
    )
    statement = sa.select(event_set_members.c.event_id).where(event_set_members.c.event_set_id.in_(sets)).distinct()
    with database.read() as connection:
        return sorted(connection.execute(statement).scalars())


def reward_models_shaped_by(database: Database, event_id: str) -> list[RewardModelRow]:
    """Every reward model that a vote shaped: fitted on it, or on answers of a policy that it shaped. One query."""
    return _reward_models_in(database, _downstream(_fitted_on(event_id)))


def reward_models_behind(database: Database, policy_id: str) -> list[RewardModelRow]:
    """Every reward model that shaped a policy, its ancestors' included. One query."""
    return _reward_models_in(database, _upstream(policy_id))


def refit_after_erasure(database: Database, pseudonym: str) -> Refit:
    """Reward models fitted on a person's votes, and every policy and later reward model these shaped. One query."""
    fitted = (
        sa.select(reward_models.c.id)
        .join(event_set_members, event_set_members.c.event_set_id == reward_models.c.event_set_id)
        .join(events, events.c.id == event_set_members.c.event_id)
        .where(events.c.teacher_id == pseudonym)
    )
    shaped = _downstream(fitted)
    round_of = sa.func.coalesce(
        sa.select(policies.c.round).where(shaped.c.kind == "policy", policies.c.id == shaped.c.id).scalar_subquery(),
        sa.select(reward_models.c.round).where(reward_models.c.id == shaped.c.id).scalar_subquery(),
    )
    with database.read() as connection:
        rows = connection.execute(sa.select(shaped.c.kind, shaped.c.id).order_by(round_of, shaped.c.id)).all()
    return Refit(
        reward_models=[row.id for row in rows if row.kind == "reward_model"],
        policies=[row.id for row in rows if row.kind == "policy"],
    )


def graph(database: Database) -> Graph:
    """The whole lineage for a report or a viewer, down to event sets (single events would be too many)."""
    nodes: list[Node] = []
    edges: list[Edge] = []
    with database.read() as connection:
        for row in connection.execute(sa.select(event_sets).order_by(event_sets.c.id)):
            nodes.append(Node(row.id, "event_set", -1, {"events": row._mapping["count"]}))
        for row in connection.execute(sa.select(reward_models).order_by(reward_models.c.round, reward_models.c.id)):
            nodes.append(Node(row.id, "reward_model", row.round, row._mapping["values"]))
            edges += _edges_into(row.id, fitted_on=row.event_set_id, base=row.base_policy_id)
        for row in connection.execute(sa.select(policies).order_by(policies.c.round, policies.c.id)):
            nodes.append(Node(row.id, "policy", row.round, {**row._mapping["values"], "status": row.status}))
            parents = {"parent": row.parent_policy_id, "reference": row.reference_policy_id}
            edges += _edges_into(row.id, **parents, reward=row.reward_model_id)
        for row in connection.execute(sa.select(evaluations).order_by(evaluations.c.round, evaluations.c.id)):
            nodes.append(Node(row.id, "evaluation", row.round, row._mapping["values"]))
            edges += _edges_into(row.id, evaluated=row.policy_id)
    return Graph(nodes, edges)


def live_artifacts(database: Database) -> set[str]:
    """Digests of the artifacts that anything in the study still speaks of; all others may be collected."""
    live: set[str] = set()
    with database.read() as connection:
        live.update(connection.execute(sa.select(policies.c.artifact)).scalars())
        live.update(connection.execute(sa.select(reward_models.c.artifact)).scalars())
        for table in (policies, reward_models, evaluations):
            for values in connection.execute(sa.select(table.c["values"])).scalars():
                live.update(_digests_in(values))
        for inputs, outputs in connection.execute(sa.select(stages.c.inputs, stages.c.outputs)):
            live.update(_digests_in([inputs, outputs]))
        outside = connection.execute(sa.select(candidates.c.content).where(candidates.c.kind != "text")).scalars()
        for content in outside:  # segments, clips; a text candidate holds its text itself
            live.update(_digests_in(content))
    return live


def _edges() -> sa.Subquery:
    """(source_kind, source, target_kind, target): every direct influence between policies and reward models."""

    def edge(source_kind: str, source: sa.Column[Any], target_kind: str, target: sa.Column[Any]) -> sa.Select[Any]:
        return sa.select(
            sa.literal(source_kind).label("source_kind"),
            source.label("source"),
            sa.literal(target_kind).label("target_kind"),
            target.label("target"),
        ).where(source.is_not(None))

    return sa.union_all(
        edge("reward_model", policies.c.reward_model_id, "policy", policies.c.id),
        edge("policy", policies.c.parent_policy_id, "policy", policies.c.id),
        edge("policy", policies.c.reference_policy_id, "policy", policies.c.id),
        edge("policy", reward_models.c.base_policy_id, "reward_model", reward_models.c.id),
    ).subquery("influence")


def _downstream(fitted: sa.Select[Any]) -> sa.CTE:
    """(kind, id) of the given reward models and of all that they shaped."""
    edges = _edges()
    first = fitted.subquery()
    shaped = sa.select(sa.literal("reward_model").label("kind"), first.c.id.label("id")).cte("shaped", recursive=True)
    return shaped.union(
        sa.select(edges.c.target_kind, edges.c.target).join(
            shaped, sa.and_(edges.c.source_kind == shaped.c.kind, edges.c.source == shaped.c.id)
        )
    )


def _fitted_on(event_id: str) -> sa.Select[Any]:
    """Ids of the reward models whose frozen set holds an event."""
    return (
        sa.select(reward_models.c.id)
        .join(event_set_members, event_set_members.c.event_set_id == reward_models.c.event_set_id)
        .where(event_set_members.c.event_id == event_id)
    )


def _upstream(policy_id: str) -> sa.CTE:
    """(kind, id) of a policy and of all that shaped it."""
    edges = _edges()
    start = sa.select(sa.literal("policy").label("kind"), sa.literal(policy_id).label("id"))
    behind = start.cte("behind", recursive=True)
    return behind.union(
        sa.select(edges.c.source_kind, edges.c.source).join(
            behind, sa.and_(edges.c.target_kind == behind.c.kind, edges.c.target == behind.c.id)
        )
    )


def _reward_models_in(database: Database, nodes: sa.CTE) -> list[RewardModelRow]:
    found = sa.select(nodes.c.id).where(nodes.c.kind == "reward_model")
    columns = (reward_models.c.id, reward_models.c.round, reward_models.c.event_set_id)
    statement = sa.select(*columns).where(reward_models.c.id.in_(found))
    with database.read() as connection:
        rows = connection.execute(statement.order_by(reward_models.c.round, reward_models.c.id))
        return [RewardModelRow(**row._mapping) for row in rows]


def _edges_into(target: str, **sources: str | None) -> list[Edge]:
    return [Edge(source, target, kind) for kind, source in sources.items() if source is not None]


def _policy_row(row: sa.Row[Any]) -> PolicyRow:
    return PolicyRow(**row._mapping)


def _digests_in(value: Any) -> set[str]:
    if isinstance(value, str):
        return {value} if _DIGEST.fullmatch(value) else set()
    if isinstance(value, Mapping):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list):
        return set().union(*(_digests_in(item) for item in value))
    return set()


def _json(values: Mapping[str, Any]) -> dict[str, Any]:
    """As the database gives it back (tuples become lists), so that a replayed record compares equal."""
    return json.loads(canonical_json(dict(values)))


def _known(connection: Connection, column: sa.Column[Any], value: str | None, what: str, fix: str) -> None:
    if value is not None and connection.execute(sa.select(column).where(column == value)).first() is None:
        raise StoreError(f"no {what} {value!r} in the lineage", fix)


def _record(
    connection: Connection, table: sa.Table, row: dict[str, Any], free: tuple[str, ...] = ("created_at",)
) -> None:
    """Insert a row, or find that it is there already with the same content (``free`` columns aside)."""
    key = next(iter(table.primary_key.columns))
    old = connection.execute(sa.select(table).where(key == row[key.name])).first()
    if old is None:
        try:
            connection.execute(sa.insert(table).values(row))
        except sa.exc.IntegrityError as error:
            raise StoreError(
                f"{table.name} refuses {row[key.name]!r}: {error.orig}", "check the record's fields"
            ) from error
        return
    for name, value in row.items():
        if name not in free and old._mapping[name] != value:
            raise StoreError(
                f"{table.name} holds {row[key.name]!r} with another {name}: {old._mapping[name]!r}, not {value!r}",
                "ids are content digests or stage keys; give another record another id",
            )
