"""Remarks on answers in words, on the whole or on a span of characters, and answers that somebody mended.

Left out: critiques of steps of an episode, which no file format is known to hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from tropism.data.formats.asked import ASKING, asked
from tropism.data.formats.base import Format, common, value_of
from tropism.data.formats.chat import answer_of, candidate_of, dialogue
from tropism.data.formats.demonstrations import answer_column
from tropism.data.records import Record
from tropism.data.rows import Row
from tropism.data.strict_json import BadRow


@dataclass(frozen=True)
class Critiques(Format):
    """``prompt``, ``completion``, and ``critique`` (with an optional ``span``, [first, after last] character), or
    ``correction`` (the whole answer, mended), or both. Optional: ``annotator``, ``split``, ``group``, ``id``.
    """

    name: ClassVar[str] = "critiques"
    summary: ClassVar[str] = "prompt, completion, critique (and span), or correction"
    columns: ClassVar[tuple[str, ...]] = (
        *(*ASKING, "completion", "critique", "span", "correction", "annotator", "split", "group", "id"),
    )

    @classmethod
    def fits(cls, row: Row) -> bool:
        """An answer with a remark or a correction."""
        return row.has("prompt") and (row.has("critique") or row.has("correction"))

    def make(self, row: Row) -> Iterator[Record]:
        """A critique, a correction, or one of each."""
        prompt, (answer,) = dialogue(asked(row), [answer_of(row, answer_column(row))], row)
        candidate = candidate_of(answer, row)
        said: list[tuple[Any, dict[str, Any], str]] = []
        if row.has("critique"):
            said.append(("critique", self._span(row, candidate["text"]), row.text("critique")))
        if row.has("correction"):
            mended = row.text("correction")
            if mended == candidate["text"]:
                raise BadRow("the correction is the answer itself")
            said.append(("correction", {}, mended))
        if not said:
            raise BadRow(row.missing("critique"))
        shared = common(row)
        for kind, raw, text in said:
            value = value_of(kind, raw, 1)
            yield Record(prompt=prompt, candidates=(candidate,), value=value, kind=kind, text=text, **shared)

    def _span(self, row: Row, text: str) -> dict[str, Any]:
        if not row.has("span"):
            return {}
        span = row.listed("span")
        if len(span) == 2 and isinstance(span[1], int) and span[1] > len(text):
            raise BadRow(f"span {span} ends behind the answer, which has {len(text)} characters")
        return {"span": span}
