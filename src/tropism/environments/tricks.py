"""What is wanted of a behaviour that no reward of an environment asks for, told from the simulator's state.

Each function is an ``environment.reward``: (bare environment, action, observation) -> number. An oracle judges segments
by it; the agent learns from the comparisons alone.

Left out: rewards that need more than one step's state.
"""

from __future__ import annotations

from typing import Any

PITCH = 2
"""Place of the hopper's pitch (radians, forwards) in ``qpos`` and of its rate in ``qvel``."""


def hopper_backflip(env: Any, action: Any, observation: Any) -> float:
    """Turning backwards in the air is what counts, radians per step; on the ground, standing upright and still is worth
    a little, so that a flip ends on the foot. Hopper of Gymnasium's MuJoCo tasks."""
    data = env.data
    backwards = -float(data.qvel[PITCH]) * env.dt
    if data.ncon == 0:
        return backwards
    foot_down = float(data.qpos[1]) > 0.9  # the torso is up: whatever touches the ground is the foot
    return 0.01 if foot_down else -0.02
