"""DQN: an update against autograd, the target's and ε's schedules, and learning."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tropism.control.dqn import Dqn, DqnSettings
from tropism.environments.making import EnvironmentSpec
from tropism.environments.stepping import Environments
from tropism.runtime.seeding import derive


def made(count: int = 2, seed: int = 0, **settings: object) -> Dqn:
    small = {"steps_per_environment": 40, "learning_starts": 10_000, "buffer": 500, "batch_size": 32} | settings
    return Dqn(Environments(EnvironmentSpec("CartPole-v1"), count, seed), DqnSettings(**small), seed)  # type: ignore[arg-type]


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("n_steps", [1, 3])
def test_an_update_is_autograds(double: bool, n_steps: int) -> None:
    """(r + γᵏ Q̄(s', a*) − Q(s, a)) by the Huber loss, Adam's first step along its clipped gradient."""
    agent = made(double=double, n_steps=n_steps, max_grad_norm=0.05, learning_rate=1e-2)
    agent.advance(None, 0.0)
    assert agent.updates == 0
    agent.target.add_(torch.randn(agent.target.shape, generator=torch.Generator().manual_seed(1)), alpha=0.1)
    stream = np.random.Generator(np.random.Philox(derive(0, "update", 5)))
    drawn = agent.replay.draw(stream, 32, 0.99, n_steps)
    before, stack = agent.online.params.clone(), agent.stack
    leaf = before.clone().requires_grad_()
    values = stack(stack.layers(leaf), drawn.observations)[0]
    target = stack(stack.layers(agent.target), drawn.successors)[0]
    chooser = stack(stack.layers(before), drawn.successors)[0] if double else target
    ahead = target.gather(1, chooser.argmax(1, keepdim=True))[:, 0]
    wanted = drawn.rewards + drawn.discounts * ahead * ~drawn.terminated
    taken = values.gather(1, drawn.actions.long()[:, None])[:, 0]
    loss = torch.nn.functional.smooth_l1_loss(taken, wanted)
    (grad,) = torch.autograd.grad(loss, leaf)
    assert grad.norm() > 0.05
    grad = grad * 0.05 / grad.norm()
    got = agent._update(5)
    assert got == pytest.approx((loss.item(), taken.mean().item(), wanted.mean().item()), rel=1e-4)
    torch.testing.assert_close(agent.online.grad, grad, rtol=1e-3, atol=1e-7)
    step = 1e-2 * agent.online.grad / (agent.online.grad.abs() + 1e-8)
    torch.testing.assert_close(agent.online.params, before - step, rtol=1e-4, atol=1e-6)
    assert drawn.terminated.any()


def test_the_target_is_renewed_when_it_is_due() -> None:
    agent = made(learning_starts=1, steps_per_environment=10, train_every=1, target_every=40)
    changes = []
    for _ in range(8):  # of 20 steps each
        before = agent.target.clone()
        agent.advance(None, 0.0)
        changes.append(not torch.equal(before, agent.target))
        assert not torch.equal(agent.target, agent.online.params)
    assert changes == [False, True, False, True, False, True, False, True]


def test_exploration_falls_in_a_line_and_stays() -> None:
    agent = made(exploration_start=0.8, exploration_end=0.2, exploration_fraction=0.5)
    assert [round(agent.epsilon(done), 6) for done in (0.0, 0.25, 0.5, 1.0)] == [0.8, 0.5, 0.2, 0.2]


def test_actions_are_drawn_evenly_in_the_share_that_explores() -> None:
    agent = made(exploration_start=0.5, exploration_fraction=1.0, steps_per_environment=3000)
    steps, _ = agent.advance(None, 0.0)
    greedy = agent.actor.greedy(steps.flat("observations"))
    differ = float((steps.flat("actions") != greedy).mean())
    assert differ == pytest.approx(0.25, abs=0.025)  # of two actions half are the greedy one by chance


@pytest.mark.parametrize(("train_every", "updates", "wanted"), [(4, 1, 10), (4, 0, 80), (8, 3, 15), (1, 2, 80)])
def test_updates_per_step_are_as_asked_for(train_every: int, updates: int, wanted: int) -> None:
    agent = made(learning_starts=1, train_every=train_every, updates=updates)
    _, metrics = agent.advance(None, 0.0)
    assert metrics["dqn/updates"] == agent.updates == agent.online.adam.step == wanted


def test_nothing_is_learned_before_the_start() -> None:
    agent = made(learning_starts=60, train_every=1, updates=1)
    agent.advance(None, 0.0)
    assert agent.updates == 40 - 29  # from the thirtieth step of two environments on


@pytest.mark.parametrize(("double", "n_steps"), [(False, 1), (True, 3)])
def test_cartpole_is_learned(double: bool, n_steps: int) -> None:
    agent = made(
        4, 1, learning_starts=500, buffer=20_000, steps_per_environment=100, batch_size=64, train_every=1, updates=1,
        learning_rate=2e-3, target_every=200, double=double, n_steps=n_steps,
    )  # fmt: skip
    lengths: list[int] = []
    for chunk in range(50):
        agent.advance(None, chunk / 50)
        lengths += [f.length for f in agent.environments.take_finished()]
    assert np.mean(lengths[:20]) < 40
    assert np.mean(lengths[-20:]) > 120
