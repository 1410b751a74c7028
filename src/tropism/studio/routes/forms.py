"""What bodies and queries of requests may hold. An unknown key is an error everywhere.

Left out: values of feedback, which depend on the question (``answering.py``).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StringConstraints

from tropism.studio.roles import Role, TokenScope

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=64)]
Password = Annotated[str, StringConstraints(min_length=10, max_length=256)]
Token = Annotated[str, StringConstraints(min_length=16, max_length=128)]
Limit = Annotated[int, Query(ge=1, le=500)]
Number = Annotated[int | None, Query(ge=0, lt=2**53)]


class Form(BaseModel):
    """A body: nothing beside what it names, no infinities."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Nothing(Form):
    """A body that says nothing."""


class SignIn(Form):
    """``POST session``, ``POST invitations/{token}``."""

    name: Name
    password: Annotated[str, StringConstraints(max_length=256)]


class NewAccount(Form):
    """A name and a password of one's own choice."""

    name: Name
    password: Password


class Setup(NewAccount):
    """``POST setup``."""

    token: Token


class AccountChange(Form):
    """``PATCH account``; what is absent stays, null takes a setting back."""

    language: Literal["en", "zh"] | None = None
    theme: Literal["light", "dark", "system"] | None = None
    single_key_shortcuts: StrictBool | None = None
    password: Password | None = None
    old_password: Annotated[str, StringConstraints(max_length=256)] | None = None


class Claim(Form):
    """``POST queue/claim``."""

    count: StrictInt = Field(default=1, ge=1, le=4)
    kinds: Annotated[list[Annotated[str, StringConstraints(max_length=32)]], Field(max_length=16)] | None = None


class Remark(Form):
    """A remark beside an answer."""

    kind: Literal["critique", "correction", "demonstration"]
    value: dict[str, Any] = {}
    text: str


class Submit(Form):
    """``POST assignments/{id}/submit``."""

    submission_id: UUID
    value: dict[str, Any]
    text: str | None = None
    extra: list[Remark] = Field(default=[], max_length=32)
    duration_ms: int | None = Field(default=None, ge=0, lt=2**31)


class Skip(Form):
    """``POST assignments/{id}/skip``."""

    submission_id: UUID


class Draft(Form):
    """``PUT assignments/{id}/draft``."""

    body: dict[str, Any]


class Guideline(Form):
    """``POST lead/guidelines`` and its preview."""

    text: Annotated[str, StringConstraints(min_length=1, max_length=100_000)]


class PersonChange(Form):
    """``PATCH lead/people/{id}``."""

    role: Role | None = None
    status: Literal["active", "disabled"] | None = None


class Invitation(Form):
    """``POST lead/invitations``."""

    role: Role = "annotator"


class Gold(Form):
    """``POST lead/gold/{query}``: a value in canonical slots, or null to take it back."""

    value: dict[str, Any] | None


class Adjudication(Form):
    """``POST lead/adjudications/{query}``: in canonical slots."""

    value: dict[str, Any]
    text: str | None = None


class NewToken(Form):
    """``POST tokens``."""

    name: Name
    scope: TokenScope = "read"
    days: float = Field(default=90.0, gt=0, le=366)


class NewWebhook(Form):
    """``POST webhooks``."""

    url: Annotated[str, StringConstraints(min_length=8, max_length=2000)]
    events: list[Literal["feedback", "stage", "queue"]] = Field(min_length=1, max_length=3)


class NewTask(Form):
    """A task to be pushed."""

    split: Literal["train", "validation"]
    payload: dict[str, Any]


class NewCandidate(Form):
    """A candidate to be pushed; ``task``: place in the list of tasks, or an id."""

    task: int | str
    kind: Literal["text"] = "text"
    content: dict[str, Any]
    source: Annotated[str, StringConstraints(min_length=1, max_length=200)]


class NewQuery(Form):
    """A query to be pushed; ``candidates``: places in the list of candidates, or ids."""

    task: int | str
    kind: Literal[
        "comparison", "ranking", "best_of", "rating", "label", "demonstration", "correction", "critique", "approval"
    ]
    candidates: list[int | str] = Field(max_length=64)
    round: int = Field(default=0, ge=0, lt=2**31)


class Pushed(Form):
    """``POST queries``."""

    tasks: list[NewTask] = Field(default=[], max_length=10_000)
    candidates: list[NewCandidate] = Field(default=[], max_length=40_000)
    queries: list[NewQuery] = Field(default=[], max_length=10_000)


class NewTest(Form):
    """``POST ab-tests``: ``wanted`` is how many pairs are asked about."""

    policy_a: Annotated[str, StringConstraints(max_length=200)]
    policy_b: Annotated[str, StringConstraints(max_length=200)]
    name: Name
    wanted: int = Field(default=100, ge=1, le=5000)
