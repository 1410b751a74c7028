"""A lead's pages over HTTP: progress, guidelines, disagreements, gold, quality; and what other programs are told."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from studio_cases import Caller, Running, ask, events, make_study, running

from tropism.client import webhook_is_genuine
from tropism.store import schema
from tropism.studio.assessor import Assessor
from tropism.studio.settings import StudioSettings


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Running]:
    with running(make_study(tmp_path / "s", votes=2), StudioSettings(undo_s=0.05)) as studio:
        yield studio


def until(what: Callable[[], Any], seconds: float = 20.0) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not happen")


def vote(caller: Caller, better: str) -> None:
    """Answer one comparison by its text."""
    (item,) = caller.claim()
    key = next(c["key"] for c in item["candidates"] if c["text"].startswith(better))
    assert caller.submit(item["assignment"], {"choice": key}).status_code == 200


def test_progress_and_people_and_cost(here: Running) -> None:
    ask(here.studio, "comparison", 3)
    lead, judge = here.person("lead"), here.person("annotator")
    vote(judge, "answer 0")
    (item,) = judge.claim()
    judge.post(
        f"assignments/{item['assignment']}/skip", json={"submission_id": "0" * 8 + "-0000-4000-8000-" + "0" * 12}
    )
    found = lead.get("lead/progress").json()
    assert {n: found[n] for n in ("queries", "wanted", "votes", "open")} == {
        "queries": 3, "wanted": 6, "votes": 1, "open": 0,
    }  # fmt: skip
    assert found["by_kind"]["comparison"]["votes"] == 1
    assert found["eta_s"] > 0
    assert sum(count for _, count in found["rate_per_hour"]) == 1
    people = {row["name"]: row for row in lead.get("lead/people").json()["items"]}
    assert (people["the annotator"]["votes"], people["the annotator"]["skipped"]) == (1, 1)
    assert people["the annotator"]["median_seconds"] == pytest.approx(1.234)
    assert lead.get("lead/cost").json()["seconds_per_vote"] == pytest.approx(1.234)
    assert judge.get("me").json() == {
        "today": 1, "total": 1, "skipped": 1, "agreement": None, "kinds": ["comparison"],
    }  # fmt: skip


def test_guidelines_have_versions(here: Running) -> None:
    ask(here.studio, "comparison")
    lead, judge = here.person("lead"), here.person("annotator")
    assert judge.get("guideline").json() == {"version": None, "html": ""}
    assert lead.post("lead/guidelines", json={"text": "# Look\n<script>x</script>"}).json()["version"] == 1
    assert lead.post("lead/guidelines", json={"text": "# Look\n<script>x</script>"}).status_code == 409
    assert lead.post("lead/guidelines", json={"text": "closer"}).json()["version"] == 2
    assert [row["version"] for row in lead.get("lead/guidelines").json()["items"]] == [2, 1]
    assert judge.get("guideline").json() == {"version": 2, "html": "<p>closer</p>\n"}
    time.sleep(1.1)
    assert judge.claim()[0]["guideline_version"] == 2


def test_an_answer_names_the_guideline_that_was_in_force(here: Running) -> None:
    ask(here.studio, "comparison", 3)
    lead, engineer = here.person("lead"), here.person("engineer")
    judges = [here.person("annotator", name) for name in ("one", "two")]
    for text in ("", "look", "look closer"):
        if text:
            lead.post("lead/guidelines", json={"text": text})
        for judge in judges:
            vote(judge, "answer 0")
    said = engineer.get("feedback").json()["items"]
    assert [item["guideline"] for item in said] == [None, None, 1, 1, 2, 2]


def test_a_disagreement_is_shown_and_settled(here: Running) -> None:
    ask(here.studio, "comparison", 2)
    first, second = here.person("annotator", "one"), here.person("annotator", "two")
    reviewer = here.person("reviewer")
    for better in ("answer 0", "answer 0"):
        vote(first, better)
    assert reviewer.get("lead/disagreements").json()["items"] == []
    for better in ("answer 0", "answer 1"):
        vote(second, better)
    (item,) = reviewer.get("lead/disagreements").json()["items"]
    assert [c["slot"] for c in item["candidates"]] == ["a", "b"]
    assert sorted(v["value"]["choice"] for v in item["votes"]) == ["a", "b"]
    assert {v["person"] for v in item["votes"]} == {"one", "two"}
    assert (item["share"], item["adjudicated"]) == (0.5, False)
    assert reviewer.post(f"lead/adjudications/{item['query']}", json={"value": {"choice": "x"}}).status_code == 400
    settled = reviewer.post(f"lead/adjudications/{item['query']}", json={"value": {"choice": "a"}, "text": "clear"})
    assert settled.json()["event"] == events(here.studio)[-1].id
    (item,) = reviewer.get("lead/disagreements").json()["items"]
    assert item["adjudicated"] is True
    assert item["share"] == pytest.approx(2 / 3)
    assert reviewer.post("lead/adjudications/zzz", json={"value": {"choice": "a"}}).status_code == 404


def test_gold_is_asked_unseen_and_counted(tmp_path: Path) -> None:
    with running(make_study(tmp_path / "s"), StudioSettings(gold_rate=0.25, undo_s=0.05)) as here:
        queries = ask(here.studio, "comparison", 30)
        lead, other, judge = here.person("lead"), here.person("annotator", "first"), here.person("annotator")
        for query in queries[:6]:
            assert lead.post(f"lead/gold/{query.id}", json={"value": {"choice": "a"}}).status_code == 204
        assert lead.post("lead/gold/zzz", json={"value": {"choice": "a"}}).status_code == 400
        for _ in range(12):
            vote(other, "answer 0")
        for _ in range(12):
            (item,) = judge.claim()
            assert "gold" not in json.dumps(item)
            judge.submit(item["assignment"], {"choice": "1"})
        with here.studio.database.read() as connection:
            asked = sa.select(schema.assignments.c.query_id).where(
                schema.assignments.c.teacher_id == here.pseudonym("the annotator")
            )
            known = connection.execute(
                asked.where(schema.assignments.c.query_id.in_([q.id for q in queries[:6]]))
            ).all()
        assert known
        assert lead.post(f"lead/gold/{queries[0].id}", json={"value": None}).status_code == 204


def test_the_quality_report(here: Running) -> None:
    ask(here.studio, "comparison", 40)
    lead = here.person("lead")
    for name in ("one", "two"):
        judge = here.person("annotator", name)
        for number in range(40):
            vote(judge, "answer 0" if number % 4 else "answer 1")
    assert lead.get("lead/quality").status_code in (200, 202)
    found = until(lambda: (a := lead.get("lead/quality")).status_code == 200 and a.json(), 60)
    assert found["alpha"]["comparison"]["n"] == 40
    assert found["alpha"]["comparison"]["value"] == pytest.approx(1.0)  # both followed the same rule
    pseudonyms = {here.pseudonym("one"), here.pseudonym("two")}
    assert {row["id"] for row in found["fit"]["annotators"]} == pseudonyms
    assert set(found["heat"]["people"]) == pseudonyms
    assert found["heat"]["values"][0][1] == 1.0
    assert lead.get("lead/cost").json()["effective_votes"] is not None
    plan = lead.get("lead/planner", params={"difference": 0.1, "power": 0.8}).json()
    assert 150 < plan["labels"] < 250  # 194 by the normal approximation
    for difference, skill in ((0.7, 1), (0, 1), (1e-300, 1), (0.1, 1e-300), (0.1, 11)):
        assert lead.get("lead/planner", params={"difference": difference, "skill": skill}).status_code == 422
    assert lead.get("lead/planner", params={"difference": 0.001, "skill": 0.01}).status_code == 400


def test_what_stays_unsure_is_asked_further(tmp_path: Path) -> None:
    settings = StudioSettings(most_votes=3, undo_s=0.05)
    with running(make_study(tmp_path / "s", votes=2), settings) as here:
        queries = ask(here.studio, "comparison", 30)
        disputed = {query.id for query in queries[:5]}
        one, two = here.person("annotator", "one"), here.person("annotator", "two")
        for judge in (one, two):
            for _ in range(30):
                (item,) = judge.claim()
                query = here.studio.assignments.find(
                    item["assignment"], here.pseudonym("one" if judge is one else "two")
                ).query
                better = "answer 1" if judge is two and query.id in disputed else "answer 0"
                key = next(c["key"] for c in item["candidates"] if c["text"].startswith(better))
                assert judge.submit(item["assignment"], {"choice": key}).status_code == 200
        table = schema.query_state

        def wanted() -> set[str]:
            with here.studio.database.read() as connection:
                return set(connection.execute(sa.select(table.c.query_id).where(table.c.wanted == 3)).scalars())

        assert until(lambda: wanted() >= disputed, 40)
        assert len(wanted()) < 30
        assert here.person("annotator", "three").claim()[0]["kind"] == "comparison"
        assert "wanted" not in here.person("lead").get("lead/quality").json()


class Receiver(ThreadingHTTPServer):
    """Another program that is told things."""

    def __init__(self) -> None:
        self.got: list[tuple[str, bytes]] = []
        self.status = 200
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.got.append((self.headers["X-Tropism-Signature"], body))
                self.send_response(receiver.status)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hook"

    def said(self, event: str) -> list[Any]:
        return [said["data"] for _, body in list(self.got) if (said := json.loads(body))["event"] == event]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.shutdown()
    made.server_close()


def test_an_empty_queue_is_told_also_where_it_was_counted_before_the_webhook_was_made(
    here: Running, receiver: Receiver
) -> None:
    ask(here.studio, "comparison")
    vote(here.person("annotator", "one"), "answer 0")
    here.person("admin").post("webhooks", json={"url": receiver.url, "events": ["queue"]})
    until(lambda: receiver.said("ping"))
    assert not receiver.said("queue")
    vote(here.person("annotator", "two"), "answer 0")
    until(lambda: receiver.said("queue"))


def test_other_programs_are_told_signed_in_order_and_again(here: Running, receiver: Receiver) -> None:
    ask(here.studio, "comparison", 2)
    admin = here.person("admin")
    hook = admin.post("webhooks", json={"url": receiver.url, "events": ["feedback", "queue"]}).json()
    until(lambda: receiver.said("ping"))
    assert hook["secret"] not in admin.get("webhooks").text
    judges = [here.person("annotator", name) for name in ("one", "two")]
    vote(judges[0], "answer 0")
    until(lambda: receiver.said("feedback"))
    receiver.status = 500
    vote(judges[0], "answer 0")
    until(lambda: len(receiver.said("feedback")) == 2)
    receiver.status = 200
    vote(judges[1], "answer 0")
    vote(judges[1], "answer 0")
    time.sleep(1.5)
    assert len(receiver.said("feedback")) == 2  # what failed comes first, and not before its time
    items = admin.get(f"webhooks/{hook['id']}/deliveries").json()["items"]
    failed = [row for row in items if row["error"]]
    assert [(row["error"], row["attempts"]) for row in failed] == [("status 500", 1)]
    with here.studio.database.write() as connection:  # as if its ten seconds had passed
        table = schema.deliveries
        connection.execute(sa.update(table).where(table.c.next_at.is_not(None)).values(next_at=0.0))
    until(lambda: receiver.said("queue"))
    told = [event["seq"] for data in receiver.said("feedback") for event in data["events"]]
    assert sorted(set(told)) == [event.seq for event in events(here.studio)]
    assert told == sorted(told)
    for header, body in receiver.got:
        assert webhook_is_genuine(hook["secret"], header, body)
        assert not webhook_is_genuine(hook["secret"], header, body + b" ")
        assert not webhook_is_genuine("another", header, body)
        assert not webhook_is_genuine(hook["secret"], header.replace("t=", "t=1"), body)
    assert admin.delete(f"webhooks/{hook['id']}").status_code == 204
    for url in ("ftp://x.example/y", "https://user:word@x.example", "nothing at all", "http://[::1"):
        assert admin.post("webhooks", json={"url": url, "events": ["stage"]}).status_code == 400


def test_figures_for_prometheus(here: Running) -> None:
    ask(here.studio, "comparison", 2)
    vote(here.person("annotator"), "answer 0")
    text = here.person("lead").get(f"{here.base}/metrics").text
    assert 'tropism_submits_total{kind="comparison"} 1.0' in text
    assert 'tropism_queue{what="votes"} 1.0' in text
    assert "tropism_request_seconds_bucket" in text
    assert here.nobody().get(f"{here.base}/healthz").json() == {"ok": True}


def test_a_report_that_cannot_be_made_says_why_and_is_tried_again_after_a_rest(tmp_path: Path) -> None:
    assessor = Assessor(tmp_path / "nothing.db")
    try:
        assert assessor.newest(1) == (None, True)
        until = time.monotonic() + 60
        while assessor.newest(1)[1] and time.monotonic() < until:
            time.sleep(0.1)
        problem = assessor.problem()
        assert problem is not None
        assert "nothing.db does not exist" in problem["message"]
        assert problem["fix"]
        assert assessor.newest(2) == (None, False)  # not at once
    finally:
        assessor.close()
