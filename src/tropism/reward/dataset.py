"""From judgements to the arrays that a reward model is fitted on, with every judgement accounted for.

Votes of one kind of teacher on one query become one row: a soft target, weighted by the number of votes, which has the
same likelihood as the single votes. Splits are by task. What trains nothing is counted by reason in ``dropped``.

Left out: demonstrations, corrections and critiques (they train policies, or judges), ratings of single steps (a domain
that has steps makes its own rows), and a model of the raters (that is feedback's quality).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tropism.digests import digest
from tropism.errors import DataError
from tropism.feedback.records import Candidate, Judgement, Task
from tropism.feedback.values import Approval, BestOf, Comparison, Label, Ranking, Rating, parse_value, slot_names
from tropism.reward import evidence
from tropism.reward.evidence import Choices, Labels, Rankings, Ratings, Scale

_Slots = Mapping[str, int]  # canonical slot -> candidate number

MOST_STEPS = 20
"""Whole-numbered scales of at most this many steps are categories too, for the ordinal loss."""


@dataclass(frozen=True)
class RewardData:
    """Evidence about candidates. Rows of train and validation tasks lie side by side; see ``fold``."""

    candidates: tuple[Candidate, ...]
    tasks: tuple[Task, ...]
    streams: tuple[str, ...]
    scales: tuple[Scale, ...]
    label_names: tuple[str, ...]
    candidate_task: Tensor
    """``[n]`` long: the task of each candidate."""
    choices: Choices
    rankings: Rankings
    ratings: Ratings
    labels: Labels
    used: Mapping[str, int]
    """Judgements that became evidence, by kind of value."""
    dropped: Mapping[str, int]
    """Judgements that did not, by reason."""

    @classmethod
    def from_judgements(cls, judgements: Sequence[Judgement], strength_margin: float = 0.0) -> RewardData:
        """Index ``judgements`` of train and validation tasks; streams are kinds of teacher (``person``, ``oracle``, …).

        ``strength_margin`` is the margin, in logits, of a comparison at full strength (3); 0 ignores strengths.

        Raises DataError for a test task, for the same task content in two splits, and for a malformed value.
        """
        builder = _Builder(strength_margin)
        for judgement in judgements:
            builder.add(judgement)
        return builder.data()

    def fold(self, train: bool) -> RewardData:
        """The same candidates with the evidence of train tasks, or of validation tasks, only."""
        splits = torch.tensor([task.split == "train" for task in self.tasks], dtype=torch.bool)
        return self.of_tasks(splits if train else ~splits)

    def of_tasks(self, wanted: Tensor) -> RewardData:
        """The same candidates with the evidence of the tasks where ``wanted`` ``[tasks]`` is True."""
        return replace(
            self,
            choices=self.choices.take(wanted[self.choices.task]),
            rankings=self.rankings.take(wanted[self.rankings.task]),
            ratings=self.ratings.take(wanted[self.ratings.task]),
            labels=self.labels.take(wanted[self.labels.task]),
        )

    def __len__(self) -> int:
        return len(self.choices) + len(self.rankings) + len(self.ratings) + len(self.labels)

    def summary(self) -> dict[str, Any]:
        """Counts for a report, as JSON."""
        train, validation = self.fold(True), self.fold(False)
        return {
            "candidates": len(self.candidates),
            "tasks": len(self.tasks),
            "rows_train": len(train),
            "rows_validation": len(validation),
            "used": dict(self.used),
            "dropped": dict(self.dropped),
        }


class _Builder:
    """Collects rows while judgements are read; ``data`` turns them into tensors."""

    def __init__(self, strength_margin: float) -> None:
        self.strength_margin = strength_margin
        self.candidates: dict[str, Candidate] = {}
        self.candidate_number: dict[str, int] = {}
        self.candidate_task: list[int] = []
        self.tasks: dict[str, Task] = {}
        self.task_number: dict[str, int] = {}
        self.split_of: dict[str, str] = {}
        self.streams: dict[str, int] = {}
        self.scales: dict[Scale, int] = {}
        self.votes: dict[tuple[str, int], dict[str, Any]] = {}
        self.ranked: list[dict[str, Any]] = []
        self.rated: list[dict[str, Any]] = []
        self.labelled: dict[tuple[int, int, int], dict[str, Any]] = {}
        self.label_names: dict[str, int] = {}
        self.used: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()

    def add(self, judgement: Judgement) -> None:
        """Index one judgement's task and candidates, and turn its value into rows."""
        self._check_split(judgement.task)
        # a teacher may say more than was asked: a rating or a critique beside the answer to a comparison
        kind = str(judgement.value.get("kind", judgement.query.kind))
        handle = self._handlers().get(kind)
        if handle is None:
            self.dropped[f"{kind}: no evidence for a reward model"] += 1
            return
        stream = judgement.teacher_kind or judgement.teacher_id
        where = {
            "task": self.task_number.setdefault(judgement.task.id, len(self.task_number)),
            "stream": self.streams.setdefault(stream, len(self.streams)),
        }
        self.tasks.setdefault(judgement.task.id, judgement.task)
        slots = slot_names(judgement.query.kind, len(judgement.candidates))
        index = {s: self._candidate(c, where["task"]) for s, c in zip(slots, judgement.candidates, strict=True)}
        if len(set(index.values())) != len(index):
            raise DataError(f"query {judgement.query.id} shows one candidate twice", "drop the query from the feedback")
        dropped = handle(parse_value(kind, judgement.value, slots), judgement, index, where)
        if dropped is None:
            self.used[kind] += 1
        else:
            self.dropped[dropped] += 1

    def _handlers(self) -> Mapping[str, Callable[[Any, Judgement, _Slots, dict[str, int]], str | None]]:
        """What each kind of value becomes; a handler returns the reason where it made no row."""
        return {
            "comparison": self._comparison,
            "best_of": self._best_of,
            "ranking": self._ranking,
            "rating": self._rating,
            "label": self._label,
            "approval": self._approval,
        }

    def _check_split(self, task: Task) -> None:
        if task.split == "test":
            raise DataError(f"task {task.id} is in the test split", "reward models are fitted on train tasks only")
        content = digest(dict(task.payload))
        if self.split_of.setdefault(content, task.split) != task.split:
            raise DataError(
                f"task {task.id} is in two splits, {self.split_of[content]} and {task.split}",
                "split by task, so that held-out accuracy is held out",
            )

    def _candidate(self, candidate: Candidate, task: int) -> int:
        if candidate.id not in self.candidates:
            self.candidate_number[candidate.id] = len(self.candidates)
            self.candidates[candidate.id] = candidate
            self.candidate_task.append(task)
        return self.candidate_number[candidate.id]

    def _comparison(self, value: Comparison, judgement: Judgement, index: _Slots, where: dict[str, int]) -> str | None:
        if value.choice == "cannot_judge":
            return "cannot_judge"
        if value.choice == "both_bad":
            self._all_bad(index, where)
            return None
        self._vote(judgement, index, value.choice, self.strength_margin * value.strength / 3, where)
        return None

    def _best_of(self, value: BestOf, judgement: Judgement, index: _Slots, where: dict[str, int]) -> str | None:
        if value.best == "cannot_judge":
            return "cannot_judge"
        if value.best == "all_bad":
            self._all_bad(index, where)
            return None
        self._vote(judgement, index, value.best, 0.0, where)
        return None

    def _vote(self, judgement: Judgement, index: _Slots, choice: str, margin: float, where: dict[str, int]) -> None:
        new = {"index": list(index.values()), "target": [0.0] * len(index), "margin": [0.0] * len(index), "weight": 0.0}
        row = self.votes.setdefault((judgement.query.id, where["stream"]), {**new, **where})
        before, row["weight"] = row["weight"], row["weight"] + 1.0
        for i, name in enumerate(index):
            share = 1 / len(index) if choice == "tie" else float(name == choice)
            row["target"][i] = (row["target"][i] * before + share) / row["weight"]
            row["margin"][i] = (row["margin"][i] * before + margin * (name == choice)) / row["weight"]

    def _ranking(self, value: Ranking, judgement: Judgement, index: _Slots, where: dict[str, int]) -> str | None:
        tier_of = {name: tier for tier, names in enumerate(value.rank) for name in names}
        tiers = [tier_of.get(name, -1) for name in index]
        self.ranked.append({"index": list(index.values()), "tiers": tiers, "weight": 1.0, **where})
        return None

    def _rating(self, value: Rating, judgement: Judgement, index: _Slots, where: dict[str, int]) -> str | None:
        if value.step is not None or value.segment is not None:
            return "rating of a part of a candidate"
        low, high, score = float(value.scale[0]), float(value.scale[1]), float(value.score)
        whole = (high - low).is_integer() and (score - low).is_integer() and high - low <= MOST_STEPS
        scale = Scale(value.aspect, low, high, int(high - low) + 1 if whole else 0)
        row = {
            "index": index[value.slot],
            "score": 2 * (score - low) / (high - low) - 1,
            "category": int(score - low) if whole else -1,
            "scale": self.scales.setdefault(scale, len(self.scales)),
            "weight": 1.0,
        }
        self.rated.append({**row, **where})
        return None

    def _label(self, value: Label, judgement: Judgement, index: _Slots, where: dict[str, int]) -> str | None:
        self._vote_label(index[value.slot], value.name, value.good, where)
        return None

    def _approval(self, value: Approval, judgement: Judgement, index: _Slots, where: dict[str, int]) -> str | None:
        self._vote_label(index[value.slot], "approval", value.approved, where)
        return None

    def _all_bad(self, index: _Slots, where: dict[str, int]) -> None:
        for candidate in index.values():
            self._vote_label(candidate, "good", False, where)

    def _vote_label(self, candidate: int, name: str, good: bool, where: dict[str, int]) -> None:
        number = self.label_names.setdefault(name, len(self.label_names))
        new = {"index": candidate, "name": number, "target": 0.0, "weight": 0.0, **where}
        row = self.labelled.setdefault((candidate, number, where["stream"]), new)
        row["target"] = (row["target"] * row["weight"] + float(good)) / (row["weight"] + 1)
        row["weight"] += 1.0

    def data(self) -> RewardData:
        """All rows as tensors."""
        return RewardData(
            candidates=tuple(self.candidates.values()),
            tasks=tuple(self.tasks.values()),
            streams=tuple(self.streams),
            scales=tuple(self.scales),
            label_names=tuple(self.label_names),
            candidate_task=torch.tensor(self.candidate_task, dtype=torch.long),
            choices=evidence.choices(list(self.votes.values())),
            rankings=evidence.rankings(self.ranked),
            ratings=evidence.ratings(self.rated),
            labels=evidence.labels(list(self.labelled.values())),
            used=dict(self.used),
            dropped=dict(self.dropped),
        )
