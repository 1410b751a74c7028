"""UKPConvArg1: which of two arguments is more convincing, five votes a pair, each with a worker and a written reason.

A folder with ``arguments`` (id, topic, stance, text) and ``judgements`` (topic, arg1, arg2, worker, value, reason).
Left out: the corpus's own XML.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from tropism.data.formats.base import Format, Made, Opened, Repeats, value_of
from tropism.data.records import Record, Rejected
from tropism.data.rows import Row
from tropism.data.strict_json import BadRow, short
from tropism.errors import DataError

_CHOICES = {"a1": "a", "a2": "b", "equal": "tie"}


@dataclass(frozen=True)
class UKP(Format):
    """One comparison per judgement: the candidates are the two arguments as they were shown, the prompt says debate and
    stance, the group is the topic, the teacher the worker, the text the reason.

    Repeats are kept and noted: the corpus has some arguments twice, under two ids.
    """

    name: ClassVar[str] = "ukp"
    summary: ClassVar[str] = "a folder with arguments.jsonl and judgements.csv"
    columns: ClassVar[tuple[str, ...]] = ()
    usual_repeats: ClassVar[Repeats] = "keep"

    @classmethod
    def fits(cls, row: Row) -> bool:
        """Never: one file alone is not enough."""
        return False

    @classmethod
    def claims(cls, files: Iterable[Path]) -> bool:
        """Both files are there."""
        names = [path.name for path in files]
        return all(any(name.startswith(stem + ".") for name in names) for stem in ("arguments", "judgements"))

    def stream(self, opened: Opened) -> Iterator[Made | Rejected]:
        """The judgements, after the arguments were read; an argument that cannot be used is a rejected row."""
        arguments: dict[str, dict[str, str]] = {}
        for row in opened.rows("arguments."):
            if isinstance(row, Rejected):
                yield row
                continue
            try:
                argument = {name: row.text(name) for name in ("id", "topic", "stance", "text")}
                if arguments.setdefault(argument["id"], argument) != argument:
                    raise BadRow(f"argument {short(argument['id'])} came before with another content")
            except BadRow as bad:
                yield Made((row,), reason=str(bad))
        if not arguments:
            raise DataError(
                "there is no arguments file, or no usable argument in it", "give the folder with both files"
            )
        for row in opened.rows("judgements."):
            if isinstance(row, Rejected):
                yield row
                continue
            try:
                yield Made((row,), (_record(row, arguments),))
            except BadRow as bad:
                yield Made((row,), reason=str(bad))


def _record(row: Row, arguments: Mapping[str, Mapping[str, str]]) -> Record:
    topic = row.text("topic")
    pair = []
    for column in ("arg1", "arg2"):
        name = row.text(column)
        if name not in arguments:
            raise BadRow(f"{column} is {short(name)}, which is no argument of the arguments file")
        if arguments[name]["topic"] != topic:
            raise BadRow(f"{column} is of topic {short(arguments[name]['topic'])}, not {short(topic)}")
        pair.append(arguments[name])
    first, second = pair
    if first["text"] == second["text"]:
        raise BadRow("the two answers are identical")
    said = row.text("value")
    if said not in _CHOICES:
        raise BadRow(f"value is {short(said)}, not a1, a2 or equal")
    meta: dict[str, Any] = {"arguments": [first["id"], second["id"]], **row.rest()}
    for name in ("worker", "reason"):
        meta.pop(name, None)
    return Record(
        prompt=f"Debate: {_debate(topic)}\nStance: {first['stance']}\nGive a convincing argument for this stance.",
        candidates=({"text": first["text"]}, {"text": second["text"]}),
        value=value_of("comparison", {"choice": _CHOICES[said]}, 2),
        text=row.maybe_text("reason"),
        kind="comparison",
        teacher=row.text("worker"),
        shown=(0, 1),
        split=row.split_column(),
        group=topic,
        source_id=f"{first['id']}_{second['id']}",
        meta=meta,
        line=row.line,
    )


def _debate(topic: str) -> str:
    """The debate in words: ``tv-is-better-than-books_books`` is the debate before the underscore, and a stance."""
    return topic.rpartition("_")[0].replace("-", " ").strip() or topic
