"""What policies wrote: rollouts of training and samples of evaluations, read from their artifacts a page at a time.

Rows are as the domains write them (JSON lines); a domain that writes others has no rows here. Left out: searching all
of a long training at once; a page stops after a number of rows, and its cursor says where.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tropism.errors import StoreError
from tropism.store.artifacts import ArtifactStore
from tropism.studio.markdown import SHOWN, render

LOOKED_AT = 20_000
"""Rows that one page reads at most: who filters for what there is not gets an empty page and a cursor."""
_STEP = re.compile(r"step-(\d+)\.jsonl")


@dataclass(frozen=True)
class Range:
    """A condition on a number: from ``low`` to ``high``, each if it is given."""

    low: float | None = None
    high: float | None = None

    def holds(self, value: Any) -> bool:
        """Whether a value lies in it; what is no number lies in no range that has a bound."""
        if self.low is None and self.high is None:
            return True
        if not isinstance(value, int | float):
            return False
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)


@dataclass(frozen=True)
class Wanted:
    """What rollouts are looked for. ``step`` None: of every step."""

    reward: Range = Range()
    length: Range = Range()
    kl: Range = Range()
    step: int | None = None
    text: str | None = None

    def holds(self, row: Mapping[str, Any]) -> bool:
        """Whether a row is one of them."""
        tokens = row.get("tokens")
        length = len(tokens) if isinstance(tokens, list) else tokens
        found = self.reward.holds(row.get("reward_total")) and self.length.holds(length)
        found = found and self.kl.holds(row.get("kl_nats"))
        if self.text:
            found = found and self.text.lower() in f"{row.get('prompt')}\n{row.get('completion')}".lower()
        return found


@dataclass(frozen=True)
class Page:
    """Rows, and where the next page begins (None: there is none). ``hidden``: rows left out because of blinding."""

    items: list[dict[str, Any]]
    next: str | None
    hidden: int


def folders(
    stages: Collection[Mapping[str, Any]], artifacts: ArtifactStore, scratch: Path, name: str
) -> dict[str, Path]:
    """Stage -> the folder ``name`` that it made or, while it runs, is making."""
    found = {}
    for stage in stages:
        digest = stage["folders"].get(name)
        place = scratch / stage["name"] / name
        if digest is not None and artifacts.has(digest):
            found[stage["name"]] = artifacts.path(digest)
        elif stage["status"] == "running" and place.is_dir():
            found[stage["name"]] = place
    return found


def rollouts(folder: Path, wanted: Wanted, hidden_tasks: Collection[str], after: str | None, limit: int) -> Page:
    """A page of a stage's rollouts. ``after``: FILE:LINE of the last row seen."""
    items: list[dict[str, Any]] = []
    hidden = 0
    for looked_at, (place, row) in enumerate(_rows(folder, wanted.step, after), start=1):
        if wanted.holds(row):
            if row.get("task_id") in hidden_tasks:
                hidden += 1
            else:
                items.append(_shown(row))
        if len(items) == limit or looked_at == LOOKED_AT:
            return Page(items, place, hidden)
    return Page(items, None, hidden)


def side_by_side(folder: Path, hidden_tasks: Collection[str], after: int, limit: int) -> Page:
    """A page of an evaluation's samples: for each task the answers of every policy. ``after``: rows to pass over."""
    items: list[dict[str, Any]] = []
    hidden = 0
    for number, (_, row) in enumerate(_file_rows(folder / "samples.jsonl", 0), start=1):
        if number <= after:
            continue
        if row.get("task_id") in hidden_tasks:
            hidden += 1
        else:
            outputs = row.get("outputs")
            shown = {str(k): _output(v) for k, v in outputs.items()} if isinstance(outputs, Mapping) else {}
            items.append({"task_id": row.get("task_id"), "prompt": row.get("prompt"), "outputs": shown})
        if len(items) == limit:
            return Page(items, str(number), hidden)
    return Page(items, None, hidden)


def answers_of(folder: Path, name: str) -> dict[str, dict[str, Any]]:
    """task id -> {prompt, text} of one policy (``policy``, ``reference``, …) in an evaluation's samples."""
    found = {}
    for _, row in _file_rows(folder / "samples.jsonl", 0):
        output = (row.get("outputs") or {}).get(name)
        if isinstance(output, Mapping) and isinstance(output.get("text"), str):
            found[str(row.get("task_id"))] = {"prompt": row.get("prompt"), "text": output["text"]}
    return found


def _rows(folder: Path, step: int | None, after: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """(FILE:LINE, row) behind ``after``, by file and line."""
    first, _, line = (after or "").rpartition(":")
    for path in sorted(folder.glob("*.jsonl")):
        named = _STEP.fullmatch(path.name)
        if path.name < first or (step is not None and named is not None and int(named[1]) != step):
            continue
        skip = int(line) if path.name == first and line.isdecimal() and len(line) < 12 else 0
        for number, row in _file_rows(path, skip):
            if step is None or row.get("step", step) == step:
                yield f"{path.name}:{number}", row


def _file_rows(path: Path, skip: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number of the line from 1, row) behind the first ``skip`` lines. Errors: StoreError for a damaged line."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if number > skip and line.strip():
                    row = json.loads(line)
                    if isinstance(row, dict):
                        yield number, row
    except FileNotFoundError:
        return
    except ValueError as error:
        raise StoreError(f"{path.name} is damaged: {error}", "restore the artifacts folder from a copy") from error


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """A rollout's row for a page: token ids as their number, the completion as HTML beside."""
    text, tokens = str(row.get("completion", "")), row.get("tokens")
    kept = {name: value for name, value in row.items() if name not in ("tokens", "completion")}
    made = {"text": text[:SHOWN], "html": render(text)} if "completion" in row else {}
    return _finite({**kept, **made, "tokens": len(tokens) if isinstance(tokens, list) else tokens})


def _output(stored: Any) -> dict[str, Any]:
    if not isinstance(stored, Mapping):
        return {}
    text = stored.get("text")
    made = {"html": render(text), "text": text[:SHOWN]} if isinstance(text, str) else {}
    return _finite({**stored, **made})


def _finite(value: Any) -> Any:
    """The same without what JSON cannot say."""
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    if isinstance(value, Mapping):
        return {str(name): _finite(each) for name, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list) else value
