"""JSON that means one thing: doubled keys, NaN, lone surrogates and bottomless nesting are faults with a name.

``json.loads`` takes all of these; each would be lost, or break something, later. Left out: comments.
"""

from __future__ import annotations

import json
import math
from typing import Any

MOST_DEPTH = 200
"""Objects and lists within one another, the outermost included."""


class BadRow(Exception):
    """A row that cannot be used; the text is the reason."""


class Doubled(dict[str, Any]):
    """An object in which a key came twice; ``key`` is that key."""

    key: str = ""


def parse(text: str) -> Any:
    """The value of a JSON text, with marks (``Doubled``, NaN) where ``check`` will object. Errors: BadRow."""
    try:
        return json.loads(text, object_pairs_hook=_pairs)
    except json.JSONDecodeError as error:
        raise BadRow(f"not JSON: {error.msg} at column {error.pos + 1}") from error
    except RecursionError as error:
        raise BadRow(f"not usable JSON: nested more than {MOST_DEPTH} deep") from error
    except ValueError as error:  # a number of thousands of digits
        raise BadRow(f"not usable JSON: {error}") from error


def check(value: Any, name: str = "", depth: int = 1) -> None:
    """Errors: BadRow naming what no JSON file should hold. ``name`` is the column the value stands in."""
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise BadRow(f"{name or 'the text'} holds half a surrogate pair, which is no character")
    elif isinstance(value, float):
        if not math.isfinite(value):
            shown = "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
            raise BadRow(f"not usable JSON: {shown} is no JSON number{f' ({name})' if name else ''}")
    elif isinstance(value, dict | list) and depth > MOST_DEPTH:
        raise BadRow(f"not usable JSON: nested more than {MOST_DEPTH} deep")
    elif isinstance(value, dict):
        if isinstance(value, Doubled):
            raise BadRow(f"key {short(value.key)!r} stands twice in one object")
        for key, inside in value.items():
            check(key, name, depth + 1)
            check(inside, name or key, depth + 1)
    elif isinstance(value, list):
        for inside in value:
            check(inside, name, depth + 1)


def short(value: Any) -> str:
    """A value in an error message: 60 characters at most, and none that a terminal or a reader would not see."""
    shown = value[:61] if isinstance(value, str) else repr(value)
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown[:61])
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) == len(pairs):
        return made
    doubled = Doubled(made)
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            doubled.key = key
        seen.add(key)
    return doubled
