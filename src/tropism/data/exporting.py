"""Records out into a file of any format and kind, with a manifest beside it, and an account of every record.

What a format cannot hold is left out and counted by reason; what it holds otherwise than it was is counted as lost.
Nothing else is: reading an export again gives the same votes. Left out: uploading.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

from tropism.data.exporting_rows import ExportFormat, ExportOptions, LeftOut, Row, Rows
from tropism.data.formats import FORMATS
from tropism.data.manifest import PACKAGES, digest_of, write_manifest
from tropism.data.records import Record
from tropism.data.writing import Spool, disk_errors, finish, kind_of_target, spooled
from tropism.errors import DataError
from tropism.feedback.records import Split
from tropism.runtime.versions import versions


@dataclass
class ExportReport:
    """What was written, or would be. ``records`` = ``held`` + those in ``left_out`` + those in ``filtered``.

    ``lost``: by what, how often something is in the file otherwise than it was, or not at all. ``sha256`` and
    ``manifest`` are empty and None of a plan.
    """

    path: Path
    format: str
    kind: str
    records: int = 0
    held: int = 0
    rows: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    filtered: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    splits: dict[str, int] = field(default_factory=dict)
    sha256: str = ""
    manifest: Path | None = None


def export(
    records: Iterable[Record],
    path: str | Path,
    format: str,
    *,
    options: ExportOptions | None = None,
    splits: Sequence[Split] | None = None,
    sources: Sequence[Mapping[str, Any]] = (),
    licence: str | None = None,
    filters: Sequence[str] = (),
    left_before: Counter[str] | None = None,
    write: bool = True,
) -> ExportReport:
    """Write records to ``path`` (.jsonl, .csv, .parquet, or a ``datasets`` folder) and a manifest beside it.

    ``format``: pairs, unpaired, demonstrations, ranked, votes, ratings, critiques, prompts, or tropism (every record
    without loss; .jsonl alone). ``splits``: only records of these. ``sources``: descriptions of what the records came
    from (``Reading.source``); ``licence``: of the export, where it is not that of a source; ``filters``: in words, what
    was done to the records before. ``left_before`` counts what became no record, when all records were taken.
    ``write=False`` writes nothing and reports what would be.

    A file is replaced only when the new one is complete. Errors: DataError (an unknown format, a kind that cannot hold
    the format, a path that cannot be written, nothing to write).
    """
    path, chosen = Path(path), options or ExportOptions()
    named = _known(format)
    _check_kind(path, named, chosen)
    report = ExportReport(path, named, kind_of_target(path))
    fixed = (*FORMATS[named].columns, *_ANNOTATIONS)
    with spooled(path, fixed, write=write) as spool:
        _fill(spool, Rows(named, chosen, report.kind != "jsonl"), records, splits, report)
        spool.settle()
        report.left_out.update(left_before or {})
        report.records += sum((left_before or {}).values())
        report.lost.update(spool.lost)
        report.rows, report.splits = spool.rows, {split or "none": count for split, count in spool.parts.items()}
        if not report.rows:
            left = ", ".join(f"{count} {why}" for why, count in report.left_out.most_common()) or "no records"
            raise DataError(f"nothing to write to {path} as {named!r} ({left})", "choose another format or splits")
        if write:
            finish(spool, path)
    if write:
        report.sha256 = digest_of(path)
        with disk_errors(path):
            report.manifest = write_manifest(path, _manifest(report, chosen, sources, licence, filters, splits))
    return report


_ANNOTATIONS = ("annotator", "split", "group", "id", "reason")


def _fill(
    spool: Spool, rows: Rows, records: Iterable[Record], splits: Sequence[Split] | None, report: ExportReport
) -> None:
    for record in records:
        report.records += 1
        if splits is not None and record.split not in splits:
            report.filtered += 1
            continue
        rows.lost = Counter()
        try:
            made = rows.of(record)
        except LeftOut as why:
            report.left_out[str(why)] += 1
            continue
        if not made or _added(spool, made, 1, report):
            report.lost.update(rows.lost)
    for row, count in rows.rest():
        _added(spool, [row], count, report)


def _added(spool: Spool, rows: Sequence[Row], records: int, report: ExportReport) -> bool:
    """All rows of a record, or none and False."""
    reason = next((why for why in map(spool.fault, rows) if why is not None), None)
    if reason is not None:
        report.left_out[reason] += records
        return False
    for row in rows:
        spool.add(row)
    report.held += records
    return True


def _known(format: str) -> ExportFormat:
    for known in get_args(ExportFormat):
        if format == known:
            return known
    near = difflib.get_close_matches(format, get_args(ExportFormat), 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise DataError(f"nothing is written as {format!r}{hint}", f"use {', '.join(get_args(ExportFormat))}")


def _check_kind(path: Path, format: ExportFormat, options: ExportOptions) -> None:
    kind = kind_of_target(path)
    if format == "tropism" and kind != "jsonl":
        raise DataError(f"{path}: records of any kind fit no table", "name it .jsonl, or export one format of them")
    if format == "votes" and kind in ("parquet", "datasets"):
        fix = "name it .jsonl or .csv, or export pairs in the form label: one vote a row"
        raise DataError(f"{path}: annotators' names fit no column of a table", fix)
    if format == "pairs" and options.form == "mixed" and kind != "jsonl":
        fix = "name it .jsonl, or use the form chosen or label"
        raise DataError(f"{path}: a table has the same columns in every row, which the form mixed has not", fix)


def _manifest(
    report: ExportReport,
    options: ExportOptions,
    sources: Sequence[Mapping[str, Any]],
    licence: str | None,
    filters: Sequence[str],
    splits: Sequence[Split] | None,
) -> dict[str, Any]:
    # whoever wrote the records had looked at repeats: they are no reason to refuse the file
    reading: dict[str, Any] = {"format": report.format, "repeats": "keep"}
    if report.kind == "csv":
        reading["escaped"] = True
    if "empty" in FORMATS[report.format].__dataclass_fields__:
        reading["empty"] = True
    said = {str(source["licence"]) for source in sources if source.get("licence")}
    return {
        "format": report.format,
        "options": asdict(options),
        "file": {"name": report.path.name, "kind": report.kind, "sha256": report.sha256},
        "reading": reading,
        "counts": {
            "records": report.records,
            "held": report.held,
            "rows": report.rows,
            "left_out": dict(sorted(report.left_out.items())),
            "filtered": report.filtered,
            "lost": dict(sorted(report.lost.items())),
        },
        "splits": dict(sorted(report.splits.items())),
        "sources": [_without_folder(source) for source in sources],
        "licences": sorted(said | ({licence} if licence else set())),
        "filters": [*filters, *([f"splits: {', '.join(splits)}"] if splits is not None else [])],
        "versions": versions(PACKAGES),
    }


def _without_folder(source: Mapping[str, Any]) -> dict[str, Any]:
    """A source's description without where it lay on this machine; its files are told by their digests."""
    name = str(source.get("name", ""))
    return {**source, "name": Path(name).name if source.get("files") else name}
