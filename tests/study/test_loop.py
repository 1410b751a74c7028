"""The whole loop on the bandit: what it makes, that it goes on, that it is deterministic, and who may run it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from bandit import BanditDomain
from bandit_studies import make
from tropism.digests import digest, digest_file
from tropism.errors import ConfigError, InterruptedRun, LeaseHeldError, StoreError
from tropism.feedback.events import FeedbackLog
from tropism.store import lineage, schema
from tropism.store.lease import TrainerLease
from tropism.study.study import Study

ROUND = ("collect", "reward", "improve", "evaluate", "decide")
STAGES = ["base", *(f"{kind}-{r}" for r in (1, 2) for kind in ROUND)]


def outcome(study: Study) -> dict[str, Any]:
    """All that must be equal between two runs of the same study."""
    with study.database.read() as connection:
        rows = connection.execute(sa.select(schema.stages)).mappings().all()
        policies = connection.execute(sa.select(schema.policies).order_by(schema.policies.c.id)).all()
    done = {row["name"]: row["outputs"] for row in rows if row["status"] == "done"}
    curves = {
        stage: {name: rows for name, rows in study.metrics.table(stage).items() if not name.startswith("memory/")}
        for stage in study.metrics.stages()
    }
    return {
        "stages": done,
        "policies": [tuple(row) for row in policies],
        "events": FeedbackLog(study.database).event_digests(),
        "curves": digest(curves),
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Study:
    study = make(tmp_path_factory.mktemp("study") / "s")
    study.run()
    return study


def test_the_loop_runs_and_improves(finished: Study) -> None:
    status = finished.status()
    assert [s.name for s in status.stages] == STAGES
    assert status.finished
    assert status.holder is None
    gold = {s.round: s.values["metrics"] for s in status.stages if s.name.startswith("evaluate")}
    assert gold[1]["policy"] > gold[1]["reference"] + 0.2
    assert gold[2]["policy"] > gold[1]["policy"]
    assert gold[2]["previous"] == gold[1]["policy"], "round 2 starts from the promoted policy"
    assert gold[2]["reference"] == gold[1]["reference"], "the reference stays the base policy"
    assert finished.verify().ok
    assert finished.verify().events == 60
    assert not list((finished.folder / "scratch").iterdir()), "scratch is empty at the end"


def test_the_lineage_goes_from_a_vote_to_the_policies_and_back(finished: Study) -> None:
    log, policies = FeedbackLog(finished.database), {}
    judgements = log.judgements()
    for round_ in (1, 2):
        event = next(j.event_id for j in judgements if j.query.round == round_)
        policies[round_] = [p.round for p in lineage.policies_shaped_by(finished.database, event)]
    assert policies == {1: [1, 2], 2: [2]}
    last = finished.status().stages[-1].values["policy"]
    assert lineage.events_behind(finished.database, last) == sorted(j.event_id for j in judgements)
    made_by = {c.provenance.policy_id for j in judgements if j.query.round == 2 for c in j.candidates}
    first = next(s.values["policy"] for s in finished.status().stages if s.name == "decide-1")
    assert made_by == {first}, "round 2 asks about the outputs of the policy promoted in round 1"


def test_test_tasks_are_never_asked_and_splits_hold(finished: Study) -> None:
    splits = {(j.query.round, j.task.split): 0 for j in FeedbackLog(finished.database).judgements()}
    assert set(splits) == {(r, s) for r in (1, 2) for s in ("train", "validation")}
    with finished.database.read() as connection:
        assert set(connection.execute(sa.select(schema.tasks.c.split)).scalars()) == {"train", "validation"}


def test_drift_is_measured_before_refitting(finished: Study) -> None:
    drift = {s.round: s.values["drift"] for s in finished.status().stages if s.name.startswith("reward")}
    assert drift[1] == {}
    assert drift[2]["pairs"] == 30
    assert drift[2]["accuracy"] > 0.7
    assert finished.metrics.last("reward-2")["drift/accuracy"] == drift[2]["accuracy"]


def test_resolved_configuration_is_saved(finished: Study) -> None:
    saved = json.loads((finished.folder / "resolved.json").read_text())
    assert saved["config"]["improve"]["steps"] == 10
    assert saved["config"]["study"]["rounds"] == 2
    assert {"tropism", "python", "numpy"} <= set(saved["versions"])
    assert {"threads", "mallopt", "wait_policy"} <= set(saved["process"])


def test_peak_memory_is_logged(finished: Study) -> None:
    assert all(10 < finished.metrics.last(s)["memory/peak_rss_mib"] < 1e5 for s in STAGES)


def test_the_same_command_again_changes_nothing(finished: Study) -> None:
    before, times = outcome(finished), [s.seconds for s in finished.status().stages]
    finished.run()
    assert outcome(finished) == before
    assert [s.seconds for s in finished.status().stages] == times


def test_stopping_after_every_stage_gives_the_same_bits(finished: Study, tmp_path: Path) -> None:
    study = make(tmp_path / "s")
    for name in STAGES:
        study.run(until=name)
        assert study.status().stages[-1].name == name
        study.close()
        study = Study.open(tmp_path / "s")
    assert outcome(study) == outcome(finished)


def test_another_seed_gives_other_bits(finished: Study, tmp_path: Path) -> None:
    study = make(tmp_path / "s", study__seed=1)
    study.run()
    assert not set(outcome(study)["events"]) & set(outcome(finished)["events"])


def test_more_rounds_go_on(tmp_path: Path) -> None:
    study = make(tmp_path / "s", study__rounds=1)
    study.run()
    before = outcome(study)["stages"]
    longer = Study.open(tmp_path / "s", overrides=["study.rounds=2"])
    assert not longer.status().finished
    longer.run()
    after = outcome(longer)["stages"]
    assert {name: after[name] for name in before} == before
    assert "decide-2" in after


def test_a_changed_later_stage_is_done_again_where_nobody_was_asked(tmp_path: Path) -> None:
    study = make(tmp_path / "s", study__rounds=1)
    study.run()
    before = outcome(study)["stages"]
    Study.open(tmp_path / "s", overrides={"improve.steps": 5}).run()
    changed = outcome(study)["stages"]
    assert changed["reward-1"] == before["reward-1"]
    assert changed["improve-1"]["folders"] != before["improve-1"]["folders"]
    assert len(study.metrics.table("improve-1")["kl/ref_k1"]) == 5, "curves of the older run are gone"
    study.run()
    assert outcome(study)["stages"] == before, "taken back as it was"


def test_a_stage_depends_on_what_the_users_code_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python reward that is edited under the same name makes another policy, and only what calls it is done again."""
    code = tmp_path / "score.py"
    code.write_text("version = 1")

    def code_digests(domain: BanditDomain, kind: str) -> dict[str, str]:
        return {"score.py": digest_file(code)} if kind == "improve" else {}

    monkeypatch.setattr(BanditDomain, "code_digests", code_digests, raising=False)
    study = make(tmp_path / "s", study__rounds=1)
    study.run()

    def keys() -> dict[str, str]:
        with study.database.read() as connection:
            rows = connection.execute(sa.select(schema.stages).where(schema.stages.c.status == "done")).all()
        return {row.name: row.key for row in rows}

    before = keys()
    code.write_text("version = 2")
    study.run()
    assert {name for name, key in keys().items() if key != before[name]} >= {"improve-1", "evaluate-1"}
    assert keys()["reward-1"] == before["reward-1"]


def test_a_changed_earlier_stage_is_refused_once_people_were_asked(finished: Study) -> None:
    for key, value, old in (("improve.steps", 11, 10), ("world.arms", 6, 5), ("feedback.queries_per_round", 31, 30)):
        before = outcome(finished)
        with pytest.raises(ConfigError, match=rf"{key} was {old} and is now {value}.*tropism new"):
            # the match spans problem and fix
            _run_joined(Study.open(finished.folder, overrides={key: value}))
        assert outcome(finished) == before


def _run_joined(study: Study) -> None:
    try:
        study.run()
    except ConfigError as error:
        raise ConfigError(f"{error.problem} {error.fix}") from error


def test_the_second_run_is_told_who_holds_the_study(tmp_path: Path) -> None:
    study = make(tmp_path / "s")
    with TrainerLease(study.database).acquire():
        holder = study.status().holder
        assert holder is not None
        assert holder["pid"] == os.getpid()
        with pytest.raises(LeaseHeldError, match=str(os.getpid())):
            Study.open(tmp_path / "s").run()
    assert study.run(until="base").stages[-1].name == "base"


class StopAt:
    """A progress sink that sends a signal to this process at a point of the loop."""

    def __init__(self, number: int, activity: str) -> None:
        self.number, self.activity = number, activity

    def update(self, activity: str, done: int, total: int, note: str = "") -> None:
        if activity == self.activity and done >= 5:
            os.kill(os.getpid(), self.number)
            self.activity = ""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_it_cleanly_and_it_goes_on(finished: Study, tmp_path: Path, number: int, code: int) -> None:
    study = make(tmp_path / "s")
    with pytest.raises(InterruptedRun) as caught:
        study.run(progress=StopAt(number, "improve-1: improve"))
    assert caught.value.exit_code == code
    assert study.status().stages[-1].status == "running"
    assert study.status().holder is None
    study.run()
    assert outcome(study) == outcome(finished)
    spent = next(s.seconds for s in study.status().stages if s.name == "improve-1")
    assert spent is not None
    assert spent > 0


def test_a_rejected_policy_is_rolled_back(tmp_path: Path) -> None:
    study = make(tmp_path / "s", improve__learning_rate=-2.0)  # climbs down the reward
    study.run()
    verdicts = [s.values for s in study.status().stages if s.name.startswith("decide")]
    base = lineage.graph(study.database)
    reference = next(n.id for n in base.nodes if n.values.get("status") == "reference")
    assert [v["promoted"] for v in verdicts] == [False, False]
    assert {v["policy"] for v in verdicts} == {reference}
    parents = {e.source for e in base.edges if e.kind == "parent"}
    assert parents == {reference}, "round 2 starts from the policy kept"
    other = make(tmp_path / "t", improve__learning_rate=-2.0, loop__promotion="always")
    other.run()
    assert all(s.values["promoted"] for s in other.status().stages if s.name.startswith("decide"))


def test_without_a_reward_model_nobody_is_asked(tmp_path: Path) -> None:
    study = make(tmp_path / "s", loop__fit_reward=False)
    study.run()
    names = [s.name for s in study.status().stages]
    assert names == [n for n in STAGES if not n.startswith(("collect", "reward"))]
    assert study.status().feedback["events"] == 0


def test_creation_is_all_or_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        Study.create(tmp_path / "bad", recipe="tinytlk")
    assert not list(tmp_path.iterdir())
    make(tmp_path / "s").close()
    assert [p.name for p in tmp_path.iterdir()] == ["s"]
    with pytest.raises(StoreError, match="has a study already"):
        make(tmp_path / "s")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(StoreError, match="not an empty folder"):
        make(tmp_path / "full")
    assert (tmp_path / "full" / "thesis.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    make(tmp_path / "empty").close()
    with pytest.raises(StoreError, match="is no study"):
        Study.open(tmp_path / "nothing")


def test_gc_keeps_what_the_lineage_needs(finished: Study, tmp_path: Path) -> None:
    (tmp_path / "orphan").mkdir()
    (tmp_path / "orphan" / "x").write_bytes(b"12345")
    finished.artifacts.put(tmp_path / "orphan")
    assert finished.gc() == 5
    for stage in finished.status().stages:
        for address in stage.folders.values():
            finished.artifacts.verify(address)
    assert len(finished.samples(2)) == 3
    with pytest.raises(StoreError, match="round 7 has no samples"):
        finished.samples(7)
