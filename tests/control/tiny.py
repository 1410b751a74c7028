"""Environments small enough that agents learn them in a second."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from tropism.environments.making import EnvironmentSpec


class Reach(gymnasium.Env[np.ndarray, np.ndarray]):
    """A point on a line, pushed left or right: the nearer to 0.5, the better. Episodes never end by themselves."""

    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.x = float(self.np_random.uniform(-1, 1))
        return self._seen(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.x = float(np.clip(self.x + 0.2 * float(action[0]), -1, 1))
        return self._seen(), -abs(self.x - 0.5), False, False, {}

    def _seen(self) -> np.ndarray:
        return np.array([self.x, 1.0], np.float32)


class Falls(Reach):
    """The same, but it ends at the left edge."""

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        seen, reward, _, cut, info = super().step(action)
        return seen, reward, self.x <= -1, cut, info


class Corridor(Reach):
    """A long one, begun in the middle: aimless steps hardly get anywhere."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.x = 0.0
        return self._seen(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        return super().step(0.25 * action)


for name, entry in (("TropismReach-v0", Reach), ("TropismFalls-v0", Falls), ("TropismCorridor-v0", Corridor)):
    if name not in gymnasium.registry:
        gymnasium.register(name, entry, max_episode_steps=25)

CORRIDOR = EnvironmentSpec("TropismCorridor-v0", horizon="fixed")
REACH = EnvironmentSpec("TropismReach-v0", horizon="fixed")
FALLS = EnvironmentSpec("TropismFalls-v0", horizon="fixed")
