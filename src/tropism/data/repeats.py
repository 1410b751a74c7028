"""What one row says about the rows before it: the same again, the opposite, an id or a name that means two things.

Kept are digests and line numbers, some 200 bytes a record. Left out: near duplicates.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tropism.data.records import Record
from tropism.digests import digest
from tropism.feedback.values import slot_names


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
        items = [_item(record) for record in records]
        for record, item in zip(records, items, strict=True):
            fault = self._id_fault(record, item) or self._name_fault(record)
            if fault:
                return fault
        said = [_said(record, item) for record, item in zip(records, items, strict=True)]
        fresh: dict[bytes, bytes] = {}
        for record, (about, mark) in zip(records, said, strict=True):
            old, place = self._said.get(about, (None, ""))
            if about in fresh:
                old, place = fresh[about], where
            fresh.setdefault(about, mark)
            if old is not None and not self._keep:
                return _repeated(record, old == mark, place)
            if old is not None:
                self._noted["judged again, the same" if old == mark else "judged again, otherwise"] += 1
        for record, item, (about, mark) in zip(records, items, said, strict=True):
            self._said.setdefault(about, (mark, where))
            if record.source_id is not None:
                self._ids.setdefault(record.source_id, (item, where))
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


def _item(record: Record) -> bytes:
    """What was asked: the prompt and the set of candidates, whatever their order."""
    return _hashed([record.prompt, sorted(digest(dict(held)) for held in record.candidates), record.kind])


def _said(record: Record, item: bytes) -> tuple[bytes, bytes]:
    """(what a value is about, what it says). Texts stand for themselves: several of one person contradict nothing."""
    value = dict(record.value or {})
    marks = [digest(dict(held)) for held in record.candidates]
    slots = dict(zip(slot_names(record.kind, len(marks)), marks, strict=True)) if record.kind != "prompt" else {}
    about: list[Any] = [item.hex(), record.teacher]
    if record.kind == "comparison":
        return _hashed(about), _hashed(slots.get(value.get("choice", ""), value.get("choice")))
    if record.kind == "ranking":
        groups = [sorted(slots[slot] for slot in group) for group in value.get("rank", [])]
        return _hashed(about), _hashed(groups)
    if record.kind in ("rating", "label", "approval"):
        place = {key: value.get(key) for key in ("slot", "name", "aspect", "segment", "step")}
        return _hashed([*about, place]), _hashed({**value, "scale": None})
    said = _hashed([value, record.text])
    return _hashed([*about, said.hex()]), said


def _repeated(record: Record, same: bool, place: str) -> str:
    if same:
        return f"the same prompt as {place}" if record.kind == "prompt" else f"the same as {place}"
    who = f"annotator {record.teacher!r}" if record.teacher is not None else "a row without annotator"
    what = "the same pair" if record.kind == "comparison" else "the same answers"
    return f"contradicts {place} ({what}, {who})"


def _plain(name: str) -> str:
    return unicodedata.normalize("NFKC", name).strip().casefold()


def _hashed(value: Any) -> bytes:
    return bytes.fromhex(digest(_lists(value))[:32])


def _lists(value: Any) -> Any:
    return [dict(held) if isinstance(held, Mapping) else held for held in value] if isinstance(value, tuple) else value
