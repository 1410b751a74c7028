"""Small multilayer perceptrons on numpy arrays: forward, acting, and whole epochs of PPO in one call.

Only to be called where ``library()`` is not None; ``control/`` has a torch path besides, which defines what is computed
here. Everything is float32 and runs on the calling thread.

Left out: other optimisers than Adam, clipped value losses, recurrent networks.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from ctypes import c_int, c_int64, c_void_p
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tropism.engine.kernels.build import library, why_not
from tropism.errors import ModelError

Floats = NDArray[np.float32]
Kind = Literal["gaussian", "categorical"]
Activation = Literal["tanh", "relu"]
_KINDS: Mapping[Kind, int] = {"gaussian": 0, "categorical": 1}
_ACTIVATIONS: Mapping[Activation, int] = {"tanh": 0, "relu": 1}
PAD = 16  # PAD of small_networks.c
MAX_LAYERS = 8

NUMBERS = (
    "clip_range", "value_coef", "entropy_coef", "kl_old_coef", "max_grad_norm", "learning_rate", "beta1", "beta2",
    "eps", "whiten",
)  # fmt: skip
"""The settings of an epoch, in the order of the C struct; ``whiten`` 1: advantages are brought to mean 0 and deviation
1 over each mini-batch, 0: they are taken as they are."""
STATS = ("policy_loss", "value_loss", "entropy", "kl_old_k3", "clipped", "ratio", "log_ratio_max", "grad_norm")
"""What an epoch says of each mini-batch: sums over its rows, but for the last two."""

_INT, _SIZE, _POINTER = c_int, c_int64, c_void_p
_NETWORKS = (_POINTER, _SIZE, _POINTER, _SIZE, _INT)  # widths and layers of actor and critic, activation
_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "mlp_forward": (_POINTER, _POINTER, _SIZE, _INT, _POINTER, _SIZE, _POINTER),
    "act": (_INT, _POINTER, *_NETWORKS, _POINTER, _SIZE, _POINTER, _POINTER, _POINTER, _POINTER),
    "ppo_epoch": (
        _INT, *[_POINTER] * 3, _SIZE, *_NETWORKS, *[_POINTER] * 6, _SIZE, _SIZE, _POINTER, _POINTER
    ),
}  # fmt: skip


@functools.cache
def _functions() -> dict[str, Any]:
    loaded = library()
    if loaded is None:
        raise ModelError(f"there are no compiled kernels: {why_not()}", "call the torch path, or mend the reason")
    found = {}
    for name, arguments in _ARGUMENTS.items():
        found[name] = getattr(loaded, f"tropism_{name}")
        found[name].argtypes, found[name].restype = arguments, c_int
    return found


def _check(status: int) -> None:
    if status == 1:
        raise MemoryError("a compiled kernel found no memory for its layers")
    if status:
        raise ModelError("a network has a shape that the kernels do not take", f"use 1 to {MAX_LAYERS} layers")


class Networks:
    """The shapes of an actor and a critic, kept as C wants them."""

    def __init__(self, kind: Kind, actor: Sequence[int], critic: Sequence[int], activation: Activation) -> None:
        self.kind, self.actions, self.inputs = _KINDS[kind], actor[-1], actor[0]
        self._actor, self._critic = (np.array(w, np.int64) for w in (actor, critic))
        self._shapes = (
            self._actor.ctypes.data, len(actor) - 1, self._critic.ctypes.data, len(critic) - 1, _ACTIVATIONS[activation]
        )  # fmt: skip
        self._functions = _functions()

    def act(
        self, params: Floats, observations: Floats, noise: Floats | None, actions: Floats, logprobs: Floats,
        values: Floats,
    ) -> None:  # fmt: skip
        """Fill ``actions`` ``[N, A]`` (``[N]`` of categories), ``logprobs`` and ``values`` ``[N]`` for observations
        ``[N, D]``; ``noise``: standard normal ``[N, A]`` or uniform ``[N]``, None for the mode. All C-contiguous."""
        _check(
            self._functions["act"](
                self.kind, params.ctypes.data, *self._shapes, observations.ctypes.data, observations.shape[0],
                None if noise is None else noise.ctypes.data, actions.ctypes.data, logprobs.ctypes.data,
                values.ctypes.data,
            )
        )  # fmt: skip

    def ppo_epoch(
        self, params: Floats, moments: tuple[Floats, Floats], step: int, batch: Mapping[str, Floats],
        order: NDArray[np.int64], batch_size: int, numbers: Mapping[str, float],
    ) -> NDArray[np.float64]:  # fmt: skip
        """One pass over the rows in ``order``, in mini-batches; ``params`` and Adam's ``moments`` change in place.

        ``batch``: ``observations`` ``[N, D]``, ``actions``, ``logprobs``, ``advantages``, ``returns`` ``[N]``.
        ``numbers``: all of NUMBERS. Returns ``[mini-batches, len(STATS)]``.
        """
        stats = np.zeros((-(-len(order) // batch_size), len(STATS)))
        settings = np.array([numbers[name] for name in NUMBERS])
        names = ("observations", "actions", "logprobs", "advantages", "returns")
        data = [np.ascontiguousarray(batch[name], np.float32) for name in names]
        order = np.ascontiguousarray(order)
        _check(
            self._functions["ppo_epoch"](
                self.kind, params.ctypes.data, moments[0].ctypes.data, moments[1].ctypes.data, step, *self._shapes,
                *[array.ctypes.data for array in data], order.ctypes.data, len(order), batch_size,
                settings.ctypes.data, stats.ctypes.data,
            )
        )  # fmt: skip
        return stats
