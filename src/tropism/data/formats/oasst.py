"""OpenAssistant conversation trees: rankings of sibling replies, or demonstrations.

A row is a tree: ``prompt`` with ``replies`` within ``replies``. Left out: flat message tables (rows with
``parent_id``), and the labels and emojis that reviewers gave, which stay in no record.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from tropism.data.formats.base import Format, Repeats, value_of
from tropism.data.formats.ranked import distinct, ranking
from tropism.data.records import Message, Record
from tropism.data.rows import Row, kind_of, number_of, text_of
from tropism.data.strict_json import BadRow, short
from tropism.errors import DataError

Take = Literal["rankings", "best", "all"]

_ROLES = {"prompter": "user", "assistant": "assistant"}


@dataclass(frozen=True)
class Oasst(Format):
    """``message_tree_id`` and ``prompt``, a message with ``text``, ``role`` and ``replies``.

    ``take``: ``rankings`` (of an assistant's sibling replies by their ``rank``, 0 best, one record for each parent),
    ``best`` (a demonstration for every turn of the dialogues that follow the best-ranked reply, or the only one), or
    ``all`` (every reply of the assistant is one). The prompt is the dialogue above, the group is the tree.
    ``partial``: sibling sets with replies that nobody ranked give partial rankings; without it they are left out and
    counted. Deleted messages, with all that follows from them, are left out and counted too. Repeats are noted.
    """

    name: ClassVar[str] = "oasst"
    summary: ClassVar[str] = "message_tree_id, prompt (a tree of replies)"
    columns: ClassVar[tuple[str, ...]] = ("message_tree_id", "prompt", "tree_state", "split")

    usual_repeats: ClassVar[Repeats] = "keep"

    take: Take = "rankings"
    partial: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.take not in ("rankings", "best", "all"):
            raise DataError(f"take is {self.take!r}", "use 'rankings', 'best' or 'all'")

    @classmethod
    def fits(cls, row: Row) -> bool:
        """A tree."""
        return row.has("message_tree_id") and isinstance(row.values.get("prompt"), dict)

    def make(self, row: Row) -> Iterator[Record]:
        """The records of one tree."""
        tree, root = row.text("message_tree_id"), row.object("prompt")
        split = row.split_column()
        state = row.maybe_text("tree_state")
        for path, message, replies in self._turns(root, (), row):
            meta = {"tree_state": state, "lang": message.get("lang")}
            shared: dict[str, Any] = {
                "group": tree,
                "split": split,
                "line": row.line,
                "meta": {name: held for name, held in meta.items() if held is not None},
            }
            if self.take == "rankings":
                yield from self._ranking(path, message, replies, row, shared)
                continue
            for reply in replies:
                yield Record(
                    prompt=path,
                    value={"kind": "demonstration"},
                    text=reply["text"],
                    kind="demonstration",
                    source_id=_id(reply),
                    **shared,
                )

    def _turns(
        self, message: dict[str, Any], above: tuple[Message, ...], row: Row
    ) -> Iterator[tuple[tuple[Message, ...], dict[str, Any], list[dict[str, Any]]]]:
        """(dialogue down to a message, the message, the assistant's replies to it), for every message that has some."""
        path = (*above, _message(message))
        replies = _replies(message, row)
        answers = [reply for reply in replies if reply["role"] == "assistant"]
        if answers and self.take == "best":
            answers = [_best(answers)]
        if answers:
            yield path, message, answers
        for reply in answers + [reply for reply in replies if reply["role"] == "prompter"]:
            yield from self._turns(reply, path, row)

    def _ranking(
        self,
        path: tuple[Message, ...],
        message: dict[str, Any],
        replies: list[dict[str, Any]],
        row: Row,
        shared: dict[str, Any],
    ) -> Iterator[Record]:
        """The ranking of the replies to a message, if they were ranked."""
        if len(replies) < 2:
            return
        ranks = [None if r.get("rank") is None else number_of(r["rank"], "rank") for r in replies]
        known = sum(rank is not None for rank in ranks)
        if known < 2:
            row.left_out["sibling sets that nobody ranked"] += 1
        elif known < len(ranks) and not self.partial:
            row.left_out["sibling sets with a reply that nobody ranked"] += 1
        else:
            candidates = tuple({"text": reply["text"]} for reply in replies)
            distinct(candidates)
            yield Record(
                prompt=path,
                candidates=candidates,
                value=value_of("ranking", ranking(ranks), len(candidates)),
                kind="ranking",
                source_id=_id(message),
                **shared,
            )


def _best(replies: list[dict[str, Any]]) -> dict[str, Any]:
    """The reply ranked first; where none is ranked, the one that stands first."""
    return min(replies, key=lambda reply: float("inf") if reply.get("rank") is None else reply["rank"])


def _replies(message: dict[str, Any], row: Row) -> list[dict[str, Any]]:
    """The replies that are there and were not deleted. Errors: BadRow where one is no message."""
    given = message.get("replies") or []
    if not isinstance(given, list):
        raise BadRow(f"replies is {kind_of(given)}, not a list")
    kept = []
    for reply in given:
        if not isinstance(reply, dict):
            raise BadRow(f"a reply is {kind_of(reply)}, not a message")
        if reply.get("deleted") is True:
            row.left_out["deleted messages"] += 1
            continue
        _message(reply)
        if reply.get("rank") is not None:
            number_of(reply["rank"], "rank")
        kept.append(reply)
    return kept


def _message(raw: dict[str, Any]) -> Message:
    role = raw.get("role")
    if role not in _ROLES:
        raise BadRow(f"role is {short(role)}, not prompter or assistant")
    return {"role": _ROLES[role], "content": text_of(raw.get("text"), "text")}


def _id(message: dict[str, Any]) -> str | None:
    held = message.get("message_id")
    return None if held is None else text_of(held, "message_id")
