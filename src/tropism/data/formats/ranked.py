"""K answers to one prompt with their order: best first, or with ranks, of which some may be equal or missing.

Left out: scores (``ratings.py``), and steps of one answer with a label each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from tropism.data.formats.asked import ASKING, asked
from tropism.data.formats.base import Format, common, value_of
from tropism.data.formats.chat import Answer, candidate_of, dialogue
from tropism.data.records import Record
from tropism.data.rows import Row, messages, number_of, text_of
from tropism.data.strict_json import BadRow


@dataclass(frozen=True)
class Ranked(Format):
    """``prompt`` and ``completions``, a list of texts or of lists of messages, best first unless ``ranks`` says it.

    ``ranks``: one number per answer, the smallest best, equal ones tied, null for an answer nobody ranked. Optional:
    ``annotator``, ``split``, ``group``, ``id``, ``reason``. ``empty``: answers may be empty.
    """

    name: ClassVar[str] = "ranked"
    summary: ClassVar[str] = "prompt, completions (a list, best first), optionally ranks"
    columns: ClassVar[tuple[str, ...]] = (
        *(*ASKING, "completions", "ranks", "reason", "annotator", "split", "group", "id"),
    )

    empty: bool = False

    @classmethod
    def fits(cls, row: Row) -> bool:
        """A list of answers without labels of its own."""
        return row.has("prompt", "completions") and "labels" not in row.values

    def make(self, row: Row) -> Iterator[Record]:
        """One ranking."""
        listed = row.listed("completions")
        answers: list[Answer] = []
        for place, one in enumerate(listed, 1):
            name = f"completions[{place}]"
            is_chat = isinstance(one, list)
            answers.append(messages(one, name, row.repaired) if is_chat else text_of(one, name, empty=self.empty))
        prompt, answers = dialogue(asked(row), answers, row)
        candidates = tuple(candidate_of(answer, row, empty=self.empty) for answer in answers)
        distinct(candidates)
        value = ranking(_ranks(row, len(answers)))
        yield Record(
            prompt=prompt,
            candidates=candidates,
            value=value_of("ranking", value, len(answers)),
            kind="ranking",
            text=row.maybe_text("reason"),
            **common(row),
        )


def ranking(ranks: Sequence[float | None]) -> dict[str, Any]:
    """A ranking's value from one rank per candidate, the smallest best; None was not ranked."""
    levels = sorted({rank for rank in ranks if rank is not None})
    groups = [[f"c{i + 1}" for i, rank in enumerate(ranks) if rank == level] for level in levels]
    return {"rank": groups, "unranked": [f"c{i + 1}" for i, rank in enumerate(ranks) if rank is None]}


def distinct(candidates: Sequence[Any]) -> None:
    """Errors: BadRow if two candidates are the same."""
    for place, one in enumerate(candidates):
        if one in candidates[:place]:
            raise BadRow(f"answers {candidates.index(one) + 1} and {place + 1} are identical")


def _ranks(row: Row, count: int) -> list[float | None]:
    if not row.has("ranks"):
        return [float(place) for place in range(count)]
    given = row.listed("ranks")
    if len(given) != count:
        raise BadRow(f"{len(given)} ranks for {count} completions")
    return [None if rank is None else number_of(rank, f"ranks[{i}]") for i, rank in enumerate(given, 1)]
