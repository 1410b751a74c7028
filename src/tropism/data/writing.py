"""Rows into a file of any kind, or a ``datasets`` folder; written whole or not at all.

Rows pass through a spool of JSON lines on the disk, so that columns and types are known before a table begins. Left
out: compression (Parquet has its own), and what rows mean (``exporting.py``).
"""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from tropism.data.tables import escape_cell
from tropism.errors import DataError
from tropism.feedback.records import Split
from tropism.files import sync_folder, sync_path

if TYPE_CHECKING:
    import pyarrow as pa

FileKind = Literal["jsonl", "csv", "parquet", "datasets"]
UNSPLIT = "unsplit"
"""The part of a ``datasets`` folder that holds rows without a split, where others have one."""
_SUFFIXES: dict[str, FileKind] = {".jsonl": "jsonl", ".csv": "csv", ".parquet": "parquet", "": "datasets"}
_CHATS = ("prompt", "completion", "chosen", "rejected", "first", "second", "response1", "response2")
"""Columns that hold text or messages."""
_NULLS = ("NA", "N/A", "n/a", "NULL", "null", "None", "NaN", "nan", "NAN", "<NA>", "#N/A", "-NaN", "-nan")
"""Cells of CSV that other readers take for nothing; ours takes them for text."""
_VALUES = {"label", "score", "scale", "ranks"}
"""Columns in which readers take 1.0 for 1."""
_BATCH = 1000
_WHOLE = 2**53  # beyond it a floating-point number does not hold every whole one
_PARTS: tuple[Split | None, ...] = ("train", "validation", "test", None)


def kind_of_target(path: Path) -> FileKind:
    """What a path asks for, by its suffix; a name without one is a ``datasets`` folder. Errors: DataError."""
    found = _SUFFIXES.get(path.suffix.lower())
    if found is None:
        raise DataError(f"{path} has a suffix that is not written here", "use .jsonl, .csv, .parquet, or no suffix")
    return found


class Spool:
    """Rows on their way into a file. ``lost`` counts what a kind of file does not hold as it is.

    ``fixed``: columns that readers know; a table must hold them as they are. The others were carried along, and may
    become JSON text.
    """

    def __init__(self, file: IO[bytes], kind: FileKind, fixed: Sequence[str]) -> None:
        self._file, self.kind, self._fixed = file, kind, frozenset(fixed)
        self.rows = 0
        self.columns: dict[str, None] = {}
        self.parts: Counter[str | None] = Counter()
        self.lost: Counter[str] = Counter()
        self.types: dict[str, pa.DataType | None] = {}

    def fault(self, row: Mapping[str, Any]) -> str | None:
        """Why no file of this kind can hold a row, or None."""
        try:
            line = json.dumps(row, ensure_ascii=False, allow_nan=False).encode()
        except UnicodeEncodeError:
            return "half a surrogate pair, which no file holds"
        except ValueError:
            return "NaN or infinity, which no file holds"
        if b"\\u0000" in line and _holds_nul(row):
            return "a NUL character, which readers refuse"
        for name, value in row.items():
            if self.kind == "csv" and name in _CHATS and isinstance(value, str):
                if not value.strip():
                    return "an empty answer, which CSV does not tell from none"
                if _reads_as_list(value):
                    return "text that reads as chat messages in CSV"
            if self.kind in ("parquet", "datasets") and name in self._fixed and shape_of(value) is None:
                return f"{name} nested deeper than a table holds unchanged"
        return None

    def add(self, row: Mapping[str, Any]) -> None:
        """Take a row without a fault."""
        self._file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        self.rows += 1
        self.columns.update(dict.fromkeys(row))
        self.parts[row.get("split")] += 1
        if self.kind == "csv":
            self._count_csv_losses(row)

    def read(self) -> Iterator[dict[str, Any]]:
        """All rows again."""
        self._file.flush()
        self._file.seek(0)
        for line in self._file:
            yield json.loads(line)

    def _count_csv_losses(self, row: Mapping[str, Any]) -> None:
        for name, value in row.items():
            if name not in self._fixed and not (isinstance(value, str) and value):
                self.lost[f"type of {name} (text in CSV)"] += 1
            if name in _CHATS and value in _NULLS:
                self.lost[f"{value!r} (which pandas and datasets take for null in CSV)"] += 1
            if "\r\n" in (value if isinstance(value, str) else ""):
                self.lost["CRLF inside a text (LF in CSV)"] += 1
            if escape_cell(name) != name:
                self.lost[f"name of column {name} (escaped in CSV)"] += 1

    def settle(self) -> None:
        """Decide on the types of a table and count what they change. Errors: DataError, see ``table_types``."""
        if self.kind in ("parquet", "datasets"):
            self.types = self.table_types()
            self._count_table_losses(self.types)

    def table_types(self) -> dict[str, pa.DataType | None]:
        """Arrow's type of each column; None for those that become JSON text. Errors: DataError if a column that readers
        know mixes types."""
        import pyarrow as pa

        shapes: dict[str, str | None] = dict.fromkeys(self.columns, "")
        types: dict[str, pa.DataType | None] = {name: pa.null() for name in self.columns}
        rows = self.read()
        while batch := list(islice(rows, _BATCH)):
            for name in self.columns:
                values = [row.get(name) for row in batch]
                for value in values:
                    shapes[name] = _merged(shapes[name], shape_of(value))
                known = types[name]
                types[name] = None if shapes[name] is None or known is None else _joined(known, values)
        for name, found in types.items():
            if found is None and name in self._fixed:
                fix = "write .jsonl, or have all prompts as messages (conversational: always) or as text (never)"
                raise DataError(f"column {name} holds text in some rows and lists in others", fix)
        return types

    def batches(self, split: Split | Literal["all"] | None) -> Iterator[Any]:
        """Record batches of the rows of one split, or of all."""
        import pyarrow as pa

        wanted = {name: t for name, t in self.types.items() if split == "all" or name != "split"}
        schema = pa.schema(
            [(name, pa.string() if t is None or pa.types.is_null(t) else t) for name, t in wanted.items()]
        )
        rows = (row for row in self.read() if split == "all" or row.get("split") == split)
        while batch := list(islice(rows, _BATCH)):
            columns = []
            for name, found in wanted.items():
                values = [row.get(name) for row in batch]
                columns.append(
                    pa.array(values if found is not None else map(_json_text, values), schema.field(name).type)
                )
            yield pa.record_batch(columns, schema=schema)
        yield pa.record_batch([pa.array([], field.type) for field in schema], schema=schema)

    def _count_table_losses(self, types: Mapping[str, pa.DataType | None]) -> None:
        """Count what the types change."""
        floats = {name for name, found in types.items() if found is not None and "double" in str(found)} - _VALUES
        texts = {name for name, found in types.items() if found is None}
        for row in self.read():
            for name in texts & row.keys():
                self.lost[f"type of {name} (JSON text in a table)"] += 1
            for name in floats & row.keys():
                held = row[name] if isinstance(row[name], list) else [row[name]]
                if any(isinstance(v, int) and not isinstance(v, bool) for v in held):
                    self.lost[f"whole numbers of {name} (floating point in a table)"] += 1


@contextmanager
def spooled(path: Path, fixed: Sequence[str], *, write: bool = True) -> Iterator[Spool]:
    """A spool for what will be ``path``, or for a plan of it (``write=False``: nothing is touched there).

    Errors: DataError if nothing can be written there, or a folder is there.
    """
    kind = kind_of_target(path)
    if path.is_dir():
        raise DataError(f"{path} is a folder already", "remove it, or choose another name")
    with disk_errors(path), tempfile.TemporaryFile(dir=path.absolute().parent if write else None) as file:
        yield Spool(file, kind, fixed)


def finish(spool: Spool, path: Path) -> None:
    """Write the settled spool's rows to ``path`` and make them durable; a file there is replaced. Errors: DataError."""
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    writers = {"jsonl": _jsonl, "csv": _csv, "parquet": _parquet, "datasets": _datasets}
    try:
        with disk_errors(path):
            writers[spool.kind](spool, partial)
            if partial.is_dir():
                sync_folder(partial)
            else:
                sync_path(partial)
            partial.replace(path)
            sync_path(path.absolute().parent)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """What the system says about a disk, as a DataError."""
    try:
        yield
    except OSError as error:
        what = error.strerror or str(error)
        fix = "make space" if error.errno == errno.ENOSPC else "choose a folder with space and permission"
        raise DataError(f"{path} cannot be written: {what}", fix) from error


def _jsonl(spool: Spool, partial: Path) -> None:
    with partial.open("wb") as file:
        for row in spool.read():
            file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")


def _csv(spool: Spool, partial: Path) -> None:
    with partial.open("w", encoding="utf-8", newline="") as file:
        # every cell is quoted: a lone CR, or a row of one empty cell, would else end a row or be none
        writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writerow(map(escape_cell, spool.columns))
        for row in spool.read():
            writer.writerow([_cell(row.get(name)) for name in spool.columns])


def _parquet(spool: Spool, partial: Path) -> None:
    import pyarrow.parquet as pq

    writer = None
    try:
        for batch in spool.batches("all"):
            writer = writer or pq.ParquetWriter(partial, batch.schema)
            writer.write_batch(batch)
    finally:
        if writer is not None:
            writer.close()


def _datasets(spool: Spool, partial: Path) -> None:
    """One part for each split that rows have; a single set where none has one."""
    import datasets
    import pyarrow as pa

    def part(split: Split | None) -> Any:
        return datasets.Dataset(pa.Table.from_batches(list(spool.batches(split))))

    there = [split for split in _PARTS if spool.parts[split]]
    made = part(None) if there in ([], [None]) else datasets.DatasetDict({s or UNSPLIT: part(s) for s in there})
    _quietly(made.save_to_disk, partial)


def _quietly(save: Any, folder: Path) -> None:
    """Without the library's own progress bars, which are switched for the whole process."""
    import datasets

    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        save(str(folder))
    finally:
        if shown:
            datasets.enable_progress_bars()


def _cell(value: Any) -> str:
    """A cell of CSV. Numbers are no formulae and stay as they are."""
    if value is None:
        return ""
    return escape_cell(value) if isinstance(value, str) else _json_text(value) or ""


def _json_text(value: Any) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False)


def _reads_as_list(text: str) -> bool:
    """Whether a reader of CSV takes a text for a list of messages."""
    try:
        return text.lstrip().startswith("[{") and isinstance(json.loads(text), list)
    except ValueError:
        return False


def _holds_nul(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_nul, value.values()))
    return any(map(_holds_nul, value)) if isinstance(value, list) else isinstance(value, str) and "\0" in value


def shape_of(value: Any) -> str | None:
    """What a table must be able to hold: ``text``, ``[number]``, ``[[message]]``, … ; '' of null, and None where Arrow
    would not give the value back as it was (objects, whose keys all rows share, but for messages of texts)."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "flag"
    if isinstance(value, int | float):
        return "number" if isinstance(value, float) or abs(value) < 2**63 else None
    if isinstance(value, str):
        return "text"
    if isinstance(value, Mapping):
        return "message" if "role" in value and all(isinstance(v, str) for v in value.values()) else None
    inside: str | None = ""
    for element in value:
        inside = _merged(inside, shape_of(element))
    return None if inside is None else f"[{inside}]"


def _merged(one: str | None, other: str | None) -> str | None:
    """The shape that holds values of both, or None."""
    if one is None or other is None or one == other:
        return None if one is None or other is None else one
    if not one or not other:
        return one or other
    if one[0] == other[0] == "[":
        inside = _merged(one[1:-1], other[1:-1])
        return None if inside is None else f"[{inside}]"
    return None


def _joined(known: pa.DataType, values: list[Any]) -> pa.DataType | None:
    """Arrow's type of a column of one shape so far and of more values; None where numbers are too large for both."""
    import pyarrow as pa

    schemas = [pa.schema([("x", known)]), pa.schema([("x", pa.infer_type(values))])]
    joined = pa.unify_schemas(schemas, promote_options="permissive").field("x").type
    large = any(isinstance(v, int) and not isinstance(v, bool) and abs(v) > _WHOLE for v in values)
    return None if large and "double" in str(joined) else joined
