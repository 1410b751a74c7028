"""Our own form: every record as one JSON object, without loss. ``records.to_json`` writes it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from tropism.data.formats.base import Format, value_of
from tropism.data.records import Record, from_json
from tropism.data.rows import Row, text_of
from tropism.data.strict_json import BadRow
from tropism.errors import DataError
from tropism.feedback.values import slot_names


@dataclass(frozen=True)
class Lossless(Format):
    """Objects of ``records.to_json``, told by their key ``tropism``, the version. Repeats are kept: who wrote the file
    had looked at them."""

    name: ClassVar[str] = "tropism"
    summary: ClassVar[str] = "our own records, told by the key tropism"
    usual_repeats: ClassVar = "keep"

    @classmethod
    def fits(cls, row: Row) -> bool:
        """The key is there."""
        return "tropism" in row.values

    def make(self, row: Row) -> Iterator[Record]:
        """The record."""
        try:
            # Arrow fills keys that other rows have with null
            record = from_json({name: held for name, held in row.values.items() if held is not None}, row.line)
        except DataError as error:
            raise BadRow(error.problem) from error
        if isinstance(record.prompt, str):
            text_of(record.prompt, "prompt")
        try:
            slot_names(record.kind, len(record.candidates))
        except DataError as error:
            raise BadRow(error.problem) from error
        if record.value is not None:
            value_of(record.kind, record.value, len(record.candidates) or 1)  # checked, and kept as it was written
        yield record
