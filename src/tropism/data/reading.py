"""Reading data that people already have: ``read`` collects a source, ``open_source`` streams it.

The format is named or found out from the first rows; either way the reading says which it was, and gives an account of
every row. Left out: writing (``exporting.py``), and splits that a source does not have (``judgements.py``).
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any

from tropism.data.formats import FORMATS
from tropism.data.formats.base import Format, Made
from tropism.data.lines import Counts, FileOptions
from tropism.data.opened import OpenedSource
from tropism.data.records import Reading, Record, Rejected
from tropism.data.repeats import Repeats
from tropism.data.rows import Row
from tropism.data.strict_json import short
from tropism.errors import DataError

MOST_REJECTED = 100_000
"""Rejected rows beyond which a source that has more of them than of records is refused as a whole."""
MOST_BEFORE_FIRST = 10_000
"""Rows that may be rejected before the first good one."""
_LOOKED_AT = 20  # first rows that decide on the format


class Source:
    """A source that is ready to be read, as often as wanted: ``records()`` reads it from the beginning.

    ``format`` is decided. While and after ``records()`` runs, ``reading`` holds the counts (its ``records`` stay empty)
    and, when all were read, ``reading.source`` the description with the files' digests.
    """

    def __init__(
        self,
        opened: OpenedSource,
        format: Format,
        *,
        columns: Mapping[str, str],
        limit: int | None,
        licence: str | None,
        guessed: bool,
    ) -> None:
        self.format = format
        self.reading = Reading()
        self._opened = opened
        self._columns = dict(columns)
        self._limit = limit
        self._licence = licence
        self._guessed = guessed

    def records(self) -> Iterator[Record | Rejected]:
        """Every record and every rejected row, in the source's order. Errors: DataError for the whole source."""
        counts = Counts()
        self.reading = reading = Reading(repaired=counts.repaired)
        self._opened.begin(counts)
        repeats = Repeats(
            self.format.repeats or self.format.usual_repeats, self.format.repeats == "keep", reading.noted
        )
        rejected = records = 0
        for made in self.format.stream(self._opened):
            for one in self._taken(made, repeats):
                if isinstance(one, Record):
                    records += 1
                else:
                    rejected += 1
                    self._check_rejected(rejected, records, one)
                yield one
            if self._limit is not None and reading.rows >= self._limit:
                break
        self._opened.finish()
        reading.source = self._description(records, rejected)

    def _taken(self, made: Made | Rejected, repeats: Repeats) -> Iterator[Record | Rejected]:
        reading = self.reading
        if isinstance(made, Rejected):
            reading.rows += 1
            yield made
            return
        reading.rows += len(made.rows)
        reason = made.reason or self._another(made) or repeats.fault(made.records, made.rows[0].line, made.rows[0].file)
        if reason:
            for row in made.rows:
                yield Rejected(row.line, reason, row.file)
            return
        for row in made.rows:
            reading.repaired.update(row.repaired)
            reading.noted.update(row.noted)
            reading.left_out.update(row.left_out)
        if not made.records:
            reading.empty_rows += len(made.rows)
        yield from made.records

    def _another(self, made: Made) -> str:
        """Why rows that gave records should not have: where the first rows alone decided on the format, a later one of
        another format (an answer that was judged bad, among demonstrations) must not be taken for one of them."""
        if not self._guessed:
            return ""
        for row in made.rows:
            others = [k.name for k in FORMATS.values() if k.fits(row)] if not self.format.fits(row) else []
            if others:
                return f"a row of {_listed(others)}, not of {self.format.name!r} as the first rows: name the format"
        return ""

    def _check_rejected(self, rejected: int, records: int, last: Rejected) -> None:
        if rejected > max(records, MOST_REJECTED) or (not records and rejected > MOST_BEFORE_FIRST):
            raise DataError(
                f"{self._opened.name}: {rejected} of {self.reading.rows} rows cannot be used as {self.format.name!r}, "
                f"so far; line {last.line}: {last.reason}",
                "check the format and the columns",
            )

    def _description(self, records: int, rejected: int) -> dict[str, Any]:
        reading = self.reading
        options = {
            f.name: getattr(self.format, f.name)
            for f in fields(self.format)
            if getattr(self.format, f.name) != f.default
        }
        return {
            "name": self._opened.name,
            "format": self.format.name,
            "recognised": self._guessed,
            "columns": self._columns,
            "columns_found": sorted(self._opened.columns_found),
            "options": options | self._opened.options_set(),
            "licence": self._licence,
            "files": self._opened.counts.files,
            "files_left_out": self._opened.not_read(),
            "rows": reading.rows,
            "records": records,
            "rejected": rejected,
            "empty_rows": reading.empty_rows,
            "complete": self._limit is None or reading.rows < self._limit,
        }


def open_source(
    source: str | Path,
    *,
    format: str = "auto",
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    licence: str | None = None,
    **options: Any,
) -> Source:
    """A source to be streamed. Arguments as of ``read``.

    Errors: DataError (missing, unreadable, of a format that cannot be told, an unknown format, column or option).
    """
    mapped = dict(columns or {})
    if limit is not None and limit < 1:
        raise DataError(f"limit is {limit}", "give the number of rows to read, 1 or more")
    of_files = {f.name for f in fields(FileOptions)}
    file_options = FileOptions(**{name: held for name, held in options.items() if name in of_files})
    options = {name: held for name, held in options.items() if name not in of_files}
    opened = OpenedSource(source, file_options, mapped)
    kind = _named(format) if format != "auto" else None
    _check_columns(mapped, [kind] if kind else list(FORMATS.values()))
    kind = kind or _recognised(opened)
    _check_options(options, kind, of_files)
    made = kind(**options)
    return Source(opened, made, columns=mapped, limit=limit, licence=licence, guessed=format == "auto")


def read(
    source: str | Path,
    *,
    format: str = "auto",
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    licence: str | None = None,
    **options: Any,
) -> Reading:
    """All records of a source.

    ``source``: a file (.jsonl, .json, .csv, .tsv, .parquet, .npz, .txt; also .gz or .xz), a folder with such files, a
    folder that ``datasets`` saved, or a data set's name on the hub. ``columns`` maps our names to the source's:
    ``{"prompt": "question", "chosen": "good_answer"}``. ``limit``: the first rows alone. ``options`` are the format's
    (``formats/``) and the files' (``lines.FileOptions``).

    Errors: DataError for the source as a whole: as ``open_source``, and where no row can be used.
    """
    return collect(open_source(source, format=format, columns=columns, limit=limit, licence=licence, **options))


def collect(opened: Source) -> Reading:
    """All records of an open source. DataError where no row can be used."""
    records: list[Record] = []
    rejected: list[Rejected] = []
    for made in opened.records():
        if isinstance(made, Record):
            records.append(made)
        else:
            rejected.append(made)
    reading = opened.reading
    reading.records, reading.rejected = records, rejected
    if not records:
        raise nothing_usable(reading)
    return reading


def nothing_usable(reading: Reading) -> DataError:
    """The error of a source without a usable row."""
    name, format = reading.source["name"], reading.source["format"]
    if not reading.rows:
        return DataError(f"{name} is empty", "give at least one row")
    if not reading.rejected:
        left = ", ".join(f"{count} {what}" for what, count in sorted(reading.left_out.items()))
        problem = f"{name}: none of its {reading.rows} rows holds a record of {format!r} ({left})"
        return DataError(problem, "name another format, or set its options")
    first = "; ".join(f"line {bad.line}: {bad.reason}" for bad in reading.rejected[:3])
    more = f" (and {len(reading.rejected) - 3} more)" if len(reading.rejected) > 3 else ""
    return DataError(
        f"{name}: none of its {reading.rows} rows can be used as {format!r}: {first}{more}",
        "mend the rows, map the columns (ours to theirs), or name another format",
    )


def _named(format: str) -> type[Format]:
    if format in FORMATS:
        return FORMATS[format]
    near = difflib.get_close_matches(format, FORMATS, 1)
    raise DataError(
        f"unknown format {format!r}" + (f"; did you mean {near[0]!r}?" if near else ""), f"use {_listed(FORMATS)}"
    )


def _recognised(opened: OpenedSource) -> type[Format]:
    """The one format that the names of the files, or all of the first rows, fit. Errors: DataError if not just one."""
    claimed = [kind for kind in FORMATS.values() if kind.claims(opened.paths)]
    if len(claimed) == 1:
        return claimed[0]
    opened.begin(Counts())
    looked = list(islice(opened.rows(), _LOOKED_AT))
    opened.finish()
    rows = [row for row in looked if isinstance(row, Row)]
    if not looked:
        raise DataError(f"{opened.name} is empty", "give at least one row")
    if not rows:
        first = looked[0]
        why = f"line {first.line}: {first.reason}" if isinstance(first, Rejected) else ""
        raise DataError(f"{opened.name}: none of its first {len(looked)} rows can be read: {why}", "mend the rows")
    fitting = [kind for kind in FORMATS.values() if all(kind.fits(row) for row in rows)]
    if not fitting:  # a few rows may be broken: what fits most of them, if that is one
        fitting = [kind for kind in FORMATS.values() if 2 * sum(kind.fits(row) for row in rows) > len(rows)]
    if len(fitting) == 1:
        return fitting[0]
    names = sorted({short(name) for row in rows for name in row.values})
    there = ", ".join(names[:30]) + (f" and {len(names) - 30} more" if len(names) > 30 else "")
    what = f"could be {_listed([k.name for k in fitting])}" if fitting else "is of no format that is known here"
    listed = "\n".join(f"    {kind.name}: {kind.summary}" for kind in FORMATS.values())
    raise DataError(
        f"{opened.name} {what}; its columns are {there}",
        f"name the format, and map the columns (ours to theirs) where they have other names:\n{listed}",
    )


def _check_columns(columns: Mapping[str, str], kinds: Sequence[type[Format]]) -> None:
    known = list(dict.fromkeys(column for kind in kinds for column in kind.columns))
    doubled = next((name for name, count in Counter(columns.values()).items() if count > 1), None)
    if doubled is not None:
        raise DataError(f"the column map gives the source's column {doubled!r} two names", "map each column once")
    for ours in columns:
        if ours not in known:
            near = difflib.get_close_matches(ours, known, 1)
            of = f" of format {kinds[0].name!r}" if len(kinds) == 1 else ""
            raise DataError(
                f"the column map names {ours!r}, which is no column{of}"
                + (f"; did you mean {near[0]!r}?" if near else ""),
                f"map our columns to the source's; ours are {', '.join(known) or 'none here'}",
            )


def _check_options(options: Mapping[str, Any], kind: type[Format], of_files: set[str]) -> None:
    known = [f.name for f in fields(kind)]
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, [*known, *of_files], 1)
            raise DataError(
                f"format {kind.name!r} has no option {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""),
                f"its options are {', '.join(known)}; those of files are {', '.join(sorted(of_files))}",
            )


def _listed(names: Mapping[str, Any] | Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)
