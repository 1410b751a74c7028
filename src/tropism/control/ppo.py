"""PPO for control (Schulman et al. 2017): clipped surrogate, GAE, Adam, one vector of parameters.

``Ppo.advance`` is the algorithm. Its epochs run either in torch, by the objectives that language models are trained
with, or in one compiled call that computes the same (``engine/kernels/small_networks.c``); a test holds them to one
another.

Left out: clipped value losses, observation statistics that move while a rollout is learned from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from tropism.control.agent import State
from tropism.control.networks import ActorCritic, Floats
from tropism.control.policy import begin, describe, normaliser_of
from tropism.control.rollouts import RewardFunction, Steps, advantages, collect
from tropism.engine.kernels.small_networks import STATS
from tropism.environments.normalising import ReturnScale
from tropism.environments.stepping import Environments
from tropism.errors import ContractError, DivergenceError
from tropism.objectives.kl import kl_old_penalty
from tropism.objectives.policy import clipped_surrogate, entropy_bonus, value_loss
from tropism.runtime.seeding import derive, permutation
from tropism.settings.sections import Section

FIRST_LOG_RATIO = 1e-4
"""Limit of |log ratio| on a rollout's first mini-batch, in fp32."""


class PpoSettings(Section):
    """``[ppo]`` of the control domain."""

    steps_per_environment: int = Field(256, ge=1)
    """Steps of each environment between two updates."""
    epochs: int = Field(10, ge=1)
    batch_size: int = Field(64, ge=1)
    learning_rate: float = Field(3e-4, gt=0)
    learning_rate_end: float = Field(1.0, ge=0)
    """The rate at the end as a share of the rate at the start; in between it falls in a line."""
    gamma: float = Field(0.99, ge=0, le=1)
    gae_lambda: float = Field(0.95, ge=0, le=1)
    clip_range: float = Field(0.2, gt=0)
    value_coef: float = Field(0.5, ge=0)
    entropy_coef: float = Field(0.0, ge=0)
    kl_old_coef: float = Field(0.0, ge=0)
    target_kl: float | None = Field(None, gt=0)
    """No further epoch once KL(π_old‖π) (k3, nats per action) is beyond this."""
    max_grad_norm: float = Field(0.5, ge=0)
    normalise_observations: bool = False
    """Bring observations to mean 0 and deviation 1, by statistics that move between rollouts only."""
    normalise_rewards: bool = False
    """Divide rewards by the deviation of discounted returns so far, so that values are of one size, whatever pays."""
    whiten: Literal["rollout", "mini_batch", "none"] = "rollout"
    """Over what advantages are brought to mean 0 and deviation 1."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of layers; of pictures those that follow the convolutions."""
    activation: Literal["tanh", "relu"] = "tanh"
    log_std: float = 0.0


@dataclass
class Adam:
    """Adam's moments for one vector, and its finished steps."""

    first: torch.Tensor
    second: torch.Tensor
    step: int = 0
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-5

    @classmethod
    def of(cls, params: torch.Tensor) -> Adam:
        """Fresh moments."""
        return cls(torch.zeros_like(params), torch.zeros_like(params))

    def apply(self, params: torch.Tensor, grad: torch.Tensor, rate: float) -> None:
        """One step (Kingma & Ba 2015, algorithm 1)."""
        self.step += 1
        self.first.lerp_(grad, 1 - self.beta1)
        self.second.mul_(self.beta2).addcmul_(grad, grad, value=1 - self.beta2)
        correct1, correct2 = 1 - self.beta1**self.step, 1 - self.beta2**self.step
        params.sub_(rate / correct1 * self.first / ((self.second / correct2).sqrt() + self.eps))


class Ppo:
    """An agent (``control/agent.py``) that learns by PPO: a rollout of all environments, then epochs over it."""

    name: ClassVar[str] = "ppo"
    settings_class = PpoSettings

    def __init__(self, environments: Environments, settings: PpoSettings, seed: int) -> None:
        self.environments, self.settings, self.seed = environments, settings, seed
        e = environments
        self.actor = ActorCritic(
            e.observation_size, e.actions, e.discrete, settings.hidden, settings.activation, settings.log_std, seed,
            e.picture,
        )  # fmt: skip
        self.normaliser = normaliser_of(e, settings.normalise_observations)
        self.scale = ReturnScale(e.count, settings.gamma, settings.normalise_rewards)
        self.adam = Adam.of(self.actor.params)
        self.updates = 0

    def advance(self, reward: RewardFunction | None, done: float) -> tuple[Steps, dict[str, float]]:
        """One PPO step: 1 act, 2 pay, 3 advantages, 4 whiten, 5 epochs of mini-batches, 6 statistics of observations.

        Errors: ContractError if the policy that acted is not the one that learns; DivergenceError.
        """
        s, seed = self.settings, derive(self.seed, "act", self.updates)
        rollout = collect(self.actor, self.environments, s.steps_per_environment, seed, self.normaliser)
        rewards = rollout.steps.paid(reward)
        scaled = self.scale(rewards, rollout.steps.ends)
        raw, returns = advantages(self.actor, rollout, scaled, s.gamma, s.gae_lambda)
        batch = {
            "observations": rollout.inputs.reshape(-1, rollout.inputs.shape[-1]),
            "actions": rollout.steps.flat("actions"),
            "logprobs": rollout.logprobs.reshape(-1),
            "advantages": (whitened(raw) if s.whiten == "rollout" else raw).reshape(-1),
            "returns": returns.reshape(-1),
        }
        rate = s.learning_rate * (1 + (s.learning_rate_end - 1) * done)
        stats = self._epochs(batch, rate)
        if not torch.isfinite(self.actor.params).all():
            raise DivergenceError("PPO's weights are not finite after an update", "lower ppo.learning_rate")
        self.normaliser.update(rollout.steps.observations)
        self.updates += 1
        return rollout.steps, _metrics(stats, rewards, returns, rollout.values, rate)

    def reward_changed(self, reward: RewardFunction) -> None:
        """Nothing is kept from one rollout to the next but the critic, which follows."""

    def act(self, observations: Floats, seed: int | None = None) -> Floats:
        """Actions at raw observations; see ``Actor``."""
        noise = None if seed is None else self.actor.noise(seed, observations.shape[:1])
        return self.actor.act(self.normaliser(observations), noise)[0]

    def state(self) -> State:
        """Weights, moments, statistics, counters, and where the environments are."""
        tensors = {"params": self.actor.params, "first": self.adam.first, "second": self.adam.second}
        meta = {
            "step": self.adam.step,
            "updates": self.updates,
            "normaliser": self.normaliser.state(),
            "scale": self.scale.state(),
            "environments": self.environments.position(),
        }
        return tensors, meta

    def restore(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Be what ``state`` said."""
        for own, name in ((self.actor.params, "params"), (self.adam.first, "first"), (self.adam.second, "second")):
            own.copy_(tensors[name])
        self.adam.step, self.updates = meta["step"], meta["updates"]
        self.normaliser.load(meta["normaliser"])
        self.scale.load(meta["scale"])
        self.environments.restore(meta["environments"])

    def policy(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The policy alone; see ``control.policy``."""
        return describe(self.actor, self.normaliser)

    def begin_with(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Start from a saved policy; see ``Agent``."""
        begin(self.actor, self.normaliser, tensors, about)

    def _epochs(self, batch: dict[str, Floats], rate: float) -> list[tuple[int, np.ndarray]]:
        """All epochs: (rows, STATS) of each mini-batch. The order of rows is a function of seed, update and epoch."""
        s, found, n = self.settings, [], len(batch["returns"])
        sizes = [min(s.batch_size, n - start) for start in range(0, n, s.batch_size)]
        for epoch in range(s.epochs):
            order = permutation(n, self.seed, self.updates * s.epochs + epoch)
            run = self._epoch if self.actor.compiled is None else self._compiled_epoch
            stats = run(batch, order, rate)
            if epoch == 0:
                _check_first(stats[0])
            found += list(zip(sizes, stats, strict=True))
            kl = sum(row[STATS.index("kl_old_k3")] for row in stats) / n
            if s.target_kl is not None and kl > s.target_kl:
                break
        return found

    def _compiled_epoch(self, batch: dict[str, Floats], order: np.ndarray, rate: float) -> np.ndarray:
        s, compiled = self.settings, self.actor.compiled
        assert compiled is not None
        numbers = {
            "clip_range": s.clip_range, "value_coef": s.value_coef, "entropy_coef": s.entropy_coef,
            "kl_old_coef": s.kl_old_coef, "max_grad_norm": s.max_grad_norm, "learning_rate": rate,
            "beta1": self.adam.beta1, "beta2": self.adam.beta2, "eps": self.adam.eps,
            "whiten": float(s.whiten == "mini_batch"),
        }  # fmt: skip
        moments = self.adam.first.numpy(), self.adam.second.numpy()
        stats = compiled.ppo_epoch(
            self.actor.params.numpy(), moments, self.adam.step, batch, order, s.batch_size, numbers
        )
        self.adam.step += len(stats)
        return stats

    def _epoch(self, batch: dict[str, Floats], order: np.ndarray, rate: float) -> np.ndarray:
        """The same in torch, by the shared objectives."""
        s, tensors = self.settings, {name: torch.from_numpy(array) for name, array in batch.items()}
        found = []
        for rows in torch.from_numpy(order).split(s.batch_size):
            b, n = {name: tensor[rows] for name, tensor in tensors.items()}, len(rows)
            a = torch.from_numpy(whitened(b["advantages"].numpy())) if s.whiten == "mini_batch" else b["advantages"]
            mask = torch.ones(n, dtype=torch.bool)
            params = self.actor.params.detach().requires_grad_()
            now = self.actor.evaluate(params, b["observations"], b["actions"])
            surrogate = clipped_surrogate(now.logprobs, b["logprobs"], a, mask, s.clip_range, n)
            value = value_loss(now.values, now.values, b["returns"], mask, n)
            kl = kl_old_penalty(now.logprobs, b["logprobs"], mask, n)
            entropy = entropy_bonus(now.entropies, mask, n)
            loss = surrogate.loss + s.value_coef * value.loss - s.entropy_coef * entropy + s.kl_old_coef * kl
            (grad,) = torch.autograd.grad(loss, params)
            norm = float(grad.norm())
            if s.max_grad_norm and norm > s.max_grad_norm:
                grad = grad * (s.max_grad_norm / (norm + 1e-6))
            self.adam.apply(self.actor.params, grad, rate)
            farthest = float((now.logprobs.detach() - b["logprobs"]).abs().max())
            sums = [float(x.detach()) * n for x in (surrogate.loss, value.loss, entropy, kl)]
            rest = [float(surrogate.clip_fraction_sum), float(surrogate.ratio_sum), farthest, norm]
            found.append([*sums, *rest])
        return np.array(found)


def whitened(x: Floats) -> Floats:
    """``(x - mean) / deviation`` over all of ``x``."""
    deviation = float(x.std(ddof=1)) if x.size > 1 else 0.0
    return (x - x.mean()) / np.float32(max(deviation, 1e-8))


def _check_first(stats: np.ndarray) -> None:
    """On the first mini-batch after a rollout nothing has been learned yet: the ratio is 1."""
    farthest = float(stats[STATS.index("log_ratio_max")])
    if not farthest < FIRST_LOG_RATIO:
        raise ContractError(
            f"log-probabilities of the rollout are off by {farthest:.2g} before anything was learned",
            "the policy that acts must be the one that learns",
        )


def _metrics(
    stats: list[tuple[int, np.ndarray]], rewards: Floats, returns: Floats, values: Floats, rate: float
) -> dict[str, float]:
    rows = sum(size for size, _ in stats)
    total = np.sum([row for _, row in stats], axis=0) / rows
    mean = dict(zip(STATS, total.tolist(), strict=True))
    spread = float(returns.var())
    return {
        "ppo/policy_loss": mean["policy_loss"],
        "ppo/value_loss": mean["value_loss"],
        "ppo/entropy": mean["entropy"],
        "kl/old_k3": mean["kl_old_k3"],
        "ppo/clip_fraction": mean["clipped"],
        "ppo/ratio_mean": mean["ratio"],
        "ppo/grad_norm": float(np.mean([row[STATS.index("grad_norm")] for _, row in stats])),
        "ppo/learning_rate": rate,
        "ppo/reward_mean": float(rewards.mean()),
        "ppo/explained_variance": 1 - float((returns - values).var()) / spread if spread > 0 else 0.0,
    }
