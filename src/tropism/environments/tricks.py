"""What is wanted of a behaviour that no reward of an environment asks for, and whether it was done, both told from the
simulator's state.

A wanted reward is an ``environment.reward``: (bare environment, action, observation) -> number, or a class of such
things where it takes memory (``making.Judged``). An oracle judges segments by it; the agent learns from the comparisons
alone. Whether the trick was done is judged by other functions, of whole episodes.

Left out: tricks of other walkers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

PITCH = 2
"""Place of the hopper's pitch (radians, forwards) in ``qpos`` and of its rate in ``qvel``."""
HEIGHT = 1
"""Place of the torso's height (metres) in ``qpos``."""
UPRIGHT_M = 0.7
"""Gymnasium's own limit: a torso below is a hopper that has fallen."""
SETTLED_S = 0.12
"""How long after touch-down a landed hopper must still stand."""
TURN = 2 * math.pi
CLOSE = 0.75
"""Turns of a flight that comes close to a backflip."""
MOST_LEAN = 1.2
"""Radians from upright within which a hopper on its foot counts as landed."""


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


class HopperBackflip:
    """A backflip that ends on the foot, a number per step of Gymnasium's hopper. In the air: the turn backwards since
    it left the ground, in turns. Upright on the foot: nothing before ``CLOSE`` of a turn was flown, and from there on
    up to four times the air's pay, the more the farther the flight was. A step on which it sprawls is paid nothing, and
    takes away what was landed.

    Standing is dear because it is rare at first, and steep because what falls short of a turn is no flip. No more is
    remembered than the flight: a reward that reads poses could not learn what is hidden from it for long.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """An episode begins."""
        self.take_off: float | None = None
        """Pitch when the ground was last touched, radians."""
        self.landed = 0.0
        """The farthest flight since it sprawled that ended upright on the foot, in turns."""

    def __call__(self, env: Any, action: Any, observation: Any) -> float:
        """The pay of a step; ``env`` is the bare environment after it."""
        pose = hopper_pose(env)
        turned = 0.0 if self.take_off is None else (self.take_off - pose.pitch) / TURN
        if pose.airborne:
            self.take_off = pose.pitch if self.take_off is None else self.take_off
            return min(1.1, max(-0.2, turned))
        self.take_off = pose.pitch
        if pose.sprawled:
            self.landed = 0.0
            return 0.0
        lean = abs((pose.pitch + math.pi) % TURN - math.pi)
        if pose.height < UPRIGHT_M or lean > MOST_LEAN:
            return 0.0
        self.landed = max(self.landed, turned)
        return min(4.5, 0.45 + 10 * (self.landed - CLOSE)) if self.landed > CLOSE else 0.0


def flights(poses: Sequence[Pose], dt: float) -> list[Flight]:
    """Every flight of an episode whose steps last ``dt`` seconds; one that its end cuts off has not landed. Landed is
    who, for ``SETTLED_S`` after touch-down, touches the ground with the foot alone and keeps the torso up."""
    found, settled, t = [], round(SETTLED_S / dt), 0
    while t < len(poses):
        if not poses[t].airborne:
            t += 1
            continue
        end = next((u for u in range(t, len(poses)) if not poses[u].airborne), len(poses))
        after = poses[end : end + settled]
        stood = len(after) == settled and all(not p.sprawled and p.height > UPRIGHT_M for p in after)
        found.append(Flight(poses[max(t - 1, 0)].pitch - poses[min(end, len(poses) - 1)].pitch, stood))
        t = end
    return found
