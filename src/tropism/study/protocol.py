"""The domain protocol: all that a study knows about a kind of policy.

Policies and reward models are folders. A domain object is made from its own configuration section(s) and holds no state
that matters between calls: whatever must survive goes through the folders and values of ``Made``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from tropism.feedback.asking import Asker
from tropism.feedback.records import Answer, Candidate, Judgement, Query, Split, Task
from tropism.runtime.stage import Made, StageRun


class Recorded(Protocol):
    """A judgement that was there before the study: what was judged, the query as it would have been, the answer."""

    @property
    def task(self) -> Task: ...
    @property
    def candidates(self) -> Sequence[Candidate]: ...
    @property
    def query(self) -> Query: ...
    @property
    def answer(self) -> Answer: ...


StageKind = Literal["base", "collect", "reward", "improve", "evaluate"]


class Domain(Protocol):
    """One kind of policy: language, control, VLA; in the tests a bandit. Made by ``cls(config)``.

    A domain may also have these attributes, which a study looks for by name:

    ``stage_sections: Mapping[StageKind, Sequence[str]]``: the configuration sections each kind of stage depends on (all
    of them where a kind is absent). A changed setting then costs only the stages that it concerns.
    ``path_settings: Mapping[str, PathKind]``: the settings that are paths, by dotted key (``settings.paths``).
    ``threads: int``: tensor threads that suit its networks, where ``runtime.threads`` is 0.
    ``learns_reward: bool``: False where its settings make the reward a function alone (as ``loop.fit_reward``).
    ``data_digests() -> Mapping[str, str]``: digests of the data files that it reads; the first stage depends on them.
    ``code_digests(kind: StageKind) -> Mapping[str, str]``: digests of the user's code that a kind of stage calls (a
    Python reward): a stage depends on what the code says, not only on what it is called.
    ``score_members(reward, tasks, candidates, run) -> [M, N, K]``: scores of each ensemble member, for choosing queries
    by disagreement.
    ``step_gold(tasks, candidates) -> [N][K][T]``: true utilities by step, which sum to ``gold`` (T may differ between
    candidates), for myopic oracles (``feedback.oracle.discount`` below 1).
    ``recorded_feedback(kind, split, count, seed) -> Sequence[Recorded]``: judgements that the domain's data has, for
    ``teacher = "import"`` without a file.
    ``demonstrations(keep) -> [(task, candidate, query, answer)]``: what the policy was started from, as rows for the
    log; ``keep(folder)`` stores what they show and gives its address.
    ``split_of(prompt: str) -> Split | None``: the split of a prompt that is among its tasks, for pairs from a file.
    A field of ``config_class`` named like a section of the loop (``runtime``, ``study``) receives its values.
    """

    name: str
    config_class: type[BaseModel]
    """The domain's own top-level sections of study.toml (for language: world, model, sft, reward, ppo, …)."""

    def initial_policy(self, run: StageRun) -> Made:
        """Make or load the starting policy, the reference of all rounds. Folders: ``policy``. Values: a summary."""
        ...

    def tasks(self, split: Split, count: int, seed: int) -> list[Task]:
        """``count`` tasks of a split (fewer if the world has fewer). The same arguments give the same tasks."""
        ...

    def rollout(
        self, policy: Path, policy_id: str, tasks: Sequence[Task], k: int, seed: int, run: StageRun
    ) -> list[list[Candidate]]:
        """K candidates for each task, as sampled from the policy (``[N][K]``), provenance filled in."""
        ...

    def gold(self, tasks: Sequence[Task], candidates: Sequence[Sequence[Candidate]]) -> NDArray[np.float64] | None:
        """True utilities ``[N, K]`` for oracle teachers, or None where nobody knows them."""
        ...

    def fit_reward(self, policy: Path, reference: Path, judgements: Sequence[Judgement], run: StageRun) -> Made:
        """Fit a reward model on judgements of train and validation tasks.

        Folders: ``reward``. Values: ``assessment`` (held-out accuracy, log-likelihood, ECE, length-only baseline, …).
        """
        ...

    def score(
        self, reward: Path, tasks: Sequence[Task], candidates: Sequence[Sequence[Candidate]], run: StageRun
    ) -> NDArray[np.float64]:
        """Scores ``[N, K]`` of a reward folder (mean over the ensemble, frozen scale)."""
        ...

    def improve(self, policy: Path, reference: Path, reward: Path | None, run: StageRun) -> Made:
        """Improve a policy against a reward under the configured budget and KL leash.

        Folders: ``policy``, ``rollouts`` (what was sampled, with reward by component). Values: a summary.
        """
        ...

    def evaluate(
        self, policy: Path, policy_id: str, reference: Path, previous: Path | None, reward: Path | None, run: StageRun
    ) -> Made:
        """Evaluate on test tasks against the reference, and against the previous policy where there is one.

        Folders: ``samples``. Values: ``metrics`` (flat ``name -> number``; win rates carry ``_low`` and ``_high``),
        ``kept`` (the frozen set of values that every round must keep: ``name -> {"value", "floor", "holds"}``),
        ``promote`` (bool), ``reasons`` (list of str).
        """
        ...

    def describe(self, candidate: Candidate) -> Mapping[str, Any]:
        """What a viewer shows of a candidate (for text: ``{"text": …}``)."""
        ...


class OnlineDomain(Protocol):
    """A kind of policy that is trained while feedback on it comes in: what a study needs of it instead of ``Domain``.

    The values of its base stage may have ``words``: what a report calls things here (``study/report/words.py``).

    Told by its method ``learn``. Collecting, fitting and improving are then one stage, ``improve``. The optional
    attributes of ``Domain`` are looked for here, too.
    """

    name: str
    config_class: type[BaseModel]

    def initial_policy(self, run: StageRun) -> Made:
        """As ``Domain.initial_policy``."""
        ...

    def tasks(self, split: Split, count: int, seed: int) -> list[Task]:
        """As ``Domain.tasks``."""
        ...

    def learn(self, policy: Path, reference: Path, reward: Path | None, asker: Asker, run: StageRun) -> Made:
        """One round: act, ask about what was done (``asker``), fit a reward on all answers so far, improve the policy
        on it, side by side. ``reward``: that of the round before.

        Folders: ``policy``, ``reward``, ``rollouts``. Values: a summary, with ``assessment`` of the reward.
        """
        ...

    def evaluate(
        self, policy: Path, policy_id: str, reference: Path, previous: Path | None, reward: Path | None, run: StageRun
    ) -> Made:
        """As ``Domain.evaluate``."""
        ...

    def describe(self, candidate: Candidate) -> Mapping[str, Any]:
        """As ``Domain.describe``."""
        ...
