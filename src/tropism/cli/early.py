"""What must be settled before torch is loaded, and so before any settings can be checked: how tensor threads wait.

The settings classes need torch. So the one setting is looked for in the command line's own words, in the order in which
they are laid over one another: a recipe file, a study's study.toml, ``--set``. What is wrong with any of them is said
by whoever reads them properly afterwards. Left out: built-in recipes, which do not set it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from tropism.errors import ConfigError
from tropism.runtime.memory import wait_policy
from tropism.settings.overrides import expand, parse_overrides

SECTIONS, SETTING = ("run", "runtime"), "passive_wait"


def settle(arguments: Sequence[str]) -> str:
    """Choose how tensor threads will wait, by a command's ``arguments`` (those after the program's name)."""
    wanted = True
    for values in _layers(arguments):
        for section in SECTIONS:
            found = values.get(section)
            said = found.get(SETTING) if isinstance(found, Mapping) else None
            wanted = said if isinstance(said, bool) else wanted
    return wait_policy(wanted)


def _layers(arguments: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """Nested tables, each laid over the ones before."""
    for recipe in _options(arguments, "--recipe"):
        yield _table(Path(recipe))
    for argument in arguments:
        if not argument.startswith("-"):
            yield _table(Path(argument) / "study.toml")
    try:
        yield expand(parse_overrides(_options(arguments, "--set")))
    except ConfigError:
        return


def _options(arguments: Sequence[str], name: str) -> list[str]:
    """The values of an option, ``--name value`` or ``--name=value``, in their order."""
    return [
        after if word == name else word.removeprefix(f"{name}=")
        for word, after in zip_longest(arguments, arguments[1:], fillvalue="")
        if word == name or word.startswith(f"{name}=")
    ]


def _table(path: Path) -> Mapping[str, Any]:
    """A TOML file's values; nothing where it is none."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError):  # what is no UTF-8 and what is no TOML are ValueErrors
        return {}
