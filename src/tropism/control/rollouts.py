"""Steps of a policy in N environments, as arrays whose rewards may be paid later by a learned reward.

Left out: recurrent policies, whose hidden state would have to be stored along.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tropism.control.networks import ActorCritic, Floats
from tropism.environments.normalising import Normaliser
from tropism.environments.stepping import Environments, Observations

RewardFunction = Callable[[Floats, Floats, Floats], Floats]
"""(observations [M, D], actions [M, A], successors [M, D]) -> rewards [M]; None anywhere means the true reward."""


@dataclass
class Steps:
    """T steps of N environments, ``[T, N]`` of everything; ``successors`` are the true ones, never another episode's
    first observation."""

    observations: Observations
    """``[T, N, D]``, as the environment gave them: pictures are bytes."""
    actions: Floats
    """``[T, N, A]``, or ``[T, N]`` numbers of categories, as the policy chose them (not clipped)."""
    successors: Observations
    rewards: Floats
    """True rewards."""
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    states: list[list[Any]] | None
    """Simulator states of ``observations`` ``[T][N]``, where they are recorded."""

    @classmethod
    def room(cls, environments: Environments, steps: int) -> Steps:
        """Empty arrays for ``steps`` steps of all environments."""
        kind, (n, d) = environments.observations.dtype, environments.observations.shape
        acted = (steps, n) if environments.discrete else (steps, n, environments.actions)
        return cls(
            np.empty((steps, n, d), kind), np.empty(acted, np.float32), np.empty((steps, n, d), kind),
            np.empty((steps, n), np.float32), np.zeros((steps, n), bool), np.zeros((steps, n), bool),
            [] if environments.record_states else None,
        )  # fmt: skip

    def take(self, t: int, environments: Environments, actions: Floats) -> None:
        """Act in all environments and keep what they say as step ``t``."""
        self.observations[t] = environments.observations
        if self.states is not None:
            self.states.append(list(environments.states))
        self.actions[t] = actions
        step = environments.step(actions)
        self.successors[t], self.rewards[t] = step.successors, step.rewards
        self.terminated[t], self.truncated[t] = step.terminated, step.truncated

    @property
    def ends(self) -> NDArray[np.bool_]:
        """``[T, N]``: the step was its episode's last."""
        return self.terminated | self.truncated

    def flat(self, name: str) -> Floats:
        """One of the arrays with time and environments joined, ``[T·N, …]``."""
        array: Floats = getattr(self, name)
        return array.reshape(-1, *array.shape[2:])

    def paid(self, reward: RewardFunction | None) -> Floats:
        """Rewards ``[T, N]``: true ones, or those of a learned reward."""
        if reward is None:
            return self.rewards
        found = reward(self.flat("observations"), self.flat("actions"), self.flat("successors"))
        return np.ascontiguousarray(found, np.float32).reshape(self.rewards.shape)


@dataclass
class Rollout:
    """Steps with what the policy that took them said of them, all ``[T, N]``; ``inputs`` and ``successor_inputs`` are
    observations as the networks see them (normalised, or the very same)."""

    steps: Steps
    inputs: Observations
    successor_inputs: Observations
    logprobs: Floats
    values: Floats


def collect(policy: ActorCritic, environments: Environments, steps: int, seed: int, normaliser: Normaliser) -> Rollout:
    """``steps`` steps of every environment. The noise is a function of ``seed`` alone."""
    made, n = Steps.room(environments, steps), environments.count
    noise = policy.noise(seed, (steps, n))
    inputs = np.empty_like(made.observations)
    logprobs, values = np.empty((steps, n), np.float32), np.empty((steps, n), np.float32)
    for t in range(steps):
        inputs[t] = normaliser(environments.observations)
        actions, logprobs[t], values[t] = policy.act(inputs[t], noise[t])
        made.take(t, environments, actions)
    return Rollout(made, inputs, normaliser(made.successors), logprobs, values)


def advantages(
    policy: ActorCritic, rollout: Rollout, rewards: Floats, gamma: float, lam: float
) -> tuple[Floats, Floats]:
    """GAE advantages and returns ``[T, N]``: a termination ends the return, a truncation (and the rollout's own end)
    bootstraps with the value of the true successor."""
    steps = rollout.steps
    bootstrap = np.zeros(rewards.shape, np.float32)
    last = steps.truncated.copy()
    last[-1] |= ~steps.terminated[-1]
    if last.any():
        bootstrap[last] = policy.values(rollout.successor_inputs[last])
    return gae_of_columns(rewards, rollout.values, steps.ends, bootstrap, gamma, lam)


def gae_of_columns(
    rewards: Floats, values: Floats, ends: NDArray[np.bool_], bootstrap: Floats, gamma: float, lam: float
) -> tuple[Floats, Floats]:
    """``objectives.advantages.gae`` for columns of several episodes ``[T, N]``: the same recursion, whose carry is cut
    at ``ends``; ``bootstrap`` ``[T, N]`` is the value after a last step (0 where the episode terminated)."""
    following = np.empty_like(values)
    following[:-1] = np.where(ends[:-1], bootstrap[:-1], values[1:])
    following[-1] = bootstrap[-1]
    delta = rewards + np.float32(gamma) * following - values
    keep = np.where(ends, 0, np.float32(gamma * lam)).astype(np.float32)
    found, carry = np.empty_like(delta), np.zeros(delta.shape[1], np.float32)
    for t in range(len(delta) - 1, -1, -1):
        carry = delta[t] + keep[t] * carry
        found[t] = carry
    return found, found + values
