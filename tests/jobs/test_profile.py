"""Profiles of jobs: what ``--profile`` shows of a real run, and what it says where nothing was measured."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tropism.cli.main import main
from tropism.errors import StoreError
from tropism.jobs import ppo
from tropism.jobs.config import resolve
from tropism.jobs.profile import read_profile


@pytest.fixture(scope="module")
def reward(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("reward") / "reward.py"
    file.write_text("def brief(prompts, completions, rows):\n    return [-len(c) / 50 for c in completions]\n")
    return f"{file}:brief"


def small(reward: str) -> list[str]:
    return [
        f'rewards.functions={{"{reward}" = 1.0}}', "ppo.steps=2", "ppo.batch_size=8", "ppo.mini_batch_size=4",
        "sampling.max_new_tokens=6", "run.trackers=[]",
    ]  # fmt: skip


def test_a_profile_shows_every_phase_beside_its_floor(
    files: Path, reward: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["ppo", "--model", str(files / "my-model"), "--prompts", str(files / "prompts.jsonl"), "--out", str(out)]
    command += [word for setting in small(reward) for word in ("--set", setting)]
    with pytest.raises(SystemExit) as caught:
        main([*command, "--profile"])
    shown = capsys.readouterr().out
    assert caught.value.code == 0, shown
    found = {line.split()[0]: line.split()[1:] for line in shown.splitlines() if line.startswith("  ")}
    assert found["phase"] == ["wall", "s", "CPU", "s", "share", "tokens/s", "floor", "CPU", "s", "x", "floor"]
    for phase in ("rollout", "score", "optimise"):
        assert float(found[phase][3]) > 0
        assert float(found[phase][5]) > 1  # nobody is below a floor
    assert found["reward"][4:] == ["–", "–"]
    assert len(found["together"]) == 6
    for name in ("peak", "threads", "precision", "kernels", "products", "logprobs", "mismatch"):
        assert name in found, shown
    assert re.search(r"reused in [01] of 2 steps", shown)
    profile = read_profile(out, "ppo")
    assert profile.rates is not None
    assert profile.rates.wide > profile.rates.decode > 0
    assert 1 <= profile.rates.rows <= 8
    assert {cost.phase for cost in profile.costs} == {"rollout", "score", "reward", "optimise"}


def test_without_the_flag_nothing_is_shown_and_the_metrics_are_there_all_the_same(
    files: Path, reward: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    flags = {"model.path": str(files / "my-model"), "prompts.source": str(files / "prompts.jsonl")}
    ppo.run(resolve(ppo.PpoConfig, flags, small(reward)), out)
    assert "floor" not in capsys.readouterr().out
    assert not (out / "run" / "profile.json").exists()
    profile = read_profile(out, "ppo")
    assert profile.rates is None
    assert all(cost.tokens for cost in profile.costs)
    assert sum(cost.gflop or 0.0 for cost in profile.costs) > 0
    assert "peak memory" in dict(profile.facts)
    from tropism.cli.job_tables import print_profile

    print_profile(out, "ppo")
    assert "not measured" in capsys.readouterr().out


def test_a_profile_of_sft_has_no_decoding(tuned: Path) -> None:
    (cost,) = read_profile(tuned, "sft").costs
    assert cost.phase == "sft_step"
    assert cost.decode_gflop == 0
    assert cost.gflop is not None
    trained = json.loads((tuned / "run" / "result.json").read_text())["sft"]["tokens"]
    assert cost.tokens is not None
    assert cost.tokens > trained  # prompts are gone over too


def test_a_folder_without_metrics_has_no_profile(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no metrics of ppo"):
        read_profile(tmp_path, "ppo")
