"""Study databases for tests that hold for every database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tropism.store.database import Database

DATABASES = ("sqlite",)
"""What ``new_database`` can make."""


@contextmanager
def new_database(kind: str, folder: Path) -> Iterator[Database]:
    """A fresh study database of this kind."""
    made = Database.create(folder / "study.db")
    try:
        yield made
    finally:
        made.close()
