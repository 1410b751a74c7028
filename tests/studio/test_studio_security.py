"""Who may call what, and who may see what.

The table of routes is compared with the application's own: a new address without a row here fails.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.routing import iter_route_contexts
from studio_cases import PASSWORD, Caller, Running, ask, events, make_study, running

from tropism.studio.roles import ROLES, rank
from tropism.studio.settings import StudioSettings

A = "annotator"
# method, address, least role (None: everybody), scope of a token, body
ROUTES: list[tuple[str, str, str | None, str, Any]] = [
    ("GET", "/api/v1/session", None, "read", None),
    ("POST", "/api/v1/session", None, "write", {"name": "nobody", "password": "x"}),
    ("DELETE", "/api/v1/session", "viewer", "write", None),
    ("POST", "/api/v1/setup", None, "write", {"token": "x" * 20, "name": "n", "password": PASSWORD}),
    ("GET", "/api/v1/invitations/{token}", None, "read", None),
    ("POST", "/api/v1/invitations/{token}", None, "write", {"name": "n", "password": PASSWORD}),
    ("PATCH", "/api/v1/account", "viewer", "write", {}),
    ("POST", "/api/v1/queue/claim", A, "feedback", {}),
    ("POST", "/api/v1/assignments/{id_}/submit", A, "feedback", {"submission_id": str(uuid.uuid4()), "value": {}}),
    ("POST", "/api/v1/assignments/{id_}/skip", A, "feedback", {"submission_id": str(uuid.uuid4())}),
    ("POST", "/api/v1/assignments/{id_}/undo", A, "feedback", {}),
    ("POST", "/api/v1/assignments/{id_}/heartbeat", A, "feedback", {}),
    ("PUT", "/api/v1/assignments/{id_}/draft", A, "feedback", {"body": {}}),
    ("POST", "/api/v1/assignments/{id_}/release", A, "feedback", {}),
    ("GET", "/api/v1/assignments/{id_}/clips/{key}/{file}", A, "read", None),
    ("GET", "/api/v1/me", A, "read", None),
    ("GET", "/api/v1/guideline", "viewer", "read", None),
    ("GET", "/api/v1/lead/progress", "lead", "read", None),
    ("GET", "/api/v1/lead/guidelines", "lead", "read", None),
    ("POST", "/api/v1/lead/guidelines", "lead", "write", {"text": "look closely"}),
    ("POST", "/api/v1/lead/guidelines/preview", "lead", "read", {"text": "x"}),
    ("GET", "/api/v1/lead/disagreements", "reviewer", "read", None),
    ("GET", "/api/v1/lead/disagreements/{query}/clips/{slot}/{file}", "reviewer", "read", None),
    ("POST", "/api/v1/lead/adjudications/{query}", "reviewer", "write", {"value": {}}),
    ("GET", "/api/v1/lead/people", "lead", "read", None),
    ("PATCH", "/api/v1/lead/people/{id_}", "lead", "write", {}),
    ("POST", "/api/v1/lead/invitations", "lead", "write", {"role": "viewer"}),
    ("POST", "/api/v1/lead/gold/{query}", "lead", "write", {"value": None}),
    ("GET", "/api/v1/lead/quality", "lead", "read", None),
    ("GET", "/api/v1/lead/planner", "lead", "read", None),
    ("GET", "/api/v1/lead/cost", "lead", "read", None),
    ("GET", "/api/v1/runs", "viewer", "read", None),
    ("GET", "/api/v1/runs/{stage}/metrics", "viewer", "read", None),
    ("GET", "/api/v1/stream", "viewer", "read", None),
    ("GET", "/api/v1/samples", "engineer", "read", None),
    ("GET", "/api/v1/samples/side-by-side", "engineer", "read", None),
    ("GET", "/api/v1/reward-models", "engineer", "read", None),
    ("GET", "/api/v1/reward-models/{id_}", "engineer", "read", None),
    ("GET", "/api/v1/lineage", "engineer", "read", None),
    ("GET", "/api/v1/lineage/{id_}", "engineer", "read", None),
    ("POST", "/api/v1/queries", "engineer", "write", {}),
    ("GET", "/api/v1/feedback", "engineer", "read", None),
    ("GET", "/api/v1/ab-tests", "engineer", "read", None),
    ("POST", "/api/v1/ab-tests", "engineer", "write", {"policy_a": "a", "policy_b": "b", "name": "n"}),
    ("GET", "/api/v1/ab-tests/{id_}", "engineer", "read", None),
    ("POST", "/api/v1/ab-tests/{id_}/close", "engineer", "write", {}),
    ("GET", "/api/v1/audit", "admin", "read", None),
    ("GET", "/api/v1/tokens", "engineer", "read", None),
    ("POST", "/api/v1/tokens", "engineer", "write", {"name": "n"}),
    ("DELETE", "/api/v1/tokens/{id_}", "engineer", "write", None),
    ("GET", "/api/v1/webhooks", "admin", "read", None),
    ("POST", "/api/v1/webhooks", "admin", "write", {"url": "http://127.0.0.1:9/x", "events": ["stage"]}),
    ("DELETE", "/api/v1/webhooks/{id_}", "admin", "write", None),
    ("GET", "/api/v1/webhooks/{id_}/deliveries", "admin", "read", None),
    ("GET", "/api/v1/openapi.json", None, "read", None),
    ("GET", "/metrics", "lead", "read", None),
    ("GET", "/healthz", None, "read", None),
    ("GET", "/", None, "read", None),
    ("GET", "/{path:path}", None, "read", None),
]
PARTS = {"id_": "nothing", "query": "nothing", "token": "x" * 30, "key": "1", "file": "clip.mp4", "slot": "a"}
PARTS |= {"stage": "base", "path:path": "nothing.js"}
NEED = {"read": ("read", "feedback", "write"), "feedback": ("feedback", "write"), "write": ("write",)}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(make_study(tmp_path_factory.mktemp("security") / "s")) as studio:
        yield studio


@pytest.fixture(scope="module")
def people(here: Running) -> dict[str, Caller]:
    return here.everybody()


def address(path: str) -> str:
    for name, part in PARTS.items():
        path = path.replace(f"{{{name}}}", part)
    return path


def send(caller: httpx.Client, here: Running, method: str, path: str, body: Any, **more: Any) -> tuple[int, str]:
    """(status, code) of a request; a stream is left after its head."""
    given = {"json": body} if body is not None else {}
    with caller.stream(method, f"{here.base}{address(path)}", **given, **more) as answer:
        if answer.headers.get("content-type", "").startswith("text/event-stream"):
            return answer.status_code, ""
        text = answer.read()
    try:
        said = json.loads(text)
    except ValueError:
        said = None
    error = said.get("error") if isinstance(said, dict) else None
    return answer.status_code, (error or {}).get("code", "")


def test_every_route_has_a_row(here: Running) -> None:
    routes = list(iter_route_contexts(here.app.routes))
    there = {(method, route.path) for route in routes for method in route.methods or () if method != "HEAD"}
    assert there == {(method, path) for method, path, *_ in ROUTES}
    described = here.nobody().get("openapi.json").json()["paths"]
    assert len(described) > 40
    hidden = {path for _, path, *_ in ROUTES} - set(described)
    assert hidden == {"/", "/{path:path}", "/api/v1/openapi.json"}


@pytest.mark.parametrize(("method", "path", "least", "scope", "body"), ROUTES)
def test_roles(
    here: Running, people: dict[str, Caller], method: str, path: str, least: str | None, scope: str, body: Any
) -> None:
    status, code = send(here.nobody(), here, method, path, body)
    if least is None:
        assert code not in ("not_signed_in", "not_allowed")
    else:
        assert (status, code) == (401, "not_signed_in")
    for role in ROLES:
        caller = people[role]
        if (method, path) == ("DELETE", "/api/v1/session"):
            caller = here.person(role)  # it ends
        status, code = send(caller, here, method, path, body)
        if least is not None and rank(role) < rank(least):
            assert (status, code) == (403, "not_allowed"), f"{role} may {method} {path}"
        else:
            assert code not in ("not_signed_in", "not_allowed", "csrf"), f"{role} may not {method} {path}"
            assert status < 500


@pytest.fixture(scope="module")
def tokens(people: dict[str, Caller]) -> dict[str, str]:
    made = {s: people["admin"].post("tokens", json={"name": s, "scope": s}) for s in ("read", "feedback", "write")}
    return {scope: answer.json()["token"] for scope, answer in made.items()}


@pytest.mark.parametrize(("method", "path", "least", "scope", "body"), ROUTES)
def test_scopes_of_tokens(
    here: Running, tokens: dict[str, str], method: str, path: str, least: str | None, scope: str, body: Any
) -> None:
    for held, token in tokens.items():
        bearer = {"Authorization": f"Bearer {token}"}
        status, code = send(here.nobody(), here, method, path, body, headers=bearer)
        if least is not None and held not in NEED[scope]:
            assert (status, code) == (403, "not_allowed"), f"a token of scope {held} may {method} {path}"
        else:
            assert code not in ("not_signed_in", "not_allowed", "csrf", "bad_token")


def test_a_token_that_is_none_is_refused(here: Running, tokens: dict[str, str], people: dict[str, Caller]) -> None:
    cookie = next(iter(people["admin"].cookies.values()))
    for given in ("Bearer x", f"Basic {tokens['write']}", f"Bearer {cookie}", "Bearer", f"Bearer {tokens['write']}x"):
        answer = here.nobody().get("runs", headers={"Authorization": given})
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "bad_token")
    name = next(iter(people["admin"].cookies))
    assert here.nobody().get("runs", cookies={name: tokens["write"]}).status_code == 401


WRITES = [row for row in ROUTES if row[0] != "GET" and row[2] is not None]


@pytest.mark.parametrize(("method", "path", "least", "scope", "body"), WRITES)
def test_a_write_without_the_sessions_own_csrf_token_is_refused(
    here: Running, people: dict[str, Caller], method: str, path: str, least: str, scope: str, body: Any
) -> None:
    admin = people["admin"]
    cookie = dict(admin.cookies)
    for wrong in ({}, {"X-CSRF-Token": ""}, {"X-CSRF-Token": people["viewer"].headers["X-CSRF-Token"]}):
        with Caller(here.base) as other:
            other.cookies.update(cookie)
            assert send(other, here, method, path, body, headers=wrong) == (403, "csrf")
    assert admin.get("me").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_other_origins_cannot_write(here: Running, people: dict[str, Caller], headers: dict[str, str]) -> None:
    for method, path, _least, _scope, body in ROUTES:
        if method != "GET":
            assert send(people["admin"], here, method, path, body, headers=headers) == (403, "origin")


def test_the_audit_log_cannot_be_changed(here: Running, people: dict[str, Caller]) -> None:
    import sqlalchemy as sa

    from tropism.store import schema

    assert people["admin"].get("audit").json()["items"]
    for statement in (sa.delete(schema.audit), sa.update(schema.audit).values(action="nothing")):
        with pytest.raises(sa.exc.DatabaseError), here.studio.database.write() as connection:
            connection.execute(statement)


def test_whoever_may_still_judge_sees_nothing_of_it(tmp_path: Path) -> None:
    with running(make_study(tmp_path / "s", votes=2), StudioSettings(undo_s=0.3)) as here:
        (query,) = ask(here.studio, "comparison")
        first, second = here.person("engineer", "first"), here.person("admin", "second")
        (item,) = first.claim()
        first.submit(item["assignment"], {"choice": "1"}, text="because of the secret reason")
        time.sleep(0.4)
        (event,) = events(here.studio)
        secrets = [event.id, event.teacher_id, query.id, "secret reason", *query.candidate_ids]
        held = second.claim()
        for caller, sees in ((second, False), (first, True)):
            said = ""
            for method, path, _least, _scope, _body in ROUTES:
                if method == "GET" and "stream" not in path:
                    said += caller.get(f"{here.base}{address(path)}").text
            said += caller.get("feedback").text
            found = [secret for secret in secrets if secret in said.replace("first", "")]
            assert (event.id in said) == sees, path
            if not sees:
                assert found in ([], [event.teacher_id])  # people are listed, with their pseudonyms
        blind = second.get(f"lineage/{event.id}")
        assert (blind.status_code, blind.json()["error"]["code"]) == (403, "blind")
        assert second.get("feedback").json()["hidden"] == 1
        for refused in (
            second.post(f"lead/adjudications/{query.id}", json={"value": {"choice": "a"}}),
            second.get(f"lead/disagreements/{query.id}/clips/a/clip.mp4"),
        ):
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "blind")
        second.submit(held[0]["assignment"], {"choice": "2"})
        assert second.get("feedback").json()["hidden"] == 2  # it could still be taken back
        time.sleep(0.4)
        assert second.get("feedback").json()["hidden"] == 0
        assert second.get(f"lineage/{event.id}").status_code == 200
