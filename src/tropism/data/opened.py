"""A source as formats see it: rows of all its files under our columns' names, each file read and described once.

Left out: what the rows mean.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from tropism.data import tables
from tropism.data.files import (
    data_files,
    is_datasets_folder,
    is_hub_name,
    kind_of_file,
    rows_of_file,
    split_of_name,
)
from tropism.data.lines import Counts, FileOptions
from tropism.data.records import Rejected
from tropism.data.rows import Row
from tropism.data.writing import UNSPLIT
from tropism.digests import digest_file
from tropism.errors import DataError
from tropism.feedback.records import Split

_MOST_COLUMNS = 1000
"""Names of columns that are remembered for the description."""


class OpenedSource:
    """The files of a source. ``begin`` starts a reading, ``finish`` completes its description.

    Errors: DataError (missing, unreadable, a folder without data files).
    """

    def __init__(self, source: str | Path, options: FileOptions, columns: Mapping[str, str]) -> None:
        self.name = str(source)
        self.options = options
        self.columns_found: set[str] = set()
        self.counts = Counts()
        self.paths: list[Path] = []
        self._columns = dict(columns)
        self._hub = is_hub_name(source)
        self._saved = not self._hub and is_datasets_folder(Path(source))
        if not self._hub and not self._saved:
            self.paths = data_files(source)
        self._open: list[Generator[Row | Rejected, None, None]] = []
        self._read: set[Path] = set()

    def begin(self, counts: Counts) -> None:
        """A new reading, from the beginning."""
        self._close()
        self.counts = counts
        self.columns_found = set()
        self._read = set()

    def finish(self) -> None:
        """Describe the files that were not read to their end (a limit), or were not read as files."""
        self._close()
        described = {entry["name"] for entry in self.counts.files}
        paths = [path for path in self.paths if path in self._read]
        if self._saved:
            paths = [p for p in sorted(Path(self.name).rglob("*")) if p.is_file()]
        for path in paths:
            if self._shown(path) not in described:
                self.counts.files.append(
                    {"name": self._shown(path), "sha256": digest_file(path), "bytes": path.stat().st_size}
                )
        self.counts.files.sort(key=lambda entry: str(entry["name"]))

    def _close(self) -> None:
        for rows in self._open:
            rows.close()
        self._open = []

    def not_read(self) -> list[str]:
        """The data files that no row was asked of: the format has no use for them, or a limit came first."""
        return [self._shown(path) for path in self.paths if path not in self._read]

    def options_set(self) -> dict[str, Any]:
        """The files' options that are not the usual ones."""
        usual = FileOptions()
        made = {f.name: getattr(self.options, f.name) for f in fields(FileOptions)}
        return {name: held for name, held in made.items() if held != getattr(usual, name)}

    def rows(self, only: str = "") -> Iterator[Row | Rejected]:
        """Rows of all files, or of those whose name begins with ``only``.

        Names of files say a row's split only beside one another: train.jsonl and test.jsonl in a folder do, a file
        alone does not.
        """
        if self._hub or self._saved:
            parts = tables.hub_rows if self._hub else tables.datasets_rows
            source: Any = self.name if self._hub else Path(self.name)
            for part, rows in parts(source, self.options, self.counts):
                split = split_of_name(part)
                yield from self._mapped(rows, part, split, subset="" if split or part == UNSPLIT else part)
            return
        several = len(self.paths) > 1
        splits = {path: split_of_name(path.name) for path in self.paths}
        told = len({split for split in splits.values() if split is not None}) > 1
        for path in self.paths:
            if path.name.startswith(only):
                shown = self._shown(path)
                rows = rows_of_file(path, self.options, self.counts, shown)
                self._open.append(rows)
                self._read.add(path)
                yield from self._mapped(rows, shown if several else "", splits[path] if told else None)

    def arrays(self) -> Iterator[tuple[Path, str, dict[str, Any]]]:
        """Every npz file, what rejections call it (nothing where there is only one), and its arrays."""
        for path in self.paths:
            if kind_of_file(path) != "npz":
                raise DataError(f"{path} holds no arrays", "give .npz files alone")
            self._read.add(path)
            yield path, self._shown(path) if len(self.paths) > 1 else "", tables.npz_arrays(path)

    def _mapped(
        self, rows: Iterator[Row | Rejected], file: str, split: Split | None, subset: str = ""
    ) -> Iterator[Row | Rejected]:
        for row in rows:
            if isinstance(row, Rejected):
                yield Rejected(row.line, row.reason, file)
                continue
            row.file, row.split, row.subset = file, row.split or split, row.subset or subset
            if len(self.columns_found) < _MOST_COLUMNS:  # rows of JSON may each have names of their own
                self.columns_found.update(row.values)
            self._rename(row)
            yield row

    def _rename(self, row: Row) -> None:
        """Give the row's columns our names. A column that has one of them already is kept as ``… (of the source)``."""
        if not self._columns:
            return
        theirs = {name: ours for ours, name in self._columns.items()}
        made: dict[str, Any] = {}
        for name, value in row.values.items():
            if name in theirs:
                made[theirs[name]] = value
            else:
                made[f"{name} (of the source)" if name in self._columns else name] = value
        row.values, row.theirs = made, self._columns

    def _shown(self, path: Path) -> str:
        """A file's name within the source."""
        folder = Path(self.name)
        return path.relative_to(folder).as_posix() if folder.is_dir() else path.name
