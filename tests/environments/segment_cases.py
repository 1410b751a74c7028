"""Chunks of steps of which segments are cut."""

from __future__ import annotations

import numpy as np
import tiny_environments  # noqa: F401 - registers them

from tropism.control.rollouts import Steps
from tropism.environments.segments import Chunk
from tropism.environments.stepping import Environments


def chunks(environments: Environments, count: int, steps: int) -> list[Chunk]:
    """Chunks of random actions, one after the other, as an agent hands them back."""
    stream, found = np.random.default_rng(4), []
    for _ in range(count):
        before, made = environments.place(), Steps.room(environments, steps)
        for t in range(steps):
            if environments.discrete:
                actions = stream.integers(environments.actions, size=environments.count).astype(np.float32)
            else:
                actions = stream.uniform(-2, 2, (environments.count, environments.actions)).astype(np.float32)
            made.take(t, environments, actions)
        found.append(Chunk(environments.spec, made, before, "policy-1"))
    return found
