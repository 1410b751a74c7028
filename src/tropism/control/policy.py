"""A control policy as a folder: ``policy.json`` says what it is and for which environment, ``model.safetensors`` holds
the weights.

Left out: policies of other libraries; ``control/reward_wrapper.py`` goes the other way and takes our reward to them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tropism.control.agent import Actor
from tropism.control.networks import ActorCritic, Floats
from tropism.control.q_network import QPolicy
from tropism.control.squashed import SquashedPolicy
from tropism.environments.making import EnvironmentSpec
from tropism.environments.normalising import Normaliser
from tropism.environments.stepping import Environments
from tropism.errors import ConfigError, ModelError
from tropism.runtime.checkpoints import load_tensors, save_tensors

Description = tuple[dict[str, Tensor], dict[str, Any]]
REMEMBERED = 20_000
"""Observations that the statistics of a policy to start from weigh as, at most. With the weight of its whole training,
one that is turned to something else sees what it then observes as extremes, almost to the end."""


@dataclass(frozen=True)
class ControlPolicy:
    """A policy that was read from a folder."""

    actor: Actor
    environment: EnvironmentSpec
    description: Description
    """As ``Agent.begin_with`` takes it."""
    about: Mapping[str, Any]


@dataclass(frozen=True)
class ActorCriticPolicy:
    """The acting half of PPO, A2C and REINFORCE."""

    actor: ActorCritic
    normaliser: Normaliser

    def act(self, observations: Floats, seed: int | None = None) -> Floats:
        """See ``Actor``."""
        noise = None if seed is None else self.actor.noise(seed, observations.shape[:1])
        return self.actor.act(self.normaliser(observations), noise)[0]


def describe(actor: ActorCritic, normaliser: Normaliser) -> Description:
    """Weights and description of an actor with a critic."""
    return actor.tensors(), {
        "kind": "actor_critic",
        "observations": actor.observations,
        "actions": actor.actions,
        "discrete": actor.discrete,
        "hidden": list(actor.actor.widths[1:-1]),
        "activation": actor.actor.activation,
        "normaliser": normaliser.state() | {"active": normaliser.active},
    } | ({} if actor.picture is None else {"picture": list(actor.picture)})


def begin(actor: ActorCritic, normaliser: Normaliser, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Load what ``describe`` gave. Errors: ModelError for a policy of another kind or shape, or one whose networks see
    observations normalised where ours see them as they are, or the other way round. It acts as it did; its statistics
    of observations give way to new ones within some ``REMEMBERED`` steps."""
    own = {"picture": None} | describe(actor, normaliser)[1]
    other: dict[str, tuple[Any, Any]] = {
        k: (about.get(k), v) for k, v in own.items() if k != "normaliser" and about.get(k) != v
    }
    theirs = about.get("normaliser", {}).get("active")
    if theirs != normaliser.active:
        other["normalise_observations"] = (theirs, normaliser.active)
    if other:
        raise ModelError(f"the policy to start from differs in {other} (theirs, ours)", "use the same settings")
    actor.load(dict(tensors))
    normaliser.load(about["normaliser"])
    normaliser.fade(REMEMBERED)


def started(policy: ControlPolicy, log_std: float | None) -> Description:
    """A policy as ``Agent.begin_with`` takes it, the log deviations of its actions ``log_std`` where that is given.
    Errors: ConfigError for a policy whose actions have no noise of their own: categories, values, a squashed policy."""
    tensors, about = policy.description
    if log_std is None:
        return tensors, about
    if "log_std" not in tensors:
        raise ConfigError(
            f"agent.start_log_std = {log_std} for a policy ({about['kind']}) without a deviation of its own",
            "leave it out: continuous actions of ppo, a2c and reinforce have one",
        )
    return tensors | {"log_std": torch.full_like(tensors["log_std"], log_std)}, about


def normaliser_of(environments: Environments, active: bool) -> Normaliser:
    """Fresh statistics of what ``environments`` observe. Errors: ConfigError for those of pictures."""
    if environments.picture is None:
        return Normaliser(environments.observation_size, active)
    if active:
        raise ConfigError(
            f"normalise_observations with the pictures of {environments.spec.id}",
            "set normalise_observations = false: pictures are divided by 255",
        )
    return Normaliser(0, False)


def _actor_critic(tensors: dict[str, Tensor], about: Mapping[str, Any]) -> Actor:
    picture = tuple(about["picture"]) if "picture" in about else None
    actor = ActorCritic(
        about["observations"], about["actions"], about["discrete"], about["hidden"], about["activation"],
        picture=picture,
    )  # fmt: skip
    actor.load(tensors)
    normaliser = Normaliser(about["observations"], about["normaliser"]["active"])
    normaliser.load(about["normaliser"])
    return ActorCriticPolicy(actor, normaliser)


KINDS: dict[str, Callable[[dict[str, Tensor], Mapping[str, Any]], Actor]] = {
    "actor_critic": _actor_critic,
    QPolicy.kind: QPolicy.load,
    SquashedPolicy.kind: SquashedPolicy.load,
}
"""How each kind of policy is made of its weights and its description."""


def save_policy(folder: Path, description: Description, environment: EnvironmentSpec, about: Mapping[str, Any]) -> None:
    """Write a policy into an existing folder; ``about`` says how it came to be."""
    tensors, policy = description
    save_tensors(folder / "model.safetensors", tensors)
    written = {"policy": policy, "environment": environment.as_json(), "about": dict(about)}
    (folder / "policy.json").write_text(json.dumps(written, indent=1, sort_keys=True) + "\n", "utf-8")


def load_policy(folder: Path) -> ControlPolicy:
    """Read a policy. Errors: ModelError for a folder that is none."""
    try:
        read = json.loads((folder / "policy.json").read_text("utf-8"))
        tensors = load_tensors(folder / "model.safetensors")
        actor = KINDS[read["policy"]["kind"]](tensors, read["policy"])
        environment = EnvironmentSpec(**read["environment"])
        return ControlPolicy(actor, environment, (tensors, read["policy"]), read["about"])
    except FileNotFoundError as error:
        raise ModelError(f"{folder} is no control policy: {error.filename} is missing", "name a trained one") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{folder} is no control policy that can be read ({error!r})", "train it anew") from error
