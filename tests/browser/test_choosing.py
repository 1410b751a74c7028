"""What a person chooses on the judging page: one kind of question only, an answer of one's own beside a vote; and what
the studio refuses, told in the language that was chosen."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from browser_cases import GOOD, QUESTIONS, WORSE, Opened

import tropism.studio

Visit = Callable[..., Any]
WEB = Path(__file__).resolve().parents[2] / "web" / "src"


def wait_for_events(page: Any, studio: Opened, count: int) -> list[Any]:
    for _ in range(200):
        if len(events := studio.events()) >= count:
            break
        page.wait_for_timeout(50)
    return list(events)


def test_one_kind_only(studio: Opened, visit: Visit) -> None:
    studio.account("annotator", "mia")
    studio.ask("comparison", [GOOD, WORSE], QUESTIONS[0], form={"strengths": False})
    for question in QUESTIONS[1:3]:
        studio.ask("label", [GOOD], question)
    studio.studio.queue.counts()
    page = visit("mia", "judge")
    page.select_option("[data-only]", "comparison")
    page.wait_for_selector("[data-kind=comparison]")
    assert page.locator("[data-only] option").all_inner_texts() == ["All kinds", "comparison", "label"]
    page.reload()
    page.wait_for_selector("[data-kind=comparison]")
    assert page.input_value("[data-only]") == "comparison"
    page.click("h1")
    page.keyboard.press("1")
    page.wait_for_selector("[data-empty=wrong_kind]")  # there are others, and they are not put on the screen
    assert [event.kind for event in wait_for_events(page, studio, 1)] == ["comparison"]
    page.select_option("[data-only]", "label")
    page.wait_for_selector("[data-kind=label]")
    page.select_option("[data-only]", "")
    page.wait_for_selector("[data-kind=label]")
    assert {row.status for row in studio.assignments().values()} <= {"submitted", "open", "expired"}
    assert page.watch.problems == []


def test_an_own_answer_beside_a_vote_and_a_correction_beside_a_thumb(studio: Opened, visit: Visit) -> None:
    studio.account("annotator", "mia")
    studio.ask("comparison", [GOOD, WORSE], QUESTIONS[0], form={"strengths": False})
    page = visit("mia", "judge")
    page.wait_for_selector("[data-kind=comparison]")
    page.keyboard.press("t")
    page.select_option(".remarks select >> nth=0", "demonstration")
    assert page.locator(".remarks select").count() == 1  # it is about no candidate
    page.fill("[data-remark]", "Stay at home.")
    page.click("button:text-is('Add')")
    page.wait_for_selector("text=1 remark")
    page.click("h1")
    page.keyboard.press("2")
    assert sorted(event.kind for event in wait_for_events(page, studio, 2)) == ["comparison", "demonstration"]
    studio.ask("approval", [WORSE], QUESTIONS[1])
    page.wait_for_selector("[data-kind=approval]")
    page.keyboard.press("t")
    page.select_option(".remarks select >> nth=0", "correction")
    page.fill("[data-remark]", "Take an umbrella.")
    page.click("button:text-is('Add')")
    page.click("h1")
    page.keyboard.press("2")
    kinds = sorted(event.kind for event in wait_for_events(page, studio, 4))
    assert kinds == ["approval", "comparison", "correction", "demonstration"]
    assert page.watch.problems == []


def test_a_refusal_is_told_in_chinese(studio: Opened, visit: Visit) -> None:
    studio.account("annotator", "mia")
    page = visit(None, locale="zh-CN")
    page.fill("input[autocomplete=username]", "mia")
    page.fill("input[type=password]", "not her password")
    page.keyboard.press("Enter")
    page.wait_for_selector("[role=alert]")
    assert page.inner_text("[role=alert]").strip() == "名称或密码不正确。"
    for _ in range(5):
        page.wait_for_selector("button[type=submit]:enabled")  # until then Enter submits nothing
        with page.expect_response("**/api/v1/session"):
            page.fill("input[type=password]", "not her password")
            page.keyboard.press("Enter")
    page.wait_for_selector("[role=alert]:has-text('尝试次数过多')")
    assert re.search(r"请在 \d+ 秒后重试", page.inner_text("[role=alert]"))


def test_samples_of_a_study_that_has_none_yet_are_an_empty_list(studio: Opened, visit: Visit) -> None:
    studio.account("engineer", "eve")
    page = visit("eve", "runs/samples")
    page.wait_for_selector("form.panel")
    page.wait_for_load_state("networkidle")
    assert page.locator("[role=alert]").count() == 0
    assert page.watch.problems == []


def test_every_code_has_its_sentence() -> None:
    source = "\n".join(path.read_text("utf-8") for path in sorted(Path(tropism.studio.__file__).parent.rglob("*.py")))
    codes = set(re.findall(r"\b[45]\d\d, \"([a-z_]+)\"", source)) | {"unknown"}
    assert {"bad_value", "lease_lost", "slow_down", "busy", "bug"} < codes
    for language in ("en", "zh"):
        table = (WEB / "strings" / f"{language}_refusals.ts").read_text("utf-8")
        said = set(re.findall(r"^  (\w+): ", table, re.MULTILINE))
        assert codes == said, f"{language}: {sorted(codes ^ said)}"
