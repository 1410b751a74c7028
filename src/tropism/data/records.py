"""One form for all data: what was asked, what was answered, what somebody said of it.

A ``Record`` is one row's meaning, whatever format it came in: a judgement of one annotator, a demonstration, or a bare
prompt. Values are those of ``feedback/values.py``, over canonical slots. Left out: anything a reader had to guess;
what a format does not say is None here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypedDict, get_args

from tropism.errors import DataError
from tropism.feedback.records import QueryKind, Split

CandidateKind = Literal["text", "reference", "segment"]
"""``text``: content ``{"text": str}``, with ``"messages": [...]`` too where the answer came as chat messages.
``reference``: ``{"ref": str}``, an answer known only by name (a system of a ranking whose texts are elsewhere).
``segment``: ``{"source": str, "start": int, "length": int}`` (steps; no length where the source does not say it), or
``{"file": str, "row": int, "side": 1 | 2, "length": int}`` of an npz file that holds the steps themselves."""


class Message(TypedDict):
    """A chat message. Other keys of a source (``name``, ``tool_calls``) are kept as they are."""

    role: str
    content: str


Prompt = str | tuple[Message, ...]


@dataclass(frozen=True)
class Record:
    """One judgement, demonstration or prompt.

    ``value`` is a feedback value with its ``kind`` (``{"kind": "comparison", "choice": "a", "strength": 0}``), or None
    for a bare prompt or for unjudged candidates. ``text`` is its free text: the answer of a demonstration, a critique,
    a reason. ``kind`` is the query's: what was asked for (``comparison`` … ``critique``), or ``prompt``.
    """

    prompt: Prompt
    candidates: tuple[Mapping[str, Any], ...] = ()
    value: Mapping[str, Any] | None = None
    text: str | None = None
    kind: QueryKind | Literal["prompt"] = "prompt"
    candidate_kind: CandidateKind = "text"
    teacher: str | None = None
    """The annotator as the source names him; None where it does not."""
    shown: tuple[int, ...] | None = None
    """Slots in the order the teacher saw them; None where the source does not say."""
    split: Split | None = None
    group: str = ""
    """What belongs together when data are split or assessed: topic, task family, tree."""
    source_id: str | None = None
    """The row's own id in its source."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Columns carried along (JSON)."""
    line: int = 0
    """Where it stood, from 1: line (JSONL; CSV: where its row begins), row (Parquet, datasets, npz) or element (JSON
    list)."""


@dataclass(frozen=True)
class Rejected:
    """A row that was not taken, and why."""

    line: int
    reason: str
    file: str = ""
    """Which file of a folder; empty where there is only one."""


@dataclass
class Reading:
    """What a source gave: records, and an account of every row.

    Each of the ``rows`` was used, ``rejected``, or is ``empty_rows``: it holds nothing of what was asked for (a tree
    without a ranking). A row may give several records (one per annotator), several rows may give one (a ranking in
    pairs). The counters go by rule: ``repaired`` what was mended (a byte order mark, CRLF), ``left_out`` what was not
    taken although nothing is wrong with it (an unranked reply), ``noted`` what was taken and is worth knowing (an empty
    answer). ``source`` goes into manifests: format, files with digests, licence, columns, options, counts.
    """

    records: list[Record] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    repaired: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    source: dict[str, Any] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    noted: Counter[str] = field(default_factory=Counter)
    empty_rows: int = 0


def prompt_text(prompt: Prompt) -> str:
    """A prompt as plain text: as it is, or the messages as ``role: content`` paragraphs (for display and digests)."""
    if isinstance(prompt, str):
        return prompt
    return "\n\n".join(f"{m['role']}: {m['content']}" for m in prompt)


def payload(record: Record) -> dict[str, Any]:
    """The task payload of a record: ``prompt`` as text, ``messages`` where it was a chat, ``group`` where it has one.

    ``messages`` are what a policy with a chat template is given; ``prompt`` is what others, and reports, see.
    """
    made: dict[str, Any] = {"prompt": prompt_text(record.prompt)}
    if not isinstance(record.prompt, str):
        made["messages"] = [dict(m) for m in record.prompt]
    if record.group:
        made["group"] = record.group
    return made


VERSION = 1
"""Of the lossless form; it is the value of the key ``tropism`` in every object."""


def to_json(record: Record) -> dict[str, Any]:
    """A record as a JSON object; what is empty is left out. ``from_json`` gives the same record back, but its line."""
    prompt: Any = record.prompt if isinstance(record.prompt, str) else [dict(message) for message in record.prompt]
    made: dict[str, Any] = {"tropism": VERSION, "kind": record.kind, "prompt": prompt}
    if record.candidates:
        made["candidates"] = [dict(candidate) for candidate in record.candidates]
    if record.candidate_kind != "text":
        made["candidate_kind"] = record.candidate_kind
    for name in ("value", "text", "teacher", "shown", "split", "source_id"):
        held = getattr(record, name)
        if held is not None:
            made[name] = dict(held) if name == "value" else list(held) if name == "shown" else held
    if record.group:
        made["group"] = record.group
    if record.meta:
        made["meta"] = dict(record.meta)
    return made


def from_json(raw: Mapping[str, Any], line: int = 0) -> Record:
    """A record of ``to_json``'s object. Errors: DataError naming the key and what is wrong with it."""
    known = {f.name for f in fields(Record)} - {"line"} | {"tropism"}
    for name in raw:
        if name not in known:
            raise DataError(f"unknown key {name!r} of a record", f"its keys are {', '.join(sorted(known))}")
    if raw.get("tropism") != VERSION:
        raise DataError(f"a record of version {raw.get('tropism')!r}, not {VERSION}", "read it with the same version")
    prompt = _of_type(raw, "prompt", str | list, "")
    candidates = tuple(_mapping(held, "candidates") for held in _of_type(raw, "candidates", list, []))
    shown = _of_type(raw, "shown", list, None)
    if shown is not None and sorted(shown, key=repr) != list(range(len(candidates))):
        raise DataError(f"shown is {shown}, not an order of {len(candidates)} candidates", "name every slot once")
    value = _of_type(raw, "value", dict, None)
    kind = _one_of(raw, "kind", (*get_args(QueryKind), "prompt"), "prompt")
    if value is not None and value.get("kind") != kind:
        raise DataError(f"kind is {kind!r}, but its value's is {value.get('kind')!r}", "use one kind")
    return Record(
        prompt=prompt if isinstance(prompt, str) else tuple(_message(held) for held in prompt),
        candidates=candidates,
        value=value,
        text=_of_type(raw, "text", str, None),
        kind=kind,
        candidate_kind=_one_of(raw, "candidate_kind", get_args(CandidateKind), "text"),
        teacher=_of_type(raw, "teacher", str, None),
        shown=None if shown is None else tuple(shown),
        split=_one_of(raw, "split", get_args(Split), None),
        group=_of_type(raw, "group", str, ""),
        source_id=_of_type(raw, "source_id", str, None),
        meta=_of_type(raw, "meta", dict, {}),
        line=line,
    )


def _of_type(raw: Mapping[str, Any], name: str, kind: Any, default: Any) -> Any:
    held = raw.get(name)
    if held is None:
        if name == "prompt":
            raise DataError("a record without a prompt", "every record has one")
        return default
    if not isinstance(held, kind):
        raise DataError(f"{name} is a {type(held).__name__}", "write records with to_json")
    return held


def _one_of(raw: Mapping[str, Any], name: str, known: tuple[str, ...], default: Any) -> Any:
    held = _of_type(raw, name, str, default)
    if held is not None and held not in known:
        raise DataError(f"{name} is {held!r}", f"use one of {', '.join(known)}")
    return held


def _mapping(held: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(held, dict):
        raise DataError(f"{name} holds a {type(held).__name__}, not an object", "write records with to_json")
    return held


def _message(held: Any) -> Message:
    made = _mapping(held, "prompt")
    if not isinstance(made.get("role"), str) or not isinstance(made.get("content"), str):
        raise DataError("a message of the prompt has no role or no content", "write records with to_json")
    return dict(made)  # type: ignore[return-value]
