"""A study of a domain that learns online: its stages, its lineage, and people who answer while it trains."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tropism.control.demonstrations import PythonExpert, demonstrate, save_demonstrations
from tropism.control.policy import load_policy
from tropism.control.questions import segment_folder
from tropism.control.reward_network import load_reward
from tropism.environments.making import EnvironmentSpec
from tropism.environments.making import make as make_environment
from tropism.environments.segments import Segment
from tropism.environments.stepping import replay
from tropism.errors import ConfigError, DataError, TropismError
from tropism.feedback.events import FeedbackLog
from tropism.feedback.people import register_person
from tropism.feedback.records import Answer
from tropism.jobs import control_train
from tropism.jobs.config import resolve
from tropism.store.database import Database
from tropism.store.lineage import live_artifacts, policies_shaped_by
from tropism.study.study import Study

SMALL: dict[str, Any] = {
    "study.domain": "control",
    "study.rounds": 2,
    "environment.id": "Pendulum-v1",
    "feedback.queries_per_round": 30,
    "preferences.sessions": 3,
    "reward.fit_steps": 40,
    "reward.fit_steps_again": 10,
    "agent.steps": 9000,
    "evaluation.episodes": 4,
    "evaluation.clips": 0,
    "runtime.threads": 1,
}


def make(folder: Path, **more: Any) -> Study:
    return Study.create(folder, overrides={**SMALL, **{k.replace("__", "."): v for k, v in more.items()}})


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Study:
    study = make(tmp_path_factory.mktemp("online") / "s")
    study.run()
    return study


def test_a_round_is_three_stages(done: Study) -> None:
    names = [stage.name for stage in done.status().stages]
    assert names == ["base", *[f"{kind}-{r}" for r in (1, 2) for kind in ("improve", "evaluate", "decide")]]
    assert done.status().finished


def test_every_round_asks_anew_and_fits_on_all(done: Study) -> None:
    stages = {stage.name: stage for stage in done.status().stages}
    assert [stages[f"improve-{r}"].values["answered"] for r in (1, 2)] == [30, 30]
    log = FeedbackLog(done.database)
    assert len(log.judgements()) == 60
    assert {j.query.round for j in log.judgements()} == {1, 2}
    assert done.verify().ok


def test_from_a_vote_to_the_policies_it_shaped(done: Study) -> None:
    for judgement in FeedbackLog(done.database).judgements():
        shaped = policies_shaped_by(done.database, judgement.event_id)
        assert {policy.round for policy in shaped} == ({1, 2} if judgement.query.round == 1 else {2})


def test_the_reward_folder_pays(done: Study) -> None:
    stage = next(s for s in done.status().stages if s.name == "improve-2")
    reward = load_reward(done.artifacts.path(stage.folders["reward"]))
    x, a = np.zeros((3, 3), np.float32), np.zeros((3, 1), np.float32)
    assert reward(x, a, x).shape == (3,)
    assert reward.version > 1


def test_segments_stay_when_garbage_is_collected(done: Study) -> None:
    shown = {c.content["artifact"] for c in FeedbackLog(done.database).candidates().values()}
    assert shown <= live_artifacts(done.database)
    done.gc()
    assert all(done.artifacts.has(digest) for digest in shown)


def test_what_was_asked_about_can_be_seen_again(done: Study) -> None:
    candidate = next(iter(FeedbackLog(done.database).candidates().values()))
    folder = done.artifacts.path(candidate.content["artifact"])
    segment = Segment.read(segment_folder(folder, candidate.content["row"]))
    assert segment.returned == pytest.approx(candidate.content["true_return"], rel=1e-6)
    env = make_environment(segment.environment)
    assert segment.episode is not None
    assert segment.played is not None
    for seen in replay(env, segment.episode, list(segment.played)):
        last = seen
    assert np.array_equal(last, segment.observations[0])


def test_the_report_is_written(done: Study) -> None:
    page = done.report().read_text("utf-8")
    assert "true return" in page.lower()


def test_a_study_may_start_from_demonstrations(tmp_path: Path) -> None:
    spec = EnvironmentSpec("Pendulum-v1", horizon="fixed")
    expert = PythonExpert(lambda seen: np.full((len(seen), 1), 1.5, np.float32))
    (tmp_path / "shown").mkdir()
    save_demonstrations(tmp_path / "shown", demonstrate(expert, spec, 3, 0))
    study = make(tmp_path / "s", study__rounds=1, demonstrations__folder=str(tmp_path / "shown"))
    study.run(until="base")
    stage = next(s for s in study.status().stages if s.name == "base")
    cloned = load_policy(study.artifacts.path(stage.folders["policy"])).actor
    seen = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 2.0]], np.float32)
    assert np.allclose(cloned.act(seen), 1.5, atol=0.3)
    study.run(until="improve-1")
    log = FeedbackLog(study.database)
    kinds = [j.value["kind"] for j in log.judgements()]
    assert kinds.count("demonstration") == 3
    assert kinds.count("comparison") == 30
    more = {"agent.algorithm": "sac", "demonstrations.folder": str(tmp_path / "shown")}
    with pytest.raises(ConfigError, match="sac cannot start"):
        Study.create(tmp_path / "t", overrides={**SMALL, **more}).run()


def test_a_study_may_start_from_a_trained_policy(tmp_path: Path) -> None:
    """Trained to hang still, by a wrong reward; it is what the first round begins with."""
    config = {"environment.id": "Pendulum-v1", "environment.horizon": "fixed", "agent.steps": 4000}
    control_train.run(resolve(control_train.ControlTrainConfig, config), tmp_path / "trained")
    study = make(tmp_path / "s", study__rounds=1, agent__start=str(tmp_path / "trained"))
    study.run(until="base")
    stage = next(s for s in study.status().stages if s.name == "base")
    begun = load_policy(study.artifacts.path(stage.folders["policy"])).actor
    seen = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    assert np.array_equal(begun.act(seen), load_policy(tmp_path / "trained").actor.act(seen))
    with pytest.raises(TropismError, match="nowhere"):
        make(tmp_path / "t", agent__start=str(tmp_path / "nowhere")).run()


def answer_all(folder: Path, after_s: float, stop: threading.Event, steps_seen: list[tuple[float, int]]) -> None:
    """A person who begins late: from then on every open question gets its answer at once."""
    began, said = time.monotonic(), set[str]()
    database = Database.open(folder / "study.db")
    log = FeedbackLog(database)
    ann = register_person(database, "Ann")
    while not stop.is_set():
        time.sleep(0.05)
        if time.monotonic() - began < after_s:
            continue
        candidates = log.candidates()
        for query in log.queries().values():
            if query.id not in said:
                returns = [candidates[c].content["true_return"] for c in query.candidate_ids]
                choice = "a" if returns[0] > returns[1] else "b"
                log.append(query, ann, Answer({"kind": "comparison", "choice": choice, "strength": 0}))
                said.add(query.id)
    database.close()


@pytest.mark.timeout(60)
def test_the_policy_does_not_wait_for_people(tmp_path: Path) -> None:
    study = make(tmp_path / "s", study__rounds=1, feedback__teacher="person", agent__steps=60_000)
    stop, progress = threading.Event(), list[tuple[float, int]]()

    class Sink:
        def update(self, activity: str, done: int, total: int, note: str = "") -> None:
            if "learn" in activity:
                progress.append((time.monotonic(), done))

    began, withheld = time.monotonic(), 3.0
    person = threading.Thread(target=answer_all, args=(study.folder, withheld, stop, []))
    person.start()
    try:
        study.run(progress=Sink())
    finally:
        stop.set()
        person.join()
    while_withheld = [steps for at, steps in progress if at - began < withheld]
    assert len(set(while_withheld)) > 3
    assert while_withheld == sorted(while_withheld)
    values = next(s for s in study.status().stages if s.name == "improve-1").values
    assert values["answered"] == 30
    fits = [labels for labels in versions(study) if labels]
    assert fits
    assert max(fits) == 30


def versions(study: Study) -> list[int]:
    """Answers that were there when each version of the reward was fitted."""
    read = study.metrics.table("improve-1")
    fitted = {step for step, _ in read.get("reward/version", [])}
    return [int(value) for step, value in read["preferences/labels"] if step in fitted]


def test_a_study_that_nobody_answers_explores_then_rests_then_says_so(tmp_path: Path) -> None:
    hours = 3 / 3600
    study = make(
        tmp_path / "s", study__rounds=1, feedback__teacher="person", agent__steps=5000, feedback__wait_hours=hours
    )
    began = time.process_time()
    with pytest.raises(DataError, match="had no answer after"):
        study.run()
    assert time.process_time() - began < 3.5  # of which the exploration is most
    assert study.metrics.last("improve-1")["preferences/asked"] >= 8


@pytest.mark.parametrize(
    ("problem", "change"),
    [
        ("horizon", {"environment.horizon": "variable"}),
        ("segments of 300 steps", {"preferences.segment_length": 300}),
        ("CartPole", {"environment.id": "CartPol-v1"}),
        ("ranking", {"feedback.kind": "ranking"}),
        ("sac cannot", {"agent.algorithm": "sac", "environment.id": "CartPole-v1"}),
        ("import", {"feedback.teacher": "import"}),
    ],
)
def test_what_cannot_be_studied(tmp_path: Path, problem: str, change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=problem):
        Study.create(tmp_path / "s", overrides={**SMALL, **change}).run()
