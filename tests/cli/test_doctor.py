"""The doctor: what it finds here, and that it sees what is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tropism.cli import doctor
from tropism.cli.main import main
from tropism.runtime.memory import WAIT_POLICY


def findings(folder: Path) -> dict[str, doctor.Finding]:
    return {finding.name: finding for finding in doctor.examine(folder)}


def test_this_machine_has_what_is_needed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["doctor", str(tmp_path)])
    out = capsys.readouterr().out
    assert caught.value.code == 0, out
    for name in (
        "Python",
        "cores",
        "memory",
        "disk",
        "torch",
        "threads",
        "allocator",
        "kernels",
        "bf16",
        "CUDA",
        "browser",
        "C compiler",
    ):
        assert f" {name} " in out
    assert "everything needed is there" in out


def test_every_absence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = findings(tmp_path)
    assert found["browser"].state == "note"
    assert found["C compiler"].state == "note"
    assert all(f.fix for f in found.values() if f.state != "ok" and f.name != "bf16")


def test_a_missing_package_is_named_and_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "NEEDED", (*doctor.NEEDED, "tropism-no-such-package"))
    with pytest.raises(SystemExit) as caught:
        main(["doctor", str(tmp_path)])
    out = capsys.readouterr().out
    assert caught.value.code == 1
    assert "missing tropism-no-such-package" in out
    assert "fix: pip install" in out


def test_the_disk_is_that_of_the_folder_even_if_it_is_not_there_yet(tmp_path: Path) -> None:
    assert str(tmp_path) in findings(tmp_path / "a" / "b")["disk"].found


def test_too_little_disk_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LEAST_DISK_GIB", 1e9)
    assert findings(tmp_path)["disk"].state == "missing"


def test_memory_knows_the_containers_limit() -> None:
    sizes = doctor.memory_gib()
    assert sizes is None or 0 < sizes[1] <= sizes[0]


def test_it_says_how_a_run_would_be_tuned_and_why_there_are_no_kernels(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in (WAIT_POLICY, "OMP_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-m", "tropism", "doctor", str(tmp_path)],
        capture_output=True, text=True, check=True, env=environment | {"TROPISM_KERNELS": "off"},
    )  # fmt: skip
    lines = {line.split()[1]: line for line in done.stdout.splitlines() if line.startswith(("ok", "note"))}
    assert lines["threads"].endswith("for tensors, which wait: passive")
    assert lines["kernels"].startswith("note")
    assert "torch alone: switched off by TROPISM_KERNELS" in lines["kernels"]
    assert "memory" in lines["allocator"]
