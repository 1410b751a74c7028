"""Environments of pictures, small enough that agents learn them in seconds, registered once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from tropism.environments.making import EnvironmentSpec


class Dot(gymnasium.Env[np.ndarray, Any]):
    """A bright dot of two by two in a dark square, in a row drawn at reset (of ``rows``, or any); it is pushed left or
    right. In the upper half it shall go right, in the lower half left: a step pays how far it is, -1 to 0. So neither
    an action nor a side is good in itself. ``continuous``: pushed by a number."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 - Gymnasium's own form

    def __init__(
        self, continuous: bool = False, side: int = 12, rows: Sequence[int] = (), render_mode: str | None = None
    ) -> None:
        self.side, self.rows, self.render_mode = side, rows, render_mode
        self.observation_space = spaces.Box(0, 255, (side, side, 1), np.uint8)
        self.action_space: Any = spaces.Box(-1, 1, (1,), np.float32) if continuous else spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        rows = self.rows or range(self.side - 1)
        self.x, self.y = int(self.np_random.integers(self.side - 1)), int(self.np_random.choice(rows))
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        push = int(np.rint(action[0])) if isinstance(self.action_space, spaces.Box) else int(action) - 1
        self.x = int(np.clip(self.x + push, 0, self.side - 2))
        far = self.side - 2 - self.x if self.y < self.side // 2 else self.x
        return self._seen(), -far / (self.side - 2), False, False, {}

    def render(self) -> Any:
        """Each pixel four times four, in red."""
        grey = np.kron(self._seen()[..., 0], np.ones((4, 4), np.uint8))
        return np.stack([grey, 0 * grey, 0 * grey], 2)

    def _seen(self) -> np.ndarray:
        picture = np.zeros((self.side, self.side, 1), np.uint8)
        picture[self.y : self.y + 2, self.x : self.x + 2] = 255
        return picture


class HiddenDot(Dot):
    """The same, which observes nothing: who wants to see it must draw it."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode=render_mode)
        self.observation_space = spaces.Box(0, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.zeros(1, np.float32), *super().step(action)[1:]


class Flicker(Dot):
    """A picture of three colours that shows the dot, in red, in even steps only, and ends its episode after five. It
    cannot draw itself."""

    metadata = {"render_modes": []}  # noqa: RUF012 - Gymnasium's own form

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = spaces.Box(0, 255, (12, 12, 3), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.t = 0
        return super().reset(seed=seed)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        seen, *_ = super().step(action)
        return seen, 1.0, self.t == 5, False, {}

    def _seen(self) -> np.ndarray:
        return super()._seen() * np.array([1, 0, 0], np.uint8) * (self.t % 2 == 0)


class Shaped(Dot):
    """Pictures of any shape and type."""

    def __init__(self, shape: tuple[int, ...], dtype: str = "uint8", render_mode: str | None = None) -> None:
        super().__init__(render_mode=render_mode)
        self.observation_space = spaces.Box(0, 255, tuple(shape), np.dtype(dtype).type)


for name, entry in (("Dot-v0", Dot), ("HiddenDot-v0", HiddenDot), ("Flicker-v0", Flicker), ("Shaped-v0", Shaped)):
    if name not in gymnasium.registry:
        gymnasium.register(name, entry, max_episode_steps=20)

DOT = EnvironmentSpec("Dot-v0", horizon="fixed")
PUSHED_DOT = EnvironmentSpec("Dot-v0", {"continuous": True}, horizon="fixed")
SMALL_DOT = EnvironmentSpec("Dot-v0", {"side": 8, "rows": [1, 5]}, horizon="fixed")


def best(seen: np.ndarray) -> np.ndarray:
    """The best actions at rows of bytes ``[N, side · side]``."""
    side = round(np.sqrt(seen.shape[1]))
    top = seen.reshape(-1, side, side).any(2).argmax(1)
    return np.where(top < side // 2, 2.0, 0.0)
