"""What one row says about the rows before it: the same again, the opposite, an id or a name that means two things.

Kept are digests and line numbers, some 300 bytes a record. Left out: near duplicates.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tropism.data.records import Record
from tropism.data.strict_json import short
from tropism.feedback.values import slot_names

# one encoder for all: digests.digest makes a new one for each value, which would be half the time of reading
_ENCODE = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode


class _Place(NamedTuple):
    """Where something was said first."""

    line: int
    file: str

    def __str__(self) -> str:
        return f"line {self.line} of {self.file}" if self.file else f"line {self.line}"


@dataclass(frozen=True)
class _Marks:
    """Digests of a record: ``item`` of what was asked (prompt and candidates in any order), ``about`` of what the value
    speaks of, ``says`` of what it says. Texts stand for themselves: several of one person contradict nothing."""

    item: bytes
    about: bytes
    says: bytes


class Repeats:
    """Finds repeated and contradicting records.

    ``repeats`` is ``reject``, or ``keep``: said again is then noted. ``lenient``: so are ids and names that mean two
    things, which are refused otherwise.
    """

    def __init__(self, repeats: str, lenient: bool, noted: Counter[str]) -> None:
        self._keep = repeats == "keep"
        self._lenient = lenient
        self._noted = noted
        self._said: dict[bytes, tuple[bytes, _Place]] = {}
        self._ids: dict[tuple[str, str], tuple[bytes, _Place]] = {}
        self._names: dict[str, tuple[str, _Place]] = {}

    def fault(self, records: Sequence[Record], line: int, file: str) -> str:
        """Why a row's records cannot be taken, or '' if they can, which remembers them."""
        here = _Place(line, file)
        all_marks = [_marks(record) for record in records]
        again: Counter[str] = Counter()
        fresh: dict[bytes, bytes] = {}
        for record, marks in zip(records, all_marks, strict=True):
            double = self._double(record, marks.item, file)
            if double and not self._lenient:
                return double[1]
            if double:
                again[double[0]] += 1
            old, place = self._said.get(marks.about, (fresh.get(marks.about), here))
            fresh.setdefault(marks.about, marks.says)
            if old is not None and not self._keep:
                return _repeated(record, old == marks.says, place)
            if old is not None:
                again["said again, the same" if old == marks.says else "said again, otherwise"] += 1
        self._noted.update(again)
        for record, marks in zip(records, all_marks, strict=True):
            self._said.setdefault(marks.about, (marks.says, here))
            if record.source_id is not None:
                self._ids.setdefault((file, record.source_id), (marks.item, here))
            if record.teacher is not None:
                self._names.setdefault(_plain(record.teacher), (record.teacher, here))
        return ""

    def _double(self, record: Record, item: bytes, file: str) -> tuple[str, str] | None:
        """(in general, in words) of an id or a name that means two things. An id is one file's own."""
        if record.source_id is not None:
            old, place = self._ids.get((file, record.source_id), (item, None))
            if old != item:
                said = f"id {short(record.source_id)!r} is that of {place} too, which asks something else"
                return "ids of several questions", said
        if record.teacher is not None:
            name, place = self._names.get(_plain(record.teacher), (record.teacher, None))
            if name != record.teacher:
                both = f"annotator {short(record.teacher)!r} and {short(name)!r} of {place}"
                return "annotators who may be one", f"{both} differ by case or white space alone"
        return None


def _marks(record: Record) -> _Marks:
    value = dict(record.value or {})
    held = [_hashed(dict(content)) for content in record.candidates]
    item = _hashed([record.prompt, sorted(mark.hex() for mark in held), record.kind])
    about: list[Any] = [item.hex(), record.teacher]
    says: Any
    if record.kind in ("comparison", "ranking"):
        slots = dict(zip(slot_names(record.kind, len(held)), (mark.hex() for mark in held), strict=True))
        says = slots.get(value.get("choice", ""), value.get("choice"))
        if record.kind == "ranking":
            says = [sorted(slots[slot] for slot in group) for group in value.get("rank", [])]
    elif record.kind in ("rating", "label", "approval"):
        about.append({key: value.get(key) for key in ("slot", "name", "aspect", "segment", "step")})
        says = value
    else:
        says = [value, record.text]
        about.append(says)
    return _Marks(item, _hashed(about), _hashed(says))


def _repeated(record: Record, same: bool, place: _Place) -> str:
    if same:
        return f"the same prompt as {place}" if record.kind == "prompt" else f"the same as {place}"
    who = f"annotator {short(record.teacher)!r}" if record.teacher is not None else "a row without annotator"
    what = "the same pair" if record.kind == "comparison" else "the same answers"
    return f"contradicts {place} ({what}, {who})"


def _plain(name: str) -> str:
    return unicodedata.normalize("NFKC", name).strip().casefold()


def _hashed(value: Any) -> bytes:
    return hashlib.blake2b(_ENCODE(value).encode(), digest_size=16).digest()
