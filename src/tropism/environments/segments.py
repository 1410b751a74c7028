"""Segments of trajectories: what teachers compare and reward models are fitted on, cut so that none spans two episodes.

A segment can be seen again in one of two ways: from the simulator's states at its observations, where they were
recorded, or by playing its episode again, from the reset's seed and the actions since.

Left out: segments that begin in one chunk of steps and end in the next one.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tropism.environments.making import EnvironmentSpec
from tropism.environments.stepping import Episode, Floats, Observations, Place
from tropism.errors import ConfigError, DataError
from tropism.runtime.seeding import permutation

FORMAT = 1


class StepArrays(Protocol):
    """T steps of N environments, ``[T, N, …]``: what agents hand back (``control.rollouts.Steps``)."""

    observations: Observations
    actions: Floats
    successors: Observations
    rewards: Floats
    states: list[list[Any]] | None

    @property
    def ends(self) -> NDArray[np.bool_]:
        """``[T, N]``: the step was its episode's last."""
        ...


@dataclass(frozen=True)
class Segment:
    """L steps in a row of one episode, and all that is needed to see them again.

    ``states`` are the simulator's at ``observations``; without them, ``episode`` and ``played``, the actions from its
    reset to the segment's first observation, say the same.
    """

    environment: EnvironmentSpec
    observations: Observations
    """``[L, D]``"""
    actions: Floats
    """``[L, A]``, or numbers of categories ``[L]``"""
    successors: Observations
    """``[L, D]``"""
    rewards: Floats
    """True rewards ``[L]``: for scripted teachers and reports, never for a reward model."""
    states: NDArray[np.float64] | None
    """``[L, S]``"""
    played: Floats | None
    """``[start, A]`` or ``[start]``"""
    episode: Episode | None
    start: int
    """Steps of its episode that lie before it."""
    policy: str
    """Id of the policy that acted."""
    step: int
    """Environment steps that all environments together had taken before it."""

    def __post_init__(self) -> None:
        """Errors: DataError for arrays that do not belong together."""
        lengths: dict[str, NDArray[Any]] = {
            "observations": self.observations,
            "actions": self.actions,
            "successors": self.successors,
        }
        lengths |= {"rewards": self.rewards} | ({} if self.states is None else {"states": self.states})
        wrong = {name: array.shape for name, array in lengths.items() if len(array) != len(self.observations)}
        if wrong or not len(self.observations) or self.observations.shape != self.successors.shape:
            shapes = {name: array.shape for name, array in lengths.items()}
            raise DataError(f"a segment of {shapes}", "give as many of each as there are steps, one or more")
        if self.states is None and (self.episode is None or self.played is None or len(self.played) != self.start):
            given = "none" if self.played is None else len(self.played)
            raise DataError(
                f"a segment at step {self.start} of its episode without simulator states, and {given} actions before",
                "record states, or give all actions since the episode's reset",
            )

    def __len__(self) -> int:
        return len(self.observations)

    @property
    def returned(self) -> float:
        """The sum of its true rewards."""
        return float(self.rewards.sum(dtype=np.float64))

    def write(self, folder: Path) -> None:
        """Write it into an existing folder: equal segments give equal bytes. Errors: DataError for arguments of the
        environment that are not JSON."""
        from safetensors.numpy import save_file

        arrays = {
            "observations": self.observations, "actions": self.actions, "successors": self.successors,
            "rewards": self.rewards, "states": self.states, "played": self.played,
        }  # fmt: skip
        written = {
            "format": FORMAT, "environment": self.environment.as_json(),
            "episode": None if self.episode is None else asdict(self.episode), "start": self.start,
            "policy": self.policy, "step": self.step,
        }  # fmt: skip
        try:
            text = json.dumps(written, indent=1, sort_keys=True, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{self.environment.id} with {dict(self.environment.arguments)}: {error}",
                "give arguments that JSON can hold: numbers, texts, lists",
            ) from error
        save_file(
            {name: np.ascontiguousarray(array) for name, array in arrays.items() if array is not None},
            folder / "segment.safetensors",
        )
        (folder / "segment.json").write_text(text + "\n", "utf-8")

    @classmethod
    def read(cls, folder: Path) -> Segment:
        """Read what ``write`` wrote. Errors: DataError for a folder that is none."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            about = json.loads((folder / "segment.json").read_text("utf-8"))
            arrays = load_file(folder / "segment.safetensors")
            if about["format"] != FORMAT:
                raise DataError(f"{folder} holds a segment of format {about['format']}", "use a newer tropism")
            episode = Episode(**about["episode"]) if about["episode"] else None
            return cls(
                EnvironmentSpec(**about["environment"]),
                arrays["observations"], arrays["actions"], arrays["successors"], arrays["rewards"],
                arrays.get("states"), arrays.get("played"),
                episode, about["start"], about["policy"], about["step"],
            )  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise DataError(f"{folder} is no segment: {error!r}", "give a folder that Segment.write wrote") from error


@dataclass(frozen=True)
class Chunk:
    """Steps that an agent has just taken, with where its environments stood before (``Environments.place()``)."""

    environment: EnvironmentSpec
    steps: StepArrays
    before: Place
    policy: str

    def places(self, length: int) -> NDArray[np.int64]:
        """Every ``(t, n)`` at which a segment of ``length`` steps can begin, ``[K, 2]``."""
        return places(self.steps.ends, length)

    def cut(self, t: int, n: int, length: int) -> Segment:
        """The segment of ``length`` steps that begins at step ``t`` of environment ``n``. Errors: DataError where it
        would span two episodes or leave the chunk."""
        s = self.steps
        column, rows = s.ends[:, n], slice(t, t + length)
        if not 0 <= t <= len(column) - length or column[t : t + length - 1].any():
            raise DataError(
                f"a segment of {length} steps at step {t} of environment {n} spans two episodes or leaves the chunk",
                "cut at one of places(length)",
            )
        begun = np.flatnonzero(column[:t])
        episode = self.before.episodes[n]
        episode = Episode(episode.seed, episode.environment, episode.number + len(begun))
        since = int(begun[-1]) + 1 if len(begun) else 0
        earlier = self.before.played[n] if not len(begun) else s.actions[:0, n]
        played = np.concatenate([earlier, s.actions[since:t, n]])
        states = None
        if s.states is not None and s.states[t][n] is not None:  # not every simulator has any
            states = np.stack([s.states[i][n] for i in range(t, t + length)])
        return Segment(
            self.environment,
            s.observations[rows, n].copy(), s.actions[rows, n].copy(),
            s.successors[rows, n].copy(), s.rewards[rows, n].copy(),
            states, played if states is None else None,
            episode, len(played), self.policy, self.before.steps + t * s.ends.shape[1],
        )  # fmt: skip


def places(ends: NDArray[np.bool_], length: int) -> NDArray[np.int64]:
    """Every ``(t, n)``, ``[K, 2]``, at which ``length`` steps in a row belong to one episode: of ``ends`` ``[T, N]``
    only the last of them may be true."""
    if length < 1:
        raise ConfigError(f"segments of {length} steps", "give one step or more")
    before = np.concatenate([np.zeros_like(ends[:1], np.int64), np.cumsum(ends, 0)])  # ends among the first t steps
    starts = np.arange(max(len(ends) - length + 1, 0))
    return np.argwhere(before[starts + length - 1] == before[starts])


def draw(found: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """``count`` different ones of ``places``, ``[count, 2]``, at random. Errors: ConfigError where there are fewer."""
    if len(found) < count:
        raise ConfigError(
            f"{count} segments are asked for, and there are {len(found)} places for one",
            "take shorter segments, longer episodes or more steps before asking",
        )
    return found[permutation(len(found), seed, 0)[:count]]


def check_length(length: int, horizon: int) -> None:
    """Errors: ConfigError for segments that no episode of ``horizon`` steps can hold (0: it has no limit)."""
    if length < 1 or 0 < horizon < length:
        raise ConfigError(
            f"segments of {length} steps in episodes of {horizon or 'any number of'} steps",
            f"set segments of {f'1 to {horizon}' if horizon else 'one or more'} steps",
        )
