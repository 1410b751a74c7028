"""One form for all data: what was asked, what was answered, what somebody said of it.

A ``Record`` is one row's meaning, whatever format it came in: a judgement of one annotator, a demonstration, or a bare
prompt. Values are those of ``feedback/values.py``, over canonical slots. Left out: anything a reader had to guess;
what a format does not say is None here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

from tropism.feedback.records import QueryKind, Split

CandidateKind = Literal["text", "reference", "segment"]
"""``text``: content ``{"text": str}``, with ``"messages": [...]`` too where the answer came as chat messages.
``reference``: ``{"ref": str}``, an answer known only by name (a system of a ranking whose texts are elsewhere).
``segment``: ``{"source": str, "start": int, "length": int}`` (steps), or ``{"file": str, "row": int}`` of an npz file
that holds the steps themselves."""


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
    """Where it stood: line (JSONL), row (CSV, Parquet, datasets) or element (JSON list), from 1."""


@dataclass(frozen=True)
class Rejected:
    """A row that was not taken, and why."""

    line: int
    reason: str


@dataclass
class Reading:
    """What a source gave: records, and an account of every row.

    ``rows`` = rows that gave at least one record + ``rejected``; a row may give several records (one per annotator).
    ``repaired`` counts, by rule, what was mended (a byte order mark, CRLF, a doubled row). ``source`` goes into
    manifests: format, files with digests, licence, columns.
    """

    records: list[Record] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    repaired: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    source: dict[str, Any] = field(default_factory=dict)


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
