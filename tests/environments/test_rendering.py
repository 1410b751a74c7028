"""Pictures of segments: what is drawn, that states and replays draw the same, and what is said where nothing can be."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from segment_cases import chunks

from tropism.environments.making import EnvironmentSpec
from tropism.environments.rendering import Painter, View, open_gl
from tropism.environments.segments import Segment
from tropism.environments.stepping import Environments
from tropism.errors import ConfigError, ContractError

PROBE = """
from tropism.environments.mujoco_setup import settle_drawing
from tropism.environments.rendering import open_gl
settle_drawing()
open_gl(32, 32)
"""


def can_draw() -> bool:
    """Whether MuJoCo can draw here: asked in another process, since a broken driver may end it."""
    return subprocess.run([sys.executable, "-c", PROBE], capture_output=True, timeout=120, check=False).returncode == 0


needs_gl = pytest.mark.skipif(not can_draw(), reason="no OpenGL without a screen: scripts/egl.sh installs it on Debian")


def segment_of(spec: EnvironmentSpec, record: bool, length: int = 9, steps: int = 40) -> Segment:
    """One segment from the middle."""
    environments = Environments(spec, 2, seed=2, record_states=record)
    (chunk,) = chunks(environments, 1, steps)
    return chunk.cut(steps - length - 1, 1, length)


@needs_gl
@pytest.mark.parametrize("name", ["HalfCheetah-v5", "Hopper-v5", "Reacher-v5"])
def test_trap_38_states_draw_what_a_replay_draws(name: str) -> None:
    """From stored states alone, with shadows and multisampling off. Put back (states ignored): the pictures differ."""
    spec = EnvironmentSpec(name, horizon="fixed")
    stored, played = segment_of(spec, record=True), segment_of(spec, record=False)
    with Painter(spec, View(64, 48)) as painter:
        frames = painter.frames(stored)
        assert frames.shape == (-(-9 // painter.stride), 48, 64, 3)
        assert frames.dtype == np.uint8
        assert np.array_equal(frames, painter.frames(played))
        assert np.array_equal(frames, painter.frames(stored))  # nothing is left over from the other one
        assert np.array_equal(frames, painter.frames(replace(stored, episode=None)))  # states are enough
        canvas: Any = painter._canvas
        assert canvas._model.vis.quality.offsamples == 0
        assert not canvas._scene.flags[canvas._gl.mjtRndFlag.mjRND_SHADOW]
        assert canvas._target.offSamples == 0
    assert frames.std() > 10
    assert len(frames) == 1 or not np.array_equal(frames[0], frames[-1])


@needs_gl
def test_the_camera_goes_along() -> None:
    """The cheetah stays in the middle of the picture when its state is moved by 30 m; with the model's own fixed lens
    of the same name too."""
    spec = EnvironmentSpec("HalfCheetah-v5")
    segment = segment_of(spec, record=True, length=2)
    assert segment.states is not None
    with Painter(spec, View(96, 96)) as painter:
        here = painter.frames(segment)[0].astype(int)
        segment.states[:, 1] += 30.0  # after the time: the root's x
        there = painter.frames(segment)[0].astype(int)
    skin = (here[..., 0] - here[..., 2]) > 40  # nothing else has a colour
    skin_there = (there[..., 0] - there[..., 2]) > 40
    assert 50 < skin.sum() < 3000
    assert abs(skin.sum() - skin_there.sum()) < 0.1 * skin.sum()
    with Painter(spec, View(96, 96, camera="track")) as painter:
        assert painter.frames(segment)[0].std() > 10
    with pytest.raises(ConfigError, match="no camera 'side'") as caught:
        Painter(spec, View(camera="side"))
    assert "track" in caught.value.fix


@needs_gl
def test_two_painters_do_not_disturb_each_other() -> None:
    cheetah, hopper = EnvironmentSpec("HalfCheetah-v5"), EnvironmentSpec("Hopper-v5", horizon="fixed")
    one, two = segment_of(cheetah, record=True), segment_of(hopper, record=True)
    with Painter(cheetah, View(48, 48)) as first:
        alone = first.frames(one)
        with Painter(hopper, View(48, 48)) as second:
            second.frames(two)
            assert np.array_equal(first.frames(one), alone)
        assert np.array_equal(first.frames(one), alone)


@pytest.mark.parametrize("record", [True, False])
@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1", "MountainCar-v0", "Acrobot-v1"])
def test_classic_control_draws_itself(name: str, record: bool) -> None:
    pytest.importorskip("pygame")
    spec = EnvironmentSpec(name, horizon="fixed", steps=100)
    segment = segment_of(spec, record)
    with Painter(spec, View(120, 120)) as painter:
        frames = painter.frames(segment)
        assert np.array_equal(frames, painter.frames(segment))
        assert painter.rate <= 30
    height, width = frames.shape[1:3]
    assert max(height, width) == 120
    assert (frames[0].reshape(-1, 3).max(1) < 250).any()  # not an empty sheet
    assert not np.array_equal(frames[0], frames[-1])


def test_an_environment_of_ones_own_is_drawn_as_it_stands() -> None:
    """Every step by its own grey, thinned to the rate that was asked for, within the size, its shape kept."""
    spec = EnvironmentSpec("Tiny-v0", {"end": 7}, horizon="fixed")
    environments = Environments(spec, 1, seed=2)
    (chunk,) = chunks(environments, 1, 10)
    segment = chunk.cut(1, 0, 9)
    with Painter(spec, View(20, 20, rate=5)) as painter:
        assert (painter.stride, painter.rate) == (2, 5.0)  # it has ten a second
        frames = painter.frames(segment)
    assert frames.shape[1:] == (16, 20, 3)  # 40 x 20 would be 20 x 10: no codec takes less than 16
    assert frames[:, -4, 10, 0].tolist() == [10, 30, 50, 0, 20]  # after seven steps it began anew
    with pytest.raises(ConfigError, match="a painter of"):
        Painter(EnvironmentSpec("Tiny-v0"), View()).frames(segment)
    with pytest.raises(ConfigError, match="draws itself"):
        Painter(spec, View(camera="track"))


def test_an_episode_that_goes_another_way_is_not_shown() -> None:
    """Put back (the replay is trusted): people would judge what never happened."""
    spec = EnvironmentSpec("Tiny-v0", {"hidden": True})
    segment = segment_of(spec, record=False, length=3, steps=10)
    with Painter(spec, View()) as painter, pytest.raises(ContractError, match="when the episode was replayed"):
        painter.frames(segment)


@pytest.mark.parametrize("view", [{"width": 15}, {"height": 241}, {"rate": 0.0}, {"rate": 1000.0}])
def test_views_that_no_video_can_have_are_refused(view: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        View(**view)


def told(code: str, **environment: str) -> str:
    """What a ConfigError of ``code`` says, in a fresh interpreter."""
    body = "\n".join(f"    {line}" for line in code.strip().splitlines())
    wrapped = f"from tropism.errors import ConfigError\ntry:\n{body}\nexcept ConfigError as error:\n    print(error)\n"
    kept = {k: v for k, v in os.environ.items() if k not in {"MUJOCO_GL", "PYOPENGL_PLATFORM", "DISPLAY"}}
    given, command = kept | environment, [sys.executable, "-c", wrapped]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=given, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="EGL is Linux's")
def test_missing_egl_is_told_with_what_to_install() -> None:
    """No driver to be found (the loader's own switch), and a device that is not there."""
    said = told(PROBE, __EGL_VENDOR_LIBRARY_DIRS="nowhere", __EGL_VENDOR_LIBRARY_FILENAMES="nowhere")
    assert "cannot draw with MUJOCO_GL=egl" in said
    assert "apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri" in said
    assert "cannot draw" in told(PROBE, MUJOCO_EGL_DEVICE_ID="99")


def test_what_draws_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "disable")
    with pytest.raises(ConfigError, match="MUJOCO_GL=disable draws nothing"):
        open_gl(32, 32)


def test_missing_pygame_is_told_with_what_to_install() -> None:
    said = told("""
import sys
sys.modules["pygame"] = None  # as if it were not installed
from tropism.environments.making import EnvironmentSpec, make
from tropism.environments.rendering import Painter, View
painter = Painter(EnvironmentSpec("CartPole-v1"), View())
painter._canvas.draw()
""")
    assert "pip install 'gymnasium[classic-control]'" in said


def test_drawing_is_settled_before_the_libraries_come(tmp_path: Path) -> None:
    code = """
import os, sys
from tropism.environments.making import EnvironmentSpec, make
assert "mujoco" not in sys.modules
make(EnvironmentSpec("HalfCheetah-v5"))
print(os.environ["MUJOCO_GL"], os.environ["LP_NUM_THREADS"])
"""
    settled = {"MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY", "LP_NUM_THREADS"}
    kept = {name: value for name, value in os.environ.items() if name not in settled}
    for given, expected in (({}, "egl 0"), ({"MUJOCO_GL": "glfw", "LP_NUM_THREADS": "2"}, "glfw 2")):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=tmp_path, env=kept | given
        )
        assert done.stdout.strip() == expected, done.stderr
