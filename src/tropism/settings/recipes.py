"""Recipes: settings in a TOML file, built into the package or of the user's own.

A recipe is for a study, or for one job alone: then its first key says so (``job = "reward fit"``). Left out: where its
paths are seen from, which is one rule for every file of settings (``paths.py``).
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from tropism.errors import ConfigError
from tropism.settings.sections import nearest


@dataclass(frozen=True)
class Recipe:
    """A built-in recipe: its name, the first comment line of its file, and the job it is for (None: a study)."""

    name: str
    summary: str
    job: str | None


def recipes() -> list[Recipe]:
    """The built-in recipes, by name."""
    made = []
    for name, file in sorted(_files(resources.files("tropism.recipes"))):
        text = file.read_text("utf-8")
        job = tomllib.loads(text).get("job")
        made.append(Recipe(name, text.split("\n", 1)[0].lstrip("# ").strip(), job))
    return made


def _files(folder: Traversable, before: str = "") -> Iterator[tuple[str, Traversable]]:
    """Names and files of the recipes in a folder and the folders in it: ``control/cheetah``."""
    for place in folder.iterdir():
        if place.is_dir() and not place.name.startswith("_"):
            yield from _files(place, f"{before}{place.name}/")
        elif place.name.endswith(".toml"):
            yield before + place.name[:-5], place


def recipe_values(name: str, job: str | None = None) -> dict[str, Any]:
    """A built-in recipe's values for a job (None: for a study), without the key ``job``.

    Errors: ConfigError with the nearest name if there is none, or if the recipe is for something else.
    """
    known = {recipe.name: recipe for recipe in recipes()}
    if name not in known:
        raise ConfigError(f"no recipe is called {name!r}", nearest(name, known, "`tropism recipes` lists them"))
    text = resources.files("tropism.recipes").joinpath(f"{name}.toml").read_text("utf-8")
    return for_job(tomllib.loads(text), name, job)


def for_job(values: dict[str, Any], name: str, job: str | None) -> dict[str, Any]:
    """The values without their key ``job``; ConfigError if they are for another job, or for a study."""
    theirs = values.pop("job", None)
    if theirs != job:
        here = f"tropism {job}" if job else "a study"
        there = f"`tropism {theirs} --recipe {name}`" if theirs else f"`tropism new DIR --recipe {name}`"
        raise ConfigError(f"recipe {name} is not for {here}", f"use it with {there}")
    return values


def read_recipe(path: Path) -> dict[str, Any]:
    """The values of a recipe file, as written. ConfigError if it is missing or no TOML."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(
            f"recipe file {path} cannot be read: {error.strerror}",
            "correct the path; `tropism recipes` lists built-in ones",
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"recipe file {path} is not UTF-8 text", "save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"recipe file {path} is not valid TOML: {error}", "mend that line") from error
