"""What methods that learn from a replay buffer share: acting step by step, paying, storing, updating, resuming.

Left out: learning in another process than the one that acts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from tropism.control.agent import State
from tropism.control.networks import Floats
from tropism.control.ppo import Adam
from tropism.control.replay import Replay
from tropism.control.rollouts import RewardFunction, Steps
from tropism.environments.stepping import Environments
from tropism.errors import DivergenceError, ModelError
from tropism.runtime.seeding import derive
from tropism.settings.sections import Section


class OffPolicySettings(Section):
    """Settings that DQN and SAC share. *Steps* are those of all environments together, unless it says otherwise."""

    steps_per_environment: int = Field(128, ge=1)
    """Steps of each environment that ``advance`` takes at a time."""
    buffer: int = Field(1_000_000, ge=1)
    """Steps that are kept."""
    learning_starts: int = Field(1000, ge=1)
    """Nothing is learned before so many steps."""
    train_every: int = Field(1, ge=1)
    """Steps of each environment between two trainings."""
    updates: int = Field(0, ge=0)
    """Updates of a training; 0: as many as steps were taken since the last one."""
    batch_size: int = Field(256, ge=1)
    learning_rate: float = Field(3e-4, gt=0)
    gamma: float = Field(0.99, ge=0, le=1)


class FusedAdam(Adam):
    """The same Adam in one pass over the vectors."""

    def apply(self, params: Tensor, grad: Tensor, rate: float) -> None:
        """One step (Kingma & Ba 2015, algorithm 1)."""
        self.step += 1
        # what torch.optim.Adam(fused=True) calls, without the checks around it, which cost more than a small update
        torch._fused_adam_(
            [params], [grad], [self.first], [self.second], [], [torch.tensor(float(self.step))], lr=rate,
            beta1=self.beta1, beta2=self.beta2, weight_decay=0.0, eps=self.eps, amsgrad=False, maximize=False,
        )  # fmt: skip


@dataclass
class Trained:
    """A vector of parameters with its gradient and its moments."""

    params: Tensor
    grad: Tensor
    adam: FusedAdam

    @classmethod
    def zeros(cls, size: int) -> Trained:
        """All zero."""
        return cls(torch.zeros(size), torch.zeros(size), FusedAdam(torch.zeros(size), torch.zeros(size), eps=1e-8))

    def step(self, rate: float, max_norm: float = 0.0) -> None:
        """One step of Adam along the gradient, shortened to ``max_norm`` (0: as it is)."""
        if max_norm and (norm := float(self.grad.norm())) > max_norm:
            self.grad.mul_(max_norm / (norm + 1e-6))
        self.adam.apply(self.params, self.grad, rate)

    def tensors(self, name: str) -> dict[str, Tensor]:
        """What has to be kept."""
        return {f"{name}.params": self.params, f"{name}.first": self.adam.first, f"{name}.second": self.adam.second}

    def restore(self, name: str, tensors: Mapping[str, Tensor], step: int) -> None:
        """Take what ``tensors`` gave, after ``step`` steps."""
        for key, own in self.tensors(name).items():
            own.copy_(tensors[key])
        self.adam.step = step


class OffPolicy(ABC):
    """An agent (``control/agent.py``) but for how it explores and what an update is."""

    name: ClassVar[str]
    metrics: ClassVar[tuple[str, ...]]
    """What an update measures."""

    def __init__(self, environments: Environments, settings: OffPolicySettings, seed: int) -> None:
        self.environments, self.seed, self._common = environments, seed, settings
        self.replay = Replay(environments, settings.buffer)
        self.acted = 0
        """Steps of each environment so far."""
        self.advances = 0
        self.updates = 0

    def advance(self, reward: RewardFunction | None, done: float) -> tuple[Steps, dict[str, float]]:
        """For each step: act, pay and store, and every ``train_every`` steps a training. Errors: DivergenceError."""
        s, e = self._common, self.environments
        steps, before, stored, paid = Steps.room(e, s.steps_per_environment), self.updates, 0, 0.0
        stream = np.random.Generator(np.random.Philox(derive(self.seed, "act", self.advances)))
        sums, chance = np.zeros(len(self.metrics)), self._chance(stream, s.steps_per_environment, done)
        for t in range(s.steps_per_environment):
            steps.take(t, e, self._explore(e.observations, chance, t))
            self.acted += 1
            due = self.acted % s.train_every == 0
            if due or t + 1 == s.steps_per_environment:  # one question to the reward per training, not per step
                paid += float(self.replay.add(steps, stored, t + 1, reward).sum())
                stored = t + 1
            if due and self.acted * e.count >= s.learning_starts:
                for _ in range(s.updates or s.train_every * e.count):
                    sums += self._update(self.updates)
                    self.updates += 1
        made = self.updates - before
        if not all(torch.isfinite(part.params).all() for part in self._trained().values()):
            raise DivergenceError(f"{self.name}'s weights are not finite", f"lower {self.name}.learning_rate")
        self.advances += 1
        means = {name: float(x) / made for name, x in zip(self.metrics, sums, strict=True)} if made else {}
        return steps, {f"{self.name}/{name}": value for name, value in means.items()} | {
            f"{self.name}/updates": float(made),
            f"{self.name}/reward_mean": paid / steps.rewards.size,
            f"{self.name}/stored": float(len(self.replay)),
        }

    def reward_changed(self, reward: RewardFunction) -> None:
        """Pay all that is stored by the reward that is in force from here on (Lee et al. 2021, PEBBLE)."""
        self.replay.relabel(reward)

    def state(self) -> State:
        """Weights, moments, the replay buffer, counters, and where the environments are."""
        tensors, meta = self.replay.state()
        found = {f"replay.{name}": tensor for name, tensor in tensors.items()} | self._tensors()
        for name, part in self._trained().items():
            found |= part.tensors(name)
        return found, {
            "replay": meta,
            "acted": self.acted,
            "advances": self.advances,
            "updates": self.updates,
            "steps": {name: part.adam.step for name, part in self._trained().items()},
            "environments": self.environments.position(),
        }

    def restore(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Be what ``state`` said."""
        kept = {name.removeprefix("replay."): t for name, t in tensors.items() if name.startswith("replay.")}
        self.replay.restore(kept, meta["replay"])
        for name, own in self._tensors().items():
            own.copy_(tensors[name])
        for name, part in self._trained().items():
            part.restore(name, tensors, meta["steps"][name])
        self.acted, self.advances, self.updates = meta["acted"], meta["advances"], meta["updates"]
        self.environments.restore(meta["environments"])

    def _check_kind(self, about: Mapping[str, Any]) -> None:
        """Errors: ModelError where a policy that is to be started from is not of this kind and shape."""
        own = {"picture": None} | self.policy()[1]
        other = {k: (about.get(k), v) for k, v in own.items() if k != "epsilon" and about.get(k) != v}
        if other:
            raise ModelError(f"the policy to start from differs in {other} (theirs, ours)", "use the same settings")

    @abstractmethod
    def policy(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """See ``Agent``."""

    @abstractmethod
    def _chance(self, stream: np.random.Generator, steps: int, done: float) -> Any:
        """All that chance has to say in ``steps`` steps of every environment."""

    @abstractmethod
    def _explore(self, observations: Floats, chance: Any, t: int) -> Floats:
        """Actions at observations ``[N, D]``, in step ``t`` of those ``chance`` was drawn for."""

    @abstractmethod
    def _update(self, number: int) -> tuple[float, ...]:
        """The update of this number, which decides what is drawn; the values of ``metrics``."""

    @abstractmethod
    def _trained(self) -> dict[str, Trained]:
        """What is trained, by name."""

    @abstractmethod
    def _tensors(self) -> dict[str, Tensor]:
        """What else has to be kept, by name."""
