"""The way in, in a real browser: setup by the one-time link, invitation, sessions that end, settings that stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from browser_cases import PASSWORD, Opened

from tropism.studio import accounts

Visit = Callable[..., Any]


def fill(page: Any, name: str, password: str = PASSWORD) -> None:
    page.fill("input[autocomplete=username]", name)
    page.fill("input[type=password]", password)
    page.keyboard.press("Enter")


def test_setup_invitation_and_sign_in(studio: Opened, visit: Visit) -> None:
    token, _ = accounts.invite(studio.studio.database, "admin", None, 600)
    page = visit(None, f"setup/{token}")
    page.wait_for_selector("text=First administrator")
    fill(page, "ada")
    page.wait_for_selector("nav >> text=Admin")
    page.goto(f"{studio.base}/#/lead/people")
    page.select_option("label:has-text('Role') select", "annotator")
    page.click("text=Make a link")
    link = page.input_value("input.mono")
    assert link.startswith(f"{studio.base}/#/invitation/")
    guest = visit(None, link.split("#/")[1])
    guest.wait_for_selector("text=You are invited as annotator.")
    fill(guest, "mia")
    guest.wait_for_selector("[data-empty=nothing_asked]")
    assert guest.query_selector("nav >> text=Admin") is None
    again = visit(None, link.split("#/")[1])
    again.wait_for_selector("[role=alert]")
    wrong = visit(None)
    fill(wrong, "mia", "not the password")
    wrong.wait_for_selector("[role=alert]")
    fill(wrong, "mia")
    wrong.wait_for_selector("[data-empty]")


def test_a_session_that_ends_loses_no_answer(studio: Opened, visit: Visit) -> None:
    studio.account("annotator", "mia")
    for i in range(2):
        studio.ask("comparison", [f"one {i}", f"two {i}"], f"Question {i}?", form={"strengths": False})
    page = visit("mia", "judge")
    page.wait_for_selector("[data-item]")
    page.context.clear_cookies()
    page.keyboard.press("1")
    page.wait_for_selector("text=1 answer is waiting in this browser")
    assert len(studio.events()) == 0
    fill(page, "mia")
    page.wait_for_selector("[data-item]")
    page.wait_for_timeout(500)
    assert len(studio.events()) == 1


def test_another_person_does_not_send_them(studio: Opened, visit: Visit) -> None:
    studio.account("annotator", "mia")
    studio.account("annotator", "noah")
    studio.ask("comparison", ["one", "two"], "Which?", form={"strengths": False})
    page = visit("mia", "judge")
    page.wait_for_selector("[data-item]")
    page.context.clear_cookies()
    page.keyboard.press("1")
    page.wait_for_selector("text=1 answer is waiting in this browser")
    fill(page, "noah")
    page.wait_for_selector("[data-empty], [data-item]")
    page.wait_for_timeout(500)
    assert len(studio.events()) == 0


def test_settings_stay(studio: Opened, visit: Visit) -> None:
    studio.account("annotator", "mia")
    page = visit("mia", "account")
    page.select_option(".panel select >> nth=0", "zh")
    page.wait_for_selector("h1 >> text=账号")
    page.select_option(".panel select >> nth=1", "dark")
    page.wait_for_timeout(300)
    other = visit("mia", "account")
    other.wait_for_selector("h1 >> text=账号")
    assert other.get_attribute("html", "lang") == "zh-Hans"
    assert other.get_attribute("html", "data-theme") == "dark"


def test_the_next_person_at_a_desk_finds_it_empty(studio: Opened, visit: Visit) -> None:
    studio.account("annotator", "mia")
    studio.account("annotator", "noah")
    studio.ask("demonstration", [], "Write a haiku.")
    page = visit("mia", "judge")
    page.fill("[data-answer]", "Rain on the")
    page.wait_for_timeout(1000)  # the draft is at the studio
    page.goto(f"{studio.base}/#/account")
    page.click("text=Sign out")
    page.wait_for_selector("input[autocomplete=username]")
    # another request may find out that nobody is signed in a moment before signing out has ended
    page.wait_for_function("!JSON.stringify([localStorage, sessionStorage]).includes('Rain')", timeout=5000)
    page.wait_for_timeout(700)  # longer than a draft waits before it is kept: nothing comes after
    assert "Rain" not in page.evaluate("JSON.stringify([localStorage, sessionStorage])")
    page.goto(f"{studio.base}/#/judge")
    fill(page, "noah")
    page.wait_for_selector("[data-empty=all_claimed]")
    page.goto(f"{studio.base}/#/account")
    page.click("text=Sign out")
    page.goto(f"{studio.base}/#/judge")
    fill(page, "mia")
    page.wait_for_selector("[data-answer]")
    assert page.input_value("[data-answer]") == "Rain on the"
