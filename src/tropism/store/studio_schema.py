"""The studio's tables: accounts and their sessions, the queue of questions to people, guidelines, webhooks.

What must hold is held by the database: a query never has more votes and open assignments than are wanted, a person
never has two assignments on one query (repeats, which are asked twice on purpose, aside), a submission is stored once.
Left out: clips and other artifacts (the artifact store's), and curves (the metrics file's).
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from tropism.store.metadata import metadata


def _one_of(column: str, *values: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(f"{column} IN ({', '.join(repr(value) for value in values)})", name=column)


def _where(condition: str) -> dict[str, Any]:
    """A partial index's condition, for both databases."""
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}


ROLES = ("viewer", "annotator", "reviewer", "lead", "engineer", "admin")
"""From the least to the most."""

# ---- who may do what ----

accounts = sa.Table(
    "accounts",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("name", sa.String, nullable=False, unique=True),
    sa.Column("role", sa.String, _one_of("role", *ROLES), nullable=False),
    sa.Column("pseudonym", sa.String, sa.ForeignKey("teachers.id"), nullable=False, unique=True),
    sa.Column("password_hash", sa.String),  # NULL: cannot log in by password
    sa.Column("settings", sa.JSON, nullable=False),
    sa.Column("status", sa.String, _one_of("status", "active", "disabled"), nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
)

sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("token_hash", sa.String, primary_key=True),
    sa.Column("account_id", sa.String, sa.ForeignKey("accounts.id"), nullable=False, index=True),
    sa.Column("csrf", sa.String, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("seen_at", sa.Double, nullable=False),
    sa.Column("expires_at", sa.Double, nullable=False),
)

api_tokens = sa.Table(
    "api_tokens",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("token_hash", sa.String, nullable=False, unique=True),
    sa.Column("account_id", sa.String, sa.ForeignKey("accounts.id"), nullable=False, index=True),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("scope", sa.String, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("expires_at", sa.Double),
    sa.Column("revoked_at", sa.Double),
)

invitations = sa.Table(
    "invitations",
    metadata,
    sa.Column("token_hash", sa.String, primary_key=True),
    sa.Column("role", sa.String, _one_of("role", *ROLES), nullable=False),
    sa.Column("created_by", sa.String, sa.ForeignKey("accounts.id")),  # NULL: the console, at the first start
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("expires_at", sa.Double, nullable=False),
    sa.Column("used_by", sa.String, sa.ForeignKey("accounts.id")),
)

login_failures = sa.Table(
    "login_failures",
    metadata,
    sa.Column("key", sa.String, primary_key=True),
    sa.Column("count", sa.Integer, nullable=False),
    sa.Column("blocked_until", sa.Double, nullable=False),
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("account_id", sa.String),  # no foreign key: what was refused to nobody is written down, too
    sa.Column("action", sa.String, nullable=False),
    sa.Column("object", sa.String, nullable=False),
    sa.Column("detail", sa.JSON, nullable=False),
    sqlite_autoincrement=True,
)

# ---- the queue ----

ab_tests = sa.Table(
    "ab_tests",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("policy_a", sa.String, sa.ForeignKey("policies.id"), nullable=False),
    sa.Column("policy_b", sa.String, sa.ForeignKey("policies.id"), nullable=False),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("wanted", sa.Integer, nullable=False),
    sa.Column("created_by", sa.String, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("closed_at", sa.Double),
)

query_state = sa.Table(
    "query_state",
    metadata,
    sa.Column("query_id", sa.String, sa.ForeignKey("queries.id"), primary_key=True),
    sa.Column("seq", sa.Integer, nullable=False),  # the order in which queries came into the queue
    sa.Column("ab_test", sa.String, sa.ForeignKey("ab_tests.id"), index=True),
    sa.Column("priority", sa.Integer, nullable=False),  # smaller is asked sooner
    sa.Column("wanted", sa.Integer, nullable=False),
    sa.Column("votes", sa.Integer, nullable=False),
    sa.Column("open", sa.Integer, nullable=False),
    sa.Column("taken", sa.Integer, nullable=False),  # votes + open: a column of its own, to be indexed
    sa.Column("late", sa.Integer, nullable=False),  # answers that came after their place was given away
    sa.CheckConstraint("votes >= 0 AND open >= 0 AND late >= 0", name="no_less_than_none"),
    sa.CheckConstraint("taken = votes + open", name="sum"),
    sa.CheckConstraint("taken <= wanted", name="overlap"),
)
sa.Index(
    "ix_query_state_room", query_state.c.priority, query_state.c.taken, query_state.c.seq, **_where("taken < wanted")
)

assignments = sa.Table(
    "assignments",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("query_id", sa.String, sa.ForeignKey("queries.id"), nullable=False),
    sa.Column("teacher_id", sa.String, sa.ForeignKey("teachers.id"), nullable=False),
    sa.Column(
        "purpose",
        sa.String,
        _one_of("purpose", "work", "gold", "repeat", "extra", "adjudication", "ab"),
        nullable=False,
    ),
    sa.Column("ordinal", sa.Integer, nullable=False),  # the how manieth question of this person, from 0
    sa.Column("shown_order", sa.JSON, nullable=False),
    sa.Column("repeat_of", sa.String, sa.ForeignKey("assignments.id")),
    sa.Column("replaces", sa.String, sa.ForeignKey("assignments.id"), unique=True),  # the one that was undone
    sa.Column("placed", sa.Boolean, nullable=False),  # whether it is counted in its query's votes or open
    sa.Column("claimed_at", sa.Double, nullable=False),
    sa.Column("heartbeat_at", sa.Double, nullable=False),
    sa.Column("expires_at", sa.Double, nullable=False),
    sa.Column(
        "status", sa.String, _one_of("status", "open", "submitted", "skipped", "expired", "undone"), nullable=False
    ),
    sa.Column("submitted_at", sa.Double),
    sa.Column("late", sa.Boolean, nullable=False),
    sa.Column("submission_id", sa.String, unique=True),
    sa.Column("event_ids", sa.JSON, nullable=False),
    sa.Column("duration_ms", sa.Integer),
)
sa.Index(
    "uq_assignments_one_each",
    assignments.c.query_id,
    assignments.c.teacher_id,
    unique=True,
    **_where("purpose NOT IN ('repeat', 'adjudication') AND status <> 'undone'"),
)
sa.Index("uq_assignments_repeat", assignments.c.repeat_of, unique=True, **_where("status <> 'undone'"))
sa.Index("ix_assignments_person", assignments.c.teacher_id, assignments.c.ordinal)
sa.Index(
    "ix_assignments_held",
    assignments.c.teacher_id,
    assignments.c.status,  # looked for: else SQLite would take ix_assignments_person and read all a person ever did
    **_where("status IN ('open', 'expired')"),
)
sa.Index("ix_assignments_expiry", assignments.c.expires_at, **_where("status = 'open'"))
sa.Index("ix_assignments_query", assignments.c.query_id)

drafts = sa.Table(
    "drafts",
    metadata,
    sa.Column("assignment_id", sa.String, sa.ForeignKey("assignments.id"), primary_key=True),
    sa.Column("body", sa.JSON, nullable=False),
    sa.Column("saved_at", sa.Double, nullable=False),
)

seen = sa.Table(
    "seen",  # who has seen what others said about a query, or where its candidates come from: they are not asked
    metadata,
    sa.Column("query_id", sa.String, sa.ForeignKey("queries.id"), primary_key=True),
    sa.Column("teacher_id", sa.String, sa.ForeignKey("teachers.id"), primary_key=True),
    sa.Column("at", sa.Double, nullable=False),
)

looked = sa.Table(
    "looked",  # who has seen which policy wrote what on a task: questions made of it later are not asked of them
    metadata,
    sa.Column("task_id", sa.String, primary_key=True),  # as evaluations and rollouts name it; the log may not know it
    sa.Column("teacher_id", sa.String, sa.ForeignKey("teachers.id"), primary_key=True),
    sa.Column("at", sa.Double, nullable=False),
)

expectations = sa.Table(
    "expectations",  # P(slot a over slot b) of a comparison, by a reward model that has not seen its answers
    metadata,
    sa.Column("query_id", sa.String, sa.ForeignKey("queries.id"), primary_key=True),
    sa.Column("a_wins", sa.Double, nullable=False),
    sa.Column("reward_model", sa.String, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
)

gold = sa.Table(
    "gold",
    metadata,
    sa.Column("query_id", sa.String, sa.ForeignKey("queries.id"), primary_key=True),
    sa.Column("value", sa.JSON, nullable=False),
    sa.Column("created_by", sa.String, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
)

guidelines = sa.Table(
    "guidelines",
    metadata,
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("created_by", sa.String, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
)

# ---- telling other programs ----

webhooks = sa.Table(
    "webhooks",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("url", sa.String, nullable=False),
    sa.Column("secret", sa.String, nullable=False),
    sa.Column("events", sa.JSON, nullable=False),
    sa.Column("created_by", sa.String, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("disabled_at", sa.Double),
)

deliveries = sa.Table(
    "deliveries",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("webhook_id", sa.String, sa.ForeignKey("webhooks.id"), nullable=False, index=True),
    sa.Column("event", sa.String, nullable=False),
    sa.Column("payload", sa.JSON, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("next_at", sa.Double, index=True),  # NULL: delivered, or given up
    sa.Column("delivered_at", sa.Double),
    sa.Column("error", sa.String),
)
