"""A studio with a question of every kind, listening on a free port, and a real browser on it.

Left out: a test that needs the browser says so by asking for its fixture (``conftest.py``), and is skipped without one.
"""

from __future__ import annotations

import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from tropism.control.rollouts import Steps
from tropism.environments.making import EnvironmentSpec
from tropism.environments.segments import Chunk
from tropism.environments.stepping import Environments
from tropism.feedback.chance import shuffled
from tropism.feedback.records import Candidate, Provenance, Query, QueryKind, Task
from tropism.store import schema
from tropism.store.database import Database
from tropism.studio import accounts
from tropism.studio.app import create_app
from tropism.studio.passwords import hash_password
from tropism.studio.roles import Role
from tropism.studio.serving import server
from tropism.studio.settings import StudioSettings
from tropism.studio.state import Studio

PASSWORD = "correct horse battery"
TOML = """
[study]
name = "weather answers"
domain = "language"
rounds = 2

[feedback]
teacher = "person"
votes_per_query = 1
"""
QUESTIONS = (
    "What should I take along to a picnic when the forecast says showers in the afternoon?",
    "Why is the sky blue?",
    "How do I tell a friend that I cannot come to the wedding?",
    "Explain to a child why leaves fall in autumn.",
)
GOOD = (
    "Take a **waterproof sheet**, a light jacket for everyone and a bag for wet things.\n\n"
    "- Put the food in boxes that close.\n- Look for a place with a roof nearby.\n- Leave by three, before the showers."
)
WORSE = "Take a waterproof sheet and umbrellas. Showers are nice. Put the food in bags. Perhaps it stays dry."


@dataclass
class Opened:
    """A studio that listens at ``base``."""

    base: str
    studio: Studio

    def account(self, role: Role, name: str) -> str:
        """Make an account of this role with ``PASSWORD``; returns its name."""
        with self.studio.database.write() as connection:
            accounts.create_in(connection, name, role, hash_password(PASSWORD))
        return name

    def events(self) -> Sequence[sa.Row[Any]]:
        """All events, oldest first."""
        with self.studio.database.read() as connection:
            return connection.execute(sa.select(schema.events).order_by(schema.events.c.seq)).all()

    def assignments(self) -> dict[str, Any]:
        """Every assignment by its query."""
        with self.studio.database.read() as connection:
            rows = connection.execute(sa.select(schema.assignments)).all()
        return {row.query_id: row for row in rows}

    def ask(self, kind: QueryKind, texts: Sequence[str], prompt: str, **payload: Any) -> Query:
        """Ask a question about texts, which no two policies made."""
        task = Task("train", {"prompt": prompt, **payload})
        made = [
            Candidate(task.id, "text", {"text": text, "tokens": [1], "stop": "eos"}, Provenance(f"policy-{i}", seed=i))
            for i, text in enumerate(texts)
        ]
        return self._put(task, kind, made)

    def ask_clips(self, kind: QueryKind, environment: str, goal: str, length: int = 40) -> Query:
        """Ask which of two segments of random actions is better."""
        task = Task("train", {"environment": {"id": environment}, "goal": goal})
        digest = self.studio.artifacts.put(write_segments(environment, 2, length))
        made = [
            Candidate(task.id, "segment", {"artifact": digest, "row": row}, Provenance(f"policy-{row}", seed=row))
            for row in range(2)
        ]
        return self._put(task, kind, made)

    def _put(self, task: Task, kind: QueryKind, candidates: Sequence[Candidate]) -> Query:
        ids = tuple(candidate.id for candidate in candidates)
        query = Query(task.id, kind, ids, shuffled(len(ids), 1, *ids), 1)
        self.studio.log.add_tasks([task])
        self.studio.log.add_candidates(candidates)
        self.studio.log.add_queries([query])
        return query


def write_segments(environment: str, count: int, length: int) -> Path:
    """A folder with ``count`` segments of random actions, as a study of agents keeps them."""
    running = Environments(EnvironmentSpec(environment), count, seed=3)
    stream, before, made = np.random.default_rng(5), running.place(), Steps.room(running, length)
    for t in range(length):
        if running.discrete:
            actions = stream.integers(running.actions, size=count).astype(np.float32)
        else:
            actions = stream.uniform(-1, 1, (count, running.actions)).astype(np.float32)
        made.take(t, running, actions)
    chunk = Chunk(running.spec, made, before, "policy-1")
    folder = Path(tempfile.mkdtemp())
    for row in range(count):
        place = folder / f"{row:05d}"
        place.mkdir()
        chunk.cut(0, row, length).write(place)
    return folder


def make_study(folder: Path) -> Path:
    """A study's folder without a run."""
    folder.mkdir(parents=True)
    (folder / "study.toml").write_text(TOML)
    (folder / "artifacts").mkdir()
    (folder / "scratch").mkdir()
    Database.create(folder / "study.db").close()
    return folder


@contextmanager
def opened(folder: Path, settings: StudioSettings | None = None, port: int = 0) -> Iterator[Opened]:
    """A real server in a thread."""
    app = create_app(folder, settings or StudioSettings())
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        listening.listen(128)
        serving = server(app)
        thread = threading.Thread(target=serving.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        until = time.monotonic() + 20
        while not serving.started and time.monotonic() < until:
            time.sleep(0.01)
        assert serving.started, "the studio did not start within 20 s"
        try:
            yield Opened(f"http://127.0.0.1:{listening.getsockname()[1]}", app.state.studio)
        finally:
            serving.should_exit = True
            thread.join(timeout=20)
