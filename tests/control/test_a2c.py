"""A2C: its step is the one that Mnih et al. write down, and it learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tropism.control.a2c import A2c, A2cSettings
from tropism.control.rollouts import advantages, collect
from tropism.environments.making import EnvironmentSpec
from tropism.environments.stepping import Environments
from tropism.runtime.seeding import derive


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize("compiled", [True, False])
def test_a_step_follows_the_papers_gradient(env: str, compiled: bool) -> None:
    """−log π(a|s) A + ½ (V − R)² − c H by autograd, its norm clipped, against what A2C's optimiser saw and did."""
    settings = A2cSettings(entropy_coef=0.01, max_grad_norm=0.3, learning_rate=1e-2)
    agent, twin = (A2c(Environments(EnvironmentSpec(env), 4, 0), settings, 0) for _ in range(2))
    if not compiled:
        agent.actor.compiled = None
    rollout = collect(twin.actor, twin.environments, 5, derive(0, "act", 0), twin.normaliser)
    raw, returns = advantages(twin.actor, rollout, rollout.steps.rewards, 0.99, 1.0)
    agent.advance(None, 0.0)

    leaf = twin.actor.params.clone().requires_grad_()
    x, a = torch.from_numpy(rollout.inputs.reshape(20, -1)), torch.from_numpy(rollout.steps.flat("actions"))
    now = twin.actor.evaluate(leaf, x, a)
    policy = -(now.logprobs * torch.from_numpy(raw.reshape(-1))).mean()
    value = 0.5 * (now.values - torch.from_numpy(returns.reshape(-1))).square().mean()
    (grad,) = torch.autograd.grad(policy + value - 0.01 * now.entropies.mean(), leaf)
    assert grad.norm() > 0.3
    grad = grad * 0.3 / grad.norm()
    torch.testing.assert_close(agent.adam.first, grad, rtol=1e-3, atol=1e-6)
    # RMSprop with its bias corrected: after one step the mean of squares is the square
    seen = agent.adam.first
    wanted = twin.actor.params - 1e-2 * seen / (seen.abs() + 1e-5)
    torch.testing.assert_close(agent.actor.params, wanted, rtol=1e-4, atol=1e-6)


def test_cartpole_is_learned() -> None:
    environments = Environments(EnvironmentSpec("CartPole-v1"), 8, 1)
    agent = A2c(environments, A2cSettings(learning_rate=2e-3), 1)
    lengths: list[int] = []
    for update in range(1200):
        agent.advance(None, update / 1200)
        lengths += [f.length for f in environments.take_finished()]
    assert np.mean(lengths[:50]) < 40
    assert np.mean(lengths[-50:]) > 120
