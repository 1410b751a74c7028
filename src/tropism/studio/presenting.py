"""From a claimed question to what a browser gets: keys of places on the screen, and nothing else.

What a person sees says nothing about where it came from: no policy, no score, no slot, no id of a candidate, not why
this question was asked, and no vote of anybody. Tasks and candidates never change, so what was made of them is kept.
Left out: what a lead sees (``routes/lead.py``), which names slots.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from tropism.feedback.projection import read_candidates, read_queries, read_tasks
from tropism.feedback.records import Candidate, Query, Task
from tropism.store import schema
from tropism.store.database import Database
from tropism.studio.clips import Clips
from tropism.studio.markdown import SHOWN, cut, render

if TYPE_CHECKING:
    from tropism.feedback.queue import Claimed

KEPT = 8192
DRAWN_AHEAD = 8
"""Questions whose clips are drawn before anybody is asked: those that come next."""
DEFAULT_FORMS: Mapping[str, Mapping[str, Any]] = {
    "rating": {"aspects": [{"name": "overall", "scale": [1, 5]}]},
    "label": {"labels": ["good"]},
}


@dataclass(frozen=True)
class Shown:
    """What is shown of a query, candidates by slot; ``clips``: for each slot the (artifact, row) of its segment."""

    query: Query
    task: Mapping[str, Any]
    candidates: tuple[Mapping[str, Any], ...]
    clips: tuple[tuple[str, int] | None, ...]
    form: Mapping[str, Any]


class Presenter:
    """Makes what is shown of queries, and keeps the newest ``KEPT`` of it."""

    def __init__(self, database: Database, clips: Clips) -> None:
        self.database, self.clips = database, clips
        self._kept: OrderedDict[str, Shown] = OrderedDict()
        self._lock = threading.Lock()

    def has_kept(self, queries: Sequence[Query]) -> bool:
        """Whether ``shown`` would read nothing."""
        return all(query.id in self._kept for query in queries)

    def shown(self, queries: Sequence[Query]) -> list[Shown]:
        """What is shown of each query."""
        with self._lock:
            found = {query.id: self._kept[query.id] for query in queries if query.id in self._kept}
        missing = [query for query in queries if query.id not in found]
        if missing:
            with self.database.read() as connection:
                tasks = read_tasks(connection, sorted({query.task_id for query in missing}))
                ids = sorted({id_ for query in missing for id_ in query.candidate_ids})
                candidates = read_candidates(connection, ids)
            for query in missing:
                held = [candidates[id_] for id_ in query.candidate_ids]
                found[query.id] = self._make(query, tasks[query.task_id], held)
            with self._lock:
                self._kept.update((query.id, found[query.id]) for query in missing)
                while len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
        return [found[query.id] for query in queries]

    def warm(self, most: int) -> int:
        """Make what will be asked next, at most ``most`` of it, before anybody waits for it; returns how much that was.

        Reading and rendering a question takes longer than giving it out.
        """
        state = schema.query_state
        wanting = sa.select(state.c.query_id).where(state.c.taken < state.c.wanted)
        soonest = wanting.order_by(state.c.priority, state.c.taken, state.c.seq).limit(KEPT // 2)
        with self.database.read() as connection:
            ids = connection.execute(soonest).scalars().all()
            with self._lock:
                missing = [id_ for id_ in ids if id_ not in self._kept][:most]
            queries = read_queries(connection, missing)
        self.shown(list(queries.values()))
        self._draw(ids[:DRAWN_AHEAD])
        return len(missing)

    def _draw(self, ids: Sequence[str]) -> None:
        """Have the clips of some questions drawn, where what is shown of them is known."""
        with self._lock:
            soon = [self._kept[id_] for id_ in ids if id_ in self._kept]
        self.clips.draw_ahead([clip for shown in soon for clip in shown.clips if clip is not None])

    def item(self, claimed: Claimed, shown: Shown, guideline: int | None) -> dict[str, Any]:
        """A claimed question as the interface gives it."""
        base = f"/api/v1/assignments/{claimed.assignment_id}/clips"
        candidates = []
        for place, slot in enumerate(claimed.shown_order):
            made = {"key": str(place + 1), **shown.candidates[slot]}
            clip = shown.clips[slot]
            if clip is not None:
                made["clip"] = self.clips.addresses(f"{base}/{place + 1}", clip)
            candidates.append(made)
        return {
            "assignment": claimed.assignment_id,
            "kind": shown.query.kind,
            "expires_at": claimed.expires_at,
            "guideline_version": guideline,
            "task": shown.task,
            "candidates": candidates,
            "form": shown.form,
            "draft": claimed.draft,
        }

    def _make(self, query: Query, task: Task, candidates: Sequence[Candidate]) -> Shown:
        clips = tuple(_clip(candidate) for candidate in candidates)
        seen = tuple(
            {"viewer": "clip"} if clip is not None else shown_text(candidate_text(candidate))
            for candidate, clip in zip(candidates, clips, strict=True)
        )
        return Shown(query, shown_task(task, any(clips)), seen, clips, _form(query.kind, task))


def shown_text(text: str) -> dict[str, Any]:
    """A text candidate: as it is and as HTML; ``length`` where it had to be cut."""
    made: dict[str, Any] = {"viewer": "text", "text": text[:SHOWN], "html": render(text)}
    length = cut(text)
    return made if length is None else made | {"length": length}


def candidate_text(candidate: Candidate) -> str:
    """The words of a candidate; of a kind that has none, its content as JSON."""
    text = candidate.content.get("text")
    return text if isinstance(text, str) else json.dumps(dict(candidate.content), ensure_ascii=False, indent=1)


def shown_task(task: Task, segments: bool) -> dict[str, Any]:
    """What is shown of a task."""
    payload = task.payload
    if segments or "environment" in payload:
        environment = payload.get("environment")
        name = environment.get("id", "") if isinstance(environment, Mapping) else str(environment or "")
        return {"kind": "segment", "environment": str(name), "goal": str(payload.get("goal") or "")}
    messages = payload.get("messages")
    if isinstance(messages, list) and messages:
        said = [(str(m.get("role", "")), str(m.get("content", ""))) for m in messages if isinstance(m, Mapping)]
        shown = [{"role": role, "content": words[:SHOWN], "html": render(words)} for role, words in said]
        return {"kind": "chat", "messages": shown}
    prompt = payload.get("prompt")
    words = prompt if isinstance(prompt, str) else json.dumps(dict(payload), ensure_ascii=False, indent=1)
    return {"kind": "text", "prompt": words[:SHOWN], "html": render(words)}


def _form(kind: str, task: Task) -> dict[str, Any]:
    """What the answer's form has, from the task's own ``form`` where it says so."""
    own = task.payload.get("form")
    form = {**DEFAULT_FORMS.get(kind, {}), **(own if isinstance(own, Mapping) else {})}
    return {"strengths": kind == "comparison" and bool(form.pop("strengths", True)), **form}


def _clip(candidate: Candidate) -> tuple[str, int] | None:
    content = candidate.content
    artifact, row = content.get("artifact"), content.get("row")
    if candidate.kind != "segment" or not isinstance(artifact, str) or not isinstance(row, int):
        return None
    return artifact, row
