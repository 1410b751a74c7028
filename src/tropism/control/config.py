"""Every setting of the control domain. One section per algorithm; the one that ``[agent]`` names is used."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from tropism.control.ppo import PpoSettings
from tropism.control.preferences import Asking, PreferenceSection, RewardSection
from tropism.environments.making import EnvironmentSpec
from tropism.settings.sections import Section


class EnvironmentSection(Section):
    """``[environment]``: a Gymnasium id, and how it is run."""

    id: str = "CartPole-v1"
    arguments: dict[str, Any] = Field(default={})
    """Arguments of the environment's constructor."""
    count: int = Field(default=8, ge=1)
    """Copies that are stepped side by side."""
    horizon: Literal["fixed", "variable"] = "fixed"
    """``fixed``: every episode lasts equally long. A variable one tells the teacher who fell, and the reward learns
    that instead of the task."""
    steps: int = Field(default=0, ge=0)
    """Steps of an episode; 0: the environment's own limit."""
    penalty: float = 1.0
    """Taken from the true reward where a fixed episode would have ended and starts again instead."""

    def spec(self) -> EnvironmentSpec:
        """The environment alone."""
        return EnvironmentSpec(self.id, dict(self.arguments), self.horizon, self.steps, self.penalty)


class AgentSection(Section):
    """``[agent]``: who learns, and for how long."""

    algorithm: Literal["ppo"] = "ppo"
    steps: int = Field(default=200_000, ge=1)
    """Environment steps of a round, those of asking included."""


class EvaluationSection(Section):
    """``[evaluation]`` of the control domain."""

    episodes: int = Field(default=20, ge=2)
    tolerance: float = Field(default=0.05, ge=0)
    """How far the true return may fall, as a share of what was gained over random actions, before a round is rolled
    back."""


class AskedSection(BaseModel):
    """What of ``[feedback]`` concerns the domain."""

    kind: str = "comparison"
    queries_per_round: int = 700
    selection: str = "random"
    validation_fraction: float = 0.1

    def asking(self) -> Asking:
        """As the learner wants it."""
        return Asking(self.queries_per_round, self.kind, self.selection, self.validation_fraction)  # type: ignore[arg-type]


class ControlConfig(Section):
    """The domain's sections."""

    environment: EnvironmentSection = EnvironmentSection()
    agent: AgentSection = AgentSection()
    ppo: PpoSettings = PpoSettings()
    preferences: PreferenceSection = PreferenceSection()
    reward: RewardSection = RewardSection()
    evaluation: EvaluationSection = EvaluationSection()
    feedback: AskedSection = AskedSection()
