"""Episodes that all last equally long, for whoever compares them, and as a Gymnasium environment for other libraries.

An episode that ends early tells how the agent does, whatever the reward says: to a teacher, and to a policy that is
paid for staying alive or for ending soon. So preferences are learned on a fixed horizon, as Christiano et al. 2017 did
(appendix A). ``Environments`` have it inside; ``FixedHorizon`` is the same for users of other libraries.
"""

from __future__ import annotations

from typing import Any

import gymnasium

from tropism.environments.making import EnvironmentSpec, Made, make
from tropism.errors import ConfigError


def require_fixed_horizon(spec: EnvironmentSpec) -> None:
    """Errors: ConfigError for an environment whose episodes may differ in length, where preferences are learned."""
    if spec.horizon != "fixed":
        raise ConfigError(
            f"{spec.id} has a variable horizon: an episode's length would tell the reward model how the agent does",
            'set environment.horizon = "fixed" (its episodes go on after a fall, or restart at environment.penalty)',
        )


class FixedHorizon(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment that is never terminated: what would end an episode restarts it, at a penalty, and every episode
    is truncated after the same number of steps.

    ``made``: what ``make`` gave for a spec whose horizon is fixed; ``open_environment`` does both. The restart's noise
    goes on from the reset's seed.
    """

    def __init__(self, made: Made) -> None:
        super().__init__(made.env)
        if not made.restarts:
            raise ConfigError(
                "an environment of variable horizon in FixedHorizon", 'make it of a spec with horizon="fixed"'
            )
        self._made, self._length = made, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        self._length = 0
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Act. The observation after a restart is the new start's, as within ``Environments``."""
        seen, reward, ended, cut, info = self.env.step(action)
        self._length += 1
        if ended or cut:
            reward = reward - self._made.penalty * bool(ended)
            seen, _ = self.env.reset()
        return seen, reward, False, self._length >= self._made.steps, info


def open_environment(spec: EnvironmentSpec) -> gymnasium.Env[Any, Any]:
    """One environment of a spec as any library takes it: with its time limit, or with a fixed horizon."""
    made = make(spec)
    if made.restarts:
        return FixedHorizon(made)
    return gymnasium.wrappers.TimeLimit(made.env, made.steps) if made.steps else made.env
