"""Values laid over one another: ``--set a.b=c``, nested tables, and how two of them differ."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

from tropism.errors import ConfigError


def parse_overrides(items: Iterable[str]) -> dict[str, Any]:
    """``["ppo.steps=3", "study.name=mine"]`` → ``{"ppo.steps": 3, "study.name": "mine"}``.

    A value is read as TOML; what is not TOML is taken as a string.
    """
    made: dict[str, Any] = {}
    for item in items:
        key, equals, raw = item.partition("=")
        if not equals or not all(part.strip() for part in key.split(".")):
            raise ConfigError(f"--set {item!r} is not KEY=VALUE", "write for example --set ppo.steps=40")
        try:
            value = tomllib.loads(f"value = {raw.strip()}")["value"] if "\n" not in raw else raw
        except tomllib.TOMLDecodeError:
            value = raw
        made[".".join(part.strip() for part in key.split("."))] = value
    return made


def expand(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys made into nested tables: ``{"a.b": 1}`` → ``{"a": {"b": 1}}``; nested ones are kept."""
    nested: dict[str, Any] = {}
    for key, value in overrides.items():
        for part in reversed(key.split(".")):
            value = {part: value}
        nested = merge(nested, value)
    return nested


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``over`` laid over ``under``, table by table; neither is changed."""
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def differences(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """The dotted keys whose values differ, with both values (None where absent)."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in sorted({*before, *after}):
        old, new = before.get(key), after.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found |= differences(old, new, f"{prefix}{key}.")
        elif old != new:
            found[f"{prefix}{key}"] = (old, new)
    return found
