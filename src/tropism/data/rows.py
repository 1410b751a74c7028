"""One row of a source, with the checks that every format needs: a column's type, its absence, what it may hold.

A format asks for columns by our names; what it did not ask for goes to the record's ``meta``. Left out: what a row
means, which is ``formats/``.
"""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from tropism.data.records import Message, Prompt
from tropism.data.strict_json import BadRow, check, parse, short
from tropism.feedback.records import Split

_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "observation": "tool",
    "tool": "tool",
    "function_call": "assistant",
}
"""The speakers of ``{"from", "value"}`` turns, as roles."""


@dataclass
class Row:
    """Columns of one row. ``typed`` is False where every cell is text (CSV): numbers are then read from it.

    What was ``repaired``, ``noted`` or ``left_out`` while the row was read is added to the reading's counts only if the
    row is taken.
    """

    line: int
    values: dict[str, Any]
    typed: bool = True
    file: str = ""
    split: Split | None = None
    """What the file's name or the part of a ``datasets`` folder says."""
    subset: str = ""
    """The key of an object of lists."""
    theirs: Mapping[str, str] = field(default_factory=dict)
    """The column map: our names to the source's, for messages."""
    used: set[str] = field(default_factory=set)
    repaired: Counter[str] = field(default_factory=Counter)
    noted: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)

    def has(self, *columns: str) -> bool:
        """Whether all these columns are there and hold something (None never does, nor does an empty cell of CSV)."""
        return all(self.values.get(c) is not None and (self.typed or self.values[c] != "") for c in columns)

    def get(self, column: str) -> Any:
        """A column's value. Errors: BadRow if there is no such column."""
        if column not in self.values:
            raise BadRow(self.missing(column))
        self.used.add(column)
        return self.values[column]

    def missing(self, column: str) -> str:
        """What to say of a column that is not there."""
        return missing(column, self.values, self.theirs.get(column, column))

    def maybe(self, column: str) -> Any:
        """A column's value, or None where the row has none."""
        return self.get(column) if self.has(column) else None

    def text(self, column: str, *, empty: bool = False) -> str:
        """A text column. ``empty``: it may be. Errors: BadRow."""
        return text_of(self.get(column), column, empty=empty)

    def maybe_text(self, column: str) -> str | None:
        """A text column, or None where the row has none or only white space (noted). Errors: BadRow."""
        text = self.text(column, empty=True) if self.has(column) else None
        if text is not None and not text.strip():
            self.noted[f"{column} without text"] += 1
            return None
        return text

    def name(self, column: str) -> str | None:
        """An id or an annotator: text, or a whole number, which is written as text; None where there is none."""
        if not self.has(column):
            return None
        value = self.get(column)
        if isinstance(value, int | float) and not isinstance(value, bool) and value == int(value):
            return str(int(value))  # tables with gaps hold 7 as 7.0
        return text_of(value, column)

    def number(self, column: str) -> float:
        """A finite number. Errors: BadRow."""
        return number_of(self._cell(column), column)

    def flag(self, column: str) -> bool:
        """True or false; a cell of CSV may also say 1, 0, yes or no. Errors: BadRow."""
        value = self.get(column)
        if not self.typed and isinstance(value, str):
            said = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
            value = said.get(value.strip().lower(), value)
        if isinstance(value, bool):
            return value
        if isinstance(value, int | float) and value in (0, 1):
            self.repaired["0 or 1 read as false or true"] += 1
            return bool(value)
        raise BadRow(f"{column} is {short(value)}, not true or false")

    def listed(self, column: str) -> list[Any]:
        """A list; a cell of CSV may hold it as JSON. Errors: BadRow."""
        value = self._cell(column)
        if not isinstance(value, list):
            raise BadRow(f"{column} is {kind_of(value)}, not a list")
        return value

    def object(self, column: str) -> dict[str, Any]:
        """An object; a cell of CSV may hold it as JSON. Errors: BadRow."""
        value = self._cell(column)
        if not isinstance(value, dict):
            raise BadRow(f"{column} is {kind_of(value)}, not an object")
        return value

    def prompt(self, column: str = "prompt") -> Prompt:
        """Text, or chat messages. Errors: BadRow."""
        value = self.get(column)
        found = self.messages_in(column)
        return text_of(value, column) if found is None else found

    def messages_in(self, column: str) -> tuple[Message, ...] | None:
        """The chat messages of a column, or None where it holds no list. Errors: BadRow where a message is broken."""
        value = self.get(column)
        if not self.typed and isinstance(value, str) and value.lstrip().startswith("[{"):
            held = _json_cell(value)
            if isinstance(held, list) and all(isinstance(one, dict) and {"role", "from"} & set(one) for one in held):
                value = held
        return messages(value, column, self.repaired) if isinstance(value, list) else None

    def split_column(self) -> Split | None:
        """The ``split`` column, else what the file's name says. Errors: BadRow for another word."""
        value = self.maybe("split")
        if value is None:
            return self.split
        for known in get_args(Split):
            if value == known:
                return known
        raise BadRow(f"split is {short(value)}, not train, validation or test")

    def rest(self) -> dict[str, Any]:
        """The columns that nobody asked for, as JSON: they are carried along."""
        kept = {name: value for name, value in self.values.items() if name not in self.used and self.has(name)}
        return kept | ({"subset": self.subset} if self.subset and "subset" not in kept else {})

    def _cell(self, column: str) -> Any:
        value = self.get(column)
        return value if self.typed or not isinstance(value, str) else _json_cell(value)


def text_of(value: Any, name: str, *, empty: bool = False) -> str:
    """A text that holds something. Errors: BadRow."""
    if not isinstance(value, str):
        raise BadRow(f"{name} is {kind_of(value)}, not text")
    if not empty and not value.strip():
        raise BadRow(f"{name} is empty")
    if "\0" in value:
        raise BadRow(f"{name} holds a NUL character")
    return value


def number_of(value: Any, name: str) -> float:
    """A finite number; a whole one is an int (tables with gaps hold 2 as 2.0). Errors: BadRow."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise BadRow(f"{name} is {short(value)}, not a number")
    return int(value) if value == int(value) else value


def messages(value: list[Any], name: str, repaired: Counter[str]) -> tuple[Message, ...]:
    """Chat messages from ``{"role", "content"}`` or ``{"from", "value"}`` objects. Errors: BadRow."""
    if not value:
        raise BadRow(f"{name} is an empty list of messages")
    return tuple(message(one, f"{name}[{place}]", repaired) for place, one in enumerate(value, 1))


def message(value: Any, name: str, repaired: Counter[str]) -> Message:
    """One chat message. Keys other than role and content are kept. Errors: BadRow."""
    if not isinstance(value, Mapping):
        raise BadRow(f"{name} is {kind_of(value)}, not a message with role and content")
    if "from" in value and "role" not in value:
        role = _ROLES.get(value["from"]) if isinstance(value["from"], str) else None
        if role is None:
            raise BadRow(f"{name}: the speaker {short(value['from'])} is none of {', '.join(_ROLES)}")
        return {"role": role, "content": text_of(value.get("value"), f"{name}.value")}
    role = text_of(value.get("role"), f"{name}.role")
    content = value.get("content")
    calls = value.get("tool_calls")
    if isinstance(content, list):
        content = _joined(content, name)
        repaired["text parts of a message joined"] += 1
    content = text_of("" if content is None and calls else content, f"{name}.content", empty=bool(calls))
    # Arrow fills the keys that other rows have with null
    others = {key: held for key, held in value.items() if key not in ("role", "content") and held is not None}
    return {"role": role, "content": content, **others}


def missing(column: str, columns: Iterable[str], theirs: str) -> str:
    """What to say of a column, ``theirs`` in the source, that is not there: which there are, and which is nearest."""
    there = list(columns)[:100]
    near = difflib.get_close_matches(theirs, there, 1, 0.5) if there else []
    hint = f"; did you mean {short(near[0])}?" if near else ""
    named = "" if theirs == column else f": the column map calls it {short(theirs)}"
    return f"column {column} is missing{named} (there are {short(', '.join(there)) if there else 'none'}{hint})"


def kind_of(value: Any) -> str:
    """JSON's word for a value's type, with its article."""
    names: dict[type, str] = {list: "a list", str: "a text", bool: "a truth value", int: "a number", float: "a number"}
    if value is None or isinstance(value, dict):
        return "a null" if value is None else "an object"
    return names.get(type(value), f"a {type(value).__name__}")


def _joined(parts: list[Any], name: str) -> str:
    texts = []
    for part in parts:
        if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise BadRow(f"{name}.content has a part that is no text: {short(part)}")
        texts.append(part["text"])
    return "".join(texts)


def _json_cell(text: str) -> Any:
    """What a cell of CSV holds as JSON (a number, a list, messages), or the text itself where it is none."""
    try:
        value = parse(text)
    except BadRow:
        return text
    check(value)
    return value
