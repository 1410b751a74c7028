"""Preference pairs: chosen and rejected, or first and second with a label; texts or chat messages.

The prompt may be a column, the answers' common beginning, or a ``conversations`` list of turns. Left out: transcripts
in one text (``hh.py``), and several annotators in one row (``votes.py``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from tropism.data.formats.asked import ASKING, asked
from tropism.data.formats.base import Format, common, value_of
from tropism.data.formats.chat import Answer, answer_of, candidate_of, dialogue
from tropism.data.records import Prompt, Record
from tropism.data.rows import Row
from tropism.data.strict_json import BadRow, short

Choice = Literal["a", "b", "tie"]

_LABELS: dict[float, Choice] = {0: "a", 1: "b", 0.5: "tie"}


def choice_of_label(label: Any) -> Choice:
    """The literature's coding: 0 = the first is preferred, 1 = the second, 0.5 = equal. Errors: BadRow."""
    if isinstance(label, bool) or not isinstance(label, int | float) or label not in _LABELS:
        raise BadRow(f"label is {short(label)}, not 0 (first preferred), 1 (second preferred) or 0.5 (equal)")
    return _LABELS[label]


def label_of_choice(choice: Choice) -> float:
    """The inverse of ``choice_of_label``."""
    return {"a": 0, "b": 1, "tie": 0.5}[choice]


@dataclass(frozen=True)
class Pairs(Format):
    """``prompt`` (or ``conversations``, ``instruction`` + ``input``, or none), ``chosen`` and ``rejected``; or
    ``first``, ``second`` and ``label``.

    Optional: ``system``, ``strength`` (0-3), ``annotator``, ``split``, ``group``, ``id``, ``reason``. The file's order
    is kept: slot a is ``chosen`` or ``first``; whoever makes queries of them shuffles. ``empty``: answers may be empty.
    """

    name: ClassVar[str] = "pairs"
    summary: ClassVar[str] = "prompt, chosen, rejected; or prompt, first, second, label (0, 1, 0.5)"
    columns: ClassVar[tuple[str, ...]] = (
        *(*ASKING, "chosen", "rejected", "first", "second", "label", "strength"),
        *("reason", "annotator", "split", "group", "id"),
    )

    empty: bool = False

    @classmethod
    def fits(cls, row: Row) -> bool:
        """Both answers are there, and the prompt's column, or no transcript of turns inside the answers."""
        if row.has("first", "second"):
            return "label" in row.values
        if not row.has("chosen", "rejected"):
            return False
        return bool({"prompt", "instruction", "conversations"} & set(row.values)) or not is_transcript(
            row.values["chosen"]
        )

    def make(self, row: Row) -> Iterator[Record]:
        """One comparison."""
        prompt = _prompt(row)
        labelled = "first" in row.values or "second" in row.values
        if labelled and ("chosen" in row.values or "rejected" in row.values):
            raise BadRow("both chosen/rejected and first/second")
        names = ("first", "second") if labelled else ("chosen", "rejected")
        first, second = (answer_of(row, name, empty=self.empty) for name in names)
        choice = _choice(row, labelled)
        if first == second:
            raise BadRow("the two answers are identical")
        prompt, (first, second) = _split(prompt, first, second, row)
        value: dict[str, Any] = {"choice": choice, "strength": _strength(row, choice)}
        yield Record(
            prompt=prompt,
            candidates=tuple(candidate_of(answer, row, empty=self.empty) for answer in (first, second)),
            value=value_of("comparison", value, 2),
            kind="comparison",
            text=row.maybe_text("reason"),
            shown=(0, 1) if labelled else None,
            **common(row),
        )


def is_transcript(value: Any) -> bool:
    """Whether a text holds turns of "Human:" and "Assistant:"."""
    return isinstance(value, str) and "\n\nHuman:" in value and "\n\nAssistant:" in value


def _prompt(row: Row) -> Prompt | None:
    """The prompt, or None where it stands inside the answers."""
    if {"prompt", "instruction", "conversations"} & set(row.values):
        return asked(row)
    if not {"chosen", "first"} & set(row.values):
        raise BadRow(row.missing("prompt"))
    return None


def _split(prompt: Prompt | None, first: Answer, second: Answer, row: Row) -> tuple[Prompt, list[Answer]]:
    try:
        return dialogue(prompt, [first, second], row)
    except BadRow as bad:
        if prompt is None:
            raise BadRow(f"{row.missing('prompt')}, and {bad}") from bad
        raise


def _choice(row: Row, labelled: bool) -> Choice:
    if not labelled:
        if row.has("label"):
            raise BadRow("a label beside chosen and rejected: name the answers first and second")
        return "a"
    if "label" not in row.values:
        raise BadRow("column label is missing (first and second need one)")
    label = row.get("label")
    return choice_of_label(label if row.typed else row.number("label"))


def _strength(row: Row, choice: Choice) -> int:
    if not row.has("strength"):
        return 0
    value = row.number("strength")
    if value not in (0, 1, 2, 3):
        raise BadRow(f"strength is {short(value)}, not a whole number from 0 to 3")
    if value and choice == "tie":
        raise BadRow(f"strength {value} beside a tie")
    return int(value)
