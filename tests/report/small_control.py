"""A control study that is done in seconds, in an environment that draws itself without a library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from tropism.study.study import Study

STEPS = 20


class Slide(gymnasium.Env[Any, Any]):
    """A point on a line, pushed left or right: the nearer to 0.5, the better. It is drawn as a bright column."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 - Gymnasium's own form
    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, render_mode: str | None = None, blind_after: int = 10_000, breaks: bool = False) -> None:
        self.render_mode, self.blind_after, self.breaks = render_mode, blind_after, breaks
        self.drawn = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.x = float(self.np_random.uniform(-1, 1))
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.x = float(np.clip(self.x + 0.2 * float(action[0]), -1, 1))
        return self._seen(), -abs(self.x - 0.5), False, False, {}

    def render(self) -> Any:
        self.drawn += 1
        if self.drawn > self.blind_after:
            if self.breaks:
                raise KeyError("a screen")
            return None
        picture = np.full((32, 64, 3), 30, np.uint8)
        at = int((self.x + 1) * 30)
        picture[:, at : at + 4] = 230
        return picture

    def _seen(self) -> Any:
        return np.array([self.x, 1.0], np.float32)


class Unseen(Slide):
    """The same, and it cannot draw itself."""

    metadata = {"render_modes": []}  # noqa: RUF012


for name, entry in (("TropismSlide-v0", Slide), ("TropismUnseen-v0", Unseen)):
    if name not in gymnasium.registry:
        gymnasium.register(name, entry, max_episode_steps=STEPS)

SMALL: dict[str, Any] = {
    "study.domain": "control",
    "study.name": "slide",
    "study.rounds": 2,
    "environment.id": "TropismSlide-v0",
    "feedback.queries_per_round": 40,
    "preferences.segment_length": 5,
    "preferences.sessions": 2,
    "reward.fit_steps": 60,
    "reward.fit_steps_again": 20,
    "agent.steps": 18_000,
    "ppo.steps_per_environment": 64,
    "ppo.gamma": 0.9,
    "ppo.learning_rate": 1e-3,
    "ppo.hidden": [32],
    "evaluation.episodes": 6,
    "evaluation.clips": 1,
    "runtime.threads": 1,
}


def run(folder: Path, **more: Any) -> Study:
    """A finished study; settings' dots are written as two underscores."""
    made = Study.create(folder, overrides={**SMALL, **{k.replace("__", "."): v for k, v in more.items()}})
    made.run()
    return made
