"""Whatever moment a study is killed at, the same command again comes to the same bits: the toy bandit.

``TROPISM_KILLS`` sets how many kills are drawn (3 in the ordinary suite, 30 by ``make durability``); ``-s`` lists them.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from harness import Spec, Undisturbed, finish, kill_at, kill_many, outcome, phase, run_to_end, start, undisturbed

from tropism.study.study import Study

pytestmark = [pytest.mark.durability, pytest.mark.timeout(1800)]

KILLS = int(os.environ.get("TROPISM_KILLS", "3"))
TESTS = str(Path(__file__).resolve().parent.parent)
BANDIT = Spec(
    {
        "study.domain": "bandit:BanditDomain",
        "feedback.queries_per_round": 30,
        "improve.steps": 30,
        "improve.checkpoint_every": 2,
    },
    path=(TESTS,),
)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return undisturbed(BANDIT, tmp_path_factory.mktemp("undisturbed") / "s")


def test_two_undisturbed_runs_are_equal(expected: Undisturbed, tmp_path: Path) -> None:
    run_to_end(BANDIT, tmp_path / "s")
    assert outcome(tmp_path / "s") == expected.outcome
    assert len(expected.outcome.weights) == 5
    assert len(expected.outcome.events) == 60


def test_kills_at_random_moments(expected: Undisturbed, tmp_path: Path) -> None:
    assert len(kill_many(BANDIT, tmp_path, KILLS, 2024, expected)) == KILLS


# in the ordinary suite: a migration, a creation, a commit (before it, inside it), a checkpoint's rename, a sync
POINTS = ["ddl:9", "renamed@.new-:1", "commit:5", "committing:12", "rename@checkpoints:3", "fsync:40"]
MORE_POINTS = ["ddl:1", "ddl:30", "rename@.new-:1", "fsync:1", "committing:1", "committing:9", "committing:17"]
MORE_POINTS += [
    "commit:2",
    "commit:9",
    "commit:17",
    "renamed@checkpoints:1",
    "rename@artifacts:2",
    "renamed@artifacts:3",
]


@pytest.mark.parametrize("point", POINTS + (MORE_POINTS if KILLS >= 30 else []))
def test_kills_inside_an_operation(expected: Undisturbed, tmp_path: Path, point: str) -> None:
    print(f"{point}: killed in {kill_at(BANDIT, tmp_path / 's', point)}")
    run_to_end(BANDIT, tmp_path / "s")
    assert outcome(tmp_path / "s") == expected.outcome


def test_killed_again_and_again(expected: Undisturbed, tmp_path: Path) -> None:
    """Each process may do a little more than the one before (this domain's collection keeps nothing half done)."""
    attempts = 0
    for attempts in range(40):
        child = start(BANDIT, tmp_path / "s", {"TROPISM_DIE_AT": f"commit:{20 + 12 * attempts}"})
        _, said = child.communicate(timeout=120)
        if child.returncode == 0:
            break
        assert child.returncode == -signal.SIGKILL, said
    assert attempts >= 2
    assert outcome(tmp_path / "s") == expected.outcome


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_process_cleanly(expected: Undisturbed, tmp_path: Path, number: int, code: int) -> None:
    child = start(BANDIT, tmp_path / "s")
    deadline = time.monotonic() + 60
    while "improve" not in phase(tmp_path / "s") and time.monotonic() < deadline:
        time.sleep(0.005)
    child.send_signal(number)
    assert "run the same command again" in finish(child, code)
    run_to_end(BANDIT, tmp_path / "s")
    assert outcome(tmp_path / "s") == expected.outcome


@pytest.mark.parametrize("limit", [100, 4_000, 300_000])
def test_a_full_disk_ends_it_cleanly(expected: Undisturbed, tmp_path: Path, limit: int) -> None:
    """Files that may not grow beyond a limit: the creation, an artifact, or the database meets it."""
    said = finish(start(BANDIT, tmp_path / "s", {"TROPISM_FILE_LIMIT": str(limit)}), 2)
    assert "fix:" in said
    assert any(word in said for word in ("full", "space", "disk")), said
    run_to_end(BANDIT, tmp_path / "s")
    assert outcome(tmp_path / "s") == expected.outcome


def test_a_second_process_is_told_who_holds_the_study(tmp_path: Path) -> None:
    slow = Spec({**BANDIT.overrides, "improve.steps": 2000}, path=BANDIT.path)
    first = start(slow, tmp_path / "s")
    deadline = time.monotonic() + 60
    while "improve" not in phase(tmp_path / "s") and time.monotonic() < deadline:
        time.sleep(0.005)
    said = finish(start(slow, tmp_path / "s"), 2)
    assert f"pid {first.pid}" in said
    assert Study.open(tmp_path / "s").status().holder is not None
    first.kill()
    first.communicate(timeout=60)
    assert Study.open(tmp_path / "s").status().holder is None
