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
from tropism.reward import evidence
from tropism.reward.evidence import Choices, Labels, Rankings, Ratings, Scale

MOST_LEVELS = 20
"""Whole-numbered scales of at most this many steps are categories too, for the ordinal loss."""


@dataclass(frozen=True)
class RewardData:
    """Evidence about candidates. Rows of train and validation tasks lie side by side; see ``fold``."""

    candidates: tuple[Candidate, ...]
    tasks: tuple[Task, ...]
    streams: tuple[str, ...]
    scales: tuple[Scale, ...]
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
    def from_judgements(
        cls,
        judgements: Sequence[Judgement],
        teacher_kinds: Mapping[str, str] | None = None,
        strength_margin: float = 0.0,
    ) -> RewardData:
        """Index ``judgements`` of train and validation tasks.

        ``teacher_kinds`` maps teacher ids to streams (``person``, ``oracle``, …); without it a stream is a teacher.
        ``strength_margin`` is the margin, in logits, of a comparison at full strength (3); 0 ignores strengths.

        Raises DataError for a test task, for the same task content in two splits, and for a malformed value.
        """
        builder = _Builder(teacher_kinds or {}, strength_margin)
        for judgement in judgements:
            builder.add(judgement)
        return builder.data()

    def fold(self, train: bool) -> RewardData:
        """The same candidates with the evidence of train tasks, or of validation tasks, only."""
        splits = torch.tensor([task.split == "train" for task in self.tasks], dtype=torch.bool)
        wanted = splits if train else ~splits
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

    def __init__(self, teacher_kinds: Mapping[str, str], strength_margin: float) -> None:
        self.teacher_kinds, self.strength_margin = teacher_kinds, strength_margin
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
        self.labelled: dict[tuple[int, int], dict[str, Any]] = {}
        self.used: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()

    def add(self, judgement: Judgement) -> None:
        """Index one judgement's task and candidates, and turn its value into rows."""
        self._check_split(judgement.task)
        kind = judgement.query.kind
        handle = self._handlers().get(kind)
        if handle is None:
            self.dropped[f"{kind}: no evidence for a reward model"] += 1
            return
        stream = self.teacher_kinds.get(judgement.teacher_id, judgement.teacher_id)
        where = {
            "task": self.task_number.setdefault(judgement.task.id, len(self.task_number)),
            "stream": self.streams.setdefault(stream, len(self.streams)),
        }
        self.tasks.setdefault(judgement.task.id, judgement.task)
        try:
            dropped = handle(judgement, [self._candidate(c, where["task"]) for c in judgement.candidates], where)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            value = dict(judgement.value)
            raise DataError(
                f"{kind} {value} of event {judgement.event_id} does not fit its {len(judgement.candidates)} candidates",
                f"correct the event ({type(error).__name__}: {error})",
            ) from error
        if dropped is None:
            self.used[kind] += 1
        else:
            self.dropped[dropped] += 1

    def _handlers(self) -> Mapping[str, Callable[[Judgement, list[int], dict[str, int]], str | None]]:
        return {
            "comparison": self._comparison,
            "best_of": self._best_of,
            "ranking": self._ranking,
            "rating": self._rating,
            "label": self._label,
            "approval": self._label,
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

    def _comparison(self, judgement: Judgement, index: list[int], where: dict[str, int]) -> str | None:
        choice, strength = judgement.value["choice"], judgement.value.get("strength") or 0
        if choice == "cannot_judge":
            return "cannot_judge"
        if choice == "both_bad":
            for candidate in index:
                self._vote_label(candidate, 0.0, where)
            return None
        share = {"a": [1.0, 0.0], "b": [0.0, 1.0], "tie": [0.5, 0.5]}[choice]
        margin = self.strength_margin * float(strength) / 3
        self._vote(judgement, index, share, [margin if s == 1.0 else 0.0 for s in share], where)
        return None

    def _best_of(self, judgement: Judgement, index: list[int], where: dict[str, int]) -> str | None:
        best = slot(judgement.value["best"], len(index))
        self._vote(judgement, index, [float(i == best) for i in range(len(index))], [0.0] * len(index), where)
        return None

    def _vote(
        self, judgement: Judgement, index: list[int], share: list[float], margin: list[float], where: dict[str, int]
    ) -> None:
        if len(set(index)) != len(index) or len(index) != len(share):
            raise ValueError(f"{len(set(index))} different candidates for {len(share)} slots")
        key = (judgement.query.id, where["stream"])
        new = {"index": index, "target": [0.0] * len(index), "margin": [0.0] * len(index), "weight": 0.0, **where}
        row = self.votes.setdefault(key, new)
        before, row["weight"] = row["weight"], row["weight"] + 1.0
        for name, vote in (("target", share), ("margin", margin)):
            row[name] = [(x * before + v) / row["weight"] for x, v in zip(row[name], vote, strict=True)]

    def _ranking(self, judgement: Judgement, index: list[int], where: dict[str, int]) -> str | None:
        tiers = [-1] * len(index)
        for tier, slots in enumerate(judgement.value["rank"]):
            for name in slots:
                tiers[slot(name, len(index))] = tier
        if sum(tier >= 0 for tier in tiers) < 2:
            return "ranking: fewer than two ranked candidates"
        self.ranked.append({"index": index, "tiers": tiers, "weight": 1.0, **where})
        return None

    def _rating(self, judgement: Judgement, index: list[int], where: dict[str, int]) -> str | None:
        value = judgement.value
        if value.get("step") is not None or value.get("segment") is not None:
            return "rating of a part of a candidate"
        low, high = (float(end) for end in value["scale"])
        score = float(value["score"])
        if not low <= score <= high or low >= high:
            raise ValueError(f"score {score} outside the scale {low} to {high}")
        whole = (high - low).is_integer() and (score - low).is_integer() and high - low < MOST_LEVELS
        scale = Scale(str(value.get("aspect") or ""), low, high, int(high - low) + 1 if whole else 0)
        self.rated.append(
            {
                "index": index[slot(value["slot"], len(index)) if value.get("slot") else 0],
                "score": 2 * (score - low) / (high - low) - 1,
                "category": int(score - low) if whole else -1,
                "scale": self.scales.setdefault(scale, len(self.scales)),
                "weight": 1.0,
                **where,
            }
        )
        return None

    def _label(self, judgement: Judgement, index: list[int], where: dict[str, int]) -> str | None:
        value = judgement.value
        given = value["label"] if "label" in value else value["approval"]
        target = {"good": 1.0, "safe": 1.0, "up": 1.0, "bad": 0.0, "unsafe": 0.0, "down": 0.0}[given]
        self._vote_label(index[slot(value["slot"], len(index)) if value.get("slot") else 0], target, where)
        return None

    def _vote_label(self, candidate: int, target: float, where: dict[str, int]) -> None:
        new = {"index": candidate, "target": 0.0, "weight": 0.0, **where}
        row = self.labelled.setdefault((candidate, where["stream"]), new)
        row["target"] = (row["target"] * row["weight"] + target) / (row["weight"] + 1)
        row["weight"] += 1.0

    def data(self) -> RewardData:
        """All rows as tensors."""
        return RewardData(
            candidates=tuple(self.candidates.values()),
            tasks=tuple(self.tasks.values()),
            streams=tuple(self.streams),
            scales=tuple(self.scales),
            candidate_task=torch.tensor(self.candidate_task, dtype=torch.long),
            choices=evidence.choices(list(self.votes.values())),
            rankings=evidence.rankings(self.ranked),
            ratings=evidence.ratings(self.rated),
            labels=evidence.labels(list(self.labelled.values())),
            used=dict(self.used),
            dropped=dict(self.dropped),
        )


def slot(name: str, count: int) -> int:
    """Index of a canonical slot: ``a``, ``b`` of a comparison, ``c1`` … ``cK`` otherwise; ValueError if unknown."""
    number = {"a": 0, "b": 1}.get(name, int(name[1:]) - 1 if name[:1] == "c" and name[1:].isdigit() else -1)
    if not 0 <= number < count:
        raise ValueError(f"no slot {name!r} among {count} candidates")
    return number
