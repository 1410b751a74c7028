"""One answer and a yes or no about it: TRL's unpaired preference, and ``kto_tag`` files.

Left out: thumbs that come from serving, which are approvals, and ratings on a scale (``ratings.py``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from tropism.data.formats.asked import ASKING, asked
from tropism.data.formats.base import Format, common, value_of
from tropism.data.formats.chat import Answer, answer_of, candidate_of, dialogue
from tropism.data.formats.demonstrations import ANSWER_COLUMNS, answer_column, conversation
from tropism.data.records import Prompt, Record
from tropism.data.rows import Row


@dataclass(frozen=True)
class Unpaired(Format):
    """``label`` (or ``kto_tag``), true or false, beside ``prompt`` + ``completion``, ``messages`` / ``conversations``,
    or ``instruction`` (+ ``input``) + ``output``. Optional: ``system``, ``name`` (of the quality), ``annotator``,
    ``split``, ``group``, ``id``, ``reason``.

    ``quality``: what the label says yes or no to, where no column ``name`` says it. ``empty``: answers may be empty.
    """

    name: ClassVar[str] = "unpaired"
    summary: ClassVar[str] = "prompt, completion, label (true or false)"
    columns: ClassVar[tuple[str, ...]] = (
        *(*ASKING, "completion", "output", "messages", "label", "kto_tag"),
        *("name", "reason", "annotator", "split", "group", "id"),
    )

    quality: str = "good"
    empty: bool = False

    @classmethod
    def fits(cls, row: Row) -> bool:
        """A label beside one answer."""
        if not (row.has("label") or row.has("kto_tag")) or {"first", "output_1", "completions"} & set(row.values):
            return False
        one = any(row.has(column) for column in ANSWER_COLUMNS)
        return (
            ((row.has("prompt") or row.has("instruction")) and one) or row.has("messages") or row.has("conversations")
        )

    def make(self, row: Row) -> Iterator[Record]:
        """One label."""
        prompt, answer = self._form(row)
        good = row.flag("kto_tag" if "kto_tag" in row.values and "label" not in row.values else "label")
        value = {"name": row.maybe_text("name") or self.quality, "good": good}
        yield Record(
            prompt=prompt,
            candidates=(candidate_of(answer, row, empty=self.empty),),
            value=value_of("label", value, 1),
            kind="label",
            text=row.maybe_text("reason"),
            **common(row),
        )

    def _form(self, row: Row) -> tuple[Prompt, Answer]:
        if "prompt" not in row.values:
            for column in ("messages", "conversations"):
                if column in row.values:
                    return conversation(row, column)
        found = answer_column(row)
        prompt, (answer,) = dialogue(asked(row), [answer_of(row, found, empty=self.empty)], row)
        return prompt, answer
