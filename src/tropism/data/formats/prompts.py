"""Prompts alone: a column of texts or of chat messages, or a text file with one prompt per line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from tropism.data.formats.asked import with_system
from tropism.data.formats.base import Format, common
from tropism.data.records import Record
from tropism.data.rows import Row

_MORE = frozenset(
    {"completion", "completions", "answer", "response", "output", "chosen", "rejected", "first", "second", "messages"}
    | {"tropism"}
)
"""Columns of other formats: a row with one of them is more than a prompt."""


@dataclass(frozen=True)
class Prompts(Format):
    """``prompt``: text, or messages that end before the answer. Optional: ``split``, ``group``, ``id``."""

    name: ClassVar[str] = "prompts"
    summary: ClassVar[str] = "prompt"
    columns: ClassVar[tuple[str, ...]] = ("prompt", "system", "split", "group", "id")

    @classmethod
    def fits(cls, row: Row) -> bool:
        """A prompt without any answer."""
        return row.has("prompt") and not isinstance(row.values["prompt"], dict) and not _MORE & set(row.values)

    def make(self, row: Row) -> Iterator[Record]:
        """One prompt."""
        yield Record(prompt=with_system(row, row.prompt()), **common(row))
