"""DAgger (Ross, Gordon, Bagnell 2011): the learner acts, the expert says what it would have done, and the policy is
fitted to all that was said so far.

In iteration i actions are the expert's with probability β_i, drawn at every step, else the learner's. Observations are
labelled with the expert's action whoever acted. The policy is fitted anew to the aggregate, by behaviour cloning.

Left out: choosing the best iteration on held-out data (``advance`` hands out the metrics that a caller needs for it).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from tropism.control.agent import Actor, State
from tropism.control.behaviour_cloning import CloningSettings, clone, fresh_policy, restore_policy
from tropism.control.networks import Floats
from tropism.control.policy import Description, describe
from tropism.control.rollouts import Steps
from tropism.environments.stepping import Environments
from tropism.runtime.seeding import derive, uniform
from tropism.settings.sections import Section


class DaggerSettings(Section):
    """``[dagger]``."""

    steps_per_environment: int = Field(100, ge=1)
    """Steps of each environment in an iteration; every one is a label asked of the expert."""
    mixing: Literal["first", "geometric"] = "first"
    """β: 1 in the first iteration and 0 after it (the paper's choice without a parameter), or ``decay`` to the power
    of the finished iterations."""
    decay: float = Field(0.5, ge=0, lt=1)
    cloning: CloningSettings = CloningSettings()


class Dagger:
    """Iterations of DAgger with an expert that can be asked at any observation."""

    def __init__(self, expert: Actor, environments: Environments, settings: DaggerSettings, seed: int) -> None:
        self.expert, self.environments, self.settings, self.seed = expert, environments, settings, seed
        self.iteration = 0
        n, d = 0, environments.observation_size
        self.observations = np.empty((n, d), np.float32)
        """``[M, D]``: every observation that was labelled."""
        self.labels = np.empty(n if environments.discrete else (n, environments.actions), np.float32)
        """What the expert said at them."""
        self.learner = fresh_policy(environments, settings.cloning, derive(seed, "policy", 0))

    @property
    def beta(self) -> float:
        """The expert's share of the next iteration's actions."""
        if self.settings.mixing == "first":
            return 1.0 if self.iteration == 0 else 0.0
        return self.settings.decay**self.iteration

    def advance(self) -> tuple[Steps, dict[str, float]]:
        """One iteration: 1 act by the mixture, 2 label, 3 aggregate, 4 fit anew. Returns the steps taken and metrics.

        ``dagger/disagreement``: the mean distance between the learner's action, before this iteration's fit, and the
        expert's, at the observations visited (for categories, the share that differs): its loss in the game that the
        method plays.
        """
        s, e, beta = self.settings, self.environments, self.beta
        steps = Steps.room(e, s.steps_per_environment)
        labels = np.empty_like(steps.actions)
        chance = uniform(
            derive(self.seed, "mixing", self.iteration),
            np.arange(s.steps_per_environment)[:, None],
            np.arange(e.count)[None],
        )
        distance = 0.0
        for t in range(s.steps_per_environment):
            labels[t] = self._bounded(self.expert.act(e.observations))
            own = self._bounded(self.learner.act(e.observations))
            distance += _distance(own, labels[t], e.discrete) / s.steps_per_environment
            asked = chance[t] < beta
            steps.take(t, e, np.where(asked if e.discrete else asked[:, None], labels[t], own))
        self.observations = np.concatenate([self.observations, steps.flat("observations")])
        self.labels = np.concatenate([self.labels, labels.reshape(-1, *labels.shape[2:])])
        self.iteration += 1
        fresh = derive(self.seed, "policy", self.iteration)
        self.learner = fresh_policy(e, s.cloning, fresh)
        losses = clone(
            self.learner.actor, self.learner.normaliser, self.observations, self.labels, s.cloning,
            derive(fresh, "cloning"),
        )  # fmt: skip
        tenth = max(1, len(losses) // 10)
        return steps, {
            "dagger/beta": beta,
            "dagger/labels": float(len(self.labels)),
            "dagger/loss": float(losses[-tenth:].mean()),
            "dagger/disagreement": distance,
        }

    def act(self, observations: Floats, seed: int | None = None) -> Floats:
        """Actions of the learner; see ``Actor``."""
        return self.learner.act(observations, seed)

    def state(self) -> State:
        """The aggregate, the learner, and where the environments are."""
        tensors = {
            "observations": torch.from_numpy(self.observations),
            "labels": torch.from_numpy(self.labels),
            "params": self.learner.actor.params,
        }
        return tensors, {
            "iteration": self.iteration,
            "normaliser": self.learner.normaliser.state(),
            "environments": self.environments.position(),
        }

    def restore(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Be what ``state`` said."""
        self.observations, self.labels = tensors["observations"].numpy().copy(), tensors["labels"].numpy().copy()
        self.iteration = meta["iteration"]
        restore_policy(self.learner, tensors["params"], meta["normaliser"])
        self.environments.restore(meta["environments"])

    def policy(self) -> Description:
        """The learner alone; see ``control.policy``."""
        return describe(self.learner.actor, self.learner.normaliser)

    def _bounded(self, actions: Floats) -> Floats:
        e = self.environments
        return actions if e.discrete else np.clip(actions, e.low, e.high)


def _distance(own: Floats, said: Floats, discrete: bool) -> float:
    """Share of categories that differ, or mean Euclidean distance of actions."""
    return float((own != said).mean() if discrete else np.linalg.norm(own - said, axis=-1).mean())
