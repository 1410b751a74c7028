"""Every command and every Python block of every page of docs/ runs, in order, on the example files."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

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
    for language, text in made:
        if language == "python":
            exec(compile(text, str(page), "exec"), {"__name__": "__main__"})
            continue
        for line in text.strip().splitlines():
            run_command(line)


def test_every_page_is_linked_and_every_link_leads_somewhere() -> None:
    index = (ROOT / "docs" / "index.md").read_text("utf-8")
    for page in PAGES:
        assert page.stem == "index" or f"({page.name})" in index, f"docs/index.md does not name {page.name}"
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links {target}, which is not there"
