"""Advantage actor-critic (Mnih et al. 2016, synchronous): one step along −A ∇ log π per short rollout.

That is PPO with one epoch of one mini-batch (Huang et al. 2022, "A2C is a special case of PPO"): the ratio is 1, so
the surrogate's gradient is −A ∇ log π, and nothing is clipped. So it is PPO's code that runs; a test holds it to the
loss as Mnih et al. write it. RMSprop is Adam without momentum (β₁ = 0), whose bias correction spares the first steps
RMSprop's tenfold size.

Left out: asynchronous actors, layers shared by actor and critic.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from pydantic import Field

from tropism.control.ppo import Adam, Ppo, PpoSettings
from tropism.control.rollouts import RewardFunction, Steps
from tropism.environments.stepping import Environments
from tropism.settings.sections import Section


class A2cSettings(Section):
    """``[a2c]`` of the control domain."""

    steps_per_environment: int = Field(5, ge=1)
    """Steps of each environment between two updates."""
    learning_rate: float = Field(7e-4, gt=0)
    learning_rate_end: float = Field(1.0, ge=0)
    """The rate at the end as a share of the rate at the start; in between it falls in a line."""
    gamma: float = Field(0.99, ge=0, le=1)
    gae_lambda: float = Field(1.0, ge=0, le=1)
    value_coef: float = Field(0.5, ge=0)
    entropy_coef: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(0.5, ge=0)
    rms_decay: float = Field(0.99, ge=0, lt=1)
    """What the mean of squared gradients keeps of itself in a step."""
    rms_eps: float = Field(1e-5, gt=0)
    normalise_observations: bool = False
    whiten: bool = False
    """Bring a rollout's advantages to mean 0 and deviation 1."""
    hidden: tuple[int, ...] = (64, 64)
    activation: Literal["tanh", "relu"] = "tanh"
    log_std: float = 0.0

    def as_ppo(self, environments: int) -> PpoSettings:
        """The same as settings of PPO."""
        same = self.model_dump(exclude={"rms_decay", "rms_eps", "whiten"})
        whole = {"epochs": 1, "batch_size": self.steps_per_environment * environments}
        return PpoSettings(**same, **whole, whiten="rollout" if self.whiten else "none")


class A2c(Ppo):
    """An agent that learns by A2C."""

    name = "a2c"
    settings_class: Any = A2cSettings

    def __init__(self, environments: Environments, settings: A2cSettings, seed: int) -> None:
        super().__init__(environments, settings.as_ppo(environments.count), seed)
        fresh = Adam.of(self.actor.params)
        self.adam = replace(fresh, beta1=0.0, beta2=settings.rms_decay, eps=settings.rms_eps)

    def advance(self, reward: RewardFunction | None, done: float) -> tuple[Steps, dict[str, float]]:
        """One rollout and one step; see ``Ppo.advance``."""
        steps, metrics = super().advance(reward, done)
        return steps, {name.replace("ppo/", "a2c/", 1): value for name, value in metrics.items()}
