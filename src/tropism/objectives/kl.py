"""Kullback-Leibler divergences: estimators for logging, penalties for optimising, the exact one, and the controller.

What is logged and what is optimised are two things (Schulman 2020, "Approximating KL divergence"; Tang & Munos 2025). A
good estimate of a value need not have the gradient of that value:

- to the *old* policy, KL(π_old‖π_θ) on samples of π_old: k3 with r = π_θ/π_old has exactly the right gradient in
  expectation, because the samples do not depend on θ (``kl_old_penalty``);
- to the *reference*, KL(π_θ‖π_ref) on samples of π_θ: k2 has the right gradient, E_θ[(log π_θ − log π_ref) ∇log π_θ]
  (``kl_ref_loss``), and so has k1 in the reward (``kl_ref_reward``). k3 used as this loss has the gradient of
  KL(π_ref‖π_θ), the other direction; k1 used as a loss has gradient zero in expectation; k3 in the reward is biased.

Units are nats per token. Left out: f-divergences and top-k approximations.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tropism.errors import ContractError
from tropism.objectives.masks import Count, divide, keep, weighted


def k1(logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor) -> Tensor:
    """log(π/π_ref) per token ``[B, C]`` on samples of π: unbiased for KL(π‖π_ref), may be negative; 0 when masked."""
    return keep(logprobs, mask) - keep(ref_logprobs, mask)


def k2(logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor) -> Tensor:
    """½ log²(π/π_ref) per token ``[B, C]`` on samples of π: biased, low variance; 0 when masked."""
    return 0.5 * k1(logprobs, ref_logprobs, mask).square()


def k3(logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor) -> Tensor:
    """π_ref/π − 1 − log(π_ref/π) per token ``[B, C]`` on samples of π: unbiased and never negative; 0 when masked."""
    log_ratio = k1(logprobs, ref_logprobs, mask)
    return torch.expm1(-log_ratio) + log_ratio


def kl_old_penalty(
    logprobs: Tensor, old_logprobs: Tensor, mask: Tensor, count: Count, weights: Tensor | None = None
) -> Tensor:
    """Σ (r − 1 − log r) / count with r = π_θ/π_old on samples of π_old: KL(π_old‖π_θ), value and gradient unbiased.

    The term β·KL(π_old‖π_θ) of PPO's penalty form (Schulman et al. 2017, eq. 8); ``old_logprobs`` carry no gradient.
    """
    return divide(weighted(k3(old_logprobs.detach(), logprobs, mask), mask, weights), count)


def kl_old_penalty_grad(
    logprobs: Tensor, old_logprobs: Tensor, mask: Tensor, count: Count, weights: Tensor | None = None
) -> Tensor:
    """∂ / ∂ logprobs ``[B, C]`` of ``kl_old_penalty``: (r − 1)/count."""
    grad = torch.expm1(k1(logprobs.detach(), old_logprobs.detach(), mask))
    return divide(grad if weights is None else grad * keep(weights.to(grad.dtype), mask), count)


def kl_ref_loss(
    logprobs: Tensor,
    ref_logprobs: Tensor,
    mask: Tensor,
    count: Count,
    old_logprobs: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Σ ½ log²(π_θ/π_ref) / count: the loss whose *gradient* is that of KL(π_θ‖π_ref) on samples of π_θ.

    With ``old_logprobs`` (the policy that sampled) every token is weighted by the detached ratio π_θ/π_old, which keeps
    the expected gradient exact after π_θ has left π_old. The loss's value is k2, not the KL: log ``k1`` and ``k3``.
    Exact means exact for each token's distribution at the states visited: that a token also leads to states of more or
    less KL later on is left out, and is what ``kl_ref_reward`` has (through the returns).
    """
    terms = k2(logprobs, ref_logprobs.detach(), mask)
    if old_logprobs is not None:
        terms = terms * torch.exp(k1(logprobs.detach(), old_logprobs.detach(), mask))
    return divide(weighted(terms, mask, weights), count)


def kl_ref_loss_grad(
    logprobs: Tensor,
    ref_logprobs: Tensor,
    mask: Tensor,
    count: Count,
    old_logprobs: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """∂ / ∂ logprobs ``[B, C]`` of ``kl_ref_loss``: log(π_θ/π_ref)/count, times π_θ/π_old where that is given."""
    grad = k1(logprobs.detach(), ref_logprobs.detach(), mask)
    if old_logprobs is not None:
        grad = grad * torch.exp(k1(logprobs.detach(), old_logprobs.detach(), mask))
    return divide(grad if weights is None else grad * keep(weights.to(grad.dtype), mask), count)


def kl_ref_reward(logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, coef: float) -> Tensor:
    """Per-token reward −coef·log(π/π_ref) ``[B, C]``, detached (k1: the form whose policy gradient is the KL's)."""
    return -coef * k1(logprobs.detach(), ref_logprobs.detach(), mask)


def exact_kl(logits_p: Tensor, logits_q: Tensor) -> Tensor:
    """KL(softmax(logits_p) ‖ softmax(logits_q)) over the last axis, in nats; infinite where q lacks p's support."""
    logp, logq = torch.log_softmax(logits_p, -1), torch.log_softmax(logits_q, -1)
    support = torch.isfinite(logp)
    return (keep(logp, support).exp() * keep(keep(logp, support) - keep(logq, support), support)).sum(-1)


class AdaptiveKL:
    """The coefficient controller of Ziegler et al. 2019 (section 2.2): e = clip((KL − target)/target, ±0.2) and
    β ← β(1 + rate·e) once per rollout.

    ``target`` is in the unit of the KL given to ``update`` (nats per sequence or per token, the caller's choice).
    """

    def __init__(self, target: float, coef: float, rate: float = 0.1, error_clip: float = 0.2) -> None:
        if not (target > 0 and coef > 0 and rate > 0 and 0 < error_clip < 1 / rate):
            given = f"target {target}, coef {coef}, rate {rate}, error_clip {error_clip}"
            raise ContractError(f"adaptive KL with {given}", "all must be positive, and rate · error_clip below 1")
        self.target, self.coef, self.rate, self.error_clip = target, coef, rate, error_clip

    def update(self, kl: float) -> float:
        """Take the measured KL of one rollout; return the new coefficient. Raises ContractError for NaN or infinity."""
        if not math.isfinite(kl):
            raise ContractError(f"adaptive KL was given {kl}", "stop or roll back before the controller is updated")
        error = (kl - self.target) / self.target
        self.coef *= 1 + self.rate * max(-self.error_clip, min(self.error_clip, error))
        return self.coef

    def state_dict(self) -> dict[str, float]:
        """All that a checkpoint needs, as JSON numbers."""
        return {"target": self.target, "coef": self.coef, "rate": self.rate, "error_clip": self.error_clip}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore what ``state_dict`` gave."""
        self.target, self.coef = state["target"], state["coef"]
        self.rate, self.error_clip = state["rate"], state["error_clip"]
