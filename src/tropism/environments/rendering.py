"""Pictures of segments, without a screen: from the simulator's stored states, or by playing the episode again.

MuJoCo is drawn by its own renderer with shadows, reflections and multisampling off, which cost most of the time in
software GL. The camera goes along with the agent over the ground. Other environments draw themselves (``rgb_array``).

Left out: a GPU chosen by number (MuJoCo reads ``MUJOCO_EGL_DEVICE_ID``); depth and segmentation pictures.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

import gymnasium
import numpy as np
from numpy.typing import NDArray

from tropism.environments.making import EnvironmentSpec, make, missing_package
from tropism.environments.mujoco_setup import settle_drawing
from tropism.environments.segments import Segment
from tropism.environments.states import is_mujoco, set_state
from tropism.environments.stepping import replay
from tropism.errors import ConfigError, ContractError

Pixels = NDArray[np.uint8]
RENDERER = 1
"""Raised whenever the same states would give other pictures; clips of before are then drawn anew."""
_GL = {"egl": "libegl1 libegl-mesa0 libgl1-mesa-dri", "osmesa": "libosmesa6", "glfw": "libglfw3"}


@dataclass(frozen=True)
class View:
    """How a segment is seen: pixels at most, pictures a second at most, and which of the model's cameras (empty: one
    that goes along)."""

    width: int = 240
    height: int = 240
    rate: float = 30.0
    camera: str = ""

    def __post_init__(self) -> None:
        """Errors: ConfigError for sizes that no video codec takes."""
        if min(self.width, self.height) < 16 or self.width % 2 or self.height % 2:
            raise ConfigError(f"pictures of {self.width} x {self.height}", "give even numbers of pixels from 16")
        if not 0 < self.rate <= 120:
            raise ConfigError(f"{self.rate} pictures a second", "give a rate above 0, up to 120")


class Canvas(Protocol):
    """What draws an environment as it stands."""

    def draw(self) -> Pixels:
        """``[H, W, 3]``."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


class Painter:
    """Draws segments of one kind of environment; keep it for many, since it compiles a model and opens a context.

    ``stride``: every how-manieth step is drawn, so that ``rate`` pictures a second show it as fast as it was. An OpenGL
    context belongs to one thread: use it where it was made. Errors: ConfigError for what cannot be drawn here.
    """

    def __init__(self, spec: EnvironmentSpec, view: View) -> None:
        settle_drawing()
        self.spec, self.view = spec, view
        self._made = make(spec, render=True, width=view.width, height=view.height)
        env = self._made.env
        own = float(env.metadata.get("render_fps") or 30)
        self.stride = max(1, round(own / view.rate))
        self.rate = own / self.stride
        env.reset(seed=0)  # environments draw themselves only once they are somewhere
        mujoco = is_mujoco(env.unwrapped)
        self._canvas: Canvas = MujocoCanvas(env, spec.id, view) if mujoco else _OwnCanvas(env, spec.id, view)

    def __enter__(self) -> Painter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Give back memory and context."""
        self._canvas.close()
        self._made.env.close()

    def frames(self, segment: Segment) -> Pixels:
        """``[F, H, W, 3]``: every ``stride``-th observation of the segment, the first one included. Errors:
        ContractError if its episode went another way when it was played again."""
        if segment.environment != self.spec:
            raise ConfigError(f"a segment of {segment.environment} for a painter of {self.spec}", "make another one")
        walk = self._set(segment) if segment.states is not None else self._play(segment)
        return np.stack([self._canvas.draw() for _ in walk])

    def _set(self, segment: Segment) -> Iterator[int]:
        assert segment.states is not None
        for t in range(0, len(segment), self.stride):
            set_state(self._made.env, segment.states[t])
            yield t

    def _play(self, segment: Segment) -> Iterator[int]:
        assert segment.played is not None
        assert segment.episode is not None
        actions = np.concatenate([segment.played, segment.actions[:-1]])
        for at, seen in enumerate(replay(self._made, segment.episode, actions)):
            t = at - segment.start
            if t < 0:
                continue
            if not np.array_equal(seen, segment.observations[t]):
                raise ContractError(
                    f"step {at} of {segment.episode} in {self.spec.id} was another one when the episode was replayed",
                    "record simulator states, or use an environment that depends on its seed and its actions alone",
                )
            if t % self.stride == 0:
                yield t


class MujocoCanvas:
    """MuJoCo's own renderer, as cheap as it goes."""

    def __init__(self, env: gymnasium.Env[Any, Any], id_: str, view: View) -> None:
        import mujoco

        bare: Any = env.unwrapped
        self._gl, self._model, self._data = mujoco, bare.model, bare.data
        self._shown = mujoco.MjData(self._model)
        self._kind = mujoco.mjtState.mjSTATE_INTEGRATION
        self._state = np.empty(mujoco.mj_stateSize(self._model, self._kind))
        size = view.width, view.height
        self._model.vis.quality.offsamples = 0  # both are read when the context is made
        self._model.vis.global_.offwidth, self._model.vis.global_.offheight = size
        self._followed = -1
        self._camera = self._look(id_, view, getattr(bare, "mujoco_renderer", None))
        self._context = open_gl(*size)
        self._target: Any = mujoco.MjrContext(self._model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._target)
        self._scene = mujoco.MjvScene(self._model, 2000)
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            self._scene.flags[flag] = 0
        self._options, self._moved = mujoco.MjvOption(), mujoco.MjvPerturb()
        self._window = mujoco.MjrRect(0, 0, *size)
        self._pixels = np.empty((view.height, view.width, 3), np.uint8)

    def _look(self, id_: str, view: View, renderer: Any) -> Any:
        """The camera: one of the model's by name, or a free one, by the environment's own settings."""
        mujoco, model = self._gl, self._model
        camera = mujoco.MjvCamera()
        names = [model.camera(i).name for i in range(model.ncam)]
        if view.camera:
            if view.camera not in names:
                raise ConfigError(f"{id_} has no camera {view.camera!r}", f"it has {', '.join(names) or 'none'}")
            camera.type, camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, names.index(view.camera)
            return camera
        camera.lookat[:] = np.median(self._data.geom_xpos, 0)
        camera.distance, camera.elevation = model.stat.extent, -60.0 if self._flat() else -20.0
        for name, value in (getattr(renderer, "default_cam_config", None) or {}).items():
            if name == "trackbodyid":
                self._followed = max(int(value), 0) or -1  # body 0 is the world
            elif name == "lookat":
                camera.lookat[:] = value
            elif name != "type":
                setattr(camera, name, value)
        if self._followed < 0 and "track" in names:
            self._followed = int(model.cam_bodyid[names.index("track")])
        return camera

    def _flat(self) -> bool:
        """Whether everything moves along the ground (swimmer, reacher), which is best seen from above."""
        kinds, upright = self._model.jnt_type, np.abs(self._model.jnt_axis[:, 2]) > 0.9
        turns, slides = (kinds == int(kind) for kind in (self._gl.mjtJoint.mjJNT_HINGE, self._gl.mjtJoint.mjJNT_SLIDE))
        return bool(((turns & upright) | (slides & ~upright)).all())

    def draw(self) -> Pixels:
        """See ``Canvas``."""
        gl = self._gl
        self._context.make_current()
        # a step leaves bodies where they were before it; they are placed in a copy, so that nothing is disturbed
        gl.mj_getState(self._model, self._data, self._state, self._kind)
        gl.mj_setState(self._model, self._shown, self._state, self._kind)
        gl.mj_fwdPosition(self._model, self._shown)
        if self._followed > 0:  # over the ground only: how high it jumps can be seen
            self._camera.lookat[:2] = self._shown.subtree_com[self._followed][:2]
        everything = gl.mjtCatBit.mjCAT_ALL
        gl.mjv_updateScene(self._model, self._shown, self._options, self._moved, self._camera, everything, self._scene)
        gl.mjr_render(self._window, self._scene, self._target)
        gl.mjr_readPixels(self._pixels, None, self._window, self._target)
        return self._pixels[::-1].copy()  # OpenGL's first row is the lowest

    def close(self) -> None:
        """See ``Canvas``."""
        self._context.make_current()
        self._target.free()
        self._context.free()


class _OwnCanvas:
    """An environment's own ``rgb_array``, brought to size."""

    def __init__(self, env: gymnasium.Env[Any, Any], id_: str, view: View) -> None:
        if view.camera:
            raise ConfigError(f"{id_} draws itself and has no camera {view.camera!r}", "leave the camera out")
        self._env, self._id, self._view = env, id_, view

    def draw(self) -> Pixels:
        """See ``Canvas``."""
        from av import VideoFrame

        try:
            drawn: Any = self._env.render()
        except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
            raise missing_package(self._id, error) from error
        if not (isinstance(drawn, np.ndarray) and drawn.ndim == 3 and drawn.shape[2] == 3 and drawn.dtype == np.uint8):
            is_what = f"{drawn.dtype} {drawn.shape}" if isinstance(drawn, np.ndarray) else repr(drawn)
            raise ConfigError(f"{self._id} drew {is_what}", "its rgb_array must be bytes [height, width, 3]")
        scale = min(self._view.width / drawn.shape[1], self._view.height / drawn.shape[0])
        height, width = (max(16, 2 * round(n * scale / 2)) for n in drawn.shape[:2])
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(drawn), "rgb24")
        return frame.reformat(width, height, interpolation="AREA").to_ndarray()

    def close(self) -> None:
        """See ``Canvas``; the environment is closed by whoever made it."""


def open_gl(width: int, height: int) -> Any:
    """An OpenGL context without a window, current in this thread. Errors: ConfigError that says what to install."""
    name = os.environ.get("MUJOCO_GL", "").lower() or ("cgl" if sys.platform == "darwin" else "glfw")
    if name not in {*_GL, "cgl"}:
        raise ConfigError(f"MUJOCO_GL={name} draws nothing", "set MUJOCO_GL=egl, osmesa or glfw, or leave it unset")
    failures: tuple[type[Exception], ...] = (ImportError, AttributeError, RuntimeError, OSError)
    try:
        failures = (*failures, importlib.import_module("OpenGL.error").Error)
        context = importlib.import_module(f"mujoco.{name}").GLContext(width, height)
        context.make_current()
    except failures as error:  # a library that is not there shows as any of these
        fix = f"on Debian: apt-get install {_GL[name]}" if name in _GL else "set MUJOCO_GL=glfw"
        other = "where there is no screen, set MUJOCO_GL=egl" if name == "glfw" else "or set another MUJOCO_GL"
        raise ConfigError(f"MuJoCo cannot draw with MUJOCO_GL={name}: {error}", f"{fix}; {other}") from error
    return context
