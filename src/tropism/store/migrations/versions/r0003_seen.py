"""Who has seen what was answered to a query, what reward models expect, and how far the order of events is settled.

A server numbers events when they are written, and shows them when their transaction ends: a reader who has come to
number 7 may have passed over a 6 that was not there yet. So every transaction that writes events first takes an
advisory lock, shared, so that nobody waits for it, whose second key is the last number given out before it began;
``store/horizon.py`` reads from these how far the order is settled. A trigger takes it, whoever writes.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_PLACE = """
CREATE FUNCTION hold_place() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF coalesce(current_setting('tropism.place', true), '') = '' THEN
        PERFORM pg_advisory_xact_lock_shared(1414680402, (
            SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END FROM events_seq_seq)::int);
        PERFORM set_config('tropism.place', 'held', true);
    END IF;
    RETURN NULL;
END $$
"""


def upgrade() -> None:
    op.create_table(
        "seen",
        sa.Column("query_id", sa.String(), nullable=False),
        sa.Column("teacher_id", sa.String(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["query_id"], ["queries.id"], name=op.f("fk_seen_query_id")),
        sa.ForeignKeyConstraint(["teacher_id"], ["teachers.id"], name=op.f("fk_seen_teacher_id")),
        sa.PrimaryKeyConstraint("query_id", "teacher_id", name=op.f("pk_seen")),
    )
    op.create_table(
        "expectations",
        sa.Column("query_id", sa.String(), nullable=False),
        sa.Column("a_wins", sa.Double(), nullable=False),
        sa.Column("reward_model", sa.String(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["query_id"], ["queries.id"], name=op.f("fk_expectations_query_id")),
        sa.PrimaryKeyConstraint("query_id", name=op.f("pk_expectations")),
    )
    if op.get_bind().dialect.name == "postgresql":
        op.execute(_PLACE)
        op.execute(
            "CREATE TRIGGER events_hold_place BEFORE INSERT ON events FOR EACH STATEMENT EXECUTE FUNCTION hold_place()"
        )
