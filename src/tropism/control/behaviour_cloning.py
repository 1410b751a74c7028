"""Behaviour cloning (Pomerleau 1991): the policy under which demonstrated actions are most likely.

Discrete actions: cross-entropy; continuous ones: Gaussian negative log-likelihood. ``clone`` trains the actor of any
``ActorCritic`` in place, so it also starts a PPO agent from demonstrations (its critic stays as it was).

Left out: recurrent policies, data augmentation, squashed Gaussians.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from tropism.control.demonstrations import Demonstrations, check_fit
from tropism.control.networks import ActorCritic, Floats
from tropism.control.policy import ActorCriticPolicy, normaliser_of
from tropism.control.ppo import Adam
from tropism.environments.normalising import Normaliser
from tropism.environments.stepping import Environments
from tropism.errors import DataError, DivergenceError
from tropism.runtime.seeding import derive, permutation
from tropism.settings.sections import Section


class CloningSettings(Section):
    """``[cloning]``: how a policy is fitted to actions."""

    updates: int = Field(2000, ge=1)
    """Steps of the optimiser."""
    batch_size: int = Field(64, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled (Loshchilov & Hutter 2019), of the actor's layers with their biases; the deviations, the critic and the
    convolutions of pictures are spared."""
    log_std_min: float = -4.0
    """Floor of the log deviations: a deterministic expert would drive them to minus infinity."""
    normalise_observations: bool = True
    hidden: tuple[int, ...] = (64, 64)
    activation: Literal["tanh", "relu"] = "tanh"


@dataclass(frozen=True)
class Cloned:
    """A cloned policy, and the loss (nats per action) of every update."""

    policy: ActorCriticPolicy
    losses: Floats


def clone(
    actor: ActorCritic,
    normaliser: Normaliser,
    observations: Floats,
    actions: Floats,
    settings: CloningSettings,
    seed: int,
) -> Floats:
    """Fit ``actor`` to ``actions`` at raw ``observations`` ``[M, D]``; returns the losses ``[updates]``.

    A normaliser that has seen nothing yet takes the statistics of ``observations``. The order of rows is a function of
    ``seed``. Errors: DataError for no rows; DivergenceError.
    """
    if not len(observations) or len(observations) != len(actions):
        raise DataError(
            f"{len(observations)} observations and {len(actions)} actions", "give as many, and at least one"
        )
    s, n = settings, len(observations)
    if not normaliser.count:
        normaliser.update(observations)
    inputs, targets = torch.from_numpy(normaliser(observations)), torch.from_numpy(actions)
    adam, losses = Adam.of(actor.params), np.empty(s.updates, np.float32)
    per_epoch = -(-n // s.batch_size)
    order = torch.empty(0, dtype=torch.int64)
    for update in range(s.updates):
        epoch, place = divmod(update, per_epoch)
        if not place:
            order = torch.from_numpy(permutation(n, seed, epoch))
        rows = order[place * s.batch_size : (place + 1) * s.batch_size]
        loss, grad = negative_log_likelihood(actor, inputs[rows], targets[rows])
        if s.weight_decay:
            actor.parts(actor.params)[0].mul_(1 - s.learning_rate * s.weight_decay)
        adam.apply(actor.params, grad, s.learning_rate)
        actor.parts(actor.params)[1].clamp_(min=s.log_std_min)
        losses[update] = loss
    if not (torch.isfinite(actor.params).all() and np.isfinite(losses).all()):
        raise DivergenceError("the cloned policy's weights are not finite", "lower cloning.learning_rate")
    return losses


def negative_log_likelihood(actor: ActorCritic, inputs: Tensor, actions: Tensor) -> tuple[float, Tensor]:
    """``-mean log π(a|s)`` over rows ``[M]`` of network inputs, and its gradient in ``actor.params``; the critic's part
    of it is 0."""
    params = actor.params.detach().requires_grad_()
    loss = -actor.evaluate(params, inputs, actions).logprobs.mean()
    (grad,) = torch.autograd.grad(loss, params)
    return float(loss.detach()), grad


def behaviour_cloning(
    demonstrations: Demonstrations, environments: Environments, settings: CloningSettings, seed: int
) -> Cloned:
    """A new policy from demonstrations; ``environments`` say what its actions are and are not stepped.

    Errors: DataError where demonstrations and environment do not match; DivergenceError.
    """
    check_fit(demonstrations, environments)
    policy = fresh_policy(environments, settings, seed)
    losses = clone(
        policy.actor, policy.normaliser, demonstrations.joined("observations"), demonstrations.joined("actions"),
        settings, derive(seed, "cloning"),
    )  # fmt: skip
    return Cloned(policy, losses)


def fresh_policy(environments: Environments, settings: CloningSettings, seed: int) -> ActorCriticPolicy:
    """A policy that has learned nothing yet."""
    e, s = environments, settings
    actor = ActorCritic(e.observation_size, e.actions, e.discrete, s.hidden, s.activation, seed=seed, picture=e.picture)
    return ActorCriticPolicy(actor, normaliser_of(e, s.normalise_observations and e.picture is None))


def restore_policy(policy: ActorCriticPolicy, params: Tensor, normaliser: Mapping[str, object]) -> None:
    """Put weights and statistics back."""
    policy.actor.params.copy_(params)
    policy.normaliser.load(dict(normaliser))
