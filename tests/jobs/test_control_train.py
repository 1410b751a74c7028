"""``tropism control``: an agent on the true reward, its evaluation, demonstrations; killed and gone on with."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tropism.cli.main import main
from tropism.control.demonstrations import load_demonstrations
from tropism.digests import digest_file, digest_folder
from tropism.errors import ConfigError, ModelError
from tropism.jobs import control_train as job
from tropism.jobs.config import resolve

TRAIN = ["control", "train", "--env", "CartPole-v1", "--steps", "30000"]


def cli(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Run the command line in this process: (status, stdout, stderr)."""
    with pytest.raises(SystemExit) as caught:
        main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return (0 if caught.value.code is None else int(caught.value.code)), out, err


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "cartpole"
    config = resolve(job.ControlTrainConfig, {"environment.id": "CartPole-v1", "agent.steps": 30_000})
    job.run(config, out)
    return out


def result(out: Path) -> dict[str, Any]:
    return json.loads((out / "run" / "result.json").read_text())


def test_it_learns_to_balance(trained: Path) -> None:
    found = result(trained)
    assert found["random_return"] < 40
    assert found["true_return"]["low"] > 150
    assert found["steps"] >= 30_000


def test_small_networks_run_on_one_thread(trained: Path) -> None:
    assert json.loads((trained / "run" / "process.json").read_text())["threads"] == 1


def test_the_commands_say_what_came_out(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = cli(capsys, "control", "evaluate", trained, "--episodes", 5)
    assert status == 0
    assert "true return" in out
    assert "over 5 episodes" in out
    status, out, _ = cli(capsys, "control", "demonstrate", trained, "--episodes", 2, "--out", tmp_path / "shown")
    assert status == 0
    assert len(load_demonstrations(tmp_path / "shown").episodes) == 2
    status, _, err = cli(capsys, "control", "demonstrate", trained, "--out", tmp_path / "shown")
    assert status == 2
    assert "nothing is overwritten" in err
    status, out, _ = cli(capsys, *TRAIN, "--out", tmp_path / "planned", "--plan")
    assert status == 0
    assert "about" in out
    assert not (tmp_path / "planned").exists()


def test_copies_are_staggered_where_the_settings_say_so() -> None:
    """After as many steps as an episode has, some copies are in the midst of one, or none is. The agents of jobs and of
    studies are made of the same copies."""
    fixed = {"environment.id": "Pendulum-v1", "environment.horizon": "fixed", "environment.steps": 8}
    for staggered, lengths in ((True, {1, 2, 3, 4, 5, 6, 7, 0}), (False, {0})):
        config = resolve(job.ControlTrainConfig, {**fixed, "environment.staggered": staggered})
        copies = config.environment.copies(config.run.seed)
        for _ in range(8):
            copies.step(np.zeros((copies.count, 1), np.float32))
        assert set(copies.lengths.tolist()) == lengths


def test_other_settings_are_refused(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = cli(capsys, *TRAIN, "--out", trained, "--set", "ppo.gamma=0.9")
    assert status == 2
    assert "ppo.gamma was 0.99 and is now 0.9" in err
    status, _, _ = cli(capsys, *TRAIN, "--out", trained)
    assert status == 0


def test_what_was_learned_can_be_seen(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Clips beside the policy, as many as asked for, of the starts on which it was judged; then of other ones."""
    assert result(trained)["clips"] == {"starts": 2, "why_none": ""}
    assert sorted(p.name for p in (trained / "clips").iterdir()) == ["policy-1.mp4", "policy-2.mp4"]
    status, out, _ = cli(capsys, *TRAIN, "--out", trained)
    assert f"2 in {trained / 'clips'}" in " ".join(out.split())
    told = ["control", "evaluate", trained, "--episodes", 3, "--video", tmp_path / "seen"]
    status, out, _ = cli(capsys, *told, "--clips", 1)
    assert status == 0
    assert "1 clips in" in out
    with av.open(tmp_path / "seen" / "policy-1.mp4") as clip:
        frames = [frame.to_ndarray(format="rgb24") for frame in clip.decode(video=0)]
    assert len(frames) > 50
    assert any((a != frames[0]).any() for a in frames[1:])
    status, _, err = cli(capsys, *told)
    assert status == 2
    assert "nothing is overwritten" in err
    status, _, err = cli(capsys, "control", "evaluate", trained, "--sample", "--video", tmp_path / "drawn")
    assert status == 2
    assert "most likely actions" in err
    assert not (tmp_path / "drawn").exists()


def short(tmp_path: Path, name: str, **settings: Any) -> Path:
    """A few steps of PPO on CartPole."""
    told = {"environment.id": "CartPole-v1", "agent.steps": 512, "ppo.steps_per_environment": 64, "ppo.epochs": 1}
    told |= {"evaluation.episodes": 2}
    job.run(
        resolve(job.ControlTrainConfig, told, {k.replace("__", "."): v for k, v in settings.items()}), tmp_path / name
    )
    return tmp_path / name


HIDDEN = """
import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv
class Hidden(CartPoleEnv):
    def render(self):
        raise OSError("no lamp")
gymnasium.register("Hidden-v0", entry_point=Hidden, max_episode_steps=50)
"""


def test_clips_are_a_setting_and_what_cannot_be_drawn_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training is not lost where nothing can be drawn."""
    (tmp_path / "hidden_environments.py").write_text(HIDDEN)
    monkeypatch.syspath_prepend(tmp_path)
    none = short(tmp_path, "none", evaluation__clips=0)
    assert not (none / "clips").exists()
    assert result(none)["clips"] == {"starts": 0, "why_none": ""}
    unseen = short(tmp_path, "unseen", environment__id="hidden_environments:Hidden-v0")
    assert result(unseen)["true_return"]["value"] > 0
    assert result(unseen)["clips"]["starts"] == 0
    assert "no lamp" in result(unseen)["clips"]["why_none"]
    assert list((unseen / "clips").glob("*")) == []
    with pytest.raises(ConfigError, match=r"evaluation\.tolerance"):
        short(tmp_path, "other", evaluation__tolerance=0.1)


def test_it_starts_from_a_policy_that_was_trained_before(trained: Path, tmp_path: Path) -> None:
    """The policy that is kept after hardly any learning is the one it began with, and not a fresh one."""
    fresh = short(tmp_path, "fresh", evaluation__clips=0)
    later = short(tmp_path, "later", evaluation__clips=0, agent__start=str(trained), ppo__learning_rate=1e-8)
    assert result(later)["true_return"]["value"] > 3 * result(fresh)["true_return"]["value"]
    told = json.loads((later / "run" / "job.json").read_text())
    assert told["inputs"]["agent.start"] == digest_folder(trained)
    with pytest.raises(ModelError, match="no control policy"):
        short(tmp_path, "nothing", agent__start=str(tmp_path))
    with pytest.raises(ConfigError, match=r"start_log_std = -1.0 for a policy .* without a deviation"):
        short(tmp_path, "noisy", agent__start=str(trained), agent__start_log_std=-1)
    with pytest.raises(ConfigError, match=r"start_log_std = -1.0 without agent\.start"):
        short(tmp_path, "noisy", agent__start_log_std=-1)


def test_the_users_code_is_part_of_what_a_run_is_made_from(tmp_path: Path) -> None:
    """A changed wrapper makes another run, as a changed reward does."""
    file = tmp_path / "mine.py"
    names = {"environment.reward": f"{file}:wanted", "environment.wrapper": f"{file}:Mine"}

    def digests(text: str) -> dict[str, str]:
        file.write_text(f"import gymnasium\nclass Mine(gymnasium.Wrapper): {text}\ndef wanted(*_): return 0\n")
        return resolve(job.ControlTrainConfig, names).environment.code_digests()

    before, after = digests("pass"), digests("more = 1")
    assert before.keys() == after.keys() == names.keys()
    assert all(before[name] != after[name] for name in names)
    assert resolve(job.ControlTrainConfig, {}).environment.code_digests() == {}


@pytest.mark.parametrize("algorithm", ["ppo", "sac"])
def test_killed_and_gone_on_with(algorithm: str, tmp_path: Path) -> None:
    """SIGKILL behind a checkpoint, in the middle of episodes: the same bits as undisturbed."""
    where = {"ppo": ("CartPole-v1", 40_000), "sac": ("Pendulum-v1", 3000)}[algorithm]
    told = ["control", "train", "--env", where[0], "--algo", algorithm, "--steps", str(where[1])]
    for setting in ("evaluation.clips=0", "agent.checkpoint_seconds=0.05", "sac.hidden=[16, 16]", "sac.batch_size=16"):
        told += ["--set", setting]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for out in (whole, killed):
        command = [sys.executable, "-m", "tropism", *told, "--out", str(out)]
        if out is killed:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            deadline, place = time.monotonic() + 60, killed / "run" / "scratch" / "checkpoints"
            seen = set[str]()
            while not seen and process.poll() is None and time.monotonic() < deadline:
                seen |= {p.name for p in place.glob("train-*")} if place.is_dir() else set()
                time.sleep(0.002)
            time.sleep(0.05)  # a busy disk makes checkpoints rare: a second one may be far away
            process.kill()
            process.wait()
            assert seen
            assert not (killed / "policy.json").exists()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=120)
    assert digest_file(whole / "model.safetensors") == digest_file(killed / "model.safetensors")
    assert result(whole) == result(killed)


@pytest.mark.parametrize(
    ("arguments", "problem", "fix"),
    [
        (["--env", "HalfCheeta-v5"], "HalfCheeta-v5", "HalfCheetah-v5"),
        (["--env", "CartPole-v1", "--algo", "sac"], "sac cannot choose", "dqn, ppo"),
        (["--env", "Pendulum-v1", "--algo", "dqn"], "dqn", "Pendulum"),
        (["--env", "CartPole-v1", "--algo", "trpo"], "trpo", "agent.algorithm"),
        (["--env", "CartPole-v1", "--set", "ppo.gama=0.9"], "ppo.gama", "gamma"),
        (["--env", "CartPole-v1", "--set", "environment.reward=nowhere.py:f"], "nowhere.py", "check the path"),
        (["--env", "CartPole-v1", "--set", "environment.wrapper=math:floor"], "math:floor", "gymnasium.Wrapper"),
    ],
)
def test_what_cannot_be_trained(
    arguments: list[str], problem: str, fix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = cli(capsys, "control", "train", *arguments, "--steps", 1000, "--out", tmp_path / "out")
    assert status == 2
    assert problem in err
    assert fix in err
