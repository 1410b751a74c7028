"""Comparison votes and item-by-annotator tables as plain arrays, and how they are made from judgements.

Everything in this package works on these arrays; this file alone knows the feedback's records. Slots are canonical
throughout; where a candidate stood on the screen is a number of its own (``first``).

Left out: rankings and best-of-K as comparisons (their pairs are not independent votes), and free text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tropism.errors import DataError
from tropism.feedback.records import Candidate, Judgement

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

A_WINS, B_WINS, TIE = 0, 1, 2
_CHOICES = {"a": A_WINS, "b": B_WINS, "tie": TIE}
NOMINAL = ("comparison", "label", "approval", "best_of")
"""Kinds of values whose answers are names; a rating's are numbers."""


@dataclass(frozen=True)
class Votes:
    """V votes on pairs of items: annotator ``annotator[v]`` compared items ``a[v]`` and ``b[v]``.

    ``choice [V]``: 0 a is better, 1 b is better, 2 a tie. ``first [V]``: 1 where a was shown first, −1 where b was,
    0 where nobody knows. ``length [V]``: how much longer a is than b, in any one unit (0 where there is no length).
    """

    items: tuple[str, ...]
    annotators: tuple[str, ...]
    a: Integers
    b: Integers
    annotator: Integers
    choice: Integers
    first: Floats
    length: Floats

    def __post_init__(self) -> None:
        for name in ("a", "b", "annotator", "choice", "first", "length"):
            column = getattr(self, name)
            if column.shape != self.a.shape or column.ndim != 1:
                raise DataError(f"votes with {name} of shape {column.shape}", "give columns of one length [V]")
            if not np.isfinite(column).all():
                raise DataError(f"votes with a {name} that is not finite", "leave out what is not known, or give 0")
        self._within("a", len(self.items))
        self._within("b", len(self.items))
        self._within("annotator", len(self.annotators))
        self._within("choice", 3)
        if (self.a == self.b).any():
            raise DataError("a vote that compares an item with itself", "compare two items")

    def __len__(self) -> int:
        return len(self.a)

    def _within(self, name: str, n: int) -> None:
        column = getattr(self, name)
        wrong = (column < 0) | (column >= n)
        if wrong.any():
            raise DataError(f"{name} {column[wrong][0]} in a vote", f"give a number of 0 … {n - 1}")

    def take(self, rows: NDArray[np.bool_] | Integers) -> Votes:
        """Some of the votes; items and annotators keep their numbers."""
        return replace(
            self, a=self.a[rows], b=self.b[rows], annotator=self.annotator[rows], choice=self.choice[rows],
            first=self.first[rows], length=self.length[rows],
        )  # fmt: skip


@dataclass(frozen=True)
class VotesRead:
    """Votes with the event and the query each came from, and what was left out by reason."""

    votes: Votes
    event_ids: tuple[str, ...]
    query_ids: tuple[str, ...]
    left_out: Mapping[str, int]


def votes_of(judgements: Sequence[Judgement], shown_first: Mapping[str, str] | None = None) -> VotesRead:
    """The comparisons among ``judgements`` as votes; the items are candidates.

    ``shown_first``: event id to the canonical slot (``a`` or ``b``) that this person saw first, from the assignments.
    Where an event is not in it, the query's own order counts. Both bad and cannot judge compare nothing: they are left
    out and counted, as are other kinds. Lengths are logarithms of what a viewer reads or watches.
    """
    first_of = shown_first or {}
    items: dict[str, int] = {}
    people: dict[str, int] = {}
    unused: dict[str, int] = {}
    rows: list[tuple[float, ...]] = []
    ids: list[tuple[str, str]] = []
    for said in judgements:
        kind = str(said.value["kind"])
        choice = said.value["choice"] if kind == "comparison" else kind
        if choice not in _CHOICES or kind != "comparison":
            unused[choice] = unused.get(choice, 0) + 1
            continue
        one, other = (items.setdefault(id, len(items)) for id in said.query.candidate_ids)
        who = people.setdefault(said.teacher_id, len(people))
        slot = first_of.get(said.event_id, "ab"[said.query.shown_order[0]])
        if slot not in ("a", "b"):
            raise DataError(f"event {said.event_id} was shown with {slot!r} first", "give the canonical slot a or b")
        longer = _log_length(said.candidates[0]) - _log_length(said.candidates[1])
        rows.append((one, other, who, _CHOICES[choice], 1.0 if slot == "a" else -1.0, longer))
        ids.append((said.event_id, said.query.id))
    table = np.array(rows, np.float64).reshape(-1, 6)
    whole = table[:, :4].astype(np.int64)
    a, b, annotator, choice = (whole[:, column] for column in range(4))
    votes = Votes(tuple(items), tuple(people), a, b, annotator, choice, table[:, 4], table[:, 5])
    return VotesRead(votes, tuple(event for event, _ in ids), tuple(query for _, query in ids), unused)


def _log_length(candidate: Candidate) -> float:
    """log(1 + characters) of a text, log(1 + steps) of a segment; 0 where the content has no length."""
    content = candidate.content
    if isinstance(content.get("text"), str):
        return float(np.log1p(len(content["text"])))
    steps = content.get("length")
    return float(np.log1p(steps)) if isinstance(steps, int) and steps >= 0 else 0.0


@dataclass(frozen=True)
class Table:
    """Who said what of what: ``values [items, annotators]``, NaN where nothing was said.

    Numbers are codes of ``names`` for nominal kinds, and scores for ratings (then ``names`` is empty).
    """

    items: tuple[str, ...]
    annotators: tuple[str, ...]
    values: Floats
    names: tuple[str, ...]


def table_of(judgements: Sequence[Judgement], kind: str) -> Table:
    """The answers of one kind as a table; an item is a query and what of it the answer is about.

    "Cannot judge" is a missing answer; tie and both bad are answers of their own. Errors: DataError for a kind
    without comparable answers.
    """
    if kind not in (*NOMINAL, "rating"):
        raise DataError(f"agreement on {kind!r}", f"ask for one of {', '.join((*NOMINAL, 'rating'))}")
    items: dict[str, int] = {}
    people: dict[str, int] = {}
    names: dict[str, int] = {}
    found: list[tuple[int, int, float]] = []
    for said in judgements:
        if said.value["kind"] != kind:
            continue
        about, answer = _answer(said)
        if answer == "cannot_judge":
            continue
        code = float(answer) if isinstance(answer, int | float) else float(names.setdefault(answer, len(names)))
        row = items.setdefault(f"{said.query.id}/{about}" if about else said.query.id, len(items))
        found.append((row, people.setdefault(said.teacher_id, len(people)), code))
    values = np.full((len(items), len(people)), np.nan)
    for row, column, code in found:
        values[row, column] = code
    return Table(tuple(items), tuple(people), values, tuple(names))


def _answer(said: Judgement) -> tuple[str, str | float]:
    """What of a query a judgement is about, and its answer as a name or a number."""
    value = said.value
    match value["kind"]:
        case "comparison":
            return "", str(value["choice"])
        case "best_of":
            return "", str(value["best"])
        case "label":
            return f"{value['slot']}/{value['name']}", "yes" if value["good"] else "no"
        case "approval":
            return str(value["slot"]), "up" if value["approved"] else "down"
        case _:
            place = value.get("segment", value.get("step", ""))
            return f"{value['slot']}/{value['aspect']}/{place}", float(value["score"])
