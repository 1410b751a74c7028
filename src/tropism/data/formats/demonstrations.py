"""Demonstrations: a prompt and the answer to imitate, in the forms that instruction data come in.

prompt + completion (texts or messages) · messages, of which the last is the answer · turns as from / value ·
instruction, input, output · instruction with several instances. Left out: training on every turn of a dialogue.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from tropism.data.formats.asked import ASKING, asked, instruction_text, turns, with_system
from tropism.data.formats.base import Format, Repeats, common
from tropism.data.formats.chat import answer_of, candidate_of, dialogue, last_turn
from tropism.data.records import Prompt, Record
from tropism.data.rows import Row, kind_of, text_of
from tropism.data.strict_json import BadRow

ANSWER_COLUMNS = ("completion", "answer", "response", "output")
"""The answer's column is the first of these that the row has."""
_JUDGED = frozenset(
    {"label", "kto_tag", "score", "critique", "correction", "chosen", "rejected", "completions", "helpfulness"}
)


@dataclass(frozen=True)
class Demonstrations(Format):
    """``prompt`` + ``completion``; or ``messages`` / ``conversations``; or ``instruction`` (+ ``input``, ``history``) +
    ``output``; or ``instruction`` + ``instances``. Optional: ``system``, ``annotator``, ``split``, ``group``, ``id``.

    Repeats are kept and noted. ``strip_suffix``: text taken off the end of every answer, where it stands (an end token
    that somebody wrote out).
    """

    name: ClassVar[str] = "demonstrations"
    summary: ClassVar[str] = "prompt, completion; or messages; or instruction, input, output"
    columns: ClassVar[tuple[str, ...]] = (
        *(*ASKING, "completion", "output", "messages", "instances"),
        *("annotator", "split", "group", "id"),
    )

    usual_repeats: ClassVar[Repeats] = "keep"

    strip_suffix: str = ""

    @classmethod
    def fits(cls, row: Row) -> bool:
        """One of the forms, without a judgement beside it."""
        if _JUDGED & set(row.values) or {"output_1", "response1", "tropism"} & set(row.values):
            return False
        if row.has("prompt") or row.has("instruction"):
            return row.has("instances") or any(row.has(column) for column in ANSWER_COLUMNS)
        return row.has("messages") or row.has("conversations")

    def make(self, row: Row) -> Iterator[Record]:
        """One demonstration, or one per instance."""
        made = list(self._forms(row))
        shared = common(row)
        for prompt, text in made:
            if self.strip_suffix and text.endswith(self.strip_suffix):
                text = text.removesuffix(self.strip_suffix)
                row.repaired[f"suffix {self.strip_suffix!r} taken off"] += 1
            text_of(text, "the answer")
            yield Record(prompt=prompt, value={"kind": "demonstration"}, text=text, kind="demonstration", **shared)

    def _forms(self, row: Row) -> Iterator[tuple[Prompt, str]]:
        for column in ("messages", "conversations"):
            if column in row.values and "prompt" not in row.values:
                yield conversation(row, column)
                return
        if "instances" in row.values and "prompt" not in row.values:
            yield from _instances(row)
            return
        prompt = asked(row)
        found = answer_column(row)
        prompt, (answer,) = dialogue(prompt, [answer_of(row, found)], row)
        if not isinstance(answer, str) and len(answer) > 1:
            raise BadRow(f"{found} has {len(answer)} messages: put all but the last into the prompt")
        yield prompt, candidate_of(answer, row)["text"]


def answer_column(row: Row) -> str:
    """The column of a row's only answer. Errors: BadRow if there is none."""
    found = next((column for column in ANSWER_COLUMNS if column in row.values), None)
    if found is None:
        raise BadRow(row.missing("completion"))
    return found


def conversation(row: Row, column: str) -> tuple[Prompt, str]:
    """The messages before the last one, and what the assistant says in that. Errors: BadRow."""
    before, said = last_turn(turns(row, column), column)
    return with_system(row, before), said


def _instances(row: Row) -> Iterator[tuple[Prompt, str]]:
    """An instruction with several inputs, each with its output."""
    instruction = row.text("instruction")
    instances = row.listed("instances")
    if not instances:
        raise BadRow("instances is an empty list")
    for place, one in enumerate(instances, 1):
        name = f"instances[{place}]"
        if not isinstance(one, dict):
            raise BadRow(f"{name} is {kind_of(one)}, not an object with input and output")
        given = text_of(_or_empty(one.get("input")), f"{name}.input", empty=True)
        yield instruction_text(instruction, given), text_of(one.get("output"), f"{name}.output")


def _or_empty(value: Any) -> Any:
    return "" if value is None else value
