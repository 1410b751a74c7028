"""Paths in settings: each is seen from the folder of the file in which it is written.

In study.toml that is the study's folder, in a recipe file the recipe's folder; ``--set`` and overrides from Python are
seen from the working directory. Absolute paths stay as they are, and ``~`` is the home folder.

Left out: which settings are paths; a domain says that itself (``path_settings``).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

PathKind = Literal["file", "model", "models", "function", "functions"]
"""What a setting holds: ``file``, a file or folder; ``model``, a folder or a hub's name (a name that could be either is
a path if there is such a folder); ``models``, a table whose keys are models; ``function``, ``file.py:name``
(``package.module:name`` is no path); ``functions``, a table whose keys are functions."""

TABLES = ("functions", "models")


def absolute(values: Mapping[str, Any], folder: Path, kinds: Mapping[str, PathKind]) -> dict[str, Any]:
    """The values with every path absolute. ``kinds``: dotted key → what it holds; other types are left as they are."""
    return _each(values, kinds, lambda text, kind: _absolute(text, kind, Path(os.path.abspath(folder))))


def relative(values: Mapping[str, Any], folder: Path, kinds: Mapping[str, PathKind]) -> dict[str, Any]:
    """The values with every path inside ``folder`` written as seen from it: equal wherever the folder is moved."""
    prefix = os.path.abspath(folder) + os.sep
    return _each(values, kinds, lambda text, kind: text.removeprefix(prefix))


def _each(
    values: Mapping[str, Any], kinds: Mapping[str, PathKind], change: Callable[[str, PathKind], str]
) -> dict[str, Any]:
    made = dict(values)
    for dotted, kind in kinds.items():
        section, _, key = dotted.partition(".")
        table = made.get(section)
        given = table.get(key) if isinstance(table, Mapping) else None
        if isinstance(table, Mapping) and isinstance(given, str) and given and kind not in TABLES:
            made[section] = {**table, key: change(given, kind)}
        elif isinstance(table, Mapping) and isinstance(given, Mapping) and kind in TABLES:
            made[section] = {**table, key: {change(str(name), kind): weight for name, weight in given.items()}}
    return made


def _absolute(text: str, kind: PathKind, folder: Path) -> str:
    if kind in ("function", "functions"):
        place, colon, name = text.rpartition(":")
        return f"{_joined(folder, place)}{colon}{name}" if place.endswith(".py") else text
    if kind in ("model", "models"):
        could_be_name = text.count("/") <= 1 and not text.startswith((".", "/", "~"))
        return text if could_be_name and not (folder / text).exists() else _joined(folder, text)
    return _joined(folder, text)


def _joined(folder: Path, text: str) -> str:
    return os.path.normpath(folder / os.path.expanduser(text))
