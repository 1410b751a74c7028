"""Judgements on candidates with known utilities, and a small network that must find them out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tropism.feedback.records import Candidate, Judgement, Provenance, Query, QueryKind, Split, Task
from tropism.reward.dataset import RewardData

FEATURES = 6
TRUE_WEIGHTS = torch.tensor([1.0, -1.0, 0.5, 0.0, 2.0, 0.0])


def task(number: int, split: Split = "train") -> Task:
    return Task(split, {"prompt": f"prompt {number}", "kind": "even" if number % 2 == 0 else "odd"})


def candidate(of: Task, text: str, **content: Any) -> Candidate:
    return Candidate(of.id, "text", {"text": text, **content}, Provenance("policy-0"))


def judge(
    about: Task,
    candidates: tuple[Candidate, ...],
    kind: QueryKind,
    value: Mapping[str, Any],
    teacher: str = "t1",
    round: int = 0,
    teacher_kind: str = "",
) -> Judgement:
    query = Query(about.id, kind, tuple(c.id for c in candidates), tuple(range(len(candidates))), round)
    name = f"{query.id}-{teacher}-{dict(value)}"
    return Judgement(name, teacher, query, about, candidates, value, teacher_kind=teacher_kind)


def world(kind: QueryKind, tasks: int = 160, k: int = 2, seed: int = 0) -> list[Judgement]:
    """Boltzmann-noisy judgements of one kind on ``tasks`` tasks, a quarter of them validation."""
    random = np.random.default_rng(seed)
    judgements = []
    for number in range(tasks):
        about = task(number, "validation" if number % 4 == 3 else "train")
        features = random.normal(0, 1, (k, FEATURES)).round(6).tolist()
        made = tuple(candidate(about, f"{number}/{i}", features=f) for i, f in enumerate(features))
        utility = (torch.tensor(features) @ TRUE_WEIGHTS).numpy()
        noisy = utility + random.gumbel(0, 1, k)
        judgements.append(judge(about, made, kind, value_of(kind, utility, noisy), teacher_kind="oracle"))
    return judgements


def value_of(kind: QueryKind, utility: np.ndarray, noisy: np.ndarray) -> dict[str, Any]:
    order = np.argsort(-noisy)
    if kind == "comparison":
        return {"choice": "ab"[order[0]]}
    if kind == "best_of":
        return {"best": f"c{order[0] + 1}"}
    if kind == "ranking":
        return {"rank": [[f"c{i + 1}"] for i in order]}
    if kind == "rating":
        return {"score": int(np.clip(np.round(3 + utility[0]), 1, 5)), "scale": [1, 5]}
    return {"name": "good", "good": bool(noisy[0] > 0)}


def features_of(data: RewardData) -> Tensor:
    return torch.tensor([c.content["features"] for c in data.candidates])


def utilities_of(data: RewardData) -> np.ndarray:
    return (features_of(data) @ TRUE_WEIGHTS).numpy()


class TinyEnsemble(nn.Module):
    """``members`` networks side by side on the candidates' features, with dropout, so that resuming is tested."""

    def __init__(
        self, data: RewardData, members: int = 3, seed: int = 0, hidden: int = 16, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.members = members
        g = torch.Generator().manual_seed(seed)
        self.first = nn.Parameter(torch.randn(members, FEATURES, hidden, generator=g) / FEATURES**0.5)
        self.second = nn.Parameter(torch.randn(members, hidden, 1, generator=g) / hidden**0.5)
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)
        self.dropout = nn.Dropout(dropout)
        self.features = features_of(data)

    def score(self, index: Tensor) -> Tensor:
        hidden = torch.relu(self.features[index] @ self.first)
        return (self.dropout(hidden) @ self.second)[..., 0] * self.frozen
