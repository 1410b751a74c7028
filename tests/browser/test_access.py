"""What everybody must be able to use: axe's rules of WCAG 2.2 AA on every screen, in both themes and languages; keys
that can be switched off, names, live regions, narrow screens."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browser_cases import GOOD, QUESTIONS, WORSE, Opened

Visit = Callable[..., Any]
AXE = Path(__file__).resolve().parents[2] / "web" / "node_modules" / "axe-core" / "axe.min.js"
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
RUN = "(tags) => axe.run(document, {runOnly: {type: 'tag', values: tags}})"
LEAD = ["progress", "quality", "disagreements", "guideline", "people", "planner", "cost"]
RUNS = ["curves", "samples", "sides", "models", "ab", "lineage"]
ADMIN = ["tokens", "webhooks", "audit"]
PAGES = ["account", *(f"lead/{p}" for p in LEAD), *(f"runs/{p}" for p in RUNS), *(f"admin/{p}" for p in ADMIN)]


def violations(page: Any, where: str) -> list[str]:
    page.evaluate(AXE.read_text("utf-8"))  # through the debugger: the page's own policy would refuse it
    found = page.evaluate(RUN, TAGS)["violations"]
    return [f"{where}: {v['id']}: {n['html'][:120]} {n['failureSummary'][:200]}" for v in found for n in v["nodes"]]


@pytest.mark.parametrize(("scheme", "locale"), [("light", "en-GB"), ("dark", "zh-CN")])
def test_every_screen(studio: Opened, visit: Visit, scheme: str, locale: str) -> None:
    if not AXE.is_file():
        pytest.skip("needs axe-core (npm ci in web/)")
    studio.account("admin", "ada")
    studio.ask("comparison", [GOOD, WORSE], QUESTIONS[0])
    studio.ask("ranking", [GOOD, WORSE, "third"], QUESTIONS[1])
    studio.ask("rating", [GOOD], QUESTIONS[2])
    studio.ask("label", [GOOD], QUESTIONS[2], form={"labels": ["safe", "polite"]})
    studio.ask("correction", [WORSE], QUESTIONS[3])
    studio.ask("critique", [WORSE], QUESTIONS[3])
    page = visit(None, color_scheme=scheme, locale=locale)
    page.wait_for_selector("form")
    problems = violations(page, "sign in")
    page.fill("input[autocomplete=username]", "ada")
    page.fill("input[type=password]", "correct horse battery")
    page.keyboard.press("Enter")
    for _ in range(6):
        page.wait_for_selector("[data-item]")
        item, kind = page.get_attribute(".judge", "data-item"), page.get_attribute(".judge", "data-kind")
        if kind == "ranking":
            for key in "12":
                page.keyboard.press(key)
        page.keyboard.press("t")
        page.wait_for_timeout(50)
        problems += violations(page, kind)
        page.keyboard.press("s")
        page.wait_for_selector(f".judge:not([data-item='{item}'])")
    page.keyboard.press("g")
    page.wait_for_selector("dialog[open]")
    problems += violations(page, "guideline")
    page.keyboard.press("Escape")
    for path in PAGES:
        page.goto(f"{studio.base}/#/{path}")
        page.wait_for_selector("main h1")
        page.wait_for_timeout(150)
        problems += violations(page, path)
    assert not problems, "\n".join(problems)


def test_keys_can_be_switched_off(studio: Opened, visit: Visit) -> None:
    studio.account("annotator", "mia")
    studio.ask("comparison", [GOOD, WORSE], QUESTIONS[0])
    page = visit("mia", "account")
    with page.expect_response("**/account"):
        page.uncheck("input[type=checkbox]")
    page.goto(f"{studio.base}/#/judge")
    page.wait_for_selector("[data-item]")
    item = page.get_attribute(".judge", "data-item")
    for key in ("1", "s", "f", "Space"):
        page.keyboard.press(key)
    page.wait_for_timeout(200)
    assert page.get_attribute(".judge", "data-item") == item
    assert page.query_selector("kbd") is None, "no key is shown that does not work"
    page.focus(".answer >> nth=0")
    page.keyboard.press("Enter")
    page.wait_for_selector("[data-empty]")


def test_a_key_held_down_answers_once(studio: Opened, visit: Visit) -> None:
    studio.account("annotator", "mia")
    for i in range(3):
        studio.ask("comparison", [f"one {i}", f"two {i}"], f"Question {i}?")
    page = visit("mia", "judge")
    page.wait_for_selector("[data-item]")
    page.wait_for_timeout(300)
    for _ in range(5):
        page.keyboard.down("1")  # the second and later ones are repeats
    page.keyboard.up("1")
    page.wait_for_timeout(300)
    assert len(studio.events()) == 1


def test_ranking_by_buttons_and_by_drag(studio: Opened, visit: Visit) -> None:
    studio.account("annotator", "mia")
    studio.ask("ranking", ["one", "two", "three"], "Which?")
    page = visit("mia", "judge")
    page.wait_for_selector("[data-item]")
    page.click("[data-key='2'] button")
    page.click("[data-key='1'] button >> nth=0")
    order = ".order .group:not(.aside)"
    assert [re.sub(r"\D", "", group) for group in page.locator(order).all_inner_texts()] == ["12", "21"]
    page.click("button[aria-label='Move 1 up']")
    assert [re.sub(r"\D", "", group) for group in page.locator(order).all_inner_texts()] == ["11", "22"]
    page.drag_and_drop(".group.aside .chip", f"{order} >> nth=0")
    assert [re.sub(r"\D", "", group) for group in page.locator(order).all_inner_texts()] == ["113", "22"]
    page.click("button[aria-label='Give 3 a place of its own'], button[aria-label='Move 3 down']")
    assert [re.sub(r"\D", "", group) for group in page.locator(order).all_inner_texts()] == ["11", "23", "32"]
    page.click("button.primary")
    page.wait_for_selector("[data-empty]")
    (event,) = studio.events()
    (row,) = studio.assignments().values()
    slots = [f"c{place + 1}" for place in row.shown_order]
    assert event.value["rank"] == [[slots[0]], [slots[2]], [slots[1]]]


def test_outcomes_are_announced(studio: Opened, visit: Visit) -> None:
    studio.account("annotator", "mia")
    studio.ask("comparison", [GOOD, WORSE], QUESTIONS[0], form={"strengths": False})
    page = visit("mia", "judge")
    page.wait_for_selector("[data-item]")
    assert page.evaluate("document.activeElement.tagName") == "H1", "the focus begins at the question"
    page.keyboard.press("2")
    page.wait_for_selector("[data-said][role=status] >> text=Answered: 2 is better.")


@pytest.mark.parametrize("width", [320, 768, 1680])
def test_nothing_is_cut_off(studio: Opened, visit: Visit, width: int) -> None:
    """Reflow (WCAG 1.4.10): no sideways scrolling of the page down to 320 px."""
    studio.account("admin", "ada")
    studio.ask("comparison", [GOOD, "word" * 200], QUESTIONS[0])
    page = visit("ada", "judge", viewport={"width": width, "height": 900})
    page.wait_for_selector("[data-item]")
    for path in ("judge", "lead/people", "runs/ab", "admin/audit", "account"):
        page.goto(f"{studio.base}/#/{path}")
        page.wait_for_selector("main h1")
        page.wait_for_timeout(150)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
