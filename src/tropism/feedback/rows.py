"""Rows of preference-pair files: one JSON line in, one checked pair out, or the reason why not.

Two forms: ``{"prompt", "chosen", "rejected"}`` and ``{"prompt", "first", "second", "label"}``; both may have
``strength`` (0-3), ``annotator`` and ``split``. Other columns are not looked at. Lines are read with a size limit, so a
file without line breaks never fills the memory. Left out: chat-message lists, and CSV.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args

from tropism.digests import digest
from tropism.errors import DataError
from tropism.feedback.records import Split

Choice = Literal["a", "b", "tie"]

_LABELS: dict[float, Choice] = {0: "a", 1: "b", 0.5: "tie"}
_BLOCK = 1 << 20


class BadRow(Exception):
    """A row that cannot be used; the text is the reason."""


@dataclass(frozen=True)
class PairRow:
    """One judged pair; slot a is ``first``. ``position_known``: the file says which one was shown first."""

    prompt: str
    first: str
    second: str
    choice: Choice
    strength: int
    annotator: str | None
    split: Split | None
    position_known: bool

    def pair_key(self) -> str:
        """What makes two rows votes of one annotator on one pair, whichever way round it is written."""
        return digest([self.prompt, sorted([self.first, self.second]), self.annotator])

    def winner(self) -> str | None:
        """The text that was preferred, or None for a tie."""
        return {"a": self.first, "b": self.second, "tie": None}[self.choice]


def choice_of_label(label: float) -> Choice:
    """The literature's coding: 0 = the first is preferred, 1 = the second, 0.5 = equal. Errors: BadRow."""
    if isinstance(label, bool) or not isinstance(label, int | float) or label not in _LABELS:
        raise BadRow(f"label is {_short(label)}, not 0 (first preferred), 1 (second preferred) or 0.5 (equal)")
    return _LABELS[label]


def label_of_choice(choice: Choice) -> float:
    """The inverse of ``choice_of_label``."""
    return {"a": 0, "b": 1, "tie": 0.5}[choice]


class Lines:
    """The lines of a file, as (line number, bytes), or None in place of bytes for a line longer than ``limit``.

    A byte order mark and blank lines are skipped. After the last line ``digest`` is that of the file, of which too long
    lines count with their beginning only.
    """

    def __init__(self, path: Path, limit: int) -> None:
        self.path = path
        self.limit = limit
        self.digest = ""

    def __iter__(self) -> Iterator[tuple[int, bytes | None]]:
        hashed = hashlib.sha256()
        number = 0
        try:
            with self.path.open("rb", buffering=_BLOCK) as file:
                while line := file.readline(self.limit + 1):
                    number += 1
                    hashed.update(line)
                    if len(line) > self.limit and not line.endswith(b"\n"):
                        while rest := file.readline(_BLOCK):  # the rest is dropped block by block
                            if rest.endswith(b"\n"):
                                break
                        yield number, None
                        continue
                    if number == 1:
                        line = line.removeprefix(b"\xef\xbb\xbf")
                    if line.strip():
                        yield number, line
        except OSError as error:
            raise DataError(f"{self.path} cannot be read: {error.strerror}", "give a readable JSONL file") from error
        self.digest = hashed.hexdigest()


def parse_row(line: bytes) -> PairRow:
    """A checked pair. Errors: BadRow with the reason."""
    try:
        raw = json.loads(line.decode("utf-8"), parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise BadRow(f"byte {error.start + 1} is not valid UTF-8") from error
    except json.JSONDecodeError as error:
        raise BadRow(f"not JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:
        raise BadRow(f"not usable JSON: {error}") from error
    if not isinstance(raw, dict):
        raise BadRow(f"a {_type(raw)}, not an object with prompt, chosen and rejected")
    prompt = _text(raw, "prompt")
    labelled = "first" in raw or "second" in raw
    if labelled and ("chosen" in raw or "rejected" in raw):
        raise BadRow("both chosen/rejected and first/second")
    if labelled:
        first, second = _text(raw, "first"), _text(raw, "second")
        if "label" not in raw:
            raise BadRow("column label is missing (first and second need one)")
        choice = choice_of_label(raw["label"])
    else:
        first, second, choice = _text(raw, "chosen"), _text(raw, "rejected"), "a"
        if "label" in raw:
            raise BadRow("a label beside chosen and rejected: name the answers first and second")
    if first == second:
        raise BadRow("the two answers are identical")
    annotator = _text(raw, "annotator") if raw.get("annotator") is not None else None
    return PairRow(prompt, first, second, choice, _strength(raw, choice), annotator, _split(raw), labelled)


def _text(raw: dict[str, Any], column: str) -> str:
    if column not in raw:
        raise BadRow(f"column {column} is missing (there are {_short(', '.join(raw)) if raw else 'none'})")
    value = raw[column]
    if not isinstance(value, str):
        raise BadRow(f"{column} is a {_type(value)}, not text")
    if not value.strip():
        raise BadRow(f"{column} is empty")
    if "\0" in value:
        raise BadRow(f"{column} holds a NUL character")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise BadRow(f"{column} holds half a surrogate pair, which is no character")
    return value


def _strength(raw: dict[str, Any], choice: Choice) -> int:
    value = raw.get("strength")
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 3:
        raise BadRow(f"strength is {_short(value)}, not a whole number from 0 to 3")
    if value and choice == "tie":
        raise BadRow(f"strength {value} beside a tie")
    return value


def _split(raw: dict[str, Any]) -> Split | None:
    value = raw.get("split")
    if value is not None and value not in get_args(Split):
        raise BadRow(f"split is {_short(value)}, not train, validation or test")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _type(value: Any) -> str:
    names = {dict: "object", list: "list", str: "text", bool: "truth value", int: "number", float: "number"}
    return names.get(type(value), "null")


def _short(value: Any) -> str:
    shown = value if isinstance(value, str) else repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
