"""Sections of settings: frozen models that know all their keys, checked so that an error names key, value and fix."""

from __future__ import annotations

import difflib
import json
import math
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from tropism.errors import ConfigError

_Model = TypeVar("_Model", bound=BaseModel)


class Section(BaseModel):
    """A table of settings: frozen, and no key that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def nearest(name: str, valid: Iterable[str], otherwise: str) -> str:
    """A fix that names the nearest valid name, or says what else to do."""
    close = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.55)
    return f"did you mean {close[0]!r}?" if close else otherwise


def unknown_key(key: str, valid: Iterable[str]) -> ConfigError:
    """The error for a key that is none of ``valid``, with the nearest of them."""
    head, _, last = key.rpartition(".")
    names = sorted(valid)
    listed = f"valid {'keys of [' + head + ']' if head else 'sections'}: {', '.join(names)}"
    return ConfigError(f"unknown {'key' if head else 'section or key'} {key!r}", nearest(last, names, listed))


def check_section(cls: type[_Model], name: str, raw: Any) -> _Model:
    """One section, strictly typed: "3" is no integer and 1 no truth value."""
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{name} = {raw!r} is not a section", f"write [{name}] and its keys below it")
    _refuse_unknown(cls, raw, name)
    try:
        # JSON mode: lists may become tuples and strings paths, which TOML cannot say otherwise
        return cls.model_validate_json(json.dumps(raw, default=str), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join([*([name] if name else []), *(str(part) for part in first["loc"])])
        if first["type"] == "missing":
            raise ConfigError(f"{key} is missing", f"add {key}") from None
        given = first["input"]
        shown = f"{key} = {json.dumps(given, default=str)}" if not isinstance(given, Mapping) else f"[{key}]"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise ConfigError(f"{shown}: {_sentence(first)}{more}", f"set {key} to a value of the right kind") from None


def _sentence(error: Any) -> str:
    """Pydantic's message without its prefix, first letter small."""
    text = str(error["msg"]).removeprefix("Value error, ")
    return text[:1].lower() + text[1:]


def _refuse_unknown(cls: type[BaseModel], raw: Mapping[str, Any], path: str) -> None:
    """Unknown keys at any depth, whatever the model's own ``extra`` says."""
    names = {field.alias or name: field.annotation for name, field in cls.model_fields.items()}
    for key, value in raw.items():
        full = f"{path}.{key}" if path else key
        if key not in names:
            raise unknown_key(full, names)
        below = model_in(names[key])
        if below is not None and isinstance(value, Mapping):
            _refuse_unknown(below, value, full)


def model_in(annotation: Any) -> type[BaseModel] | None:
    """The one model class of an annotation such as ``Section`` or ``Section | None``; None if there are several."""
    if isinstance(annotation, type):
        return annotation if issubclass(annotation, BaseModel) else None
    models = [m for m in map(model_in, typing.get_args(annotation)) if m is not None]
    return models[0] if len(models) == 1 and typing.get_origin(annotation) not in (dict, list, tuple) else None


def refuse_infinite(values: Mapping[str, Any], path: str = "") -> None:
    """TOML can say inf and nan, and an infinite rate passes any lower bound."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            refuse_infinite(value, f"{path}{key}.")
        elif isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{path}{key} = {value} is not a finite number", "leave it out to switch a limit off")
