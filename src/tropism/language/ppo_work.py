"""What a PPO step does, counted: tokens, and the floating-point operations that its phases cannot do without.

The formulas are in ``engine/floor.py``; this file knows which model goes over which tokens in which phase. Left out:
Python rewards and lexical reward models, which are no matrix products; a reward model with another tokenizer or a
shorter context is counted at the policy's tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from tropism.engine.batch import TokenBatch
from tropism.engine.floor import Arithmetic
from tropism.language.classifier_reward import ClassifierNetwork
from tropism.language.frozen_reward import FrozenNetwork
from tropism.language.policy import ActorCritic
from tropism.language.reward_network import LearnedReward
from tropism.language.rewards import RewardSource
from tropism.language.rollouts import Rollout

Paid = Callable[[TokenBatch], float]
"""Operations of one reward model on a rollout."""


class StepWork:
    """Counts one step after another. ``reference`` None: the policy's own model with its adapters off."""

    def __init__(self, actor: ActorCritic, reference: Arithmetic | None, rewards: list[RewardSource]) -> None:
        self.policy = Arithmetic.of(actor.working.model)
        self.reference = reference or self.policy.without_adapters()
        self.value = None if actor.value_lm is None else Arithmetic.of(actor.value_working.model)
        self.rewards = [paid for source in rewards if (paid := _paid_by(source)) is not None]
        self._tokens, self._optimise = 0, 0.0

    def trains(self, batch: TokenBatch, rows: Tensor, critic_only: bool) -> None:
        """Count a gradient of some rows. While only the critic learns, a shared trunk is a forward alone."""
        lengths, positions = batch.lengths[rows], int(batch.completion_lengths[rows].sum())
        self._tokens += int(lengths.sum())
        self._optimise += (self.policy.scored if critic_only else self.policy.trained)(lengths, positions)
        if self.value is not None:
            self._optimise += self.value.trained(lengths, 0)

    def mixes(self, batch: TokenBatch) -> None:
        """Count a gradient of the pretraining mix."""
        self._tokens += int(batch.lengths.sum())
        self._optimise += self.policy.trained(batch.lengths, int(batch.completion_lengths.sum()))

    def metrics(self, rollout: Rollout, reused: bool, max_rows: int) -> dict[str, float]:
        """What the step did, and begin the next: tokens, 10⁹ operations by phase (of a rollout, those of decoding too),
        and the mean number of rows that decoding had, at most ``max_rows``."""
        batch = rollout.batch
        new, longest = int(batch.completion_lengths.sum()), batch.width
        prefill, decode = self._sampled(rollout)
        found = {
            "work/rollout_gflop": (prefill + decode) / 1e9,
            "work/rollout_decode_gflop": decode / 1e9,
            "work/score_gflop": self._scored(rollout, reused) / 1e9,
            "work/reward_gflop": sum(paid(batch) for paid in self.rewards) / 1e9,
            "work/optimise_gflop": self._optimise / 1e9,
            "work/decode_rows": min(float(max_rows), new / longest),
            "tokens/prompt": float(batch.prompt_lengths.sum()),
            "tokens/completion": float(new),
            "tokens/optimise": float(self._tokens),
        }
        self._tokens, self._optimise = 0, 0.0
        return found

    def _sampled(self, rollout: Rollout) -> tuple[float, float]:
        """Operations of the prompts, equal ones once, and of the new tokens: the last one is drawn and not run."""
        batch, distinct = rollout.batch, {tuple(p) for p in rollout.generation.prompts}
        prompts = torch.tensor([len(p) for p in distinct])
        ran = batch.prompt_lengths + (batch.completion_lengths - 1).clamp(min=0)
        head = self.policy.head_forward(int(batch.completion_lengths.sum()))
        prefill = self.policy.forward(torch.zeros_like(prompts), prompts)
        return prefill, self.policy.forward(batch.prompt_lengths, ran) + head

    def _scored(self, rollout: Rollout, reused: bool) -> float:
        """Operations of π_old (unless it is ``reused``), π_ref and a critic of its own on whole sequences."""
        lengths, new = rollout.batch.lengths, int(rollout.batch.completion_lengths.sum())
        own = 0.0 if reused else self.policy.scored(lengths, new)
        value = 0.0 if self.value is None else self.value.scored(lengths, 0)
        return own + value + self.reference.scored(lengths, new)


def throughput(counted: Mapping[str, float], seconds: Mapping[str, float]) -> dict[str, float]:
    """Tokens per wall second, from a step's counts and its clock: new ones sampled, all that gradients went over."""
    pairs = (("rollout", "tokens/completion"), ("optimise", "tokens/optimise"))
    return {
        f"throughput/{phase}_tokens_per_s": counted[tokens] / max(seconds[f"time/{phase}_s"], 1e-9)
        for phase, tokens in pairs
    }


def _paid_by(source: RewardSource) -> Paid | None:
    """How to count a reward; None where it is no network."""
    network = source.network if isinstance(source, LearnedReward) else None
    if isinstance(network, ClassifierNetwork):
        decoder = network.classifier.is_decoder
        trunk = Arithmetic.of(network.running.model, causal=decoder)
        return lambda batch: trunk.scored(batch.lengths, 0)
    if isinstance(network, FrozenNetwork):
        trunk, small = Arithmetic.of(network.trunk.model), network.ensemble.w1.numel()
        return lambda batch: _features(trunk, small, batch)
    return None


def _features(trunk: Arithmetic, small: int, batch: TokenBatch) -> float:
    new = int(batch.completion_lengths.sum())
    return trunk.scored(batch.lengths, new) + 2.0 * small * new
