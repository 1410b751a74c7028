"""Two small environments that note what is done to them, and a learner of preferences in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from tropism.control.agent import Agent
from tropism.control.fit_reward import RewardSection
from tropism.control.ppo import Ppo, PpoSettings
from tropism.control.preferences import Asking, PreferenceLearner, PreferenceSection
from tropism.control.reward_network import LearnedReward
from tropism.control.sac import Sac, SacSettings
from tropism.environments.making import EnvironmentSpec
from tropism.environments.stepping import Environments
from tropism.feedback.asking import Asker, MemoryAsker
from tropism.feedback.oracles import Oracle
from tropism.feedback.records import Answer, Query
from tropism.feedback.teachers import QueryContext

COUNT, CHUNK, LENGTH = 4, 32, 5
"""Environments, steps of each in a turn, steps in a segment."""
EXPLORED = 256 * COUNT
"""Steps of the untrained policy, for the first questions."""
TAG, TIME = 0, 1
"""What ``Walk`` observes in its first two numbers."""


@dataclass
class Watch:
    """What all copies together have seen since the test began."""

    steps: int = 0
    drawn: int = 0
    threads: set[int] = field(default_factory=set)
    """Numbers of tensor threads while environments were stepped."""
    farthest: float = 0.0
    """Of ``Echo``: how far an action was from what had been observed last."""

    def clear(self) -> Watch:
        """Begin anew."""
        self.steps, self.drawn, self.threads, self.farthest = 0, 0, set(), 0.0
        return self


WATCH = Watch()


class Walk(gymnasium.Env[Any, Any]):
    """A point on a line, pushed left or right, paid ``scale`` times minus its distance from 0.5. It observes [a number
    drawn at the reset, steps since, place]; it terminates after ``end`` steps, or truncates itself after ``cut``."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 - Gymnasium's own form
    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, end: int = 0, cut: int = 0, scale: float = 1.0, render_mode: str | None = None) -> None:
        self.end, self.cut, self.scale, self.render_mode = end, cut, scale, render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.tag, self.place = self.np_random.uniform(-1, 1, 2)
        self.time = 0
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        WATCH.steps += 1
        WATCH.threads.add(torch.get_num_threads())
        self.time += 1
        self.place = float(np.clip(self.place + 0.2 * float(action[0]), -1, 1))
        reward = -self.scale * abs(self.place - 0.5)
        return self._seen(), reward, self.time == self.end, self.time == self.cut, {}

    def render(self) -> Any:
        WATCH.drawn += 1
        return np.full((32, 48, 3), 10 * self.time, np.uint8)

    def _seen(self) -> Any:
        return np.array([self.tag, self.time, self.place], np.float32)


class Echo(gymnasium.Env[Any, Any]):
    """Observes a fresh random number each time, and notes how far the next action is from it."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Box(-3.0, 3.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self._next(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        WATCH.farthest = max(WATCH.farthest, abs(float(action[0]) - float(self.shown[0])))
        paid = float(action[0])
        return self._next(), paid, False, False, {}

    def _next(self) -> Any:
        self.shown = self.np_random.uniform(-1, 1, 1).astype(np.float32)
        return self.shown


for name, entry in (("TropismWalk-v0", Walk), ("TropismEcho-v0", Echo)):
    if name not in gymnasium.registry:
        gymnasium.register(name, entry, max_episode_steps=20)

AGENT = PpoSettings(steps_per_environment=CHUNK, epochs=2, hidden=(16,))
ASKED = PreferenceSection(segment_length=LENGTH, sessions=4)
FITTED = RewardSection(hidden=(16,), fit_steps=60, fit_steps_again=30, learning_rate=5e-3)


def walk(horizon: Any = "fixed", **arguments: Any) -> EnvironmentSpec:
    """``Walk``, in episodes of 20 steps where nothing else is said."""
    return EnvironmentSpec("TropismWalk-v0", arguments, horizon=horizon)


def ppo(spec: EnvironmentSpec, settings: PpoSettings = AGENT, record_states: bool = False) -> Ppo:
    """A small PPO agent."""
    return Ppo(Environments(spec, COUNT, 3, record_states), settings, 5)


def learner(
    asker: Asker | None = None, *, agent: Agent | None = None, labels: int = 40, total: int = 3000,
    preferences: PreferenceSection = ASKED, reward: RewardSection = FITTED,
) -> PreferenceLearner:  # fmt: skip
    """A learner whose last environment is held out, by default with an exact teacher."""
    asking = Asking(labels, validation_share=0.25)
    asker = asker or MemoryAsker(Oracle(seed=1))
    return PreferenceLearner(agent or ppo(walk()), asking, preferences, reward, asker, total, 7)


def sac(spec: EnvironmentSpec) -> Sac:
    """A small SAC agent, whose ring holds three turns and a bit."""
    settings = SacSettings(
        steps_per_environment=CHUNK, buffer=100 * COUNT, learning_starts=64, train_every=16, updates=1, batch_size=16,
        hidden=(16,),
    )  # fmt: skip
    return Sac(Environments(spec, COUNT, 3), settings, 5)


def asked_once(made: PreferenceLearner) -> PreferenceLearner:
    """After its first questions, the fit, and one turn of the agent."""
    made.step()
    return made


def paid(reward: LearnedReward, steps: Any) -> Any:
    """What a reward pays for all steps, in one go."""
    return reward(steps.flat("observations"), steps.flat("actions"), steps.flat("successors"))


class Noted:
    """An oracle, and notes of what it was asked, what it was told of it, and what it said."""

    id, kind = "noted", "oracle"

    def __init__(self, oracle: Oracle) -> None:
        self.oracle = oracle
        self.noted: list[tuple[Query, QueryContext, Answer]] = []

    def answer(self, queries: Sequence[Query], context: QueryContext) -> list[Answer]:
        found = self.oracle.answer(queries, context)
        self.noted += [(q, context, a) for q, a in zip(queries, found, strict=True)]
        return found


class KeepingAsker(MemoryAsker):
    """Keeps what candidates show in folders by number, as a study does for people."""

    def __init__(self, place: Path) -> None:
        super().__init__(Oracle())
        self.place = place

    def keep(self, write: Callable[[Path], None]) -> str:
        folder = self.place / str(len(list(self.place.iterdir())))
        folder.mkdir()
        write(folder)
        return folder.name


SMALL_STUDY: dict[str, Any] = {
    "study.domain": "control",
    "study.rounds": 1,
    "loop.promotion": "always",
    "environment.id": "TropismWalk-v0",
    "environment.count": COUNT,
    "feedback.queries_per_round": 40,
    "preferences.segment_length": LENGTH,
    "preferences.sessions": 1,
    "reward.hidden": [16],
    "reward.fit_steps": 40,
    "reward.fit_steps_again": 20,
    "agent.steps": 1500,
    "ppo.steps_per_environment": CHUNK,
    "ppo.hidden": [16],
    "evaluation.episodes": 6,
    "evaluation.clips": 0,
}
"""A study of a second that says nothing of threads."""


@contextmanager
def two_threads() -> Iterator[None]:
    """Two tensor threads when the block begins, and afterwards as many as before; ``WATCH`` begins anew."""
    before = torch.get_num_threads()
    WATCH.clear()
    torch.set_num_threads(2)
    try:
        yield
    finally:
        torch.set_num_threads(before)
