"""What a report calls things: a domain says it in the values of its first stage, as ``words``.

Whatever a study does not say, one before its first stage included, is called as in the language domain.

Left out: other languages than English.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from tropism.study.report.data import Facts


@dataclass(frozen=True)
class Words:
    """``about``: what policies make, ``texts`` or ``episodes``; it decides which sections, tables and curves there
    are. The others are what a reader calls the reference (in a sentence; as a column's head; behind "win rate over")
    and what all policies are compared on."""

    about: str = "texts"
    reference: str = "SFT model"
    short: str = "SFT"
    over: str = "SFT"
    items: str = "held-out prompts"

    @property
    def episodes(self) -> bool:
        """Whether policies act in episodes."""
        return self.about == "episodes"


def words_of(facts: Facts) -> Words:
    """The words of a study's domain."""
    given = next((stage.values.get("words") for stage in facts.stages if stage.activity == "base"), None)
    if not isinstance(given, Mapping):
        return Words()
    known = {field.name for field in fields(Words)}
    return Words(**{name: str(word) for name, word in given.items() if name in known})
