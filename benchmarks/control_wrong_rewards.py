"""A reward that is wrong on purpose: what a policy of ``control_feedback.py`` is first trained on."""

from __future__ import annotations

from typing import Any


def backwards(env: Any, action: Any, observation: Any) -> float:
    """Speed to the left, less the cost of control, as HalfCheetah is paid for speed to the right."""
    return -float(env.data.qvel[0]) - 0.1 * float((action**2).sum())
