"""Several relu networks of one shape in one vector: forward and backward passes into buffers, without autograd.

Off-policy methods make an update per step, of a batch that always has the same size. Written out, such an update
computes no gradient that nobody asks for (of the critics' weights in the actor's loss), allocates next to nothing, and
runs twin critics as one batched product.

Left out: other activations, convolutions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tropism.errors import ConfigError

ALIGNED = 16
"""Blocks of a vector begin at multiples of this many numbers (64 bytes)."""


def _up(n: int) -> int:
    return -(-n // ALIGNED) * ALIGNED


class Layer(NamedTuple):
    """Views of a vector: weights ``[K, in, out]`` and biases ``[K, 1, out]``."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class Stack:
    """The shape of ``count`` multilayer perceptrons of equal ``widths``, relu between layers."""

    count: int
    widths: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.count < 1 or len(self.widths) < 2 or min(self.widths) < 1:
            raise ConfigError(
                f"{self.count} networks of widths {self.widths}", "give one or more layers of positive width"
            )

    @property
    def size(self) -> int:
        """Numbers in its vector."""
        pairs = zip(self.widths[:-1], self.widths[1:], strict=True)
        return sum(_up(self.count * a * b) + _up(self.count * b) for a, b in pairs)

    def layers(self, vector: Tensor) -> list[Layer]:
        """Views of a vector of ``size`` numbers."""
        found, at, k = [], 0, self.count
        for a, b in zip(self.widths[:-1], self.widths[1:], strict=True):
            weight = vector[at : at + k * a * b].view(k, a, b)
            at += _up(k * a * b)
            found.append(Layer(weight, vector[at : at + k * b].view(k, 1, b)))
            at += _up(k * b)
        return found

    def initialise(self, vector: Tensor, seed: int) -> None:
        """Weights and biases uniform in ±1/√in, torch's own for linear layers."""
        stream = np.random.Generator(np.random.Philox(seed))
        vector.zero_()
        for weight, bias in self.layers(vector):
            reach = 1 / math.sqrt(weight.shape[1])
            for part in (weight, bias):
                part.copy_(torch.from_numpy(stream.uniform(-reach, reach, tuple(part.shape))))

    def __call__(self, layers: Sequence[Layer], x: Tensor) -> Tensor:
        """``[K, N, out]`` of ``[N, in]``, by plain operations through which gradients flow."""
        h = x.expand(self.count, *x.shape)
        for weight, bias in layers[:-1]:
            h = torch.relu(torch.baddbmm(bias, h, weight))
        return torch.baddbmm(layers[-1].bias, h, layers[-1].weight)

    def tensors(self, vector: Tensor, *names: str) -> dict[str, Tensor]:
        """Weights of each network under its name, oriented as torch has them: ``[out, in]``."""
        found = {}
        for number, (weight, bias) in enumerate(self.layers(vector)):
            for k, name in enumerate(names):
                found[f"{name}.{number}.weight"] = weight[k].T.clone()
                found[f"{name}.{number}.bias"] = bias[k, 0].clone()
        return found

    def load(self, vector: Tensor, tensors: Mapping[str, Tensor], *names: str) -> None:
        """Take what ``tensors`` gave."""
        for number, (weight, bias) in enumerate(self.layers(vector)):
            for k, name in enumerate(names):
                weight[k].copy_(tensors[f"{name}.{number}.weight"].T)
                bias[k, 0].copy_(tensors[f"{name}.{number}.bias"])


class Passes:
    """Room for a pass of ``rows`` rows through a stack: what ``forward`` leaves there ``backward`` reads."""

    def __init__(self, stack: Stack, rows: int) -> None:
        k, wide = stack.count, stack.widths
        self._x = torch.empty(0)
        self._y = [torch.empty(k, rows, w) for w in wide[1:]]
        self._d = [torch.empty(k, rows, w) for w in wide[1:-1]]
        self._some = [(torch.empty(rows, w), torch.empty(rows, w)) for w in wide[1:-1]]

    def forward(self, layers: Sequence[Layer], x: Tensor) -> Tensor:
        """``[K, rows, out]`` of ``x`` ``[rows, in]``: a buffer, which the next pass overwrites."""
        h = self._x = x.expand(len(layers[0].weight), *x.shape)
        for number, (weight, bias) in enumerate(layers):
            h = torch.baddbmm(bias, h, weight, out=self._y[number])
            if number + 1 < len(layers):
                torch.relu_(h)
        return h

    def backward(self, layers: Sequence[Layer], d: Tensor, grads: Sequence[Layer]) -> None:
        """Write the gradients of all parameters into ``grads``; ``d`` ``[K, n, out]`` is the gradient at the outputs of
        the first n rows, the others having none."""
        n = d.shape[1]
        for number in range(len(layers) - 1, -1, -1):
            below = (self._y[number - 1] if number else self._x)[:, :n]
            torch.bmm(below.transpose(1, 2), d, out=grads[number].weight)
            torch.sum(d, 1, keepdim=True, out=grads[number].bias)
            if number:
                d = torch.bmm(d, layers[number].weight.transpose(1, 2), out=self._d[number - 1][:, :n])
                _through_relu(d, below)

    def input_gradient(self, layers: Sequence[Layer], k: int, rows: Tensor, d: Tensor, first: int) -> Tensor:
        """Gradients at the inputs ``first`` and following of network ``k``, ``[n, in - first]``, for some ``rows``
        ``[n]`` of the pass, where ``d`` ``[n, out]`` is the gradient at the outputs."""
        n = len(rows)
        for number in range(len(layers) - 1, 0, -1):
            y, back = (room[:n] for room in self._some[number - 1])
            torch.index_select(self._y[number - 1][k], 0, rows, out=y)
            d = torch.mm(d, layers[number].weight[k].T, out=back)
            _through_relu(d, y)
        return d @ layers[0].weight[k, first:].T


def _through_relu(d: Tensor, y: Tensor) -> None:
    """``d`` is 0 where relu's value ``y`` is: one pass over memory, where a product with ``y > 0`` needs two."""
    torch.ops.aten.threshold_backward.grad_input(d, y, 0.0, grad_input=d)
