"""The study's tables as SQLAlchemy Core, portable between SQLite and PostgreSQL.

Append-only (triggers of the migrations refuse UPDATE and DELETE): events, seals, seal_members, event_sets,
event_set_members, audit.
Erasable on purpose, because they hold what belongs to people: people, text_salts, event_texts, drafts. Times are UTC
seconds since the epoch and never enter a digest. The studio's tables are defined in ``studio_schema.py`` and named here
too. Left out: metrics (a file of their own).
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from tropism.store import metadata as _metadata
from tropism.store import studio_schema as _studio

metadata = _metadata.metadata
accounts = _studio.accounts
sessions = _studio.sessions
api_tokens = _studio.api_tokens
invitations = _studio.invitations
login_failures = _studio.login_failures
audit = _studio.audit
ab_tests = _studio.ab_tests
query_state = _studio.query_state
assignments = _studio.assignments
drafts = _studio.drafts
seen = _studio.seen
looked = _studio.looked
expectations = _studio.expectations
gold = _studio.gold
guidelines = _studio.guidelines
webhooks = _studio.webhooks
deliveries = _studio.deliveries

STUDIO: Final = (
    accounts, sessions, api_tokens, invitations, login_failures, audit, ab_tests, query_state, assignments, drafts,
    seen, looked, expectations, gold, guidelines, webhooks, deliveries,
)  # fmt: skip
"""The studio's tables."""

APPLICATION_ID: Final = 0x54524F50
"""Written into the header of every study.db ("TROP"), so that another SQLite file is never taken for a study."""

APPEND_ONLY: Final = ("events", "seals", "seal_members", "event_sets", "event_set_members", "audit")
"""Tables whose rows the database itself refuses to change or delete."""

ERASABLE: Final = ("people", "text_salts", "event_texts", "drafts", "accounts")
"""Tables from which what belongs to a person is deleted when they leave."""

# ---- what is judged ----

tasks = sa.Table(
    "tasks",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column(
        "split", sa.String, sa.CheckConstraint("split IN ('train', 'validation', 'test')", name="split"), nullable=False
    ),
    sa.Column("payload", sa.JSON, nullable=False),
)

candidates = sa.Table(
    "candidates",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("task_id", sa.String, sa.ForeignKey("tasks.id"), nullable=False, index=True),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("content", sa.JSON, nullable=False),
    # provenance: a policy of the lineage or the name of an outside source, hence no foreign key
    sa.Column("policy_id", sa.String, nullable=False, index=True),
    sa.Column("sampling", sa.JSON, nullable=False),
    sa.Column("engine", sa.String, nullable=False),
    sa.Column("seed", sa.BigInteger, nullable=False),
)

queries = sa.Table(
    "queries",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("task_id", sa.String, sa.ForeignKey("tasks.id"), nullable=False, index=True),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("round", sa.Integer, nullable=False),
)

query_slots = sa.Table(
    "query_slots",
    metadata,
    sa.Column("query_id", sa.String, sa.ForeignKey("queries.id"), primary_key=True),
    sa.Column("slot", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("candidate_id", sa.String, sa.ForeignKey("candidates.id"), nullable=False, index=True),
    # where a teacher sees this slot: 0 is first
    sa.Column("shown_position", sa.Integer, nullable=False),
    sa.UniqueConstraint("query_id", "shown_position"),
)

# ---- who judges ----

teachers = sa.Table(
    "teachers",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("name", sa.String),
    sa.Column("created_at", sa.Double, nullable=False),
)

people = sa.Table(
    "people",
    metadata,
    sa.Column("pseudonym", sa.String, sa.ForeignKey("teachers.id"), primary_key=True),
    sa.Column("name", sa.String),
    sa.Column("contact", sa.String),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("erased_at", sa.Double),
)

text_salts = sa.Table(
    "text_salts",
    metadata,
    sa.Column("teacher_id", sa.String, sa.ForeignKey("teachers.id"), primary_key=True),
    sa.Column("salt", sa.String, nullable=False),
)

# ---- what they said ----

events = sa.Table(
    "events",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("id", sa.String, nullable=False, unique=True),
    sa.Column("digest", sa.String, nullable=False, unique=True),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("query_id", sa.String, sa.ForeignKey("queries.id"), index=True),  # NULL for erasures alone
    sa.Column("teacher_id", sa.String, sa.ForeignKey("teachers.id"), nullable=False, index=True),
    sa.Column("target", sa.String, nullable=False),
    sa.Column("value", sa.JSON, nullable=False),
    sa.Column("text_digest", sa.String),
    sa.Column("supersedes", sa.String, sa.ForeignKey("events.id"), unique=True),
    sa.Column("origin", sa.String, nullable=False),
    sa.Column("duration_ms", sa.Integer),
    sa.Column("created_at", sa.Double, nullable=False),
    sqlite_autoincrement=True,
)
# One first vote per teacher, query and target: a second opinion must say which event it supersedes.
sa.Index(
    "uq_events_first_vote",
    events.c.query_id,
    events.c.teacher_id,
    events.c.target,
    unique=True,
    sqlite_where=events.c.supersedes.is_(None),
    postgresql_where=events.c.supersedes.is_(None),
)

event_texts = sa.Table(
    "event_texts",
    metadata,
    sa.Column("event_id", sa.String, sa.ForeignKey("events.id"), primary_key=True),
    sa.Column("text", sa.Text, nullable=False),
)

seals = sa.Table(
    "seals",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("digest", sa.String, nullable=False, unique=True),
    sa.Column("previous", sa.String, nullable=False, unique=True),  # unique: the chain cannot fork
    sa.Column("members_digest", sa.String, nullable=False),
    sa.Column("count", sa.Integer, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
)

seal_members = sa.Table(
    "seal_members",
    metadata,
    sa.Column("seal", sa.Integer, sa.ForeignKey("seals.seq"), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("event_id", sa.String, sa.ForeignKey("events.id"), nullable=False, unique=True),
)

event_sets = sa.Table(
    "event_sets",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("count", sa.Integer, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
)

event_set_members = sa.Table(
    "event_set_members",
    metadata,
    sa.Column("event_set_id", sa.String, sa.ForeignKey("event_sets.id"), primary_key=True),
    sa.Column("event_id", sa.String, sa.ForeignKey("events.id"), primary_key=True, index=True),
)

# ---- what was made of it ----

stages = sa.Table(
    "stages",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("status", sa.String, nullable=False),
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("inputs", sa.JSON, nullable=False),
    sa.Column("outputs", sa.JSON),
    sa.Column("started_at", sa.Double),
    sa.Column("finished_at", sa.Double),
    sa.Column("seconds", sa.Double),
    sa.Column("cpu_seconds", sa.Double),
)

artifacts = sa.Table(
    "artifacts",
    metadata,
    sa.Column("digest", sa.String, primary_key=True),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
)

reward_models = sa.Table(
    "reward_models",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("artifact", sa.String, nullable=False),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("event_set_id", sa.String, sa.ForeignKey("event_sets.id"), index=True),
    # the policy whose answers were judged last: votes that shaped that policy shape the reward model too
    # (no foreign key: with policies.reward_model_id it would be a cycle, which SQLite cannot create in steps)
    sa.Column("base_policy_id", sa.String),
    sa.Column("values", sa.JSON, nullable=False),
)

policies = sa.Table(
    "policies",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("artifact", sa.String, nullable=False),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("parent_policy_id", sa.String, sa.ForeignKey("policies.id"), index=True),
    sa.Column("reference_policy_id", sa.String, sa.ForeignKey("policies.id")),
    sa.Column("reward_model_id", sa.String, sa.ForeignKey("reward_models.id"), index=True),
    sa.Column(
        "status",
        sa.String,
        sa.CheckConstraint("status IN ('reference', 'candidate', 'promoted', 'rejected')", name="status"),
        nullable=False,
    ),
    sa.Column("values", sa.JSON, nullable=False),
)

evaluations = sa.Table(
    "evaluations",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("policy_id", sa.String, sa.ForeignKey("policies.id"), nullable=False, index=True),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("values", sa.JSON, nullable=False),
)

lease = sa.Table(
    "lease",
    metadata,
    sa.Column("id", sa.Integer, sa.CheckConstraint("id = 1", name="single_row"), primary_key=True, autoincrement=False),
    sa.Column("token", sa.String, nullable=False),
    sa.Column("host", sa.String, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("process_start", sa.String, nullable=False),
    sa.Column("command", sa.String, nullable=False),
    sa.Column("acquired_at", sa.Double, nullable=False),
    sa.Column("heartbeat_at", sa.Double, nullable=False),
    sa.Column("ttl_s", sa.Double, nullable=False),
)
