"""From a record to a vote: its task and split, candidates in canonical slots, a query and an answer.

Everything is a digest of content, so that reading a file again, or a longer version of it, gives the same ids. Left
out: people's pseudonyms and the log (``importing.py``), and what a reader refused already.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from tropism.data.records import Record, payload, prompt_text
from tropism.digests import digest
from tropism.errors import DataError
from tropism.feedback.chance import shuffled, uniform
from tropism.feedback.records import Answer, Candidate, Provenance, Query, Split, Task
from tropism.feedback.values import dump_value, parse_value, slot_names

SplitBy = Literal["prompt", "group"]
KnownSplit = Callable[[str], Split | None]
IN_WORDS = ("demonstration", "correction", "critique")
"""Kinds of value that say nothing without their text."""
_ELSEWHERE = "its prompt is in another split"


class Unusable(Exception):
    """A record that gives no vote; the text is the reason, ``general`` the same without what is this record's own."""

    def __init__(self, reason: str, general: str = "") -> None:
        super().__init__(reason)
        self.general = general or reason


class Repeated(Unusable):
    """A second value of one teacher on the same answers."""


def nowhere(prompt: str) -> Split | None:
    """Knows no prompt's split."""
    return None


@dataclass(frozen=True)
class Splits:
    """Where a record goes: its own split, else what ``known`` says of its prompt, else a hash.

    The hash is of the prompt, or of the group (``by="group"``; records without a group by their prompt), so a prompt
    keeps its split when the file grows. ``validation_share`` of them go to validation, the others to train.
    """

    validation_share: float = 0.1
    by: SplitBy = "prompt"
    known: KnownSplit = nowhere
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.validation_share < 1:
            raise DataError(f"a validation share of {self.validation_share}", "give a number from 0 to below 1")

    def of(self, record: Record) -> Split:
        """The split of a record."""
        prompt = prompt_text(record.prompt)
        known = record.split or self.known(prompt)
        if known is not None:
            return known
        key = record.group if self.by == "group" and record.group else prompt
        return "validation" if uniform(self.seed, "split", key) < self.validation_share else "train"


@dataclass(frozen=True)
class Vote:
    """A record as the feedback log would hold it. ``value`` of the answer is checked and complete."""

    task: Task
    candidates: tuple[Candidate, ...]
    query: Query
    answer: Answer
    target: str
    """What of the query the value is about: a teacher has one current value for each."""
    voice: int = 1
    """Where nobody is named, several texts on one thing are by as many unknown people: the first, the second, …"""


def voice_id(teacher: str, voice: int) -> str:
    """The teacher behind a voice: ``import``, ``import-2``, …"""
    return teacher if voice == 1 else f"{teacher}-{voice}"


def as_vote(record: Record, split: Split, *, source: str = "import", round: int = 0) -> Vote:
    """The vote of a record, its candidates in an order that says nothing about what was preferred.

    ``source`` is the candidates' policy in their provenance. What was shown first is kept where the record says it,
    else drawn from the candidates' ids. Errors: Unusable with the reason.
    """
    if record.value is None or record.kind == "prompt":
        raise Unusable("no judgement")
    task = Task(split, payload(record))
    made_by = Provenance(source)
    given = [Candidate(task.id, record.candidate_kind, _plain(content), made_by) for content in record.candidates]
    order = sorted(range(len(given)), key=lambda i: given[i].id)
    ids = tuple(given[i].id for i in order)
    if len(set(ids)) != len(ids):
        raise Unusable("two of the answers are identical")
    if record.shown is None:
        shown = shuffled(len(ids), 0, "import", *ids)
    else:
        shown = tuple(order.index(slot) for slot in record.shown)
    try:
        slots = slot_names(record.kind, len(ids))
        value = parse_value(str(record.value.get("kind", record.kind)), record.value, slots)
        value = parse_value(value.kind, _moved(dump_value(value), slots, order), slots)
    except DataError as error:
        raise Unusable(error.problem, "its value cannot be used") from error
    if value.kind in IN_WORDS and not (record.text or "").strip() and getattr(value, "artifact", None) is None:
        raise Unusable(f"a {value.kind} without text")
    query = Query(task.id, record.kind, ids, shown, round)
    answer = Answer(dump_value(value), record.text)
    return Vote(task, tuple(given[i] for i in order), query, answer, value.target())


def _plain(content: Mapping[str, Any]) -> dict[str, Any]:
    """A candidate's content in one form: an answer that came as one plain assistant message is its text."""
    made = dict(content)
    if made.get("messages") == [{"role": "assistant", "content": made.get("text")}]:
        del made["messages"]
    return made


def _moved(value: Mapping[str, Any], slots: Sequence[str], order: Sequence[int]) -> dict[str, Any]:
    """A checked value in other slots: what was in ``slots[order[i]]`` is now in ``slots[i]``."""
    names = {slots[old]: slots[new] for new, old in enumerate(order)}
    moved = dict(value)
    for key in ("choice", "best", "slot"):
        if key in moved:
            moved[key] = names.get(moved[key], moved[key])  # tie, both_bad and the like are no slots
    for key in ("rank", "unranked"):
        if key in moved:  # tied and unranked slots in their canonical order: equal rankings have equal digests
            moved[key] = _renamed(moved[key], names, slots)
    for key in ("score", "scale"):  # 4.0 is 4, as tables that mix both have it: equal ratings have equal digests
        if key in moved:
            moved[key] = [_whole(end) for end in moved[key]] if key == "scale" else _whole(moved[key])
    return moved


def _whole(number: float) -> float:
    return int(number) if isinstance(number, float) and number.is_integer() else number


def _renamed(named: Sequence[Any], names: Mapping[str, str], slots: Sequence[str]) -> list[Any]:
    if named and not isinstance(named[0], str):
        return [_renamed(group, names, slots) for group in named]
    return sorted((names[slot] for slot in named), key=slots.index)


Voices = dict[tuple[str, str], dict[str, int]]
"""(query, target) → digest of a text that nobody signed → its voice."""


@dataclass
class Guard:
    """Holds many records against one another: one split for each prompt, one current value for each teacher.

    It remembers digests, not texts: some hundred bytes for each record. ``whose`` are the splits that ``known`` knows;
    ``voices`` are those of unsigned texts that were taken earlier.
    """

    splits: Splits
    whose: str = "the"
    voices: Voices = field(default_factory=dict)
    _prompts: dict[str, tuple[Split, int]] = field(default_factory=dict)
    _groups: dict[str, tuple[Split, int]] = field(default_factory=dict)
    _votes: dict[str, tuple[str, str, int]] = field(default_factory=dict)

    def vote(self, record: Record, *, source: str = "import", round: int = 0) -> Vote:
        """The record's vote, if it agrees with all that were taken before. Errors: Unusable."""
        split = self.split(record)
        vote = as_vote(record, split, source=source, round=round)
        if vote.answer.value is not None and vote.answer.value["kind"] in IN_WORDS and record.teacher is None:
            known = self.voices.setdefault((vote.query.id, vote.target), {})
            vote = replace(vote, voice=known.setdefault(digest(record.text), max(known.values(), default=0) + 1))
        self._check_doubled(record, vote)
        return vote

    def split(self, record: Record) -> Split:
        """The record's split. Errors: Unusable if its prompt, or its group, is in another one already."""
        split = self.splits.of(record)
        known = self.splits.known(prompt_text(record.prompt))
        if known is not None and known != split:
            raise Unusable(f"this prompt is in {self.whose} {known} split already, not in {split}", _ELSEWHERE)
        prompt = digest(prompt_text(record.prompt))[:32]
        there, line = self._prompts.get(prompt, (split, record.line))
        if there != split:
            raise Unusable(f"split {split}, but line {line} has this prompt in {there}", _ELSEWHERE)
        if self.splits.by == "group" and record.group:
            there, line = self._groups.setdefault(digest(record.group)[:32], (split, record.line))
            if there != split:
                problem = f"split {split}, but line {line} has group {record.group!r:.40} in {there}"
                raise Unusable(problem, "its group is in another split")
        self._prompts.setdefault(prompt, (split, record.line))
        return split

    def _check_doubled(self, record: Record, vote: Vote) -> None:
        # by candidates, not by query: who sees the same pair the other way round still judges it twice
        query = vote.query
        about = [vote.task.id, query.kind, list(query.candidate_ids), vote.target, record.teacher, vote.voice]
        key, mark = digest(about)[:32], digest([dict(vote.answer.value or {}), record.text])[:32]
        value = digest(dict(vote.answer.value or {}))[:32]
        if key not in self._votes:
            self._votes[key] = (mark, value, record.line)
            return
        there, there_value, line = self._votes[key]
        who = f"annotator {record.teacher!r:.40}" if record.teacher is not None else "a row without annotator"
        what = "the same pair" if len(vote.candidates) == 2 else "the same answers" if vote.candidates else "the prompt"
        if there == mark:
            raise Repeated(f"the same as line {line}", "said before")
        if vote.answer.value is not None and vote.answer.value["kind"] in IN_WORDS:
            problem = f"a second {query.kind} beside that of line {line} ({what}, {who}): join them, or give spans"
            raise Repeated(problem, f"a second {query.kind} of one annotator")
        if there_value == value:
            raise Repeated(f"the same as line {line} in other words ({what}, {who})", "said before in other words")
        raise Repeated(f"contradicts line {line} ({what}, {who})", "contradicts another row of its annotator")
