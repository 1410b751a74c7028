"""What a policy is worth: true returns of whole episodes, by the mode of its actions.

Left out: win rates of people over clips (``evaluation/winrate.py`` has the arithmetic, the studio the people).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tropism.control.agent import Actor
from tropism.control.rollouts import RewardFunction
from tropism.environments.making import EnvironmentSpec
from tropism.environments.stepping import Environments
from tropism.errors import ConfigError
from tropism.runtime.seeding import derive

ENDLESS = 1_000_000
"""Steps after which an evaluation gives up waiting for episodes to end."""


@dataclass(frozen=True)
class Returns:
    """True returns and lengths of E episodes, in the order of their reset seeds."""

    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]
    learned: NDArray[np.float64]
    """What a learned reward pays for the same episodes; 0 where none was given."""

    @property
    def mean(self) -> float:
        """Mean true return."""
        return float(self.returns.mean())


def evaluate(
    actor: Actor,
    spec: EnvironmentSpec,
    episodes: int,
    seed: int,
    sample: bool = False,
    reward: RewardFunction | None = None,
) -> Returns:
    """Play ``episodes`` whole episodes; equal seeds give equal starts, whatever the policy. ``sample``: draw actions
    instead of taking the mode. ``reward``: a learned one, whose returns are counted, too. Errors: ConfigError where
    episodes do not end."""
    environments = starts(spec, episodes, seed)
    quota = [len(range(i, episodes, environments.count)) for i in range(environments.count)]
    results: list[list[tuple[float, int, float]]] = [[] for _ in quota]
    paid = np.zeros(environments.count)
    step = 0
    while any(len(r) < q for r, q in zip(results, quota, strict=True)):
        drawn = derive(seed, "sample", step) if sample else None
        seen, acted = environments.observations.copy(), actor.act(environments.observations, drawn)
        taken = environments.step(acted)
        if reward is not None:
            paid += reward(seen, acted, taken.successors)
        ended = np.flatnonzero(taken.terminated | taken.truncated)
        for i, finished in zip(ended, environments.take_finished(), strict=True):
            results[i].append((finished.returned, finished.length, float(paid[i])))
            paid[i] = 0.0
        step += 1
        if environments.steps > ENDLESS * environments.count:
            raise ConfigError(f"episodes of {spec.id} do not end", "set environment.steps")
    environments.close()
    found = [results[i % environments.count][i // environments.count] for i in range(episodes)]
    returned, lengths, learned = (np.array(column) for column in zip(*found, strict=True))
    return Returns(returned, lengths, learned)


def starts(spec: EnvironmentSpec, episodes: int, seed: int, record_states: bool = False) -> Environments:
    """The environments in which ``evaluate`` plays: at most ten side by side, at the starts that ``seed`` gives."""
    return Environments(spec, min(episodes, 10), derive(seed, "evaluate"), record_states)


def random_returns(spec: EnvironmentSpec, episodes: int, seed: int, reward: RewardFunction | None = None) -> Returns:
    """The same for actions drawn evenly from the action space: what a return is measured from."""
    return evaluate(_Random(spec), spec, episodes, seed, sample=True, reward=reward)


class _Random:
    """Actions drawn evenly."""

    def __init__(self, spec: EnvironmentSpec) -> None:
        one = Environments(spec, 1, 0)
        self.discrete, self.actions = one.discrete, one.actions
        if not one.discrete:
            self.low, self.high = one.low, one.high
        one.close()

    def act(self, observations: NDArray[np.float32], seed: int | None = None) -> NDArray[np.float32]:
        """See ``Actor``; needs a seed."""
        if seed is None:
            raise ConfigError("a random policy has no mode", "sample its actions")
        stream = np.random.Generator(np.random.Philox(seed))
        if self.discrete:
            return stream.integers(self.actions, size=len(observations)).astype(np.float32)
        return stream.uniform(self.low, self.high, (len(observations), self.actions)).astype(np.float32)
