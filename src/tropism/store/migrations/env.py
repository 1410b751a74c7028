"""Alembic's environment: always on a connection handed over by ``database.py``, inside its transaction.

Left out: offline SQL scripts and an alembic.ini; ``Database.create`` and ``Database.open`` are the only ways in.
"""

from __future__ import annotations

from alembic import context

from tropism.store.schema import metadata

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=metadata,
    render_as_batch=connection.dialect.name == "sqlite",
    transactional_ddl=True,  # SQLite's DDL is transactional once BEGIN is explicit, which database.py sees to
)
context.run_migrations()
