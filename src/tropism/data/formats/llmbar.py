"""LLMBar and its like: an input, two outputs, and which of them follows the instruction.

The published file is one object of lists by sub-set; each is a group. Left out: the judges' prompts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from tropism.data.formats.base import Format, Repeats, common, value_of
from tropism.data.records import Record
from tropism.data.rows import Row
from tropism.data.strict_json import BadRow, short


@dataclass(frozen=True)
class LLMBar(Format):
    """``input``, ``output_1``, ``output_2`` and ``label``: 1 = the first is better, 2 = the second.

    Repeats are kept and noted, so that accuracies are over the published rows.
    """

    name: ClassVar[str] = "llmbar"
    summary: ClassVar[str] = "input, output_1, output_2, label (1 or 2)"
    columns: ClassVar[tuple[str, ...]] = ("input", "output_1", "output_2", "label", "split", "group", "id")

    usual_repeats: ClassVar[Repeats] = "keep"

    @classmethod
    def fits(cls, row: Row) -> bool:
        """All four columns."""
        return row.has("input", "output_1", "output_2", "label")

    def make(self, row: Row) -> Iterator[Record]:
        """One comparison."""
        first, second = row.text("output_1"), row.text("output_2")
        if first == second:
            raise BadRow("the two answers are identical")
        label = row.number("label")
        if label not in (1, 2):
            raise BadRow(f"label is {short(label)}, not 1 (the first is better) or 2 (the second)")
        yield Record(
            prompt=row.text("input"),
            candidates=({"text": first}, {"text": second}),
            value=value_of("comparison", {"choice": "a" if label == 1 else "b"}, 2),
            kind="comparison",
            **common(row),
        )
