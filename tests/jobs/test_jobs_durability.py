"""A job that is killed and run again ends with the weights of an undisturbed one, bit for bit."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from job_cases import COLUMNS, ROOT

from tropism.cli.main import main
from tropism.digests import digest_file

SFT = [
    "sft",
    "--model",
    "my-model",
    "--data",
    "demos.jsonl",
    "--set",
    "sft.steps=12",
    "--set",
    "sft.checkpoint_every=2",
]
FIT = ["reward", "fit", "--model", "my-model", "--data", "pairs.csv", "--set", "reward.epochs=4"]
PPO = ["ppo", "--model", "my-model", "--prompts", "prompts.jsonl", "--set", "ppo.steps=4", "--set", "ppo.batch_size=16"]
PPO += [
    "--set",
    "ppo.checkpoint_every=1",
    "--set",
    "ppo.mini_batch_size=8",
    "--set",
    "sampling.max_new_tokens=12",
    "--set",
    "ppo.critic_warmup_steps=1",
]
PPO += ["--set", 'rewards.functions={"score.py:brevity"=0.1}']
JOBS = {
    "sft": (SFT, "sft"),
    "sft-lora": ([*SFT, "--lora", "4"], "sft"),
    "reward-fit": ([*FIT, "--columns", ",".join(f"{k}={v}" for k, v in COLUMNS.items())], "reward-fit"),
    "ppo": (PPO, "ppo"),
    "ppo-lora": ([*PPO, "--lora", "4"], "ppo"),
}


def finish(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code in (0, None)


def kill_after_checkpoints(arguments: list[str], folder: Path, activity: str, out: Path) -> None:
    """Start the command, SIGKILL it behind its second checkpoint."""
    process = subprocess.Popen([sys.executable, "-m", "tropism", *arguments], cwd=folder, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    place = out / "run" / "scratch" / "checkpoints"
    try:
        while process.poll() is None and time.monotonic() < deadline:
            steps = [int(p.name.rpartition("-")[2]) for p in place.glob(f"{activity}-*")] if place.is_dir() else []
            if max(steps, default=0) >= 2:
                break
            time.sleep(0.005)
        assert process.poll() is None, f"the job ended by itself with {process.returncode}"
    finally:
        process.kill()
        process.wait()
    assert not (out / "run" / "result.json").exists(), "the job was done before it could be killed"


@pytest.mark.parametrize("name", JOBS)
def test_killed_and_run_again(name: str, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, activity = JOBS[name]
    for file in files.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "score.py").write_text(
        "def brevity(prompts, completions, rows):\n    return [-len(c) for c in completions]\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    killed, whole = tmp_path / "killed" / "out", tmp_path / "whole" / "out"
    kill_after_checkpoints([*arguments, "--out", str(killed)], tmp_path, activity, killed)
    finish([*arguments, "--out", str(killed)])
    finish([*arguments, "--out", str(whole)])
    for file in ("model.safetensors", "config.json", "README.md"):
        assert digest_file(killed / file) == digest_file(whole / file), file
