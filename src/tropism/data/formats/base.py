"""What a format is: columns it knows, how it recognises a source, and the records it makes of a row.

A format is a frozen dataclass whose fields are its options, so that an unknown option is an error with a name. Left
out: reading files and counting, which ``files.py`` and ``reading.py`` do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from tropism.data.records import Record, Rejected
from tropism.data.rows import Row
from tropism.data.strict_json import BadRow
from tropism.errors import DataError
from tropism.feedback.values import dump_value, parse_value, slot_names

Repeats = Literal["reject", "keep"]


@dataclass(frozen=True)
class Made:
    """What some rows gave together: records, or the reason why they cannot be used. No record and no reason: nothing of
    what was asked for is in them."""

    rows: tuple[Row, ...]
    records: tuple[Record, ...] = ()
    reason: str = ""


class Opened(Protocol):
    """The source as a format sees it."""

    def rows(self, only: str = "") -> Iterator[Row | Rejected]:
        """Rows of all files, or of those whose name begins with ``only``; each file is read once."""
        ...

    def arrays(self) -> Iterator[tuple[Path, str, dict[str, Any]]]:
        """Every npz file, what rejections call it, and its arrays (numpy)."""
        ...


@dataclass(frozen=True)
class Format:
    """Base of all formats. ``repeats``: a row that says the same again, or the opposite, is rejected, or kept and noted
    (None: as the format has it)."""

    name: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    columns: ClassVar[tuple[str, ...]] = ()
    """The columns that a map may name."""
    usual_repeats: ClassVar[Repeats] = "reject"

    repeats: Repeats | None = None

    def __post_init__(self) -> None:
        if self.repeats not in (None, "reject", "keep"):
            raise DataError(f"repeats is {self.repeats!r}", "use 'reject' or 'keep'")

    @classmethod
    def fits(cls, row: Row) -> bool:
        """Whether a first row looks like this format, and like no other."""
        raise NotImplementedError

    @classmethod
    def claims(cls, files: Iterable[Path]) -> bool:
        """Whether the names of the files alone say that it is this format."""
        return False

    def make(self, row: Row) -> Iterable[Record]:
        """The records of one row. Errors: BadRow."""
        raise NotImplementedError

    def stream(self, opened: Opened) -> Iterator[Made | Rejected]:
        """Everything a source gives; one row after the other unless a format says otherwise."""
        for row in opened.rows():
            yield row if isinstance(row, Rejected) else self.made(row)

    def made(self, row: Row) -> Made:
        """One row's records, or its fault."""
        try:
            return Made((row,), tuple(self.make(row)))
        except BadRow as bad:
            return Made((row,), reason=str(bad))


def value_of(kind: str, raw: Mapping[str, Any], count: int) -> dict[str, Any]:
    """A checked feedback value over ``count`` candidates, as JSON. Errors: BadRow."""
    try:
        return dump_value(parse_value(kind, raw, slot_names(kind, count)))
    except DataError as error:
        raise BadRow(error.problem) from error


def common(row: Row) -> dict[str, Any]:
    """The fields of a record that every format reads from the same columns: teacher, split, group, id, line and meta.

    Call it last: what no one asked for until then goes to ``meta``.
    """
    made: dict[str, Any] = {
        "teacher": row.name("annotator"),
        "split": row.split_column(),
        "group": row.name("group") or row.subset,
        "source_id": row.name("id"),
        "line": row.line,
    }
    return made | {"meta": row.rest()}
