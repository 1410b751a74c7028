"""Pages of leads, engineers and administrators, each end to end: what is done on the page is done in the study."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from browser_cases import GOOD, QUESTIONS, WORSE, Opened

from tropism.feedback.records import Answer, Query
from tropism.store import lineage, schema
from tropism.store.metrics import MetricStore

Visit = Callable[..., Any]


def vote(studio: Opened, name: str, choice: str) -> None:
    """Have somebody judge the next question in canonical slots."""
    accounts = schema.accounts
    with studio.studio.database.read() as connection:
        teacher = connection.execute(sa.select(accounts.c.pseudonym).where(accounts.c.name == name)).scalar_one()
    ((claimed,), _) = studio.studio.queue.claim(teacher, 1)
    answer = Answer({"kind": "comparison", "choice": choice, "strength": 1}, None, 4000)
    studio.studio.queue.submit(claimed.assignment_id, teacher, str(uuid.uuid4()), [answer])


def split_vote(studio: Opened) -> Query:
    """A question on which two people do not agree."""
    query = studio.ask("comparison", [GOOD, WORSE], QUESTIONS[0])
    studio.studio.queue.counts()
    studio.studio.queue.want([query.id], 2)
    for name, choice in (("mia", "a"), ("noah", "b")):
        studio.account("annotator", name)
        vote(studio, name, choice)
    return query


def test_adjudication(studio: Opened, visit: Visit) -> None:
    query = split_vote(studio)
    studio.account("lead", "lena")
    page = visit("lena", "lead/disagreements")
    page.wait_for_selector("text=largest group: 50%")
    page.fill("label:has-text('Reason') input", "the second forgets the showers")
    page.click("[aria-label=Decide] button >> nth=0")
    page.wait_for_selector("text=Adjudicated.")
    last = studio.events()[-1]
    assert (last.query_id, last.value["choice"]) == (query.id, "a")
    page.wait_for_selector(".badge.good >> text=adjudicated")
    assert page.watch.problems == []


def test_guideline_reaches_annotators(studio: Opened, visit: Visit) -> None:
    studio.account("lead", "lena")
    studio.account("annotator", "mia")
    for i in range(6):
        studio.ask("comparison", [f"one {i}", f"two {i}"], f"Question {i}?", form={"strengths": False})
    page = visit("lena", "lead/guideline")
    page.fill("textarea", "# Judge by\n\n- **helpful** first\n<script>window.hacked = 1</script>")
    page.click("text=Preview")
    page.wait_for_selector("[aria-label=Preview] strong >> text=helpful")
    page.click("text=Publish as a new version")
    page.wait_for_selector("text=Version 1 is published.")
    reader = visit("mia", "judge")
    reader.wait_for_selector("text=The guideline has changed")
    reader.keyboard.press("g")
    reader.wait_for_selector("dialog strong >> text=helpful")
    reader.keyboard.press("1")  # a key pressed over a dialog answers nothing
    reader.keyboard.press("Escape")
    reader.wait_for_selector("text=The guideline has changed", state="detached")
    assert len(studio.events()) == 0
    assert page.evaluate("window.hacked === undefined")
    assert page.watch.problems + reader.watch.problems == []


def test_people_change_roles(studio: Opened, visit: Visit) -> None:
    studio.account("admin", "ada")
    studio.account("annotator", "mia")
    page = visit("ada", "lead/people")
    page.select_option("[aria-label='Role of mia']", "reviewer")
    page.wait_for_selector("text=mia is changed.")
    page.click("[aria-label='Disable mia']")
    page.wait_for_selector("[aria-label='Enable mia']")
    accounts = schema.accounts
    with studio.studio.database.read() as connection:
        row = connection.execute(sa.select(accounts).where(accounts.c.name == "mia")).one()
    assert (row.role, row.status) == ("reviewer", "disabled")


def test_quality_planner_cost_progress(studio: Opened, visit: Visit) -> None:
    split_vote(studio)
    studio.account("lead", "lena")
    page = visit("lena", "lead/progress")
    page.wait_for_selector("text=2 of 2 votes")
    page.goto(f"{studio.base}/#/lead/planner")
    page.click("text=Compute")
    page.wait_for_selector("dt:has-text('Votes in all')")
    page.goto(f"{studio.base}/#/lead/cost")
    page.wait_for_selector("dt:has-text('Seconds per vote') + dd >> text=4")
    page.goto(f"{studio.base}/#/lead/quality")
    page.wait_for_selector("h2:has-text('Agreement')", timeout=60_000)
    assert page.watch.problems == []


def test_curves_are_live(studio: Opened, visit: Visit) -> None:
    studio.account("viewer", "vera")
    stage = {"key": "k", "name": "improve-1", "round": 1, "status": "running", "seed": 0, "inputs": {}}
    with studio.studio.database.write() as connection:
        connection.execute(sa.insert(schema.stages).values(**stage))
    metrics = MetricStore(studio.studio.facts.folder / "metrics.db")
    for step in range(5):
        metrics.write("improve-1", step, {"ppo/reward_mean": step / 10, "time/step_s": 1.0})
    page = visit("vera", "runs/curves")
    figure = "figure[aria-label='ppo/reward_mean']"
    page.wait_for_selector(f"{figure} >> text=last 0.4")
    page.wait_for_selector(".badge >> text=Live")
    metrics.write("improve-1", 5, {"ppo/reward_mean": 0.75})
    page.wait_for_selector(f"{figure} >> text=last 0.75")
    page.click(f"{figure} summary")
    rows = page.locator(f"{figure} details tbody tr").all_inner_texts()
    assert [row.split() for row in rows] == [[str(i), str(v)] for i, v in enumerate((0, 0.1, 0.2, 0.3, 0.4, 0.75))]
    metrics.close()
    assert page.watch.problems == []


def test_from_a_vote_to_the_policy_and_back(studio: Opened, visit: Visit) -> None:
    studio.account("engineer", "egon")
    studio.account("annotator", "mia")
    studio.ask("comparison", [GOOD, WORSE], QUESTIONS[0])
    vote(studio, "mia", "a")
    (event,) = studio.events()
    frozen = studio.studio.log.freeze([event.id])
    with studio.studio.database.write() as connection:
        lineage.record_policy(connection, "p0", "0" * 64, 0, None, None, None, "reference", {})
        lineage.record_reward_model(connection, "8c3eb65a", "1" * 64, 1, frozen, {}, base_policy_id="p0")
        lineage.record_policy(connection, "p1", "2" * 64, 1, "p0", "p0", "8c3eb65a", "promoted", {})
    page = visit("egon", "runs/lineage")
    page.click("a[aria-label^='policy p1']")
    page.wait_for_selector("h3:has-text('1 vote')")
    assert "reward model 8c3eb65a" in page.inner_text("main")
    over = "[...document.querySelectorAll('svg .head')].map(x => x.getBBox().x + x.getBBox().width - "
    over += "x.parentNode.querySelector('rect').getBBox().x - x.parentNode.querySelector('rect').getBBox().width)"
    assert max(page.evaluate(over)) < 0  # every name within its box
    page.fill("label:has-text('Trace') input", event.id)
    page.click("button:has-text('Trace')")
    page.wait_for_selector("h2:has-text('vote')")
    assert page.locator("main li a").all_inner_texts() == ["reward model 8c3eb65a", "policy p1"]


def evaluated(studio: Opened, folder: Path, tasks: int) -> None:
    """Two policies with stored answers to the same test tasks, as an evaluation leaves them."""
    folder.mkdir()
    rows = [
        {
            "task_id": f"t{i}",
            "prompt": f"Question {i}?",
            "outputs": {"policy": {"text": f"new {i}"}, "reference": {"text": f"old {i}"}},
        }
        for i in range(tasks)
    ]
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    samples = studio.studio.artifacts.put(folder)
    stage = {"key": "k", "name": "evaluate-1", "round": 1, "status": "done", "seed": 0, "inputs": {}}
    with studio.studio.database.write() as connection:
        lineage.record_policy(connection, "p0", "0" * 64, 0, None, None, None, "reference", {})
        lineage.record_policy(connection, "p1", "2" * 64, 1, "p0", "p0", None, "promoted", {})
        lineage.record_evaluation(connection, "e1", "p1", 1, {})
        outputs = {"folders": {"samples": samples}, "values": {}}
        connection.execute(sa.insert(schema.stages).values(**stage, outputs=outputs))


def test_people_compare_two_policies_blindly(studio: Opened, visit: Visit, tmp_path: Path) -> None:
    studio.account("engineer", "egon")
    studio.account("annotator", "mia")
    evaluated(studio, tmp_path / "samples", 12)
    page = visit("egon", "runs/ab")
    page.wait_for_selector("option[value=p1]", state="attached")
    page.fill("label:has-text('Name') input", "new against old")
    page.select_option("label:has-text('Policy A') select", "p1")
    page.select_option("label:has-text('Policy B') select", "p0")
    page.fill("label:has-text('Votes wanted') input", "12")
    page.click("text=Start")
    page.wait_for_selector("text=The test has started")
    judge = visit("mia", "judge")
    for _ in range(12):
        judge.wait_for_selector("[data-item]")
        item = judge.get_attribute(".judge", "data-item")
        assert "p1" not in judge.content()
        judge.keyboard.press("1" if judge.inner_text("[data-key='1'] .prose").startswith("new") else "e")
        judge.wait_for_selector(f".judge:not([data-item='{item}'])")
    judge.wait_for_selector("[data-empty]")
    page.reload()
    page.wait_for_selector("dt:has-text('A wins') + dd >> text=12")
    page.wait_for_selector("text=Decided")
    assert page.watch.problems + judge.watch.problems == []


def test_tokens_and_webhooks(studio: Opened, visit: Visit) -> None:
    studio.account("admin", "ada")
    page = visit("ada", "admin/tokens")
    page.fill("label:has-text('Name') input", "nightly")
    page.click("text=Make a token")
    page.wait_for_selector("text=Your new token")
    assert len(page.input_value("input.mono")) > 20
    page.click("[aria-label='Revoke nightly']")
    page.wait_for_selector("td >> text=revoked")
    page.goto(f"{studio.base}/#/admin/webhooks")
    page.fill("input[type=url]", "https://example.org/hook")
    page.click("button.primary")
    page.wait_for_selector("text=shown once")
    page.goto(f"{studio.base}/#/admin/audit")
    page.wait_for_selector("td >> text=token.create")
    assert page.watch.problems == []
