"""Many copies of one environment, stepped in a plain loop: on one core nothing is faster, and nothing is in between.

An episode's end is dealt with inside the step: ``Step`` has the true successors, ``observations`` what the environments
returned last (after a reset, the new episode's first). So there is no step that is none, nothing to mask, and no policy
acts on a stale observation. Steps are counted here, whoever asks for them.

A running episode is (reset seed, actions since): enough to be where it was after a kill, in any environment whose steps
depend on nothing else, which is checked when it is replayed.

Left out: environments in other processes (slower on few cores, and their crashes are harder to tell).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from tropism.environments.making import EnvironmentSpec, make
from tropism.environments.states import get_state
from tropism.errors import ConfigError, ContractError
from tropism.runtime.seeding import derive

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Step:
    """What N environments said to N actions: successors ``[N, D]``, true rewards, ends ``[N]``."""

    successors: Floats
    rewards: Floats
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]


@dataclass(frozen=True)
class Finished:
    """An episode that has ended: its true return and its length, in steps."""

    returned: float
    length: int


@dataclass
class _Running:
    """An episode that goes on."""

    seed: int
    actions: list[Any] = field(default_factory=list)
    returned: float = 0.0


class Environments:
    """``count`` environments. ``seed`` derives every reset's seed, by environment and episode."""

    def __init__(self, spec: EnvironmentSpec, count: int, seed: int, record_states: bool = False) -> None:
        self.spec, self.count, self.seed, self.record_states = spec, count, seed, record_states
        made = [make(spec) for _ in range(count)]
        self._envs = [m.env for m in made]
        self._limit, self._restarts, self._penalty = made[0].steps, made[0].restarts, made[0].penalty
        self.action_space: Any = self._envs[0].action_space
        self.observation_size = made[0].observation_size
        self.discrete = isinstance(self.action_space, spaces.Discrete)
        self.actions = int(self.action_space.n) if self.discrete else self.action_space.shape[0]
        self.steps = 0
        """Steps taken since the beginning, those of all environments together."""
        self.finished: list[Finished] = []
        self.observations = np.zeros((count, self.observation_size), np.float32)
        self.states: list[Any] = [None] * count
        """Simulator states that belong to ``observations``, where they are recorded."""
        self.episodes = np.zeros(count, np.int64)
        """Episodes begun by each environment."""
        self._running: list[_Running] = []
        self._first = int(self.action_space.start) if self.discrete else 0
        if not self.discrete:
            self.low, self.high = (b.astype(np.float32) for b in (self.action_space.low, self.action_space.high))
        for i in range(count):
            self._running.append(_Running(0))
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
            action = int(actions[i]) + self._first if self.discrete else actions[i]
            seen, reward, ended, cut, _ = env.step(action)
            running.actions.append(action)
            length = len(running.actions)
            if ended and self._restarts:  # a fixed episode goes on from a new start, and pays for it
                reward, ended = reward - self._penalty, False
                seen, _ = env.reset(seed=self._seed(i, length))
            cut = cut or length == self._limit
            successors[i] = np.asarray(seen, np.float32).reshape(-1)
            rewards[i] = reward
            running.returned += float(reward)
            terminated[i], truncated[i] = ended, cut and not ended
            if ended or cut:
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
        shown = self.observations.tolist()
        return {
            "steps": self.steps,
            "episodes": self.episodes.tolist(),
            "running": running,
            "finished": finished,
            "observations": shown,
        }

    def restore(self, position: dict[str, Any]) -> None:
        """Be where ``position`` was, by playing the running episodes again. Errors: ContractError if they went another
        way this time: then the environment depends on more than seed and actions."""
        self.finished = [Finished(*pair) for pair in position["finished"]]
        for i, (env, running) in enumerate(zip(self._envs, position["running"], strict=True)):
            self.episodes[i] = position["episodes"][i] - 1
            self._begin(i)
            now = self._running[i]
            seen: Any = self.observations[i]
            for raw in running["actions"]:
                action = int(raw) if self.discrete else np.asarray(raw, np.float32)
                seen, _, ended, _, _ = env.step(action)
                now.actions.append(action)
                if ended and self._restarts:
                    seen, _ = env.reset(seed=self._seed(i, len(now.actions)))
            now.returned = running["returned"]
            self.observations[i] = np.asarray(seen, np.float32).reshape(-1)
            if self.record_states:
                self.states[i] = get_state(env)
        self.steps = position["steps"]
        if not np.array_equal(self.observations, np.array(position["observations"], np.float32)):
            raise ContractError(
                f"environment {self.spec.id} went another way when its episodes were replayed",
                "an environment that is to be resumed must depend on its reset seed and its actions alone",
            )

    def close(self) -> None:
        """Close every environment."""
        for env in self._envs:
            env.close()

    def _seed(self, i: int, restart: int = 0) -> int:
        return derive(self.seed, "reset", i, int(self.episodes[i]), restart)

    def _begin(self, i: int) -> None:
        """Start environment ``i``'s next episode."""
        self.episodes[i] += 1
        seed = self._seed(i)
        seen, _ = self._envs[i].reset(seed=seed)
        self._running[i] = _Running(seed)
        self.observations[i] = np.asarray(seen, np.float32).reshape(-1)
        if not np.isfinite(self.observations[i]).all():
            raise ConfigError(f"{self.spec.id} begins with an observation that is not finite", "mend the environment")
        if self.record_states:
            self.states[i] = get_state(self._envs[i])


def episode_bounds(ends: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """[first, after last) of each episode's part in a column of ``T`` steps, ``ends`` ``[T]`` being true at last
    steps."""
    edges = [0, *(np.flatnonzero(ends) + 1).tolist()]
    if edges[-1] != len(ends):
        edges.append(len(ends))
    return list(pairwise(edges))


def check_actions(actions: Sequence[Any], space: spaces.Space[Any]) -> None:
    """ContractError where an action is not one of the space's."""
    for action in actions:
        if not space.contains(action):
            raise ContractError(f"action {action!r} lies outside {space}", "clip it, or choose another method")
