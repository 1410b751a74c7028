"""SAC: an update against autograd, the temperature, actions within bounds, relabelling, and learning."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tropism.control.evaluate import evaluate
from tropism.control.replay import Drawn
from tropism.control.sac import Sac, SacSettings
from tropism.environments.making import EnvironmentSpec
from tropism.environments.stepping import Environments
from tropism.objectives.q_learning import squashed_gaussian
from tropism.runtime.seeding import derive


def made(count: int = 2, seed: int = 0, env: str = "Pendulum-v1", **settings: object) -> Sac:
    small = {
        "steps_per_environment": 40,
        "learning_starts": 10_000,
        "buffer": 500,
        "batch_size": 32,
        "hidden": (24, 40),
    }
    return Sac(Environments(EnvironmentSpec(env), count, seed), SacSettings(**(small | settings)), seed)  # type: ignore[arg-type]


def first_step(before: torch.Tensor, grad: torch.Tensor, rate: float) -> torch.Tensor:
    """Adam's first step: the rate, along the sign, but for what is next to nothing."""
    return before - rate * grad / (grad.abs() + 1e-8)


def centre_critics(agent: Sac, drawn: Drawn) -> None:
    """Bring both critics to the same mean, so that each is the smaller one for some transitions."""
    layers = agent.critic_stack.layers(agent.critics.params)
    values = agent.critic_stack(layers, torch.cat([drawn.observations, drawn.actions / 2], 1))
    layers[-1].bias.sub_(values.mean(1, keepdim=True))


def test_an_update_is_autograds() -> None:
    """Critics, actor, temperature and targets of one update, by the losses as Haarnoja et al. write them."""
    rate, agent = 1e-3, made(learning_rate=1e-3, tau=0.2, temperature=0.4)
    agent.advance(None, 0.0)
    assert agent.updates == 0
    noise_seed = torch.Generator().manual_seed(1)
    agent.targets.add_(torch.randn(agent.targets.shape, generator=noise_seed), alpha=0.05)
    stream = np.random.Generator(np.random.Philox(derive(0, "update", 3)))
    drawn = agent.replay.draw(stream, 32, 0.99)
    centre_critics(agent, drawn)
    noise = torch.from_numpy(stream.standard_normal((64, 1), dtype=np.float32))
    actor, critics = agent.actor.stack, agent.critic_stack
    old = {name: part.params.clone() for name, part in agent._trained().items()}
    old_targets = agent.targets.clone()

    def value(vector: torch.Tensor, seen: torch.Tensor, acted: torch.Tensor) -> torch.Tensor:
        return critics(critics.layers(vector), torch.cat([seen, acted], 1))[..., 0]

    after = squashed_gaussian(actor(actor.layers(old["actor"]), drawn.successors)[0], noise[32:])
    ahead = value(old_targets, drawn.successors, after.actions).amin(0) - 0.4 * after.logprobs
    targets = drawn.rewards + 0.99 * ahead  # Pendulum's episodes never terminate
    leaf = old["critics"].clone().requires_grad_()
    values = value(leaf, drawn.observations, drawn.actions / 2)  # torques are in ±2, the critics see ±1
    critic_loss = 0.5 * (values - targets).square().mean(1).sum()
    (critic_grad,) = torch.autograd.grad(critic_loss, leaf)

    got = agent._update(3)
    assert got[0] == pytest.approx(critic_loss.item(), rel=1e-4)
    torch.testing.assert_close(agent.critics.grad, critic_grad, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(agent.critics.params, first_step(old["critics"], agent.critics.grad, rate))
    torch.testing.assert_close(agent.targets, old_targets.lerp(agent.critics.params, 0.2))

    leaf = old["actor"].clone().requires_grad_()
    now = squashed_gaussian(actor(actor.layers(leaf), drawn.observations)[0], noise[:32])
    at = value(agent.critics.params, drawn.observations, now.actions)
    assert 0 < int((at.argmin(0) == 0).sum()) < 32  # both critics are the smaller one somewhere
    policy_loss = (0.4 * now.logprobs - at.amin(0)).mean()
    (actor_grad,) = torch.autograd.grad(policy_loss, leaf)
    assert got[1] == pytest.approx(policy_loss.item(), rel=1e-3, abs=1e-4)
    torch.testing.assert_close(agent.policy_net.grad, actor_grad, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(agent.policy_net.params, first_step(old["actor"], agent.policy_net.grad, rate))

    entropy = -float(now.logprobs.detach().mean())
    assert got[2:4] == pytest.approx((entropy, 0.4), rel=1e-4)
    moved = float(agent.log_temperature.params) - math.log(0.4)
    assert moved == pytest.approx(rate if entropy < -1 else -rate, rel=1e-3)


def test_temperature_may_be_held() -> None:
    agent = made(learning_starts=1, learn_temperature=False, temperature=0.2)
    _, metrics = agent.advance(None, 0.0)
    assert metrics["sac/updates"] == 80
    assert metrics["sac/temperature"] == pytest.approx(0.2)


def test_actions_fill_the_space_before_learning_and_stay_in_it_after() -> None:
    agent = made(learning_starts=200, steps_per_environment=200)
    first, _ = agent.advance(None, 0.0)
    assert 1.9 < np.abs(first.actions).max() <= 2
    assert np.abs(first.actions).mean() == pytest.approx(1, abs=0.1)
    second, _ = agent.advance(None, 0.0)
    assert np.abs(second.actions).max() <= 2
    x = np.full((5, 3), 100.0, np.float32)
    assert np.abs(agent.act(x, 1)).max() <= 2


def test_a_new_reward_reaches_every_stored_step() -> None:
    """Also once the buffer went round (trap 27): of 2 x 40 steps at a time 200 are kept."""
    agent = made(buffer=200)
    for _ in range(4):
        agent.advance(lambda o, a, s: np.full(len(o), 9.0, np.float32), 0.0)
    assert len(agent.replay) == 200
    agent.reward_changed(lambda o, a, s: o[:, 0] + 10 * a[:, 0] + 100 * s[:, 0])
    r = agent.replay
    wanted = r.observations[..., 0] + 10 * r.actions[..., 0] + 100 * r.successors[..., 0]
    np.testing.assert_allclose(r.rewards, wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.slow
def test_pendulum_is_learned() -> None:
    """6,000 steps; an untrained policy gets about -1,200, and 400 below the best is a swing that stays up."""
    agent = made(
        1, 1, learning_starts=500, buffer=10_000, batch_size=128, hidden=(64, 64), learning_rate=1e-3,
        steps_per_environment=200,
    )  # fmt: skip
    spec = agent.environments.spec
    before = evaluate(agent, spec, 10, 0).mean
    for chunk in range(30):
        agent.advance(None, chunk / 30)
    after = evaluate(agent, spec, 10, 0).mean
    assert before < -800
    assert after > -300
