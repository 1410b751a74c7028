"""All formats by name. A new one is a file with a ``Format`` and a line here."""

from __future__ import annotations

from tropism.data.formats.base import Format
from tropism.data.formats.demonstrations import Demonstrations
from tropism.data.formats.pairs import Pairs
from tropism.data.formats.prompts import Prompts

FORMATS: dict[str, type[Format]] = {made.name: made for made in (Pairs, Demonstrations, Prompts)}
