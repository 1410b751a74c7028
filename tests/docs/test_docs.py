"""Every command and every Python block of every page of docs/ runs, in order, on the example files.

A command that opens a studio runs beside those that follow, on a port of its own; they are told where it is. Commands
with an address of PostgreSQL run where it is installed, against a database of their own.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest

from databases import new_address
from tropism.cli.main import main

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = sorted(p for p in (ROOT / "docs").glob("*.md"))
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```", re.S | re.M)


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that ``examples/example_files.py`` makes."""
    folder = tmp_path_factory.mktemp("examples")
    subprocess.run([sys.executable, str(ROOT / "examples/example_files.py"), str(folder)], check=True, timeout=120)
    return folder


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, text) of every block of a page."""
    return [(found[1], found[2]) for found in BLOCK.finditer(page.read_text("utf-8"))]


OPENS = re.compile(r"^tropism (studio (?!--help)|run .*--studio)")
SERVER = re.compile(r"postgresql://\S+")
USUAL = 7860
START_S = 120.0
POSTGRES = bool(os.environ.get("TROPISM_TEST_POSTGRES") or list(Path("/usr/lib/postgresql").glob("*/bin/initdb")))
POSTGRES = POSTGRES and find_spec("psycopg") is not None


class Opened:
    """The studios that a page has opened: where a reader would find each, and where it is."""

    def __init__(self) -> None:
        self.places: dict[str, str] = {}

    @contextmanager
    def open(self, line: str, patch: pytest.MonkeyPatch) -> Iterator[None]:
        """A studio, from when it listens to the end of the block; the environment has a token for a page's first."""
        words = shlex.split(line)[1:]
        shown = int(words[words.index("--port") + 1]) if "--port" in words else USUAL
        words = [*words, "--port", "0"]  # the last one counts
        process = subprocess.Popen(
            [sys.executable, "-m", "tropism", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        late = threading.Timer(START_S, process.kill)
        late.start()
        try:
            setup, said = None, []
            assert process.stdout is not None
            for told in process.stdout:
                said.append(told)
                if link := re.search(r"http://\S+/#/setup/(\S+)", told):
                    setup = link[1]
                if listens := re.search(r"^studio of .*: (http://\S+)$", told):
                    base = listens[1]
                    break
            else:
                raise AssertionError(f"{line!r} opened no studio: {''.join(said)}")
            late.cancel()
            threading.Thread(target=process.stdout.read, daemon=True).start()  # so that it never waits for a reader
            if not self.places:  # the first one is what a page's programs talk to
                patch.setenv("TROPISM_TOKEN", token(base, setup))
            self.places[f"http://127.0.0.1:{shown}"] = base
            yield
        finally:
            late.cancel()
            process.terminate()
            process.wait(60)


def token(base: str, setup: str | None) -> str:
    """A token of the studio's administrator, who is made where there is a link for that."""
    with httpx.Client(base_url=f"{base}/api/v1/", trust_env=False, timeout=30) as client:
        if setup is None:
            session = client.get("session")
        else:
            session = client.post("setup", json={"token": setup, "name": "Ada", "password": "a long enough password"})
        assert session.status_code == 200, session.text
        headers = {"X-CSRF-Token": session.json()["csrf"]}
        made = client.post("tokens", json={"name": "docs", "scope": "write", "days": 1}, headers=headers)
        assert made.status_code == 200, made.text
        return str(made.json()["token"])


def run_command(line: str) -> None:
    """A command of ours, in this process: libraries load once."""
    words = shlex.split(line)
    assert words[0] == "tropism", f"the pages' commands are ours, but this is {line!r}"
    with pytest.raises(SystemExit) as end:
        main(words[1:])
    assert end.value.code in (0, None), f"{line!r} ended with {end.value.code}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_what_a_page_says_works(page: Path, examples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in examples.iterdir():
        (tmp_path / file.name).symlink_to(file)
    monkeypatch.chdir(tmp_path)
    made = blocks(page)
    assert made or page.stem == "index", f"{page.name} shows no command"
    opened = Opened()
    with ExitStack() as stack:
        for language, text in made:
            for shown, place in opened.places.items():
                text = text.replace(shown, place)
            if language == "python":
                exec(compile(text, str(page), "exec"), {"__name__": "__main__"})
                continue
            for line in text.strip().splitlines():
                if SERVER.search(line):
                    if not POSTGRES:
                        continue
                    line = SERVER.sub(stack.enter_context(new_address(template=False)), line)
                if OPENS.search(line):
                    stack.enter_context(opened.open(line, monkeypatch))
                else:
                    run_command(line)


def test_every_page_is_linked_and_every_link_leads_somewhere() -> None:
    index = (ROOT / "docs" / "index.md").read_text("utf-8")
    for page in PAGES:
        assert page.stem == "index" or f"({page.name})" in index, f"docs/index.md does not name {page.name}"
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links {target}, which is not there"
