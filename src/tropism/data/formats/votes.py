"""Pairs that several annotators judged, all in one row: one record per annotator, whose names are kept apart.

PandaLM's test set, and any row with a ``votes`` object. Left out: a majority, which is the reward model's to draw.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from tropism.data.formats.asked import ASKING, asked
from tropism.data.formats.base import Format, Repeats, common, value_of
from tropism.data.formats.chat import Answer, answer_of, candidate_of, dialogue
from tropism.data.formats.pairs import choice_of_label
from tropism.data.records import Record
from tropism.data.rows import Row, number_of
from tropism.data.strict_json import BadRow, short
from tropism.errors import DataError

Coding = Literal["tie-first-second", "first-second"]

_ANNOTATOR = re.compile(r"annotator[ _-]?\d+")
_TIE_FIRST: dict[float, str] = {0: "tie", 1: "a", 2: "b"}
_ANSWERS = (("response1", "response2"), ("first", "second"))


@dataclass(frozen=True)
class Votes(Format):
    """``prompt`` (or ``instruction`` + ``input``), two answers (``first`` and ``second``, or ``response1`` and
    ``response2``), and votes: columns ``annotator1`` … ``annotatorN``, or an object ``votes`` of name to vote.

    ``coding`` of numbers: ``tie-first-second`` (0, 1, 2; the usual one of annotator columns) or ``first-second`` (0, 1,
    and 0.5 for a tie; the usual one of ``votes``). A vote may also be an object ``{"choice", "strength"}``. Annotators
    who gave no vote (null) are left out. The answers of models may be empty here (noted) unless ``empty`` is false.
    Pairs that come again under another id are kept (noted): each is a judgement of its own.
    """

    name: ClassVar[str] = "votes"
    summary: ClassVar[str] = (
        "instruction, input, response1, response2, annotator1 … annotatorN; or first, second, votes"
    )
    columns: ClassVar[tuple[str, ...]] = (
        *(*ASKING, "response1", "response2", "first", "second", "votes"),
        *("motivation_app", "split", "group", "id"),
    )
    usual_repeats: ClassVar[Repeats] = "keep"

    coding: Coding | None = None
    empty: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.coding not in (None, "tie-first-second", "first-second"):
            raise DataError(
                f"coding is {self.coding!r}", "use 'tie-first-second' (0, 1, 2) or 'first-second' (0, 1, 0.5)"
            )

    @classmethod
    def fits(cls, row: Row) -> bool:
        """Two answers and several votes."""
        two = any(set(names) <= set(row.values) for names in _ANSWERS)
        return two and (row.has("votes") or bool(_annotators(row)))

    def make(self, row: Row) -> Iterator[Record]:
        """One comparison per vote."""
        names = next((names for names in _ANSWERS if names[0] in row.values), None)
        if names is None:
            raise BadRow(row.missing("first"))
        answers = [self._answer(row, name) for name in names]
        if answers[0] == answers[1]:
            raise BadRow("the two answers are identical")
        prompt, answers = dialogue(asked(row), answers, row)
        candidates = tuple(candidate_of(answer, row, empty=self.empty) for answer in answers)
        values = {name: value_of("comparison", vote, 2) for name, vote in self._votes(row)}
        group = row.name("motivation_app")
        shared = common(row) | {"source_id": row.name("id") or row.name("idx")}
        shared |= {"group": shared["group"] or group or "", "meta": row.rest()}
        for name, value in values.items():
            yield Record(
                prompt=prompt,
                candidates=candidates,
                value=value,
                kind="comparison",
                shown=(0, 1) if names[0] == "first" else None,
                **shared | {"teacher": name},
            )

    def _answer(self, row: Row, column: str) -> Answer:
        value = row.get(column)
        if isinstance(value, bool):
            row.repaired["truth value instead of an answer written as text"] += 1
            return str(value)
        return answer_of(row, column, empty=self.empty)

    def _votes(self, row: Row) -> Iterator[tuple[str, dict[str, Any]]]:
        columns = _annotators(row)
        by_name = "votes" in row.values
        if not columns and not by_name:
            raise BadRow(row.missing("votes"))
        given = row.object("votes") if by_name else {column: _number(row, column) for column in columns}
        coding = self.coding or ("first-second" if by_name else "tie-first-second")
        for name, vote in given.items():
            if vote is None:
                row.left_out["annotators without a vote"] += 1
            elif isinstance(vote, dict):
                yield name, vote
            else:
                yield name, {"choice": _choice(vote, name, coding)}


def _annotators(row: Row) -> list[str]:
    return [column for column in row.values if _ANNOTATOR.fullmatch(column)]


def _number(row: Row, column: str) -> Any:
    if not row.has(column):
        row.used.add(column)
        return None
    return row.get(column) if row.typed else row.number(column)


def _choice(vote: Any, name: str, coding: Coding) -> str:
    if coding == "first-second":
        return choice_of_label(vote)
    number = number_of(vote, name)
    if number not in _TIE_FIRST:
        raise BadRow(f"{name} is {short(vote)}, not 0 (tie), 1 (first) or 2 (second)")
    return _TIE_FIRST[number]
