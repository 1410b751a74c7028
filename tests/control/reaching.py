"""Learners of preferences in ``tiny.REACH``, and people who take their time."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from tiny import REACH

from tropism.control.fit_reward import RewardSection
from tropism.control.ppo import Ppo, PpoSettings
from tropism.control.preferences import Asking, PreferenceLearner, PreferenceSection
from tropism.environments.making import EnvironmentSpec
from tropism.environments.stepping import Environments
from tropism.feedback.asking import MemoryAsker
from tropism.feedback.oracles import Oracle
from tropism.feedback.records import Judgement, Query, Task

ASKED = PreferenceSection(segment_length=5, sessions=4)
FITTED = RewardSection(hidden=(32, 32), learning_rate=5e-3)
AGENT = PpoSettings(steps_per_environment=64, gamma=0.9, learning_rate=2e-3, hidden=(32,))


def learner(
    total: int = 8_000, asking: Asking | None = None, asker: Any = None, seed: int = 0, spec: EnvironmentSpec = REACH,
    preferences: PreferenceSection = ASKED, reward: RewardSection = FITTED,
) -> PreferenceLearner:  # fmt: skip
    agent = Ppo(Environments(spec, 8, seed), AGENT, seed)
    asking = asking or Asking(labels=80, validation_share=0.125)
    return PreferenceLearner(agent, asking, preferences, reward, asker or MemoryAsker(Oracle(seed=seed)), total, seed)


def train(made: PreferenceLearner) -> PreferenceLearner:
    while not made.finished:
        made.step()
    return made


def turns(made: PreferenceLearner, count: int) -> PreferenceLearner:
    for _ in range(count):
        made.step()
    return made


class Slowly(MemoryAsker):
    """People who have given the first ``shown`` of an oracle's answers, and will give the others but those ``passed``
    over. Counts how often the work rested. Segments are kept in ``place``."""

    answers_at_once = False

    def __init__(self, teacher: Oracle, shown: int = 0, place: Path | None = None) -> None:
        super().__init__(teacher)
        self.place = place
        self.shown, self.rests, self.waits, self.passed = shown, 0, 0, set[str]()
        self.put: dict[str, tuple[Query, Task]] = {}

    def keep(self, write: Callable[[Path], None]) -> str:
        if self.place is None:
            return ""
        folder = self.place / str(len(list(self.place.iterdir())))
        folder.mkdir()
        write(folder)
        return folder.name

    def folder(self, artifact: str) -> Path:
        assert self.place is not None
        return self.place / artifact

    def ask(self, tasks: Any, candidates: Any, queries: Any, step_utilities: Any) -> int:
        self.put |= {query.id: (query, task) for query, task in zip(queries, tasks, strict=True)}
        return super().ask(tasks, candidates, queries, step_utilities)

    def asked(self) -> list[tuple[Query, Task]]:
        return list(self.put.values())

    def wait(self) -> None:
        self.waits, self.shown = self.waits + 1, len(self._found)

    def judgements(self) -> list[Judgement]:
        return super().judgements()[: self.shown]

    def open(self) -> Collection[str]:
        return set(self._found) - {j.query.id for j in self.judgements()} - self.passed

    def rest(self, news: Callable[[], bool]) -> None:
        self.rests += not news()
