"""Soft actor-critic (Haarnoja et al. 2018, 2018b): squashed Gaussian policy, two critics, a learned temperature.

``Sac._update`` is the algorithm. Its gradients are written out (``objectives/q_learning.py``), so that the actor's loss
takes none of the critics' weights, and only of that critic's inputs whose value is the smaller one. Continuous actions
only; the reward may be relabelled (Lee et al. 2021, PEBBLE).

Left out: discrete SAC (Christodoulou 2019), n-step targets, a separate state value function (of the first paper).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from tropism.control.convolution import NO_PICTURES_FIX
from tropism.control.networks import Floats
from tropism.control.off_policy import OffPolicy, OffPolicySettings, Trained
from tropism.control.perceptrons import Passes, Stack
from tropism.control.replay import Drawn
from tropism.control.squashed import SquashedPolicy
from tropism.environments.stepping import Environments
from tropism.errors import ConfigError
from tropism.objectives.policy import value_loss, value_loss_grad
from tropism.objectives.q_learning import (
    Squashed,
    soft_policy_loss,
    soft_policy_loss_grad,
    soft_values,
    squashed_gaussian,
    td_targets,
    temperature_loss_grad,
)
from tropism.runtime.seeding import derive

CRITICS = ("critic_1", "critic_2")


class SacSettings(OffPolicySettings):
    """``[sac]`` of the control domain."""

    tau: float = Field(0.005, gt=0, le=1)
    """What the target critics take of the critics in each update."""
    temperature: float = Field(1.0, gt=0)
    """α: what a nat of entropy is worth, at the start or for good."""
    learn_temperature: bool = True
    target_entropy: float | None = None
    """Entropy, nats, that α is steered to; None: minus the number of actions."""
    hidden: tuple[int, ...] = (256, 256)


class Sac(OffPolicy):
    """An agent that maximises reward and entropy from a replay buffer."""

    name: ClassVar[str] = "sac"
    settings_class = SacSettings
    metrics: ClassVar[tuple[str, ...]] = ("critic_loss", "policy_loss", "entropy", "temperature", "value_mean")

    def __init__(self, environments: Environments, settings: SacSettings, seed: int) -> None:
        e, n = environments, settings.batch_size
        if e.discrete:
            raise ConfigError(
                f"sac cannot choose among the actions of {e.spec.id}: {e.action_space}",
                "it needs continuous actions; dqn, ppo, a2c and reinforce take discrete ones",
            )
        if e.picture is not None:
            raise ConfigError(f"sac cannot learn from the pictures of {e.spec.id}", NO_PICTURES_FIX)
        super().__init__(environments, settings, seed)
        self.settings = settings
        self.target_entropy = -float(e.actions) if settings.target_entropy is None else settings.target_entropy
        seen, acted = e.observation_size, e.actions
        actor = Stack(1, (seen, *settings.hidden, 2 * acted))
        self.critic_stack = critics = Stack(len(CRITICS), (seen + acted, *settings.hidden, 1))
        self.policy_net, self.critics, self.log_temperature = (Trained.zeros(x) for x in (actor.size, critics.size, 1))
        actor.initialise(self.policy_net.params, derive(seed, "actor"))
        critics.initialise(self.critics.params, derive(seed, "critics"))
        self.log_temperature.params.fill_(math.log(settings.temperature))
        self.targets = self.critics.params.clone()
        self.actor = SquashedPolicy(actor, self.policy_net.params, e.low, e.high)
        self._middle, self._reach = (torch.from_numpy(x) for x in (self.actor.middle, self.actor.reach))
        self._actor, self._actor_grads = (actor.layers(v) for v in (self.policy_net.params, self.policy_net.grad))
        self._critics, self._critic_grads, self._target_critics = (
            critics.layers(v) for v in (self.critics.params, self.critics.grad, self.targets)
        )
        self._actor_passes, self._critic_passes = Passes(actor, 2 * n), Passes(critics, n)
        self._states, self._pairs = torch.empty(2 * n, seen), torch.empty(n, seen + acted)
        self._all = torch.ones(len(CRITICS), n, dtype=torch.bool)

    def act(self, observations: Floats, seed: int | None = None) -> Floats:
        """Actions at raw observations; see ``Actor``."""
        return self.actor.act(observations, seed)

    def policy(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The policy and its critics; see ``control.policy``."""
        tensors, about = self.actor.describe()
        return tensors | self.critic_stack.tensors(self.critics.params, *CRITICS), about

    def begin_with(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Start from a saved policy; see ``Agent``."""
        self._check_kind(about)
        self.actor.stack.load(self.policy_net.params, tensors, "actor")
        self.critic_stack.load(self.critics.params, tensors, *CRITICS)
        self.targets.copy_(self.critics.params)

    def _chance(self, stream: np.random.Generator, steps: int, done: float) -> tuple[Floats, bool]:
        """Until there is enough to learn from, actions are drawn evenly from the space (for a whole ``advance``)."""
        n, s = self.environments.count, self.settings
        if self.acted * n < s.learning_starts:
            return stream.uniform(-1, 1, (steps, n, self.environments.actions)).astype(np.float32), True
        return self.actor.noise(stream, steps, n), False

    def _explore(self, observations: Floats, chance: tuple[Floats, bool], t: int) -> Floats:
        numbers, anywhere = chance
        return self.actor.scaled(numbers[t]) if anywhere else self.actor.draw(observations, numbers[t])

    @torch.no_grad()
    def _update(self, number: int) -> tuple[float, ...]:
        """1 draw, 2 actions of the policy as it is, 3 critics, 4 actor, 5 temperature, 6 targets follow."""
        s, n = self.settings, self.settings.batch_size
        stream = np.random.Generator(np.random.Philox(derive(self.seed, "update", number)))
        drawn = self.replay.draw(stream, n, s.gamma)
        self._states[:n], self._states[n:] = drawn.observations, drawn.successors
        out = self._actor_passes.forward(self._actor, self._states)[0]
        both = squashed_gaussian(out, torch.from_numpy(self.actor.noise(stream, 2 * n)))
        now, after = (Squashed(*(x[part] for x in both)) for part in (slice(None, n), slice(n, None)))
        alpha = math.exp(float(self.log_temperature.params))
        critic_loss, value_mean = self._learn_critics(drawn, after, alpha)
        policy_loss = self._learn_actor(drawn.observations, now, alpha)
        if s.learn_temperature:
            self.log_temperature.grad.fill_(temperature_loss_grad(now.logprobs, self.target_entropy, n))
            self.log_temperature.step(s.learning_rate)
        self.targets.lerp_(self.critics.params, s.tau)
        return critic_loss, policy_loss, -float(now.logprobs.mean()), alpha, value_mean

    def _learn_critics(self, drawn: Drawn, after: Squashed, alpha: float) -> tuple[float, float]:
        """½ Σ_k (Q_k(s, a) − r − γ (min_k Q̄_k(s', a') − α log π(a'|s')))² (Haarnoja et al. 2018b, eq. 5)."""
        n = self.settings.batch_size
        ahead = self._value(self._target_critics, drawn.successors, after.actions)
        soft = soft_values(ahead, after.logprobs, alpha)
        targets = td_targets(drawn.rewards, soft, drawn.terminated, drawn.discounts)
        values = self._value(self._critics, drawn.observations, (drawn.actions - self._middle) / self._reach)
        targets = targets.expand_as(values)
        # divided by 2n: half the mean square of each critic
        loss, mean = value_loss(values, values, targets, self._all, 2 * n).loss, values.mean()
        d = value_loss_grad(values, values, targets, self._all, 2 * n)[..., None]
        self._critic_passes.backward(self._critics, d, self._critic_grads)
        self.critics.step(self.settings.learning_rate)
        return float(loss), float(mean)

    def _learn_actor(self, observations: Tensor, now: Squashed, alpha: float) -> float:
        """α log π(a|s) − min_k Q_k(s, a) (Haarnoja et al. 2018b, eq. 7), by the critics as they are now."""
        n, seen = self.settings.batch_size, observations.shape[1]
        values = self._value(self._critics, observations, now.actions)
        smaller, at_actions = values.argmin(0), torch.empty_like(now.actions)
        for k in range(len(CRITICS)):
            rows = (smaller == k).nonzero()[:, 0]
            d = torch.full((len(rows), 1), -1 / n)
            at_actions[rows] = self._critic_passes.input_gradient(self._critics, k, rows, d, seen)
        d_out = soft_policy_loss_grad(now, at_actions, alpha, n)
        self._actor_passes.backward(self._actor, d_out[None], self._actor_grads)
        self.policy_net.step(self.settings.learning_rate)
        return float(soft_policy_loss(values, now.logprobs, alpha, n))

    def _value(self, layers: Any, observations: Tensor, actions: Tensor) -> Tensor:
        """Q ``[K, B]``, in a buffer that the next call overwrites."""
        torch.cat([observations, actions], 1, out=self._pairs)
        return self._critic_passes.forward(layers, self._pairs)[..., 0]

    def _trained(self) -> dict[str, Trained]:
        return {"actor": self.policy_net, "critics": self.critics, "log_temperature": self.log_temperature}

    def _tensors(self) -> dict[str, Tensor]:
        return {"targets": self.targets}
