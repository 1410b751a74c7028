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
from typing import Any

from tropism.data.records import Record
from tropism.feedback.values import slot_names

# one encoder for all: digests.digest makes a new one for each value, which would be half the time of reading
_ENCODE = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode


@dataclass(frozen=True)
class _Marks:
    """Digests of a record: ``item`` of what was asked (prompt and candidates in any order), ``about`` of what the value
    speaks of, ``says`` of what it says. Texts stand for themselves: several of one person contradict nothing."""

    item: bytes
    about: bytes
    says: bytes


class Repeats:
    """Finds repeated and contradicting records. ``keep``: they are counted in ``noted`` instead of refused."""

    def __init__(self, keep: bool, noted: Counter[str]) -> None:
        self._keep = keep
        self._noted = noted
        self._said: dict[bytes, tuple[bytes, str]] = {}
        self._ids: dict[str, tuple[bytes, str]] = {}
        self._names: dict[str, tuple[str, str]] = {}

    def fault(self, records: Sequence[Record], where: str) -> str:
        """Why a row's records cannot be taken, or '' if they can, which remembers them. ``where``: "line 3"."""
        all_marks = [_marks(record) for record in records]
        again: Counter[str] = Counter()
        fresh: dict[bytes, bytes] = {}
        for record, marks in zip(records, all_marks, strict=True):
            fault = self._id_fault(record, marks.item) or self._name_fault(record)
            if fault:
                return fault
            old, place = self._said.get(marks.about, (fresh.get(marks.about), where))
            fresh.setdefault(marks.about, marks.says)
            if old is not None and not self._keep:
                return _repeated(record, old == marks.says, place)
            if old is not None:
                again["said again, the same" if old == marks.says else "said again, otherwise"] += 1
        self._noted.update(again)
        for record, marks in zip(records, all_marks, strict=True):
            self._said.setdefault(marks.about, (marks.says, where))
            if record.source_id is not None:
                self._ids.setdefault(record.source_id, (marks.item, where))
            if record.teacher is not None:
                self._names.setdefault(_plain(record.teacher), (record.teacher, where))
        return ""

    def _id_fault(self, record: Record, item: bytes) -> str:
        if record.source_id is None:
            return ""
        old, place = self._ids.get(record.source_id, (item, ""))
        return "" if old == item else f"id {record.source_id!r} is that of {place} too, which asks something else"

    def _name_fault(self, record: Record) -> str:
        if record.teacher is None:
            return ""
        old, place = self._names.get(_plain(record.teacher), (record.teacher, ""))
        if old == record.teacher:
            return ""
        return f"annotator {record.teacher!r} and {old!r} of {place} differ by case or white space alone"


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


def _repeated(record: Record, same: bool, place: str) -> str:
    if same:
        return f"the same prompt as {place}" if record.kind == "prompt" else f"the same as {place}"
    who = f"annotator {record.teacher!r}" if record.teacher is not None else "a row without annotator"
    what = "the same pair" if record.kind == "comparison" else "the same answers"
    return f"contradicts {place} ({what}, {who})"


def _plain(name: str) -> str:
    return unicodedata.normalize("NFKC", name).strip().casefold()


def _hashed(value: Any) -> bytes:
    return hashlib.blake2b(_ENCODE(value).encode(), digest_size=16).digest()
