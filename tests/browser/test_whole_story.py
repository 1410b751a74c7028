"""A day of an annotator, from signing in to the empty queue, in one browser; then the store is read.

Pairs by keyboard alone, an undo, a lost connection, a ranking, ratings, a correction, a critique, a demonstration, two
reloads in mid-draft, two clips of a half-cheetah: every answer is in the log exactly once, in canonical slots, beside
the order in which it was shown.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from browser_cases import GOOD, PASSWORD, QUESTIONS, WORSE, Opened
from judging_cases import (
    ANSWERS,
    ASPECTS,
    GRADES,
    check_ranking,
    free_texts,
    item_on,
    press,
    settle,
    shown_texts,
    texts_by_slot,
    wait_for_other,
)

from tropism.feedback.chain import verify
from tropism.feedback.projection import read_candidates
from tropism.store import schema

Visit = Callable[..., Any]
PAIRS = 20
KEYS = ("1", "e", "4", "2", "w", "r", "3", "q", "5", "1", "e", "w", "4", "2", "3", "q", "r", "5", "e", "1")
"""One for each pair: every grade, every way of not choosing."""
UNDONE, LOST = 5, range(8, 11)
"""The pair whose answer is taken back, and those that are answered without a connection."""
DIGEST = """async (address) => {
  const bytes = await (await fetch(address)).arrayBuffer();
  return [...new Uint8Array(await crypto.subtle.digest('SHA-256', bytes))].map((b) => b.toString(16).padStart(2, '0')).join('');
}"""  # noqa: E501


@dataclass
class Day:
    """What the annotator saw and meant, by item."""

    page: Any
    studio: Opened
    shown: dict[str, list[str]] = field(default_factory=dict)
    meant: dict[str, str] = field(default_factory=dict)
    stills: list[str] = field(default_factory=list)

    def compare(self, key: str) -> str:
        """Answer the pair on the screen; returns its item."""
        self.page.wait_for_selector(".judge[data-kind=comparison]")
        item = str(item_on(self.page))
        self.shown[item], self.meant[item] = shown_texts(self.page), key
        press(self.page, [key])
        wait_for_other(self.page, item)
        return item


def ask_for_a_day(studio: Opened) -> None:
    """Twenty pairs, then five other kinds, then two clips."""
    pairs = [studio.ask("comparison", [f"first {i}", f"second {i}"], f"Question {i}?") for i in range(PAIRS)]
    studio.ask("ranking", [GOOD, WORSE, "third", "fourth"], QUESTIONS[0])
    studio.ask("rating", [GOOD], QUESTIONS[2], form={"aspects": ASPECTS})
    studio.ask("correction", ["The sky is green."], "Colour?")
    studio.ask("critique", ["Grass is 🌱 green, and so is the sea."], "Colours?")
    studio.ask("demonstration", [], "Write a haiku.")
    clips = studio.ask_clips("comparison", "HalfCheetah-v5", "Run forward, fast and steadily.", length=20)
    studio.studio.queue.want([query.id for query in pairs], 1, priority=-1)
    studio.studio.queue.want([clips.id], 1, priority=1)


def sign_in(page: Any, name: str) -> None:
    """By keyboard: the page puts the caret where the name goes."""
    page.focus("input[autocomplete=username]")
    page.keyboard.type(name)
    press(page, ["Tab"])
    page.keyboard.type(PASSWORD)
    press(page, ["Enter"])
    page.wait_for_selector("nav")


def judge_pairs(day: Day) -> None:
    page = day.page
    for number, key in enumerate(KEYS):
        if number == LOST.start:
            page.wait_for_timeout(500)  # the three items behind this one are there
            page.context.set_offline(True)
        first = day.compare(key)
        if number == UNDONE:
            settle(day.studio, number + 1, page)
            second = item_on(page)
            press(page, ["a"])
            wait_for_other(page, second)
            assert shown_texts(page) == day.shown.pop(first), "the same question, as it was shown"
            assert day.meant.pop(first) == key
            day.compare("1")
        if number == LOST.stop - 1:
            page.wait_for_selector("[data-banner=offline]")
            assert "3 answers are kept" in page.inner_text("[data-banner=offline]")
            page.context.set_offline(False)
            page.wait_for_selector("[data-banner=offline]", state="detached")


def write_through_a_reload(page: Any, text: str) -> None:
    """Half of it, a reload when the studio has the draft (and the browser has lost its own), then the rest."""
    half = len(text) // 2
    with page.expect_response("**/draft"):
        page.fill("[data-answer]", text[:half])
    page.evaluate("localStorage.clear()")
    page.evaluate("sessionStorage.clear()")
    page.reload()
    page.wait_for_selector("[data-answer]")
    assert page.input_value("[data-answer]") == text[:half]
    page.focus("[data-answer]")
    press(page, ["End"])
    page.keyboard.type(text[half:])
    press(page, ["Control+Enter"])


def answer_others(day: Day) -> None:
    page = day.page
    for _ in range(5):
        page.wait_for_selector(".judge:not([data-kind=comparison])[data-item]")
        item, kind = item_on(page), page.get_attribute(".judge", "data-kind")
        if kind == "correction":
            write_through_a_reload(page, "The sky is blue.")
        elif kind == "demonstration":
            write_through_a_reload(page, "Rain on the window.")
        else:
            ANSWERS[kind](page)
        wait_for_other(page, item)


def compare_clips(day: Day) -> None:
    page = day.page
    page.wait_for_selector(".player button:first-child:not([disabled])", timeout=120_000)
    day.stills = [page.evaluate(DIGEST, video.get_attribute("poster")) for video in page.query_selector_all("video")]
    press(page, ["x", "x", "q"])
    page.wait_for_selector("[data-empty]")


def check_pairs(day: Day, rows: Mapping[str, Any], events: Mapping[str, Any]) -> None:
    for item, shown in day.shown.items():
        row = rows[item]
        texts, value = texts_by_slot(day.studio, row.query_id), events[row.event_ids[0]].value
        assert [texts["ab"[slot]] for slot in row.shown_order] == shown, "the order shown is stored as it was shown"
        choice, strength = GRADES[day.meant[item]]
        slot = "ab"[row.shown_order[int(choice) - 1]] if choice in "12" else choice
        assert (value["choice"], value["strength"]) == (slot, strength)


def check_clips(day: Day, row: Any, event: Any) -> None:
    """The picture at each place is of the segment of that slot, and the second place won."""
    with day.studio.studio.database.read() as connection:
        slots = schema.query_slots
        ids = sa.select(slots.c.candidate_id).where(slots.c.query_id == row.query_id).order_by(slots.c.slot)
        held = list(connection.execute(ids).scalars())
        content = {id_: candidate.content for id_, candidate in read_candidates(connection, held).items()}
    files = [
        day.studio.studio.clips.file((content[held[slot]]["artifact"], content[held[slot]]["row"]), "still.png")
        for slot in row.shown_order
    ]
    assert [hashlib.sha256(file.read_bytes()).hexdigest() for file in files] == day.stills
    assert event.value == {"kind": "comparison", "choice": "ab"[row.shown_order[1]], "strength": 1}


def check_others(day: Day, rows: Sequence[Any], events: Mapping[str, Any]) -> None:
    found = {events[id_].kind: (row, events[id_]) for row in rows for id_ in row.event_ids}
    row, ranking = found["ranking"]
    check_ranking(ranking.value, row.shown_order)
    (rated,) = [row for row in rows if events[row.event_ids[0]].kind == "rating"]
    assert {events[i].value["aspect"]: events[i].value["score"] for i in rated.event_ids} == {"helpful": 4, "honest": 2}
    assert found["critique"][1].value["span"] == [11, 16]
    assert found["correction"][1].value["slot"] == found["critique"][1].value["slot"] == "c1"
    assert free_texts(day.studio) == ["Not the sea.", "Rain on the window.", "The sky is blue."]


def test_a_day_of_an_annotator(studio: Opened, visit: Visit) -> None:
    studio.account("annotator", "mia")
    ask_for_a_day(studio)
    page = visit(None)
    sign_in(page, "mia")
    day = Day(page, studio)
    judge_pairs(day)
    answer_others(day)
    compare_clips(day)
    given = {"comparison": PAIRS + 2, "retraction": 1, "ranking": 1, "rating": 2}
    given |= dict.fromkeys(("correction", "critique", "demonstration"), 1)
    events = {event.id: event for event in settle(studio, sum(given.values()), page)}
    page.wait_for_timeout(1500)  # whatever might come twice would have come
    assert Counter(event.kind for event in studio.events()) == given
    with studio.studio.database.read() as connection:
        everything = connection.execute(sa.select(schema.assignments)).all()
    rows = {row.id: row for row in everything if row.status == "submitted"}
    assert Counter(row.status for row in everything) == {"submitted": PAIRS + 6, "undone": 1}
    assert len({row.query_id for row in rows.values()}) == PAIRS + 6, "each question once"
    stored = [id_ for row in rows.values() for id_ in row.event_ids]
    assert len(set(stored)) == len(stored) == len(events) - 2, "all but the vote that was undone and its retraction"
    assert len(day.shown) == PAIRS
    check_pairs(day, rows, events)
    others = [row for row in rows.values() if row.id not in day.shown]
    (clips,) = [row for row in others if events[row.event_ids[0]].kind == "comparison"]
    check_clips(day, clips, events[clips.event_ids[0]])
    check_others(day, [row for row in others if row is not clips], events)
    assert len(studio.studio.log.judgements()) == len(stored)
    assert verify(studio.studio.database).ok
    assert [problem for problem in page.watch.problems if "ERR_INTERNET_DISCONNECTED" not in problem] == []
