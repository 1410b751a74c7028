"""REINFORCE: returns of whole episodes, each step learned from once, the paper's gradient, and learning."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tropism.control.reinforce import Reinforce, ReinforceSettings
from tropism.environments.making import EnvironmentSpec
from tropism.environments.stepping import Environments
from tropism.errors import ConfigError


def made(env: str = "CartPole-v1", count: int = 3, steps: int = 0, seed: int = 0, **settings: object) -> Reinforce:
    environments = Environments(EnvironmentSpec(env, steps=steps), count, seed)
    return Reinforce(environments, ReinforceSettings(**settings), seed)  # type: ignore[arg-type]


def test_every_step_of_every_ended_episode_is_learned_from_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of all updates together are the steps of the episodes that ended, whichever updates they straddle."""
    agent, seen, straddled = made(episodes=4, seed=3), [], 0
    original = Reinforce._compiled_epoch if agent.actor.compiled is not None else Reinforce._epoch

    def watched(self: Reinforce, batch: dict[str, np.ndarray], *rest: object) -> np.ndarray:
        seen.append(batch["observations"])
        return original(self, batch, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Reinforce, original.__name__, watched)
    ended = under_way = 0
    for _ in range(5):
        steps, _ = agent.advance(None, 0.0)
        straddled += len(agent.kept["used"]) > 0
        finished = agent.environments.take_finished()
        assert len(finished) >= 4
        ended += sum(f.length for f in finished)
        under_way = int(agent.environments.lengths.sum())
        assert steps.ends[-1].any()
    rows = np.concatenate(seen)
    assert len(rows) == ended == agent.environments.steps - under_way
    assert len(np.unique(rows, axis=0)) == len(rows)
    assert straddled >= 3


@pytest.mark.parametrize("baseline", [False, True])
def test_gradient_is_the_papers_where_episodes_are_equally_long(
    baseline: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three episodes of seven steps: −Σ (G_t − b) ∇ log π / rows, G by a loop over each episode's rewards."""
    agent = made("Pendulum-v1", steps=7, episodes=3, baseline=baseline, whiten=False, gamma=0.9, max_grad_norm=0.0)
    twin = made("Pendulum-v1", steps=7, episodes=3, baseline=baseline, whiten=False, gamma=0.9)
    steps, metrics = agent.advance(None, 0.0)
    assert steps.rewards.shape == (7, 3)
    assert metrics["reinforce/ratio_mean"] == pytest.approx(1, abs=1e-5)
    assert len(agent.kept["used"]) == 0
    returns = np.zeros((7, 3), np.float32)
    if baseline:  # Pendulum's episodes are cut by time: the value stands for what would follow
        following = twin.actor.values(steps.successors[-1])
    else:
        following = np.zeros(3, np.float32)
    for t in range(6, -1, -1):
        returns[t] = following = steps.rewards[t] + np.float32(0.9) * following
    x = torch.from_numpy(steps.flat("observations"))
    leaf = twin.actor.params.clone().requires_grad_()
    now = twin.actor.evaluate(leaf, x, torch.from_numpy(steps.flat("actions")))
    target = torch.from_numpy(returns.reshape(-1))
    weight = target - now.values.detach() if baseline else target
    loss = -(now.logprobs * weight).mean()
    if baseline:
        loss = loss + 0.5 * (now.values - target).square().mean()
    (grad,) = torch.autograd.grad(loss, leaf)
    scale = float(grad.abs().max())
    torch.testing.assert_close(agent.adam.first / (1 - agent.adam.beta1), grad, rtol=1e-3, atol=1e-5 * scale)


def test_kept_steps_are_paid_by_the_reward_in_force() -> None:
    agent = made(episodes=4, seed=3)
    agent.advance(lambda o, a, s: np.full(len(o), 5.0, np.float32), 0.0)
    assert len(agent.kept["used"])
    _, metrics = agent.advance(lambda o, a, s: np.full(len(o), -3.0, np.float32), 0.0)
    assert metrics["reinforce/reward_mean"] == -3


def test_endless_episodes_are_refused() -> None:
    environments = Environments(EnvironmentSpec("CartPole-v1"), 1, 0)
    environments._limit = 0
    with pytest.raises(ConfigError, match=r"reinforce needs episodes that end.*no time limit"):
        Reinforce(environments, ReinforceSettings(), 0)


@pytest.mark.parametrize("baseline", [False, True])
def test_cartpole_is_learned(baseline: bool) -> None:
    agent, lengths = made(count=8, episodes=16, baseline=baseline, learning_rate=1e-2, seed=1), []
    for _ in range(40):
        agent.advance(None, 0.0)
        lengths += [f.length for f in agent.environments.take_finished()]
    assert np.mean(lengths[:32]) < 40
    assert np.mean(lengths[-32:]) > 100
