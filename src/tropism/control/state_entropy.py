"""Pre-training of behaviour without any reward: be where you have not been (Lee et al. 2021, PEBBLE, section 4.1).

The reward of a step is log(1 + distance to the k-th nearest of the states remembered), an estimate of the state's share
in the entropy of the states visited (Liu & Abbeel 2021). The memory is a fixed number of recent states.

Left out: learned representations; states are standardised observations, of pictures thumbnails.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from tropism.control.networks import Floats
from tropism.environments.images import Picture, numbers, numbers_size
from tropism.environments.stepping import Observations

MEMORY, NEAREST = 4096, 5


class StateEntropy:
    """A ``RewardFunction`` that pays for the novelty of the state a step leads to."""

    def __init__(self, observations: int, picture: Picture | None = None) -> None:
        self._picture = picture
        self._seen = np.zeros((0, numbers_size(observations, picture)), np.float32)

    def add(self, observations: Observations) -> None:
        """Remember states ``[T, N, D]`` of N environments: every n-th step of all of them, and the oldest leave."""
        length, count, size = observations.shape
        thin = max(1, length * count // (MEMORY // 4))
        rows = observations[::thin].reshape(-1, size)
        self._seen = np.concatenate([self._seen, numbers(rows, self._picture)])[-MEMORY:]

    def __call__(self, observations: Floats, actions: Floats, successors: Floats) -> Floats:
        """Rewards ``[M]``; 0 while nothing is remembered."""
        if len(self._seen) <= NEAREST:
            return np.zeros(len(successors), np.float32)
        successors = numbers(successors, self._picture)
        mean, deviation = self._seen.mean(0), self._seen.std(0) + 1e-6
        known = torch.from_numpy((self._seen - mean) / deviation)
        asked = torch.from_numpy(((successors - mean) / deviation).astype(np.float32))
        near = torch.cat(
            [torch.cdist(part, known).topk(NEAREST, largest=False).values[:, -1] for part in asked.split(512)]
        )
        return np.log1p(near.numpy()).astype(np.float32)

    def state(self) -> dict[str, Tensor]:
        """The memory."""
        return {"seen": torch.from_numpy(self._seen)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take what ``state`` gave."""
        self._seen = tensors["seen"].numpy().copy()
