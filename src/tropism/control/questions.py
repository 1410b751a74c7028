"""Segments that were asked about: as records for the log, and as features for the reward's fit.

Every question is a task of its own (which of these is better, in this environment, for this goal): bootstrap weights
and splits are by task. Ids are digests of what the segments are, so a step that is done again asks the same questions.

Left out: showing them (``environments/clips.py``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tropism.control.networks import Floats
from tropism.control.queries import Chosen, SegmentPool, SegmentRows
from tropism.control.reward_network import Shape
from tropism.digests import digest
from tropism.environments.images import numbers
from tropism.environments.making import EnvironmentSpec
from tropism.environments.segments import Segment
from tropism.errors import DataError
from tropism.feedback.asking import Desk
from tropism.feedback.chance import shuffled
from tropism.feedback.records import Candidate, Judgement, Provenance, Query, Split, Task

Kind = Literal["comparison", "rating"]


@dataclass(frozen=True)
class Tally:
    """How far the questions of a round are, by their ids. Where several are to vote, one can be in both."""

    answered: frozenset[str]
    """Those with an answer that a reward can be fitted on."""
    open: frozenset[str]
    """Those that may still get one."""

    @property
    def counted(self) -> frozenset[str]:
        """Those that the budget is charged with: neither skipped by all who could answer, nor beyond their judging."""
        return self.answered | self.open

    @property
    def settled(self) -> frozenset[str]:
        """Those with all the answers that they shall get."""
        return self.answered - self.open


@dataclass(frozen=True)
class Known:
    """The answers of a moment: all that a reward may be fitted on, a digest of their ids, and the questions put here
    that they answer. It is looked at several times a turn, so it is made once for as long as nothing is added."""

    found: Sequence[Judgement]
    put: int
    judgements: list[Judgement]
    digest: str
    answered: frozenset[str]


class Questions:
    """What was asked so far. ``goal`` is what people are told to judge by."""

    def __init__(self, asker: Desk, shape: Shape, environment: EnvironmentSpec, goal: str, seed: int) -> None:
        self.asker, self.shape, self.environment, self.goal, self.seed = asker, shape, environment, goal, seed
        self._rows: dict[str, int] = {}
        self._features: list[Tensor] = []
        self.queries: dict[str, Split] = {}
        """Ids of the questions put so far, in their order, and whether they are to be fitted on."""
        self._known: Known | None = None

    def __len__(self) -> int:
        return len(self._features)

    def features(self, candidates: Sequence[Candidate]) -> Tensor:
        """``[n, L, width]`` of candidates; those that were asked about elsewhere (in an earlier round) are read from
        where they are kept. Errors: DataError for one that is kept nowhere, or is of another length."""
        for candidate in candidates:
            if candidate.id not in self._rows:
                self._add(candidate, self._kept(candidate))
        return torch.stack([self._features[self._rows[c.id]] for c in candidates])

    def _add(self, candidate: Candidate, features: Tensor) -> None:
        if self._features and features.shape != self._features[0].shape:
            raise DataError(
                f"segment {candidate.id} is {list(features.shape)}, others are {list(self._features[0].shape)}",
                "keep preferences.segment_length and the environment as they were when it was judged",
            )
        self._rows[candidate.id] = len(self._features)
        self._features.append(features)

    def _kept(self, candidate: Candidate) -> Tensor:
        if "artifact" not in candidate.content:
            raise DataError(f"segment {candidate.id} is kept nowhere", "ask about it in this run")
        folder = self.asker.folder(candidate.content["artifact"])
        kept = Segment.read(segment_folder(folder, candidate.content["row"]))
        return self.shape.features(kept.observations, kept.actions, kept.successors)

    def steps(self) -> Tensor:
        """Every step of every segment asked about, ``[n, width]``."""
        return torch.cat(self._features)

    def judged(self) -> Floats:
        """States of every segment that was judged, ``[n, D]``; of pictures their thumbnails. Segments that nobody said
        anything about are not among them."""
        shown = {c.id: c for j in self.known().judgements if is_answer(j) for c in j.candidates if c.kind == "segment"}
        features = self.features(list(shown.values())).flatten(0, 1)
        return numbers(features[:, : self.shape.observations].numpy(), self.shape.picture)

    def adopt(self, asked: Sequence[tuple[Query, Task]]) -> None:
        """Questions that were put before this process remembers, into the same environment for the same goal, are
        questions put: nobody is asked for them again."""
        for query, task in asked:
            about = task.payload.get("environment"), task.payload.get("goal")
            if about == (self.environment.as_json(), self.goal):
                self.queries.setdefault(query.id, task.split)

    def known(self) -> Known:
        """The judgements to fit on. Where answers come at once, those to questions put here, or in earlier rounds: what
        is done again after a kill must not see answers to what it is yet to ask. People's are taken as they come."""
        found, put = self.asker.judgements(), len(self.queries)
        if self._known is None or self._known.found is not found or self._known.put != put:
            here = found
            if self.asker.answers_at_once:
                here = [j for j in found if j.query.round < self.asker.round or j.query.id in self.queries]
            answered = frozenset(j.query.id for j in here if j.query.id in self.queries and is_answer(j))
            self._known = Known(found, put, here, digest([j.event_id for j in here]), answered)
        return self._known

    def tally(self, still: Collection[str]) -> Tally:
        """How far they are; ``still``: ids of open ones, looked at before this: an answer that comes in between counts
        once."""
        return Tally(self.known().answered, frozenset(id_ for id_ in still if id_ in self.queries))

    def put(self, chosen: Chosen, kind: Kind, split: Split, at: int) -> int:
        """Ask about pairs, or for ratings about single segments; ``at``: the environment step. Returns how many were
        answered."""
        artifact = self.asker.keep(lambda folder: _write(folder, chosen.pool, chosen.sides))
        sides = [chosen.pool.rows(places) for places in chosen.sides]
        features = [side.features(self.shape) for side in sides]
        tasks, candidates, queries = [], [], []
        utilities: dict[str, list[list[float]]] = {}
        for i in range(len(chosen)):
            payload = {
                "environment": self.environment.as_json(),
                "goal": self.goal,
                "round": self.asker.round,
                "number": len(self.queries),
                "step": at,
            }
            task = Task(split, payload)
            shown = [
                Candidate(task.id, "segment", _content(side, i, artifact, s * len(side) + i), self._made_at(at))
                for s, side in enumerate(sides)
            ]
            ids = tuple(c.id for c in shown)
            if len(set(ids)) < len(ids):
                continue  # two places in one small world can hold the same steps, which is no question
            order = shuffled(len(ids), self.seed, "shown", *ids)
            query = Query(task.id, kind, ids, order, self.asker.round)
            self.queries[query.id] = split
            utilities[query.id] = [side.rewards[i].tolist() for side in sides]
            for candidate, of_side in zip(shown, features, strict=True):
                if candidate.id not in self._rows:
                    self._add(candidate, of_side[i])
            tasks.append(task)
            candidates += shown
            queries.append(query)
        return self.asker.ask(tasks, candidates, queries, utilities)

    def _made_at(self, step: int) -> Provenance:
        return Provenance(self.asker.policy_id, {"environment_step": step}, seed=self.seed)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All of it, for a checkpoint."""
        features = torch.stack(self._features) if self._features else torch.zeros(0)
        return {"features": features}, {"candidates": list(self._rows), "queries": list(self.queries.items())}

    def restore(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Take what ``state`` gave."""
        self._features = list(tensors["features"])
        self._rows = {id_: row for row, id_ in enumerate(meta["candidates"])}
        self.queries, self._known = dict(meta["queries"]), None


def is_answer(judgement: Judgement) -> bool:
    """Whether it says what was asked: no remark beside it, and not that it cannot be judged."""
    value = judgement.value
    return value.get("kind", judgement.query.kind) == judgement.query.kind and value.get("choice") != "cannot_judge"


def segment_folder(folder: Path, row: int) -> Path:
    """Where a candidate's segment (``environments.segments``) lies in its artifact."""
    return folder / f"{row:05d}"


def _content(side: SegmentRows, i: int, artifact: str, row: int) -> dict[str, Any]:
    """What a candidate is: the digest of its numbers, and where they are kept."""
    hashed = hashlib.sha256(side.observations[i].tobytes() + side.actions[i].tobytes())
    content: dict[str, Any] = {"segment": hashed.hexdigest()[:32], "length": int(side.observations.shape[1])}
    content["true_return"] = float(side.rewards[i].sum(dtype=np.float64))
    return content | ({"artifact": artifact, "row": row} if artifact else {})


def _write(folder: Path, pool: SegmentPool, sides: Sequence[NDArray[np.int64]]) -> None:
    """The segments of one session, side after side, each in a folder of its own."""
    for row, segment in enumerate(segment for places in sides for segment in pool.segments(places)):
        place = segment_folder(folder, row)
        place.mkdir()
        segment.write(place)
