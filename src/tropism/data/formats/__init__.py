"""All formats by name. A new one is a file with a ``Format`` and a line here."""

from __future__ import annotations

from tropism.data.formats.base import Format
from tropism.data.formats.critiques import Critiques
from tropism.data.formats.demonstrations import Demonstrations
from tropism.data.formats.hh import HH
from tropism.data.formats.llmbar import LLMBar
from tropism.data.formats.lossless import Lossless
from tropism.data.formats.oasst import Oasst
from tropism.data.formats.pairs import Pairs
from tropism.data.formats.prompts import Prompts
from tropism.data.formats.ranked import Ranked
from tropism.data.formats.ratings import Ratings
from tropism.data.formats.segments import Segments
from tropism.data.formats.ukp import UKP
from tropism.data.formats.unpaired import Unpaired
from tropism.data.formats.votes import Votes
from tropism.data.formats.wmt import WMT

_ALL: tuple[type[Format], ...] = (
    *(Pairs, Unpaired, Demonstrations, Prompts, Ranked, Votes, Ratings, Critiques),
    *(HH, Oasst, UKP, WMT, LLMBar, Segments, Lossless),
)
FORMATS: dict[str, type[Format]] = {made.name: made for made in _ALL}
