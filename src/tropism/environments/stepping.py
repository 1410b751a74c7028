"""Many copies of one environment, stepped in a plain loop: on one core nothing is faster, and nothing is in between.

An episode's end is dealt with inside the step: ``Step`` has the true successors, ``observations`` what the environments
returned last (after a reset, the new episode's first). So there is no step that is none, nothing to mask, and no policy
acts on a stale observation. Steps are counted here, whoever asks for them.

A running episode is (reset seed, actions since): enough to be where it was after a kill, in any environment whose steps
depend on nothing else, which is checked when it is replayed.

Left out: environments in other processes (slower on few cores, and their crashes are harder to tell).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from tropism.environments.making import EnvironmentSpec, Made, make
from tropism.environments.states import get_state
from tropism.errors import ConfigError, ContractError
from tropism.runtime.seeding import derive

Floats = NDArray[np.float32]
Observations = NDArray[Any]
"""Rows ``[..., D]``: float32, or the bytes of pictures (uint8)."""


@dataclass(frozen=True)
class Step:
    """What N environments said to N actions: successors ``[N, D]``, true rewards, ends ``[N]``."""

    successors: Observations
    rewards: Floats
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]


@dataclass(frozen=True)
class Finished:
    """An episode that has ended: its true return and its length, in steps."""

    returned: float
    length: int


@dataclass(frozen=True)
class Episode:
    """Which episode: of the ``Environments`` of a seed, in which environment, the how-manieth there (from 1)."""

    seed: int
    environment: int
    number: int

    def reset_seed(self, restart: int = 0) -> int:
        """The seed of its reset, or of its restart after ``restart`` steps."""
        return derive(self.seed, "reset", self.environment, self.number, restart)


@dataclass(frozen=True)
class Place:
    """Where ``Environments`` stand: steps taken by all of them, and for each its episode and the actions it has taken
    there, ``[K, A]`` or numbers of categories ``[K]``."""

    steps: int
    episodes: list[Episode]
    played: list[Floats]


@dataclass
class _Running:
    """An episode that goes on; its actions as the policy numbers them, within the space's bounds."""

    actions: list[Any] = field(default_factory=list)
    returned: float = 0.0


class Environments:
    """``count`` environments. ``seed`` derives every reset's seed, by environment and episode.

    ``staggered``: where the horizon is fixed, the first episode of each is cut at another length, so that from then on
    steps taken together are of all phases of an episode; else everything that is learned from at once is of one phase.
    What such a first episode returns is not told (``finished``).
    """

    def __init__(
        self, spec: EnvironmentSpec, count: int, seed: int, record_states: bool = False, staggered: bool = False
    ) -> None:
        self.spec, self.count, self.seed, self.record_states = spec, count, seed, record_states
        if count < 1:
            raise ConfigError(f"{count} environments", "ask for one or more")
        self._made = made = [make(spec) for _ in range(count)]
        self._envs = [m.env for m in made]
        self._limit, self._restarts, self._penalty = made[0].steps, made[0].restarts, made[0].penalty
        self._staggered = staggered and made[0].restarts
        self.action_space: Any = self._envs[0].action_space
        self.observation_size, self.picture = made[0].observation_size, made[0].picture
        self.discrete = isinstance(self.action_space, spaces.Discrete)
        self.actions = int(self.action_space.n) if self.discrete else self.action_space.shape[0]
        self.steps = 0
        """Steps taken since the beginning, those of all environments together."""
        self.finished: list[Finished] = []
        self._kind = np.float32 if self.picture is None else np.uint8
        self.observations: Observations = np.zeros((count, self.observation_size), self._kind)
        self.states: list[Any] = [None] * count
        """Simulator states that belong to ``observations``, where they are recorded."""
        self.episodes = np.zeros(count, np.int64)
        """Episodes begun by each environment."""
        self._running: list[_Running] = []
        self._first = int(self.action_space.start) if self.discrete else 0
        if not self.discrete:
            self.low, self.high = (b.astype(np.float32) for b in (self.action_space.low, self.action_space.high))
        for i in range(count):
            self._running.append(_Running())
            self._begin(i)

    @property
    def horizon(self) -> int:
        """Steps after which an episode is cut; 0: never."""
        return self._limit

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Steps that each running episode has, ``[N]``."""
        return np.array([len(r.actions) for r in self._running])

    def step(self, actions: NDArray[Any]) -> Step:
        """Act in every environment: numbers of categories ``[N]``, or ``[N, A]``, clipped to the space's bounds."""
        successors = np.empty_like(self.observations)
        rewards = np.empty(self.count, np.float32)
        terminated, truncated = np.zeros(self.count, bool), np.zeros(self.count, bool)
        if not self.discrete:
            actions = np.minimum(np.maximum(actions, self.low), self.high)
        for i, env in enumerate(self._envs):
            running = self._running[i]
            action = int(actions[i]) if self.discrete else actions[i]
            seen, reward, ended, cut, _ = env.step(action + self._first if self.discrete else action)
            running.actions.append(action)
            length = len(running.actions)
            if self._restarts and (ended or cut):  # a fixed episode goes on from a new start; a failure is paid for
                reward, ended, cut = reward - self._penalty * ended, False, False
                seen, _ = env.reset(seed=self._episode(i).reset_seed(length))
            cut = cut or length == self._ends_at(i)
            successors[i] = np.asarray(seen, self._kind).reshape(-1)
            rewards[i] = reward
            running.returned += float(reward)
            terminated[i], truncated[i] = ended, cut and not ended
            if ended or cut:
                if self._ends_at(i) == self._limit:
                    self.finished.append(Finished(running.returned, length))
                self._begin(i)
            else:
                self.observations[i] = successors[i]
                if self.record_states:
                    self.states[i] = get_state(env)
        self.steps += self.count
        return Step(successors, rewards, terminated, truncated)

    def take_finished(self) -> list[Finished]:
        """Episodes that ended since the last call."""
        found, self.finished = self.finished, []
        return found

    def position(self) -> dict[str, Any]:
        """Where every environment is, as JSON: what ``restore`` needs."""
        running = [
            {"actions": [np.asarray(a).tolist() for a in r.actions], "returned": r.returned} for r in self._running
        ]
        finished = [[f.returned, f.length] for f in self.finished]
        return {
            "steps": self.steps,
            "episodes": self.episodes.tolist(),
            "running": running,
            "finished": finished,
            "observations": self._shown(),
        }

    def restore(self, position: dict[str, Any]) -> None:
        """Be where ``position`` was, by playing the running episodes again. Errors: ContractError if they went another
        way this time: then the environment depends on more than seed and actions."""
        self.finished = [Finished(*pair) for pair in position["finished"]]
        for i, (made, running) in enumerate(zip(self._made, position["running"], strict=True)):
            self.episodes[i] = position["episodes"][i]
            raw = running["actions"]
            actions = [int(a) for a in raw] if self.discrete else [np.asarray(a, np.float32) for a in raw]
            self._running[i] = _Running(actions, running["returned"])
            for seen in replay(made, self._episode(i), actions):
                self.observations[i] = seen
            if self.record_states:
                self.states[i] = get_state(made.env)
        self.steps = position["steps"]
        if self._shown() != position["observations"]:
            raise ContractError(
                f"environment {self.spec.id} went another way when its episodes were replayed",
                "an environment that is to be resumed must depend on its reset seed and its actions alone",
            )

    def close(self) -> None:
        """Close every environment."""
        for env in self._envs:
            env.close()

    def place(self) -> Place:
        """Where they stand now: with it, whatever is stepped next can be cut into segments that can be replayed."""
        shape = (-1,) if self.discrete else (-1, self.actions)
        played = [np.array(r.actions, np.float32).reshape(shape) for r in self._running]
        return Place(self.steps, [self._episode(i) for i in range(self.count)], played)

    def _shown(self) -> list[Any] | str:
        """The observations, as JSON: of pictures a digest."""
        if self.picture is None:
            return self.observations.tolist()
        return hashlib.sha256(self.observations.tobytes()).hexdigest()

    def _ends_at(self, i: int) -> int:
        """Steps after which environment ``i``'s episode is cut; 0: never."""
        if self._staggered and self.episodes[i] == 1:
            return math.ceil(self._limit * (i + 1) / self.count)
        return self._limit

    def _episode(self, i: int) -> Episode:
        return Episode(self.seed, i, int(self.episodes[i]))

    def _begin(self, i: int) -> None:
        """Start environment ``i``'s next episode."""
        self.episodes[i] += 1
        seen, _ = self._envs[i].reset(seed=self._episode(i).reset_seed())
        self._running[i] = _Running()
        self.observations[i] = np.asarray(seen, self._kind).reshape(-1)
        if not np.isfinite(self.observations[i]).all():
            raise ConfigError(f"{self.spec.id} begins with an observation that is not finite", "mend the environment")
        if self.record_states:
            self.states[i] = get_state(self._envs[i])


def replay(made: Made, episode: Episode, actions: Sequence[Any] | NDArray[Any]) -> Iterator[Observations]:
    """Play an episode again in ``made.env``: its first observation ``[D]``, then the one after each action. The
    environment stands at whatever was yielded last. Nothing is counted: these steps have been taken before."""
    env, space = made.env, made.env.action_space
    seen, _ = env.reset(seed=episode.reset_seed())
    yield made.row(seen)
    for length, raw in enumerate(actions, start=1):
        if isinstance(space, spaces.Discrete):
            action: Any = int(raw) + int(space.start)
        else:
            assert isinstance(space, spaces.Box)
            action = np.minimum(np.maximum(raw, space.low), space.high).astype(np.float32)
        seen, _, ended, cut, _ = env.step(action)
        if made.restarts and (ended or cut):
            seen, _ = env.reset(seed=episode.reset_seed(length))
        yield made.row(seen)
