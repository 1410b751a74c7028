"""What answers hold, for the description: whoever reads openapi.json can make a client from it.

The routes make their answers themselves, without copying them through these models; the tests hold every answer of
every route to its model. A client must bear keys that it does not know: later versions may say more. Left out: refusals
(``problems.py``), files and the stream, which are no JSON, and what engineers and leads see (``answers_run.py``,
``answers_lead.py``).
"""

from __future__ import annotations

from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from tropism.feedback.records import QueryKind
from tropism.studio.roles import Role, TokenScope

T = TypeVar("T")


def _open(schema: dict[str, Any]) -> None:
    """The description says nothing against further keys; the tests do."""
    schema.pop("additionalProperties", None)


class Answer(BaseModel):
    """A table with just these keys."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, json_schema_extra=_open)


class Listed(Answer, Generic[T]):
    """A page of a list; ``next`` is the next page's ``after``, null where there is none."""

    items: list[T]
    next: str | int | None


# ---- session and account ----


class AccountSettings(Answer):
    """What somebody has set."""

    language: Literal["en", "zh"] | None = None
    theme: Literal["light", "dark", "system"] | None = None
    single_key_shortcuts: bool | None = None


class Account(Answer):
    """Who is signed in."""

    id: str
    name: str
    role: Role
    settings: AccountSettings


class StudyShown(Answer):
    """The study that is served."""

    name: str
    domain: str
    kind: str
    rounds: int


class SessionState(Answer):
    """``GET session``, and whatever signs in."""

    account: Account | None
    csrf: str | None
    solo: bool
    setup_needed: bool
    study: StudyShown
    version: str


class AccountChanged(Answer):
    """``PATCH account``."""

    account: Account


class InvitationShown(Answer):
    """What an invitation is for."""

    role: Role
    expires_at: float


# ---- judging ----


class Message(Answer):
    """One message of a chat."""

    role: str
    content: str
    html: str


class ShownTask(Answer):
    """What a question is about; which keys there are depends on ``kind``."""

    kind: Literal["text", "chat", "segment"]
    prompt: str | None = None
    html: str | None = None
    messages: list[Message] | None = None
    environment: str | None = None
    goal: str | None = None


class ClipShown(Answer):
    """Where a clip's files are; ``frames`` and ``fps`` are null until it is drawn."""

    h264: str
    vp9: str
    poster: str
    about: str
    frames: int | None
    fps: float | None


class ShownCandidate(Answer):
    """What stands at a place of the screen; ``length``: of the whole text, where it is cut."""

    key: str
    viewer: Literal["text", "clip"]
    text: str | None = None
    html: str | None = None
    length: int | None = None
    clip: ClipShown | None = None


class Aspect(Answer):
    """What is rated, from the worst score to the best."""

    name: str
    scale: tuple[float, float]


class AnswerForm(Answer):
    """What the answer's form has."""

    strengths: bool
    aspects: list[Aspect] | None = None
    labels: list[str] | None = None


class Item(Answer):
    """A claimed question."""

    assignment: str
    kind: QueryKind
    expires_at: float
    guideline_version: int | None
    task: ShownTask
    candidates: list[ShownCandidate]
    form: AnswerForm
    draft: dict[str, Any] | None


class EmptyQueue(Answer):
    """Why there is nothing to judge."""

    reason: Literal["done", "all_claimed", "yours_are_done", "nothing_asked", "wrong_kind"]
    open: int
    claimed: int


class Claimed(Answer):
    """``POST queue/claim``."""

    items: list[Item]
    empty: EmptyQueue | None


class Stored(Answer):
    """``POST assignments/{id}/submit``."""

    stored: Literal[True]
    late: bool
    undo_until: float
    again: bool


class Skipped(Answer):
    """``POST assignments/{id}/skip``."""

    stored: Literal[True]
    again: bool


class Undone(Answer):
    """``POST assignments/{id}/undo``."""

    item: Item


class Held(Answer):
    """``POST assignments/{id}/heartbeat``."""

    expires_at: float


class OwnWork(Answer):
    """``GET me``."""

    today: int
    total: int
    skipped: int
    agreement: float | None
    kinds: list[QueryKind]


class GuidelineShown(Answer):
    """``GET guideline``."""

    version: int | None
    html: str


# ---- administration ----


class AuditEntry(Answer):
    """A row of the audit log."""

    seq: int
    at: float
    account: str | None
    action: str
    object: str
    detail: dict[str, Any]


class TokenShown(Answer):
    """A token, without what it is used by."""

    id: str
    name: str
    account: str
    scope: TokenScope
    created_at: float
    expires_at: float | None
    revoked_at: float | None


class TokenMade(Answer):
    """``POST tokens``: ``token`` is said this once."""

    id: str
    name: str
    scope: TokenScope
    created_at: float
    expires_at: float
    token: str


class HookShown(Answer):
    """A webhook, without its secret."""

    id: str
    url: str
    events: list[str]
    created_at: float
    disabled_at: float | None


class HookMade(Answer):
    """``POST webhooks``: ``secret`` is said this once."""

    id: str
    url: str
    events: list[str]
    secret: str


class Delivery(Answer):
    """What was sent to a webhook, and what came of it."""

    id: str
    event: str
    attempts: int
    next_at: float | None
    delivered_at: float | None
    error: str | None


class Health(Answer):
    """``GET /healthz``."""

    ok: bool
