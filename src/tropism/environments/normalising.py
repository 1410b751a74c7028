"""Statistics of observations and of returns: moved only between rollouts, frozen wherever a reward is fitted on them.

Left out: rewards brought to mean 0: a constant changes what is best where episodes may end early.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class Normaliser:
    """``(x - mean) / deviation``, clipped; the identity until ``update`` was called, or for good if not ``active``.

    Statistics are of all observations so far (Chan et al. 1979, parallel form), in float64.
    """

    def __init__(self, size: int, active: bool, clip: float = 10.0) -> None:
        self.active, self.clip = active, clip
        self.count, self.mean, self.squares = 0, np.zeros(size), np.zeros(size)
        self._shift, self._scale = np.zeros(size, np.float32), np.ones(size, np.float32)

    def __call__(self, observations: Floats) -> Floats:
        """Observations ``[..., D]`` as a network shall see them."""
        if not self.active or not self.count:
            return observations
        return np.clip((observations - self._shift) * self._scale, -self.clip, self.clip)

    def update(self, observations: NDArray[np.floating[Any]]) -> None:
        """Take in observations ``[..., D]``: call it between rollouts, never inside one."""
        if not self.active:
            return
        rows = observations.reshape(-1, observations.shape[-1]).astype(np.float64)
        mean, count = rows.mean(0), len(rows)
        delta, total = mean - self.mean, self.count + count
        self.squares += ((rows - mean) ** 2).sum(0) + delta**2 * (self.count * count / total)
        self.mean = self.mean + delta * (count / total)
        self.count = total
        self._settle()

    @property
    def deviation(self) -> NDArray[np.float64]:
        """Of each number so far, ``[D]``; never 0."""
        return np.asarray(np.sqrt(self.squares / max(self.count, 1) + 1e-8))

    def _settle(self) -> None:
        self._shift = self.mean.astype(np.float32)
        self._scale = (1 / self.deviation).astype(np.float32)

    def state(self) -> dict[str, Any]:
        """All of it, as JSON."""
        return {"count": self.count, "mean": self.mean.tolist(), "squares": self.squares.tolist()}

    def load(self, state: dict[str, Any]) -> None:
        """Take what ``state`` gave."""
        self.count = int(state["count"])
        self.mean, self.squares = np.array(state["mean"]), np.array(state["squares"])
        self._settle()

    def fade(self, most: int) -> None:
        """Let what was seen so far weigh as ``most`` observations at most, mean and deviation as they are: what comes
        next then counts."""
        if self.count > most:
            self.squares = self.squares * (most / self.count)
            self.count = most


class ReturnScale:
    """Divides rewards by the deviation of discounted returns so far (Engstrom et al. 2020, "Implementation matters in
    deep policy gradients", section 3), clipped; the identity if not ``active``. The value network then sees numbers of
    one size, whatever pays: a learned reward of deviation 1 a step has returns in the thousands over long horizons.
    """

    def __init__(self, count: int, gamma: float, active: bool, clip: float = 10.0) -> None:
        self.gamma, self.clip, self.statistics = gamma, clip, Normaliser(1, active)
        self.returns = np.zeros(count)

    def __call__(self, rewards: Floats, ends: NDArray[np.bool_]) -> Floats:
        """Rewards ``[T, N]`` of the steps that follow those before, in units of the deviation, these included;
        ``ends``: an episode's last steps."""
        if not self.statistics.active:
            return rewards
        found = np.empty(rewards.shape)
        for t in range(len(rewards)):
            self.returns = self.returns * self.gamma + rewards[t]
            found[t] = self.returns
            self.returns[ends[t]] = 0.0
        self.statistics.update(found[..., None])
        return np.clip(rewards / self.statistics.deviation, -self.clip, self.clip).astype(np.float32)

    def state(self) -> dict[str, Any]:
        """All of it, as JSON."""
        return {"returns": self.returns.tolist(), "statistics": self.statistics.state()}

    def load(self, state: dict[str, Any]) -> None:
        """Take what ``state`` gave."""
        self.returns = np.array(state["returns"])
        self.statistics.load(state["statistics"])
