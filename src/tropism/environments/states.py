"""The state of a simulator, out and in: what a segment is replayed and rendered from.

MuJoCo gives and takes its full physics state. Other environments have a state here if all that they are lies in a
``state`` attribute (Gymnasium's classic control). Whatever else there is has none: ``get_state`` gives None, and such
an environment's segments are shown by playing their episode again from its reset seed.

Left out: states of environments that keep more than physics (a goal, a random generator's place).
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from tropism.errors import DataError


def get_state(env: gymnasium.Env[Any, Any]) -> NDArray[np.float64] | None:
    """The simulator's state as a vector, or None where it has none that can be set."""
    bare: Any = env.unwrapped
    if is_mujoco(bare):
        import mujoco

        kind = mujoco.mjtState.mjSTATE_FULLPHYSICS
        state = np.empty(mujoco.mj_stateSize(bare.model, kind))
        mujoco.mj_getState(bare.model, bare.data, state, kind)
        return state
    own = getattr(bare, "state", None)
    if own is None or not _is_classic(bare):
        return None
    return np.array(own, np.float64)


def set_state(env: gymnasium.Env[Any, Any], state: NDArray[np.float64]) -> None:
    """Put a state back that ``get_state`` gave. Errors: DataError for one of another simulator."""
    bare: Any = env.unwrapped
    if is_mujoco(bare):
        import mujoco

        kind = mujoco.mjtState.mjSTATE_FULLPHYSICS
        size = mujoco.mj_stateSize(bare.model, kind)
        if state.shape != (size,):
            raise DataError(f"a state of {state.shape} for a simulator of {size} numbers", "use the same environment")
        mujoco.mj_setState(bare.model, bare.data, state, kind)
        mujoco.mj_forward(bare.model, bare.data)
        return
    if not _is_classic(bare):
        raise DataError(f"{type(bare).__name__} has no state that can be set", "replay the episode instead")
    bare.state = np.array(state) if isinstance(bare.state, np.ndarray) else tuple(float(x) for x in state)


def is_mujoco(bare: Any) -> bool:
    """Whether an unwrapped environment is MuJoCo's: it has the model and the data."""
    return hasattr(bare, "model") and hasattr(bare, "data") and type(bare.data).__module__.startswith("mujoco")


def _is_classic(bare: Any) -> bool:
    return type(bare).__module__.startswith("gymnasium.envs.classic_control")
