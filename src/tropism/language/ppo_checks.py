"""PPO's contracts, asserted in every run, and the metrics that show them.

Before training: the precision asked for is the one that runs, everything is in eval mode, the reference is frozen and
not the policy's own tensors (but for the policy's model with its adapters off). After each rollout: KL to a reference
of equal weights is exactly 0, the score sits on the last token. On the first mini-batch: π_θ/π_old is 1, else the old
log-probabilities are recomputed, and that must mend it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tropism.engine.adapters import adds_nothing, has_adapters
from tropism.errors import ConfigError, ContractError
from tropism.language.config import PpoSection
from tropism.language.policy import ActorCritic, same_weights
from tropism.language.rollouts import Rollout
from tropism.objectives.advantages import deviation
from tropism.runtime.precision import Precision

if TYPE_CHECKING:
    from tropism.language.ppo_state import PpoState

RATIO_LIMIT = {"fp32": 1e-4, "autocast": 1e-3, "bf16": 1e-3}
"""Largest |log ratio| at step 0 in fp32, mean |log ratio| in bf16."""
REUSE_LIMIT = 1e-3
"""Mean |log π_rollout − log π_trainer| per token of the step before, below which the sampler's log-probabilities serve
as old_logprobs."""
MISMATCH_LIMIT = {"fp32": 1e-2, "autocast": 0.3, "bf16": 0.3}
"""Mean |log π_rollout − log π_trainer| per token beyond which a run stops: the sampler is not the policy."""


class Mean:
    """Means over mini-batches, of what was really computed: a name's mean is over the times it was added."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, int]] = {}

    def add(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            total, n = self._sums.get(name, (0.0, 0))
            self._sums[name] = (total + value, n + 1)

    def means(self) -> dict[str, float]:
        return {name: total / n for name, (total, n) in self._sums.items()}


def before_training(
    settings: PpoSection,
    actor: ActorCritic,
    reference: nn.Module,
    precision: Precision,
    demonstrations: Sequence[object],
) -> None:
    """Contracts that hold for a whole run."""
    precision.check()
    actor.eval()
    reference.eval()
    adapted = has_adapters(actor.lm)  # then frozen tensors may be shared: they are not what moves
    if not (adapted and reference is actor.lm):
        if any(p.requires_grad for p in reference.parameters()):
            raise ContractError("the reference has parameters that require gradients", "pass a frozen copy (copy_of)")
        moving = {p.data_ptr() for p in actor.parameters() if p.requires_grad or not adapted}
        if moving & {p.data_ptr() for p in reference.parameters()}:
            raise ContractError(
                "policy and reference share tensors, so the leash would move with the policy", "copy the reference"
            )
    if settings.ptx_coef and not demonstrations:
        raise ConfigError(
            "ppo.ptx_coef is set, but the world has no demonstrations", "set ppo.ptx_coef = 0 or give some"
        )


def rollout_metrics(
    rollout: Rollout,
    settings: PpoSection,
    state: PpoState,
    actor: ActorCritic,
    reference: nn.Module,
    precision: Precision,
) -> dict[str, float]:
    """Assert the rollout's contracts; return what is logged of it (means over valid tokens or over sequences)."""
    mask, paid = rollout.batch.mask, rollout.paid
    tokens = max(1, int(mask.sum()))
    k1, k3 = rollout.kl_ref, rollout.kl_ref_k3()
    if state.step == 0 and _equal(actor, reference) and float(k1.abs().max()) != 0.0:
        raise ContractError(f"KL to a reference of equal weights is {float(k1.abs().max()):.3g}, not 0", "report this")
    gaps = mismatch(rollout, precision)
    finite = {"old_logprobs": rollout.old_logprobs, "ref_logprobs": rollout.ref_logprobs, "values": rollout.values}
    for name, tensor in (finite | {"reward": paid.total}).items():
        if not bool(torch.isfinite(tensor).all()):
            raise ContractError(
                f"{name} of the rollout at step {rollout.step} is not finite",
                "see the reward functions and the weights",
            )
    return {
        "ppo/reward_mean": float((paid.total - state.kl_coef * k1).mean())
        if settings.kl_ref_in == "reward"
        else float(paid.total.mean()),
        "ppo/score_mean": float(paid.total.mean()),
        "ppo/score_std": float(paid.total.std(correction=0)),
        "ppo/value_mean": float(rollout.values.sum()) / tokens,
        "ppo/value_std": float(deviation(rollout.values, mask)),
        "ppo/reward_clipped": float(paid.clipped.float().mean()),
        "reward/rows_cut": float(paid.rows_cut),
        "ppo/kl_coef": state.kl_coef,
        "ppo/rate_factor": state.rate_factor,
        "kl/ref_k1": float(k1.mean()),
        "kl/ref_k3": float(k3.mean()),
        "length/completion_tokens": float(rollout.batch.completion_lengths.float().mean()),
        "length/missing_end": sum(s == "length" for s in rollout.generation.stops) / len(rollout.tasks),
        "check/precision_bits": float(precision.check()),
        **gaps,
        **{f"reward/{name}_mean": float(values.mean()) for name, values in paid.components.items()},
    }


def mismatch(rollout: Rollout, precision: Precision) -> dict[str, float]:
    """Mean and largest |log π_rollout − log π_old| per token; ContractError beyond the limit."""
    gap = (rollout.generation.logprob_rows() - rollout.old_logprobs).abs()[rollout.batch.mask]
    worst, mean = (float(gap.max()), float(gap.mean())) if len(gap) else (0.0, 0.0)
    if not mean <= MISMATCH_LIMIT[precision.name]:
        raise ContractError(
            f"rollout and trainer log-probabilities differ by {mean:.3g} nats a token in {precision.name}",
            "set runtime.precision = 'fp32'; if it stays, the model samples from another distribution than it scores",
        )
    return {"check/mismatch_mean": mean, "check/mismatch_max": worst}


def _equal(actor: ActorCritic, reference: nn.Module) -> bool:
    """Whether policy and reference are one function; the policy's own model is one with its adapters off."""
    return adds_nothing(actor.lm) if reference is actor.lm else same_weights(actor.lm, reference)


def reusable(state: PpoState, settings: PpoSection) -> bool:
    """Whether the step before showed sampler and trainer to agree; the first step of a round never knows."""
    return settings.reuse_logprobs and state.last.get("check/mismatch_mean", math.inf) < REUSE_LIMIT


def within(precision: Precision, gap: Tensor) -> bool:
    """Whether |log π_θ/π_old| of tokens ``[n]`` is 0 but for rounding: the largest in fp32, the mean in bf16."""
    worst, mean = ratio_metrics(gap).values()
    return (worst if precision.name == "fp32" else mean) < RATIO_LIMIT[precision.name]


def require_within(precision: Precision, gap: Tensor, step: int) -> None:
    """ContractError unless :func:`within`."""
    if not within(precision, gap):
        worst, mean = ratio_metrics(gap).values()
        raise ContractError(
            f"π_θ/π_old at step {step} is off by {worst:.3g} (mean {mean:.3g}) before any update",
            "the model's forward depends on its batch: use a model without batch-dependent layers, or fp32",
        )


def ratio_metrics(gap: Tensor) -> dict[str, float]:
    """The largest and the mean of |log π_θ/π_old|."""
    worst, mean = (float(gap.max()), float(gap.mean())) if len(gap) else (0.0, 0.0)
    return {"check/ratio_max": worst, "check/ratio_mean": mean}


def diverged(terms: Mapping[str, float], settings: PpoSection) -> bool:
    """Whether a mini-batch's numbers mean divergence: anything not finite, KL to the old policy or a loss beyond its
    limit."""
    watched = ("ppo/policy_loss", "ppo/value_loss", "kl/old", "ppo/grad_norm")
    if not all(math.isfinite(terms[name]) for name in watched):
        return True
    return (
        terms["kl/old"] > settings.divergence_kl or max(abs(terms[n]) for n in watched[:2]) > settings.divergence_loss
    )
