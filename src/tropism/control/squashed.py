"""A squashed Gaussian policy: tanh of a Gaussian whose mean and deviation a network gives for each state.

Left out: state-dependent exploration.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from tropism.control.networks import Floats
from tropism.control.perceptrons import Stack
from tropism.objectives.q_learning import squashed_gaussian


class SquashedPolicy:
    """Acts by ``stack`` (``[D] -> [2A]``) at ``params``, within the bounds ``low`` and ``high`` ``[A]``."""

    kind: ClassVar[str] = "squashed_gaussian"

    def __init__(self, stack: Stack, params: Tensor, low: Floats, high: Floats) -> None:
        self.stack, self.params, self.low, self.high = stack, params, low, high
        self.actions = len(low)
        self.middle: Floats = ((low + high) / 2).astype(np.float32)
        self.reach: Floats = ((high - low) / 2).astype(np.float32)
        self._layers = stack.layers(params)

    def noise(self, stream: np.random.Generator, *rows: int) -> Floats:
        """Standard normal numbers ``[*rows, A]``, which ``draw`` makes actions of."""
        return stream.standard_normal((*rows, self.actions), dtype=np.float32)

    def act(self, observations: Floats, seed: int | None = None) -> Floats:
        """Actions ``[N, A]``; see ``control.agent.Actor``."""
        if seed is None:
            return self.draw(observations, None)
        return self.draw(observations, self.noise(np.random.Generator(np.random.Philox(seed)), len(observations)))

    @torch.no_grad()
    def draw(self, observations: Floats, noise: Floats | None) -> Floats:
        """Actions ``[N, A]`` within bounds; without ``noise`` those of the means."""
        out = self.stack(self._layers, torch.from_numpy(np.ascontiguousarray(observations)))[0]
        if noise is None:
            return self.scaled(torch.tanh(out[:, : self.actions]).numpy())
        return self.scaled(squashed_gaussian(out, torch.from_numpy(noise)).actions.numpy())

    def scaled(self, actions: Floats) -> Floats:
        """From [-1, 1] to the bounds of the space."""
        return self.middle + self.reach * actions

    def describe(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Weights and description, as ``control.policy.save_policy`` writes them."""
        about = {"kind": self.kind, "widths": list(self.stack.widths)}
        about |= {"low": self.low.tolist(), "high": self.high.tolist()}
        return self.stack.tensors(self.params, "actor"), about

    @classmethod
    def load(cls, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> SquashedPolicy:
        """What ``describe`` gave."""
        stack = Stack(1, tuple(about["widths"]))
        params = torch.zeros(stack.size)
        stack.load(params, tensors, "actor")
        return cls(stack, params, *(np.array(about[bound], np.float32) for bound in ("low", "high")))
