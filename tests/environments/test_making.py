"""Environments by id: fixed horizons, and what is said where one cannot be made."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_environments  # noqa: F401 - registers them

from tropism.environments.fixed_horizon import FixedHorizon, open_environment, require_fixed_horizon
from tropism.environments.making import EnvironmentSpec, make
from tropism.environments.stepping import Environments
from tropism.errors import ConfigError


@pytest.mark.parametrize(
    ("spec", "problem", "fix"),
    [
        (EnvironmentSpec("HalfCheeta-v5"), "HalfCheeta-v5", "HalfCheetah-v5"),
        (EnvironmentSpec("Hopper-v99"), "Hopper-v99", "Hopper-v5"),
        (EnvironmentSpec("qwertyuiop"), "qwertyuiop", "lists them"),
        (EnvironmentSpec("no_such_module:Thing-v0"), "no_such_module", "pip install no_such_module"),
        (EnvironmentSpec("Absent-v0"), "a_simulator_that_is_not_there", "pip install a_simulator_that_is_not_there"),
        (EnvironmentSpec("Tiny-v0", {"gravity": 3}), "gravity", "arguments"),
        (EnvironmentSpec("Tiny-v0", steps=-1), "-1", "0"),
        (EnvironmentSpec("TinyEndless-v0", horizon="fixed"), "no time limit", "environment.steps"),
        (EnvironmentSpec("Odd-v0", {"odd": "unbounded"}), "unbounded actions", "RescaleAction"),
        (EnvironmentSpec("Odd-v0", {"odd": "tuple"}), "action space Tuple", "Discrete"),
        (EnvironmentSpec("Odd-v0", {"odd": "dictionary"}), "observation space Dict", "wrap"),
        (EnvironmentSpec("Odd-v0", {"odd": "picture"}), "observation space Box", "wrap"),
    ],
    ids=lambda value: value.id if isinstance(value, EnvironmentSpec) else "",
)
def test_what_cannot_be_made_is_told_with_the_fix(spec: EnvironmentSpec, problem: str, fix: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(spec)
    assert problem in caught.value.problem
    assert fix in caught.value.fix


def test_what_cannot_be_drawn_is_told() -> None:
    with pytest.raises(ConfigError, match="Blind-v0 cannot draw itself"):
        make(EnvironmentSpec("Blind-v0"), render=True)


def in_a_process(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter, in ``folder``."""
    kept = {k: v for k, v in os.environ.items() if k not in {"MUJOCO_GL", "PYOPENGL_PLATFORM", "DISPLAY"}}
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, timeout=120, cwd=folder, env=kept | environment, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("horizon", ["variable", "fixed"])
def test_a_missing_simulator_is_told_with_what_to_install(horizon: str, tmp_path: Path) -> None:
    code = f"""
import sys
sys.modules["mujoco"] = None  # as if it were not installed
from tropism.environments.making import EnvironmentSpec, make
from tropism.errors import ConfigError
try:
    make(EnvironmentSpec("Hopper-v5", horizon="{horizon}"))
except ConfigError as error:
    print(error.fix)
"""
    done = in_a_process(code, tmp_path)
    assert done.stdout.strip() == "pip install 'gymnasium[mujoco]'", done.stderr


def test_mujoco_says_nothing_but_what_is_news(tmp_path: Path) -> None:
    """The warning that Gymnasium's own model causes is kept away, another one of the same handler is not, and no log
    file is left. Put back (no filter, or a filter of all): fails."""
    code = """
from tropism.environments.making import EnvironmentSpec
from tropism.environments.mujoco_setup import compiling
from tropism.environments.stepping import Environments
import numpy as np
environments = Environments(EnvironmentSpec("HalfCheetah-v5"), 2, seed=0)
import mujoco
with compiling():
    mujoco.MjModel.from_xml_string(
        '<mujoco><compiler settotalmass="3"/><worldbody><body><joint/><geom size="1"/></body></worldbody></mujoco>')
    data = environments._envs[0].unwrapped.data
    data.qpos[0] = np.nan
    mujoco.mj_checkPos(environments._envs[0].unwrapped.model, data)
assert mujoco.get_mju_user_warning() is None
data.qvel[0] = np.nan
mujoco.mj_checkVel(environments._envs[0].unwrapped.model, data)
"""
    done = in_a_process(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "settotalmass" not in done.stdout + done.stderr
    assert "RuntimeWarning: MuJoCo:" in done.stderr
    assert "QPOS" in done.stderr
    assert "QVEL" in done.stderr  # outside, MuJoCo prints as it always did
    assert not list(tmp_path.iterdir())


def test_environments_load_no_torch(tmp_path: Path) -> None:
    code = """
import sys
from tropism.environments.making import EnvironmentSpec
from tropism.environments.stepping import Environments
import numpy as np
Environments(EnvironmentSpec("CartPole-v1"), 1, seed=0).step(np.zeros(1))
print("torch" in sys.modules)
"""
    done = in_a_process(code, tmp_path)
    assert done.stdout.strip() == "False", done.stderr


def test_trap_34_a_variable_horizon_is_refused_where_preferences_are_learned() -> None:
    require_fixed_horizon(EnvironmentSpec("Hopper-v5", horizon="fixed"))
    with pytest.raises(ConfigError, match="variable horizon") as caught:
        require_fixed_horizon(EnvironmentSpec("Hopper-v5"))
    assert 'environment.horizon = "fixed"' in caught.value.fix


def test_a_hopper_that_falls_goes_on_lying_there() -> None:
    """By the simulator's own switch: nothing restarts, and nothing is paid."""
    environments = Environments(EnvironmentSpec("Hopper-v5", horizon="fixed", steps=200, penalty=1e6), 1, seed=0)
    limp = np.zeros((1, environments.actions), np.float32)
    steps = [environments.step(limp) for _ in range(199)]
    assert not environments._envs[0].unwrapped.is_healthy  # type: ignore[attr-defined]
    steps.append(environments.step(limp))
    assert not any(step.terminated.any() for step in steps)
    assert [bool(step.truncated[0]) for step in steps] == [False] * 199 + [True]
    assert min(float(step.rewards[0]) for step in steps) > -10
    free = Environments(EnvironmentSpec("Hopper-v5"), 1, seed=0)
    assert any(free.step(limp).terminated[0] for _ in range(200))


def test_a_user_who_wants_hoppers_restarted_gets_it() -> None:
    spec = EnvironmentSpec("Hopper-v5", {"terminate_when_unhealthy": True}, horizon="fixed", penalty=50.0)
    environments = Environments(spec, 1, seed=0)
    limp = np.zeros((1, environments.actions), np.float32)
    rewards = [float(environments.step(limp).rewards[0]) for _ in range(200)]
    assert min(rewards) < -40
    assert not environments.take_finished()


@pytest.mark.parametrize("spec", [
    EnvironmentSpec("CartPole-v1", horizon="fixed", steps=60, penalty=7.0),
    EnvironmentSpec("Tiny-v0", {"cut": 4}, horizon="fixed", penalty=7.0),
])  # fmt: skip
def test_a_fixed_horizon_for_other_libraries(spec: EnvironmentSpec) -> None:
    """The same lengths and penalties as ours have inside."""
    env, ours = open_environment(spec), Environments(spec, 1, seed=5)
    assert isinstance(env, FixedHorizon)
    action = 0 if ours.discrete else np.zeros(1, np.float32)
    for episode in range(2):
        env.reset(seed=ours._episode(0).reset_seed())
        for number in range(1, ours.horizon + 1):
            _, reward, terminated, truncated, _ = env.step(action)
            step = ours.step(np.zeros(1 if ours.discrete else (1, 1), np.float32))
            if number < 5 and not episode:  # later, restarts begin elsewhere
                assert reward == step.rewards[0]
            assert not terminated
            assert truncated == step.truncated[0] == (number == ours.horizon)


def test_open_environment_has_a_limit() -> None:
    env = open_environment(EnvironmentSpec("Tiny-v0", steps=3))
    env.reset(seed=0)
    assert [env.step(np.zeros(1, np.float32))[3] for _ in range(3)] == [False, False, True]
    with pytest.raises(ConfigError, match="variable horizon"):
        FixedHorizon(make(EnvironmentSpec("Tiny-v0")))


def test_a_reward_of_the_users_own(tmp_path: Path) -> None:
    file = tmp_path / "wanted.py"
    file.write_text(
        "def height(env, action, seen):\n    return float(seen[0])\n\ndef text(env, action, seen):\n    return 'high'\n"
    )
    spec = EnvironmentSpec("CartPole-v1", reward=f"{file}:height")
    environments = Environments(spec, 2, 0)
    step = environments.step(np.zeros(2))
    assert np.allclose(step.rewards, step.successors[:, 0])
    with pytest.raises(ConfigError, match="returned 'high'"):
        Environments(EnvironmentSpec("CartPole-v1", reward=f"{file}:text"), 1, 0).step(np.zeros(1))
    with pytest.raises(ConfigError, match="has no function 'heigt'"):
        make(EnvironmentSpec("CartPole-v1", reward=f"{file}:heigt"))


REMEMBERED = """
class Longest:
    def reset(self):
        self.steps = 0

    def __call__(self, env, action, seen):
        self.steps += 1
        return self.steps

class Argued:
    def __init__(self, much):
        pass

class Endless:
    def __call__(self, env, action, seen):
        return 0.0
"""


def test_a_reward_with_memory_begins_anew_with_every_episode_and_is_there_after_a_resume(tmp_path: Path) -> None:
    file = tmp_path / "wanted.py"
    file.write_text(REMEMBERED)
    spec = EnvironmentSpec("Pendulum-v1", steps=5, reward=f"{file}:Longest")
    environments = Environments(spec, 2, 0)
    still = np.zeros((2, 1), np.float32)
    paid = [environments.step(still).rewards.tolist() for _ in range(7)]
    assert paid == [[t, t] for t in (1, 2, 3, 4, 5, 1, 2)]
    again = Environments(spec, 2, 0)
    again.restore(environments.position())
    assert again.step(still).rewards.tolist() == environments.step(still).rewards.tolist() == [3, 3]
    for name, problem in (("Argued", "much"), ("Endless", "reset")):
        with pytest.raises(ConfigError, match=problem) as caught:
            make(EnvironmentSpec("Pendulum-v1", reward=f"{file}:{name}"))
        assert "takes no arguments" in str(caught.value.fix)


SEEING = """
import gymnasium
import numpy as np

class Seeing(gymnasium.Wrapper):
    \"\"\"What it observes, and the most it was pushed by in this episode.\"\"\"
    def __init__(self, env):
        super().__init__(env)
        own = env.observation_space
        self.observation_space = gymnasium.spaces.Box(np.append(own.low, 0), np.append(own.high, 9), dtype=np.float64)
    def reset(self, **told):
        self.most = 0.0
        seen, about = self.env.reset(**told)
        return np.append(seen, self.most), about
    def step(self, action):
        seen, *rest = self.env.step(action)
        self.most = max(self.most, float(action[0]))
        return np.append(seen, self.most), *rest

class Taking(gymnasium.Wrapper):
    def __init__(self, env, more):
        super().__init__(env)

def plain(env):
    return env

def last(env, action, observation):
    return float(observation[-1])
"""


def test_a_wrapper_of_the_users_own_is_what_everybody_sees_and_is_there_after_a_resume(tmp_path: Path) -> None:
    file = tmp_path / "seeing.py"
    file.write_text(SEEING)
    spec = EnvironmentSpec("Pendulum-v1", steps=5, reward=f"{file}:last", wrapper=f"{file}:Seeing")
    assert EnvironmentSpec(**spec.as_json()) == spec
    environments = Environments(spec, 2, 0)
    assert environments.observation_size == 4
    pushed = [environments.step(np.array([[push], [1.0]])) for push in (0.5, 2.0, 0.0)]
    assert [step.successors[:, -1].tolist() for step in pushed] == [[0.5, 1], [2, 1], [2, 1]]
    assert [step.rewards.tolist() for step in pushed] == [[0.5, 1], [2, 1], [2, 1]]
    again = Environments(spec, 2, 0)
    again.restore(environments.position())
    still = np.zeros((2, 1))
    for _ in range(2):
        assert again.step(still).rewards.tolist() == environments.step(still).rewards.tolist() == [2, 1]
    assert environments.observations[:, -1].tolist() == [0, 0]  # another episode
    for name, problem in (("plain", "no gymnasium.Wrapper"), ("Taking", "more"), ("None", "no function 'None'")):
        with pytest.raises(ConfigError, match=problem):
            make(EnvironmentSpec("Pendulum-v1", wrapper=f"{file}:{name}"))
    # what was written without one reads as before
    assert "wrapper" not in EnvironmentSpec("Pendulum-v1").as_json()
