"""Runs that are kept: not made again, unless another starts from a policy that is not there."""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, whose runs are made at once."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    import control_runs

    def made(command: list[str], **_: Any) -> SimpleNamespace:
        cell = json.loads(command[2])
        (Path(command[3]) / cell["name"]).mkdir(exist_ok=True)
        told = {"cell": cell, "true_return": 1.0, "cpu_s": 0.0}
        return SimpleNamespace(returncode=0, stderr="", stdout=json.dumps(told))

    monkeypatch.setattr(subprocess, "run", made)
    return control_runs


def test_a_kept_run_is_made_again_only_where_its_policy_is_needed(runs: Any, tmp_path: Path) -> None:
    first = runs.Cell("first", "Pendulum-v1", 10, 0)
    alone, later = runs.Cell("alone", "Pendulum-v1", 10, 0), runs.Cell("later", "Pendulum-v1", 10, 0, start="first")
    for cell in (first, alone):
        runs.result(cell, tmp_path).write_text(json.dumps({"cell": json.loads(json.dumps(asdict(cell)))}))
    runs.run_all([later, alone, first], tmp_path, 1)
    assert (tmp_path / "first").is_dir()
    assert not (tmp_path / "alone").exists()
    assert set(runs.read([first, alone, later], tmp_path)) == {"first", "alone", "later"}
    with pytest.raises(SystemExit, match="other settings"):
        runs.run(runs.Cell("alone", "Pendulum-v1", 11, 0), tmp_path)


def test_a_run_kept_when_there_were_fewer_settings_still_counts(runs: Any, tmp_path: Path) -> None:
    cell = runs.Cell("old", "Pendulum-v1", 10, 0)
    kept = {name: value for name, value in asdict(cell).items() if name != "staggered"}
    runs.result(cell, tmp_path).write_text(json.dumps({"cell": kept, "made": "before"}))
    runs.run(cell, tmp_path)
    assert json.loads(runs.result(cell, tmp_path).read_text())["made"] == "before"
    with pytest.raises(SystemExit, match="other settings"):
        runs.run(runs.Cell("old", "Pendulum-v1", 10, 0, staggered=True), tmp_path)
