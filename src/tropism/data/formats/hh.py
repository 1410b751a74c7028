"""Anthropic's HH-RLHF: two transcripts of "Human:" and "Assistant:" turns, the chosen and the rejected one.

Their common turns are the prompt, as chat messages; what follows are the answers. Left out: red-team transcripts, which
have one transcript and a rating.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from tropism.data.formats.base import Format, common, value_of
from tropism.data.formats.chat import candidate_of, common_messages
from tropism.data.formats.pairs import is_transcript
from tropism.data.records import Message, Record
from tropism.data.rows import Row
from tropism.data.strict_json import BadRow, short

_TURN = re.compile(r"\n\n(?=(?:Human|Assistant):)")
_ROLES = {"Human": "user", "Assistant": "assistant"}


@dataclass(frozen=True)
class HH(Format):
    """``chosen`` and ``rejected``, each a transcript that ends with an assistant's turn. Optional: as for pairs.

    The prompt is the turns that both share, down to the last of the human before they part. So where transcripts differ
    earlier than in their last turn, an answer has several messages (noted). ``empty``: an assistant's turn may be
    empty, as some of the published ones are (noted).
    """

    name: ClassVar[str] = "hh"
    summary: ClassVar[str] = 'chosen, rejected: transcripts with "\\n\\nHuman:" and "\\n\\nAssistant:" turns'
    columns: ClassVar[tuple[str, ...]] = ("chosen", "rejected", "annotator", "split", "group", "id")

    empty: bool = True

    @classmethod
    def fits(cls, row: Row) -> bool:
        """Two transcripts and no other prompt."""
        if "prompt" in row.values or "conversations" in row.values:
            return False
        return is_transcript(row.values.get("chosen")) and is_transcript(row.values.get("rejected"))

    def make(self, row: Row) -> Iterator[Record]:
        """One comparison."""
        chosen, rejected = (self._turns(row, column) for column in ("chosen", "rejected"))
        if chosen == rejected:
            raise BadRow("the two answers are identical")
        prompt, answers = common_messages([chosen, rejected])
        if any(len(answer) > 1 for answer in answers):
            row.noted["transcripts that part before their last turn"] += 1
        yield Record(
            prompt=prompt,
            candidates=tuple(candidate_of(answer, row, empty=self.empty) for answer in answers),
            value=value_of("comparison", {"choice": "a"}, 2),
            kind="comparison",
            **common(row),
        )

    def _turns(self, row: Row, column: str) -> tuple[Message, ...]:
        text = row.text(column)
        before, *parts = _TURN.split(text)
        if before.strip() or not parts:
            raise BadRow(f'{column} does not begin with a turn of "Human:" or "Assistant:": {short(text)}')
        turns: list[Message] = []
        for part in parts:
            speaker, _, said = part.partition(":")
            turns.append({"role": _ROLES[speaker], "content": said.removeprefix(" ")})
        if turns[-1]["role"] != "assistant":
            raise BadRow(f"{column} ends with a turn of the human")
        if any(one["role"] == two["role"] for one, two in pairwise(turns)):
            row.noted["transcripts with two turns of one speaker in a row"] += 1
        return tuple(turns)
