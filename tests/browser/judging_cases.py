"""What judging in a browser needs: which item is on the screen, how each kind is answered, what the store then has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import sqlalchemy as sa
from browser_cases import GOOD, QUESTIONS, WORSE, Opened

from tropism.feedback.values import slot_names
from tropism.store import schema

GRADES: Mapping[str, tuple[str, int]] = {
    "1": ("1", 3), "2": ("1", 2), "3": ("1", 1), "4": ("tie", 0), "q": ("2", 1), "w": ("2", 2), "e": ("2", 3),
    "r": ("both_bad", 0), "5": ("cannot_judge", 0),
}  # fmt: skip
"""What each key of a comparison in seven grades says: a choice, in places on the screen, and its strength."""
ASPECTS = [{"name": "helpful", "scale": [1, 5]}, {"name": "honest", "scale": [1, 5]}]


def item_on(page: Any) -> str | None:
    return page.get_attribute(".judge", "data-item")


def wait_for_other(page: Any, before: str | None) -> None:
    """Wait until another item, or that there is none, is on the screen."""
    page.wait_for_selector(f".judge:not([data-item='{before}'])")


def settle(studio: Opened, count: int, page: Any) -> list[Any]:
    """All events, once there are ``count``."""
    for _ in range(100):
        found = list(studio.events())
        if len(found) >= count:
            return found
        page.wait_for_timeout(50)
    pytest.fail(f"{len(found)} events of {count} after 5 s")


def texts_by_slot(studio: Opened, query_id: str) -> dict[str, str]:
    with studio.studio.database.read() as connection:
        query = connection.execute(sa.select(schema.queries.c.kind).where(schema.queries.c.id == query_id)).scalar_one()
        slots, made = schema.query_slots, schema.candidates
        rows = connection.execute(
            sa.select(made.c.content)
            .select_from(slots.join(made, made.c.id == slots.c.candidate_id))
            .where(slots.c.query_id == query_id)
            .order_by(slots.c.slot)
        ).all()
    return dict(zip(slot_names(query, len(rows)), (row.content["text"] for row in rows), strict=True))


def shown_texts(page: Any) -> list[str]:
    """The texts of the candidates on the screen, from the first place on."""
    return [part.inner_text() for part in page.query_selector_all(".candidate .prose")]


def ask_every_other_kind(studio: Opened) -> None:
    """A question of each kind but comparisons."""
    studio.ask("ranking", [GOOD, WORSE, "third", "fourth"], QUESTIONS[0])
    studio.ask("best_of", [GOOD, WORSE, "third"], QUESTIONS[1])
    studio.ask("rating", [GOOD], QUESTIONS[2], form={"aspects": ASPECTS})
    studio.ask("label", [WORSE], QUESTIONS[3], form={"labels": ["safe", "polite"]})
    studio.ask("correction", ["The sky is green."], "Colour?")
    studio.ask("critique", ["Grass is 🌱 green, and so is the sea."], "Colours?")
    studio.ask("demonstration", [], "Write a haiku.")
    studio.ask("approval", [GOOD], "Good?")


def press(page: Any, keys: Sequence[str]) -> None:
    for key in keys:
        page.keyboard.press(key)


def rank(page: Any) -> None:
    """3 first, then 1 and 4 tied, 2 left out."""
    item = item_on(page)
    assert page.is_disabled("button.primary"), "an untouched ranking cannot be sent"
    press(page, ["Space"])
    assert item_on(page) == item
    press(page, ["3", "1", "q", "4", "Space"])


def write(page: Any, text: str) -> None:
    page.fill("[data-answer]", text)
    press(page, ["Control+Enter"])


def criticise(page: Any) -> None:
    """A remark on the word "green", which follows a character of two UTF-16 units."""
    page.focus(".spanned")
    page.evaluate("document.querySelector('.spanned').setSelectionRange(12, 17)")
    page.wait_for_selector("text=About: “green”")
    write(page, "Not the sea.")


ANSWERS: Mapping[str, Callable[[Any], None]] = {
    "ranking": rank,
    "best_of": lambda page: press(page, ["2"]),
    "rating": lambda page: press(page, ["4", "2", "Space"]),
    "label": lambda page: press(page, ["1", "2", "Space"]),
    "correction": lambda page: write(page, "The sky is blue."),
    "critique": criticise,
    "demonstration": lambda page: write(page, "Rain on the window."),
    "approval": lambda page: press(page, ["1"]),
}
"""How each of those kinds is answered, on the questions of ``ask_every_other_kind``."""


def check_ranking(value: Mapping[str, Any], order: Sequence[int]) -> None:
    """A stored ranking is what ``rank`` pressed, in slots."""
    slot = [f"c{place + 1}" for place in order]
    assert value["rank"] == [[slot[2]], [slot[0], slot[3]]]
    assert value["unranked"] == [slot[1]]


def free_texts(studio: Opened) -> list[str]:
    with studio.studio.database.read() as connection:
        return sorted(connection.execute(sa.select(schema.event_texts.c.text)).scalars())
