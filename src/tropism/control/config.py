"""Every setting of the control domain. One section per algorithm; the one that ``[agent]`` names is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from tropism.control.a2c import A2cSettings
from tropism.control.agent import Agent
from tropism.control.algorithms import make_agent
from tropism.control.behaviour_cloning import CloningSettings
from tropism.control.dqn import DqnSettings
from tropism.control.fit_reward import RewardSection
from tropism.control.policy import load_policy, started
from tropism.control.ppo import PpoSettings
from tropism.control.preferences import Asking, PreferenceSection
from tropism.control.reinforce import ReinforceSettings
from tropism.control.sac import SacSettings
from tropism.environments.images import Pixels
from tropism.environments.making import EnvironmentSpec
from tropism.environments.stepping import Environments
from tropism.errors import ConfigError
from tropism.runtime.seeding import derive
from tropism.settings.functions import function_digest
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
    staggered: bool = True
    """Cut the copies' first episodes at lengths of their own, so that what is learned from at once is of all phases of
    an episode; of a fixed horizon alone."""

    reward: str = ""
    """A Python function that says what is wanted, not the environment's own reward: ``file.py:name``, called with
    (the bare environment after the step, action, observation). In a study oracles judge by it and agents never see it;
    ``tropism control train`` pays it."""
    wrapper: str = ""
    """A ``gymnasium.Wrapper`` around the environment, ``file.py:Class``, which takes the environment alone: to observe
    more than it shows, for instance."""
    pixels: Pixels | None = None
    """Observe pictures, ``{size = 84, grey = true, stack = 4, skip = 1}``: the environment's own, or drawn."""

    def spec(self) -> EnvironmentSpec:
        """The environment alone."""
        pixels = None if self.pixels is None else self.pixels.model_dump()
        return EnvironmentSpec(
            self.id, dict(self.arguments), self.horizon, self.steps, self.penalty, self.reward, pixels, self.wrapper
        )

    def code_digests(self) -> dict[str, str]:
        """Digests of the user's code that every step is played by."""
        named = {"environment.reward": self.reward, "environment.wrapper": self.wrapper}
        return {name: function_digest(reference) for name, reference in named.items() if reference}

    def copies(self, seed: int, record_states: bool = False) -> Environments:
        """All copies, at the beginning of their first episodes."""
        return Environments(self.spec(), self.count, derive(seed, "environments"), record_states, self.staggered)


class AgentSection(Section):
    """``[agent]``: who learns, and for how long."""

    algorithm: Literal["ppo", "a2c", "reinforce", "dqn", "sac"] = "ppo"
    """Its settings are in the section of its name."""
    steps: int = Field(default=200_000, ge=1)
    """Environment steps of a round, those of asking included; where people teach those as far as they have answered."""
    start: Path | None = None
    """A policy's folder to start from (what ``tropism control train`` made); else a fresh one, or one cloned from
    demonstrations."""
    start_log_std: float | None = Field(default=None, ge=-10, le=2)
    """The noise of the actions to go on with from ``start`` (log deviation); absent: the policy's own. One that is sure
    of what is wrong tries too little else to find what is right."""
    checkpoint_seconds: float = Field(default=20.0, gt=0)
    """Between two checkpoints, or 20 times what saving one takes, where that is longer. A kill loses no more than that,
    and no bit of the result."""


class AlgorithmSections(Section):
    """A section for every algorithm; the one that ``agent.algorithm`` names is used."""

    agent: AgentSection = AgentSection()
    ppo: PpoSettings = PpoSettings()
    a2c: A2cSettings = A2cSettings()
    reinforce: ReinforceSettings = ReinforceSettings()
    dqn: DqnSettings = DqnSettings()
    sac: SacSettings = SacSettings()

    def make(self, environments: Environments, seed: int) -> Agent:
        """The agent that the settings name. Errors: ConfigError for a space that it does not support."""
        name = self.agent.algorithm
        return make_agent(name, environments, getattr(self, name), seed)

    def begin(self, agent: Agent) -> None:
        """Load the policy to start from, where there is one. Errors: ModelError for one of another kind; ConfigError
        where its noise is to be changed and it has none of its own."""
        given = self.agent
        if given.start is not None:
            agent.begin_with(*started(load_policy(given.start), given.start_log_std))
        elif given.start_log_std is not None:
            raise ConfigError(
                f"agent.start_log_std = {given.start_log_std} without agent.start",
                "name the policy to start from, or set the noise of a fresh one (ppo.log_std)",
            )


class PlayedSection(Section):
    """``[evaluation]`` of a trained policy."""

    episodes: int = Field(default=20, ge=2)
    clips: int = Field(default=2, ge=0, le=10)
    """Starts that are shown as clips (in a report, before and after); 0: none, and nothing is drawn."""


class EvaluationSection(PlayedSection):
    """``[evaluation]`` of the control domain."""

    tolerance: float = Field(default=0.05, ge=0)
    """How far the true return may fall, as a share of what was gained over random actions, before a round is rolled
    back."""


class DemonstrationSection(Section):
    """``[demonstrations]``: episodes to start from (``tropism control demonstrate``). The policy is cloned from them
    before the first round, and they go into the log as feedback."""

    folder: Path | None = None
    updates: int = Field(default=2000, ge=1)
    """Steps of the optimiser."""
    batch_size: int = Field(default=64, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)

    def cloning(self) -> CloningSettings:
        """As behaviour cloning takes them; the network is the agent's own."""
        return CloningSettings(updates=self.updates, batch_size=self.batch_size, learning_rate=self.learning_rate)


class AskedSection(BaseModel):
    """What of ``[feedback]`` concerns the domain."""

    kind: str = "comparison"
    queries_per_round: int = 700
    selection: str = "random"
    validation_fraction: float = 0.1
    enough: float = 1.0
    teacher: str = "oracle"

    def asking(self) -> Asking:
        """As the learner wants it. Errors: ConfigError for kinds that it cannot ask for."""
        if self.kind not in ("comparison", "rating"):
            raise ConfigError(
                f'feedback.kind = "{self.kind}" in domain control', 'ask for "comparison" or "rating" of segments'
            )
        if self.kind == "rating" and self.selection == "entropy":
            raise ConfigError(
                'feedback.selection = "entropy" with feedback.kind = "rating": it takes two sides',
                'choose by "random", "disagreement" or "k_centre"',
            )
        share, enough = self.validation_fraction, self.enough
        return Asking(self.queries_per_round, self.kind, self.selection, share, enough)  # type: ignore[arg-type]


class ControlConfig(AlgorithmSections):
    """The domain's sections."""

    environment: EnvironmentSection = EnvironmentSection()
    demonstrations: DemonstrationSection = DemonstrationSection()
    preferences: PreferenceSection = PreferenceSection()
    reward: RewardSection = RewardSection()
    evaluation: EvaluationSection = EvaluationSection()
    feedback: AskedSection = AskedSection()

    @property
    def only_people_know(self) -> bool:
        """Whether what is wanted is written nowhere: the environment's own reward need not be what people judge by."""
        return self.feedback.teacher == "person" and not self.environment.reward
