"""Disks that are full or read-only, and a study that somebody else runs: said, and nothing is half written.

Real mounts (a small tmpfs, a read-only bind) where the machine lets a test make them; everywhere, a limit on the size
of files stands in for a full disk.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from bad_input_cases import SMALL, check_refusal, cli, contents, own_world, settings

from tropism.feedback.chain import verify
from tropism.store.database import Database
from tropism.study.study import Study

TESTS = Path(__file__).resolve().parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
Text = pytest.CaptureFixture[str]


@contextmanager
def mounted(place: Path, *options: str) -> Iterator[Path]:
    """A mount for the length of the block; the test is skipped where none may be made."""
    place.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *options, str(place)], capture_output=True, text=True, timeout=20, check=False)
    if done.returncode:
        pytest.skip(f"no mount may be made here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], timeout=20, check=True)


@contextmanager
def read_only(place: Path) -> Iterator[Path]:
    with mounted(place, "--bind", str(place)):
        subprocess.run(["mount", "-o", "remount,bind,ro", str(place)], timeout=20, check=True)
        yield place


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    world = own_world(tmp_path_factory.mktemp("disks") / "mine")
    (world / "mine.toml").write_text(
        'study.domain = "language"\nmodel.path = "model"\nworld.prompts = "prompts.jsonl"\n'
        'feedback = { teacher = "import", file = "pairs.jsonl" }\n'
    )
    return world


@pytest.fixture
def study(world: Path, tmp_path: Path, capsys: Text) -> Path:
    made = cli(capsys, "new", tmp_path / "s", "--recipe", world / "mine.toml", *settings(SMALL))
    assert made[0] == 0, made
    return tmp_path / "s"


def test_a_read_only_study(study: Path, world: Path, tmp_path: Path, capsys: Text) -> None:
    before = contents(study)
    with read_only(study):
        for command in (["run", study], ["feedback", "import", study, world / "pairs.jsonl"], ["gc", study]):
            check_refusal(*cli(capsys, *command), str(study), "fix: give write permission")
    assert contents(study) == before
    with read_only(tmp_path):
        check_refusal(*cli(capsys, "new", tmp_path / "other"), "cannot be written", "fix: give write permission")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s"]


@pytest.mark.parametrize("free_kib", [20, 100, 400, 700, 1000])
def test_a_full_disk(study: Path, tmp_path: Path, capsys: Text, free_kib: int) -> None:
    """The study on a small disk of its own, filled up but for some KiB; with room again it goes on to the end."""
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=16m", "tmpfs") as disk:
        small = disk / "s"
        shutil.copytree(study, small)
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        (disk / "filler").write_bytes(bytes(free - (free_kib << 10)))
        check_refusal(*cli(capsys, "run", small), "full", "fix: free some space")
        (disk / "filler").unlink()
        check_sound(small)
        status, out, err = cli(capsys, "run", small)
        assert (status, err) == (0, ""), out


def check_sound(folder: Path) -> None:
    """Whatever a full disk left: a database that opens, a chain that holds, artifacts that are what they are called."""
    database = Database.open(folder / "study.db")
    assert verify(database).ok
    database.close()
    with Study.open(folder) as study:
        for stage in study.status().stages:
            for address in stage.folders.values() if stage.status == "done" else ():
                study.artifacts.verify(address)


def test_a_full_disk_makes_no_half_study(tmp_path: Path, capsys: Text) -> None:
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=64k", "tmpfs") as disk:
        check_refusal(*cli(capsys, "new", disk / "s"), "full", "fix: free some space")
        assert list(disk.iterdir()) == []


@pytest.mark.parametrize("limit_kib", [16, 64, 160])
def test_a_limit_of_file_size_is_a_full_disk(study: Path, capsys: Text, limit_kib: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_kib << 10, hard))
    try:
        refusal = cli(capsys, "run", study)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    check_refusal(*refusal, "fix: ")
    check_sound(study)
    status, out, err = cli(capsys, "run", study)
    assert (status, err) == (0, ""), out


def test_an_export_that_cannot_be_written_leaves_nothing(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = cli(capsys, "feedback", "export", study, tmp_path / "none" / "out.jsonl")
    check_refusal(status, out, err, "out.jsonl cannot be written")
    (tmp_path / "out.jsonl").mkdir()
    status, out, err = cli(capsys, "feedback", "export", study, tmp_path / "out.jsonl")
    check_refusal(status, out, err, "out.jsonl is a folder already")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.jsonl", "s"]


def test_a_second_run_is_told_who_holds_the_study(tmp_path: Path) -> None:
    overrides = {"study.domain": "bandit:BanditDomain", "feedback.queries_per_round": 30, "improve.steps": 20_000}
    Study.create(tmp_path / "s", overrides=overrides).close()
    command = [sys.executable, "-m", "tropism", "run", str(tmp_path / "s")]
    first = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        mark = tmp_path / "s" / "scratch" / "status.json"
        deadline = time.monotonic() + 60
        while not (mark.exists() and '"improve-1"' in mark.read_text()) and time.monotonic() < deadline:
            time.sleep(0.02)
        for command in (["run", str(tmp_path / "s")], ["gc", str(tmp_path / "s")]):
            second = subprocess.run(
                [sys.executable, "-m", "tropism", *command],
                capture_output=True,
                text=True,
                timeout=60,
                env=ENVIRONMENT,
                check=False,
            )
            check_refusal(
                second.returncode, second.stdout, second.stderr, f"pid {first.pid} on ", " since ", "run ", "wait until"
            )
        assert first.poll() is None
    finally:
        first.terminate()
        assert first.wait(60) == 143
