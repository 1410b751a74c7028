"""The policy's and the value function's losses: PPO's clipped surrogate, value loss, entropy, token NLL.

Each loss carries its closed-form gradient beside it, so that a learner with a hand-written backward uses the same PPO.
All tensors are ``[B, C]``; ``count`` is the global denominator; ``weights`` ``[B, C]`` (see ``masks.length_weights``)
choose another length normalisation than per token.

Left out: clamping of log-ratios (an overflow is a divergence, which the trainer must see), dual clipping.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tropism.errors import ContractError
from tropism.objectives.masks import Count, divide, keep, weighted


class SurrogateTerms(NamedTuple):
    """``loss`` (scalar, to minimise) and what is logged about it, detached."""

    loss: Tensor
    ratio: Tensor
    """``[B, C]`` π_θ/π_old, 1 at masked positions."""
    clipped: Tensor
    """``[B, C]`` bool: the clipped branch binds, so the gradient is 0 there."""
    clip_fraction_sum: Tensor
    """Number of tokens with ``clipped``; divide by the global token count."""
    ratio_sum: Tensor
    """Sum of ratios over valid tokens."""


class ValueTerms(NamedTuple):
    """``loss`` (scalar, to minimise) and the number of tokens on which value clipping binds, detached."""

    loss: Tensor
    clip_fraction_sum: Tensor


def _ratio(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    return torch.exp(keep(logprobs, mask) - keep(old_logprobs.detach(), mask))


def _binds(ratio: Tensor, advantages: Tensor, clip_range: float) -> Tensor:
    return ((advantages > 0) & (ratio > 1 + clip_range)) | ((advantages < 0) & (ratio < 1 - clip_range))


def clipped_surrogate(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip_range: float,
    count: Count,
    weights: Tensor | None = None,
) -> SurrogateTerms:
    """−Σ min(ρA, clip(ρ, 1−ε, 1+ε)A) / count with ρ = π_θ/π_old (Schulman et al. 2017, eq. 7).

    ``clip_range`` is ε in units of the ratio. ``old_logprobs`` and ``advantages`` carry no gradient.
    """
    ratio = _ratio(logprobs, old_logprobs, mask)
    a = keep(advantages.detach(), mask)
    clipped = _binds(ratio.detach(), a, clip_range)
    # an explicit choice of branch, so that the gradient on the boundary is defined and equals the closed form
    objective = torch.where(clipped, ratio.detach().clamp(1 - clip_range, 1 + clip_range), ratio) * a
    return SurrogateTerms(
        loss=-divide(weighted(objective, mask, weights), count),
        ratio=ratio.detach(),
        clipped=clipped,
        clip_fraction_sum=clipped.sum(),
        ratio_sum=keep(ratio.detach(), mask).sum(),
    )


def clipped_surrogate_grad(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip_range: float,
    count: Count,
    weights: Tensor | None = None,
) -> Tensor:
    """∂ loss / ∂ logprobs ``[B, C]`` of ``clipped_surrogate``: −ρA/count where the clip does not bind, else 0."""
    ratio = _ratio(logprobs.detach(), old_logprobs, mask)
    a = keep(advantages.detach(), mask)
    grad = keep(-ratio * a, mask & ~_binds(ratio, a, clip_range))
    return divide(_times(grad, mask, weights), count)


def value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    mask: Tensor,
    count: Count,
    clip_range: float | None = None,
    return_deviation: Count | None = None,
    weights: Tensor | None = None,
) -> ValueTerms:
    """Σ (V − R)² / count, no factor ½: the coefficient c₁ multiplies exactly this.

    With ``clip_range`` the loss is max((V − R)², (V_clip − R)²), V_clip = V_old + clip(V − V_old, ±clip_range·σ). Here
    σ is ``return_deviation``, the deviation of the returns over the *whole* rollout (see ``advantages.deviation``),
    because a range in units of the raw reward means another thing under every reward model. ContractError without it.
    """
    v, target = keep(values, mask), keep(returns.detach(), mask)
    bounded, binds = _value_clip(v.detach(), old_values, target, mask, clip_range, return_deviation)
    error = torch.where(binds, bounded, v) - target
    return ValueTerms(divide(weighted(error.square(), mask, weights), count), binds.sum())


def value_loss_grad(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    mask: Tensor,
    count: Count,
    clip_range: float | None = None,
    return_deviation: Count | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """∂ loss / ∂ values ``[B, C]`` of ``value_loss``: 2(V − R)/count, 0 where the clipped branch is the larger one."""
    v, target = keep(values.detach(), mask), keep(returns.detach(), mask)
    _, binds = _value_clip(v, old_values, target, mask, clip_range, return_deviation)
    return divide(_times(keep(2 * (v - target), mask & ~binds), mask, weights), count)


def _value_clip(
    v: Tensor,
    old_values: Tensor,
    target: Tensor,
    mask: Tensor,
    clip_range: float | None,
    return_deviation: Count | None,
) -> tuple[Tensor, Tensor]:
    """V_clip, and where it binds: V left the range and the clipped error is the larger one, so no gradient flows."""
    if clip_range is None:
        return v, torch.zeros_like(mask)
    if return_deviation is None:
        raise ContractError(
            f"value clip_range {clip_range} without return_deviation",
            "pass the deviation of the whole rollout's returns, or clip_range=None",
        )
    old = keep(old_values.detach(), mask)
    reach = torch.as_tensor(clip_range * return_deviation, dtype=v.dtype, device=v.device)
    bounded = old + torch.clamp(v - old, -reach, reach)
    return bounded, mask & ((v - old).abs() > reach) & ((bounded - target).square() > (v - target).square())


def categorical_entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of softmax(logits) over the last axis; ``-inf`` logits have probability 0 and add nothing."""
    logp = torch.log_softmax(logits, -1)
    p = logp.exp()
    return -(p * keep(logp, p > 0)).sum(-1)


def entropy_bonus(entropies: Tensor, mask: Tensor, count: Count, weights: Tensor | None = None) -> Tensor:
    """Σ entropy / count in nats per token, a scalar. It is a bonus: subtract ``entropy_coef ·`` it from the loss."""
    return divide(weighted(keep(entropies, mask), mask, weights), count)


def sft_loss(logprobs: Tensor, mask: Tensor, count: Count, weights: Tensor | None = None) -> Tensor:
    """−Σ log π(token) / count in nats per token: supervised fine-tuning on completions, and the pretraining mix of
    InstructGPT (Ouyang et al. 2022, eq. 2, the γ term)."""
    return -divide(weighted(keep(logprobs, mask), mask, weights), count)


def sft_loss_grad(mask: Tensor, count: Count, weights: Tensor | None = None) -> Tensor:
    """∂ loss / ∂ logprobs ``[B, C]`` of ``sft_loss``: −1/count on valid tokens."""
    return -divide(_times(mask.to(torch.get_default_dtype()), mask, weights), count)


def _times(grad: Tensor, mask: Tensor, weights: Tensor | None) -> Tensor:
    return grad if weights is None else grad * keep(weights.to(grad.dtype), mask)
