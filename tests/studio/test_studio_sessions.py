"""Who is remembered, and for how long: cookies in use are looked up again together, and what has ended ends."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import sqlalchemy as sa
from studio_cases import make_study, running

from tropism.store import schema
from tropism.store.database import Database
from tropism.studio import accounts
from tropism.studio.passwords import new_token, token_digest
from tropism.studio.roles import Caller
from tropism.studio.sessions import BEARER, REMEMBERED_S, Sessions
from tropism.studio.settings import StudioSettings

DAY_S = 86400.0


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database.open(make_study(tmp_path / "s") / "study.db")
    yield made
    made.close()


def signed_in(database: Database, sessions: Sessions, count: int) -> list[str]:
    """The cookies of as many people."""
    cookies = []
    with database.write() as connection:
        for number in range(count):
            account = accounts.create_in(connection, f"Person {number}", "annotator", None)
            cookies.append(sessions.open_in(connection, account).token)
    return cookies


def test_cookies_in_use_are_looked_up_again_by_one_question(database: Database) -> None:
    sessions = Sessions(database, DAY_S, DAY_S)
    cookies = signed_in(database, sessions, 30)
    found = [sessions.by_cookie(cookie) for cookie in cookies]
    assert [caller.name for caller in found if caller is not None] == [f"Person {i}" for i in range(30)]
    asked: list[str] = []
    sa.event.listen(database.engine, "before_cursor_execute", lambda *given: asked.append(given[2]))
    until = time.monotonic() + 2.5 * REMEMBERED_S
    while time.monotonic() < until:  # nobody is forgotten who is used, and nobody had to ask
        if sessions.renewal_due():
            sessions.renew()
        assert all(sessions.remembered(cookie) is not None for cookie in cookies)
        time.sleep(0.02)
    assert 3 <= sum("FROM sessions" in statement for statement in asked) <= 8
    time.sleep(REMEMBERED_S / 2 + 0.01)
    assert sessions.renewal_due()
    sessions.renew()  # they were used since the last time
    time.sleep(REMEMBERED_S / 2 + 0.01)
    asked.clear()
    sessions.renew()  # they were not
    assert asked == []
    time.sleep(REMEMBERED_S)
    assert all(sessions.remembered(cookie) is None for cookie in cookies)


def test_what_another_process_ends_is_forgotten_at_the_next_renewal(database: Database) -> None:
    sessions = Sessions(database, DAY_S, DAY_S)
    gone, kept = signed_in(database, sessions, 2)
    for cookie in (gone, kept):
        assert sessions.by_cookie(cookie) is not None
    with database.write() as connection:
        table = schema.sessions
        connection.execute(sa.delete(table).where(table.c.token_hash == token_digest(gone)))
    sessions.renew()
    assert sessions.remembered(gone) is None
    assert sessions.by_cookie(gone) is None
    assert sessions.remembered(kept) is not None
    with database.write() as connection:
        connection.execute(sa.update(schema.accounts).values(status="disabled"))
    sessions.renew()
    assert sessions.remembered(kept) is None


class Overtaken(Sessions):
    """Accounts change while sessions are being looked up."""

    def _look_up(self, tokens: Sequence[str]) -> dict[str, Caller]:
        found = super()._look_up(tokens)
        self.forget()
        return found


def test_what_was_read_before_a_change_is_not_remembered_after_it(database: Database) -> None:
    sessions = Overtaken(database, DAY_S, DAY_S)
    (cookie,) = signed_in(database, sessions, 1)
    assert sessions.by_cookie(cookie) is not None
    assert sessions.remembered(cookie) is None
    plain = Sessions(database, DAY_S, DAY_S)
    assert plain.by_cookie(cookie) is not None
    sessions._known = plain._known
    sessions.renew()
    assert sessions.remembered(cookie) is None


def test_a_cookie_is_never_taken_for_a_token_of_the_interface(tmp_path: Path) -> None:
    with running(make_study(tmp_path / "s"), StudioSettings()) as here:
        engineer = here.person("engineer")
        token = engineer.post("tokens", json={"name": "n", "scope": "write"}).json()["token"]
        bearer = here.nobody()
        bearer.headers["Authorization"] = f"Bearer {token}"
        assert bearer.get("me").status_code == 200
        assert here.studio.sessions.remembered(BEARER + token) is not None
        for cookie in (token, f"b{token}", f"bearer{token}", new_token()):
            stranger = here.nobody()
            stranger.headers["Cookie"] = f"{here.studio.cookie}={cookie}"
            assert stranger.get("me").status_code == 401
