"""Action values of a small network as a policy: greedy, or ε-greedy where chance is let in.

Left out: dueling heads (Wang et al. 2016), softmax exploration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from tropism.control.convolution import PictureStack
from tropism.control.networks import Floats
from tropism.control.perceptrons import Stack


def q_stack(widths: Sequence[int], picture: Sequence[int] | None) -> Stack | PictureStack:
    """The network of action values, from ``widths[0]`` numbers, or from a picture."""
    if picture is None:
        return Stack(1, tuple(widths))
    height, width, channels = picture
    return PictureStack((height, width, channels), widths[1:])


class QPolicy:
    """Acts by the values of ``stack`` at ``params``; a share ``epsilon`` of sampled actions is drawn evenly."""

    kind: ClassVar[str] = "q_network"

    def __init__(self, stack: Stack | PictureStack, params: Tensor, epsilon: float) -> None:
        self.stack, self.params, self.epsilon = stack, params, epsilon
        self._layers = stack.layers(params)

    def act(self, observations: Floats, seed: int | None = None) -> Floats:
        """Numbers of actions ``[N]``; see ``control.agent.Actor``."""
        if seed is None:
            return self.greedy(observations)
        stream = np.random.Generator(np.random.Philox(seed))
        return self.explore(observations, stream.random((len(observations), 2)), self.epsilon)

    @torch.no_grad()
    def greedy(self, observations: Floats) -> Floats:
        """The best action by the network, ``[N]``."""
        values = self.stack(self._layers, torch.from_numpy(np.ascontiguousarray(observations)))
        return values[0].argmax(-1).to(torch.float32).numpy()

    def explore(self, observations: Floats, chance: np.ndarray, epsilon: float) -> Floats:
        """ε-greedy: ``chance`` ``[N, 2]``, uniform in [0, 1), says who explores and where to."""
        anywhere = np.floor(chance[:, 1] * self.stack.widths[-1]).astype(np.float32)
        explores = chance[:, 0] < epsilon
        if explores.all():
            return anywhere
        return np.where(explores, anywhere, self.greedy(observations)).astype(np.float32)

    def describe(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Weights and description, as ``control.policy.save_policy`` writes them."""
        about: dict[str, Any] = {"kind": self.kind, "widths": list(self.stack.widths), "epsilon": self.epsilon}
        if isinstance(self.stack, PictureStack):
            about["picture"] = list(self.stack.picture)
        return self.stack.tensors(self.params, "q"), about

    @classmethod
    def load(cls, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> QPolicy:
        """What ``describe`` gave."""
        stack = q_stack(about["widths"], about.get("picture"))
        params = torch.zeros(stack.size)
        stack.load(params, tensors, "q")
        return cls(stack, params, about["epsilon"])
