"""Samples side by side: one held-out task (a prompt, a start) by the reference and by the policy of every round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tropism.study.report.data import Facts
from tropism.study.report.words import words_of

CLIPS = {".mp4": "video/mp4", ".webm": "video/webm"}
"""What browsers call the kinds of clips."""


@dataclass(frozen=True)
class Answer:
    """One completion as stored: gold, its aspects, the scores of learned judges, why it ended, its length."""

    who: str
    text: str
    gold: float | None = None
    aspects: list[tuple[str, float]] = field(default_factory=list)
    scores: list[tuple[str, float]] = field(default_factory=list)
    stop: str = ""
    tokens: int | None = None
    clip: Path | None = None


@dataclass(frozen=True)
class Sample:
    """One prompt with its answers, oldest policy first."""

    prompt: str
    kind: str
    answers: list[Answer]


def side_by_side(facts: Facts, count: int | None = None) -> list[Sample]:
    """The prompts that the newest evaluation stored, each with its answers by the reference and by every round that has
    it."""
    if not facts.samples:
        return []
    last, name = max(facts.samples), words_of(facts).short
    newest = facts.samples[last]
    by_round = {r: {_key(row): row for row in rows} for r, rows in facts.samples.items()}
    chosen = spread(newest, count) if count is not None else newest
    found = []
    for row in chosen:
        answers = [_answer(name, _output(row, "reference"), facts.sample_folders.get(last))]
        same = [(r, rows[_key(row)]) for r, rows in sorted(by_round.items()) if _key(row) in rows]
        answers += [_answer(f"Round {r}", _output(other, "policy"), facts.sample_folders.get(r)) for r, other in same]
        if known := [answer for answer in answers if answer is not None]:
            found.append(Sample(str(row.get("prompt", "")), str(row.get("kind", "")), known))
    return found


def spread(rows: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """The first ``count`` rows, taken in turn from each kind of task, so that none is hidden behind another."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        kinds.setdefault(str(row.get("kind", "")), []).append(row)
    chosen: list[dict[str, Any]] = []
    for turn in range(max(map(len, kinds.values()), default=0)):
        chosen += [group[turn] for group in kinds.values() if turn < len(group)]
    return chosen[:count]


def _key(row: Mapping[str, Any]) -> str:
    return str(row.get("task_id") or row.get("prompt"))


def _output(row: Mapping[str, Any], policy: str) -> Any:
    outputs = row.get("outputs")
    return outputs.get(policy) if isinstance(outputs, Mapping) else None


def _answer(who: str, stored: Any, folder: Path | None = None) -> Answer | None:
    if not isinstance(stored, Mapping):
        return None
    gold = stored.get("gold")
    return Answer(
        who,
        str(stored.get("text", "")),
        None if gold is None else float(gold),
        _numbers(stored.get("aspects")),
        _numbers(stored.get("scores")),
        str(stored.get("stop", "")),
        stored.get("tokens"),
        _clip(stored.get("clip"), folder),
    )


def _clip(name: Any, folder: Path | None) -> Path | None:
    """A clip that lies beside the samples; whatever else a name says is not followed."""
    if folder is None or not isinstance(name, str) or Path(name).name != name or Path(name).suffix not in CLIPS:
        return None
    return folder / name if (folder / name).is_file() else None


def _numbers(values: Any) -> list[tuple[str, float]]:
    pairs = values.items() if isinstance(values, Mapping) else ()
    return [(str(name), float(value)) for name, value in pairs if isinstance(value, int | float)]


def paired(facts: Facts, round_: int, key: str) -> tuple[list[float], list[float]]:
    """(the round's policy, SFT): one number for each prompt on which ``key`` is known of both.

    ``key`` is an aspect, ``gold_mean``, ``length_mean`` or ``missing_end``; for anything else both lists are empty.
    """
    own: list[float] = []
    reference: list[float] = []
    for row in facts.samples.get(round_, []):
        values = [_value(_output(row, who), key) for who in ("policy", "reference")]
        if values[0] is not None and values[1] is not None:
            own.append(values[0])
            reference.append(values[1])
    return own, reference


def _value(stored: Any, key: str) -> float | None:
    if not isinstance(stored, Mapping):
        return None
    if key == "missing_end":
        return float(stored.get("stop") == "length")
    stands = {"gold_mean": "gold", "true_return": "gold", "length_mean": "tokens", "length": "steps"}
    found = stored.get(stands.get(key, ""))
    if found is None:
        found = (stored.get("aspects") or {}).get(key)
    return float(found) if isinstance(found, int | float) else None
