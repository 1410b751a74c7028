"""What engineers' answers hold, for the description; see ``answers.py``. What a domain writes by itself (the values of
a stage, the columns of a sample, an assessment) is a table of its own making."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field

from tropism.studio.routes.answers import Answer, Listed


class Holder(Answer):
    """The process that runs the study."""

    pid: int
    host: str
    command: str
    acquired_at: float


class Activity(Answer):
    """What runs at this moment; empty where nothing does."""

    model_config = ConfigDict(extra="allow")

    stage: str | None = None
    activity: str | None = None
    done: float | None = None
    total: float | None = None
    note: str | None = None


class Stage(Answer):
    """One stage of the run."""

    name: str
    round: int
    status: str
    seconds: float | None
    values: dict[str, Any]


class Run(Answer):
    """``GET runs``."""

    study: str
    rounds: int
    rounds_done: int
    holder: Holder | None
    activity: Activity
    stages: list[Stage]


class Curves(Answer):
    """``GET runs/{stage}/metrics``: [step, value] by name; a value that was no number is null."""

    stage: str
    names: list[str]
    series: dict[str, list[tuple[int, float | None]]]


class Sample(Answer):
    """One rollout, with whatever else the domain wrote of it."""

    model_config = ConfigDict(extra="allow")

    step: int | None = None
    task_id: str | None = None
    prompt: Any = None
    text: str | None = None
    html: str | None = None
    tokens: int | None = None
    reward_total: float | None = None
    kl_nats: float | None = None


class Samples(Answer):
    """``GET samples``; ``hidden``: rows left out because the caller may still judge their tasks."""

    stage: str | None
    items: list[Sample]
    next: str | None
    hidden: int


class Output(Answer):
    """One policy's answer to a task, with whatever else the domain wrote of it."""

    model_config = ConfigDict(extra="allow")

    text: str | None = None
    html: str | None = None


class TaskOutputs(Answer):
    """All policies' answers to a task."""

    task_id: str | None
    prompt: Any
    outputs: dict[str, Output]


class SideBySide(Answer):
    """``GET samples/side-by-side``."""

    stage: str | None
    items: list[TaskOutputs]
    next: str | None
    hidden: int


class RewardModel(Answer):
    """A reward model, and what was measured of it."""

    id: str
    round: int
    event_set: str | None
    assessment: dict[str, Any]


class Node(Answer):
    """An event set, reward model, policy or evaluation."""

    id: str
    kind: str
    round: int | None
    values: dict[str, Any]


class Edge(Answer):
    """What went into what."""

    source: str
    target: str
    kind: str


class Graph(Answer):
    """``GET lineage``."""

    nodes: list[Node]
    edges: list[Edge]


class ModelNamed(Answer):
    """A reward model by its place in the lineage."""

    id: str
    round: int
    event_set: str | None


class PolicyNamed(Answer):
    """A policy that a vote shaped."""

    id: str
    round: int
    status: str


class EventLineage(Answer):
    """What a vote shaped."""

    kind: Literal["event"]
    id: str
    query: str | None
    reward_models: list[ModelNamed]
    policies: list[PolicyNamed]


class VoteCount(Answer):
    """How many events one teacher gave in one round."""

    teacher: str
    round: int | None
    events: int


class PolicyLineage(Answer):
    """Which votes are behind a policy; ``events`` are the first of them."""

    kind: Literal["policy"]
    id: str
    reward_models: list[ModelNamed]
    votes: list[VoteCount]
    events: list[str]
    events_total: int


class FeedbackEvent(Answer):
    """One event, in canonical slots."""

    seq: int
    id: str
    kind: str
    query: str
    teacher: str
    value: dict[str, Any]
    text: str | None
    supersedes: str | None
    origin: str
    duration_ms: int | None
    guideline: int | None
    at: float


class Feed(Answer):
    """``GET feedback``; ``more``: the next page has something already."""

    items: list[FeedbackEvent]
    next: int
    hidden: int
    more: bool


class Pushed(Answer):
    """``POST queries``: ids in the order given."""

    tasks: list[str]
    candidates: list[str]
    queries: list[str]
    new: int


class BlindTest(Answer):
    """A blind test of two policies by people; ``low`` … ``high`` holds at all times at once."""

    id: str
    name: str
    policy_a: str
    policy_b: str
    wanted: int
    created_at: float
    closed_at: float | None
    votes: int
    wins: int
    losses: int
    ties: int
    low: float
    high: float
    decided: bool
    stop: bool


class Testable(Answer):
    """A policy whose answers are stored."""

    id: str
    stage: str
    name: str = Field(alias="as")


class BlindTests(Listed[BlindTest]):
    """``GET ab-tests``: newest first, and the policies that could be tested."""

    policies: list[Testable]
