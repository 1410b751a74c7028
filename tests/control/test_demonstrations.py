"""Demonstrations: what is kept of an episode, its folder, playing it again, its rows in the feedback log."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tropism.control.demonstrations import (
    Demonstrations,
    PythonExpert,
    check_fit,
    demonstrate,
    feedback_rows,
    from_judgements,
    load_demonstrations,
    replay,
    save_demonstrations,
)
from tropism.control.networks import ActorCritic, Floats
from tropism.control.policy import ActorCriticPolicy, describe, load_policy, save_policy
from tropism.digests import digest_folder
from tropism.environments.making import EnvironmentSpec
from tropism.environments.normalising import Normaliser
from tropism.environments.stepping import Environments
from tropism.errors import ContractError, DataError
from tropism.feedback.events import FeedbackLog
from tropism.store.artifacts import ArtifactStore
from tropism.store.database import Database

CARTPOLE, PENDULUM = EnvironmentSpec("CartPole-v1"), EnvironmentSpec("Pendulum-v1")


def balance(observations: Floats) -> Floats:
    """A linear controller that keeps CartPole up for all of its 500 steps."""
    return (observations @ np.array([0.1, 0.3, 1.0, 1.0], np.float32) > 0).astype(np.float32)


EXPERT = PythonExpert(balance)


@pytest.fixture(scope="module")
def shown() -> Demonstrations:
    return demonstrate(EXPERT, CARTPOLE, 2, seed=5, about={"expert": "linear"})


def test_an_episode_is_what_happened(shown: Demonstrations) -> None:
    for episode in shown.episodes:
        assert episode.length == 500
        assert not episode.terminated
        assert episode.returned == 500
        assert np.array_equal(episode.observations[1:], episode.successors[:-1])
        assert np.array_equal(episode.actions, balance(episode.observations))
    assert not np.array_equal(shown.episodes[0].observations[0], shown.episodes[1].observations[0])
    assert shown.returns == [500, 500]


def test_a_subsample_keeps_its_steps_and_their_successors(shown: Demonstrations) -> None:
    few = shown.subsampled(20, offset=3)
    assert few.steps == 50
    whole, part = shown.episodes[1], few.episodes[1]
    assert part.times.tolist() == list(range(3, 500, 20))
    assert np.array_equal(part.observations, whole.observations[3::20])
    assert np.array_equal(part.successors, whole.successors[3::20])
    assert part.returned == 500
    assert few.joined("observations").shape == (50, 4)
    with pytest.raises(DataError, match="step 500"):
        shown.subsampled(20, offset=500)


def test_an_episode_can_be_played_again(shown: Demonstrations) -> None:
    again = replay(shown, 1)
    assert np.array_equal(again.observations, shown.episodes[1].observations)
    changed = shown.episodes[1].actions.copy()
    changed[10] = 1 - changed[10]
    other = replace(shown, episodes=(replace(shown.episodes[1], actions=changed),))
    with pytest.raises(ContractError, match="another way"):
        replay(other, 0)
    with pytest.raises(DataError, match="not all of its steps"):
        replay(shown.subsampled(20), 0)


def test_falls_in_a_fixed_horizon_are_played_again() -> None:
    spec = replace(CARTPOLE, horizon="fixed", steps=60)
    falling = demonstrate(PythonExpert(lambda seen: np.ones(len(seen), np.float32)), spec, 1, seed=0)
    episode = falling.episodes[0]
    assert episode.length == 60
    assert not episode.terminated
    assert episode.rewards is not None
    assert episode.rewards.min() == 0  # 1 for the step, less the penalty of 1
    assert np.array_equal(replay(falling, 0).successors, episode.successors)


def test_one_seed_gives_one_episode_and_a_sampled_actor_varies() -> None:
    policy = ActorCritic(4, 2, discrete=True, seed=1)
    actor = ActorCriticPolicy(policy, Normaliser(4, False))
    made = [demonstrate(actor, CARTPOLE, 1, seed=s, sample=True).episodes[0].actions.tolist() for s in (1, 1, 2)]
    assert made[0] == made[1]
    assert made[0] != made[2]
    assert len(set(made[0])) == 2


def test_continuous_actions_are_kept_as_they_were_done() -> None:
    wild = PythonExpert(lambda seen: np.full((len(seen), 1), 7.0, np.float32))
    episode = demonstrate(wild, PENDULUM, 1, seed=0).episodes[0]
    assert episode.actions.shape == (200, 1)
    assert np.unique(episode.actions).tolist() == [2.0]


def test_a_policy_folder_demonstrates(tmp_path: Path) -> None:
    actor = ActorCritic(4, 2, discrete=True, seed=3)
    save_policy(tmp_path, describe(actor, Normaliser(4, False)), CARTPOLE, {})
    read = load_policy(tmp_path)
    shown = demonstrate(read.actor, read.environment, 1, seed=0)
    seen = shown.episodes[0].observations
    assert np.array_equal(shown.episodes[0].actions, actor.act(seen, None)[0])


def test_a_folder_holds_everything_and_equal_ones_are_equal(shown: Demonstrations, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        save_demonstrations(tmp_path / name, shown.subsampled(7))
    assert digest_folder(tmp_path / "one") == digest_folder(tmp_path / "two")
    read, kept = load_demonstrations(tmp_path / "one"), shown.subsampled(7)
    assert read.environment == kept.environment
    assert read.about == kept.about == {"expert": "linear", "sampled": False}
    for old, new in zip(kept.episodes, read.episodes, strict=True):
        for name in ("observations", "actions", "successors", "rewards", "times"):
            assert np.array_equal(getattr(old, name), getattr(new, name)), name
        assert (old.length, old.returned, old.seed) == (new.length, new.returned, new.seed)


def test_rewards_may_be_unknown(shown: Demonstrations, tmp_path: Path) -> None:
    bare = replace(shown, episodes=tuple(replace(e, rewards=None, returned=None, seed=None) for e in shown.episodes))
    save_demonstrations(tmp_path, bare)
    read = load_demonstrations(tmp_path)
    assert read.episodes[0].rewards is None
    assert read.returns == []
    with pytest.raises(DataError, match="no seed"):
        replay(read, 0)


def test_damaged_folders_are_refused(shown: Demonstrations, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"demonstrations\.json is missing"):
        load_demonstrations(tmp_path)
    save_demonstrations(tmp_path, shown)
    about = tmp_path / "demonstrations.json"
    good = json.loads(about.read_text())
    about.write_text(json.dumps(good | {"episodes": good["episodes"][:1]}))
    with pytest.raises(DataError, match="do not match"):
        load_demonstrations(tmp_path)
    about.write_text("{")
    with pytest.raises(DataError, match="can be read"):
        load_demonstrations(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"times": np.zeros(0, np.int64)}, "0 steps"),
        ({"actions": np.zeros(3, np.float32)}, "actions"),
        ({"times": np.arange(500)[::-1].copy()}, "times rise"),
        ({"length": 499}, "of 499"),
        ({"rewards": np.full(500, np.nan, np.float32)}, "rewards"),
        ({"successors": np.zeros((500, 3), np.float32)}, "successors"),
    ],
)
def test_bad_episodes_are_refused(shown: Demonstrations, change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        replace(shown.episodes[0], **change)


def test_demonstrations_of_another_environment_are_refused(shown: Demonstrations) -> None:
    with pytest.raises(DataError, match="Pendulum"):
        check_fit(shown, Environments(PENDULUM, 1, 0))
    check_fit(shown, Environments(CARTPOLE, 1, 0))
    third = replace(shown.episodes[0], actions=np.full(500, 2, np.float32))
    with pytest.raises(DataError, match="2 categories"):
        check_fit(replace(shown, episodes=(third,)), Environments(CARTPOLE, 1, 0))
    with pytest.raises(DataError, match="without an episode"):
        replace(shown, episodes=())


def test_rows_go_into_the_log(shown: Demonstrations, tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "artifacts")
    artifacts = []
    for number, episode in enumerate(shown.episodes):
        folder = tmp_path / str(number)
        folder.mkdir()
        save_demonstrations(folder, replace(shown, episodes=(episode,)))
        artifacts.append(store.put(folder))
    rows = feedback_rows(shown, artifacts, "linear controller", "train", round=1)
    log = FeedbackLog(Database.create(tmp_path / "study.db"))
    log.register_teacher("demonstrator", "import")
    for _ in range(2):  # the same rows again change nothing
        log.add_tasks(task for task, _, _, _ in rows)
        log.add_candidates(candidate for _, candidate, _, _ in rows)
        log.add_queries(query for _, _, query, _ in rows)
        log.append_many([(query, "demonstrator", answer) for _, _, query, answer in rows])
    judged = list(log.judgements())
    assert len(judged) == 2
    for judgement in judged:
        assert judgement.value["kind"] == "demonstration"
        kept = load_demonstrations(store.path(judgement.value["artifact"]))
        assert judgement.task.payload["seed"] == kept.episodes[0].seed
        assert judgement.candidates[0].kind == "episode"
        assert "500.0" not in json.dumps(judgement.candidates[0].content)  # nobody reads the true return off it
    back = from_judgements(judged, store.path)
    assert back.environment == CARTPOLE
    assert sorted(e.seed or 0 for e in back.episodes) == sorted(e.seed or 0 for e in shown.episodes)
    with pytest.raises(DataError, match="no judgement"):
        from_judgements([], store.path)
    with pytest.raises(DataError, match="1 artifacts for 2"):
        feedback_rows(shown, artifacts[:1] * 2, "linear controller", "train")
