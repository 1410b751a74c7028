"""Lineage: from a vote to every policy it shaped, and back; what to refit when a person leaves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from databases import DATABASES, new_database
from tropism.errors import StoreError
from tropism.store import lineage, schema
from tropism.store.database import Database

DIGESTS = {name: (name.encode().hex() * 64)[:64] for name in ("sft", "p1", "p2", "other", "clip", "stage", "note")}


@pytest.fixture(params=DATABASES)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """See ``planted``."""
    with new_database(request.param, tmp_path) as made:
        yield planted(made)


def planted(made: Database) -> Database:
    """sft -> p1 (r1 on events e1, e2) -> p2 (r2 on e2, e3); beside them ``other`` (r3 on e4) from sft."""
    with made.write() as c:
        for teacher in ("ada", "bob"):
            c.execute(sa.insert(schema.teachers).values(id=teacher, kind="person", created_at=0.0))
        for i, teacher in enumerate(["ada", "bob", "bob", "ada", "bob"], start=1):
            c.execute(
                sa.insert(schema.events).values(
                    id=f"e{i}", digest=f"d{i}", kind="comparison", teacher_id=teacher, target="", value={}, origin="",
                    created_at=0.0,
                )
            )  # fmt: skip
        for name, members in {"s1": ["e1", "e2"], "s2": ["e2", "e3"], "s3": ["e4"]}.items():
            c.execute(sa.insert(schema.event_sets).values(id=name, count=len(members), created_at=0.0))
            c.execute(sa.insert(schema.event_set_members), [{"event_set_id": name, "event_id": e} for e in members])
        lineage.record_policy(c, "sft", DIGESTS["sft"], 0, None, None, None, "reference", {})
        lineage.record_reward_model(c, "r1", "a1", 1, "s1", {"accuracy": 0.8}, base_policy_id="sft")
        lineage.record_policy(c, "p1", DIGESTS["p1"], 1, "sft", "sft", "r1", "promoted", {"kl": 1.5})
        lineage.record_reward_model(c, "r2", "a2", 2, "s2", {}, base_policy_id="sft")
        lineage.record_policy(c, "p2", DIGESTS["p2"], 2, "p1", "sft", "r2", "candidate", {})
        lineage.record_reward_model(c, "r3", "a3", 1, "s3", {}, base_policy_id="sft")
        lineage.record_policy(c, "other", DIGESTS["other"], 1, "sft", "sft", "r3", "rejected", {})
    return made


def count_queries(database: Database) -> list[str]:
    seen: list[str] = []

    @sa.event.listens_for(database.engine, "before_cursor_execute")
    def note(_c: object, _cursor: object, statement: str, *_: object) -> None:
        if not statement.startswith("BEGIN"):
            seen.append(statement)

    return seen


def test_from_a_vote_to_every_policy_it_shaped_is_one_query(database: Database) -> None:
    seen = count_queries(database)
    assert [p.id for p in lineage.policies_shaped_by(database, "e1")] == ["p1", "p2"]  # p2 through its parent alone
    assert len(seen) == 1
    assert [p.id for p in lineage.policies_shaped_by(database, "e3")] == ["p2"]
    assert [p.id for p in lineage.policies_shaped_by(database, "e4")] == ["other"]
    assert lineage.policies_shaped_by(database, "e5") == []
    first = lineage.policies_shaped_by(database, "e2")[0]
    assert (first.status, first.values, first.artifact) == ("promoted", {"kl": 1.5}, DIGESTS["p1"])


def test_and_back_is_one_query(database: Database) -> None:
    seen = count_queries(database)
    assert lineage.events_behind(database, "p2") == ["e1", "e2", "e3"]
    assert len(seen) == 1
    assert lineage.events_behind(database, "p1") == ["e1", "e2"]
    assert lineage.events_behind(database, "other") == ["e4"]
    assert lineage.events_behind(database, "sft") == []


def test_both_directions_agree(database: Database) -> None:
    policies = ["sft", "p1", "p2", "other"]
    down = {(e, p.id) for e in ("e1", "e2", "e3", "e4", "e5") for p in lineage.policies_shaped_by(database, e)}
    up = {(e, p) for p in policies for e in lineage.events_behind(database, p)}
    assert down == up


def test_refit_after_erasure_lists_models_and_descendants(database: Database) -> None:
    seen = count_queries(database)
    assert lineage.refit_after_erasure(database, "ada") == lineage.Refit(["r1", "r3"], ["other", "p1", "p2"])
    assert len(seen) == 1
    assert lineage.refit_after_erasure(database, "bob") == lineage.Refit(["r1", "r2"], ["p1", "p2"])
    assert lineage.refit_after_erasure(database, "nobody") == lineage.Refit([], [])


def test_a_reward_model_grown_from_a_shaped_policy_is_shaped_too(database: Database) -> None:
    with database.write() as c:
        lineage.record_reward_model(c, "r4", "a4", 3, "s3", {}, base_policy_id="p2")
        lineage.record_policy(c, "p3", "x", 3, "sft", "sft", "r4", "candidate", {})
        lineage.record_policy(c, "leashed", "y", 3, "sft", "p1", None, "candidate", {})
    assert [p.id for p in lineage.policies_shaped_by(database, "e3")] == ["p2", "p3"]
    assert [p.id for p in lineage.policies_shaped_by(database, "e1")] == ["p1", "p2", "leashed", "p3"]
    assert lineage.events_behind(database, "p3") == ["e1", "e2", "e3", "e4"]
    assert lineage.refit_after_erasure(database, "bob").reward_models == ["r1", "r2", "r4"]


def test_recording_again_changes_nothing_and_contradictions_are_refused(database: Database) -> None:
    with database.write() as c:
        lineage.record_policy(c, "p1", DIGESTS["p1"], 1, "sft", "sft", "r1", "candidate", {"kl": 1.5})
        lineage.record_evaluation(c, "v1", "p1", 1, {"win_rate": 0.8, "pair": (1, 2)})
        lineage.record_evaluation(c, "v1", "p1", 1, {"win_rate": 0.8, "pair": (1, 2)})
        lineage.record_artifact(c, DIGESTS["p1"], "policy", 10)
        lineage.record_artifact(c, DIGESTS["p1"], "policy", 10)
    assert lineage.policies_shaped_by(database, "e1")[0].status == "promoted"  # what was decided stays decided
    with database.write() as c:
        with pytest.raises(StoreError, match="another round: 1, not 2"):
            lineage.record_policy(c, "p1", DIGESTS["p1"], 2, "sft", "sft", "r1", "candidate", {"kl": 1.5})
        with pytest.raises(StoreError, match="no reward model 'r9'"):
            lineage.record_policy(c, "p9", "x", 2, "sft", "sft", "r9", "candidate", {})
        with pytest.raises(StoreError, match="no event set 's9'"):
            lineage.record_reward_model(c, "r9", "x", 2, "s9", {})
        with pytest.raises(StoreError, match="no policy 'p9'"):
            lineage.record_evaluation(c, "v9", "p9", 1, {})
        with pytest.raises(StoreError, match="no policy 'p9'"):
            lineage.set_policy_status(c, "p9", "promoted")
        with pytest.raises(StoreError, match="policies refuses 'p8'"):
            lineage.record_policy(c, "p8", "x", 2, "sft", "sft", None, "wonderful", {})


def test_status_changes_with_the_decision(database: Database) -> None:
    with database.write() as c:
        lineage.set_policy_status(c, "p2", "rejected")
    assert lineage.policies_shaped_by(database, "e3")[0].status == "rejected"


def test_graph_has_every_node_and_edge(database: Database) -> None:
    with database.write() as c:
        lineage.record_evaluation(c, "v1", "p1", 1, {})
    found = lineage.graph(database)
    assert sorted(node.id for node in found.nodes) == sorted(
        ["s1", "s2", "s3", "r1", "r2", "r3", "sft", "p1", "p2", "other", "v1"]
    )
    assert lineage.Edge("s1", "r1", "fitted_on") in found.edges
    assert lineage.Edge("p1", "p2", "parent") in found.edges
    assert lineage.Edge("p1", "v1", "evaluated") in found.edges
    assert len(found.edges) == 3 * 2 + 3 * 3 + 1


def test_live_artifacts_are_all_that_anything_speaks_of(database: Database) -> None:
    with database.write() as c:
        c.execute(sa.insert(schema.tasks).values(id="t", split="train", payload={}))
        c.execute(
            sa.insert(schema.candidates).values(
                id="c", task_id="t", kind="segment", content={"artifact": DIGESTS["clip"]}, policy_id="p1", sampling={},
                engine="", seed=0,
            )
        )  # fmt: skip
        outputs = {"folders": {"samples": DIGESTS["stage"]}, "values": {"n": 3}}
        c.execute(
            sa.insert(schema.stages).values(
                key="k", name="evaluate-1", round=1, status="done", seed=0, inputs={}, outputs=outputs
            )
        )
        lineage.record_evaluation(c, "v1", "p1", 1, {"samples": [DIGESTS["note"]]})
    assert lineage.live_artifacts(database) == {*DIGESTS.values(), "a1", "a2", "a3"}
