"""Whatever moment a study is killed at, the same command again comes to the same bits: a small language study.

The whole of ``tinytalk`` in a few seconds of work: a model is made, pretrained and fine-tuned, then two rounds of
feedback, reward model, PPO and evaluation, in the precision that the machine would choose.

``TROPISM_KILLS`` sets how many kills are drawn (2 in the ordinary suite, 30 by ``make durability``); ``-s`` lists them.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from harness import Spec, Undisturbed, finish, kill_at, kill_many, outcome, phase, run_to_end, start, undisturbed

pytestmark = [pytest.mark.durability, pytest.mark.timeout(3600)]

KILLS = int(os.environ.get("TROPISM_KILLS", "2"))
LANGUAGE = Spec(
    {
        "study.rounds": 2,
        "runtime.threads": 1,
        "model.hidden_size": 32,
        "model.layers": 1,
        # learns just enough for answers of unlike worth: the oracle must have something to say
        "world.options.pretrain": {"steps": 24, "batch_size": 32, "learning_rate": 0.02, "warmup_steps": 2}
        | {"checkpoint_every": 4},
        "sft": {"steps": 24, "batch_size": 16, "learning_rate": 0.01, "warmup_steps": 2, "checkpoint_every": 4}
        | {"demonstrations": 400},
        "feedback.queries_per_round": 40,
        "reward": {"epochs": 4, "members": 2, "scale_samples": 32},
        "ppo": {"steps": 6, "batch_size": 16, "mini_batch_size": 8, "epochs": 2, "prompts": 64, "checkpoint_every": 2}
        | {"critic_warmup_steps": 1, "warmup_steps": 2},
        "evaluation.prompts": 24,
    },
    recipe="tinytalk",
)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return undisturbed(LANGUAGE, tmp_path_factory.mktemp("undisturbed") / "s")


def test_the_study_is_worth_killing(expected: Undisturbed) -> None:
    assert len(expected.outcome.weights) == 5
    assert len(set(expected.outcome.weights.values())) == 5, "a stage that changes nothing would show nothing"
    assert len(expected.outcome.events) == 80


@pytest.mark.skipif(KILLS < 30, reason="make durability; a killed study ends like the undisturbed one only if it holds")
def test_two_undisturbed_runs_are_equal(expected: Undisturbed, tmp_path: Path) -> None:
    run_to_end(LANGUAGE, tmp_path / "s")
    assert outcome(tmp_path / "s") == expected.outcome


def test_kills_at_random_moments(expected: Undisturbed, tmp_path: Path) -> None:
    assert len(kill_many(LANGUAGE, tmp_path, KILLS, 2025, expected)) == KILLS


# checkpoints: pretraining has 6, SFT 6, a reward model 4 and its judge 4, PPO 3
POINTS = ["ddl:20", "rename@checkpoints:3", "renamed@checkpoints:9", "rename@checkpoints:14", "rename@checkpoints:18"]
POINTS += [
    "renamed@checkpoints:20",
    "rename@artifacts:1",
    "renamed@artifacts:3",
    "renamed@sampled:1",
    "rename@rollouts:4",
]
POINTS += ["commit:3", "commit:8", "committing:6", "committing:10", "committing:15", "fsync:60"]


@pytest.mark.skipif(KILLS < 30, reason="make durability")
@pytest.mark.parametrize("point", POINTS)
def test_kills_inside_an_operation(expected: Undisturbed, tmp_path: Path, point: str) -> None:
    print(f"{point}: killed in {kill_at(LANGUAGE, tmp_path / 's', point)}")
    run_to_end(LANGUAGE, tmp_path / "s")
    assert outcome(tmp_path / "s") == expected.outcome


@pytest.mark.skipif(KILLS < 30, reason="make durability")
def test_killed_again_and_again(expected: Undisturbed, tmp_path: Path) -> None:
    """Every process is killed at its fourth checkpoint: each goes on where the one before was."""
    for attempts in range(20):
        child = start(LANGUAGE, tmp_path / "s", {"TROPISM_DIE_AT": "renamed@checkpoints:4"})
        _, said = child.communicate(timeout=120)
        if child.returncode == 0:
            assert attempts >= 5
            break
        assert child.returncode == -signal.SIGKILL, said
    assert outcome(tmp_path / "s") == expected.outcome


@pytest.mark.skipif(KILLS < 30, reason="make durability")
def test_a_signal_ends_the_process_cleanly(expected: Undisturbed, tmp_path: Path) -> None:
    child = start(LANGUAGE, tmp_path / "s")
    deadline = time.monotonic() + 120
    while "PPO" not in phase(tmp_path / "s") and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(signal.SIGTERM)
    assert "run the same command again" in finish(child, 143)
    run_to_end(LANGUAGE, tmp_path / "s")
    assert outcome(tmp_path / "s") == expected.outcome
