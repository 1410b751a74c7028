"""Nested values written as TOML (reading is ``tomllib``)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tropism.errors import ConfigError


def to_toml(values: Mapping[str, Any], path: str = "") -> str:
    """Nested values as TOML: plain keys first, then tables. For what ``expand`` and ``parse_overrides`` make."""
    plain = {key: value for key, value in values.items() if not isinstance(value, Mapping)}
    tables = {key: value for key, value in values.items() if isinstance(value, Mapping)}
    lines = [f"{_toml_key(key)} = {_toml_value(value)}\n" for key, value in plain.items()]
    head = f"\n[{path}]\n" if path and (lines or not tables) else ""
    below = [to_toml(value, f"{path}.{_toml_key(key)}" if path else _toml_key(key)) for key, value in tables.items()]
    return head + "".join(lines) + "".join(below)


def _toml_key(key: str) -> str:
    plain = key and all(c.isascii() and (c.isalnum() or c in "-_") for c in key)
    return key if plain else _toml_string(key)


def _toml_string(text: str) -> str:
    """JSON's escapes are TOML's, but for DEL, which only TOML wants escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml_value, value))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_toml_key(str(k))} = {_toml_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, int | float):
        return repr(value)
    if value is None:
        raise ConfigError("TOML has no null", "leave the key out to have its default")
    return _toml_string(str(value))
