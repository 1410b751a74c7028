"""A recipe in a file of the user's own: five lines that name a model, prompts, a teacher and a reward.

Paths in it are seen from where the file is, and become absolute, so that the study can be run from anywhere.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tropism.errors import ConfigError

_PATHS = (("model", "path"), ("world", "prompts"), ("world", "demonstrations"), ("world", "data"), ("feedback", "file"))


def read_recipe(path: Path) -> dict[str, Any]:
    """The values of a recipe file. ConfigError if it is missing or no TOML."""
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(
            f"recipe file {path} cannot be read: {error.strerror}",
            "correct the path; `tropism recipes` lists built-in ones",
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"recipe file {path} is not UTF-8 text", "save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"recipe file {path} is not valid TOML: {error}", "mend that line") from error
    folder = path.absolute().parent
    for section, key in _PATHS:
        _change(values, section, key, lambda text: _found(folder, text))
    _change(values, "world", "gold", lambda text: _function(folder, text))
    functions = values.get("reward", {}).get("functions") if isinstance(values.get("reward"), dict) else None
    if isinstance(functions, dict):
        values["reward"]["functions"] = {_function(folder, name): weight for name, weight in functions.items()}
    return values


def _change(values: dict[str, Any], section: str, key: str, change: Callable[[str], str]) -> None:
    table = values.get(section)
    if isinstance(table, dict) and isinstance(table.get(key), str):
        table[key] = change(table[key])


def _found(folder: Path, text: str) -> str:
    """The absolute path if it is there; else the text as it is (a model's name on a hub, a path from elsewhere)."""
    return str(folder / text) if (folder / text).exists() else text


def _function(folder: Path, text: str) -> str:
    place, _, name = text.rpartition(":")
    return f"{_found(folder, place)}:{name}" if place.endswith(".py") else text
