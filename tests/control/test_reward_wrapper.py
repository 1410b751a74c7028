"""The learned reward in other people's training: what it is asked, what it pays, when it is read again."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from tropism.control.reward_wrapper import LearnedRewardWrapper, LiveReward
from tropism.environments.fixed_horizon import open_environment
from tropism.environments.making import EnvironmentSpec
from tropism.environments.stepping import Environments
from tropism.errors import ConfigError, RewardError
from tropism.study.live import publish

ROOT = Path(__file__).resolve().parents[2]


def formula(observations: Any, actions: Any, successors: Any) -> Any:
    """A reward that depends on all three."""
    acted = actions if actions.ndim == 1 else actions.sum(1)
    return observations[:, 0] + 10 * acted + 100 * successors[:, 1]


@pytest.mark.parametrize("name", ["Pendulum-v1", "CartPole-v1", "HalfCheetah-v5"])
def test_it_pays_what_our_own_agents_are_paid(name: str) -> None:
    """Step by step what ``Environments`` see, the last step of an episode included, where the successor is the true
    one. Put back (the observation after the reset, or last step's): fails."""
    spec = EnvironmentSpec(name, horizon="fixed", steps=8)  # too short for the pole to fall
    env, ours = LearnedRewardWrapper(open_environment(spec), formula), Environments(spec, 1, seed=1)
    stream = np.random.default_rng(0)
    for _ in range(3):
        env.reset(seed=ours._episode(0).reset_seed())
        returned = 0.0
        for number in range(1, 9):
            action = _some(env.action_space, stream)
            seen, paid, terminated, truncated, info = env.step(action)
            rows = ours.observations.copy()
            step = ours.step(np.array([action]))
            acted = np.array([action], np.float32)
            assert paid == pytest.approx(float(formula(rows, acted, step.successors)[0]), rel=1e-6)
            assert info["true_reward"] == pytest.approx(float(step.rewards[0]), rel=1e-6)
            returned += info["true_reward"]
            assert info["true_return"] == pytest.approx(returned)
            assert info["reward_version"] == 1
            assert not terminated
            assert truncated == (number == 8)
            assert np.allclose(np.asarray(seen, np.float32), step.successors[0])


def _some(space: Any, stream: np.random.Generator) -> Any:
    if isinstance(space, spaces.Discrete):
        return int(stream.integers(space.n))
    return stream.uniform(space.low, space.high).astype(np.float32)


def test_categories_are_counted_from_0_and_observations_are_one_hot() -> None:
    asked: list[Any] = []

    def keep(observations: Any, actions: Any, successors: Any) -> Any:
        asked.append((observations, actions, successors))
        return np.ones(1)

    class Room(gymnasium.Env[Any, Any]):
        observation_space = spaces.Discrete(3)
        action_space = spaces.Discrete(2, start=4)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            return 0, {}

        def step(self, action: Any) -> Any:
            return 2, 5.0, True, False, {"own": 1}

    env = LearnedRewardWrapper(Room(), keep)
    env.reset(seed=0)
    _, paid, terminated, _, info = env.step(5)
    (observations, actions, successors) = asked[0]
    assert (observations.tolist(), actions.tolist(), successors.tolist()) == ([[1, 0, 0]], [1.0], [[0, 0, 1]])
    assert {a.dtype for a in asked[0]} == {np.dtype(np.float32)}
    assert (paid, terminated) == (1.0, True)
    assert info == {"own": 1, "true_reward": 5.0, "true_return": 5.0, "reward_version": 1}


@pytest.mark.parametrize("bad", [np.array([np.nan]), np.array([np.inf]), np.zeros((1, 1)), np.zeros(2)])
def test_a_reward_that_is_no_number_is_refused(bad: Any) -> None:
    env = LearnedRewardWrapper(gymnasium.make("Pendulum-v1"), lambda *_: bad)
    env.reset(seed=0)
    with pytest.raises(RewardError, match="of shape"):
        env.step(np.zeros(1, np.float32))


def test_spaces_that_no_reward_reads_are_refused() -> None:
    class Strange(gymnasium.Env[Any, Any]):
        observation_space = spaces.Dict({"a": spaces.Discrete(2)})
        action_space = spaces.Discrete(2)

    with pytest.raises(ConfigError, match="observation space"):
        LearnedRewardWrapper(Strange(), formula)


def constant(folder: Path) -> Any:
    """A reward whose folder says what it pays."""
    value = float((folder / "pays.txt").read_text())
    return lambda observations, actions, successors: np.full(len(observations), value)


def version(root: Path, name: str, value: float) -> Path:
    folder = root / name
    folder.mkdir()
    (folder / "pays.txt").write_text(str(value))
    return folder


def test_a_live_reward_changes_between_episodes_only(tmp_path: Path) -> None:
    """Trap 26: within one episode a state earns the same. Put back (looked at in every step): fails."""
    link = tmp_path / "newest"
    link.symlink_to(version(tmp_path, "one", 1.0))
    env = LearnedRewardWrapper(gymnasium.make("Pendulum-v1"), LiveReward(link, constant))
    env.reset(seed=0)
    still = np.zeros(1, np.float32)
    assert env.step(still)[1] == 1.0
    version(tmp_path, "two", 2.0)
    moved = tmp_path / "moved"
    moved.symlink_to(tmp_path / "two")
    moved.rename(link)
    _, paid, _, _, info = env.step(still)
    assert (paid, info["reward_version"]) == (1.0, 1)
    env.reset(seed=0)
    _, paid, _, _, info = env.step(still)
    assert (paid, info["reward_version"]) == (2.0, 2)
    env.reset(seed=0)
    assert env.step(still)[4]["reward_version"] == 2  # nothing new, nothing read


def test_a_version_that_is_swapped_while_it_is_read_is_never_mixed(tmp_path: Path) -> None:
    """Put back (the link is followed once for each file): weights of one version and scale of another."""

    def write(folder: Path, number: int) -> None:
        for name in ("weights", "scale"):
            (folder / name).write_text(str(number))

    def read(folder: Path) -> Any:
        found = [int((folder / "weights").read_text())]
        if swaps:  # whoever fits it is two versions on by the time that the second file is read
            for number in swaps.pop():
                publish(tmp_path, functools.partial(write, number=number))
        found.append(int((folder / "scale").read_text()))
        return lambda observations, actions, successors: np.array(found)

    swaps: list[tuple[int, ...]] = []
    link = publish(tmp_path, functools.partial(write, number=1))
    live = LiveReward(link, read)
    assert live(0, 0, 0).tolist() == [1, 1]
    publish(tmp_path, functools.partial(write, number=2))
    swaps += [(5,), (3, 4)]  # taken from the end: the one that is read goes, and is read again; the next one stays
    assert live.refresh()
    assert live(0, 0, 0).tolist() == [4, 4]
    assert not swaps
    assert live.refresh()
    assert live(0, 0, 0).tolist() == [5, 5]
    assert not live.refresh()


def test_a_copied_study_publishes_where_a_folder_lies(tmp_path: Path) -> None:
    version(tmp_path, "reward", 1.0)
    link = publish(tmp_path, lambda folder: (folder / "pays.txt").write_text("2"))  # type: ignore[arg-type,return-value]
    assert link.is_symlink()
    assert constant(link)(np.zeros(1), None, None).tolist() == [2.0]


def test_a_frozen_reward_stays(tmp_path: Path) -> None:
    folder = version(tmp_path, "one", 1.0)
    env = LearnedRewardWrapper(gymnasium.make("Pendulum-v1"), constant(folder))
    (folder / "pays.txt").write_text("2")
    env.reset(seed=0)
    assert env.step(np.zeros(1, np.float32))[1] == 1.0


def test_a_folder_replaced_by_a_rename_is_a_new_version(tmp_path: Path) -> None:
    live = LiveReward(version(tmp_path, "one", 1.0), constant)
    assert not live.refresh()
    (tmp_path / "one").rename(tmp_path / "old")
    version(tmp_path, "next", 1.0).rename(tmp_path / "one")
    assert live.refresh()
    assert live.version == 2


def test_a_folder_without_a_reward_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no reward in"):
        LiveReward(tmp_path / "nowhere", constant)


def fitted(folder: Path, spec: EnvironmentSpec) -> None:
    """A reward as the preference learner writes it, of random weights, on a frozen scale."""
    import torch

    from tropism.control.reward_network import SegmentEnsemble, Shape, freeze

    environments = Environments(spec, 2, seed=0)
    stream, rows = np.random.default_rng(0), []
    shape = Shape.of(environments)
    for _ in range(40):
        before = environments.observations.copy()
        actions = stream.uniform(environments.low, environments.high, (2, environments.actions)).astype(np.float32)
        rows.append(shape.features(before, actions, environments.step(actions).successors))
    ensemble = SegmentEnsemble(shape, 2, (16,), "partial_return", 0)
    freeze(ensemble, torch.cat(rows), version=1).save(folder)


@pytest.mark.parametrize("live", [False, True])
def test_a_fitted_reward_is_paid_from_its_folder(live: bool, tmp_path: Path) -> None:
    from tropism.control.reward_network import load_reward

    spec = EnvironmentSpec("Pendulum-v1", horizon="fixed")
    fitted(tmp_path, spec)
    env, reward = LearnedRewardWrapper.from_folder(open_environment(spec), tmp_path, live), load_reward(tmp_path)
    seen, _ = env.reset(seed=0)
    for value in (-1.5, 0.0, 2.0):
        action = np.array([value], np.float32)
        after, paid, *_ = env.step(action)
        expected = reward(seen[None], action[None], after[None])
        assert paid == pytest.approx(float(expected[0]), rel=1e-6)
        seen = after


def test_stable_baselines3_trains_on_it() -> None:
    """What SB3 stores and bootstraps on is the learned reward; the true one is beside it."""
    import stable_baselines3 as library
    from stable_baselines3.common.monitor import Monitor

    spec = EnvironmentSpec("Pendulum-v1", horizon="fixed", steps=50)
    env = Monitor(LearnedRewardWrapper(open_environment(spec), formula), info_keywords=("true_return",))
    agent = library.PPO("MlpPolicy", env, n_steps=100, batch_size=50, n_epochs=1, device="cpu", seed=0).learn(100)
    buffer = agent.rollout_buffer
    seen, acted = buffer.observations.reshape(100, 3), np.clip(buffer.actions.reshape(100), -2, 2)
    inside = np.arange(100) % 50 != 49  # an episode's last step has SB3's own bootstrap in it
    expected = seen[:-1, 0] + 10 * acted[:-1] + 100 * seen[1:, 1]
    assert np.allclose(buffer.rewards[:-1, 0][inside[:-1]], expected[inside[:-1]], rtol=1e-4, atol=1e-4)
    assert [episode["l"] for episode in agent.ep_info_buffer] == [50, 50]
    assert all(episode["true_return"] < 0 for episode in agent.ep_info_buffer)  # Pendulum only ever costs


def test_the_example_runs(tmp_path: Path) -> None:
    fitted(tmp_path, EnvironmentSpec("Pendulum-v1", horizon="fixed"))
    script, given = ROOT / "examples/reward_for_sb3.py", os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(tmp_path), "--env", "Pendulum-v1", "--steps", "2048"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, cwd=tmp_path, env=given)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("true return -") == 5
