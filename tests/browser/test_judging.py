"""Judging in a real browser, by keyboard: what is pressed is what is stored, once, in canonical slots."""

from __future__ import annotations

import json
import os
import statistics
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from browser_cases import Opened
from judging_cases import (
    ANSWERS,
    GRADES,
    ask_every_other_kind,
    check_ranking,
    free_texts,
    item_on,
    settle,
    texts_by_slot,
    wait_for_other,
)

from tropism.store import schema
from tropism.store.lease import TrainerLease

Visit = Callable[..., Any]
PAIRS = 20
TIMER = """
addEventListener('keydown', (event) => { window.pressed = performance.now(); }, true);
window.times = [];
document.addEventListener('DOMContentLoaded', () => {
  let shown = null;
  new MutationObserver(() => {
    const item = document.querySelector('[data-item]')?.dataset.item ?? null;
    if (item === null || item === shown) return;
    const first = shown === null;
    shown = item;
    const began = window.pressed;
    if (!first) requestAnimationFrame(() => setTimeout(() => window.times.push(performance.now() - began), 0));
  }).observe(document.body, { subtree: true, childList: true, attributes: true, attributeFilter: ['data-item'] });
});
"""


def test_twenty_pairs_by_keyboard(studio: Opened, visit: Visit) -> None:
    studio.account("annotator", "mia")
    for i in range(PAIRS):
        studio.ask("comparison", [f"first text {i}", f"second text {i}"], f"Question {i}?", form={"strengths": False})
    page = visit(None)
    page.context.add_init_script(TIMER)
    page.reload()
    page.fill("input[autocomplete=username]", "mia")
    page.fill("input[type=password]", "correct horse battery")
    page.keyboard.press("Enter")
    keys = "1234512345" * 2
    seen: dict[str, tuple[list[str], str]] = {}
    for key in keys:
        page.wait_for_selector("[data-item]")
        item = item_on(page)
        shown = [page.inner_text(f"[data-key='{place}'] .prose") for place in "12"]
        seen[str(item)] = (shown, key)
        page.keyboard.press(key)
        wait_for_other(page, item)
    page.wait_for_selector("[data-empty]")
    events = settle(studio, PAIRS, page)
    times = sorted(page.evaluate("window.times"))
    assert (len(events), len(times)) == (PAIRS, PAIRS - 1)
    assignments = {row.id: (query, row) for query, row in studio.assignments().items()}
    by_query = {event.query_id: event for event in events}
    for assignment, (shown, key) in seen.items():
        query, row = assignments[assignment]
        texts, choice = texts_by_slot(studio, query), by_query[query].value["choice"]
        assert [texts["ab"[slot]] for slot in row.shown_order] == shown, "the order shown is stored as it was shown"
        meant = {"1": shown[0], "2": shown[1], "3": "tie", "4": "both_bad", "5": "cannot_judge"}[key]
        assert texts.get(choice, choice) == meant
        assert row.status == "submitted"
        assert row.duration_ms > 0
    assert len({tuple(row.shown_order) for _, row in assignments.values()}) == 2, "the position is drawn anew each time"
    median, late = statistics.median(times), times[int(0.95 * len(times))]
    print(f"key press to next item: median {median:.1f} ms, p95 {late:.1f} ms")
    # of so few the 95th percentile is the slowest, and other tests run beside: TROPISM_TIMING is for an idle machine
    assert (late if os.environ.get("TROPISM_TIMING") else median) <= 100
    assert page.watch.problems == []


def test_seven_grades(studio: Opened, visit: Visit) -> None:
    studio.account("annotator", "mia")
    grades = {key: GRADES[key] for key in "1234qwe"}
    for i in range(len(grades)):
        studio.ask("comparison", [f"one {i}", f"two {i}"], f"Question {i}?")
    page = visit("mia", "judge")
    meant = {}
    for key, grade in grades.items():
        page.wait_for_selector("[data-item]")
        item = item_on(page)
        meant[str(item)] = grade
        page.keyboard.press(key)
        wait_for_other(page, item)
    by_query = {event.query_id: event.value for event in settle(studio, len(grades), page)}
    for query, row in studio.assignments().items():
        choice, strength = meant[row.id]
        slot = choice if choice == "tie" else "ab"[row.shown_order[int(choice) - 1]]
        assert (by_query[query]["choice"], by_query[query]["strength"]) == (slot, strength)


def test_every_other_kind(studio: Opened, visit: Visit) -> None:
    studio.account("annotator", "mia")
    ask_every_other_kind(studio)
    page = visit("mia", "judge")
    for _ in ANSWERS:
        page.wait_for_selector("[data-item]")
        item = item_on(page)
        ANSWERS[page.get_attribute(".judge", "data-kind")](page)
        wait_for_other(page, item)
    page.wait_for_selector("[data-empty=yours_are_done], [data-empty=done]")
    events = settle(studio, 10, page)
    orders = {query: row.shown_order for query, row in studio.assignments().items()}
    found = {event.kind: event for event in events}
    check_ranking(found["ranking"].value, orders[found["ranking"].query_id])
    assert found["best_of"].value["best"] == f"c{orders[found['best_of'].query_id][1] + 1}"
    ratings = {event.value["aspect"]: event.value["score"] for event in events if event.kind == "rating"}
    assert ratings == {"helpful": 4, "honest": 2}
    labels = {event.value["name"]: event.value["good"] for event in events if event.kind == "label"}
    assert labels == {"safe": True, "polite": False}
    assert found["critique"].value["span"] == [11, 16], "spans count characters, not UTF-16 units"
    assert found["approval"].value["approved"] is True
    assert free_texts(studio) == ["Not the sea.", "Rain on the window.", "The sky is blue."]
    assert page.watch.problems == []


def test_undo_and_skip(studio: Opened, visit: Visit) -> None:
    studio.account("annotator", "mia")
    for i in range(3):
        studio.ask("comparison", [f"one {i}", f"two {i}"], f"Question {i}?", form={"strengths": False})
    page = visit("mia", "judge")
    page.wait_for_selector("[data-item]")
    first, prompt = item_on(page), page.inner_text(".task")
    page.keyboard.press("1")
    wait_for_other(page, first)
    settle(studio, 1, page)
    second = item_on(page)
    page.keyboard.press("a")
    wait_for_other(page, second)
    assert page.inner_text(".task") == prompt, "the item that was answered is back"
    undone = item_on(page)
    page.keyboard.press("2")
    wait_for_other(page, undone)
    assert item_on(page) == second, "what was on the screen waited behind it"
    page.keyboard.press("s")
    wait_for_other(page, second)
    events = settle(studio, 3, page)
    assert [event.kind for event in events] == ["comparison", "retraction", "comparison"]
    assert [event.supersedes for event in events] == [None, events[0].id, events[1].id]
    for _ in range(100):
        status = sorted(row.status for row in studio.assignments().values())
        if "skipped" in status:
            break
        page.wait_for_timeout(50)
    assert status == ["open", "skipped", "submitted"]


def test_lost_connection(studio: Opened, visit: Visit) -> None:
    studio.account("annotator", "mia")
    for i in range(6):
        studio.ask("comparison", [f"one {i}", f"two {i}"], f"Question {i}?", form={"strengths": False})
    page = visit("mia", "judge")
    page.wait_for_selector("[data-item]")
    page.wait_for_timeout(300)  # the three items behind it are there
    page.context.set_offline(True)
    for _ in range(3):
        item = item_on(page)
        page.keyboard.press("1")
        wait_for_other(page, item)
    page.wait_for_selector("[data-banner=offline]")
    assert "3 answers are kept" in page.inner_text("[data-banner=offline]")
    assert len(studio.events()) == 0
    page.context.set_offline(False)  # the browser says so, and the outbox sends at once
    page.wait_for_selector("[data-banner=offline]", state="detached")
    assert len(settle(studio, 3, page)) == 3
    for _ in range(3):
        page.wait_for_selector("[data-item]")
        item = item_on(page)
        page.keyboard.press("2")
        wait_for_other(page, item)
    events = settle(studio, 6, page)
    assert len(events) == 6 == len({event.query_id for event in events})


def test_answer_outlives_a_reload_while_the_studio_is_away(studio: Opened, visit: Visit) -> None:
    studio.account("annotator", "mia")
    for i in range(2):
        studio.ask("comparison", [f"one {i}", f"two {i}"], f"Question {i}?", form={"strengths": False})
    page = visit("mia", "judge")
    page.wait_for_selector("[data-item]")
    item = item_on(page)
    submits = "**/api/v1/assignments/*/submit"
    page.context.route(submits, lambda route: route.abort())
    page.keyboard.press("1")
    wait_for_other(page, item)
    page.wait_for_selector("[data-banner=offline]")
    page.context.unroute(submits)
    page.reload()
    assert len(settle(studio, 1, page)) == 1, "sent after the reload, from the browser's storage"


def test_acknowledgement_lost(studio: Opened, visit: Visit) -> None:
    """The studio stored the answer, the browser never heard of it: sending it again stores nothing twice."""
    studio.account("annotator", "mia")
    for i in range(2):
        studio.ask("comparison", [f"one {i}", f"two {i}"], f"Question {i}?", form={"strengths": False})
    page = visit("mia", "judge")
    page.wait_for_selector("[data-item]")
    submits, lost = "**/api/v1/assignments/*/submit", []

    def lose(route: Any) -> None:
        route.fetch()
        lost.append(route.request.url)
        route.abort()

    page.context.route(submits, lose, times=1)
    item = item_on(page)
    page.keyboard.press("1")
    wait_for_other(page, item)
    page.wait_for_selector("[data-banner=offline]", state="attached")
    page.wait_for_selector("[data-banner=offline]", state="detached")
    assert len(lost) == 1
    assert len(settle(studio, 1, page)) == 1


@pytest.mark.parametrize("where", ["browser", "studio"])
def test_draft_survives_a_reload(studio: Opened, visit: Visit, where: str) -> None:
    studio.account("annotator", "mia")
    studio.ask("demonstration", [], "Write a haiku.")
    page = visit("mia", "judge")
    page.fill("[data-answer]", "Rain on the")
    if where == "studio":
        with page.expect_response("**/draft"):
            pass
        page.evaluate("localStorage.clear()")
        page.evaluate("sessionStorage.clear()")
    page.reload()
    page.wait_for_selector("[data-answer]")
    assert page.input_value("[data-answer]") == "Rain on the"
    page.focus("[data-answer]")
    page.keyboard.press("End")
    page.keyboard.type(" window.")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("[data-empty]")
    (event,) = settle(studio, 1, page)
    with studio.studio.database.read() as connection:
        text = connection.execute(
            sa.select(schema.event_texts.c.text).where(schema.event_texts.c.event_id == event.id)
        ).scalar_one()
    assert text == "Rain on the window."


def test_clips_share_one_clock(studio: Opened, visit: Visit) -> None:
    studio.account("annotator", "mia")
    studio.ask_clips("comparison", "CartPole-v1", "The pole stays upright.", length=10)
    page = visit("mia", "judge", reduced_motion="reduce")
    page.wait_for_selector(".player button:first-child:not([disabled])", timeout=60_000)
    times = "[...document.querySelectorAll('video')].map((video) => video.currentTime)"
    playing = "[...document.querySelectorAll('video')].map((video) => !video.paused)"
    assert page.evaluate(playing) == [False, False], "nothing moves by itself where motion is to be reduced"
    page.keyboard.press("x")
    page.keyboard.press("x")
    page.wait_for_timeout(150)
    first, second = page.evaluate(times)
    assert first == second > 0
    assert page.inner_text(".player output").startswith("Frame 3 of ")
    page.keyboard.press("z")
    page.wait_for_timeout(150)
    back = page.evaluate(times)
    assert back[0] == back[1] < first
    page.keyboard.press("c")
    page.keyboard.press("Space")
    page.wait_for_timeout(300)
    assert page.evaluate(playing) == [True, True]
    assert page.evaluate("[...document.querySelectorAll('video')].map((video) => video.playbackRate)") == [2, 2]
    first, second = page.evaluate(times)
    assert abs(first - second) < 0.08, "two pictures at most"
    page.keyboard.press("Space")
    page.keyboard.press("q")
    page.wait_for_selector("[data-empty]")
    assert len(settle(studio, 1, page)) == 1
    assert page.watch.problems == []


def test_clips_that_are_being_drawn_hold_up_no_answer(
    studio: Opened, visit: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A browser has six connections to a host; each clip that is waited for holds one."""
    studio.account("annotator", "mia")
    for i in range(4):
        studio.ask_clips("comparison", "CartPole-v1", f"The pole stays upright ({i}).", length=5)
    clips, drawn = studio.studio.clips, threading.Event()
    file = clips.file

    def slowly(place: tuple[str, int], name: str) -> Path:
        drawn.wait(60)
        return file(place, name)

    monkeypatch.setattr(clips, "file", slowly)
    try:
        page = visit("mia", "judge")
        for answered in (1, 2):
            page.wait_for_selector("[data-item]")
            item = item_on(page)
            page.wait_for_timeout(500)  # whatever is fetched ahead is under way
            page.keyboard.press("1")
            wait_for_other(page, item)
            assert len(settle(studio, answered, page)) == answered
    finally:
        drawn.set()
    page.wait_for_selector(".player button:first-child:not([disabled])", timeout=60_000)


def test_an_empty_queue_says_what_the_study_is_doing(studio: Opened, visit: Visit) -> None:
    studio.account("annotator", "mia")
    place = studio.studio.facts.folder / "scratch" / "status.json"
    at_work = {"stage": "improve-1", "activity": "PPO", "done": 12, "total": 30}
    place.write_text(json.dumps(at_work))
    with TrainerLease(studio.studio.database).acquire():
        page = visit("mia", "judge")
        page.wait_for_selector("[data-empty=nothing_asked]")
        page.wait_for_selector("[data-working] >> text=PPO 12/30")
    page.click("text=Look again")  # nobody runs it any more, whatever was written down last
    page.wait_for_selector("[data-working]", state="detached")
    assert page.watch.problems == []
