"""Q-learning's terms: targets, Huber loss, squashed Gaussian policies and their temperature, with their gradients.

Tensors are over a batch of transitions ``[B]`` (of ``K`` critics ``[K, B]``, of ``A`` actions ``[B, A]``), without a
mask: what is drawn from a replay buffer counts. Every loss is a sum divided by an explicit ``count``, and has its
closed-form gradient beside it. The squared error of critics is ``policy.value_loss``.

Left out: distributional critics, conservative penalties for learning offline.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from tropism.objectives.masks import Count, divide

LOG_STD_LOW, LOG_STD_HIGH = -20.0, 2.0
"""Bounds of a squashed Gaussian's log deviations (Haarnoja et al. 2018, their code)."""


def td_targets(rewards: Tensor, next_values: Tensor, terminated: Tensor, discounts: Tensor | float) -> Tensor:
    """r + γᵏ V(s') ``[B]``, and r where the episode ``terminated``; a truncated one goes on in the value.

    With n-step returns ``rewards`` are discounted sums over k ≤ n steps and ``discounts`` ``[B]`` are γᵏ (Watkins 1989;
    Sutton & Barto 2018, eq. 7.1). No gradient flows.
    """
    return rewards + discounts * torch.where(terminated, 0.0, next_values.detach())


def greedy_values(target: Tensor, online: Tensor | None = None) -> Tensor:
    """max_a Q_target(s', a) ``[B]`` of action values ``[B, A]``; with ``online`` Double Q-learning's
    Q_target(s', argmax_a Q_online(s', a)) (van Hasselt et al. 2016, eq. 4)."""
    if online is None:
        return target.amax(-1)
    return target.gather(-1, online.argmax(-1, keepdim=True))[..., 0]


def huber_loss(values: Tensor, targets: Tensor, count: Count) -> Tensor:
    """Σ ½e² where |e| < 1, |e| − ½ elsewhere, e = Q − y, divided by ``count`` (Mnih et al. 2015: errors clipped)."""
    size = (values - targets.detach()).abs()
    return divide(torch.where(size < 1, 0.5 * size.square(), size - 0.5).sum(), count)


def huber_loss_grad(values: Tensor, targets: Tensor, count: Count) -> Tensor:
    """∂ loss / ∂ values of ``huber_loss``: clip(Q − y, −1, 1) / count."""
    return divide((values - targets).clamp(-1, 1), count)


class Squashed(NamedTuple):
    """A draw from tanh(Normal(mean, deviation)), by reparametrisation u = mean + deviation · noise."""

    actions: Tensor
    """``[B, A]`` tanh(u), in (−1, 1)."""
    logprobs: Tensor
    """``[B]`` log density of the actions."""
    spread: Tensor
    """``[B, A]`` deviation · noise, which is ∂u / ∂ log deviation."""
    free: Tensor
    """``[B, A]`` bool: the log deviation lies within its bounds, so that it has a gradient."""


def squashed_gaussian(out: Tensor, noise: Tensor) -> Squashed:
    """Draw actions with a network's ``out`` ``[B, 2A]`` (means, then log deviations) and standard normal ``noise``.

    log π(a) = log N(u) − Σ log(1 − tanh² u) (Haarnoja et al. 2018, appendix C), where log(1 − tanh² u) is
    2 (log 2 − u − softplus(−2u)), which does not round to log 0.
    """
    mean, raw = out.chunk(2, -1)
    log_std = raw.clamp(LOG_STD_LOW, LOG_STD_HIGH)
    spread = log_std.exp() * noise
    u = mean + spread
    squeezed = 2 * (math.log(2) - u - F.softplus(-2 * u))
    each = -0.5 * noise.square() - 0.5 * math.log(2 * math.pi) - log_std - squeezed
    return Squashed(torch.tanh(u), each.sum(-1), spread, (raw >= LOG_STD_LOW) & (raw <= LOG_STD_HIGH))


def soft_values(critics: Tensor, logprobs: Tensor, temperature: float) -> Tensor:
    """min_k Q_k − α log π ``[B]`` of ``critics`` ``[K, B]`` (Haarnoja et al. 2018b, eq. 3, with clipped double Q)."""
    return critics.amin(0) - temperature * logprobs


def soft_policy_loss(critics: Tensor, logprobs: Tensor, temperature: float, count: Count) -> Tensor:
    """Σ (α log π − min_k Q_k) / count at actions drawn by the policy (Haarnoja et al. 2018b, eq. 7)."""
    return -divide(soft_values(critics, logprobs, temperature).sum(), count)


def soft_policy_loss_grad(drawn: Squashed, action_grad: Tensor, temperature: float, count: Count) -> Tensor:
    """∂ loss / ∂ out ``[B, 2A]`` of ``soft_policy_loss``.

    ``action_grad`` ``[B, A]``: ∂ (−min_k Q_k / count) / ∂ actions. With ∂ log π/∂u = 2 tanh u at fixed deviation:
    g = 2α tanh u / count + action_grad · (1 − tanh² u) for the means, g · spread − α / count for log deviations.
    """
    each = divide(torch.full((), temperature), count)
    at_u = 2 * each * drawn.actions + action_grad * (1 - drawn.actions.square())
    return torch.cat([at_u, torch.where(drawn.free, at_u * drawn.spread - each, 0.0)], -1)


def temperature_loss(log_temperature: Tensor, logprobs: Tensor, target_entropy: float, count: Count) -> Tensor:
    """−Σ log α · (log π + H̄) / count: α grows while the policy's entropy is below H̄ (Haarnoja et al. 2018b, eq. 18,
    with log α for α as in their code)."""
    return -log_temperature * divide((logprobs.detach() + target_entropy).sum(), count)


def temperature_loss_grad(logprobs: Tensor, target_entropy: float, count: Count) -> Tensor:
    """∂ loss / ∂ log α of ``temperature_loss``, a scalar."""
    return -divide((logprobs.detach() + target_entropy).sum(), count)
