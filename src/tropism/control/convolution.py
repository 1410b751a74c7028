"""Convolutional networks for pictures: views of a flat vector for policies and action values, several of them side by
side for reward ensembles. All by torch; there is no compiled kernel.

Pictures come as rows of bytes ``[..., H·W·C]``, channels last (``environments/images.py``), and are divided by 255. How
many layers there are, and of what size, follows from the picture's size.

Left out: pooling, residual blocks (Espeholt et al. 2018), batch normalisation and dropout, which Christiano et al. 2017
have in their reward network (appendix A.2): an ensemble and early stopping stand in for them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, leaky_relu

from tropism.control.perceptrons import Layer, Stack
from tropism.environments.images import Picture
from tropism.errors import ConfigError
from tropism.runtime.seeding import derive

NO_PICTURES_FIX = "ppo, a2c, reinforce and dqn learn from pictures; or leave environment.pixels out"


class Conv(NamedTuple):
    """A layer: how many channels it makes, its kernel's side and its stride; nothing is padded."""

    channels: int
    kernel: int
    stride: int


Plan = tuple[Conv, ...]
POLICY_PLANS: tuple[Plan, ...] = (
    (Conv(32, 8, 4), Conv(64, 4, 2), Conv(64, 3, 1)),  # Mnih et al. 2015, methods: from 36 pixels
    (Conv(32, 4, 2), Conv(64, 3, 2)),  # from 12
    (Conv(32, 3, 1), Conv(64, 3, 2)),
)
REWARD_PLANS: tuple[Plan, ...] = (
    (Conv(16, 7, 3), Conv(16, 5, 2), Conv(16, 3, 1), Conv(16, 3, 1)),  # Christiano et al. 2017, A.2: from 43 pixels
    (Conv(16, 4, 2), Conv(16, 3, 2)),
    (Conv(16, 3, 1), Conv(16, 3, 2)),
)
LEAST = 2
"""The second and third plans leave so many pixels a side, or the next one is taken."""


def _side(length: int, plan: Plan) -> int:
    """What a plan leaves of a picture's side."""
    for layer in plan:
        length = (length - layer.kernel) // layer.stride + 1 if length >= layer.kernel else 0
    return length


def plan_for(picture: Picture, plans: Sequence[Plan]) -> Plan:
    """The first of ``plans`` that a picture is large enough for. Errors: ConfigError for one too small for all."""
    side = min(picture[:2])
    for number, plan in enumerate(plans):
        if _side(side, plan) >= (LEAST if number else 1):
            return plan
    raise ConfigError(f"pictures of {picture[0]} x {picture[1]}", "give at least 8 pixels a side")


def planes(rows: Tensor, picture: Picture) -> Tensor:
    """``[N, C, H, W]``, 0 to 1, of rows of bytes ``[N, H·W·C]``. Channels stay innermost in memory, in which order
    torch convolves faster."""
    return rows.reshape(-1, *picture).permute(0, 3, 1, 2).float() / 255


@dataclass(frozen=True)
class Convolutions:
    """The layers of a plan as a stretch of a flat vector; relu after each of them."""

    picture: Picture
    plan: Plan

    @classmethod
    def of(cls, picture: Picture) -> Convolutions:
        """Those of a policy, or of action values."""
        return cls(picture, plan_for(picture, POLICY_PLANS))

    @property
    def features(self) -> int:
        """Numbers that are left of a picture."""
        height, width = (_side(n, self.plan) for n in self.picture[:2])
        return height * width * self.plan[-1].channels

    @property
    def _shapes(self) -> list[tuple[int, int, int, int]]:
        before = [self.picture[2], *(layer.channels for layer in self.plan)]
        return [(c.channels, seen, c.kernel, c.kernel) for c, seen in zip(self.plan, before[:-1], strict=True)]

    @property
    def size(self) -> int:
        """Numbers in its vector."""
        return sum(math.prod(shape) + shape[0] for shape in self._shapes)

    def layers(self, vector: Tensor) -> list[Layer]:
        """Views of a vector of ``size`` numbers: weights ``[out, in, k, k]`` and biases ``[out]``."""
        found, at = [], 0
        for shape in self._shapes:
            weight = vector[at : at + math.prod(shape)].view(shape)
            at += math.prod(shape)
            found.append(Layer(weight, vector[at : at + shape[0]]))
            at += shape[0]
        return found

    def initialise(self, vector: Tensor, seed: int) -> None:
        """Orthogonal weights of gain √2 (Saxe et al. 2014), zero biases."""
        vector.zero_()
        generator = torch.Generator().manual_seed(seed)
        for weight, _ in self.layers(vector):
            weight.copy_(nn.init.orthogonal_(torch.empty(weight.shape), math.sqrt(2), generator=generator))

    def __call__(self, layers: Sequence[Layer], rows: Tensor) -> Tensor:
        """Features ``[N, F]`` of rows of bytes ``[N, H·W·C]``."""
        x = planes(rows, self.picture)
        for (weight, bias), layer in zip(layers, self.plan, strict=True):
            x = torch.relu(conv2d(x, weight, bias, layer.stride))
        return x.flatten(1)

    def tensors(self, vector: Tensor, name: str) -> dict[str, Tensor]:
        """Named weights, as they are saved."""
        found = {}
        for number, (weight, bias) in enumerate(self.layers(vector)):
            found[f"{name}.{number}.weight"], found[f"{name}.{number}.bias"] = weight.clone(), bias.clone()
        return found

    def load(self, vector: Tensor, tensors: Mapping[str, Any], name: str) -> None:
        """Take what ``tensors`` gave."""
        for number, (weight, bias) in enumerate(self.layers(vector)):
            weight.copy_(tensors[f"{name}.{number}.weight"])
            bias.copy_(tensors[f"{name}.{number}.bias"])


class PictureStack:
    """Action values of pictures: convolutions, then a ``Stack``, in one vector. It is used as a ``Stack`` of one."""

    def __init__(self, picture: Picture, after: Sequence[int]) -> None:
        """``after``: widths of the fully connected layers, the last one the number of actions."""
        self.picture, self._convolutions = picture, Convolutions.of(picture)
        self._dense = Stack(1, (self._convolutions.features, *after))

    @property
    def widths(self) -> tuple[int, ...]:
        """Of the layers after the convolutions, from their features on."""
        return self._dense.widths

    @property
    def size(self) -> int:
        """Numbers in its vector."""
        return self._convolutions.size + self._dense.size

    def layers(self, vector: Tensor) -> list[Layer]:
        """Views of a vector of ``size`` numbers."""
        at = self._convolutions.size
        return self._convolutions.layers(vector[:at]) + self._dense.layers(vector[at:])

    def initialise(self, vector: Tensor, seed: int) -> None:
        """Convolutions as a policy's, the rest as a ``Stack``'s."""
        at = self._convolutions.size
        self._convolutions.initialise(vector[:at], derive(seed, "convolutions"))
        self._dense.initialise(vector[at:], seed)

    def __call__(self, layers: Sequence[Layer], rows: Tensor) -> Tensor:
        """``[1, N, out]`` of rows of bytes ``[N, H·W·C]``."""
        first = len(self._convolutions.plan)
        return self._dense(layers[first:], self._convolutions(layers[:first], rows))

    def tensors(self, vector: Tensor, name: str) -> dict[str, Tensor]:
        """Named weights, as they are saved."""
        at = self._convolutions.size
        return self._convolutions.tensors(vector[:at], f"{name}.picture") | self._dense.tensors(vector[at:], name)

    def load(self, vector: Tensor, tensors: Mapping[str, Tensor], name: str) -> None:
        """Take what ``tensors`` gave."""
        at = self._convolutions.size
        self._convolutions.load(vector[:at], tensors, f"{name}.picture")
        self._dense.load(vector[at:], tensors, name)


class PicturePasses:
    """Passes through a ``PictureStack`` with the interface of ``perceptrons.Passes``; the gradients are autograd's."""

    def __init__(self, stack: PictureStack) -> None:
        self._stack = stack
        self._leaves: list[Layer] = []
        self._out = torch.empty(0)

    def forward(self, layers: Sequence[Layer], x: Tensor) -> Tensor:
        """``[1, rows, out]`` of rows of bytes."""
        self._leaves = [Layer(*(part.detach().requires_grad_() for part in layer)) for layer in layers]
        with torch.enable_grad():
            self._out = self._stack(self._leaves, x)
        return self._out.detach()

    def backward(self, layers: Sequence[Layer], d: Tensor, grads: Sequence[Layer]) -> None:
        """Write the gradients of all parameters into ``grads``; ``d`` ``[1, rows, out]`` is that at the outputs of the
        last ``forward``."""
        found = torch.autograd.grad(self._out, [part for layer in self._leaves for part in layer], d)
        for own, grad in zip((part for layer in grads for part in layer), found, strict=True):
            own.copy_(grad)


class PictureMembers(nn.Module):
    """The convolutions of E reward networks side by side: leaky relu after each layer (Christiano et al. 2017, A.2)."""

    def __init__(self, picture: Picture, members: int, random: torch.Generator) -> None:
        super().__init__()
        self.picture, self.members, self.plan = picture, members, plan_for(picture, REWARD_PLANS)
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        seen = picture[2]
        for layer in self.plan:
            shape = members * layer.channels, seen, layer.kernel, layer.kernel
            weight = torch.randn(shape, generator=random) * math.sqrt(2 / math.prod(shape[1:]))
            self.weights.append(nn.Parameter(weight))
            self.biases.append(nn.Parameter(torch.zeros(shape[0])))
            seen = layer.channels

    @property
    def features(self) -> int:
        """Numbers that are left of a picture."""
        height, width = (_side(n, self.plan) for n in self.picture[:2])
        return height * width * self.plan[-1].channels

    def forward(self, rows: Tensor) -> Tensor:
        """Features ``[E, N, F]`` of rows of bytes ``[N, H·W·C]``."""
        x = planes(rows, self.picture)
        for number, (weight, bias, layer) in enumerate(zip(self.weights, self.biases, self.plan, strict=True)):
            groups = self.members if number else 1  # all look at the same picture, then each at its own channels
            x = leaky_relu(conv2d(x, weight, bias, layer.stride, groups=groups), 0.01)
        return x.reshape(len(x), self.members, self.features).transpose(0, 1)
