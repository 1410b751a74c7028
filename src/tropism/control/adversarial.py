"""Generative adversarial imitation learning (Ho & Ermon 2016): a discriminator tells demonstrated (observation, action)
pairs from the agent's, and pays the agent for being mistaken for the expert.

**Survival.** Where episodes end early, a reward that is positive everywhere teaches an agent to stay alive and one
that is negative everywhere teaches it to die, whatever the demonstrations say (Kostrikov et al. 2019); on CartPole a
constant positive reward alone solves the task. So the agent has to act in a fixed horizon
(``EnvironmentSpec.horizon``): a fall costs it the steps until it looks like the expert again, a constant reward teaches
nothing, and the reward's sign does not matter. An episode that terminates is an error unless ``variable_horizon`` is
set. The price: after a fall the environment starts again at once, which no demonstration shows. What the agent learned
is to be evaluated in the true environment.

D(s, a) is the probability that a pair was demonstrated, sigmoid of a network's logit. Its gradient is kept small at
points between the two sides (Gulrajani et al. 2017): with a few dozen pairs nothing else keeps it from knowing them by
heart. The discriminator learns between rollouts only, so that one state earns one reward within a rollout.

Left out: AIRL's division into reward and shaping (Fu et al. 2018), absorbing states, demonstrations without actions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from tropism.control.agent import Agent, State
from tropism.control.demonstrations import Demonstrations, check_fit
from tropism.control.networks import Floats, Mlp
from tropism.control.ppo import Adam
from tropism.control.rollouts import Steps
from tropism.environments.normalising import Normaliser
from tropism.environments.stepping import Environments
from tropism.errors import ConfigError, DivergenceError
from tropism.runtime.seeding import derive, generator, permutation
from tropism.settings.sections import Section


class AdversarialSettings(Section):
    """``[adversarial]``."""

    reward: Literal["logit", "softplus", "log"] = "logit"
    """``logit``: log D - log(1 - D), of either sign, AIRL's form; ``softplus``: -log(1 - D), positive, GAIL's;
    ``log``: log D, negative."""
    updates: int = Field(4, ge=1)
    """Steps of the discriminator after each rollout."""
    batch_size: int = Field(128, ge=1)
    """Pairs of either side in a step; demonstrations are repeated as often as needed."""
    learning_rate: float = Field(1e-3, gt=0)
    gradient_penalty: float = Field(1.0, ge=0)
    """Weight of E[|d logit / d input|²] between the sides."""
    warm_up: int = Field(512, ge=1)
    """Steps of the untrained agent (all environments together, at least one of each) that the discriminator sees before
    the agent learns from it; they also fix, for good, the scale of its inputs."""
    warm_up_updates: int = Field(100, ge=1)
    variable_horizon: bool = False
    """Allow episodes that terminate, whose length tells the agent what to do; see the head of the file."""
    hidden: tuple[int, ...] = (64, 64)


class Discriminator:
    """D(s, a), and the reward made of it: a ``RewardFunction``."""

    def __init__(self, environments: Environments, settings: AdversarialSettings, seed: int) -> None:
        if environments.picture is not None:
            raise ConfigError(
                f"a discriminator cannot learn from the pictures of {environments.spec.id}",
                "behaviour cloning and DAgger can; or leave environment.pixels out",
            )
        self.settings, self.seed = settings, seed
        self.discrete, self.actions = environments.discrete, environments.actions
        self.bounds = None if self.discrete else (environments.low, environments.high)
        self.network = Mlp((environments.observation_size + self.actions, *settings.hidden, 1))
        self.params = torch.zeros(self.network.size)
        self.network.initialise(self.params, derive(seed, "discriminator"), 2**0.5, 1.0)
        self.adam = Adam.of(self.params)
        self.scale = Normaliser(self.network.widths[0], active=True)

    def pairs(self, observations: Floats, actions: Floats) -> Floats:
        """Observations and actions side by side, ``[M, D + A]``, not scaled: categories one-hot, others clipped, which
        is what the environment does with them and what demonstrations hold."""
        if self.bounds is None:
            acted = np.eye(self.actions, dtype=np.float32)[actions.astype(np.int64)]
        else:
            acted = np.clip(actions, *self.bounds)
        return np.concatenate([observations, acted], axis=1)

    def logits(self, pairs: Floats) -> Floats:
        """Log odds ``[M]`` that pairs were demonstrated."""
        with torch.no_grad():
            found: Floats = self.network(self.params, torch.from_numpy(self.scale(pairs)))[:, 0].numpy()
        return found

    def __call__(self, observations: Floats, actions: Floats, successors: Floats) -> Floats:
        """Rewards ``[M]``; successors are not looked at."""
        logits = self.logits(self.pairs(observations, actions))
        if self.settings.reward == "softplus":
            return np.logaddexp(np.float32(0), logits)
        if self.settings.reward == "log":
            return -np.logaddexp(np.float32(0), -logits)
        return logits

    def loss(self, params: Tensor, expert: Tensor, learner: Tensor, mix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Cross-entropy plus penalty, and the logits of both sides; ``expert`` and ``learner`` ``[B, D + A]`` are
        scaled, ``mix`` ``[B, 1]`` in (0, 1) says where between them the penalty is taken."""
        ours, theirs = self.network(params, expert)[:, 0], self.network(params, learner)[:, 0]
        bce = torch.nn.functional.softplus(-ours).mean() + torch.nn.functional.softplus(theirs).mean()
        if not self.settings.gradient_penalty:
            return bce, ours, theirs
        between = (mix * expert + (1 - mix) * learner).requires_grad_()
        (slope,) = torch.autograd.grad(self.network(params, between).sum(), between, create_graph=True)
        return bce + self.settings.gradient_penalty * slope.square().sum(1).mean(), ours, theirs

    def fit(self, expert: Floats, learner: Floats, updates: int, number: int) -> dict[str, float]:
        """``updates`` steps on pairs ``[., D + A]`` of both sides. Batches are a function of ``seed`` and ``number``.

        Errors: DivergenceError.
        """
        s, sums = self.settings, np.zeros(5)
        sides = [torch.from_numpy(self.scale(x)) for x in (expert, learner)]
        for update in range(updates):
            seed = derive(self.seed, "batch", number, update)
            rows = [torch.from_numpy(_rows(len(x), s.batch_size, derive(seed, i))) for i, x in enumerate(sides)]
            mix = torch.rand(s.batch_size, 1, generator=generator(seed, "mix"))
            params = self.params.detach().requires_grad_()
            loss, ours, theirs = self.loss(params, sides[0][rows[0]], sides[1][rows[1]], mix)
            (grad,) = torch.autograd.grad(loss, params)
            self.adam.apply(self.params, grad, s.learning_rate)
            shares = (ours > 0).float().mean(), (theirs < 0).float().mean()
            sums += [float(x.detach()) for x in (loss, *shares, ours.mean(), theirs.mean())]
        if not torch.isfinite(self.params).all():
            raise DivergenceError("the discriminator's weights are not finite", "lower adversarial.learning_rate")
        names = ("loss", "accuracy_expert", "accuracy_learner", "logit_expert", "logit_learner")
        return {f"discriminator/{name}": x for name, x in zip(names, (sums / updates).tolist(), strict=True)}


def _rows(n: int, wanted: int, seed: int) -> np.ndarray:
    """``wanted`` row numbers below ``n``, each as often as any other but for one."""
    rounds = [permutation(n, seed, i) for i in range(-(-wanted // n))]
    return np.concatenate(rounds)[:wanted]


class Adversarial:
    """An agent that imitates: it is driven like one, but for the reward, which is the discriminator's."""

    def __init__(self, demonstrations: Demonstrations, agent: Agent, settings: AdversarialSettings, seed: int) -> None:
        """``agent``: any that learns from a ``RewardFunction``, in environments of its own. Errors: DataError where
        demonstrations and environments do not match."""
        check_fit(demonstrations, agent.environments)
        self.agent, self.settings, self.seed = agent, settings, seed
        self.discriminator = Discriminator(agent.environments, settings, derive(seed, "adversarial"))
        self._expert = self.discriminator.pairs(demonstrations.joined("observations"), demonstrations.joined("actions"))
        self.rounds = 0

    def advance(self, done: float) -> tuple[Steps, dict[str, float]]:
        """One round: 1 warm up (in the first), 2 the agent acts and learns on the present reward, 3 the discriminator
        learns from what it did. Returns the steps with their *true* rewards, which nothing here has read, and metrics.

        Errors: ConfigError for an episode that terminates in a variable horizon; DivergenceError.
        """
        if not self.rounds:
            self._warm_up()
        steps, metrics = self.agent.advance(self.discriminator, done)
        self._check(steps)
        self.rounds += 1
        learned = self.discriminator.fit(self._expert, self._pairs(steps), self.settings.updates, self.rounds)
        self.agent.reward_changed(self.discriminator)
        return steps, metrics | learned

    def act(self, observations: Floats, seed: int | None = None) -> Floats:
        """Actions of the agent; see ``Actor``."""
        return self.agent.act(observations, seed)

    def state(self) -> State:
        """The agent's state and the discriminator's."""
        tensors, meta = self.agent.state()
        d = self.discriminator
        own = {"params": d.params, "first": d.adam.first, "second": d.adam.second}
        return {f"agent.{k}": v for k, v in tensors.items()} | {f"discriminator.{k}": v for k, v in own.items()}, {
            "agent": meta,
            "rounds": self.rounds,
            "step": d.adam.step,
            "scale": d.scale.state(),
        }

    def restore(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Be what ``state`` said."""
        agent = {k.removeprefix("agent."): v for k, v in tensors.items() if k.startswith("agent.")}
        self.agent.restore(agent, meta["agent"])
        d = self.discriminator
        for own, name in ((d.params, "params"), (d.adam.first, "first"), (d.adam.second, "second")):
            own.copy_(tensors[f"discriminator.{name}"])
        d.adam.step, self.rounds = meta["step"], meta["rounds"]
        if meta["scale"]["count"]:
            d.scale.load(meta["scale"])

    def policy(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The agent's policy; see ``control.policy``."""
        return self.agent.policy()

    def _warm_up(self) -> None:
        """Let the agent act without learning; fix the scale of inputs, both sides counting the same; fit."""
        e = self.agent.environments
        length = -(-self.settings.warm_up // e.count)
        steps = Steps.room(e, length)
        for t in range(length):
            steps.take(t, e, self.agent.act(e.observations, derive(self.seed, "warm-up", t)))
        self._check(steps)
        learner = self._pairs(steps)
        d = self.discriminator
        d.scale.update(learner)
        d.scale.update(self._expert[_rows(len(self._expert), len(learner), derive(self.seed, "scale"))])
        d.fit(self._expert, learner, self.settings.warm_up_updates, 0)

    def _pairs(self, steps: Steps) -> Floats:
        return self.discriminator.pairs(steps.flat("observations"), steps.flat("actions"))

    def _check(self, steps: Steps) -> None:
        if steps.terminated.any() and not self.settings.variable_horizon:
            raise ConfigError(
                f"an episode of {self.agent.environments.spec.id} terminated, and its length would tell the agent what "
                "the demonstrations do not",
                'set environment.horizon = "fixed", or adversarial.variable_horizon if that is meant',
            )
