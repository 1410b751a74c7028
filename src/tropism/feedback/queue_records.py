"""What the queue of questions to people gives and takes, and its settings.

Left out: the queue itself (``queue.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tropism.errors import ConfigError
from tropism.feedback.records import Query

Purpose = Literal["work", "gold", "repeat", "extra", "adjudication", "ab"]
"""Why somebody is asked. ``work``: the query wants votes; ``extra``: it wants more than queries usually do; ``gold``:
the answer is known; ``repeat``: the person has answered it before; ``ab``: two policies are compared by people;
``adjudication``: somebody settles a disagreement. Whoever answers is never told."""

COUNTED = ("work", "extra", "ab")
"""Purposes that take one of the places a query has."""

REPEATABLE = ("comparison", "ranking", "best_of", "rating", "label", "approval")
"""Kinds of queries that may be asked twice: writing the same text again tells nothing about a person."""


@dataclass(frozen=True)
class QueueSettings:
    """How questions are given out.

    ``lease_s``: how long a claim lasts without a heartbeat. ``votes_per_query``: people who must answer each query,
    unless ``want`` says more. ``gold_rate`` and ``repeat_rate``: their share of a person's questions. ``repeat_after``:
    how many other questions lie between a question and its repeat, at least. ``undo_s``: how long an answer can be
    taken back. ``seed``: of the orders shown and of where gold and repeats fall.
    """

    lease_s: float = 300.0
    votes_per_query: int = 1
    gold_rate: float = 0.0
    repeat_rate: float = 0.0
    repeat_after: int = 20
    undo_s: float = 30.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.lease_s <= 0 or self.undo_s < 0 or self.votes_per_query < 1 or self.repeat_after < 1:
            raise ConfigError(f"a queue with {self}", "give a positive lease, votes and distance, and undo_s >= 0")
        if min(self.gold_rate, self.repeat_rate) < 0 or not self.gold_rate + self.repeat_rate <= 0.5:
            raise ConfigError(
                f"gold_rate {self.gold_rate} and repeat_rate {self.repeat_rate}",
                "give shares from 0 that are at most one half together: more would not be work",
            )


@dataclass(frozen=True)
class Claimed:
    """A question held by a person until ``expires_at`` (UTC seconds). ``shown_order[i]`` is the canonical slot shown
    at place i: drawn for this assignment, not the query's own. ``draft``: what they saved, as they saved it."""

    assignment_id: str
    query: Query
    shown_order: tuple[int, ...]
    purpose: Purpose
    expires_at: float
    draft: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Empty:
    """Why there is nothing for a person. ``done``: every query has its votes; ``all_claimed``: others hold what is
    left; ``yours_are_done``: only others may still vote; ``nothing_asked``: there are no queries; ``wrong_kind``: there
    are, but of kinds that were not asked for. ``open``: votes still wanted that nobody is on; ``claimed``: those
    somebody is on."""

    reason: Literal["done", "all_claimed", "yours_are_done", "nothing_asked", "wrong_kind"]
    open: int
    claimed: int


@dataclass(frozen=True)
class Submitted:
    """What became of an answer. ``late``: its place had been given to somebody else, and it is kept beside their votes.
    ``undo_until``: UTC seconds. ``again``: this submission was stored before, and nothing was done now."""

    event_ids: tuple[str, ...]
    late: bool
    undo_until: float
    again: bool


@dataclass(frozen=True)
class Assignment:
    """A row of the table of assignments, as far as the queue decides by it."""

    id: str
    query_id: str
    teacher_id: str
    purpose: Purpose
    ordinal: int
    shown_order: tuple[int, ...]
    repeat_of: str | None
    replaces: str | None
    placed: bool
    expires_at: float
    status: Literal["open", "submitted", "skipped", "expired", "undone"]
    submitted_at: float | None
    late: bool
    submission_id: str | None
    event_ids: tuple[str, ...]
