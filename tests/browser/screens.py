"""Pictures of every screen of the studio, each in English and Chinese, light and dark, on one sheet.

    python tests/browser/screens.py STUDY OUT [PART…]

STUDY is a finished study of texts (``tropism demo DIR``); it is copied, and the copy gets people, votes and questions.
PARTs are judge, lead, runs, admin; all of them where none is named.
Left out: judging whether a screen is good, which takes eyes.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from browser_cases import GOOD, PASSWORD, QUESTIONS, WORSE, Opened, opened
from PIL import Image

from tropism.feedback.records import Answer
from tropism.store import schema

SIZE = (1280, 860)
SHOWN = (880, 591)
VARIANTS = (("en", "light"), ("zh", "light"), ("en", "dark"), ("zh", "dark"))
PEOPLE = {"mia": 2.0, "noah": 1.5, "olga": 1.2, "pete": 0.0, "rosa": -1.5}
"""Names, and how reliably they prefer the first slot of a question about the picnic."""
AREAS = {
    "lead": ("progress", "quality", "disagreements", "people", "planner", "cost"),
    "runs": ("curves", "samples", "sides", "models", "ab", "lineage"),
    "admin": ("tokens", "webhooks", "audit"),
}
GUIDE = (
    "# Judge by\n\n1. **Helpful**: does it answer what was asked?\n2. **Honest**: is it true?\n\nLength is no merit."
)
KINDS: Mapping[str, Callable[[Opened], Any]] = {
    "comparison": lambda s: s.ask("comparison", [GOOD, WORSE], QUESTIONS[0], form={"strengths": False}),
    "seven-grades": lambda s: s.ask("comparison", [GOOD, WORSE], QUESTIONS[1]),
    "ranking": lambda s: s.ask("ranking", [GOOD, WORSE, "Stay at home.", "Take an umbrella."], QUESTIONS[0]),
    "best_of": lambda s: s.ask("best_of", [GOOD, WORSE, "Stay at home."], QUESTIONS[0]),
    "rating": lambda s: s.ask(
        "rating", [GOOD], QUESTIONS[0], form={"aspects": [_aspect("helpful"), _aspect("honest")]}
    ),
    "label": lambda s: s.ask("label", [WORSE], QUESTIONS[0], form={"labels": ["safe", "polite"]}),
    "correction": lambda s: s.ask("correction", [WORSE], QUESTIONS[0]),
    "critique": lambda s: s.ask("critique", [WORSE], QUESTIONS[0]),
    "demonstration": lambda s: s.ask("demonstration", [], QUESTIONS[3]),
    "approval": lambda s: s.ask("approval", [GOOD], QUESTIONS[0]),
    "clips": lambda s: s.ask_clips("comparison", "HalfCheetah-v5", "Run forward, fast and steadily."),
}


def _aspect(name: str) -> dict[str, Any]:
    return {"name": name, "scale": [1, 5]}


@dataclass
class Camera:
    """Takes one sheet of a screen; language and colours are switched on the page, so that it stays where it is."""

    page: Any
    folder: Path

    def sheet(self, name: str) -> None:
        """Write ``name.png``: four pictures of what is on the screen."""
        whole = Image.new("RGB", (2 * SHOWN[0] + 8, 2 * SHOWN[1] + 8), "#888")
        for i, (language, theme) in enumerate(VARIANTS):
            self.page.select_option(".top select >> nth=0", language)
            self.page.select_option(".top select >> nth=1", theme)
            self.page.wait_for_timeout(250)
            shot = Image.open(BytesIO(self.page.screenshot())).convert("RGB").resize(SHOWN, Image.Resampling.LANCZOS)
            whole.paste(shot, ((i % 2) * (SHOWN[0] + 8), (i // 2) * (SHOWN[1] + 8)))
        whole.quantize(128).save(self.folder / f"{name}.png", optimize=True)
        print(name, (self.folder / f"{name}.png").stat().st_size)


def votes_of(studio: Opened, name: str, skill: float) -> None:
    """Have somebody judge everything that they are asked; they prefer the first slot as reliably as ``skill`` says."""
    queue, table = studio.studio.queue, schema.accounts
    stream = np.random.default_rng([ord(letter) for letter in name])
    with studio.studio.database.read() as connection:
        teacher = connection.execute(sa.select(table.c.pseudonym).where(table.c.name == name)).scalar_one()
    while (claimed := queue.claim(teacher, 4, ["comparison"])[0]) != []:
        for one in claimed:
            first = stream.random() < 1 / (1 + np.exp(-skill))
            value = {"kind": "comparison", "choice": "a" if first else "b", "strength": 1}
            answer = Answer(value, None, int(stream.lognormal(8.7, 0.5)))
            queue.submit(one.assignment_id, teacher, str(uuid.uuid4()), [answer])


def people_vote(studio: Opened) -> None:
    """Five people judge the same thirty questions, each in their own way."""
    asked = [studio.ask("comparison", [f"{GOOD}\n\n({i})", f"{WORSE} ({i})"], QUESTIONS[i % 4], n=i) for i in range(30)]
    studio.studio.queue.counts()
    studio.studio.queue.want([query.id for query in asked], len(PEOPLE))
    for name, skill in PEOPLE.items():
        studio.account("annotator", name)
        votes_of(studio, name, skill)


def judge_screens(studio: Opened, camera: Camera) -> None:
    """One question of each kind, put and answered one after the other."""
    page = camera.page
    for name, put in KINDS.items():
        put(studio)
        page.goto(f"{studio.base}/#/account")
        page.goto(f"{studio.base}/#/judge")
        page.wait_for_selector("[data-item]")
        if name == "clips":
            page.wait_for_selector(".player button:first-child:not([disabled])", timeout=120_000)
            page.keyboard.press("x")
        for key in {"seven-grades": "d", "ranking": "21q3", "rating": "4", "label": "1"}.get(name, ""):
            page.keyboard.press(key)
        camera.sheet(f"judge-{name}")
        if name == "seven-grades":
            page.keyboard.press("d")
        page.keyboard.press("s")
    page.wait_for_selector("[data-empty]")
    camera.sheet("judge-empty")


def guideline_screen(studio: Opened, camera: Camera) -> None:
    """The guideline's editor with a preview and a first version."""
    page = camera.page
    page.goto(f"{studio.base}/#/lead/guideline")
    page.fill("textarea", GUIDE)
    page.click(".panel .row button >> nth=0")
    page.wait_for_selector(".prose")
    page.click("button.primary")
    page.wait_for_selector("details")
    camera.sheet("lead-guideline")


def area_screens(studio: Opened, camera: Camera, area: str) -> None:
    """The pages of leads, engineers or administrators."""
    page = camera.page
    for name in AREAS[area]:
        page.goto(f"{studio.base}/#/{area}/{name}")
        page.wait_for_selector("main h1")
        page.wait_for_timeout(800)
        if name == "quality":
            page.wait_for_selector("table", timeout=120_000)
        if name == "planner":
            page.click("button.primary")
            page.wait_for_selector("dd")
        if name == "ab":
            page.fill("form input >> nth=0", "round 2 against round 1")
            page.click("button.primary")
            page.wait_for_selector("section.panel")
            votes_of(studio, "mia", 1.0)
            page.reload()
            page.wait_for_selector("section.panel strong")
        if name == "lineage":
            page.click("svg a >> nth=5")
        camera.sheet(f"{area}-{name}")


def account_screen(studio: Opened, camera: Camera) -> None:
    """One's own settings."""
    camera.page.goto(f"{studio.base}/#/account")
    camera.page.wait_for_selector("main h1")
    camera.sheet("account")


def main(study: Path, out: Path, parts: set[str]) -> None:
    """Copy the study, fill it, photograph it."""
    from playwright.sync_api import sync_playwright

    out.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp()) / "study"
    shutil.copytree(study, folder)
    chromium = shutil.which("chromium")
    with opened(folder) as studio, sync_playwright() as running:
        people_vote(studio)
        studio.account("admin", "ada")
        browser = running.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": SIZE[0], "height": SIZE[1]}, reduced_motion="reduce")
        camera = Camera(page, out)
        page.goto(studio.base)
        page.wait_for_selector("form")
        camera.sheet("signin")
        page.fill("input[autocomplete=username]", "ada")
        page.fill("input[type=password]", PASSWORD)
        page.keyboard.press("Enter")
        page.wait_for_selector("nav")
        if "judge" in parts:
            judge_screens(studio, camera)
            account_screen(studio, camera)
        if "lead" in parts:
            guideline_screen(studio, camera)
        for area in AREAS:
            if area in parts:
                area_screens(studio, camera, area)
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), set(sys.argv[3:]) or {"judge", *AREAS})
