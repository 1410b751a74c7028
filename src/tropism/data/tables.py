"""Rows of CSV, Parquet and ``datasets`` folders or names; all are streamed.

Left out: writing, and arrays of trajectories (``formats/segments.py``).
"""

from __future__ import annotations

import csv
import datetime
import decimal
import math
import shutil
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from tropism.data.inflating import FREE_BYTES, MOST_EXPANSION, FileBytes
from tropism.data.lines import LINE_LIMIT, Counts, FileOptions, Lines
from tropism.data.records import Rejected
from tropism.data.rows import Row
from tropism.data.strict_json import BadRow, check, short
from tropism.errors import DataError

_FORMULA = ("=", "+", "-", "@", "'", "\t", "\r")
"""What a spreadsheet may take for a formula, and the sign itself that escapes it."""
ARRAYS_LIMIT = 2 << 30
"""Bytes of all arrays of an npz file: they are loaded whole."""
_BATCH = 64  # rows of Parquet in memory at once


def escape_cell(text: str) -> str:
    """A cell of CSV that no spreadsheet runs: ``'`` before one that begins with = + - @ ' a tab or CR."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def unescape_cell(text: str) -> str:
    """The inverse of ``escape_cell``."""
    return text[1:] if text.startswith("'") and text[1:].startswith(_FORMULA) else text


def csv_rows(lines: Lines, options: FileOptions, path: Path) -> Iterator[Row | Rejected]:
    """Rows of CSV under the names of its first line; a row's number is the line it begins in.

    Errors: DataError without columns, or with a column that is named twice.
    """
    feed = _Feed(lines)
    delimiter = options.delimiter or ("\t" if ".tsv" in [s.lower() for s in path.suffixes] else ",")
    # the module's own limit, 128 KiB a cell, is that of the whole process; rows are limited by the feed
    csv.field_size_limit(max(csv.field_size_limit(), LINE_LIMIT + 1))
    reader = csv.reader(feed, delimiter=delimiter, strict=True)
    names: list[str] | None = None
    while True:
        feed.begin()
        try:
            cells = next(reader)
            if not cells:
                lines.counts["blank lines skipped"] += 1
                continue
            if names is None:
                names = _names(cells, path, delimiter)
                continue
            yield _csv_row(feed, names, cells, options)
        except StopIteration:
            break
        except (BadRow, csv.Error) as bad:
            reason = str(bad) if isinstance(bad, BadRow) else f"not CSV: {bad}{feed.span()}"
            if names is None:
                raise DataError(f"{path}: its first line, which names the columns, is {reason}", "mend it") from bad
            yield Rejected(feed.start, reason)
    if names is None:
        raise DataError(f"{path} is empty", "give a first line with the names of the columns")


class _Feed:
    """Lines for ``csv.reader`` that end with what ended them, and a limit on the length of one row.

    A class and not a generator: an error that passes through does not end it, and the reader goes on at the next line.
    """

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._iterator = iter(lines)
        self._bytes = 0
        self.start = 0

    def begin(self) -> None:
        """The next line begins a row."""
        self.start = self._lines.number + 1
        self._bytes = 0

    def span(self) -> str:
        """Where a row that went wrong ended, if that is not where it began."""
        last = self._lines.number
        return f" (lines {self.start} to {last} were taken for one row)" if last > self.start else ""

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        _, text = next(self._iterator)
        if isinstance(text, BadRow):
            raise text
        self._bytes += len(text)
        if self._bytes > LINE_LIMIT:
            raise BadRow(f"longer than {LINE_LIMIT} bytes{self.span()}")
        return text + "\n"


def _names(cells: list[str], path: Path, delimiter: str) -> list[str]:
    for cell in cells:
        _check_cell(cell, "the first line")
    doubled = sorted(name for name, count in Counter(cells).items() if count > 1)
    if doubled:
        raise DataError(f"{path} has two columns named {short(doubled[0])!r}", "name each column once")
    if len(cells) == 1 and delimiter == ",":
        other = next((sign for sign in ";\t|" if sign in cells[0]), None)
        if other is not None:
            fix = (
                f"give the option delimiter={other!r}: --option, or --set data.options.delimiter='\"{other}\"' in a job"
            )
            raise DataError(f"{path} seems to be separated by {other!r}, not commas", fix)
    return cells


def _csv_row(feed: _Feed, names: list[str], cells: list[str], options: FileOptions) -> Row:
    if len(cells) != len(names):
        raise BadRow(f"{len(cells)} cells, but the first line names {len(names)} columns{feed.span()}")
    for name, cell in zip(names, cells, strict=True):
        _check_cell(cell, name)
    if options.escaped:
        cells = [unescape_cell(cell) for cell in cells]
    return Row(feed.start, dict(zip(names, cells, strict=True)), typed=False)


def _check_cell(cell: str, name: str) -> None:
    if "\0" in cell:
        raise BadRow(f"{name} holds a NUL byte (UTF-16 without its mark, or a damaged file)")
    if not cell.isascii() and any("\udc80" <= character <= "\udcff" for character in cell):
        raise BadRow(f"{name} is not valid UTF-8")


def parquet_rows(stored: FileBytes, counts: Counts) -> Iterator[Row | Rejected]:
    """Rows of a Parquet file, a few at a time. Errors: DataError (not Parquet, damaged, or made to expand)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with tempfile.TemporaryFile() as plain:
        file: Any = stored.path
        if stored.path.suffix.lower() in (".gz", ".xz"):
            _copy(stored, plain)
            file = plain
        try:
            opened = pq.ParquetFile(file)
            _check_parquet(opened.metadata, stored.path)
            number = 0
            for batch in opened.iter_batches(batch_size=_BATCH):
                for values in batch.to_pylist():
                    number += 1
                    yield json_row(number, values, counts.repaired)
        except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
            raise DataError(f"{stored.path} is no usable Parquet file: {_said(error)}", "write it again") from error


def datasets_rows(path: Path, options: FileOptions, counts: Counts) -> Iterator[tuple[str, Iterator[Row | Rejected]]]:
    """(part, rows) of a folder that ``datasets`` saved. Errors: DataError."""
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
    except Exception as error:
        raise DataError(f"{path} is no usable datasets folder: {_said(error)}", "save it with save_to_disk") from error
    parts = dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {"": loaded}
    for part in _wanted(parts, options, str(path)):
        yield part, _mapped(parts[part], str(path), counts)


def hub_rows(name: str, options: FileOptions, counts: Counts) -> Iterator[tuple[str, Iterator[Row | Rejected]]]:
    """(part, rows) of a data set on the hub, streamed. Errors: DataError."""
    import datasets

    try:
        # streaming: nothing is stored here; the hub's client raises errors of many libraries
        loaded = datasets.load_dataset(name, options.config, revision=options.revision, streaming=True)
    except Exception as error:
        raise DataError(
            f"the data set {name} cannot be loaded: {_said(error)}",
            "check its name and the connection, or give a file or folder",
        ) from error
    parts = dict(loaded)
    for part in _wanted(parts, options, name):
        yield part, _mapped(parts[part], name, counts)


def json_row(number: int, values: Mapping[str, Any], repaired: Counter[str]) -> Row | Rejected:
    """A row of typed columns, its values as JSON: dates as ISO text, NaN (pandas's null) as null."""
    try:
        made = {str(name): as_json(value, str(name), repaired) for name, value in values.items()}
        check(made)
    except BadRow as bad:
        return Rejected(number, str(bad))
    return Row(number, made)


def as_json(value: Any, name: str, repaired: Counter[str]) -> Any:
    """A value of Arrow as JSON. Errors: BadRow for bytes and other things that JSON has no word for."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if math.isnan(value):
            repaired["NaN in a table read as null"] += 1
            return None
        return value
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        repaired["dates written as text"] += 1
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        repaired["decimal numbers read as floating point"] += 1
        return float(value)
    if isinstance(value, Mapping):
        return {str(key): as_json(held, name, repaired) for key, held in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(held, name, repaired) for held in value]
    raise BadRow(f"{name} is {type(value).__name__}, which is no JSON")


def _wanted(parts: Iterable[str], options: FileOptions, shown: str) -> list[str]:
    there = list(parts)
    unknown = [part for part in options.parts if part not in there]
    if unknown:
        raise DataError(f"{shown} has no part {unknown[0]!r}; its parts are {', '.join(there)}", "name one of these")
    return [part for part in there if not options.parts or part in options.parts]


def _mapped(part: Iterable[Mapping[str, Any]], shown: str, counts: Counts) -> Iterator[Row | Rejected]:
    rows = enumerate(part, 1)
    while True:
        try:
            number, values = next(rows)
        except StopIteration:
            return
        except Exception as error:  # of Arrow, of a decoder, of the network
            raise DataError(f"{shown} cannot be read further: {_said(error)}", "save or fetch it again") from error
        yield json_row(number, values, counts.repaired)


def _said(error: Exception) -> str:
    """An error of a library in one line."""
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]:.200}"


def _copy(stored: FileBytes, plain: IO[bytes]) -> None:
    shutil.copyfileobj(stored, plain, 1 << 20)
    plain.seek(0)


def _check_parquet(metadata: Any, path: Path) -> None:
    """Refuse a file that a few bytes blow up."""
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    large = sum(group.total_byte_size for group in groups)
    size = path.stat().st_size
    if large > FREE_BYTES and large > MOST_EXPANSION * size:
        raise DataError(
            f"{path} expands more than {MOST_EXPANSION}-fold ({size} bytes to {large})",
            "if you trust it, write it again without compression",
        )


def npz_arrays(path: Path) -> dict[str, Any]:
    """The arrays of an npz file by name (numpy). Errors: DataError (not npz, damaged, too large, Python objects)."""
    import numpy as np

    arrays: dict[str, Any] = {}
    try:
        with tempfile.TemporaryFile() as plain:
            file: Any = path
            if path.suffix.lower() in (".gz", ".xz"):
                with FileBytes(path) as stored:
                    _copy(stored, plain)
                file = plain
            with zipfile.ZipFile(file) as archive:
                _check_zip(archive, path)
                for info in archive.infolist():
                    with archive.open(info) as member:
                        _check_header(member, info, path)
                    with archive.open(info) as member:
                        arrays[info.filename.removesuffix(".npy")] = np.lib.format.read_array(
                            member, allow_pickle=False
                        )
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError, RuntimeError, zlib.error) as error:
        raise DataError(f"{path} is no usable npz file: {error}", "write it with numpy.savez") from error
    return arrays


def _check_zip(archive: zipfile.ZipFile, path: Path) -> None:
    infos = archive.infolist()
    large, size = sum(info.file_size for info in infos), path.stat().st_size
    if large > ARRAYS_LIMIT or (large > FREE_BYTES and large > MOST_EXPANSION * size):
        raise DataError(
            f"{path} holds {large} bytes of arrays in {size}, more than {ARRAYS_LIMIT} or {MOST_EXPANSION}-fold",
            "give the segments in several files",
        )


def _check_header(member: IO[bytes], info: zipfile.ZipInfo, path: Path) -> None:
    """An array's header says its size: numpy takes that memory before it reads, so it must be what is there."""
    import numpy as np

    version = np.lib.format.read_magic(member)
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = reader(member)
    if dtype.hasobject:
        raise DataError(f"{path}: {info.filename} holds Python objects", "write arrays of numbers")
    if math.prod(shape) * dtype.itemsize > info.file_size:
        raise DataError(f"{path}: {info.filename} says shape {shape}, which is more than it holds", "write it again")
