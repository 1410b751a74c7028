"""What leads' answers hold, for the description; see ``answers.py``."""

from __future__ import annotations

from typing import Any, Literal

from tropism.feedback.records import QueryKind
from tropism.studio.roles import Role
from tropism.studio.routes.answers import Answer, ShownTask


class KindProgress(Answer):
    """One kind's part of the queue."""

    queries: int
    wanted: int
    votes: int
    open: int


class Progress(Answer):
    """``GET lead/progress``; ``rate_per_hour`` is [start of the hour, votes], of the hours that have any."""

    queries: int
    wanted: int
    votes: int
    open: int
    late: int
    by_kind: dict[str, KindProgress]
    rate_per_hour: list[tuple[float, float]]
    eta_s: float | None


class GuidelineVersion(Answer):
    """One version of the guideline."""

    version: int
    created_at: float
    created_by: str | None
    text: str


class GuidelineMade(Answer):
    """``POST lead/guidelines``."""

    version: int
    html: str


class Html(Answer):
    """``POST lead/guidelines/preview``."""

    html: str


class SlotClip(Answer):
    """Where the files of the clip in a slot are."""

    h264: str
    vp9: str
    poster: str
    about: str


class SlotShown(Answer):
    """A candidate by its canonical slot."""

    slot: str
    viewer: Literal["text", "clip"]
    text: str | None = None
    html: str | None = None
    length: int | None = None
    clip: SlotClip | None = None


class Vote(Answer):
    """What somebody said, in canonical slots."""

    person: str
    value: dict[str, Any]
    text: str | None
    at: float
    adjudication: bool


class Disagreement(Answer):
    """A question that people answered differently; ``share`` of the commonest answer."""

    query: str
    kind: QueryKind
    task: ShownTask
    candidates: list[SlotShown]
    votes: list[Vote]
    share: float
    adjudicated: bool


class Adjudicated(Answer):
    """``POST lead/adjudications/{query}``."""

    event: str


class Person(Answer):
    """Somebody with an account, and their work in numbers."""

    id: str
    name: str
    role: Role
    status: Literal["active", "disabled"]
    pseudonym: str
    votes: int
    skipped: int
    median_seconds: float | None
    last_seen: float | None


class Invited(Answer):
    """``POST lead/invitations``: ``url`` is said this once."""

    url: str
    expires_at: float


class Estimate(Answer):
    """A number with its 95 % interval; ``n``: from so many."""

    value: float
    low: float
    high: float
    n: int | None = None


class PersonEstimate(Estimate):
    """One person's."""

    id: str


class CycleEstimate(Estimate):
    """The share of cyclic triples, and what chance gives."""

    chance: float
    chance_low: float
    chance_high: float


class Annotator(Answer):
    """One person in the joint fit."""

    id: str
    kind: Literal["good", "random", "inverted", "position-biased", "length-biased", "unclear"]
    votes: int
    effective: float | None
    skill: Estimate | None
    position: Estimate | None
    length: Estimate | None


class Fit(Answer):
    """The joint fit of all comparisons."""

    annotators: list[Annotator]
    scaled: bool
    log_likelihood: float
    common_position: dict[str, float | None]
    common_length: dict[str, float | None]


class HeatMap(Answer):
    """Who agrees with whom: shares of equal answers, and over how many questions."""

    kind: str
    people: list[str]
    values: list[list[float | None]]
    shared: list[list[int]]


class Outlier(Answer):
    """An answer given in an unusual time."""

    person: str
    query: str
    seconds: float
    z: float | None
    hasty: bool


class Worth(Answer):
    """Votes, and how many votes of a good annotator they are worth."""

    effective: float | None
    votes: int


class ReportProblem(Answer):
    """Why the newest attempt at a report failed."""

    message: str
    fix: str


class Quality(Answer):
    """``GET lead/quality``; ``computing``: a newer report is being made; ``problem``: it could not be."""

    at: float
    computing: bool
    problem: ReportProblem | None
    judgements: int
    left_out: dict[str, int]
    alpha: dict[str, Estimate | None]
    heat: HeatMap | None
    fit: Fit | None
    cycles: CycleEstimate | None
    worth: Worth | None
    retest: Estimate | None
    swap: Estimate | None
    retest_by_person: list[PersonEstimate] | None = None
    gold: Estimate | None
    gold_by_person: list[PersonEstimate]
    outliers: list[Outlier]


class Computing(Answer):
    """``GET lead/quality`` where there is no report yet (202)."""

    computing: bool
    problem: ReportProblem | None


class Cost(Answer):
    """``GET lead/cost``."""

    seconds: float
    votes: int
    seconds_per_vote: float | None
    effective_votes: float | None
    seconds_per_effective_vote: float | None


class Plan(Answer):
    """``GET lead/planner``."""

    labels: float
    queries: float
    overlap: int
    votes: float
    rate: float
    power: float
