"""Q-learning's terms: by hand, against autograd, and where they must not round to infinity."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tropism.objectives import q_learning as q

F64 = torch.float64


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def test_targets_end_with_the_episode_and_not_with_the_time() -> None:
    rewards, ahead = torch.tensor([1.0, 1.0]), torch.tensor([10.0, 10.0])
    ended = torch.tensor([True, False])
    assert q.td_targets(rewards, ahead, ended, 0.9).tolist() == [1.0, 10.0]
    discounts = torch.tensor([0.9, 0.5])
    assert q.td_targets(rewards, ahead, ended, discounts).tolist() == [1.0, 6.0]


def test_a_terminated_value_may_be_anything() -> None:
    ended = torch.tensor([True])
    assert q.td_targets(torch.ones(1), torch.tensor([math.nan]), ended, 0.9).tolist() == [1.0]


def test_double_q_learning_takes_the_targets_value_of_the_online_choice() -> None:
    target = torch.tensor([[1.0, 5.0], [3.0, 2.0]])
    online = torch.tensor([[9.0, 0.0], [0.0, 9.0]])
    assert q.greedy_values(target).tolist() == [5.0, 3.0]
    assert q.greedy_values(target, online).tolist() == [1.0, 2.0]


def test_huber_by_hand_and_its_gradient() -> None:
    values = torch.tensor([0.5, 3.0, -4.0, 1.0], dtype=F64, requires_grad=True)
    targets = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=F64)
    loss = q.huber_loss(values, targets, 4)
    assert loss.item() == pytest.approx((0.125 + 2.5 + 3.5 + 0.0) / 4)
    (wanted,) = torch.autograd.grad(loss, values)
    torch.testing.assert_close(q.huber_loss_grad(values.detach(), targets, 4), wanted)
    assert wanted.tolist() == [0.125, 0.25, -0.25, 0.0]


def test_log_probabilities_are_those_of_a_transformed_normal() -> None:
    """Against torch's own transformed distribution, whose inverse needs actions that are not rounded to ±1."""
    out, noise = 0.5 * draw(7, 6), draw(7, 3, seed=1)
    drawn = q.squashed_gaussian(out, noise)
    mean, log_std = out.chunk(2, -1)
    base = torch.distributions.Normal(mean, log_std.exp())
    wanted = torch.distributions.TransformedDistribution(base, [torch.distributions.TanhTransform(cache_size=1)])
    u = mean + log_std.exp() * noise
    torch.testing.assert_close(drawn.actions, torch.tanh(u))
    torch.testing.assert_close(drawn.logprobs, wanted.log_prob(wanted.transforms[0](u)).sum(-1))


def test_far_out_actions_have_finite_log_probabilities() -> None:
    out = torch.tensor([[40.0, -40.0, 0.0, 0.0]])
    assert q.squashed_gaussian(out, torch.zeros(1, 2)).logprobs.isfinite().all()


@pytest.mark.parametrize("temperature", [0.0, 0.3])
def test_policy_gradient_is_autograds(temperature: float) -> None:
    """Through the reparametrisation, min over critics and the bounds of the log deviation (two lie beyond them)."""
    out, noise, weights = draw(6, 4), draw(6, 2, seed=1), draw(2, 2, seed=2)
    out[0, 2], out[1, 3] = 2.5, -21.0
    leaf = out.clone().requires_grad_()
    drawn = q.squashed_gaussian(leaf, noise)
    critics = torch.sin(drawn.actions @ weights.T).T  # two curved functions of the actions
    loss = q.soft_policy_loss(critics, drawn.logprobs, temperature, 6)
    (wanted,) = torch.autograd.grad(loss, leaf, retain_graph=True)
    (action_grad,) = torch.autograd.grad(-critics.amin(0).sum() / 6, drawn.actions)
    still = q.squashed_gaussian(out, noise)
    got = q.soft_policy_loss_grad(still, action_grad, temperature, 6)
    torch.testing.assert_close(got, wanted)
    assert got[0, 2] == got[1, 3] == 0
    assert got[2:].abs().min() > 0


def test_soft_values_take_the_smaller_critic_and_pay_for_entropy() -> None:
    critics, logprobs = torch.tensor([[1.0, 5.0], [2.0, 4.0]]), torch.tensor([-1.0, 2.0])
    assert q.soft_values(critics, logprobs, 0.5).tolist() == [1.5, 3.0]
    assert q.soft_policy_loss(critics, logprobs, 0.5, 2).item() == -2.25


def test_temperature_rises_below_the_target_entropy() -> None:
    log_alpha = torch.tensor(0.2, dtype=F64, requires_grad=True)
    logprobs = draw(5)
    loss = q.temperature_loss(log_alpha, logprobs, -3.0, 5)
    (wanted,) = torch.autograd.grad(loss, log_alpha)
    torch.testing.assert_close(q.temperature_loss_grad(logprobs, -3.0, 5), wanted)
    assert q.temperature_loss_grad(torch.full((5,), 9.0), -3.0, 5) < 0  # entropy −9 is below −3: a descent raises α
    assert q.temperature_loss_grad(torch.full((5,), -9.0), -3.0, 5) > 0
