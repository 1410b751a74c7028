"""Hand-made environments whose every step is known, registered once: what the others are tested against."""

from __future__ import annotations

import itertools
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

_world = itertools.count()


class Tiny(gymnasium.Env[Any, Any]):
    """Observes [a number drawn at reset, steps since, the last action]; step t pays t. It terminates after ``end``
    steps or truncates itself after ``cut`` (0: never). ``hidden``: its numbers come from outside, whatever the seed."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 - Gymnasium's own form

    def __init__(
        self,
        end: int = 0,
        cut: int = 0,
        space: spaces.Space[Any] | None = None,
        hidden: bool = False,
        render_mode: str | None = None,
    ) -> None:
        self.end, self.cut, self.hidden, self.render_mode = end, cut, hidden, render_mode
        self.action_space = space or spaces.Box(-1, 1, (1,), np.float32)
        self.observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.received: list[Any] = []
        self.seeds: list[int | None] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.seeds.append(seed)
        self.tag = float(next(_world)) if self.hidden else float(self.np_random.random())
        self.t, self.last = 0, 0.0
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.received.append(action)
        self.t, self.last = self.t + 1, float(np.asarray(action).reshape(-1)[0])
        return self._seen(), float(self.t), self.t == self.end, self.t == self.cut, {}

    def render(self) -> Any:
        """40 x 20: grey by the step, one bright row."""
        picture = np.full((20, 40, 3), 10 * self.t, np.uint8)
        picture[0] = 255
        return picture

    def _seen(self) -> Any:
        return np.array([self.tag, self.t, self.last], np.float32)


class Categories(Tiny):
    """The same, observed as one of 4 categories, acting by 5, 6 or 7."""

    def __init__(self) -> None:
        super().__init__(space=spaces.Discrete(3, start=5))
        self.observation_space = spaces.Discrete(4)

    def _seen(self) -> Any:
        return self.t % 4


class Odd(Tiny):
    """Spaces that are not supported, by name."""

    def __init__(self, odd: str, render_mode: str | None = None) -> None:
        super().__init__(render_mode=render_mode)
        if odd == "unbounded":
            self.action_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        elif odd == "tuple":
            self.action_space = spaces.Tuple((spaces.Discrete(2), spaces.Discrete(2)))
        elif odd == "dictionary":
            self.observation_space = spaces.Dict({"a": spaces.Discrete(2)})  # type: ignore[assignment]
        elif odd == "picture":
            self.observation_space = spaces.Box(0, 255, (8, 8, 3), np.float32)


class Sick(Tiny):
    """Begins with NaN."""

    def _seen(self) -> Any:
        return np.array([np.nan, 0, 0], np.float32)


class Blind(Tiny):
    """Draws nothing."""

    metadata = {"render_modes": []}  # noqa: RUF012 - Gymnasium's own form


def needs_a_module() -> gymnasium.Env[Any, Any]:
    """An environment whose simulator is not installed."""
    import a_simulator_that_is_not_there  # type: ignore[import-not-found]

    return a_simulator_that_is_not_there.make()  # type: ignore[no-any-return]


for name, entry, steps in (
    ("Tiny-v0", Tiny, 10),
    ("TinyEndless-v0", Tiny, None),
    ("Categories-v0", Categories, 10),
    ("Odd-v0", Odd, 10),
    ("Sick-v0", Sick, 10),
    ("Blind-v0", Blind, 10),
    ("Absent-v0", needs_a_module, 10),
):
    if name not in gymnasium.registry:
        gymnasium.register(name, entry, max_episode_steps=steps)
