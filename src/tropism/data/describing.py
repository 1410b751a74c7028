"""What a source holds, in numbers: kinds, annotators and their agreement, splits, groups, lengths.

One pass; kept are lengths and digests, not texts. Left out: judging the quality of annotators.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tropism.data.records import Record, prompt_text
from tropism.digests import digest
from tropism.feedback.values import slot_names


@dataclass(frozen=True)
class Agreement:
    """How far annotators agree where several judged the same thing.

    ``items`` were judged by two or more of the ``annotators``. ``share``: of two annotators' answers to an item, how
    often they are equal. ``alpha``: Krippendorff's, nominal: 1 is full agreement, 0 what chance would give; None where
    everybody always says the same.
    """

    items: int
    annotators: int
    share: float
    alpha: float | None


@dataclass
class Description:
    """Counts of records; lengths in characters."""

    records: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    choices: Counter[str] = field(default_factory=Counter)
    """What comparisons say, by canonical choice; of K candidates in other kinds by K."""
    annotators: Counter[str] = field(default_factory=Counter)
    nameless: int = 0
    splits: Counter[str] = field(default_factory=Counter)
    groups: Counter[str] = field(default_factory=Counter)
    chats: int = 0
    prompts: set[str] = field(default_factory=set)
    answers: set[str] = field(default_factory=set)
    lengths: dict[str, array[int]] = field(
        default_factory=lambda: {name: array("q") for name in ("prompt", "answer", "text")}
    )
    _said: dict[str, dict[str, str]] = field(default_factory=dict)

    def add(self, record: Record) -> None:
        """Take in one record."""
        self.records += 1
        self.kinds[record.kind if record.value is not None or record.kind == "prompt" else "unjudged"] += 1
        self.splits[record.split or "none"] += 1
        self.chats += not isinstance(record.prompt, str)
        if record.group:
            self.groups[record.group] += 1
        if record.teacher is None:
            self.nameless += 1
        else:
            self.annotators[record.teacher] += 1
        self._add_texts(record)
        choice = (record.value or {}).get("choice")
        self.choices[str(choice) if choice is not None else f"{len(record.candidates)} answers"] += 1
        if record.teacher is not None and record.value is not None:
            for item, answer in _items(record):
                self._said.setdefault(item, {}).setdefault(record.teacher, answer)

    def _add_texts(self, record: Record) -> None:
        prompt = prompt_text(record.prompt)
        self.prompts.add(digest(prompt)[:16])
        self.lengths["prompt"].append(len(prompt))
        for content in record.candidates:
            self.answers.add(digest([prompt, dict(content)])[:16])
            if isinstance(content.get("text"), str):
                self.lengths["answer"].append(len(content["text"]))
        if record.text is not None:
            self.lengths["text"].append(len(record.text))

    def agreement(self) -> Agreement | None:
        """Agreement on comparisons, rankings (each pair of them) and labels; None where nothing was judged twice."""
        shared = [answers for answers in self._said.values() if len(answers) > 1]
        if not shared:
            return None
        pairs = equal = 0
        # Krippendorff's coincidences: an item with m answers counts each pair of them 1 / (m - 1) times
        coincidences = 0.0
        totals: Counter[str] = Counter()
        for answers in shared:
            m = len(answers)
            counts = Counter(answers.values())
            same = sum(n * (n - 1) for n in counts.values())
            pairs, equal = pairs + m * (m - 1), equal + same
            coincidences += same / (m - 1)
            totals.update(counts)
        n = sum(totals.values())
        expected = sum(count * (count - 1) for count in totals.values()) / (n - 1)
        alpha = None if expected == n else 1 - (n - coincidences) / (n - expected)
        voters = {teacher for answers in shared for teacher in answers}
        return Agreement(len(shared), len(voters), equal / pairs, alpha)

    def quartiles(self) -> Mapping[str, list[int]]:
        """Least, lower quartile, median, upper quartile, 99th percentile and most of each length that there is."""
        points = (0, 25, 50, 75, 99, 100)
        return {name: [int(q) for q in np.percentile(held, points)] for name, held in self.lengths.items() if held}


def describe(records: Iterable[Record]) -> Description:
    """A description of records."""
    made = Description()
    for record in records:
        made.add(record)
    return made


def _items(record: Record) -> list[tuple[str, str]]:
    """(what was judged, the answer) of a value with answers that can be compared, whatever the order of candidates."""
    value: Mapping[str, Any] = record.value or {}
    marks = [digest(dict(content))[:16] for content in record.candidates]
    about = digest([prompt_text(record.prompt), record.kind])[:16]
    if record.kind == "comparison" and len(marks) == 2:
        said = {"a": marks[0], "b": marks[1]}.get(value["choice"], value["choice"])
        # by place in the sorted pair, so that both sides are the same two categories for all pairs
        return [(f"{about} {sorted(marks)}", str(sorted(marks).index(said)) if said in marks else said)]
    if record.kind == "ranking":
        place = {slot: i for i, group in enumerate(value["rank"]) for slot in group}
        ranked = [
            (mark, place[s]) for mark, s in zip(marks, slot_names("ranking", len(marks)), strict=True) if s in place
        ]
        ranked.sort()
        made = []
        for i, (one, first) in enumerate(ranked):
            for other, second in ranked[i + 1 :]:
                made.append((f"{about} {one} {other}", "0" if first < second else "1" if second < first else "tie"))
        return made
    if record.kind in ("label", "approval"):
        return [(f"{about} {marks} {value.get('name', '')}", str(value.get("good", value.get("approved"))))]
    return []
