"""A running studio on a small study, and its callers: what all tests of the studio share."""

from __future__ import annotations

import atexit
import itertools
import os
import re
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa
from fastapi.routing import APIRoute
from pydantic import TypeAdapter
from starlette.responses import FileResponse

from databases import new_address
from tropism.feedback.chance import shuffled
from tropism.feedback.records import Candidate, Provenance, Query, QueryKind, Task
from tropism.store import schema
from tropism.store.database import Database
from tropism.store.server import note_address
from tropism.studio import accounts
from tropism.studio.app import API, ROUTERS, create_app
from tropism.studio.passwords import hash_password
from tropism.studio.problems import ErrorAnswer
from tropism.studio.roles import ROLES, Role
from tropism.studio.routes import operations
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
VARIABLE = "TROPISM_STUDIO_TESTS"
"""Set to ``postgresql``, it puts every study of these tests on a server: all of them must hold there, too."""
_numbers = itertools.count()
_databases = ExitStack()
atexit.register(_databases.close)


def make_study(folder: Path, votes: int = 1, place: bool = True) -> Path:
    """A study folder without a run: what the studio needs of one. Without ``place`` it has no database yet."""
    folder.mkdir(parents=True)
    (folder / "study.toml").write_text(TOML.format(votes=votes))
    (folder / "artifacts").mkdir()
    (folder / "scratch").mkdir()
    if place and os.environ.get(VARIABLE) == "postgresql":
        note_address(folder / "study.db", _databases.enter_context(new_address()))
    elif place:
        Database.create(folder / "study.db").close()
    return folder


def ask(studio: Studio, kind: QueryKind, count: int = 1, k: int = 2, **payload: Any) -> list[Query]:
    """``count`` text queries of a kind; the policies' names must not be seen by anybody who judges."""
    made = []
    for _ in range(count):
        number = next(_numbers)
        task = Task("train", {"prompt": f"question {kind} {number}", **payload})
        texts = [f"answer {slot} to {kind} {number}" for slot in range(0 if kind == "demonstration" else k)]
        by = [Provenance(f"secret-policy-{n}", {"temperature": 0.1234567}, seed=987654321) for n in range(len(texts))]
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


@cache
def documented() -> list[tuple[str, re.Pattern[str], str, Any]]:
    """(method, address, its pattern, what its answers hold) of every route, as openapi.json has them."""
    routers = [(module.router, API) for module in ROUTERS] + [(operations.router, "")]
    return [
        (method, re.compile(prefix + route.path_regex.pattern.removeprefix("^")), prefix + route.path, route)
        for router, prefix in routers
        for route in router.routes
        if isinstance(route, APIRoute) and route.include_in_schema
        for method in route.methods
    ]


answered: set[tuple[str, str]] = set()
"""(method, address) of the routes that have answered with the JSON they are said to answer with."""


def described(answer: httpx.Response) -> None:
    """Hold an answer to its description: every test does so with every answer it gets."""
    kind = answer.headers.get("content-type", "")
    if not kind.startswith("application/json"):
        return
    content = answer.read()
    path = answer.url.path
    if not answer.is_success:
        ErrorAnswer.model_validate_json(content, strict=True)
        return
    for method, pattern, address, route in documented():
        if method == answer.request.method and pattern.fullmatch(path):
            if route.response_class is FileResponse:
                return
            again = route.responses.get(answer.status_code, {}).get("model")
            model = route.response_model if answer.status_code == 200 else again
            assert model is not None, f"{method} {path} answers {answer.status_code}, which openapi.json does not say"
            TypeAdapter(model).validate_json(content, strict=True)
            answered.add((method, address))
            return


class Caller(httpx.Client):
    """A browser: keeps its cookie, sends the session's CSRF token with every write."""

    def __init__(self, base: str, csrf: str = "") -> None:
        super().__init__(base_url=f"{base}/api/v1/", timeout=30, trust_env=False, event_hooks={"response": [described]})
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
