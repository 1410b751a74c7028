"""What a record becomes in each format that is written: its rows, or the reason why the format cannot hold it.

The columns are those that ``formats/`` reads, so that what is written is read back as it was. Left out: files
(``writing.py``), and formats that only others write (hh, oasst, wmt, …).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from tropism.data.formats import FORMATS
from tropism.data.formats.demonstrations import ANSWER_COLUMNS
from tropism.data.formats.pairs import label_of_choice
from tropism.data.judgements import preferred_text
from tropism.data.records import Prompt, Record, prompt_text, to_json
from tropism.errors import DataError

ExportFormat = Literal[
    "pairs", "unpaired", "demonstrations", "ranked", "votes", "ratings", "critiques", "prompts", "tropism"
]
Form = Literal["chosen", "mixed", "label"]
Conversational = Literal["auto", "always", "never"]
Row = dict[str, Any]
_ASSISTANT = "assistant"
_ORDER_UNKNOWN = "order shown, which nobody knows (that of the slots)"


class LeftOut(Exception):
    """A record that a format cannot hold; the text is the reason."""


@dataclass(frozen=True)
class ExportOptions:
    """How records are written.

    ``form`` of pairs: ``chosen`` (chosen and rejected; ties are left out), ``label`` (first, second and label 0, 1 or
    0.5, in the order shown), ``mixed`` (ties by label, all others as chosen and rejected; JSONL alone).
    ``conversational``: ``auto`` writes prompts that are messages as such; ``always`` makes a plain prompt one user
    message; ``never`` writes messages as plain text. ``unpair``: in ``unpaired``, the answers of a comparison become
    two labels (both bad: two bad ones). ``chosen``: in ``demonstrations``, what was preferred is one too.
    """

    form: Form = "chosen"
    conversational: Conversational = "auto"
    unpair: bool = True
    chosen: bool = False

    def __post_init__(self) -> None:
        for name, known in (("form", get_args(Form)), ("conversational", get_args(Conversational))):
            if getattr(self, name) not in known:
                raise DataError(f"{name} is {getattr(self, name)!r}", f"use {', '.join(known)}")


@dataclass
class Rows:
    """Makes the rows of one format. ``lost`` counts what of a record is written otherwise than it was, or not at all;
    whoever takes the rows empties it before each record."""

    format: ExportFormat
    options: ExportOptions
    tabular: bool = False
    """All rows have the same columns."""
    lost: Counter[str] = field(default_factory=Counter)
    _votes: dict[str, tuple[Row, int]] = field(default_factory=dict)
    _written: set[str] = field(default_factory=set)

    def of(self, record: Record) -> list[Row]:
        """The rows of one record. Errors: LeftOut with the reason."""
        if self.format == "tropism":
            return [to_json(record)]
        if not prompt_text(record.prompt).strip():
            raise LeftOut("an empty prompt")
        contents = [dict(content) for content in record.candidates]
        if any(one in contents[:place] for place, one in enumerate(contents)):
            raise LeftOut("identical answers")
        if record.candidates and record.candidate_kind != "text":
            raise LeftOut(f"answers that are no text ({record.candidate_kind})")
        makers: Mapping[str, Callable[[Record], Iterator[Row]]] = {
            "pairs": self._pair,
            "unpaired": self._unpaired,
            "demonstrations": self._demonstration,
            "ranked": self._ranked,
            "votes": self._vote,
            "ratings": self._rating,
            "critiques": self._critique,
            "prompts": self._prompt,
        }
        return list(makers[self.format](record))

    # ---- formats ----

    def _pair(self, record: Record) -> Iterator[Row]:
        value = _value(record, "comparison")
        choice, form = value["choice"], self.options.form
        if choice not in ("a", "b", "tie") or (choice == "tie" and form == "chosen"):
            raise LeftOut(str(choice))
        if form == "label" or choice == "tie":
            first, second = record.shown or (0, 1)
            if record.shown is None:
                self.lost[_ORDER_UNKNOWN] += 1
            row = self._asked(record, {"first": first, "second": second})
            # the label speaks of what was shown first, the choice of slot a
            row["label"] = label_of_choice(
                "tie" if choice == "tie" else "a" if (choice == "a") == (first == 0) else "b"
            )
        else:
            self._lose_order(record)
            best = "ab".index(choice)
            row = self._asked(record, {"chosen": best, "rejected": 1 - best})
        if value.get("strength"):
            row["strength"] = value["strength"]
        yield self._completed(record, row, reason=True)

    def _unpaired(self, record: Record) -> Iterator[Row]:
        value = record.value or {}
        kind = value.get("kind")
        if kind == "comparison" and self.options.unpair:
            yield from self._two_labels(record, str(value["choice"]))
            return
        if kind not in ("label", "approval"):
            _value(record, "label")
        row = self._asked(record, {"completion": 0})
        if kind == "approval":
            self.lost["approval (a label named approval)"] += 1
            row |= {"label": value["approved"], "name": "approval"}
        else:
            row |= {"label": value["good"]} | ({} if value["name"] == "good" else {"name": value["name"]})
        yield self._completed(record, row, reason=True)

    def _two_labels(self, record: Record, choice: str) -> Iterator[Row]:
        if choice not in ("a", "b", "both_bad"):
            raise LeftOut(choice)
        self.lost["comparison (two labels)"] += 1
        made = []
        for slot, name in enumerate("ab"):
            row = self._asked(record, {"completion": slot}) | {"label": choice == name}
            row = self._completed(record, row, reason=True)
            if "id" in row:
                row["id"] = f"{row['id']}/{name}"  # an id stands for one question
            made.append(row)
        yield from made

    def _demonstration(self, record: Record) -> Iterator[Row]:
        text = preferred_text(record, chosen=self.options.chosen)
        if text is None:
            _value(record, "demonstration")
            raise LeftOut("a demonstration without text")
        if not text.strip():
            raise LeftOut("an empty answer")
        if record.kind != "demonstration":
            self.lost[f"{record.kind} (a demonstration)"] += 1
        chat, prompt = self._prompt_of(record)
        self._once([prompt, text, record.teacher], "a demonstration that was written before")
        yield self._completed(record, {"prompt": prompt, "completion": _answer(text) if chat else text})

    def _ranked(self, record: Record) -> Iterator[Row]:
        value = _value(record, "ranking")
        self._lose_order(record)
        rank = {slot: place for place, group in enumerate(value["rank"], 1) for slot in group}
        chat, prompt = self._prompt_of(record)
        answers = [self._answer_of(content, chat) for content in record.candidates]
        ranks = [rank.get(f"c{i + 1}") for i in range(len(answers))]
        yield self._completed(record, {"prompt": prompt, "completions": answers, "ranks": ranks}, reason=True)

    def _vote(self, record: Record) -> Iterator[Row]:
        """One row for all annotators of a pair; it comes with ``rest``."""
        value = _value(record, "comparison")
        if not (record.teacher or "").strip():
            raise LeftOut("a vote without annotator")
        if (record.text or "").strip():
            self.lost["reason"] += 1
        first, second = record.shown or (0, 1)
        names = ("first", "second")
        if record.shown is None and not self.tabular:
            names = ("response1", "response2")  # which says nothing of the order
        elif record.shown is None:
            self.lost[_ORDER_UNKNOWN] += 1
        row = self._completed(record, self._asked(record, {names[0]: first, names[1]: second}))
        row.pop("annotator")
        swap = {"a": "b", "b": "a"} if first else {}
        choice = swap.get(value["choice"], value["choice"])
        vote = {"choice": choice, "strength": value["strength"]} if value.get("strength") else {"choice": choice}
        key = repr(row)
        there, count = self._votes.setdefault(key, ({**row, "votes": {}}, 0))
        if record.teacher in there["votes"]:
            raise LeftOut("a second vote of one annotator on one pair")
        there["votes"][record.teacher] = vote
        self._votes[key] = (there, count + 1)
        return iter(())

    def _rating(self, record: Record) -> Iterator[Row]:
        value = _value(record, "rating")
        row = self._asked(record, {"completion": 0})
        row |= {"score": value["score"], "scale": list(value["scale"]), "aspect": value.get("aspect", "overall")}
        row |= {name: value[name] for name in ("segment", "step") if value.get(name) is not None}
        yield self._completed(record, row, reason=True)

    def _critique(self, record: Record) -> Iterator[Row]:
        value = record.value or {}
        if value.get("kind") not in ("critique", "correction"):
            _value(record, "critique")
        if not (record.text or "").strip():
            raise LeftOut(f"a {value['kind']} without text")
        whole = str(record.candidates[0]["text"])
        if value.get("span") is not None and value["span"][1] > len(whole):
            raise LeftOut("a span that ends behind its answer")
        if value["kind"] == "correction" and record.text == whole:
            raise LeftOut("a correction that changes nothing")
        row = self._asked(record, {"completion": 0}) | {value["kind"]: record.text}
        if value.get("span") is not None:
            row["span"] = list(value["span"])
        yield self._completed(record, row)

    def _prompt(self, record: Record) -> Iterator[Row]:
        if record.value is not None:
            self.lost[f"{record.kind} (its prompt alone)"] += 1
        prompt = self._prompt_of(record)[1]
        self._once(prompt, "a prompt that was written before")
        yield self._completed(record, {"prompt": prompt})

    def rest(self) -> Iterator[tuple[Row, int]]:
        """(row, records it holds) of what had to be put together: votes."""
        yield from self._votes.values()

    # ---- columns ----

    def _asked(self, record: Record, answers: Mapping[str, int]) -> Row:
        """The prompt and the named answers, as text or as messages."""
        chat, prompt = self._prompt_of(record)
        return {"prompt": prompt} | {
            name: self._answer_of(record.candidates[slot], chat) for name, slot in answers.items()
        }

    def _prompt_of(self, record: Record) -> tuple[bool, Any]:
        """(whether the row is a chat, the prompt's cell)."""
        plain = isinstance(record.prompt, str)
        if self.options.conversational == "never" or (plain and self.options.conversational == "auto"):
            if not plain:
                self.lost["messages (plain text)"] += 1
            return False, prompt_text(record.prompt)
        if plain:
            self.lost["plain prompt (a user message)"] += 1
        return True, _messages(record.prompt)

    def _answer_of(self, content: Mapping[str, Any], chat: bool) -> Any:
        text, messages = str(content["text"]), content.get("messages")
        if not text.strip() and (chat or "empty" not in FORMATS[self.format].__dataclass_fields__):
            raise LeftOut("an empty answer")
        if chat:
            return [dict(message) for message in messages] if messages else _answer(text)
        if messages and messages != _answer(text):
            self.lost["messages of an answer (plain text)"] += 1
        return text

    def _completed(self, record: Record, row: Row, *, reason: bool = False) -> Row:
        """The row with what every format carries, in columns of one order: who, where, and the source's own columns."""
        names = {"annotator": record.teacher, "split": record.split, "group": record.group, "id": record.source_id}
        if reason:
            names = {"reason": record.text, **names}
        elif self.format not in ("critiques", "demonstrations", "votes") and record.text is not None:
            self.lost["text"] += 1
        for name, held in names.items():
            if held is not None and held.strip():
                row[name] = held
            elif held:
                self.lost[f"blank {name}"] += 1
        taken = {*FORMATS[self.format].columns, *ANSWER_COLUMNS, "tropism"}
        for name, value in record.meta.items():
            if name in row or name in taken or (self.format == "votes" and name.startswith("annotator")):
                self.lost[f"column {name} (the format has one of this name)"] += 1
            elif value is None:
                self.lost[f"null in column {name}"] += 1
            else:
                row[name] = value
        return row

    def _once(self, said: Any, otherwise: str) -> None:
        """Errors: LeftOut if this was written before."""
        # not the JSON digest: a text may hold half a surrogate pair, which is told later
        key = hashlib.sha256(repr(said).encode()).hexdigest()[:32]
        if key in self._written:
            raise LeftOut(otherwise)
        self._written.add(key)

    def _lose_order(self, record: Record) -> None:
        if record.shown is not None:
            self.lost["order shown"] += 1


def _value(record: Record, kind: str) -> Mapping[str, Any]:
    """The record's value if it is of this kind. Errors: LeftOut."""
    if record.value is None:
        raise LeftOut("no judgement")
    if record.value.get("kind") != kind:
        raise LeftOut(str(record.value.get("kind")))
    return record.value


def _answer(text: str) -> list[dict[str, str]]:
    return [{"role": _ASSISTANT, "content": text}]


def _messages(prompt: Prompt) -> list[dict[str, Any]]:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(m) for m in prompt]
