"""What a completion is paid: learned score, Python reward functions, missing-end penalty, each kept apart.

The KL penalty is not here: it is paid per token, in ``ppo.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from tropism.engine.generation import Generation
from tropism.errors import ConfigError, RewardError
from tropism.feedback.records import Task

TextReward = Callable[[Sequence[str], Sequence[str], Sequence[Mapping[str, Any]]], Sequence[float]]
"""A Python reward: (prompts, completion texts, task payloads) -> one number per completion."""


class RewardSource(Protocol):
    """One component of the reward, called once per rollout."""

    name: str
    weight: float

    def __call__(self, tasks: Sequence[Task], generation: Generation, texts: Sequence[str]) -> Tensor:
        """Scores fp32 ``[B]``, unweighted."""
        ...


@dataclass
class FunctionReward:
    """A Python function as a reward component; errors and NaN name the prompt and completion."""

    reference: str
    weight: float
    function: TextReward
    name: str = field(init=False)

    def __post_init__(self) -> None:
        self.name = self.reference.rpartition(":")[2]

    def __call__(self, tasks: Sequence[Task], generation: Generation, texts: Sequence[str]) -> Tensor:
        return call_function(self.function, self.reference, tasks, texts)


def call_function(function: TextReward, reference: str, tasks: Sequence[Task], texts: Sequence[str]) -> Tensor:
    """What a user's function, a reward or a gold one, returns for ``texts`` ``[n]``; RewardError where it fails."""
    prompts = [str(t.payload["prompt"]) for t in tasks]
    try:
        raw = function(prompts, texts, [t.payload for t in tasks])
    except (Exception, SystemExit) as error:  # exit() in it must not end the run as if it were done
        problem = f"function {reference} raised {type(error).__name__}: {error}"
        raise RewardError(problem, "mend the function, then run the command again") from error
    return checked_scores(raw, len(texts), reference, prompts, texts)


def checked_scores(raw: Any, count: int, source: str, prompts: Sequence[str], texts: Sequence[str]) -> Tensor:
    """A reward's return value as fp32 ``[count]``; RewardError on a wrong shape, a non-number or a non-finite value."""
    try:
        scores = torch.as_tensor([float(x) for x in raw], dtype=torch.float32)
    except (TypeError, ValueError) as error:
        raise RewardError(f"reward {source} returned {raw!r:.80}", "return one number per completion") from error
    if scores.shape != (count,):
        raise RewardError(f"reward {source} returned {len(scores)} numbers for {count} completions", "return one each")
    bad = (~torch.isfinite(scores)).nonzero().flatten()
    if len(bad):
        i = int(bad[0])
        where = f"prompt {prompts[i]!r:.60}, completion {texts[i]!r:.60}"
        raise RewardError(
            f"reward {source} is {float(scores[i])} for {where} (and {len(bad) - 1} more)", "return finite numbers"
        )
    return scores


@dataclass
class CallableReward:
    """Any callable on the rollout as a component (gold utilities, noise controls)."""

    name: str
    function: Callable[[Sequence[Task], Generation, Sequence[str]], Sequence[float]]
    weight: float = 1.0

    def __call__(self, tasks: Sequence[Task], generation: Generation, texts: Sequence[str]) -> Tensor:
        raw = self.function(tasks, generation, texts)
        return checked_scores(raw, len(texts), self.name, [str(t.payload["prompt"]) for t in tasks], texts)


@dataclass(frozen=True)
class PaidRewards:
    """The reward of a rollout: ``total`` ``[B]`` as paid on the last token, ``components`` each ``[B]``, weighted."""

    total: Tensor
    components: dict[str, Tensor]
    clipped: Tensor
    rows_cut: int = 0
    """Completions that a learned reward could not read whole: they did not fit its context."""


@dataclass
class RewardSum:
    """Weighted sum of sources, clipped, less the missing-end penalty (InstructGPT and the long practice after it)."""

    sources: list[RewardSource]
    missing_end_penalty: float = 0.0
    clip: float | None = None

    def __post_init__(self) -> None:
        names = [*(s.name for s in self.sources), "missing_end"]
        double = sorted({n for n in names if names.count(n) > 1})
        if double:  # components are kept by name: one would silently replace the other
            raise ConfigError(f"two reward components are called '{double[0]}'", "rename one of the functions")

    def __call__(self, tasks: Sequence[Task], generation: Generation, texts: Sequence[str]) -> PaidRewards:
        before = self._cut()
        components = {s.name: s.weight * s(tasks, generation, texts) for s in self.sources}
        total = torch.stack(list(components.values())).sum(0)
        clipped = torch.zeros_like(total, dtype=torch.bool)
        if self.clip is not None:
            clipped = total.abs() > self.clip
            total = total.clamp(-self.clip, self.clip)
        missing = torch.tensor([stop == "length" for stop in generation.stops], dtype=torch.float32)
        components["missing_end"] = -self.missing_end_penalty * missing
        return PaidRewards(total + components["missing_end"], components, clipped, self._cut() - before)

    def _cut(self) -> int:
        """Rows that any source has shortened so far."""
        return sum(int(getattr(source, "rows_cut", 0)) for source in self.sources)
