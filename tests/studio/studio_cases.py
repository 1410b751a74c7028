"""A running studio on a small study, and its callers: what all tests of the studio share."""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa

from tropism.feedback.chance import shuffled
from tropism.feedback.records import Candidate, Provenance, Query, QueryKind, Task
from tropism.store import schema
from tropism.store.database import Database
from tropism.studio import accounts
from tropism.studio.app import create_app
from tropism.studio.passwords import hash_password
from tropism.studio.roles import ROLES, Role
from tropism.studio.serving import server
from tropism.studio.settings import StudioSettings
from tropism.studio.state import Studio

PASSWORD = "a long enough password"
TOML = """
[study]
name = "small"
domain = "language"
rounds = 2

[feedback]
teacher = "person"
votes_per_query = {votes}
"""
_numbers = itertools.count()


def make_study(folder: Path, votes: int = 1) -> Path:
    """A study folder without a run: what the studio needs of one."""
    folder.mkdir(parents=True)
    (folder / "study.toml").write_text(TOML.format(votes=votes))
    (folder / "artifacts").mkdir()
    (folder / "scratch").mkdir()
    Database.create(folder / "study.db").close()
    return folder


def ask(studio: Studio, kind: QueryKind, count: int = 1, k: int = 2, **payload: Any) -> list[Query]:
    """``count`` text queries of a kind; the policies' names must not be seen by anybody who judges."""
    made = []
    for _ in range(count):
        number = next(_numbers)
        task = Task("train", {"prompt": f"question {kind} {number}", **payload})
        texts = [f"answer {slot} to {kind} {number}" for slot in range(0 if kind == "demonstration" else k)]
        by = [Provenance(f"secret-policy-{slot}", {"temperature": 0.123}, seed=987) for slot in range(len(texts))]
        held = [
            Candidate(task.id, "text", {"text": text, "tokens": [1], "stop": "eos"}, p)
            for text, p in zip(texts, by, strict=True)
        ]
        ids = tuple(candidate.id for candidate in held)
        query = Query(task.id, kind, ids, shuffled(len(ids), 1, *ids), 1)
        studio.log.add_tasks([task])
        studio.log.add_candidates(held)
        studio.log.add_queries([query])
        made.append(query)
    return made


class Caller(httpx.Client):
    """A browser: keeps its cookie, sends the session's CSRF token with every write."""

    def __init__(self, base: str, csrf: str = "") -> None:
        super().__init__(base_url=f"{base}/api/v1/", timeout=30, trust_env=False)
        if csrf:
            self.headers["X-CSRF-Token"] = csrf

    def sign_in(self, name: str, password: str = PASSWORD) -> Caller:
        answer = self.post("session", json={"name": name, "password": password})
        assert answer.status_code == 200, answer.text
        self.headers["X-CSRF-Token"] = answer.json()["csrf"]
        return self

    def enter(self) -> Caller:
        """Into a studio of one person."""
        self.headers["X-CSRF-Token"] = self.get("session").json()["csrf"]
        return self

    def claim(self, count: int = 1, **more: Any) -> list[dict[str, Any]]:
        answer = self.post("queue/claim", json={"count": count, **more})
        assert answer.status_code == 200, answer.text
        return answer.json()["items"]

    def submit(self, assignment: str, value: Any, submission: str = "", **more: Any) -> httpx.Response:
        body = {"submission_id": submission or str(uuid.uuid4()), "value": value, "duration_ms": 1234, **more}
        return self.post(f"assignments/{assignment}/submit", json=body)


@dataclass
class Running:
    """A studio that listens."""

    base: str
    studio: Studio
    app: Any

    def nobody(self) -> Caller:
        return Caller(self.base)

    def person(self, role: Role, name: str = "") -> Caller:
        """Somebody with an account of this role, signed in."""
        return Caller(self.base).sign_in(self.account(role, name))

    def account(self, role: Role, name: str = "") -> str:
        """The name of an account of this role, made if it is not there."""
        name = name or f"the {role}"
        with self.studio.database.write() as connection:
            table = schema.accounts
            if connection.execute(sa.select(table.c.id).where(table.c.name == name)).first() is None:
                accounts.create_in(connection, name, role, _hashed())
        return name

    def pseudonym(self, name: str) -> str:
        with self.studio.database.read() as connection:
            table = schema.accounts
            return connection.execute(sa.select(table.c.pseudonym).where(table.c.name == name)).scalar_one()

    def everybody(self) -> dict[str, Caller]:
        return {role: self.person(role) for role in ROLES}


_kept: list[str] = []


def _hashed() -> str:
    """Hashing is slow on purpose; the accounts of tests share one password."""
    if not _kept:
        _kept.append(hash_password(PASSWORD))
    return _kept[0]


@contextmanager
def running(folder: Path, settings: StudioSettings | None = None) -> Iterator[Running]:
    """A real server in a thread, on a free port."""
    import socket

    app = create_app(folder, settings or StudioSettings())
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(128)
        serving = server(app)
        thread = threading.Thread(target=serving.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        until = time.monotonic() + 20
        while not serving.started and time.monotonic() < until:
            time.sleep(0.01)
        assert serving.started
        try:
            yield Running(f"http://127.0.0.1:{listening.getsockname()[1]}", app.state.studio, app)
        finally:
            serving.should_exit = True
            thread.join(timeout=20)
            assert not thread.is_alive()


def events(studio: Studio) -> Sequence[sa.Row[Any]]:
    """All events, oldest first."""
    with studio.database.read() as connection:
        return connection.execute(sa.select(schema.events).order_by(schema.events.c.seq)).all()
