"""Tasks, candidates and untrained reward models that several tests share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from fixtures import EOS, FP32, llama, policy_of, some_tasks
from tropism.engine.classifiers import load_classifier
from tropism.engine.generation import Sampling
from tropism.feedback.records import Candidate, Provenance, Task
from tropism.language.classifier_reward import ClassifierNetwork
from tropism.language.frozen_reward import OPINIONS, FrozenNetwork, TokenEnsemble
from tropism.language.policy import LanguagePolicy
from tropism.language.reward_network import LearnedReward, rows_of
from tropism.language.reward_text import Answered
from tropism.language.rollouts import sample_candidates

MEMBERS, CONTEXT = 3, 64


def by_ids(prompts: Sequence[list[int]], completions: Sequence[list[int]]) -> list[Answered]:
    """Rows of nothing but ids."""
    return [Answered({"prompt": ""}, "", True, p, c) for p, c in zip(prompts, completions, strict=True)]


def given(text: str, tokens: list[int] | None = None, **content: object) -> Candidate:
    """A candidate with a text, and with ids where they are given."""
    ids = {} if tokens is None else {"tokens": tokens}
    return Candidate("t", "text", {"text": text, **ids, **content}, Provenance("p"))


def sampled(policy: LanguagePolicy, k: int = 2) -> tuple[list[Task], list[list[Candidate]]]:
    """Twelve tasks with K samples each."""
    tasks = some_tasks(12)
    return tasks, sample_candidates(policy, "p", tasks, k, Sampling(6, frozenset({EOS})), 3, FP32)


def frozen_network(policy: LanguagePolicy, seed: int = 0) -> FrozenNetwork:
    """Small networks whose last layer is not zero."""
    ensemble = TokenEnsemble(2 * 32 + OPINIONS, MEMBERS, 16, 0.3, seed)
    ensemble.out.data = torch.randn(ensemble.out.shape, generator=torch.Generator().manual_seed(seed))
    return FrozenNetwork(policy, ensemble, FP32, CONTEXT)


def untrained(kind: str, folder: Path, policy: LanguagePolicy | None = None, seed: int = 0) -> LearnedReward:
    """A reward model with random heads, its members' scales frozen on samples of its own trunk."""
    policy = policy or policy_of(llama())
    network: FrozenNetwork | ClassifierNetwork
    if kind == "frozen":
        network = frozen_network(policy, seed)
    else:
        policy.save(folder / "base", {})
        network = ClassifierNetwork(load_classifier(folder / "base", MEMBERS, seed=seed), FP32)
    return LearnedReward(network, None, exact=True).frozen_on(rows_of(*sampled(policy)), "the trunk's samples")
