"""What is wanted of a behaviour that no reward of an environment asks for, and whether it was done, both told from the
simulator's state.

A wanted reward is an ``environment.reward``: (bare environment, action, observation) -> number, or a class of such
things where it takes memory (``making.Judged``). An oracle judges segments by it; the agent learns from its judgements
alone. What is judged has to show: an ``environment.wrapper`` adds to what is observed. Whether the trick was done is
judged by other functions, of whole episodes.

Left out: tricks of other walkers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

PITCH = 2
"""Place of the hopper's pitch (radians, forwards) in ``qpos`` and of its rate in ``qvel``."""
HEIGHT = 1
"""Place of the torso's height (metres) in ``qpos``."""
UPRIGHT_M = 0.7
"""Gymnasium's own limit: a torso below is a hopper that has fallen."""
RISE_S = 0.25
"""How long a hopper that has landed crouched may take to get up."""
SETTLED_S = 0.25
"""How long a landed hopper must then keep standing."""
TURN = 2 * math.pi
STANDING_PAY = 4.0
"""Of a step on which the hopper stands upright after a backflip; the air pays 1.1 at most."""
FLOWN = (0.55, 1.15)
"""Turns of a flight from which, and up to which, standing after it is paid the more."""
SENSED = (-0.25, 1.25)
"""Turns backwards that a hopper's sense of balance tells apart, a little beyond those that pay."""
RISEN_M = (0.4, 1.0)
"""Heights of the torso, metres, between which a crouched landing is paid the more."""


@dataclass(frozen=True)
class Pose:
    """What tells of one step of the hopper: ``pitch`` (radians, forwards, counted on beyond a turn), ``height`` of the
    torso (metres), whether nothing touches the ground, and whether anything but the foot does."""

    pitch: float
    height: float
    airborne: bool
    sprawled: bool


@dataclass(frozen=True)
class Flight:
    """From take-off to touch-down: how far the hopper turned backwards (radians), and whether it then stood."""

    turned: float
    landed: bool


def hopper_pose(env: Any) -> Pose:
    """The pose of a bare hopper after a step."""
    data, model = env.data, env.model
    airborne, sprawled = True, False
    if data.ncon:
        floor, foot = model.geom("floor").id, model.geom("foot_geom").id
        for pair in data.contact.geom.tolist():
            if floor in pair:  # a limb against another limb touches no ground
                airborne = False
                sprawled |= foot not in pair
    return Pose(float(data.qpos[PITCH]), float(data.qpos[HEIGHT]), airborne, sprawled)


class Flying:
    """What is remembered of a hopper's flights, from one step of an episode to the next."""

    def __init__(self) -> None:
        self.take_off: float | None = None
        """Pitch when the ground was last touched, radians; None before the first step."""
        self.footed = True
        """Whether it last touched the ground with the foot alone."""
        self.turned = 0.0
        """Backwards since then, in turns; nothing in a flight that did not leave from the foot."""
        self.flown = 0.0
        """The farthest flight since it sprawled that ended on the foot, in turns."""

    def see(self, pose: Pose) -> None:
        """The pose after a step."""
        turned = 0.0 if self.take_off is None else (self.take_off - pose.pitch) / TURN
        if not pose.airborne:
            self.footed = not pose.sprawled
            self.flown = max(self.flown, turned) if self.footed else 0.0
        if not pose.airborne or self.take_off is None:
            self.take_off = pose.pitch
        self.turned = turned if self.footed else 0.0


class HopperBackflip:
    """A backflip that ends on the foot, a number per step of Gymnasium's hopper. In the air: the turn backwards since
    it left the ground, in turns, if it left from the foot: who falls on the back would else bounce on, and be paid for
    it. On the foot: up to four times that, by how far the flight before had turned (nothing for half a turn), how
    upright the hopper is, and how high. A step on which it sprawls is paid nothing, and takes away what was flown.

    Standing is dear because it is rare at first, and paid by degrees because a crumpled landing is the way to a good
    one.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """An episode begins."""
        self.flying = Flying()

    def __call__(self, env: Any, action: Any, observation: Any) -> float:
        """The pay of a step; ``env`` is the bare environment after it."""
        pose, flying = hopper_pose(env), self.flying
        flying.see(pose)
        if pose.airborne:
            return min(1.1, max(-0.2, flying.turned))
        if pose.sprawled:
            return 0.0
        upright = max(0.0, math.cos(pose.pitch)) * _between(pose.height, *RISEN_M)
        return STANDING_PAY * upright * _between(flying.flown, *FLOWN)


class FlightSense(gymnasium.Wrapper[Any, Any, Any, Any]):
    """The hopper with a sense of contact and of balance: its observation, and behind it whether nothing touches the
    ground, whether more than the foot does (0 or 1), the turn backwards in a flight that left from the foot, the
    farthest flight that ended there (turns, within ``SENSED``), and the cosine and sine of the pitch. A backflip is
    judged by these; the hopper's own observation has the pitch alone, counted on beyond a turn.

    What is sensed ends where more of it is worth no more: a learned reward would promise the more for it.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        own = env.observation_space
        assert isinstance(own, gymnasium.spaces.Box)
        low, high = np.array([0, 0, SENSED[0], 0, -1, -1]), np.array([1, 1, SENSED[1], SENSED[1], 1, 1])
        self.observation_space = gymnasium.spaces.Box(
            np.concatenate([own.low, low]), np.concatenate([own.high, high]), dtype=np.float64
        )
        self.flying = Flying()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """As the environment's; nothing has been flown yet."""
        self.flying = Flying()
        seen, about = self.env.reset(seed=seed, options=options)
        return self._sensed(seen, hopper_pose(self.unwrapped)), about

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """As the environment's, but for the observation."""
        seen, reward, ended, cut, about = self.env.step(action)
        pose = hopper_pose(self.unwrapped)
        self.flying.see(pose)
        return self._sensed(seen, pose), reward, ended, cut, about

    def _sensed(self, seen: Any, pose: Pose) -> Any:
        turned = self.flying.turned if pose.airborne else 0.0
        senses = [min(SENSED[1], max(SENSED[0], turned)), min(SENSED[1], self.flying.flown)]
        return np.concatenate(
            [seen, [pose.airborne, pose.sprawled, *senses, math.cos(pose.pitch), math.sin(pose.pitch)]]
        )


def _between(value: float, low: float, high: float) -> float:
    """How far ``value`` is on the way from ``low`` to ``high``, 0 to 1."""
    return min(1.0, max(0.0, (value - low) / (high - low)))


def flights(poses: Sequence[Pose], dt: float) -> list[Flight]:
    """Every flight of an episode whose steps last ``dt`` seconds; one that its end cuts off has not landed. Landed is
    who comes down on the foot, crouched perhaps, has the torso up within ``RISE_S`` and keeps it up for ``SETTLED_S``,
    and all that time touches the ground with the foot alone."""
    found, t = [], 0
    while t < len(poses):
        if not poses[t].airborne:
            t += 1
            continue
        end = next((u for u in range(t, len(poses)) if not poses[u].airborne), len(poses))
        turned = poses[max(t - 1, 0)].pitch - poses[min(end, len(poses) - 1)].pitch
        found.append(Flight(turned, _stood(poses[end:], round(RISE_S / dt), round(SETTLED_S / dt))))
        t = end
    return found


def _stood(after: Sequence[Pose], rise: int, settled: int) -> bool:
    """Whether a touch-down, the first pose, was a landing; ``rise`` and ``settled`` are steps."""
    up = next((u for u, pose in enumerate(after[: rise + 1]) if pose.height > UPRIGHT_M), None)
    if up is None or len(after) < up + settled:
        return False
    stands = all(pose.height > UPRIGHT_M for pose in after[up : up + settled])
    return stands and not any(pose.sprawled for pose in after[: up + settled])
