"""Every kind of value that a teacher can give, as frozen models told apart by ``kind``.

Values speak of canonical slots (``a`` and ``b`` for comparisons, ``c1`` … ``cK`` otherwise), never of screen sides.
Tie, both bad and cannot judge are three different values; a skip is not a value at all. Left out: free text, which
belongs to ``Answer.text`` and the erasable side table, and the literature's 0 / 1 / 0.5 coding (the importer's).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, TypeAdapter, ValidationError

from tropism.errors import DataError

Strength = Annotated[StrictInt, Field(ge=0, le=3)]
Number = StrictInt | StrictFloat


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def slots_named(self) -> list[str]:
        """Canonical slots that the value speaks of."""
        return []

    def target(self) -> str:
        """What of a query the value is about: a teacher has one current value per query and target."""
        return ""

    def problem(self) -> str | None:
        """What is wrong with the value beyond its types, or None."""
        return None


class Comparison(_Value):
    """Which of two is better. ``strength``: 0 not stated, 1 slightly, 2 clearly, 3 much better.

    ``both_bad`` is no evidence for either but two negative labels; ``cannot_judge`` trains nothing.
    """

    kind: Literal["comparison"] = "comparison"
    choice: Literal["a", "b", "tie", "both_bad", "cannot_judge"]
    strength: Strength = 0

    def problem(self) -> str | None:
        """A strength without a preference is a contradiction."""
        if self.strength and self.choice not in ("a", "b"):
            return f"strength {self.strength} beside choice {self.choice!r}: only a or b can be stronger"
        return None


class Ranking(_Value):
    """Slots from best to worst; slots in one group are tied. ``unranked`` slots were left aside, not put last."""

    kind: Literal["ranking"] = "ranking"
    rank: tuple[tuple[str, ...], ...]
    unranked: tuple[str, ...] = ()

    def slots_named(self) -> list[str]:
        """All ranked and unranked slots."""
        return [slot for group in self.rank for slot in group] + list(self.unranked)

    def problem(self) -> str | None:
        """An untouched ranking is not a ranking, and one slot alone is ranked against nothing."""
        ranked = [slot for group in self.rank for slot in group]
        if len(ranked) < 2:
            return f"{len(ranked)} slots are ranked: an untouched ranking is no ranking; skip the query instead"
        if any(not group for group in self.rank):
            return "an empty group in the ranking"
        names = self.slots_named()
        doubled = sorted({slot for slot in names if names.count(slot) > 1})
        return f"slot {doubled[0]!r} is named twice" if doubled else None


class BestOf(_Value):
    """The best of K, or that there is none to name."""

    kind: Literal["best_of"] = "best_of"
    best: str

    def slots_named(self) -> list[str]:
        """The best slot, unless none was named."""
        return [] if self.best in ("tie", "all_bad", "cannot_judge") else [self.best]


class Rating(_Value):
    """A score on a scale, for a candidate, a span of its steps (``segment``: [first, after last]) or one ``step``."""

    kind: Literal["rating"] = "rating"
    slot: str = "c1"
    score: Number
    scale: tuple[Number, Number]
    aspect: str = "overall"
    segment: tuple[StrictInt, StrictInt] | None = None
    step: Annotated[StrictInt, Field(ge=0)] | None = None

    def slots_named(self) -> list[str]:
        """The rated slot."""
        return [self.slot]

    def target(self) -> str:
        """Slot, aspect and place: each may be rated once."""
        place = "" if self.segment is None else f"{self.segment[0]}-{self.segment[1]}"
        place = place if self.step is None else f"@{self.step}"
        return f"{self.slot}/{self.aspect}/{place}"

    def problem(self) -> str | None:
        """The score lies on the scale; the place is one segment or one step."""
        low, high = self.scale
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            return f"scale [{low}, {high}] does not rise"
        if not low <= self.score <= high:
            return f"score {self.score} lies outside the scale [{low}, {high}]"
        if self.segment is not None and self.step is not None:
            return "both a segment and a step: rate one place at a time"
        return _span_problem("segment", self.segment)


class Label(_Value):
    """A yes or no about one candidate: ``good`` says whether it has the quality ``name`` (``safe``, ``good``, …)."""

    kind: Literal["label"] = "label"
    slot: str = "c1"
    name: str = "good"
    good: StrictBool

    def slots_named(self) -> list[str]:
        """The labelled slot."""
        return [self.slot]

    def target(self) -> str:
        """Slot and name: each may be labelled once."""
        return f"{self.slot}/{self.name}"


class Demonstration(_Value):
    """The teacher did the task: the text is the answer's free text, or ``artifact`` holds an episode."""

    kind: Literal["demonstration"] = "demonstration"
    artifact: str | None = None


class Correction(_Value):
    """An edited candidate; the edited text is the answer's free text, or ``artifact`` holds an episode."""

    kind: Literal["correction"] = "correction"
    slot: str = "c1"
    artifact: str | None = None

    def slots_named(self) -> list[str]:
        """The edited slot."""
        return [self.slot]

    def target(self) -> str:
        """A slot is corrected once; a second correction supersedes the first."""
        return self.slot


class Critique(_Value):
    """A remark in free text on a candidate, or on a ``span`` of it ([first, after last] character or step)."""

    kind: Literal["critique"] = "critique"
    slot: str = "c1"
    span: tuple[StrictInt, StrictInt] | None = None

    def slots_named(self) -> list[str]:
        """The slot spoken of."""
        return [self.slot]

    def target(self) -> str:
        """Slot and span: each may have one remark."""
        return f"{self.slot}/" if self.span is None else f"{self.slot}/{self.span[0]}-{self.span[1]}"

    def problem(self) -> str | None:
        """A span has a length."""
        return _span_problem("span", self.span)


class Approval(_Value):
    """Thumbs up or down, as they come from serving."""

    kind: Literal["approval"] = "approval"
    slot: str = "c1"
    approved: StrictBool

    def slots_named(self) -> list[str]:
        """The slot approved or not."""
        return [self.slot]

    def target(self) -> str:
        """One approval per slot."""
        return self.slot


class Erasure(_Value):
    """A person left: their names and texts are gone, their votes no longer count. No teacher can give this value."""

    kind: Literal["erasure"] = "erasure"
    reason: str


class Retraction(_Value):
    """A person took an answer back; it supersedes that answer and is no answer itself. Only the queue makes it."""

    kind: Literal["retraction"] = "retraction"
    reason: str | None = None


Value = Annotated[
    Comparison
    | Ranking
    | BestOf
    | Rating
    | Label
    | Demonstration
    | Correction
    | Critique
    | Approval
    | Erasure
    | Retraction,
    Field(discriminator="kind"),
]

_ADAPTER: TypeAdapter[Any] = TypeAdapter(Value)

ASIDE = "#"
"""How the target of an answer begins that is not evidence: to a gold question or a repeat. It measures who answered,
not what was answered about. It is in the append-only log like every other; the current view leaves it out, so no reward
model is fitted on it, and its target keeps it from colliding with the same person's vote on the same query."""


def target_beside(asked: str, value: Value) -> str:
    """What a value is about, on a query that asks for values of the kind ``asked``.

    A remark beside the answer, of another kind, has a target of its own where the two would share one: an answer of
    one's own is about the whole query, as a comparison is, and a corrected candidate about that candidate, as an
    approval is. So a teacher may say both.
    """
    target = value.target()
    shared = value.kind == "demonstration" or (value.kind == "correction" and asked == "approval")
    return f"{value.kind}:{target}" if shared and value.kind != asked else target


def slot_names(kind: str, k: int) -> tuple[str, ...]:
    """Canonical slots of a query with K candidates: ``a``, ``b`` for a comparison, else ``c1`` … ``cK``."""
    if kind == "comparison":
        if k != 2:
            raise DataError(f"a comparison of {k} candidates", "compare two, or ask for a ranking or the best of K")
        return ("a", "b")
    return tuple(f"c{i + 1}" for i in range(k))


def parse_value(kind: str, raw: Mapping[str, Any], slots: Sequence[str]) -> Value:
    """Check a raw value against its kind and the query's slots.

    ``raw`` need not repeat ``kind``. Errors: DataError naming the value and the fix (unknown kind, key, choice or
    slot, a slot named twice, a score off its scale, a strength out of range, an untouched ranking, …).
    """
    if kind == "retraction":
        raise DataError(f"value {dict(raw)!r} as an answer", _fix(kind))
    if raw.get("kind", kind) != kind:
        raise DataError(f"value {dict(raw)!r} is of kind {raw['kind']!r}, not {kind!r}", "use one kind")
    try:
        value = _ADAPTER.validate_python({**raw, "kind": kind})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"] if part != kind) or "kind"
        raise DataError(f"{kind} value {dict(raw)!r}: {place}: {first['msg']}", _fix(kind)) from error
    problem = value.problem()
    if problem is not None:
        raise DataError(f"{kind} value {dict(raw)!r}: {problem}", _fix(kind))
    for slot in value.slots_named():
        if slot not in slots:
            raise DataError(
                f"{kind} value {dict(raw)!r}: no slot {slot!r}", f"this query's slots are {', '.join(slots)}"
            )
    if isinstance(value, Ranking):
        missing = tuple(slot for slot in slots if slot not in value.slots_named())
        value = value.model_copy(update={"unranked": (*value.unranked, *missing)})
    return value


def dump_value(value: Value) -> dict[str, Any]:
    """The JSON of a value as it is stored: every field, ``kind`` included, absent options left out."""
    return value.model_dump(mode="json", exclude_none=True)


def _span_problem(name: str, span: tuple[int, int] | None) -> str | None:
    if span is not None and not 0 <= span[0] < span[1]:
        return f"{name} [{span[0]}, {span[1]}] is empty or begins before 0"
    return None


def _fix(kind: str) -> str:
    return {
        "comparison": 'give {"choice": "a|b|tie|both_bad|cannot_judge", "strength": 0..3}',
        "ranking": 'give {"rank": [["c2"], ["c1", "c3"]], "unranked": ["c4"]}, best first, ties in one group',
        "best_of": 'give {"best": "c2"}, or "tie", "all_bad" or "cannot_judge" instead of a slot',
        "rating": 'give {"score": 4, "scale": [1, 5], "aspect": "helpful", "slot": "c1"}',
        "label": 'give {"name": "safe", "good": true, "slot": "c1"}',
        "demonstration": "give {} and the demonstration as the answer's text",
        "correction": 'give {"slot": "c1"} and the edited text as the answer\'s text',
        "critique": 'give {"slot": "c1", "span": [3, 9]} and the remark as the answer\'s text',
        "approval": 'give {"approved": true, "slot": "c1"}',
        "erasure": "erase a person with people.erase_person",
        "retraction": "take an answer back with Queue.undo",
    }.get(kind, "use comparison, ranking, best_of, rating, label, demonstration, correction, critique or approval")
