"""The first schema: tasks, candidates, queries, teachers, events, seals, event sets, stages, artifacts, lineage, lease.

Also the triggers that make the database itself refuse to change or delete what is append-only.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from tropism.errors import StoreError

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_APPEND_ONLY = ("events", "seals", "seal_members", "event_sets", "event_set_members")


def upgrade() -> None:
    _tables_1()
    _tables_2()
    _tables_3()
    _tables_4()
    _tables_5()
    _tables_6()
    _tables_7()
    _tables_8()
    _tables_9()
    _triggers()


def _tables_1() -> None:
    op.create_table(
        "artifacts",
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_artifacts")),
    )
    op.create_table(
        "event_sets",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_event_sets")),
    )
    op.create_table(
        "lease",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("token", sa.String(), nullable=False),
        sa.Column("host", sa.String(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("process_start", sa.String(), nullable=False),
        sa.Column("command", sa.String(), nullable=False),
        sa.Column("acquired_at", sa.Double(), nullable=False),
        sa.Column("heartbeat_at", sa.Double(), nullable=False),
        sa.Column("ttl_s", sa.Double(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_lease_single_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_lease")),
    )


def _tables_2() -> None:
    op.create_table(
        "seals",
        sa.Column("seq", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("previous", sa.String(), nullable=False),
        sa.Column("members_digest", sa.String(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_seals")),
        sa.UniqueConstraint("digest", name=op.f("uq_seals_digest")),
        sa.UniqueConstraint("previous", name=op.f("uq_seals_previous")),
    )
    op.create_table(
        "stages",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("inputs", sa.JSON(), nullable=False),
        sa.Column("outputs", sa.JSON(), nullable=True),
        sa.Column("started_at", sa.Double(), nullable=True),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.Column("seconds", sa.Double(), nullable=True),
        sa.Column("cpu_seconds", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_stages")),
    )


def _tables_3() -> None:
    op.create_table(
        "tasks",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("split", sa.String(), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.CheckConstraint("split IN ('train', 'validation', 'test')", name=op.f("ck_tasks_split")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tasks")),
    )
    op.create_table(
        "teachers",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_teachers")),
    )
    op.create_table(
        "candidates",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("task_id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("content", sa.JSON(), nullable=False),
        sa.Column("policy_id", sa.String(), nullable=False),
        sa.Column("sampling", sa.JSON(), nullable=False),
        sa.Column("engine", sa.String(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_candidates_task_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_candidates")),
    )
    op.create_index(op.f("ix_candidates_policy_id"), "candidates", ["policy_id"], unique=False)


def _tables_4() -> None:
    op.create_index(op.f("ix_candidates_task_id"), "candidates", ["task_id"], unique=False)
    op.create_table(
        "people",
        sa.Column("pseudonym", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=True),
        sa.Column("contact", sa.String(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("erased_at", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["pseudonym"], ["teachers.id"], name=op.f("fk_people_pseudonym")),
        sa.PrimaryKeyConstraint("pseudonym", name=op.f("pk_people")),
    )
    op.create_table(
        "queries",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("task_id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_queries_task_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_queries")),
    )
    op.create_index(op.f("ix_queries_task_id"), "queries", ["task_id"], unique=False)


def _tables_5() -> None:
    op.create_table(
        "reward_models",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("artifact", sa.String(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("event_set_id", sa.String(), nullable=True),
        sa.Column("base_policy_id", sa.String(), nullable=True),
        sa.Column("values", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["event_set_id"], ["event_sets.id"], name=op.f("fk_reward_models_event_set_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reward_models")),
    )
    op.create_index(op.f("ix_reward_models_event_set_id"), "reward_models", ["event_set_id"], unique=False)
    op.create_table(
        "text_salts",
        sa.Column("teacher_id", sa.String(), nullable=False),
        sa.Column("salt", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["teacher_id"], ["teachers.id"], name=op.f("fk_text_salts_teacher_id")),
        sa.PrimaryKeyConstraint("teacher_id", name=op.f("pk_text_salts")),
    )


def _tables_6() -> None:
    op.create_table(
        "events",
        sa.Column("seq", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("query_id", sa.String(), nullable=True),
        sa.Column("teacher_id", sa.String(), nullable=False),
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("value", sa.JSON(), nullable=False),
        sa.Column("text_digest", sa.String(), nullable=True),
        sa.Column("supersedes", sa.String(), nullable=True),
        sa.Column("origin", sa.String(), nullable=False),
        sa.Column("duration_ms", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["query_id"], ["queries.id"], name=op.f("fk_events_query_id")),
        sa.ForeignKeyConstraint(["supersedes"], ["events.id"], name=op.f("fk_events_supersedes")),
        sa.ForeignKeyConstraint(["teacher_id"], ["teachers.id"], name=op.f("fk_events_teacher_id")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_events")),
        sa.UniqueConstraint("digest", name=op.f("uq_events_digest")),
        sa.UniqueConstraint("id", name=op.f("uq_events_id")),
        sa.UniqueConstraint("supersedes", name=op.f("uq_events_supersedes")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_events_query_id"), "events", ["query_id"], unique=False)
    op.create_index(op.f("ix_events_teacher_id"), "events", ["teacher_id"], unique=False)
    op.create_index(
        "uq_events_first_vote",
        "events",
        ["query_id", "teacher_id", "target"],
        unique=True,
        sqlite_where=sa.text("supersedes IS NULL"),
        postgresql_where=sa.text("supersedes IS NULL"),
    )


def _tables_7() -> None:
    op.create_table(
        "policies",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("artifact", sa.String(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("parent_policy_id", sa.String(), nullable=True),
        sa.Column("reference_policy_id", sa.String(), nullable=True),
        sa.Column("reward_model_id", sa.String(), nullable=True),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("values", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["parent_policy_id"], ["policies.id"], name=op.f("fk_policies_parent_policy_id")),
        sa.ForeignKeyConstraint(["reference_policy_id"], ["policies.id"], name=op.f("fk_policies_reference_policy_id")),
        sa.ForeignKeyConstraint(["reward_model_id"], ["reward_models.id"], name=op.f("fk_policies_reward_model_id")),
        sa.CheckConstraint(
            "status IN ('reference', 'candidate', 'promoted', 'rejected')", name=op.f("ck_policies_status")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_policies")),
    )
    op.create_index(op.f("ix_policies_parent_policy_id"), "policies", ["parent_policy_id"], unique=False)
    op.create_index(op.f("ix_policies_reward_model_id"), "policies", ["reward_model_id"], unique=False)
    op.create_table(
        "query_slots",
        sa.Column("query_id", sa.String(), nullable=False),
        sa.Column("slot", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("candidate_id", sa.String(), nullable=False),
        sa.Column("shown_position", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["candidate_id"], ["candidates.id"], name=op.f("fk_query_slots_candidate_id")),
        sa.ForeignKeyConstraint(["query_id"], ["queries.id"], name=op.f("fk_query_slots_query_id")),
        sa.PrimaryKeyConstraint("query_id", "slot", name=op.f("pk_query_slots")),
        sa.UniqueConstraint("query_id", "shown_position", name=op.f("uq_query_slots_query_id_shown_position")),
    )


def _tables_8() -> None:
    op.create_index(op.f("ix_query_slots_candidate_id"), "query_slots", ["candidate_id"], unique=False)
    op.create_table(
        "evaluations",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("policy_id", sa.String(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("values", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["policy_id"], ["policies.id"], name=op.f("fk_evaluations_policy_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evaluations")),
    )
    op.create_index(op.f("ix_evaluations_policy_id"), "evaluations", ["policy_id"], unique=False)
    op.create_table(
        "event_set_members",
        sa.Column("event_set_id", sa.String(), nullable=False),
        sa.Column("event_id", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["event_id"], ["events.id"], name=op.f("fk_event_set_members_event_id")),
        sa.ForeignKeyConstraint(["event_set_id"], ["event_sets.id"], name=op.f("fk_event_set_members_event_set_id")),
        sa.PrimaryKeyConstraint("event_set_id", "event_id", name=op.f("pk_event_set_members")),
    )
    op.create_index(op.f("ix_event_set_members_event_id"), "event_set_members", ["event_id"], unique=False)
    op.create_table(
        "event_texts",
        sa.Column("event_id", sa.String(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["event_id"], ["events.id"], name=op.f("fk_event_texts_event_id")),
        sa.PrimaryKeyConstraint("event_id", name=op.f("pk_event_texts")),
    )


def _tables_9() -> None:
    op.create_table(
        "seal_members",
        sa.Column("seal", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("event_id", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["event_id"], ["events.id"], name=op.f("fk_seal_members_event_id")),
        sa.ForeignKeyConstraint(["seal"], ["seals.seq"], name=op.f("fk_seal_members_seal")),
        sa.PrimaryKeyConstraint("seal", "position", name=op.f("pk_seal_members")),
        sa.UniqueConstraint("event_id", name=op.f("uq_seal_members_event_id")),
    )


def _triggers() -> None:
    dialect = op.get_bind().dialect.name
    if dialect == "sqlite":
        for table in _APPEND_ONLY:
            for action in ("UPDATE", "DELETE"):
                op.execute(
                    f"CREATE TRIGGER {table}_no_{action.lower()} BEFORE {action} ON {table} "
                    f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
                )
    elif dialect == "postgresql":
        op.execute(
            "CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$"
        )
        for table in _APPEND_ONLY:
            op.execute(
                f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table} "
                "FOR EACH ROW EXECUTE FUNCTION refuse_change()"
            )
            op.execute(
                f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} "
                "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
            )
    else:
        raise StoreError(f"append-only triggers are not written for {dialect}", "use SQLite or PostgreSQL")
