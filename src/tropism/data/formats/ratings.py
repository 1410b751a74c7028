"""Answers with scores on a scale: one score in a row, or several aspects of it (HelpSteer's five).

Left out: a scale that nobody states; it is asked for, since 4 of 5 and 4 of 10 are different things.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from tropism.data.formats.asked import ASKING, asked
from tropism.data.formats.base import Format, common, value_of
from tropism.data.formats.chat import answer_of, candidate_of, dialogue
from tropism.data.formats.demonstrations import ANSWER_COLUMNS, answer_column
from tropism.data.records import Record
from tropism.data.rows import Row, number_of
from tropism.data.strict_json import BadRow, short
from tropism.errors import DataError

HELPSTEER = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
_HELPSTEER_SCALE = (0, 4)


@dataclass(frozen=True)
class Ratings(Format):
    """``prompt``, ``completion`` and ``score``; optional ``scale`` ([low, high]), ``aspect``, ``segment`` ([first,
    after last]), ``step``, ``annotator``, ``split``, ``group``, ``id``, ``reason``. Or a column for each aspect.

    ``scale``: of all scores, where no column says it. ``aspects``: the columns that hold scores, each of an aspect of
    its name; HelpSteer's columns, 0 to 4, are known. Aspects without a score (null) are left out.
    """

    name: ClassVar[str] = "ratings"
    summary: ClassVar[str] = "prompt, completion, score, scale; or a column per aspect (aspects=…, scale=…)"
    columns: ClassVar[tuple[str, ...]] = (
        *(*ASKING, "completion", "score", "scale", "aspect", "segment", "step"),
        *("reason", "annotator", "split", "group", "id"),
    )

    scale: tuple[float, float] | None = None
    aspects: tuple[str, ...] = ()
    empty: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "aspects", tuple(self.aspects))
        if self.scale is None:
            return
        low_high = list(self.scale) if isinstance(self.scale, Sequence) and not isinstance(self.scale, str) else []
        if (
            len(low_high) != 2
            or not all(isinstance(end, int | float) for end in low_high)
            or low_high[0] >= low_high[1]
        ):
            raise DataError(f"scale is {self.scale!r}", "give its lowest and highest score, as (1, 5)")

    @classmethod
    def fits(cls, row: Row) -> bool:
        """One answer with a score, or with HelpSteer's columns."""
        one = row.has("prompt") and any(row.has(column) for column in ANSWER_COLUMNS)
        return one and ("score" in row.values or {"helpfulness", "correctness"} <= set(row.values))

    def make(self, row: Row) -> Iterator[Record]:
        """One rating, or one for each aspect."""
        prompt, (answer,) = dialogue(asked(row), [answer_of(row, answer_column(row), empty=self.empty)], row)
        candidates = (candidate_of(answer, row, empty=self.empty),)
        values = [value_of("rating", raw, 1) for raw in self._scores(row)]
        text = row.maybe_text("reason")
        shared = common(row)
        for value in values:
            yield Record(prompt=prompt, candidates=candidates, value=value, kind="rating", text=text, **shared)

    def _scores(self, row: Row) -> Iterator[dict[str, Any]]:
        aspects = self.aspects or tuple(c for c in HELPSTEER if c in row.values)
        if aspects and ("score" not in row.values or self.aspects):
            scale = self._scale(row, None if self.aspects else _HELPSTEER_SCALE)
            for aspect in aspects:
                if row.has(aspect):
                    yield {"score": row.number(aspect), "scale": scale, "aspect": aspect}
                else:
                    row.used.add(aspect)
                    row.left_out["aspects without a score"] += 1
            return
        made: dict[str, Any] = {"score": row.number("score"), "scale": self._scale(row, None)}
        if row.has("aspect"):
            made["aspect"] = row.text("aspect")
        if row.has("segment"):
            made["segment"] = row.listed("segment")
        if row.has("step"):
            made["step"] = row.number("step")
        yield made

    def _scale(self, row: Row, usual: tuple[float, float] | None) -> list[float]:
        if row.has("scale"):
            given = row.listed("scale")
            if len(given) != 2:
                raise BadRow(f"scale is {short(given)}, not [lowest, highest]")
            return [number_of(end, "scale") for end in given]
        scale = self.scale or usual
        if scale is None:
            raise BadRow("no scale: add a column scale, or give scale=(lowest, highest)")
        return list(scale)
