"""Pictures as observations: those that an environment gives, or has drawn of itself, sized, grey if wanted, stacked.

A picture is bytes ``[H, W, C]``, channels last; ``Environments`` hand it on as a row of H·W·C bytes. A single picture
shows no speed, so the latest few are stacked in the channels, the newest last (Mnih et al. 2015, methods).

Left out: crops, an episode's end at a lost life, sticky actions: wrap the environment, or give ALE's own arguments.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from pydantic import Field

from tropism.environments.states import is_mujoco
from tropism.errors import ConfigError
from tropism.settings.sections import Section

Bytes = NDArray[np.uint8]
Picture = tuple[int, int, int]
"""Height, width, channels."""
SMALLEST = 8
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""What red, green and blue count in grey (ITU-R BT.601)."""
THUMBNAIL = 8
ROWS = 256
"""Pictures that are made into numbers at once."""


class Pixels(Section):
    """``[environment.pixels]``: pictures in place of whatever the environment observes; those of its own where it
    observes pictures, else what it draws."""

    size: int = Field(default=84, ge=SMALLEST, le=512)
    """Height and width, in pixels; proportions are not kept."""
    grey: bool = True
    stack: int = Field(default=4, ge=1)
    """Latest pictures that are seen together."""
    skip: int = Field(default=1, ge=1)
    """Steps of the environment in a step of the agent, which repeats its action; rewards are summed."""


def picture_of(space: spaces.Space[Any]) -> Picture | None:
    """Height, width and channels of a space of pictures; None for any other."""
    if not isinstance(space, spaces.Box) or len(space.shape) != 3 or space.dtype != np.uint8:
        return None
    height, width, channels = space.shape
    return height, width, channels


def check_picture(id_: str, picture: Picture) -> None:
    """Errors: ConfigError for pictures that are too small, or have their channels first."""
    height, width, channels = picture
    if width == channels != height:
        raise ConfigError(
            f"{id_} has pictures of {picture}: channels first",
            "put channels last, [height, width, channels]: gymnasium.wrappers.TransformObservation",
        )
    if min(height, width) < SMALLEST:
        raise ConfigError(
            f"{id_} has pictures of {height} x {width}",
            f"give {SMALLEST} pixels or more a side, or make numbers of them: gymnasium.wrappers.FlattenObservation",
        )


class FromPixels(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment that observes pictures ``[size, size, C · stack]``. The first one of an episode fills the stack.

    Of the environment's own pictures the brighter of the last two is taken for each pixel where steps are skipped:
    some consoles draw every other sprite in turn (Mnih et al. 2015, methods).
    """

    def __init__(self, env: gymnasium.Env[Any, Any], pixels: Pixels, id_: str) -> None:
        super().__init__(env)
        self.pixels, self._id = pixels, id_
        own = picture_of(env.observation_space)
        if own is not None:
            check_picture(id_, own)
        self._own = own is not None
        self._close: Callable[[], None] | None = None
        self._frames: deque[Bytes] = deque(maxlen=pixels.stack)
        self._scale: dict[int, NDArray[np.float32]] = {}
        seen, _ = env.reset(seed=0)  # only what is somewhere can be drawn, and a camera is put up by what it sees
        self._draw = None if self._own else self._drawing()
        channels = self._look(seen).shape[2]
        size = pixels.size
        self.observation_space = spaces.Box(0, 255, (size, size, channels * pixels.stack), np.uint8)
        rate = float(env.metadata.get("render_fps") or 30)
        self.metadata = dict(env.metadata) | {"render_fps": rate / pixels.skip}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        seen, info = self.env.reset(seed=seed, options=options)
        self._frames.extend([self._look(seen)] * self.pixels.stack)
        return self._stacked(), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Act ``skip`` times, or until the episode ends."""
        total = 0.0
        before: Any = None
        seen: Any = None
        for _ in range(self.pixels.skip):
            before = seen
            seen, reward, ended, cut, info = self.env.step(action)
            total += float(reward)
            if ended or cut:
                break
        if self._own and before is not None:
            seen = np.maximum(before, seen)
        self._frames.append(self._look(seen))
        return self._stacked(), total, ended, cut, info

    def close(self) -> None:
        """Give back what draws, too."""
        if self._close is not None:
            self._close()
        super().close()

    def _stacked(self) -> Bytes:
        return np.concatenate(self._frames, axis=2)

    def _look(self, seen: Any) -> Bytes:
        """One picture as the agent sees it, ``[size, size, C]``."""
        raw = seen if self._draw is None else self._draw()
        if not (isinstance(raw, np.ndarray) and raw.ndim == 3 and raw.dtype == np.uint8):
            what = f"{raw.dtype} {raw.shape}" if isinstance(raw, np.ndarray) else f"{raw!r:.60}"
            raise ConfigError(f"{self._id} drew {what}", "its rgb_array must be bytes [height, width, 3]")
        grey = self.pixels.grey and raw.shape[2] == 3
        planes: Any = (raw @ LUMA)[None] if grey else raw.transpose(2, 0, 1).astype(np.float32)
        if planes.shape[1:] != (self.pixels.size, self.pixels.size):
            planes = self._to_size(planes.shape[1]) @ planes @ self._to_size(planes.shape[2]).T
        return np.rint(planes).astype(np.uint8).transpose(1, 2, 0)

    def _to_size(self, length: int) -> NDArray[np.float32]:
        if length not in self._scale:
            self._scale[length] = averaging(length, self.pixels.size)
        return self._scale[length]

    def _drawing(self) -> Callable[[], Any]:
        """What draws the environment as it stands: for MuJoCo what draws its clips, which is many times faster than
        its own in software, and lets several of them draw in one process."""
        if not is_mujoco(self.env.unwrapped):
            if self.env.render_mode != "rgb_array":
                raise ConfigError(
                    f"{self._id} observes no pictures and cannot draw itself", "give it the render mode rgb_array"
                )
            return self._render
        from tropism.environments.rendering import MujocoCanvas, View

        side = max(16, self.pixels.size + self.pixels.size % 2)
        canvas = MujocoCanvas(self.env, self._id, View(side, side))
        self._close = canvas.close
        return canvas.draw

    def _render(self) -> Any:
        try:
            return self.env.render()
        except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
            from tropism.environments.making import missing_package

            raise missing_package(self._id, error) from error


def averaging(length: int, size: int) -> NDArray[np.float32]:
    """Weights ``[size, length]`` that make ``size`` pixels of ``length``: means over the stretch that each covers, in
    which a thin line grows faint but never vanishes."""
    edges = np.arange(size + 1) * (length / size)
    pixel = np.arange(length)
    low, high = np.maximum(edges[:-1, None], pixel), np.minimum(edges[1:, None], pixel + 1)
    return (np.clip(high - low, 0, None) * (size / length)).astype(np.float32)


def numbers_size(size: int, picture: Picture | None) -> int:
    """How many numbers ``numbers`` makes of an observation of ``size``."""
    if picture is None:
        return size
    return min(THUMBNAIL, picture[0]) * min(THUMBNAIL, picture[1]) * picture[2]


def numbers(rows: NDArray[Any], picture: Picture | None) -> NDArray[np.float32]:
    """Observations ``[..., D]`` as numbers between which distances can be taken: pictures as thumbnails, 0 to 1; any
    other as they are."""
    if picture is None:
        return rows
    height, width, channels = picture
    down, across = averaging(height, min(THUMBNAIL, height)), averaging(width, min(THUMBNAIL, width))
    flat = rows.reshape(-1, height, width, channels)
    made = np.empty((len(flat), numbers_size(math.prod(picture), picture)), np.float32)
    for start in range(0, len(flat), ROWS):
        planes = flat[start : start + ROWS].transpose(0, 3, 1, 2).astype(np.float32) / 255
        made[start : start + ROWS] = (down @ planes @ across.T).reshape(len(planes), -1)
    return made.reshape(*rows.shape[:-1], -1)
