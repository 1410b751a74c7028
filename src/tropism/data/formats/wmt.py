"""WMT's rankings of translation systems by judges: rows of five, or rows of pairs that belong to one ranking.

The sentences are elsewhere, so candidates are references, named after their systems. Left out: WMT's later direct
assessments, which are ratings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from tropism.data.formats.base import Format, Made, Opened, Repeats, value_of
from tropism.data.formats.ranked import ranking
from tropism.data.records import Record, Rejected
from tropism.data.rows import Row
from tropism.data.strict_json import BadRow, short

_SYSTEM = re.compile(r"system(\d+)Id")
_UNRANKED = -1  # WMT's own mark
_MOST_ROWS = 2000
"""Rows of pairs that make one ranking: 63 systems, where WMT shows five to nine."""


@dataclass(frozen=True)
class WMT(Format):
    """``srclang``, ``trglang``, ``segmentId``, ``judgeId``, and ``system1Id`` … with ``system1rank`` …: 1 is best,
    equal ranks are ties, -1 was not ranked.

    With ``rankingID`` and two systems a row, neighbouring rows with one id are put together again; a ranking whose rows
    contradict one another, or are not all neighbours, is rejected. A judge may judge the same outputs again, which WMT
    asked for to measure it: repeats are kept and noted. The group is the pair of languages.
    """

    name: ClassVar[str] = "wmt"
    summary: ClassVar[str] = "srclang, trglang, segmentId, judgeId, system1Id, system1rank, …"
    columns: ClassVar[tuple[str, ...]] = ("srclang", "trglang", "segmentId", "judgeId", "rankingID", "split")
    usual_repeats: ClassVar[Repeats] = "keep"

    @classmethod
    def fits(cls, row: Row) -> bool:
        """Languages and systems with ranks."""
        return row.has("srclang", "trglang", "system1Id", "system1rank")

    def stream(self, opened: Opened) -> Iterator[Made | Rejected]:
        """Rows alone, or together with the neighbours of their ranking."""
        together: list[Row] = []
        finished: set[str] = set()
        for row in opened.rows():
            if isinstance(row, Rejected):
                yield row
                continue
            key = str(row.values.get("rankingID") or "")
            if together and key != str(together[0].values.get("rankingID")):
                finished.add(str(together[0].values["rankingID"]))
                yield self._made(together)
                together = []
            if not key:
                yield self._made([row])
            elif key in finished:
                yield Made((row,), reason=f"ranking {short(key)} came before, apart from this row")
            else:
                together.append(row)
            if len(together) > _MOST_ROWS:
                finished.add(key)
                yield Made(tuple(together), reason=f"ranking {short(key)} has more than {_MOST_ROWS} rows")
                together = []
        if together:
            yield self._made(together)

    def _made(self, rows: Sequence[Row]) -> Made:
        try:
            return Made(tuple(rows), (self._record(rows),))
        except BadRow as bad:
            where = f"ranking {short(rows[0].values['rankingID'])}: " if len(rows) > 1 else ""
            return Made(tuple(rows), reason=f"{where}{bad}")

    def _record(self, rows: Sequence[Row]) -> Record:
        first = rows[0]
        ranks: dict[str, float | None] = {}
        for row in rows:
            if _about(row) != _about(first):
                raise BadRow("its rows are of several judges, segments or languages")
            for system, rank in _ranks(row):
                if ranks.setdefault(system, rank) != rank:
                    raise BadRow(f"{short(system)} has rank {ranks[system]} and rank {rank}")
        source, target, segment, judge = _about(first)
        expanded = first.has("rankingID") and len(_ranks(first)) == 2
        if expanded and len(rows) != len(ranks) * (len(ranks) - 1) // 2:
            first.noted["rankings with pairs that no row has"] += 1
        meta = {name: first.values[name] for name in ("srcIndex", "documentId") if first.has(name)}
        return Record(
            prompt=f"Translate segment {segment} from {source} to {target}.",
            candidates=tuple({"ref": system} for system in ranks),
            value=value_of("ranking", ranking(list(ranks.values())), len(ranks)),
            kind="ranking",
            candidate_kind="reference",
            teacher=judge,
            split=first.split_column(),
            group=f"{source}-{target}",
            source_id=first.name("rankingID"),
            meta=meta,
            line=first.line,
        )


def _about(row: Row) -> tuple[str, str, str, str]:
    """Languages, segment and judge. WMT spells the judge's column in two ways."""
    judge = "judgeId" if "judgeId" in row.values else "judgeID"
    columns = ("srclang", "trglang", "segmentId", judge)
    for column in columns:
        if not row.has(column):
            raise BadRow(row.missing(column))
    source, target, segment, by = (str(row.name(column)) for column in columns)
    return source, target, segment, by


def _ranks(row: Row) -> list[tuple[str, float | None]]:
    """(system, rank or None), of every system of a row."""
    made: list[tuple[str, float | None]] = []
    for column in list(row.values):
        match = _SYSTEM.fullmatch(column)
        if match and row.has(column):
            rank = row.number(f"system{match[1]}rank")
            if rank != _UNRANKED and (rank < 1 or not isinstance(rank, int)):
                raise BadRow(f"system{match[1]}rank is {rank}, not a place from 1")
            made.append((row.text(column), None if rank == _UNRANKED else rank))
    names = [system for system, _ in made]
    doubled = next((system for system in names if names.count(system) > 1), None)
    if doubled is not None:
        raise BadRow(f"system {short(doubled)} stands twice in one row")
    return made
