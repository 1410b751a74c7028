"""A study of a domain that learns online: its stages, its lineage, and people who answer while it trains."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import sqlalchemy as sa

from tropism.control.demonstrations import PythonExpert, demonstrate, save_demonstrations
from tropism.control.policy import load_policy
from tropism.control.questions import segment_folder
from tropism.control.reward_network import load_reward
from tropism.control.reward_wrapper import LearnedRewardWrapper
from tropism.environments.making import EnvironmentSpec
from tropism.environments.making import make as make_environment
from tropism.environments.segments import Segment
from tropism.environments.stepping import replay
from tropism.errors import ConfigError, DataError, TropismError
from tropism.feedback.events import FeedbackLog
from tropism.feedback.people import register_person
from tropism.feedback.queue import Queue
from tropism.feedback.records import Answer
from tropism.jobs import control_train
from tropism.jobs.config import resolve
from tropism.store import schema
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


def answer_all(folder: Path, withhold: Mapping[int, Callable[[], None]], stop: threading.Event) -> None:
    """A person who gives every open question its answer at once, but calls ``withhold[n]`` before the one after n."""
    said = set[str]()
    database = Database.open(folder / "study.db")
    log = FeedbackLog(database)
    ann = register_person(database, "Ann")
    while not stop.is_set():
        time.sleep(0.05)
        queries = log.queries()  # before the candidates, which are there when their queries are
        candidates = log.candidates()
        for query in queries.values():
            if query.id not in said:
                if len(said) in withhold:
                    withhold[len(said)]()
                returns = [candidates[c].content["true_return"] for c in query.candidate_ids]
                choice = "a" if returns[0] > returns[1] else "b"
                log.append(query, ann, Answer({"kind": "comparison", "choice": choice, "strength": 0}))
                said.add(query.id)
    database.close()


class Steps:
    """Keeps the agent's step counter, and when it was so far."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, int]] = []

    def update(self, activity: str, done: int, total: int, note: str = "") -> None:
        if "learn" in activity:
            self.seen.append((time.monotonic(), done))

    def rise(self, times: int, seconds: float) -> bool:
        """Wait until the counter has risen some times more, but ``seconds`` at most. Whether it has."""
        began, ends = len(self.seen), time.monotonic() + seconds
        while time.monotonic() < ends and len({steps for _, steps in self.seen[began:]}) <= times:
            time.sleep(0.05)
        found = [steps for _, steps in self.seen[began:]]
        assert found == sorted(found)
        return len(set(found)) > times


def with_a_person(study: Study, steps: Steps, withhold: Mapping[int, Callable[[], None]]) -> dict[str, Any]:
    """Run a study beside a person who withholds answers. Returns the values of the first round's training."""
    stop = threading.Event()
    person = threading.Thread(target=answer_all, args=(study.folder, withhold, stop))
    person.start()
    try:
        study.run(progress=steps)
    finally:
        stop.set()
        person.join()
    return next(s for s in study.status().stages if s.name == "improve-1").values


@pytest.mark.timeout(240)
def test_the_policy_does_not_wait_for_people(tmp_path: Path) -> None:
    """Put back (the loop stops when it has explored as long as it may train; the steps beyond are charged): the counter
    stands still, or the round is over after one answer. The long form is among the tests of durability."""
    study = make(tmp_path / "s", study__rounds=1, feedback__teacher="person", agent__steps=9000)
    steps, rose = Steps(), list[bool]()

    def until_it_rises() -> None:
        rose.append(steps.rise(times=6, seconds=100.0))

    values = with_a_person(study, steps, {0: until_it_rises, 12: until_it_rises})
    assert rose == [True, True]
    assert (values["answered"], values["asked"]) == (30, 30)
    assert max(versions(study)) == 30
    assert values["steps"] - values["steps_not_charged"] < 9000 + 2048
    assert values["steps_not_charged"] > 9000


@pytest.mark.durability
@pytest.mark.skipif("TROPISM_KILLS" not in os.environ, reason="takes two minutes: make durability")
@pytest.mark.timeout(900)
def test_the_policy_does_not_wait_a_minute_for_people(tmp_path: Path) -> None:
    """For a label that is withheld for 60 s, the first one and a later one, the step counter keeps rising, and what
    comes is in the next fit."""
    study = make(tmp_path / "s", study__rounds=1, feedback__teacher="person", agent__steps=6000)
    steps, rose = Steps(), list[bool]()

    def for_a_minute() -> None:
        for _ in range(3):
            began = time.monotonic()
            rose.append(steps.rise(times=1, seconds=20.0))
            time.sleep(max(0.0, began + 20.0 - time.monotonic()))

    values = with_a_person(study, steps, {0: for_a_minute, 12: for_a_minute})
    assert rose == [True] * 6
    assert (values["answered"], values["asked"]) == (30, 30)
    labels = versions(study)
    assert labels == sorted(labels)
    assert 12 in labels
    assert labels[-1] == 30


def judge_all_but_one(folder: Path, stop: threading.Event) -> None:
    """The only person with an account passes over the first question that they get, and answers every other one."""
    database = Database.open(folder / "study.db")
    queue, ann = Queue(database), register_person(database, "Ann")
    row = {"id": "ann", "name": "ann", "role": "admin", "pseudonym": ann, "settings": {}, "status": "active"}
    with database.write() as connection:
        connection.execute(sa.insert(schema.accounts).values(**row, created_at=0.0))
    given = 0
    while not stop.is_set():
        for one in queue.claim(ann)[0]:
            if given:
                queue.submit(one.assignment_id, ann, uuid.uuid4().hex, [Answer({"choice": "a"})])
            else:
                queue.skip(one.assignment_id, ann, "passed over")
            given += 1
        stop.wait(0.05)
    database.close()


@pytest.mark.parametrize("wait", [False, True], ids=["goes on", "waits"])
@pytest.mark.timeout(200)
def test_a_skip_by_the_only_person_is_neither_waited_for_nor_charged(wait: bool, tmp_path: Path) -> None:
    """Put back (a skipped question is open): it is waited for until ``feedback.wait_hours`` have passed."""
    hours, asked = 1 / 60, {"feedback.queries_per_round": 12, "preferences.sessions": 1, "preferences.wait": wait}
    people = {"feedback.teacher": "person", "feedback.wait_hours": hours, "study.rounds": 1, "agent.steps": 4000}
    study, stop = Study.create(tmp_path / "s", overrides={**SMALL, **asked, **people}), threading.Event()
    person = threading.Thread(target=judge_all_but_one, args=(study.folder, stop))
    person.start()
    try:
        study.run(until="improve-1")
    finally:
        stop.set()
        person.join()
    values = next(s for s in study.status().stages if s.name == "improve-1").values
    assert (values["asked"], values["answered"]) == (13, 12)


def versions(study: Study) -> list[int]:
    """Answers that were there when each version of the reward was fitted."""
    read = study.metrics.table("improve-1")
    fitted = {step for step, _ in read.get("reward/version", [])}
    return [int(value) for step, value in read["preferences/labels"] if step in fitted]


def test_a_study_that_nobody_answers_works_ever_less_and_then_says_so(tmp_path: Path) -> None:
    hours = 3 / 3600
    study = make(
        tmp_path / "s", study__rounds=1, feedback__teacher="person", agent__steps=5000, feedback__wait_hours=hours
    )
    began, steps = time.process_time(), Steps()
    with pytest.raises(DataError, match="nobody has answered anything for"):
        study.run(progress=steps)
    assert time.process_time() - began < 3.5  # of which the exploration is most
    assert study.metrics.last("improve-1")["preferences/asked"] >= 8
    assert steps.seen[-1][1] > 5000


def test_a_running_study_publishes_its_reward(tmp_path: Path) -> None:
    """Put back (a reward is in checkpoints and at the round's end only): there is nothing to follow."""
    study = make(tmp_path / "s", study__rounds=1)
    link, seen = study.folder / "live" / "reward", list[int]()

    class Follower:
        def update(self, activity: str, done: int, total: int, note: str = "") -> None:
            if link.exists():
                seen.append(load_reward(link).version)

    study.run(until="improve-1", progress=Follower())
    assert len(set(seen)) > 2
    assert seen == sorted(seen)
    stage = next(s for s in study.status().stages if s.name == "improve-1")
    final = load_reward(study.artifacts.path(stage.folders["reward"]))
    x, a = np.ones((2, 3), np.float32), np.ones((2, 1), np.float32)
    assert np.array_equal(final(x, a, x), load_reward(link)(x, a, x))
    assert len(list(link.parent.glob("version-*"))) == 2
    live = LearnedRewardWrapper.from_folder(gymnasium.make("Pendulum-v1"), link, live=True)
    live.reset(seed=0)
    assert live.step(np.zeros(1, np.float32))[4]["reward_version"] == final.version


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
