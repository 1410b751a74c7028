"""Small networks whose parameters are one flat vector: multilayer perceptrons, and actor with critic.

The vector is what compiled kernels take (``engine/kernels/small_networks.py`` has its layout); torch sees views of it,
so there is one copy of the weights whoever computes. Padding stays zero.

Left out: recurrence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tropism.control.convolution import Convolutions
from tropism.engine.kernels.build import library
from tropism.engine.kernels.small_networks import MAX_LAYERS, PAD, Activation, Kind, Networks
from tropism.environments.images import Picture
from tropism.errors import ConfigError
from tropism.objectives.policy import categorical_entropy
from tropism.runtime.seeding import derive

Floats = NDArray[np.float32]
PICTURES = 256
"""Pictures that are valued at once."""


def _up(n: int) -> int:
    return -(-n // PAD) * PAD


@dataclass(frozen=True)
class Mlp:
    """The shape of a multilayer perceptron: ``widths`` from input to output, an activation between."""

    widths: tuple[int, ...]
    activation: Activation = "tanh"

    def __post_init__(self) -> None:
        if not 1 <= len(self.widths) - 1 <= MAX_LAYERS or min(self.widths) < 1:
            raise ConfigError(f"a network of widths {self.widths}", f"give 1 to {MAX_LAYERS} layers of positive width")

    @property
    def size(self) -> int:
        """Numbers in its vector, padding included."""
        return sum((_up(a) + 1) * _up(b) for a, b in zip(self.widths[:-1], self.widths[1:], strict=True))

    def layers(self, params: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Views of the weights ``[in, out]`` and biases ``[out]`` of each layer."""
        found, at = [], 0
        for a, b in zip(self.widths[:-1], self.widths[1:], strict=True):
            wide = _up(b)
            weight = params[at : at + _up(a) * wide].view(_up(a), wide)[:a, :b]
            at += _up(a) * wide
            found.append((weight, params[at : at + b]))
            at += wide
        return found

    def initialise(self, params: Tensor, seed: int, gain: float, last_gain: float) -> None:
        """Orthogonal weights (Saxe et al. 2014), zero biases; ``last_gain`` for the last layer."""
        params.zero_()
        generator = torch.Generator().manual_seed(seed)
        layers = self.layers(params)
        for number, (weight, _) in enumerate(layers):
            fresh = torch.empty(weight.T.shape)
            scale = last_gain if number + 1 == len(layers) else gain
            torch.nn.init.orthogonal_(fresh, scale, generator=generator)
            weight.copy_(fresh.T)

    def __call__(self, params: Tensor, x: Tensor) -> Tensor:
        """``[..., out]`` of ``[..., in]``."""
        layers = self.layers(params)
        act = torch.tanh if self.activation == "tanh" else torch.relu
        for weight, bias in layers[:-1]:
            x = act(x @ weight + bias)
        return x @ layers[-1][0] + layers[-1][1]


@dataclass(frozen=True)
class Evaluated:
    """What a policy says of actions at observations: all ``[N]``."""

    logprobs: Tensor
    entropies: Tensor
    values: Tensor


class ActorCritic:
    """A policy and a value function without shared layers, in one vector ``params``: actor, log deviations, critic.

    Of a ``picture`` both read the features of the same convolutions, which come first in the vector; what follows those
    is as without. Torch computes it all.

    Continuous actions are Gaussian around the network's output, with one deviation per action for all states (Schulman
    et al. 2017, section 6.1); discrete ones are categorical.
    """

    def __init__(
        self,
        observations: int,
        actions: int,
        discrete: bool,
        hidden: Sequence[int] = (64, 64),
        activation: Activation = "tanh",
        log_std: float = 0.0,
        seed: int = 0,
        picture: Picture | None = None,
    ) -> None:
        self.kind: Kind = "categorical" if discrete else "gaussian"
        self.observations, self.actions, self.discrete = observations, actions, discrete
        self.picture = picture
        self.trunk = Convolutions.of(picture) if picture is not None else None
        self._shared = self.trunk.size if self.trunk is not None else 0
        seen = self.trunk.features if self.trunk is not None else observations
        self.actor = Mlp((seen, *hidden, actions), activation)
        self.critic = Mlp((seen, *hidden, 1), activation)
        self._deviations = 0 if discrete else _up(actions)
        self.params = torch.zeros(self._shared + self.actor.size + self._deviations + self.critic.size)
        actor, deviations, critic = self.parts(self.params)
        if self.trunk is not None:
            self.trunk.initialise(self.params[: self._shared], derive(seed, "trunk"))
        self.actor.initialise(actor, derive(seed, "actor"), math.sqrt(2), 0.01)
        self.critic.initialise(critic, derive(seed, "critic"), math.sqrt(2), 1.0)
        deviations.fill_(log_std)
        self.compiled = (
            Networks(self.kind, self.actor.widths, self.critic.widths, activation)
            if library() is not None and picture is None
            else None
        )

    def parts(self, params: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Views: the actor's vector, the log deviations ``[A]`` (empty for categories), the critic's vector."""
        start, d = self._shared, self._deviations
        a = start + self.actor.size
        return params[start:a], params[a : a + (self.actions if d else 0)], params[a + d :]

    def _seen(self, params: Tensor, observations: Tensor) -> Tensor:
        """What actor and critic read: observations as they are, or features of pictures."""
        if self.trunk is None:
            return observations
        return self.trunk(self.trunk.layers(params[: self._shared]), observations)

    def noise(self, seed: int, rows: Sequence[int]) -> Floats:
        """Numbers that ``act`` turns into actions, of shape ``rows`` (and ``[A]`` for Gaussian actions)."""
        stream = np.random.Generator(np.random.Philox(seed))
        if self.discrete:
            return stream.random(tuple(rows), dtype=np.float32)
        return stream.standard_normal((*rows, self.actions), dtype=np.float32)

    def act(self, observations: Floats, noise: Floats | None) -> tuple[Floats, Floats, Floats]:
        """Actions (``[N, A]``, or numbers of categories ``[N]`` as floats), log-probabilities and values ``[N]``.

        ``noise``: a slice of what ``noise`` gave; None takes the mode.
        """
        n = observations.shape[0]
        if self.compiled is not None:
            actions = np.empty(n if self.discrete else (n, self.actions), np.float32)
            logprobs, values = np.empty(n, np.float32), np.empty(n, np.float32)
            self.compiled.act(self.params.numpy(), np.ascontiguousarray(observations), noise, actions, logprobs, values)
            return actions, logprobs, values
        with torch.no_grad():
            x = self._seen(self.params, torch.from_numpy(np.ascontiguousarray(observations)))
            actor, log_std, critic = self.parts(self.params)
            out = self.actor(actor, x)
            if self.discrete:
                taken = out.argmax(-1).float() if noise is None else _category(out, torch.from_numpy(noise))
            else:
                taken = out if noise is None else out + log_std.exp() * torch.from_numpy(noise)
            logprobs_ = self._logprobs(out, log_std, taken)
            values_ = self.critic(critic, x).squeeze(-1)
        return taken.numpy(), logprobs_.numpy(), values_.numpy()

    def values(self, observations: Floats) -> Floats:
        """Values ``[N]`` of observations ``[N, D]``."""
        if self.trunk is None:
            return self.act(observations, None)[2]
        parts = np.split(observations, range(PICTURES, len(observations), PICTURES))  # as numbers they take much room
        return np.concatenate([self.act(part, None)[2] for part in parts])

    def evaluate(self, params: Tensor, observations: Tensor, actions: Tensor) -> Evaluated:
        """Log-probabilities of actions, entropies and values under ``params``, through which gradients flow."""
        actor, log_std, critic = self.parts(params)
        observations = self._seen(params, observations)
        out = self.actor(actor, observations)
        if self.discrete:
            entropies = categorical_entropy(out)
        else:
            entropies = (log_std + 0.5 + 0.5 * math.log(2 * math.pi)).sum().expand(len(out))
        return Evaluated(self._logprobs(out, log_std, actions), entropies, self.critic(critic, observations)[..., 0])

    def _logprobs(self, out: Tensor, log_std: Tensor, actions: Tensor) -> Tensor:
        if self.discrete:
            return torch.log_softmax(out, -1).gather(-1, actions.long()[..., None])[..., 0]
        z = (actions - out) * torch.exp(-log_std)
        return -(0.5 * z.square() + log_std + 0.5 * math.log(2 * math.pi)).sum(-1)

    def tensors(self) -> dict[str, Tensor]:
        """Named weights without padding, as they are saved."""
        actor, log_std, critic = self.parts(self.params)
        found = {} if self.discrete else {"log_std": log_std.clone()}
        if self.trunk is not None:
            found |= self.trunk.tensors(self.params[: self._shared], "trunk")
        for name, net, part in (("actor", self.actor, actor), ("critic", self.critic, critic)):
            for number, (weight, bias) in enumerate(net.layers(part)):
                found[f"{name}.{number}.weight"] = weight.T.clone()  # torch's own orientation: [out, in]
                found[f"{name}.{number}.bias"] = bias.clone()
        return found

    def load(self, tensors: dict[str, Any]) -> None:
        """Take the weights that ``tensors`` gave."""
        actor, log_std, critic = self.parts(self.params)
        if not self.discrete:
            log_std.copy_(tensors["log_std"])
        if self.trunk is not None:
            self.trunk.load(self.params[: self._shared], tensors, "trunk")
        for name, net, part in (("actor", self.actor, actor), ("critic", self.critic, critic)):
            for number, (weight, bias) in enumerate(net.layers(part)):
                weight.copy_(tensors[f"{name}.{number}.weight"].T)
                bias.copy_(tensors[f"{name}.{number}.bias"])


def _category(logits: Tensor, uniform: Tensor) -> Tensor:
    """Inverse CDF of softmax(logits) at ``uniform``: categories as floats, ``[N]``."""
    below = torch.softmax(logits, -1).cumsum(-1)[..., :-1]
    return (uniform[..., None] >= below).sum(-1).float()
