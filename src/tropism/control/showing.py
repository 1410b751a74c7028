"""An agent that learns on its true reward, and clips of it put to people as questions: something to look at, at once.

The questions are on test tasks and of no round, so that no reward model is ever fitted on the answers: they may stand
in any study, beside texts. Left out: learning from the answers, which is ``PreferenceLearner``'s.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tropism.control.ppo import Ppo, PpoSettings
from tropism.control.queries import SegmentPool, choose
from tropism.control.questions import Questions
from tropism.control.reward_network import Shape
from tropism.environments.making import EnvironmentSpec
from tropism.environments.segments import Chunk
from tropism.environments.stepping import Environments
from tropism.feedback.events import FeedbackLog
from tropism.feedback.records import Candidate, Judgement, Query, Task
from tropism.runtime.seeding import derive
from tropism.store.artifacts import ArtifactStore

MOMENTS = 3
"""Times of the training from which clips come: its beginning, its middle, its end."""


@dataclass
class Shelf:
    """Meets ``feedback.asking.Desk`` for questions that nobody waits for: they lie in a study's log until somebody is
    asked. ``asked``: those put so far."""

    log: FeedbackLog
    artifacts: ArtifactStore
    policy_id: str
    round: int = 0
    answers_at_once: bool = False
    asked: list[Query] = field(default_factory=list)

    def keep(self, write: Callable[[Path], None]) -> str:
        """Store a folder among the study's artifacts."""
        folder = Path(tempfile.mkdtemp(prefix="tropism-clips-"))
        try:
            write(folder)
            return self.artifacts.put(folder)
        finally:
            shutil.rmtree(folder)

    def folder(self, artifact: str) -> Path:
        """Where an artifact lies."""
        return self.artifacts.path(artifact)

    def ask(
        self,
        tasks: Sequence[Task],
        candidates: Sequence[Candidate],
        queries: Sequence[Query],
        step_utilities: Mapping[str, Sequence[Sequence[float]]] | None,
    ) -> int:
        """Put the questions into the log. Returns 0: nobody has answered yet."""
        self.log.put(tasks, candidates, queries)
        self.asked += queries
        return 0

    def judgements(self) -> list[Judgement]:
        """None that anything could be fitted on."""
        return []


def show_learning(
    shelf: Shelf, spec: EnvironmentSpec, settings: PpoSettings, *, steps: int, count: int, length: int, goal: str,
    copies: int = 8, seed: int = 0,
) -> list[Query]:  # fmt: skip
    """Train an agent for ``steps`` environment steps on the true reward, and ask ``count`` comparisons of segments of
    ``length`` steps from three moments of it. The same arguments ask the same questions.

    Errors: ConfigError for an environment that is not there; DataError where segments are longer than episodes.
    """
    environments = Environments(spec, copies, derive(seed, "environments"), record_states=True)
    agent, pool = Ppo(environments, settings, derive(seed, "agent")), SegmentPool(length, MOMENTS)
    while environments.steps < steps:
        before = environments.place()
        done = before.steps / steps
        taken, _ = agent.advance(None, done)
        kept = len(pool.chunks)
        if environments.steps >= steps or (kept < MOMENTS - 1 and done >= kept / (MOMENTS - 1)):
            pool.chunks.append(Chunk(spec, taken, before, shelf.policy_id))
    shape = Shape.of(environments)
    random = np.random.Generator(np.random.Philox(derive(seed, "pairs")))
    chosen = choose(pool, range(copies), count, 2, "random", 1, None, shape, random)
    Questions(shelf, shape, spec, goal, derive(seed, "questions")).put(chosen, "comparison", "test", environments.steps)
    environments.close()
    return shelf.asked
