"""The records that every domain, teacher and study shares: tasks, candidates, queries, judgements.

All are immutable, and each id is a digest of content, so that replaying a step of the loop makes the same rows again
instead of doubling them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tropism.digests import digest

Split = Literal["train", "validation", "test"]
"""Splits are by task. ``train``: policies learn on it and teachers are asked about it; ``validation``: held-out
feedback for reward models; ``test``: evaluation only, never asked about in training."""

QueryKind = Literal[
    "comparison", "ranking", "best_of", "rating", "label", "demonstration", "correction", "critique", "approval"
]


@dataclass(frozen=True)
class Task:
    """What a policy is asked to do: a prompt, an environment's start, an instruction to a robot.

    ``payload`` is JSON; language tasks hold at least ``{"prompt": str}``.
    """

    split: Split
    payload: Mapping[str, Any]
    id: str = field(default="")

    def __post_init__(self) -> None:
        if not self.id:
            object.__setattr__(self, "id", digest([self.split, dict(self.payload)])[:24])


@dataclass(frozen=True)
class Provenance:
    """What made a candidate: policy (``policy_id`` of the lineage, or a source name), sampling, engine, seed."""

    policy_id: str
    sampling: Mapping[str, Any] = field(default_factory=dict)
    engine: str = ""
    seed: int = 0


@dataclass(frozen=True)
class Candidate:
    """One behaviour of a policy on a task.

    ``kind`` tells a viewer how to show it: ``text`` (content ``{"text": str, "tokens": [int], "stop": str}``), ``arm``,
    ``segment`` (content ``{"artifact": digest}``), …
    """

    task_id: str
    kind: str
    content: Mapping[str, Any]
    provenance: Provenance
    id: str = field(default="")

    def __post_init__(self) -> None:
        if not self.id:
            p = self.provenance
            made_by = [p.policy_id, dict(p.sampling), p.engine, p.seed]
            object.__setattr__(self, "id", digest([self.task_id, self.kind, dict(self.content), made_by])[:24])


@dataclass(frozen=True)
class Query:
    """A task and K candidates in canonical slots, with the random order they are shown in.

    ``candidate_ids[i]`` sits in canonical slot i (``a``, ``b`` for comparisons; ``c1`` … ``cK`` otherwise); a teacher
    sees slot ``shown_order[0]`` first. Values always speak of canonical slots, never of screen sides.
    """

    task_id: str
    kind: QueryKind
    candidate_ids: tuple[str, ...]
    shown_order: tuple[int, ...]
    round: int
    id: str = field(default="")

    def __post_init__(self) -> None:
        if not self.id:
            key = [self.task_id, self.kind, list(self.candidate_ids), list(self.shown_order), self.round]
            object.__setattr__(self, "id", digest(key)[:24])


@dataclass(frozen=True)
class Answer:
    """What a teacher returns for one query: a value (see ``values.py``), or ``None`` for a skip (no event is stored).

    ``text`` is free text (a critique, a demonstration, a reason); it goes to the erasable side table.
    """

    value: Mapping[str, Any] | None
    text: str | None = None
    duration_ms: int | None = None


@dataclass(frozen=True)
class Judgement:
    """One current feedback event joined with what it is about: the unit a reward model is fitted on."""

    event_id: str
    teacher_id: str
    query: Query
    task: Task
    candidates: tuple[Candidate, ...]
    value: Mapping[str, Any]
    text: str | None = None
    teacher_kind: str = ""
    """``person``, ``oracle``, ``import``, …: votes of one kind on one query are one stream. Empty where nobody knows
    the kind; the teacher is then a stream of its own."""
