"""How tensor threads wait, as the command line settles it before torch is loaded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tropism.runtime.memory import WAIT_POLICY
from tropism.settings.recipes import recipe_values, recipes

CODE = (
    "import os, sys; from tropism.cli import early; print(early.settle(sys.argv[1:]));"
    "assert 'torch' not in sys.modules; print(os.environ.get('OMP_WAIT_POLICY'))"
)
OFF, ON = ("OpenMP's own way", "None"), ("passive", "PASSIVE")


def settled(*arguments: str) -> tuple[str, str]:
    environment = {k: v for k, v in os.environ.items() if k != WAIT_POLICY}
    done = subprocess.run(
        [sys.executable, "-c", CODE, *arguments], capture_output=True, text=True, check=True, env=environment
    )
    said, variable = done.stdout.splitlines()
    return said, variable


def test_the_last_word_counts(tmp_path: Path) -> None:
    recipe, study = tmp_path / "mine.toml", tmp_path / "study"
    study.mkdir()
    recipe.write_text("[run]\npassive_wait = false\n")
    (study / "study.toml").write_text("[runtime]\npassive_wait = false\n")
    assert settled("ppo", "--out", "x") == ON
    assert settled("ppo", "--recipe", str(recipe)) == OFF
    assert settled("ppo", f"--recipe={recipe}", "--set", "run.passive_wait=true") == ON
    assert settled("run", str(study)) == OFF
    assert settled("run", str(study), "--set=runtime.passive_wait=true", "--set", "ppo.steps=2") == ON
    assert settled("sft", "--set", "run.passive_wait=false", "--set", "run.threads=1") == OFF
    off, on = "run.passive_wait=false", "run.passive_wait=true"
    assert settled("sft", f"--set={off}", "--set", on) == ON
    assert settled("sft", "--set", on, f"--set={off}") == OFF


def test_what_is_wrong_is_left_to_those_who_say_so(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text("= no toml\n")
    assert settled("run", str(tmp_path), "--set", "no assignment", "--recipe", "tinytalk", "--set") == ON
    assert settled("sft", "--set", "run=3", "--set", "runtime.passive_wait=maybe") == ON


@pytest.mark.parametrize("arguments", [(), ("--set", "run.passive_wait=false")], ids=["asked", "switched off"])
def test_a_command_settles_it_before_its_job_loads_torch(arguments: tuple[str, ...], tmp_path: Path) -> None:
    """A real command, which fails at a model that is not there, after torch was loaded."""
    code = (
        "import os, sys, atexit; from tropism.cli.main import main\n"
        "atexit.register(lambda: print('torch' in sys.modules, os.environ.get('OMP_WAIT_POLICY')))\n"
        "main(sys.argv[1:])"
    )
    environment = {k: v for k, v in os.environ.items() if k != WAIT_POLICY}
    command = ["ppo", "--out", str(tmp_path / "out"), "--model", str(tmp_path / "none"), *arguments]
    done = subprocess.run(
        [sys.executable, "-c", code, *command], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout.split() == ["True", "None" if arguments else "PASSIVE"]


def test_no_built_in_recipe_is_needed_to_know() -> None:
    for recipe in recipes():
        values = recipe_values(recipe.name, recipe.job)
        assert "passive_wait" not in {**values.get("run", {}), **values.get("runtime", {})}
