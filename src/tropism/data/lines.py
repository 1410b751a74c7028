"""The lines of a file, whatever its encoding and line ends, with a limit on their length; and how files are read.

What is mended is counted by name. Left out: what the lines hold.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tropism.data.inflating import FileBytes, FromUtf16
from tropism.data.strict_json import BadRow
from tropism.errors import DataError

LINE_LIMIT = 16 << 20
"""Bytes of the longest line or row (16 MiB)."""
MOST_BLANK = 1_000_000
"""Blank lines of a file; one with more is no data, and a few stored bytes may hold them for hours."""


@dataclass
class Counts:
    """What is said of a source besides its records: see ``Reading``. ``files`` are described once they were read."""

    repaired: Counter[str] = field(default_factory=Counter)
    files: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class FileOptions:
    """How files are read, whatever is in them.

    ``delimiter`` of CSV (a tab for .tsv). ``escaped``: cells that begin with ``'`` before one of = + - @ ' were written
    so that a spreadsheet runs no formula, and lose that sign. ``parts``: which parts of a ``datasets`` source are read
    (all). ``config`` and ``revision`` are those of a hub data set.
    """

    delimiter: str = ""
    escaped: bool = False
    parts: Sequence[str] = ()
    config: str | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        if len(self.delimiter) > 1 or self.delimiter in ('"', "\n", "\r"):
            raise DataError(f"delimiter is {self.delimiter!r}", "give one character, as ';'")
        if isinstance(self.parts, str):
            object.__setattr__(self, "parts", (self.parts,))


class Lines:
    """The lines of a file: (number from 1, text or the reason why there is none).

    A UTF-8 byte order mark and CRLF are taken off, UTF-16 with its mark is decoded, blank lines are left out; all are
    counted. Only a line feed ends a line. With ``csv``, where a quoted cell may hold any of these, lines keep their CR
    and blank ones come too, and bytes that are no UTF-8 are Python's surrogate escapes instead of a reason.
    """

    def __init__(self, stored: FileBytes, counts: Counts, *, csv: bool = False) -> None:
        self._buffer: io.BufferedReader[Any] = stored.buffer
        self.counts = counts.repaired
        self._csv = csv
        self._path = stored.path
        self.number = 0
        head = self._buffer.peek(4)[:4]
        if head in (b"\xff\xfe\0\0", b"\0\0\xfe\xff"):
            raise DataError(f"{stored.path} is UTF-32", "save it as UTF-8")
        if head.startswith((b"\xff\xfe", b"\xfe\xff")):
            self.counts["UTF-16 decoded"] += 1
            self._buffer = io.BufferedReader(FromUtf16(self._buffer, stored.path), 1 << 20)
        elif head.startswith(b"\xef\xbb\xbf"):
            self.counts["byte order mark removed"] += 1
            self._buffer.read(3)

    def __iter__(self) -> Iterator[tuple[int, str | BadRow]]:
        blank = 0
        while line := self._buffer.readline(LINE_LIMIT + 1):
            self.number += 1
            if len(line) > LINE_LIMIT and not line.endswith(b"\n"):
                self._drop()
                yield self.number, BadRow(f"longer than {LINE_LIMIT} bytes")
                continue
            line = line.removesuffix(b"\n")
            if not self._csv and line.endswith(b"\r"):
                line = line[:-1]
                self.counts["CRLF line ends"] += 1
            if not line.strip():
                blank += 1
                if blank > MOST_BLANK:
                    raise DataError(f"{self._path} has more than {MOST_BLANK} blank lines", "remove them")
                if not self._csv:
                    self.counts["blank lines skipped"] += 1
                    continue
            yield self.number, self._text(line)

    def _text(self, line: bytes) -> str | BadRow:
        if self._csv:
            return line.decode("utf-8", errors="surrogateescape")
        if b"\0" in line:
            return BadRow("holds a NUL byte (UTF-16 without its mark, or a damaged file)")
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError as error:
            return BadRow(f"byte {error.start + 1} is not valid UTF-8")

    def _drop(self) -> None:
        """Read to the end of a line that is too long, block by block."""
        while rest := self._buffer.readline(1 << 20):
            if rest.endswith(b"\n"):
                return
