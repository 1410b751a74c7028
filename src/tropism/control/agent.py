"""What every algorithm of this folder is to whoever drives it, and the policy that it leaves behind.

An *agent* owns its environments, its policy, its optimiser and its data. It is driven in chunks: ``advance`` acts,
learns and hands back the steps it saw. A preference learner puts its own reward between, and tells the agent when that
reward has changed. Everything it is fits into ``state``.

Left out: agents in other processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from torch import Tensor

from tropism.control.networks import Floats
from tropism.control.rollouts import RewardFunction, Steps
from tropism.environments.stepping import Environments

State = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors, and JSON values: what ``runtime.checkpoints.save_state`` takes as ``tensors`` and ``meta``."""


class Actor(Protocol):
    """A policy that only acts."""

    def act(self, observations: Floats, seed: int | None = None) -> Floats:
        """Actions ``[N, A]`` (``[N]`` numbers of categories) at raw observations ``[N, D]``: sampled, or for
        ``seed = None`` the mode. The caller clips to the environment's bounds."""
        ...


class Agent(Actor, Protocol):
    """A policy that learns. Made by ``cls(environments, settings, seed)``."""

    name: ClassVar[str]
    environments: Environments

    def advance(self, reward: RewardFunction | None, done: float) -> tuple[Steps, dict[str, float]]:
        """Act for a chunk of steps, learn on what ``reward`` pays for them (None: the true reward), and return the
        steps with their true rewards, and metrics. ``done``: the share of the training that lies behind."""
        ...

    def reward_changed(self, reward: RewardFunction) -> None:
        """The reward is another one from here on: relabel whatever was paid by the one before."""
        ...

    def state(self) -> State:
        """All that the next ``advance`` depends on, the environments' position included."""
        ...

    def restore(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Be what ``state`` said. The tensors are copied: they may be a file's pages."""
        ...

    def policy(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Weights and JSON description of the policy (and its critic), as ``control.policy.save_policy`` writes
        them."""
        ...

    def begin_with(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Start from a policy that ``policy`` described: weights and statistics, with a fresh optimiser. Errors:
        ModelError for one of another kind or shape."""
        ...
