"""The README's promises that a test can hold: its recipe parses, its commands exist, both languages are in step."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from typer.main import get_command

from tropism.cli.main import app
from tropism.settings.recipes import read_recipe
from tropism.study.config import gather, resolve

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "README.zh-CN.md")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text("utf-8"), re.S)


@pytest.mark.parametrize("page", PAGES)
def test_the_five_lines_are_a_recipe(page: str, tmp_path: Path) -> None:
    (recipe,) = blocks(page, "toml")
    assert len(recipe.strip().splitlines()) == 5
    path = tmp_path / "mine.toml"
    path.write_text(recipe, "utf-8")
    (tmp_path / "pairs.jsonl").write_text("")
    values = resolve(gather((read_recipe(path), tmp_path)), tmp_path / "study").values
    assert values["feedback"]["teacher"] == "import"
    assert values["feedback"]["file"] == str(tmp_path / "pairs.jsonl")


def test_both_languages_say_the_same_in_code() -> None:
    for language in ("sh", "python"):
        english, chinese = ([re.sub(r"\s*#.*", "", b) for b in blocks(page, language)] for page in PAGES)
        assert english == chinese
    first, second = (tomllib.loads(blocks(page, "toml")[0]) for page in PAGES)
    assert first == second
    headings = [re.findall(r"^#+", (ROOT / page).read_text("utf-8"), re.M) for page in PAGES]
    rows = [(ROOT / page).read_text("utf-8").count("\n|") for page in PAGES]
    assert headings[0] == headings[1]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_named_exists(page: str) -> None:
    group = get_command(app)
    known = set(group.commands)  # type: ignore[attr-defined]
    inner = set(group.commands["feedback"].commands)  # type: ignore[attr-defined]
    for first, second in re.findall(r"`?tropism (\w+)(?: (\w+))?", (ROOT / page).read_text("utf-8")):
        assert first in known or first == "import", f"{page} names tropism {first}"  # `from tropism import Study`
        if first == "feedback":
            assert second in inner, f"{page} names tropism feedback {second}"


@pytest.mark.parametrize("page", [*PAGES, "CHANGELOG.md", "ARCHITECTURE.md"])
def test_links_between_files_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)]+)\)", (ROOT / page).read_text("utf-8")):
        assert (ROOT / target).exists(), f"{page} links to {target}"
