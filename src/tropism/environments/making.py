"""Environments by Gymnasium id, with errors that say what to install or which name was meant.

Preference learning compares segments, and an episode that may end early tells the teacher (and the reward model) how
the agent does, whatever the reward says. So an environment has a *horizon*: ``variable`` as Gymnasium has it (for true
rewards), ``fixed`` where every episode lasts equally long. MuJoCo's walkers can go on after a fall
(``terminate_when_unhealthy``); any other environment is restarted within the episode, at a cost (``penalty``).

Observations are numbers, or pictures (``environments/images.py``): the environment's own, or drawn by it.

Left out: Dict and Tuple observations, pictures beside numbers, multi-agent environments.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from tropism.environments.images import FromPixels, Picture, Pixels, check_picture, picture_of
from tropism.environments.mujoco_setup import compiling, settle_drawing
from tropism.errors import ConfigError
from tropism.settings.functions import load_function
from tropism.settings.sections import check_section

Horizon = Literal["variable", "fixed"]
HEALTH = "terminate_when_unhealthy"
_CHECKS = {"PassiveEnvChecker", "OrderEnforcing", "TimeLimit"}


@dataclass(frozen=True)
class EnvironmentSpec:
    """What an environment is: its id, arguments of its constructor, how long an episode lasts.

    ``horizon = "fixed"``: every episode has ``steps`` steps (0: the environment's own limit). ``penalty`` is subtracted
    from the true reward wherever a fixed episode would have ended. ``reward``: a Python function that says what is
    wanted instead of the environment's own reward, ``file.py:name`` or ``package.module:name``; called with (the bare
    environment after the step, the action, the observation), it returns a number. Where that takes memory it is a
    class: every environment has an object of it, called likewise, whose ``reset()`` is called when an episode begins.
    ``wrapper``: a ``gymnasium.Wrapper`` of the user's, named likewise, around the bare environment: what it observes is
    what agents and rewards see. What it remembers must follow from an episode's seed and actions.
    ``pixels``: settings of ``images.Pixels``, to observe pictures in place of what it observes (None: as it is). A step
    of the agent is then ``skip`` steps of the environment.
    """

    id: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    horizon: Horizon = "variable"
    steps: int = 0
    penalty: float = 1.0
    reward: str = ""
    pixels: Mapping[str, Any] | None = None
    wrapper: str = ""

    def as_json(self) -> dict[str, Any]:
        """The arguments of its constructor; ``pixels`` and ``wrapper`` only where there are any, as in what was written
        before."""
        found = asdict(self)
        if self.pixels is None:
            del found["pixels"]
        if not self.wrapper:
            del found["wrapper"]
        return found


@dataclass(frozen=True)
class Made:
    """One environment, its time limit taken out: whoever steps it counts. ``restarts``: what would end an episode
    before its limit restarts it."""

    env: gymnasium.Env[Any, Any]
    steps: int
    restarts: bool
    penalty: float

    @property
    def observation_size(self) -> int:
        """Numbers in an observation."""
        space = self.env.observation_space
        assert isinstance(space, spaces.Box)
        return int(np.prod(space.shape))

    @property
    def picture(self) -> Picture | None:
        """Height, width and channels where observations are pictures."""
        return picture_of(self.env.observation_space)

    def row(self, seen: Any) -> NDArray[Any]:
        """An observation as a row ``[D]``: float32, or the bytes of a picture."""
        return np.asarray(seen, np.float32 if self.picture is None else np.uint8).reshape(-1)


def make(spec: EnvironmentSpec, render: bool = False, width: int = 240, height: int = 240) -> Made:
    """Make an environment. Errors: ConfigError for an unknown id (with the nearest names), a simulator that is not
    installed, arguments that it does not take, spaces that are not supported, an endless episode."""
    arguments, restarts = dict(spec.arguments), spec.horizon == "fixed"
    pixels = None if spec.pixels is None else check_section(Pixels, "environment.pixels", spec.pixels)
    found = _spec_of(spec.id)
    if restarts and _can_go_on(found):
        arguments.setdefault(HEALTH, False)
    if render or (pixels is not None and _draws_itself(found)):
        arguments |= _picture(spec.id, found, width, height)
    try:
        settle_drawing()
        with compiling() if _is_mujoco(found) else nullcontext():
            env: gymnasium.Env[Any, Any] = gymnasium.make(spec.id, disable_env_checker=True, **arguments)
    except TypeError as error:
        raise ConfigError(
            f"environment {spec.id} with {arguments}: {error}", "give arguments that its class takes"
        ) from error
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        raise missing_package(spec.id, error) from error
    if spec.steps < 0:
        raise ConfigError(f"environment.steps = {spec.steps}", "give 0 (the environment's own limit) or more")
    limit = int(getattr(found, "max_episode_steps", 0) or 0)
    steps = spec.steps or math.ceil(limit / (pixels.skip if pixels is not None else 1))
    if restarts and not steps:
        raise ConfigError(f"{spec.id} has no time limit, so its episodes have no fixed length", "set environment.steps")
    env = _bare(env)
    if spec.wrapper:
        env = _wrapped(env, spec.wrapper)
    if spec.reward:
        env = Judged(env, spec.reward)
    if pixels is not None:
        env = FromPixels(env, pixels, spec.id)
    _check_spaces(spec.id, env)
    return Made(env, steps, restarts, spec.penalty)


def _wrapped(env: gymnasium.Env[Any, Any], reference: str) -> gymnasium.Env[Any, Any]:
    """An environment in a user's wrapper. Errors: ConfigError for what is none."""
    put_around: Callable[..., Any] = load_function(reference)
    kind: Any = put_around
    fix = "name a subclass of gymnasium.Wrapper that takes the environment alone"
    if not (inspect.isclass(kind) and issubclass(kind, gymnasium.Wrapper)):
        raise ConfigError(f"environment.wrapper {reference} is no gymnasium.Wrapper", fix)
    try:
        return put_around(env)
    except TypeError as error:
        raise ConfigError(f"environment.wrapper {reference}: {error}", fix) from error


class Judged(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment whose true reward is a user's function, or an object of a user's class.

    Errors: ConfigError for a class that takes arguments or has no ``reset``.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], reference: str) -> None:
        super().__init__(env)
        wanted: Any = load_function(reference)
        self._begin: Callable[[], Any] = lambda: None
        if inspect.isclass(wanted):
            try:
                wanted = wanted()
                self._begin = wanted.reset
            except (TypeError, AttributeError) as error:
                fix = "a class of rewards takes no arguments, and its reset() is called when an episode begins"
                raise ConfigError(f"environment.reward {reference}: {error}", fix) from error
        self.reference, self._judge = reference, wanted

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """As the environment's; what was remembered of the last episode is forgotten."""
        self._begin()
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """As the environment's, but for the reward. Errors: ConfigError where the function gives no finite number."""
        seen, _, ended, cut, about = self.env.step(action)
        given = self._judge(self.unwrapped, action, seen)
        try:
            reward = float(given)
        except (TypeError, ValueError):
            reward = math.nan
        if not math.isfinite(reward):
            raise ConfigError(f"environment.reward {self.reference} returned {given!r:.60}", "return a finite number")
        return seen, reward, ended, cut, about


def _spec_of(id_: str) -> Any:
    """The registered spec; of ``module:Name-v0`` the module is imported first, as Gymnasium does."""
    module, _, name = id_.rpartition(":")
    try:
        if module:
            importlib.import_module(module)
        return gymnasium.spec(name)
    except gymnasium.error.Error as error:
        names = [name for name in gymnasium.registry if not name.startswith(("phys2d/", "tabular/"))]
        close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        fix = f"did you mean {' or '.join(close)}?" if close else "`python -m gymnasium.envs.registration` lists them"
        raise ConfigError(f"there is no environment {id_!r} ({str(error).splitlines()[0]})", fix) from error
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"environment {id_!r} needs the module {error.name!r}", f"pip install {error.name}"
        ) from error


def missing_package(id_: str, error: Exception) -> ConfigError:
    """What to install for an environment that could not be made or drawn."""
    words = str(error)
    fix = "install what it names"
    if isinstance(error, ImportError) and error.name:
        fix = f"pip install {error.name.partition('.')[0]}"
    for extra in ("mujoco", "box2d", "classic-control", "atari", "toy-text"):
        if extra in words.lower().replace("_", "-"):
            fix = f"pip install 'gymnasium[{extra}]'"
    return ConfigError(f"environment {id_} cannot be used: {words}", fix)


def _modes(spec: Any) -> Any:
    return getattr(_entry(spec), "metadata", {}).get("render_modes", ["rgb_array"])


def _draws_itself(spec: Any) -> bool:
    """Whether an environment draws itself into an array; MuJoCo's are drawn otherwise."""
    return not _is_mujoco(spec) and "rgb_array" in _modes(spec)


def _picture(id_: str, spec: Any, width: int, height: int) -> dict[str, Any]:
    """Arguments with which an environment draws itself into an array."""
    if not _is_mujoco(spec) and not _draws_itself(spec):  # MuJoCo's list their modes when they are made
        raise ConfigError(
            f"{id_} cannot draw itself: its render modes are {_modes(spec)}", "give it the mode rgb_array"
        )
    size = {"width": width, "height": height} if _is_mujoco(spec) else {}
    return {"render_mode": "rgb_array", **size}


def _is_mujoco(spec: Any) -> bool:
    return "mujoco" in str(getattr(spec, "entry_point", ""))


def _can_go_on(spec: Any) -> bool:
    """Whether the environment's constructor takes ``terminate_when_unhealthy`` (MuJoCo's walkers)."""
    try:
        return HEALTH in inspect.signature(_entry(spec)).parameters
    except (TypeError, ValueError):
        return False


def _entry(spec: Any) -> Any:
    """The class or function that makes the environment."""
    entry: Any = getattr(spec, "entry_point", None)
    if not isinstance(entry, str):
        return entry
    try:
        settle_drawing()  # MuJoCo is imported here
        return gymnasium.envs.registration.load_env_creator(entry)
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        raise missing_package(spec.id, error) from error


def _check_spaces(id_: str, env: gymnasium.Env[Any, Any]) -> None:
    seen, acts = env.observation_space, env.action_space
    if (picture := picture_of(seen)) is not None:
        check_picture(id_, picture)
    elif not (isinstance(seen, spaces.Box) and len(seen.shape) <= 2):  # a Discrete one is a Box by now
        raise ConfigError(
            f"{id_} has the observation space {seen}",
            "supported are Box of numbers, Discrete, and pictures (Box of uint8, [height, width, channels]); wrap the "
            "environment, or set environment.pixels",
        )
    if not (isinstance(acts, spaces.Box) and len(acts.shape) == 1) and not isinstance(acts, spaces.Discrete):
        raise ConfigError(f"{id_} has the action space {acts}", "supported are Box of one dimension and Discrete")
    if isinstance(acts, spaces.Box) and not np.isfinite([acts.low, acts.high]).all():
        raise ConfigError(f"{id_} has unbounded actions ({acts})", "wrap it in gymnasium.wrappers.RescaleAction")


def _bare(env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    """Without the wrappers that only check and count, which cost more than a small environment's step."""
    inner: Any = env
    while isinstance(inner, gymnasium.Wrapper) and type(inner).__name__ in _CHECKS:
        inner = inner.env
    env = inner
    if isinstance(env.observation_space, spaces.Discrete):
        env = gymnasium.wrappers.FlattenObservation(env)
    return env
