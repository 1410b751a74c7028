"""Every algorithm as an agent: counted steps, resuming bit for bit, saved policies, starts, spaces, names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tropism.control.agent import Agent
from tropism.control.algorithms import ALGORITHMS, make_agent
from tropism.control.policy import REMEMBERED, ControlPolicy, load_policy, save_policy, started
from tropism.control.sac import SacSettings
from tropism.environments.making import EnvironmentSpec
from tropism.environments.stepping import Environments
from tropism.errors import ConfigError, DivergenceError, ModelError, RewardError
from tropism.runtime.checkpoints import load_state, save_state

SMALL: dict[str, dict[str, Any]] = {
    "ppo": {"steps_per_environment": 30, "epochs": 2},
    "a2c": {},
    "reinforce": {"episodes": 3},
    "dqn": {"steps_per_environment": 30, "learning_starts": 40, "buffer": 120, "target_every": 50, "n_steps": 3},
    "sac": {"steps_per_environment": 30, "learning_starts": 40, "buffer": 120, "batch_size": 32, "hidden": [32, 32]},
}
CASES = [
    (name, env)
    for name in SMALL
    for env in ("CartPole-v1", "Pendulum-v1")
    if (name, env) not in {("dqn", "Pendulum-v1"), ("sac", "CartPole-v1")}
]
every_case = pytest.mark.parametrize(("name", "env"), CASES)


def made(name: str, env: str, seed: int = 0, count: int = 2, **more: Any) -> Agent:
    spec = EnvironmentSpec(env, steps=40 if name == "reinforce" else 0)
    return make_agent(name, Environments(spec, count, seed), SMALL[name] | more, seed)


def weights(agent: Agent) -> dict[str, torch.Tensor]:
    return {key: tensor.clone() for key, tensor in agent.state()[0].items()}


def test_there_is_a_case_for_every_algorithm() -> None:
    assert set(SMALL) == set(ALGORITHMS) == {name for name, _ in CASES}
    for name, found in ALGORITHMS.items():
        assert found.agent.name == name  # type: ignore[attr-defined]


@every_case
def test_steps_are_counted_where_they_are_taken(name: str, env: str) -> None:
    agent = made(name, env)
    total = 0
    for _ in range(3):
        before = agent.environments.observations.copy()
        steps, metrics = agent.advance(None, 0.0)
        np.testing.assert_array_equal(steps.observations[0], before)  # acted on what was returned last (trap 36)
        assert steps.rewards.shape[1] == 2
        total += steps.rewards.size
        assert all(np.isfinite(v) and key.startswith((name + "/", "kl/")) for key, v in metrics.items())
    assert agent.environments.steps == total


@every_case
def test_a_resumed_agent_has_the_same_bits(name: str, env: str, tmp_path: Path) -> None:
    """Saved to disk in the midst of episodes, and after the replay buffer went round."""
    straight, first = made(name, env), made(name, env)
    for agent, updates in ((straight, 6), (first, 4)):
        for update in range(updates):
            agent.advance(None, update / 6)
    tensors, meta = first.state()
    save_state(tmp_path, tensors=tensors, meta=meta)
    second = made(name, env)
    second.restore(*load_state(tmp_path))
    for update in range(4, 6):
        second.advance(None, update / 6)
    wanted, got = weights(straight), weights(second)
    assert wanted.keys() == got.keys()
    assert all(torch.equal(wanted[key], got[key]) for key in wanted)
    assert straight.state()[1] == second.state()[1]
    assert any(not torch.equal(tensors[key], got[key]) for key in tensors if tensors[key].shape == got[key].shape)


@every_case
def test_equal_seeds_are_equal_and_others_are_not(name: str, env: str) -> None:
    agents = [made(name, env, seed) for seed in (1, 1, 2)]
    for agent in agents:
        for _ in range(2):
            agent.advance(None, 0.0)
    x = agents[0].environments.observations
    one, same, other = (agent.act(x, 7) for agent in agents)
    params = [agent.policy()[0] for agent in agents]
    assert all(torch.equal(params[0][key], params[1][key]) for key in params[0])
    assert any(not torch.equal(params[0][key], params[2][key]) for key in params[0])
    np.testing.assert_array_equal(one, same)
    assert one.shape == other.shape


@every_case
def test_a_saved_policy_acts_the_same(name: str, env: str, tmp_path: Path) -> None:
    agent = made(name, env)
    agent.advance(None, 0.0)
    save_policy(tmp_path, agent.policy(), agent.environments.spec, {"from": "a test"})
    read = load_policy(tmp_path)
    assert read.environment == agent.environments.spec
    x = np.random.default_rng(0).standard_normal((64, agent.environments.observation_size)).astype(np.float32)
    for seed in (None, 3):
        np.testing.assert_array_equal(read.actor.act(x, seed), agent.act(x, seed))
    assert not np.array_equal(agent.act(x, 3), agent.act(x, 4))
    space = agent.environments.action_space
    actions = agent.act(x, None)
    if agent.environments.discrete:
        assert actions.shape == (64,)
        assert set(np.unique(actions)) <= set(range(space.n))
    else:
        assert actions.shape == (64, *space.shape)


@every_case
def test_another_agent_begins_with_a_saved_policy(name: str, env: str, tmp_path: Path) -> None:
    agent, other = made(name, env, 0), made(name, env, 5)
    agent.advance(None, 0.0)
    save_policy(tmp_path, agent.policy(), agent.environments.spec, {})
    other.begin_with(*load_policy(tmp_path).description)
    wanted, got = agent.policy()[0], other.policy()[0]
    assert wanted.keys() == got.keys()
    assert all(torch.equal(wanted[key], got[key]) for key in wanted)
    other.advance(None, 0.0)
    with pytest.raises(ModelError, match="differs"):
        made(name, env, hidden=[16]).begin_with(*load_policy(tmp_path).description)


def test_a_policy_goes_on_with_the_noise_that_is_asked_for(tmp_path: Path) -> None:
    """Nothing else of it changes; one whose actions have no noise of their own is refused."""

    def kept(name: str, agent: Agent) -> ControlPolicy:
        (tmp_path / name).mkdir()
        save_policy(tmp_path / name, agent.policy(), agent.environments.spec, {})
        return load_policy(tmp_path / name)

    agent, other = made("ppo", "Pendulum-v1", log_std=-2.0), made("ppo", "Pendulum-v1", seed=5)
    sure = kept("sure", agent)
    other.begin_with(*started(sure, -0.5))
    wanted, got = agent.policy()[0], other.policy()[0]
    assert got.pop("log_std").tolist() == [-0.5]
    assert all(torch.equal(wanted[key], got[key]) for key in got)
    other.begin_with(*started(sure, None))
    assert other.policy()[0]["log_std"].tolist() == [-2.0]
    for name, env in (("dqn", "CartPole-v1"), ("ppo", "CartPole-v1"), ("sac", "Pendulum-v1")):
        with pytest.raises(ConfigError, match=r"start_log_std = -0\.5.*without a deviation of its own"):
            started(kept(f"{name} {env}", made(name, env)), -0.5)


def test_what_a_policy_to_start_from_observed_gives_way_to_what_comes() -> None:
    """It acts as it did, but its statistics weigh ``REMEMBERED`` observations, however long it was trained: else those
    of a new task, far from what it saw, are extremes to it for as long as it was trained."""
    agent, other = (made("ppo", "Pendulum-v1", seed, normalise_observations=True) for seed in (0, 1))
    stream = np.random.default_rng(0)
    agent.normaliser.update(stream.normal(3, 2, (1_000_000, 3)))
    other.begin_with(*agent.policy())
    x = stream.normal(2, 3, (50, 3)).astype(np.float32)
    np.testing.assert_allclose(other.act(x), agent.act(x), atol=1e-5)
    assert other.normaliser.count == REMEMBERED
    before, seen = other.normaliser.mean.copy(), other.advance(None, 0.0)[0].observations.reshape(-1, 3)
    share = len(seen) / (REMEMBERED + len(seen))
    np.testing.assert_allclose(other.normaliser.mean, before + share * (seen.mean(0) - before), atol=1e-5)


@pytest.mark.parametrize("name", ["ppo", "a2c", "reinforce"])
@pytest.mark.parametrize("normalised", [True, False])
def test_a_policy_that_sees_observations_otherwise_is_refused(name: str, normalised: bool) -> None:
    """One that learned on normalised observations acts at random on raw ones; one that learned on raw ones sees others
    from the first update on."""
    agent, other = (made(name, "Pendulum-v1", normalise_observations=n) for n in (normalised, not normalised))
    agent.advance(None, 0.0)
    with pytest.raises(ModelError, match=rf"normalise_observations.*\({normalised}, {not normalised}\)"):
        other.begin_with(*agent.policy())
    same = made(name, "Pendulum-v1", seed=3, normalise_observations=normalised)
    same.begin_with(*agent.policy())
    x = np.random.default_rng(0).normal(2, 3, (5, 3)).astype(np.float32)
    np.testing.assert_array_equal(same.act(x), agent.act(x))


@every_case
def test_a_learned_reward_is_paid_and_the_true_one_returned(name: str, env: str) -> None:
    agent = made(name, env)

    def reward(observations: np.ndarray, actions: np.ndarray, successors: np.ndarray) -> np.ndarray:
        assert len(observations) == len(actions) == len(successors)
        assert actions.ndim == (1 if agent.environments.discrete else 2)
        return np.full(len(observations), 7.0, np.float32)

    steps, metrics = agent.advance(reward, 0.0)
    assert metrics[f"{name}/reward_mean"] == pytest.approx(7)
    assert not (steps.rewards == 7).any()
    agent.reward_changed(lambda o, a, s: np.full(len(o), -2.0, np.float32))
    kept = agent.state()[0].get("replay.rewards")
    assert (kept is None) == (name not in {"dqn", "sac"})
    if kept is not None:
        assert (kept == -2).all()


@pytest.mark.parametrize(("name", "env"), [("dqn", "CartPole-v1"), ("sac", "Pendulum-v1")])
def test_a_reward_that_is_none_stops_the_run(name: str, env: str) -> None:
    with pytest.raises(RewardError, match="finite"):
        made(name, env).advance(lambda o, a, s: np.full(len(o), np.inf), 0.0)


@pytest.mark.parametrize(("name", "env"), [("dqn", "CartPole-v1"), ("sac", "Pendulum-v1")])
def test_divergence_is_an_error(name: str, env: str) -> None:
    agent = made(name, env, learning_rate=1e38)
    with pytest.raises(DivergenceError, match="learning_rate"):
        agent.advance(lambda o, a, s: 1e30 * o[:, 0], 0.0)


def test_spaces_that_a_method_does_not_support() -> None:
    with pytest.raises(ConfigError, match="dqn cannot choose among the actions of Pendulum-v1: Box"):
        made("dqn", "Pendulum-v1")
    with pytest.raises(ConfigError, match="sac cannot choose among the actions of CartPole-v1: Discrete"):
        made("sac", "CartPole-v1")


def test_names_and_settings_that_are_none() -> None:
    environments = Environments(EnvironmentSpec("CartPole-v1"), 1, 0)
    with pytest.raises(ConfigError, match="did you mean 'dqn'"):
        make_agent("dqnn", environments, {}, 0)
    with pytest.raises(ConfigError, match="did you mean 'target_every'"):
        make_agent("dqn", environments, {"target_evry": 3}, 0)
    with pytest.raises(ConfigError, match="SacSettings for dqn"):
        make_agent("dqn", environments, SacSettings(), 0)
