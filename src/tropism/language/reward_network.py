"""A fitted reward model: one of several networks, scores on a frozen scale, a folder that holds all of it.

The kinds: ``frozen`` (small networks on a language model's features, ``frozen_reward.py``), ``classifier`` (a sequence
classifier that is fine-tuned, or one from elsewhere, ``classifier_reward.py``) and ``lexical`` (a Gaussian process on
the text itself, ``lexical_reward.py``). All are ensembles.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from tropism.engine.generation import Generation
from tropism.errors import RewardError, StoreError
from tropism.feedback.records import Candidate, Task
from tropism.language.classifier_reward import ClassifierNetwork
from tropism.language.frozen_reward import FrozenNetwork
from tropism.language.lexical_reward import LexicalNetwork
from tropism.language.reward_text import Answered, Reader, shares_ids
from tropism.language.rewards import checked_scores
from tropism.reward.ensemble import FrozenScale
from tropism.runtime.precision import Precision, resolve_precision

CONFIG, SCALE = "reward.json", "scale.json"


class RewardNetwork(Protocol):
    """What scores completions; one class per kind."""

    kind: str

    @property
    def members(self) -> int:
        """E, the members of the ensemble."""
        ...

    @property
    def reader(self) -> Reader | None:
        """How it encodes completions; None for a kind that reads the text itself."""
        ...

    def raw(self, rows: Sequence[Answered], exact: bool) -> tuple[Tensor, int]:
        """Raw scores ``[E, n]`` in eval mode without gradients, and how many rows were cut to fit.

        ``exact``: the rows' token ids are of this network's own tokenizer.
        """
        ...

    def save(self, folder: Path) -> dict[str, Any]:
        """Write weights; returns JSON values that loading needs."""
        ...


KINDS: dict[str, Callable[[Path, Mapping[str, Any]], RewardNetwork]] = {
    "frozen": FrozenNetwork.load,
    "classifier": ClassifierNetwork.load,
    "lexical": LexicalNetwork.load,
}
"""How each kind is loaded from its folder and the values that ``save`` returned."""


@dataclass
class LearnedReward:
    """A reward model usable as PPO's reward source and as a scorer of candidates."""

    network: RewardNetwork
    scale: FrozenScale | None
    """None: not frozen yet, scores are raw."""
    exact: bool = False
    """Whether candidates' and rollouts' token ids are of this model's tokenizer; otherwise texts are read."""
    pessimism: float = 0.0
    weight: float = 1.0
    name: str = field(default="learned")
    rows_cut: int = field(default=0, compare=False)
    """Rows scored so far that lost something to fit the model's context."""

    def member_scores(self, rows: Sequence[Answered]) -> Tensor:
        """Raw scores ``[E, n]``, fp32, in eval mode."""
        scores, cut = self.network.raw(rows, self.exact)
        self.rows_cut += cut
        return scores

    def combine(self, raw: Tensor) -> Tensor:
        """Members standardised one by one, then mean − pessimism · variance, ``[n]``; a single member without a scale
        as it is. RewardError for an ensemble without a scale."""
        if self.scale is not None:
            return self.scale.combine(raw, "pessimistic" if self.pessimism else "mean", self.pessimism)
        if raw.shape[0] > 1:
            raise RewardError(f"an ensemble of {raw.shape[0]} has no frozen scale", "freeze it: reward.frozen_on(…)")
        return raw[0]

    def frozen_on(self, rows: Sequence[Answered], reference: str) -> LearnedReward:
        """The same model with its scale frozen on ``rows`` (mean 0, deviation 1), which ``reference`` describes."""
        return replace(self, scale=FrozenScale.fit(self.member_scores(rows), reference))

    def beside(self, policy: PreTrainedTokenizerBase) -> LearnedReward:
        """The same model for completions of a policy with this tokenizer: exact ids are read where it is shared."""
        reader = self.network.reader
        return replace(self, exact=reader is not None and shares_ids(policy, reader.tokenizer))

    def __call__(self, tasks: Sequence[Task], generation: Generation, texts: Sequence[str]) -> Tensor:
        if self.scale is None:
            raise RewardError(
                "the reward model's scale is not frozen: what a policy is paid would have no unit",
                "freeze it on samples of the reference: reward.frozen_on(…)",
            )
        scores = self.combine(self.member_scores(Answered.sampled(tasks, generation, texts)))
        return checked_scores(scores.tolist(), len(texts), self.name, [str(t.payload["prompt"]) for t in tasks], texts)

    def score_candidates(self, tasks: Sequence[Task], candidates: Sequence[Sequence[Candidate]]) -> Tensor:
        """Scores ``[N, K]`` of candidates (every task has K)."""
        return self.combine(self.member_scores(rows_of(tasks, candidates))).reshape(len(tasks), -1)

    def score_candidates_by_member(self, tasks: Sequence[Task], candidates: Sequence[Sequence[Candidate]]) -> Tensor:
        """Standardised scores of each member ``[E, N, K]``; raw ones without a scale."""
        raw = self.member_scores(rows_of(tasks, candidates))
        members = raw if self.scale is None else self.scale.members(raw)
        return members.reshape(members.shape[0], len(tasks), -1)

    def save(self, folder: Path, about: Mapping[str, Any]) -> None:
        """Write network, scale and ``about`` (JSON; nothing that differs between equal runs) into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        config = self.network.save(folder) | {
            "network": self.network.kind,
            "members": self.network.members,
            "exact": self.exact,
            "pessimism": self.pessimism,
            "about": dict(about),
        }
        if self.scale is not None:
            self.scale.save(folder / SCALE)
        (folder / CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")

    @classmethod
    def load(
        cls,
        folder: str | Path,
        weight: float = 1.0,
        *,
        label: int | str | None = None,
        precision: Precision | None = None,
    ) -> LearnedReward:
        """A reward model from what :meth:`save` wrote, or any Hugging Face sequence classifier by folder or name.

        The latter has no scale yet (:meth:`frozen_on`); ``label`` is the output that is the reward where it has
        several, ``precision`` what it runs in. Errors: StoreError for a folder that is neither, ModelError for a model
        that cannot be one.
        """
        path = Path(folder).expanduser()
        if not (path / CONFIG).is_file():
            if path.is_dir() and not (path / "config.json").is_file():
                raise StoreError(
                    f"{path} has no {CONFIG} and no config.json", "give the folder of a reward model or of a classifier"
                )
            return cls(
                ClassifierNetwork.foreign(folder, precision or resolve_precision("auto"), label), None, weight=weight
            )
        config = json.loads((path / CONFIG).read_text())
        if config["network"] not in KINDS:
            raise StoreError(
                f"{path} is a reward model of kind {config['network']!r}", f"this version knows {', '.join(KINDS)}"
            )
        scale = FrozenScale.load(path / SCALE) if (path / SCALE).is_file() else None
        return cls(KINDS[config["network"]](path, config), scale, config["exact"], config["pessimism"], weight)


def rows_of(tasks: Sequence[Task], candidates: Sequence[Sequence[Candidate]]) -> list[Answered]:
    """One row per candidate, task by task."""
    return [Answered.of(t, c) for t, row in zip(tasks, candidates, strict=True) for c in row]
