"""Advantages: GAE, whitening over a batch, normalisation within groups.

Left out: V-trace and other off-policy corrections (PPO's epochs are short), running normalisers (a statistic that moves
inside a rollout gives one state two advantages).
"""

from __future__ import annotations

import torch
from torch import Tensor

from tropism.errors import ContractError
from tropism.objectives.masks import keep


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float, bootstrap: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016, eq. 16) over valid positions.

    δ_t = r_t + γ V_{t+1} − V_t and A_t = δ_t + γλ A_{t+1}; returns are A_t + V_t, the targets of the value function.

    Args: ``rewards``, ``values``, ``mask`` are ``[B, C]``. V after the last valid position is 0 (the behaviour ended),
    or ``bootstrap`` ``[B]`` where it was cut off. Masked positions are skipped: a gap joins its two valid neighbours.
    Returns: ``(advantages, returns)``, both ``[B, C]``, detached, 0 at masked positions.
    """
    if not (rewards.shape == values.shape == mask.shape):
        shapes = f"{tuple(rewards.shape)}, {tuple(values.shape)}, {tuple(mask.shape)}"
        raise ContractError(f"rewards, values and mask have shapes {shapes}", "give all three the shape [B, C]")
    r, v = keep(rewards.detach(), mask), keep(values.detach(), mask)
    next_value = v.new_zeros(v.shape[0]) if bootstrap is None else bootstrap.detach().to(v.dtype)
    carry = torch.zeros_like(next_value)
    advantages = torch.zeros_like(v)
    for t in range(v.shape[1] - 1, -1, -1):
        here = mask[:, t]
        carry = torch.where(here, r[:, t] + gamma * next_value - v[:, t] + gamma * lam * carry, carry)
        next_value = torch.where(here, v[:, t], next_value)
        advantages[:, t] = keep(carry, here)
    return advantages, advantages + v


def terminal_rewards(scores: Tensor, mask: Tensor) -> Tensor:
    """Rewards ``[B, C]`` that hold ``scores`` ``[B]`` on the last valid position (EOS included) and 0 elsewhere.

    An empty row gets no reward: there is no action to credit.
    """
    if mask.shape[1] == 0:
        return scores.new_zeros(mask.shape)
    positions = torch.arange(mask.shape[1], device=mask.device)
    last = torch.where(mask, positions, -1).amax(-1, keepdim=True)
    return keep(scores[:, None].expand(mask.shape), mask & (positions == last))


def deviation(x: Tensor, mask: Tensor, floor: float = 1e-6) -> Tensor:
    """Population standard deviation of ``x`` over valid positions, a scalar, at least ``floor``."""
    clean = keep(x.detach(), mask)
    n = mask.sum().clamp(min=1)
    mean = clean.sum() / n
    return (keep(clean - mean, mask).square().sum() / n).sqrt().clamp(min=floor)


def whiten(x: Tensor, mask: Tensor, shift_mean: bool = True, floor: float = 1e-6) -> Tensor:
    """``(x − mean) / max(std, floor)`` over the valid tokens of the whole batch; 0 at masked positions.

    ``shift_mean=False`` puts the mean back unscaled, so that a batch without spread keeps its values instead of being
    divided by the floor. Call it once on the whole rollout, never per micro-batch.
    """
    clean = keep(x, mask)
    mean = clean.sum() / mask.sum().clamp(min=1)
    scaled = (clean - mean) / deviation(x, mask, floor)
    return keep(scaled if shift_mean else scaled + mean, mask)


def group_normalise(scores: Tensor, floor: float = 1e-4, mask: Tensor | None = None) -> tuple[Tensor, int]:
    """Group-relative advantages of ``scores`` ``[N, K]``: (s − mean) / max(std, floor) within each group (GRPO).

    Standard deviations are over the population, so that K = 1 gives 0 and not NaN. ``mask`` ``[N, K]`` leaves
    candidates out. Returns the advantages ``[N, K]`` and the number of groups whose deviation is at most ``floor``:
    they teach (next to) nothing, and the caller logs them as ``groups/zero_spread``.
    """
    valid = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask
    clean = keep(scores, valid)
    n = valid.sum(-1, keepdim=True).clamp(min=1)
    centred = keep(clean - clean.sum(-1, keepdim=True) / n, valid)
    std = (centred.square().sum(-1, keepdim=True) / n).sqrt()
    return centred / std.clamp(min=floor), int((std <= floor).sum())
