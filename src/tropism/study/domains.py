"""Which domains there are: a name, and where its class is imported from, only when a study needs it.

Left out: any knowledge of what a domain does; that is ``protocol.py``.
"""

from __future__ import annotations

import difflib
import importlib
from importlib.metadata import entry_points
from typing import Any

from tropism.errors import ConfigError

BUILT_IN = {
    "language": "tropism.language.domain:LanguageDomain",
    "control": "tropism.control.domain:ControlDomain",
}
ENTRY_POINTS = "tropism.domains"


def domain_names() -> dict[str, str]:
    """Name → ``module:Class`` of the built-in domains and of those that installed packages register."""
    return {**{e.name: e.value for e in entry_points(group=ENTRY_POINTS)}, **BUILT_IN}


def load_domain_class(name: str) -> type[Any]:
    """The domain class of a registered name or of ``module:Class``; it satisfies ``protocol.Domain``.

    A domain is made by ``cls(config)``, where ``config`` is an instance of ``cls.config_class``.
    """
    known = domain_names()
    place = known.get(name, name)
    module, colon, attribute = place.partition(":")
    if not colon:
        close = difflib.get_close_matches(name, known, n=1)
        fix = f"did you mean {close[0]!r}?" if close else f"use one of {sorted(known)} or module:Class"
        raise ConfigError(f"study.domain = {name!r} is not a domain", fix)
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except ModuleNotFoundError as error:
        fix = "install the package that has it, or mend study.domain"
        raise ConfigError(
            f"study.domain = {name!r} needs the module {error.name!r}, which is not there", fix
        ) from error
    if not isinstance(found, type) or not hasattr(found, "config_class"):
        raise ConfigError(f"study.domain = {name!r}: {place} is not a domain class", "name a class with a config_class")
    return found
