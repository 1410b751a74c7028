"""From records to what is trained on: judgements for reward models, demonstrations for SFT, prompts for policies.

No study is needed: ids are digests of content, and what came to nothing is listed with its line and reason. Test
rows never come out for training; they are kept apart. Left out: pseudonyms (a study's import gives them; here an
annotator is called what the source calls them), and the quality of annotators.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from tropism.data.records import Record, Rejected, payload, prompt_text
from tropism.data.voting import Guard, KnownSplit, SplitBy, Splits, Unusable, Vote, nowhere, voice_id
from tropism.digests import digest
from tropism.feedback.records import Judgement, Split, Task

NAMELESS = "import"
"""The teacher of rows that name no annotator."""


@dataclass
class Judged:
    """What records say, split by prompt or group.

    ``judgements`` are of train and validation tasks, in the records' order; ``test`` are for assessment alone.
    ``dropped``: the records that gave no judgement. ``records`` = judgements + test + dropped.
    """

    judgements: list[Judgement] = field(default_factory=list)
    test: list[Judgement] = field(default_factory=list)
    dropped: list[Rejected] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    """How many were dropped, by reason in general words."""
    records: int = 0

    def summary(self) -> dict[str, Any]:
        """Counts for a report, as JSON: judgements by split and kind, tasks, teachers, dropped records by reason."""
        every = [*self.judgements, *self.test]
        return {
            "records": self.records,
            "judgements": dict(sorted(Counter(j.task.split for j in every).items())),
            "kinds": dict(sorted(Counter(str(j.value["kind"]) for j in every).items())),
            "tasks": dict(sorted(Counter(split for split, _ in {(j.task.split, j.task.id) for j in every}).items())),
            "teachers": len({j.teacher_id for j in every}),
            "dropped": dict(sorted(self.reasons.items())),
        }


def to_judgements(
    records: Iterable[Record],
    *,
    validation_share: float = 0.1,
    split_by: SplitBy = "prompt",
    known_split: KnownSplit | None = None,
    seed: int = 0,
    source: str = NAMELESS,
) -> Judged:
    """Judgements of all records that hold one.

    A record keeps its own split; others go where ``known_split`` has their prompt, else a share ``validation_share``
    of the prompts (or groups) goes to validation, chosen by hash, the others to train. A record that would put a
    prompt (or group) into a second split is dropped, and so is a second value of one teacher on the same answers.
    ``source`` names the candidates' policy in their provenance, and the teacher where a record names none.
    """
    guard = Guard(Splits(validation_share, split_by, known_split or nowhere, seed))
    judged = Judged()
    for record in records:
        judged.records += 1
        try:
            vote = guard.vote(record, source=source)
        except Unusable as bad:
            judged.dropped.append(Rejected(record.line, str(bad)))
            judged.reasons[bad.general] += 1
            continue
        into = judged.test if vote.task.split == "test" else judged.judgements
        into.append(_judgement(record, vote, source))
    return judged


def to_demonstrations(
    records: Iterable[Record],
    *,
    chosen: bool = False,
    splits: Collection[Split | None] = ("train", None),
) -> list[tuple[dict[str, Any], str]]:
    """(task payload, completion) of demonstrations and corrections; with ``chosen`` also of what was preferred.

    Preferred is the chosen side of a comparison, the best of K, and the single first of a ranking, where it is text.
    Records of other ``splits`` are left out: validation and test prompts are not imitated. The same completion of the
    same task comes once.
    """
    made: dict[str, tuple[dict[str, Any], str]] = {}
    for record in records:
        text = preferred_text(record, chosen=chosen)
        if record.split in splits and text:
            task = payload(record)
            made.setdefault(digest([task, text]), (task, text))
    return list(made.values())


def to_prompts(
    records: Iterable[Record],
    *,
    validation_share: float = 0.1,
    split_by: SplitBy = "prompt",
    known_split: KnownSplit | None = None,
    seed: int = 0,
) -> list[Task]:
    """The distinct prompts of records of any kind as tasks, split as ``to_judgements`` splits them.

    A prompt that occurs several times is the task of its first record; a later record that would put it (or its
    group) into another split changes nothing.
    """
    guard = Guard(Splits(validation_share, split_by, known_split or nowhere, seed))
    tasks: dict[str, Task] = {}
    for record in records:
        key = digest(prompt_text(record.prompt))
        if key not in tasks:
            try:
                tasks[key] = Task(guard.split(record), payload(record))
            except Unusable:
                continue
    return list(tasks.values())


def _judgement(record: Record, vote: Vote, source: str) -> Judgement:
    assert vote.answer.value is not None
    teacher = record.teacher if record.teacher is not None else voice_id(source, vote.voice)
    said = [vote.query.id, teacher, dict(vote.answer.value), vote.answer.text]
    kind = "import" if record.teacher is None else "person"
    event = digest(said)[:24]
    return Judgement(event, teacher, vote.query, vote.task, vote.candidates, vote.answer.value, vote.answer.text, kind)


def preferred_text(record: Record, *, chosen: bool) -> str | None:
    """The text to imitate, or None: of a demonstration or correction, with ``chosen`` of what was preferred."""
    value = record.value or {}
    kind = value.get("kind", record.kind)
    if kind in ("demonstration", "correction"):
        return record.text
    if not chosen:
        return None
    best = {
        "comparison": {"a": 0, "b": 1}.get(str(value.get("choice"))),
        "best_of": _slot(value.get("best")),
        "ranking": _slot(value["rank"][0][0]) if "rank" in value and len(value["rank"][0]) == 1 else None,
    }.get(str(kind))
    return None if best is None else record.candidates[best].get("text")


def _slot(name: object) -> int | None:
    """The index of slot ``c1`` … ``cK``."""
    text = str(name)
    return int(text[1:]) - 1 if text[:1] == "c" and text[1:].isdigit() else None
