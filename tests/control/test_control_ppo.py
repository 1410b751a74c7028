"""PPO in environments: advantages against the shared objective, ends of episodes, the first ratio, resuming."""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from tropism.control.evaluate import evaluate
from tropism.control.networks import ActorCritic
from tropism.control.ppo import Ppo, PpoSettings
from tropism.control.rollouts import Rollout, Steps, advantages, collect, gae_of_columns
from tropism.environments.making import EnvironmentSpec
from tropism.environments.normalising import Normaliser
from tropism.environments.stepping import Environments
from tropism.errors import ContractError, DivergenceError
from tropism.objectives.advantages import gae
from tropism.runtime.checkpoints import load_state, save_state


@pytest.mark.parametrize("lam", [0.0, 0.9, 1.0])
def test_columns_of_episodes_are_gae_of_each_episode(lam: float) -> None:
    draw = np.random.default_rng(0)
    shape = (40, 3)
    rewards, values, after = (draw.standard_normal(shape).astype(np.float32) for _ in range(3))
    ends = draw.random(shape) < 0.15
    terminated = ends & (draw.random(shape) < 0.5)
    last = ends.copy()
    last[-1] = True
    bootstrap = np.where(last & ~terminated, after, 0).astype(np.float32)
    got, returns = gae_of_columns(rewards, values, ends, bootstrap, 0.95, lam)
    for column in range(3):
        edges = sorted({0, *(np.flatnonzero(ends[:, column]) + 1).tolist(), len(ends)})
        bounds = list(pairwise(edges))
        assert len(bounds) > 3
        for first, end in bounds:
            r, v = (torch.from_numpy(a[None, first:end, column].copy()) for a in (rewards, values))
            end_value = torch.from_numpy(bootstrap[end - 1 : end, column].copy())
            wanted, wanted_returns = gae(r, v, torch.ones_like(r, dtype=torch.bool), 0.95, lam, end_value)
            np.testing.assert_allclose(got[first:end, column], wanted[0], rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(returns[first:end, column], wanted_returns[0], rtol=1e-4, atol=1e-5)


def three_steps(terminated: bool, truncated: bool) -> tuple[ActorCritic, Rollout]:
    """A rollout of three steps in one environment whose second ends an episode; values are the critic's own."""
    critic = ActorCritic(1, 2, True, (8,), seed=1)
    seen, after = np.array([[[1.0]], [[2.0]], [[5.0]]], np.float32), np.array([[[2.0]], [[3.0]], [[6.0]]], np.float32)
    ended, cut = np.zeros((3, 1), bool), np.zeros((3, 1), bool)
    ended[1], cut[1] = terminated, truncated
    steps = Steps(seen, np.zeros((3, 1), np.float32), after, np.ones((3, 1), np.float32), ended, cut, None)
    values = critic.values(seen[:, 0])[:, None]
    return critic, Rollout(steps, seen, after, np.zeros((3, 1), np.float32), values)


@pytest.mark.parametrize(("terminated", "truncated"), [(True, False), (False, True)])
def test_termination_ends_the_return_and_truncation_bootstraps(terminated: bool, truncated: bool) -> None:
    """By hand: the value behind a truncation is that of the true successor, 3, and never of the next episode's 5."""
    critic, rollout = three_steps(terminated, truncated)
    _, returns = advantages(critic, rollout, rollout.steps.rewards, 0.5, 1.0)
    v = {x: float(critic.values(np.array([[x]], np.float32))[0]) for x in (3.0, 6.0)}
    second = 1 + (0.5 * v[3.0] if truncated else 0)
    np.testing.assert_allclose(returns[:, 0], [1 + 0.5 * second, second, 1 + 0.5 * v[6.0]], rtol=1e-5)
    assert abs(v[3.0]) > 0.01


def ppo(env: str = "CartPole-v1", count: int = 3, seed: int = 0, **settings: object) -> Ppo:
    made = {"steps_per_environment": 37, "epochs": 2, "batch_size": 32} | settings
    return Ppo(Environments(EnvironmentSpec(env), count, seed), PpoSettings(**made), seed)  # type: ignore[arg-type]


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize("compiled", [True, False])
def test_first_ratio_is_one(env: str, compiled: bool) -> None:
    """With one epoch of one mini-batch the ratio's mean is that of the first mini-batch."""
    agent = ppo(env, epochs=1, batch_size=3 * 37)
    if not compiled:
        agent.actor.compiled = None
    _, metrics = agent.advance(None, 0.0)
    assert metrics["ppo/ratio_mean"] == pytest.approx(1, abs=1e-5)
    assert metrics["kl/old_k3"] == pytest.approx(0, abs=1e-6)
    assert metrics["ppo/clip_fraction"] == 0


def test_another_policy_that_acts_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = ppo()

    def collect_then_move(*arguments: object) -> Rollout:
        rollout = collect(*arguments)  # type: ignore[arg-type]
        agent.actor.params += 0.01
        return rollout

    monkeypatch.setattr("tropism.control.ppo.collect", collect_then_move)
    with pytest.raises(ContractError, match="before anything was learned"):
        agent.advance(None, 0.0)


def test_weights_that_are_not_finite_are_an_error() -> None:
    with pytest.raises(DivergenceError, match="learning_rate"):
        ppo(learning_rate=1e38, epochs=1).advance(lambda o, a, s: 1e30 * o[:, 0], 0.0)


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize("normalise", [False, True])
def test_resume_in_mid_episode_gives_the_same_bits(env: str, normalise: bool, tmp_path: Path) -> None:
    settings = {"normalise_observations": normalise, "normalise_rewards": normalise}
    straight, first = (ppo(env, **settings) for _ in range(2))
    for update in range(4):
        straight.advance(None, update / 4)
    for update in range(2):
        first.advance(None, update / 4)
    assert (first.environments.lengths > 0).any()
    tensors, meta = first.state()
    save_state(tmp_path, tensors=tensors, meta=meta)
    second = ppo(env, seed=0, **settings)
    second.restore(*load_state(tmp_path))
    for update in range(2, 4):
        steps, _ = second.advance(None, update / 4)
    assert torch.equal(straight.actor.params, second.actor.params)
    assert np.array_equal(straight.environments.observations, second.environments.observations)
    assert straight.environments.steps == second.environments.steps == 4 * 37 * 3
    assert steps.observations.shape[:2] == (37, 3)
    assert not torch.equal(first.actor.params, second.actor.params)


def test_a_learned_reward_is_what_is_learned_from_and_the_true_one_what_is_returned() -> None:
    """Both from the same start; the reward sees what was done and what followed."""
    one, other = ppo(), ppo()

    def reward(observations: np.ndarray, actions: np.ndarray, successors: np.ndarray) -> np.ndarray:
        assert observations.shape == successors.shape == (111, 4)
        assert actions.shape == (111,)
        return -np.abs(successors[:, 0])

    steps, metrics = one.advance(reward, 0.0)
    true, _ = other.advance(None, 0.0)
    assert np.array_equal(steps.rewards, true.rewards)
    assert (steps.rewards == 1).all()
    assert metrics["ppo/reward_mean"] < 0
    assert not torch.equal(one.actor.params, other.actor.params)


def test_statistics_of_observations_stand_still_within_a_rollout() -> None:
    agent = ppo(normalise_observations=True)
    agent.advance(None, 0.0)
    before = copy.deepcopy(agent.normaliser)
    steps, _ = agent.advance(None, 0.0)
    count = steps.observations.size // 4
    assert agent.normaliser.count == before.count + count
    before.update(steps.observations)
    np.testing.assert_array_equal(before.mean, agent.normaliser.mean)


def test_rewards_in_other_units_teach_the_same() -> None:
    """With rewards divided by the deviation of returns, a reward a thousand times larger gives the same weights; it
    does not without."""

    def learned(unit: float, normalise: bool) -> torch.Tensor:
        agent = ppo("Pendulum-v1", normalise_rewards=normalise)
        for _ in range(4):
            agent.advance(lambda o, a, s: (unit * o[:, 0]).astype(np.float32), 0.0)
        return agent.actor.params

    torch.testing.assert_close(learned(1000.0, True), learned(1.0, True), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(learned(1000.0, False), learned(1.0, False), rtol=1e-3, atol=1e-4)


def test_the_learning_rate_falls_in_a_line() -> None:
    agent = ppo(learning_rate_end=0.5)
    assert agent.advance(None, 0.0)[1]["ppo/learning_rate"] == pytest.approx(3e-4)
    assert agent.advance(None, 0.5)[1]["ppo/learning_rate"] == pytest.approx(2.25e-4)


def test_epochs_stop_beyond_the_kl_limit() -> None:
    free = ppo(epochs=8, learning_rate=3e-3).advance(None, 0.0)[1]
    held = ppo(epochs=8, learning_rate=3e-3, target_kl=1e-4).advance(None, 0.0)[1]
    assert held["kl/old_k3"] < free["kl/old_k3"] / 2


@pytest.mark.parametrize("whiten", ["rollout", "mini_batch", "none"])
def test_cartpole_is_learned(whiten: str) -> None:
    """24,000 steps more than treble what an untrained policy gets, however advantages are scaled."""
    spec = EnvironmentSpec("CartPole-v1")
    settings = PpoSettings(steps_per_environment=128, batch_size=128, learning_rate=1e-3, whiten=whiten)  # type: ignore[arg-type]
    agent = Ppo(Environments(spec, 8, 1), settings, 1)
    untrained = evaluate(agent, spec, 10, 2, sample=True).mean
    for update in range(24):
        agent.advance(None, update / 24)
    assert untrained < 40
    assert evaluate(agent, spec, 10, 2, sample=True).mean > 3 * untrained


def test_collect_keeps_what_the_networks_saw() -> None:
    environments = Environments(EnvironmentSpec("Pendulum-v1"), 2, 3)
    actor = ActorCritic(3, 1, False, (8,), seed=1)
    normaliser = Normaliser(3, True)
    normaliser.update(np.random.default_rng(0).standard_normal((50, 3), dtype=np.float32) * 3 + 1)
    rollout = collect(actor, environments, 5, 7, normaliser)
    np.testing.assert_array_equal(rollout.inputs, normaliser(rollout.steps.observations))
    np.testing.assert_array_equal(rollout.steps.observations[1:], rollout.steps.successors[:-1])
    again = actor.act(rollout.inputs[2], actor.noise(7, (5, 2))[2])
    np.testing.assert_array_equal(again[0], rollout.steps.actions[2])
