"""The learned reward as a Gymnasium wrapper, for those who train with their own code: SB3, CleanRL, RLlib.

``LearnedRewardWrapper(env, reward)`` pays a reward that was learned from comparisons instead of the environment's own,
which goes to ``info["true_reward"]``. The reward is frozen, or read again between episodes when there is a new version.

Left out: relabelling what the other library keeps in its own buffers; with a reward that moves, prefer on-policy
methods, or begin a new buffer with each ``info["reward_version"]``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from tropism.control.rollouts import RewardFunction
from tropism.digests import digest
from tropism.errors import ConfigError, RewardError, TropismError

Loader = Callable[[Path], RewardFunction]
READS = 10
"""Attempts to read a folder that changes meanwhile."""


class LiveReward:
    """A reward that is read again when its folder has changed: whoever fits it moves a link to the next version (as a
    study does, its ``live/reward``), or replaces the folder by one rename."""

    def __init__(self, folder: Path, load: Loader) -> None:
        self.folder, self._load = Path(folder), load
        self._stamp, self._reward = self._read()
        self._reads = 1

    @property
    def version(self) -> int:
        """The reward's own number; of one that has none how many versions have been read."""
        return int(getattr(self._reward, "version", self._reads))

    def refresh(self) -> bool:
        """Read the folder again if it is another one by now; whether it was. Errors: ConfigError if it is not there,
        and the loader's own."""
        if _stamp(self._place()) == self._stamp:
            return False
        self._stamp, self._reward = self._read()
        self._reads += 1
        return True

    def __call__(self, observations: Any, actions: Any, successors: Any) -> Any:
        """The rewards of the version that was read last."""
        return self._reward(observations, actions, successors)

    def _read(self) -> tuple[str, RewardFunction]:
        """One version and its stamp: a link is followed once, and what has changed under the reading is read again.
        Errors: ConfigError for a folder that never stands still, and the loader's own."""
        for _ in range(READS):
            place = self._place()
            before = _stamp(place)
            try:
                reward = self._load(place)
            except (TropismError, OSError):
                if self._place() == place and _stamp(place) == before:
                    raise
                continue  # it was taken away while it was read
            if before and _stamp(place) == before:
                return before, reward
        raise ConfigError(
            f"the reward in {self.folder} changed while it was read, {READS} times in a row",
            "replace it by one rename, or move a link: do not write into the folder",
        )

    def _place(self) -> Path:
        """The folder itself. Errors: ConfigError where there is none with a file in it."""
        place = self.folder.resolve()
        if not _stamp(place):
            raise ConfigError(f"there is no reward in {self.folder}", "give the folder of a fitted reward")
        return place


def _stamp(folder: Path) -> str:
    """Changes with every file's name, place on the disk, size and time; empty where there is none."""
    try:
        stats = [(p.relative_to(folder).as_posix(), p.stat()) for p in sorted(folder.rglob("*")) if p.is_file()]
    except FileNotFoundError:
        return ""  # taken away at this moment
    return digest([[name, s.st_ino, s.st_size, s.st_mtime_ns] for name, s in stats]) if stats else ""


class LearnedRewardWrapper(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Pays ``reward`` in place of the environment's own.

    ``reward`` takes observations ``[M, D]``, actions ``[M, A]`` (numbers of categories ``[M]``, from 0) and successors
    ``[M, D]``, float32, and gives ``[M]``; here M is 1. A ``LiveReward`` is looked at again at every reset, never
    within an episode. ``info`` gets ``true_reward``, ``true_return`` (of the episode so far) and ``reward_version``,
    the reward's own ``version`` where it has one, else 1.

    The reward was learned on episodes of fixed length: pay it on such ones (``environments.fixed_horizon``).
    """

    def __init__(self, env: gymnasium.Env[Any, Any], reward: RewardFunction | LiveReward) -> None:
        super().__init__(env)
        self.reward = reward
        seen, acts = env.observation_space, env.action_space
        if not isinstance(seen, spaces.Box | spaces.Discrete):
            raise ConfigError(f"the observation space {seen} under a learned reward", "supported are Box and Discrete")
        if not isinstance(acts, spaces.Box | spaces.Discrete):
            raise ConfigError(f"the action space {acts} under a learned reward", "supported are Box and Discrete")
        self._seen: Any = None
        self._returned = 0.0

    @classmethod
    def from_folder(cls, env: gymnasium.Env[Any, Any], folder: Path, live: bool = False) -> LearnedRewardWrapper:
        """The reward of a folder that was fitted, frozen or ``live``. Errors: ConfigError or ModelError for a folder
        that holds none."""
        from tropism.control.reward_network import load_reward

        return cls(env, LiveReward(folder, load_reward) if live else load_reward(Path(folder)))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode, under the newest reward."""
        if isinstance(self.reward, LiveReward):
            self.reward.refresh()
        seen, info = self.env.reset(seed=seed, options=options)
        self._seen, self._returned = self._flat(seen), 0.0
        return seen, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Act, and be paid. Errors: RewardError for a reward that is no finite number."""
        seen, true, terminated, truncated, info = self.env.step(action)
        successor = self._flat(seen)
        paid = np.asarray(self.reward(self._seen, self._action(action), successor), np.float64)
        if paid.shape != (1,) or not np.isfinite(paid[0]):
            raise RewardError(
                f"the learned reward of one step is {paid.tolist()} of shape {paid.shape}",
                "it must give one finite number per step",
            )
        self._seen, self._returned = successor, self._returned + float(true)
        version = int(getattr(self.reward, "version", 1))
        more = {"true_reward": float(true), "true_return": self._returned, "reward_version": version}
        return seen, float(paid[0]), terminated, truncated, info | more

    def _flat(self, seen: Any) -> Any:
        """``[1, D]``, as ``Environments`` have it: categories one-hot."""
        return np.asarray(spaces.flatten(self.env.observation_space, seen), np.float32).reshape(1, -1)

    def _action(self, action: Any) -> Any:
        space = self.env.action_space
        if isinstance(space, spaces.Discrete):
            return np.array([int(action) - int(space.start)], np.float32)
        return np.asarray(action, np.float32).reshape(1, -1)
