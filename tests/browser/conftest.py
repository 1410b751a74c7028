"""A real browser: Debian's Chromium through Playwright; tests that ask for it are skipped where either is missing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser_cases import PASSWORD, Opened, make_study, opened

ACTION_MS = 15_000


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A browser without a window, for all tests of a process."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install playwright)")
    path = os.environ.get("TROPISM_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("needs Chromium (apt-get install chromium), or TROPISM_CHROMIUM with its path")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Opened]:
    """A studio on a study without questions."""
    with opened(make_study(tmp_path / "study")) as here:
        yield here


class Watch:
    """What went wrong in a page: errors of scripts, failed requests, requests to other hosts."""

    def __init__(self, page: Any, base: str) -> None:
        self.problems: list[str] = []
        page.on("pageerror", lambda error: self.problems.append(f"error {error}"))
        page.on("console", lambda said: said.type == "error" and self.problems.append(f"console {said.text}"))
        page.on("requestfailed", lambda request: self._failed(request))
        page.on("request", lambda request: self._asked(request.url, base))

    def _failed(self, request: Any) -> None:
        if request.failure != "net::ERR_ABORTED":  # whatever is under way when its page is left or loaded anew
            self.problems.append(f"failed {request.url} {request.failure}")

    def _asked(self, url: str, base: str) -> None:
        if not url.startswith((base, "data:", "blob:")):
            self.problems.append(f"outside {url}")


@pytest.fixture
def visit(chromium: Any, studio: Opened) -> Iterator[Callable[..., Any]]:
    """Open a page of the studio, signed in as ``name``; outside hosts do not exist. ``page.watch`` has what failed."""
    contexts = []

    def go(name: str | None, path: str = "", **options: Any) -> Any:
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, "locale": "en-GB", **options})
        context.route(lambda url: not url.startswith(studio.base), lambda route: route.abort())
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(ACTION_MS)
        page.watch = Watch(page, studio.base)
        page.goto(f"{studio.base}/#/{path}")
        if name is not None:
            page.fill("input[autocomplete=username]", name)
            page.fill("input[type=password]", PASSWORD)
            page.keyboard.press("Enter")
            page.wait_for_selector("nav")
        return page

    yield go
    for context in contexts:
        context.close()
