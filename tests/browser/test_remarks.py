"""What goes along with an answer and what becomes of it: remarks, drafts, chats, refusals, late answers, no login."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from browser_cases import GOOD, PASSWORD, QUESTIONS, WORSE, Opened, make_study, opened

from tropism.feedback.records import Answer
from tropism.store import schema
from tropism.studio.settings import StudioSettings

Visit = Callable[..., Any]


def test_remarks_go_with_the_answer(studio: Opened, visit: Visit) -> None:
    studio.account("annotator", "mia")
    studio.ask("comparison", [GOOD, WORSE], QUESTIONS[0], form={"strengths": False})
    page = visit("mia", "judge")
    page.wait_for_selector("[data-item]")
    second = page.inner_text("[data-key='2'] .prose")
    page.keyboard.press("t")
    page.select_option("label:has-text('Which candidate') select", "2")
    page.fill("[data-remark]", "too vague")
    page.click("text=Add >> nth=0")
    page.select_option(".remarks select >> nth=0", "correction")
    page.fill("[data-remark]", "Take an umbrella.")
    page.click("button:text-is('Add')")
    page.wait_for_selector("text=2 remarks")
    page.reload()
    page.wait_for_selector("text=2 remarks")
    page.click("h1")  # out of the fields: keys are answers again
    page.keyboard.press("1")
    page.wait_for_selector("[data-empty]")
    for _ in range(100):
        events = studio.events()
        if events:
            break
        page.wait_for_timeout(50)
    by_kind = {event.kind: event for event in events}
    assert sorted(by_kind) == ["comparison", "correction", "critique"]
    (row,) = studio.assignments().values()
    slot = "ab"[row.shown_order[1]]
    assert by_kind["critique"].value["slot"] == slot
    assert second.split()[1] in (GOOD if slot == "a" else WORSE)
    with studio.studio.database.read() as connection:
        assert set(connection.execute(sa.select(schema.event_texts.c.text)).scalars()) == {
            "too vague",
            "Take an umbrella.",
        }
    assert page.watch.problems == []


def test_draft_of_a_ranking(studio: Opened, visit: Visit) -> None:
    studio.account("annotator", "mia")
    studio.ask("ranking", ["one", "two", "three"], "Which?")
    page = visit("mia", "judge")
    page.wait_for_selector("[data-item]")
    for key in "31":
        page.keyboard.press(key)
    page.reload()
    page.wait_for_selector(".order .group:not(.aside) >> nth=1")
    page.keyboard.press("Space")
    page.wait_for_selector("[data-empty]")
    (event,) = studio.events()
    (row,) = studio.assignments().values()
    slots = [f"c{place + 1}" for place in row.shown_order]
    assert event.value["rank"] == [[slots[2]], [slots[0]]]
    assert event.value["unranked"] == [slots[1]]


def test_a_long_chat(studio: Opened, visit: Visit) -> None:
    studio.account("annotator", "mia")
    messages = [{"role": "user" if i % 2 == 0 else "assistant", "content": f"message {i}"} for i in range(7)]
    studio.ask("approval", ["answer"], "message 6", messages=messages)
    page = visit("mia", "judge")
    page.wait_for_selector("text=4 earlier messages")
    assert page.is_visible("text=message 6")
    assert not page.is_visible("text=message 1")
    page.click("summary")
    assert page.is_visible("text=message 1")


def test_solo_needs_no_login(tmp_path: Path, chromium: Any) -> None:
    with opened(make_study(tmp_path / "s"), StudioSettings(solo=True)) as studio:
        studio.ask("approval", [GOOD], "Good?")
        page = chromium.new_page()
        page.goto(studio.base)
        page.wait_for_selector("[data-item]")
        page.keyboard.press("1")
        page.wait_for_selector("[data-empty]")
        page.wait_for_timeout(300)
        page.close()
        assert [event.value["approved"] for event in studio.events()] == [True]


def test_a_refused_answer_comes_back_to_be_mended(studio: Opened, visit: Visit) -> None:
    studio.account("annotator", "mia")
    studio.ask("demonstration", [], "Write a haiku.")
    page = visit("mia", "judge")
    refusal = '{"error": {"code": "bad_value", "message": "too short", "fix": "Write more."}}'
    page.context.route(
        "**/submit", lambda route: route.fulfill(status=400, content_type="application/json", body=refusal), times=1
    )
    page.fill("[data-answer]", "Rain")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("[data-banner=refused] >> text=too short Write more.")
    page.click("[data-banner=refused] button")
    page.wait_for_selector("[data-answer]")
    assert page.input_value("[data-answer]") == "Rain", "nothing that was written is lost"
    page.fill("[data-answer]", "Rain on the window.")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("[data-empty]")
    page.wait_for_selector("[data-banner=refused]", state="detached")
    assert len(studio.events()) == 1


def test_a_late_answer_is_kept(tmp_path: Path, chromium: Any) -> None:
    """The claim ran out and somebody else has answered: the first person's answer is kept, and said to be late."""
    with opened(make_study(tmp_path / "s"), StudioSettings(lease_s=1.0)) as studio:
        studio.account("annotator", "mia")
        studio.account("annotator", "noah")
        studio.ask("approval", [GOOD], "Good?")
        page = chromium.new_page(locale="en-GB")
        page.goto(studio.base)
        page.fill("input[autocomplete=username]", "mia")
        page.fill("input[type=password]", PASSWORD)
        page.keyboard.press("Enter")
        page.wait_for_selector("[data-item]")
        table = schema.accounts
        with studio.studio.database.read() as connection:
            noah = connection.execute(sa.select(table.c.pseudonym).where(table.c.name == "noah")).scalar_one()
        for _ in range(100):
            claimed, _ = studio.studio.queue.claim(noah, 1)
            if claimed:
                break
            page.wait_for_timeout(100)
        answer = Answer({"kind": "approval", "approved": False}, None, 900)
        studio.studio.queue.submit(claimed[0].assignment_id, noah, str(uuid.uuid4()), [answer])
        page.keyboard.press("1")
        page.wait_for_selector("[data-said] >> text=kept and marked as late")
        page.close()
        assert sorted(event.value["approved"] for event in studio.events()) == [False, True]
