"""Deep Q-learning (Mnih et al. 2015), with Double Q-learning (van Hasselt et al. 2016) and n-step returns.

``Dqn._update`` is the algorithm. Discrete actions only.

Left out: dueling heads, prioritised replay, distributional values (the rest of Rainbow, Hessel et al. 2018).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from tropism.control.agent import State
from tropism.control.convolution import PicturePasses, PictureStack
from tropism.control.networks import Floats
from tropism.control.off_policy import OffPolicy, OffPolicySettings, Trained
from tropism.control.perceptrons import Passes
from tropism.control.q_network import QPolicy, q_stack
from tropism.environments.stepping import Environments
from tropism.errors import ConfigError
from tropism.objectives.q_learning import greedy_values, huber_loss, huber_loss_grad, td_targets
from tropism.runtime.seeding import derive


class DqnSettings(OffPolicySettings):
    """``[dqn]`` of the control domain."""

    train_every: int = Field(4, ge=1)
    """Steps of each environment between two trainings."""
    updates: int = Field(1, ge=0)
    """Updates of a training; 0: as many as steps were taken since the last one."""
    batch_size: int = Field(64, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    target_every: int = Field(500, ge=1)
    """Steps between two copies of the network to its target."""
    exploration_start: float = Field(1.0, ge=0, le=1)
    exploration_end: float = Field(0.05, ge=0, le=1)
    exploration_fraction: float = Field(0.2, gt=0, le=1)
    """Share of the training in which ε falls in a line from start to end."""
    double: bool = True
    """The online network chooses the action whose target value is taken (van Hasselt et al. 2016)."""
    n_steps: int = Field(1, ge=1)
    max_grad_norm: float = Field(10.0, ge=0)
    hidden: tuple[int, ...] = (64, 64)
    """Widths of layers; of pictures those that follow the convolutions."""


class Dqn(OffPolicy):
    """An agent that learns action values and acts ε-greedily by them."""

    name: ClassVar[str] = "dqn"
    settings_class = DqnSettings
    metrics: ClassVar[tuple[str, ...]] = ("loss", "value_mean", "target_mean")

    def __init__(self, environments: Environments, settings: DqnSettings, seed: int) -> None:
        if not environments.discrete:
            raise ConfigError(
                f"dqn cannot choose among the actions of {environments.spec.id}: {environments.action_space}",
                "it needs discrete actions; sac, ppo, a2c and reinforce take continuous ones",
            )
        super().__init__(environments, settings, seed)
        self.settings = settings
        e, rows = environments, settings.batch_size
        self.stack = q_stack((e.observation_size, *settings.hidden, e.actions), e.picture)
        self.online = Trained.zeros(self.stack.size)
        self.stack.initialise(self.online.params, derive(seed, "q"))
        self.target = self.online.params.clone()
        self.copied = 0
        """How often the target was due to be renewed."""
        self.actor = QPolicy(self.stack, self.online.params, settings.exploration_end)
        self._layers, self._target_layers = (self.stack.layers(v) for v in (self.online.params, self.target))
        self._grads = self.stack.layers(self.online.grad)
        self._passes, self._ahead = (
            PicturePasses(self.stack) if isinstance(self.stack, PictureStack) else Passes(self.stack, rows)
            for _ in range(2)
        )
        self._d = torch.empty(1, rows, e.actions)

    def act(self, observations: Floats, seed: int | None = None) -> Floats:
        """Actions at raw observations; see ``Actor``."""
        return self.actor.act(observations, seed)

    def policy(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The policy alone; see ``control.policy``."""
        return self.actor.describe()

    def begin_with(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Start from a saved policy; see ``Agent``."""
        self._check_kind(about)
        self.stack.load(self.online.params, tensors, "q")
        self.target.copy_(self.online.params)

    def state(self) -> State:
        """See ``Agent``."""
        tensors, meta = super().state()
        return tensors, meta | {"copied": self.copied}

    def restore(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """See ``Agent``."""
        super().restore(tensors, meta)
        self.copied = meta["copied"]

    def epsilon(self, done: float) -> float:
        """The share of actions drawn evenly when the share ``done`` of the training is over."""
        s = self.settings
        return s.exploration_start + (s.exploration_end - s.exploration_start) * min(1.0, done / s.exploration_fraction)

    def _chance(self, stream: np.random.Generator, steps: int, done: float) -> tuple[np.ndarray, float]:
        return stream.random((steps, self.environments.count, 2)), self.epsilon(done)

    def _explore(self, observations: Floats, chance: tuple[np.ndarray, float], t: int) -> Floats:
        return self.actor.explore(observations, chance[0][t], chance[1])

    @torch.no_grad()
    def _update(self, number: int) -> tuple[float, ...]:
        """1 renew the target if it is due, 2 draw, 3 targets, 4 loss and gradient of the actions taken, 5 Adam."""
        s = self.settings
        if (due := self.acted * self.environments.count // s.target_every) > self.copied:
            self.target.copy_(self.online.params)
            self.copied = due
        stream = np.random.Generator(np.random.Philox(derive(self.seed, "update", number)))
        drawn = self.replay.draw(stream, s.batch_size, s.gamma, s.n_steps)
        # the passes below share buffers with nothing that is still needed: the online one is made last
        after = self._passes.forward(self._layers, drawn.successors)[0] if s.double else None
        ahead = greedy_values(self._ahead.forward(self._target_layers, drawn.successors)[0], after)
        targets = td_targets(drawn.rewards, ahead, drawn.terminated, drawn.discounts)
        taken = drawn.actions.long()[:, None]
        values = self._passes.forward(self._layers, drawn.observations)[0].gather(1, taken)[:, 0]
        self._d.zero_()
        self._d[0].scatter_(1, taken, huber_loss_grad(values, targets, s.batch_size)[:, None])
        self._passes.backward(self._layers, self._d, self._grads)
        self.online.step(s.learning_rate, s.max_grad_norm)
        loss = huber_loss(values, targets, s.batch_size)
        return float(loss), float(values.mean()), float(targets.mean())

    def _trained(self) -> dict[str, Trained]:
        return {"online": self.online}

    def _tensors(self) -> dict[str, Tensor]:
        return {"target": self.target}
