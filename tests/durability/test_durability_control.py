"""A control study that is killed at any moment comes to the same bits: agent, reward, events, evaluation."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from harness import Spec, Undisturbed, kill_many, outcome, run_to_end, undisturbed

pytestmark = [pytest.mark.durability, pytest.mark.timeout(1800)]

KILLS = int(os.environ.get("TROPISM_KILLS", "3"))
PENDULUM = Spec(
    {
        "study.domain": "control",
        "study.rounds": 2,
        "environment.id": "Pendulum-v1",
        "feedback.queries_per_round": 40,
        "preferences.sessions": 4,
        "reward.fit_steps": 40,
        "reward.fit_steps_again": 10,
        "agent.steps": 9000,
        "agent.checkpoint_seconds": 0.1,
        "evaluation.episodes": 4,
        "runtime.threads": 1,
    }
)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return undisturbed(PENDULUM, tmp_path_factory.mktemp("undisturbed") / "s")


def test_two_undisturbed_runs_are_equal(expected: Undisturbed, tmp_path: Path) -> None:
    run_to_end(PENDULUM, tmp_path / "s")
    assert outcome(tmp_path / "s") == expected.outcome
    assert len(expected.outcome.events) == 80


def test_kills_at_random_moments(expected: Undisturbed, tmp_path: Path) -> None:
    assert len(kill_many(PENDULUM, tmp_path, KILLS, 2025, expected)) == KILLS
