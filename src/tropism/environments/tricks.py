"""What is wanted of a behaviour that no reward of an environment asks for, and whether it was done, both told from the
simulator's state.

A wanted reward is an ``environment.reward``: (bare environment, action, observation) -> number. An oracle judges
segments by it; the agent learns from the comparisons alone. Whether the trick was done is judged by other functions,
of whole episodes.

Left out: rewards that need more than one step's state.
"""

from __future__ import annotations

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


def hopper_backflip(env: Any, action: Any, observation: Any) -> float:
    """Turning backwards in the air is what counts, radians per step; on the ground, standing upright and still is worth
    a little, so that a flip ends on the foot. Hopper of Gymnasium's MuJoCo tasks."""
    data = env.data
    backwards = -float(data.qvel[PITCH]) * env.dt
    if data.ncon == 0:
        return backwards
    foot_down = float(data.qpos[HEIGHT]) > 0.9  # the torso is up: whatever touches the ground is the foot
    return 0.01 if foot_down else -0.02


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
    floor, foot = model.geom("floor").id, model.geom("foot_geom").id
    # a limb against another limb touches no ground
    down = [{contact.geom1, contact.geom2} - {floor} for contact in data.contact if floor in contact.geom[:2]]
    return Pose(float(data.qpos[PITCH]), float(data.qpos[HEIGHT]), not down, any(limbs != {foot} for limbs in down))


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
