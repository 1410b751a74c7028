"""Every route says what it answers, and answers that: a client can be made from openapi.json.

``studio_cases.described`` holds every answer in every test of the studio to its description; here every route is asked
once, so that none goes without.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from studio_cases import PASSWORD, Caller, Running, answered, ask, documented, events, make_study, running
from test_studio_engineer import PUSH, evaluated

from tropism.store import schema
from tropism.store.metrics import MetricStore
from tropism.studio import accounts
from tropism.studio.settings import StudioSettings

NOT_JSON = {
    ("GET", "/api/v1/stream"),
    ("GET", "/metrics"),
    ("GET", "/api/v1/assignments/{id_}/clips/{key}/{file}"),
    ("GET", "/api/v1/lead/disagreements/{query}/clips/{slot}/{file}"),
}
EMPTY = {
    ("DELETE", "/api/v1/session"),
    ("PUT", "/api/v1/assignments/{id_}/draft"),
    ("POST", "/api/v1/assignments/{id_}/release"),
    ("POST", "/api/v1/lead/gold/{query}"),
    ("DELETE", "/api/v1/tokens/{id_}"),
    ("DELETE", "/api/v1/webhooks/{id_}"),
}
"""Answered with 204."""


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Running]:
    with running(make_study(tmp_path / "s", votes=2), StudioSettings(undo_s=0.2)) as made:
        yield made


def ok(answer: Any) -> Any:
    assert answer.is_success, answer.text
    return answer.json() if answer.content else None


def test_every_route_answers_what_it_says(here: Running, tmp_path: Path) -> None:
    before = set(answered)
    answered.clear()
    try:
        _join(here)
        _judge(here)
        _lead(here)
        _engineer(here, tmp_path)
        _administer(here)
        every = {(method, address) for method, _, address, _ in documented()}
        assert every - answered == NOT_JSON | EMPTY
    finally:
        answered.update(before)


def _join(here: Running) -> None:
    token, _ = accounts.invite(here.studio.database, "admin", None, 60.0)
    first = here.nobody()
    ok(first.get("session"))
    ok(first.post("setup", json={"token": token, "name": "First", "password": PASSWORD}))
    first = here.nobody().sign_in("First")
    url = ok(first.post("lead/invitations", json={"role": "viewer"}))["url"]
    invited = here.nobody()
    ok(invited.get(f"invitations/{url.rpartition('/')[2]}"))
    ok(invited.post(f"invitations/{url.rpartition('/')[2]}", json={"name": "Second", "password": PASSWORD}))
    ok(first.patch("account", json={"language": "zh", "theme": None, "single_key_shortcuts": True}))
    ok(first.get("session"))
    ok(here.nobody().get(f"{here.base}/healthz"))


def _judge(here: Running) -> None:
    for kind, k in (("comparison", 2), ("ranking", 3), ("rating", 1), ("label", 1), ("demonstration", 0)):
        ask(here.studio, kind, 1, k=k)  # type: ignore[arg-type]
    ask(here.studio, "approval", 1, k=1, messages=[{"role": "user", "content": "and now?"}])
    ann = here.person("annotator", "Ann")
    (held,) = ann.claim()
    ok(ann.post(f"assignments/{held['assignment']}/heartbeat", json={}))
    ok(ann.put(f"assignments/{held['assignment']}/draft", json={"body": {"at": 1}}))
    ok(ann.post(f"assignments/{held['assignment']}/release", json={}))
    ok(ann.post("queue/claim", json={"kinds": ["nothing"]}))
    (comparison,) = ann.claim(1, kinds=["comparison"])
    ok(ann.submit(comparison["assignment"], {"choice": "1"}))
    back = ok(ann.post(f"assignments/{comparison['assignment']}/undo", json={}))["item"]
    ok(ann.submit(back["assignment"], {"choice": "1"}))
    (skipped, *_) = ann.claim(4)
    body = {"submission_id": "11111111-1111-4111-8111-111111111111"}
    ok(ann.post(f"assignments/{skipped['assignment']}/skip", json=body))
    ok(ann.get("me"))
    ok(ann.get("guideline"))
    ok(ann.delete("session"))


def _lead(here: Running) -> None:
    lead = here.person("lead")
    ok(lead.post("lead/guidelines", json={"text": "look *closely*"}))
    ok(lead.post("lead/guidelines/preview", json={"text": "x"}))
    ok(lead.get("lead/guidelines"))
    ben = here.person("annotator", "Ben")
    (item,) = ben.claim(1, kinds=["comparison"])
    first = here.studio.assignments.find(item["assignment"], here.pseudonym("Ben"))
    said = next(event for event in events(here.studio) if event.kind == "comparison").value["choice"]
    other = {"a": "b", "b": "a"}[said]
    ok(ben.submit(item["assignment"], {"choice": str(first.shown_order.index("ab".index(other)) + 1)}, text="so"))
    time.sleep(0.3)
    (found,) = ok(lead.get("lead/disagreements"))["items"]
    ok(lead.post(f"lead/adjudications/{found['query']}", json={"value": {"choice": "tie"}}))
    ok(lead.post(f"lead/gold/{found['query']}", json={"value": {"choice": "tie"}}))
    ok(lead.get("lead/progress"))
    people = ok(lead.get("lead/people"))["items"]
    ok(lead.patch(f"lead/people/{next(p['id'] for p in people if p['name'] == 'Ben')}", json={"status": "disabled"}))
    ok(lead.get("lead/planner"))
    until = time.monotonic() + 60
    while "at" not in ok(lead.get("lead/quality")) and time.monotonic() < until:
        time.sleep(0.2)
    assert ok(lead.get("lead/quality"))["judgements"] > 0
    ok(lead.get("lead/cost"))


def _engineer(here: Running, tmp_path: Path) -> None:
    engineer = here.person("engineer")
    assert ok(engineer.get("samples")) == {"stage": None, "items": [], "next": None, "hidden": 0}
    assert ok(engineer.get("samples/side-by-side"))["items"] == []
    evaluated(here, tmp_path)
    metrics = MetricStore(here.studio.facts.folder / "metrics.db")
    metrics.write("improve-1", 0, {"a": 1.0})
    metrics.close()
    assert ok(engineer.get("runs"))["stages"]
    ok(engineer.get("runs/improve-1/metrics?names=a"))
    assert ok(engineer.get("samples"))["items"]
    assert ok(engineer.get("samples/side-by-side"))["items"]
    ok(engineer.get("reward-models"))
    ok(engineer.get("reward-models/reward-1"))
    assert ok(engineer.get("lineage"))["edges"]
    ok(engineer.get("lineage/policy-1"))
    _votes(here, engineer)
    body = {"policy_a": "policy-1", "policy_b": "base", "name": "better?", "wanted": 4}
    made = ok(engineer.post("ab-tests", json=body))["id"]
    ok(engineer.get("ab-tests"))
    ok(engineer.get(f"ab-tests/{made}"))
    ok(engineer.post(f"ab-tests/{made}/close", json={}))
    ok(engineer.post("queries", json=PUSH))


def _votes(here: Running, engineer: Caller) -> None:
    with here.studio.database.write() as connection:  # all has been asked: nothing is hidden any more
        connection.execute(sa.delete(schema.gold))
        connection.execute(sa.update(schema.query_state).values(wanted=schema.query_state.c.taken))
    feed = ok(engineer.get("feedback"))
    assert feed["items"]
    ok(engineer.get(f"lineage/{feed['items'][0]['id']}"))


def _administer(here: Running) -> None:
    admin = here.person("admin")
    assert ok(admin.get("audit"))["items"]
    made = ok(admin.post("tokens", json={"name": "n", "scope": "read"}))["id"]
    ok(admin.get("tokens?all=true"))
    ok(admin.delete(f"tokens/{made}"))
    hook = ok(admin.post("webhooks", json={"url": "http://127.0.0.1:9/x", "events": ["stage"]}))["id"]
    ok(admin.get("webhooks"))
    assert ok(admin.get(f"webhooks/{hook}/deliveries"))["items"]
    ok(admin.delete(f"webhooks/{hook}"))


def test_the_description_has_what_every_answer_holds(here: Running) -> None:
    described = here.nobody().get("openapi.json").json()
    for method, _, address, _ in documented():
        answers = described["paths"][address][method.lower()]["responses"]
        (status,) = [code for code in answers if code.startswith("2") and code != "202"]
        content = answers[status].get("content", {})
        if (method, address) in EMPTY:
            assert (status, content) == ("204", {})
        elif (method, address) in NOT_JSON:
            assert content
            assert "application/json" not in content or "video/mp4" in content
        else:
            shown = content["application/json"]["schema"]
            assert "$ref" in shown or "anyOf" in shown, (method, address)
        assert "$ref" in answers["403"]["content"]["application/json"]["schema"]
    # who reads an older description than the studio's must not stumble over what is new
    assert "additionalProperties" not in described["components"]["schemas"]["Item"]


def test_an_answer_with_a_key_that_is_not_described_is_found_out() -> None:
    from tropism.studio.routes.answers import Held

    assert Held.model_validate_json('{"expires_at": 1}').expires_at == 1
    for wrong in ('{"expires_at": 1, "policy": "p"}', '{"expires_at": "1"}', "{}"):
        with pytest.raises(ValueError, match="validation error"):
            Held.model_validate_json(wrong, strict=True)
