"""A ring of the latest steps of N environments, drawn from at random, paid anew when the reward changes.

Steps are kept by time and environment, so that n-step returns are put together when they are drawn: they never cross an
episode's end, nor the place where the ring is written. Whatever was paid by an old reward is relabelled, all of the
ring, on both sides of that place.

Left out: prioritised replay (Schaul et al. 2016), images shared by neighbouring steps.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tropism.control.networks import Floats
from tropism.control.rollouts import RewardFunction, Steps
from tropism.environments.stepping import Environments, Observations
from tropism.errors import ConfigError, RewardError

RELABELLED = 16384
"""Steps that a reward is asked about at once."""
_ARRAYS = ("observations", "actions", "successors", "rewards", "terminated", "ends")


@dataclass(frozen=True)
class Drawn:
    """``B`` transitions over up to n steps each."""

    observations: Tensor
    """``[B, D]``"""
    actions: Tensor
    """``[B, A]``, or ``[B]`` numbers of categories, as floats."""
    rewards: Tensor
    """``[B]`` Σ γⁱ r over the k ≤ n steps that the transition spans."""
    successors: Tensor
    """``[B, D]`` after its last step."""
    terminated: Tensor
    """``[B]`` bool: the episode ended there, so nothing follows."""
    discounts: Tensor
    """``[B]`` γᵏ, what the successor's value counts."""


class Replay:
    """Room for the latest ``capacity`` steps, those of all environments together."""

    def __init__(self, environments: Environments, capacity: int) -> None:
        kind, (n, d) = environments.observations.dtype, environments.observations.shape
        if capacity < n:
            raise ConfigError(f"a replay buffer of {capacity} steps for {n} environments", f"give it at least {n}")
        if kind == np.uint8:  # pictures
            _check_room(capacity, 2 * d)  # nothing else holds a copy: checkpoints are written from here
        self.rows = capacity // n
        room, acted = (self.rows, n), () if environments.discrete else (environments.actions,)
        self.observations: Observations = np.empty((*room, d), kind)  # the system gives memory as it is written to
        self.actions = np.empty((*room, *acted), np.float32)
        self.successors: Observations = np.empty((*room, d), kind)
        self.rewards = np.empty(room, np.float32)
        self.terminated, self.ends = np.empty(room, bool), np.empty(room, bool)
        self.cursor = 0
        """The row that is written next."""
        self.filled = 0
        """Rows that hold steps."""

    def __len__(self) -> int:
        return self.filled * self.rewards.shape[1]

    def add(self, steps: Steps, first: int, last: int, reward: RewardFunction | None) -> Floats:
        """Keep steps ``first`` to before ``last``, paid by ``reward`` (None: the true one), in place of the oldest.
        Returns what was paid, ``[last - first, N]``."""
        part = slice(first, last)
        told = steps.observations[part], steps.actions[part], steps.successors[part]
        rewards = steps.rewards[part] if reward is None else asked(reward, *told)
        new = (*told, rewards, steps.terminated[part], steps.ends[part])
        skip = max(0, last - first - self.rows)  # of more than the ring holds, the latest
        at = (self.cursor + np.arange(skip, last - first)) % self.rows
        for name, values in zip(_ARRAYS, new, strict=True):
            getattr(self, name)[at] = values[skip:]
        self.cursor = (self.cursor + last - first) % self.rows
        self.filled = min(self.filled + last - first, self.rows)
        return rewards

    def draw(self, stream: np.random.Generator, batch: int, gamma: float, n_steps: int = 1) -> Drawn:
        """``batch`` transitions, drawn with replacement."""
        count = self.rewards.shape[1]
        row, env = np.divmod(stream.integers(0, len(self), batch), count)
        start = row * count + env
        rewards, last, discounts = self._ahead(row, env, gamma, n_steps)
        return Drawn(
            torch.from_numpy(_taken(self.observations, start)), torch.from_numpy(_taken(self.actions, start)),
            torch.from_numpy(rewards), torch.from_numpy(_taken(self.successors, last)),
            torch.from_numpy(_taken(self.terminated, last)), torch.from_numpy(discounts),
        )  # fmt: skip

    def _ahead(
        self, row: NDArray[np.int64], env: NDArray[np.int64], gamma: float, n_steps: int
    ) -> tuple[Floats, NDArray[np.int64], Floats]:
        """Discounted rewards over up to ``n_steps`` steps, the place of the last of them, and γ to their number."""
        count, at = self.rewards.shape[1], row * self.rewards.shape[1] + env
        rewards, discounts = _taken(self.rewards, at), np.full(len(row), gamma, np.float32)
        if n_steps == 1:
            return rewards, at, discounts
        after = (self.cursor - 1 - row) % self.rows  # steps in the ring that came after this one
        for k in range(1, n_steps):
            further = ~_taken(self.ends, at) & (k <= after)
            row = np.where(further, (row + 1) % self.rows, row)
            at = row * count + env
            rewards += np.where(further, np.float32(gamma**k) * _taken(self.rewards, at), 0).astype(np.float32)
            discounts = np.where(further, np.float32(gamma ** (k + 1)), discounts)
            after = np.where(further, after, 0)  # who has stopped goes no further
        return rewards, at, discounts

    def relabel(self, reward: RewardFunction) -> None:
        """Pay every step in the ring by ``reward``."""
        rows = max(1, RELABELLED // self.rewards.shape[1])
        for start in range(0, self.filled, rows):
            part = slice(start, min(start + rows, self.filled))
            self.rewards[part] = asked(reward, self.observations[part], self.actions[part], self.successors[part])

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What is in the ring, as tensors and JSON."""
        tensors = {name: torch.from_numpy(getattr(self, name)[: self.filled]) for name in _ARRAYS}
        return tensors, {"cursor": self.cursor, "filled": self.filled}

    def restore(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Be what ``state`` said. Errors: ConfigError for what was kept in a ring of another size."""
        self.cursor, self.filled = int(meta["cursor"]), int(meta["filled"])
        if self.filled > self.rows or (self.filled < self.rows and self.cursor != self.filled):
            raise ConfigError(
                f"a replay buffer of {self.rows} steps per environment cannot go on from one with {self.filled}",
                "resume with the size that the run began with",
            )
        for name in _ARRAYS:
            getattr(self, name)[: self.filled] = tensors[name].numpy()


def asked(reward: RewardFunction, observations: Floats, actions: Floats, successors: Floats) -> Floats:
    """What ``reward`` pays for steps ``[T, N, …]``: ``[T, N]``. Errors: RewardError for another number of rewards, or
    any that is not finite."""
    flat = [a.reshape(-1, *a.shape[2:]) for a in (observations, actions, successors)]
    found = np.asarray(reward(*flat), np.float32)
    if found.shape != flat[0].shape[:1]:
        raise RewardError(f"a reward of shape {found.shape} for {len(flat[0])} steps", "return one number per step")
    if not np.isfinite(found).all():
        raise RewardError("a reward that is not finite", "look at the reward's inputs and scale")
    return found.reshape(observations.shape[:2])


def _check_room(capacity: int, each: int) -> None:
    """Errors: ConfigError where ``capacity`` steps of ``each`` bytes are more than this machine's memory."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if capacity * each > memory:
        raise ConfigError(
            f"a replay buffer of {capacity} steps with pictures takes {capacity * each / 2**30:.0f} GiB, and there are "
            f"{memory / 2**30:.0f}",
            f"set buffer to {memory // 2 // each} or less",
        )


def _taken(array: NDArray[Any], at: NDArray[np.int64]) -> NDArray[Any]:
    """Rows of an array ``[T, N, …]`` by their number in ``[T·N, …]``."""
    return array.reshape(-1, *array.shape[2:]).take(at, axis=0)
