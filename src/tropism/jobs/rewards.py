"""The rewards of a job: fitted reward models by folder, Python functions, penalties."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import Field

from tropism.engine.generation import Sampling
from tropism.errors import ConfigError
from tropism.feedback.records import Task
from tropism.jobs.inputs import digest_of
from tropism.language.policy import LanguagePolicy
from tropism.language.reward_network import LearnedReward, rows_of
from tropism.language.reward_text import Answered
from tropism.language.rewards import FunctionReward, RewardSource, RewardSum
from tropism.language.rollouts import sample_candidates
from tropism.runtime.precision import Precision
from tropism.settings.functions import function_digest, load_function
from tropism.settings.sections import Section


class RewardsSection(Section):
    """``[rewards]``: what a policy is paid for."""

    models: dict[str, float] = Field({})
    """``"folder" = weight``: reward models (of `tropism reward fit`, or any Hugging Face classifier with one label)."""
    functions: dict[str, float] = Field({})
    """``"file.py:function" = weight``: Python rewards of (prompts, completions, rows)."""
    missing_end_penalty: float = Field(1.0, ge=0)
    """Taken off a completion that the length limit cut."""
    clip: float | None = Field(None, gt=0)
    """Clip of the summed score, in the scores' own units (deviations on the reference's samples)."""


@dataclass(frozen=True)
class ScaleSamples:
    """Where a reward model that has no scale of its own gets one: samples of the reference on train prompts."""

    reference: LanguagePolicy
    tasks: Sequence[Task]
    sampling: Sampling
    precision: Precision
    count: int = 128

    def rows(self) -> list[Answered]:
        """The samples, the same in every run."""
        tasks = self.tasks[: self.count]
        found = sample_candidates(self.reference, "reference", tasks, 1, self.sampling, 0, self.precision)
        return rows_of(tasks, found)

    def scaled(self, model: LearnedReward) -> LearnedReward:
        """The model with its own scale, or one frozen here."""
        if model.scale is not None:
            return model
        rows = self.rows()
        return model.frozen_on(rows, f"{len(rows)} samples of the reference")


def load_rewards(section: RewardsSection, samples: ScaleSamples) -> RewardSum:
    """All sources, summed with their weights, for completions of the policy that is to learn. ConfigError if there is
    none. A foreign reward model's scale is frozen on ``samples``."""
    models = load_models(section, samples.reference)
    sources: list[RewardSource] = [
        replace(samples.scaled(model), name=name, weight=section.models[path]) for path, (name, model) in models.items()
    ]
    sources += [FunctionReward(f, weight, load_function(f)) for f, weight in section.functions.items()]
    if not sources:
        raise ConfigError(
            "no reward is named", 'give --reward DIR, or --set rewards.functions={"file.py:function"=1.0}'
        )
    return RewardSum(sources, section.missing_end_penalty, section.clip)


def load_models(section: RewardsSection, policy: LanguagePolicy) -> dict[str, tuple[str, LearnedReward]]:
    """Reward models by path: (component's name, model that reads completions of ``policy``). Folders of one name are
    told apart by their parents."""
    double = {name for name, count in Counter(Path(path).name for path in section.models).items() if count > 1}
    made = {}
    for path in section.models:
        place = Path(path)
        name = f"{place.parent.name}/{place.name}" if place.name in double else place.name
        made[path] = (name, LearnedReward.load(path).beside(policy.tokenizer))
    return made


def reward_digests(section: RewardsSection) -> Mapping[str, str]:
    """Digests of every model and of the files behind every function."""
    found = {f"reward {path}": digest_of(path) for path in section.models}
    return found | {f"function {Path(f).name}": function_digest(f) for f in section.functions}
