"""REINFORCE (Williams 1992): the policy's gradient by the returns of whole episodes, with a value baseline if wanted.

Environments are stepped side by side and never stand still, so some episodes are under way when others end. They are
kept and learned from when they end, too; their early steps were then taken by an earlier policy, and count by the
ratio of the two policies' probabilities (clipped as PPO's is, Schulman et al. 2017). Where all episodes are equally
long there are none, the ratio is 1, and it is the gradient of the paper.

Left out: baselines per time step, natural gradients.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from tropism.control.agent import State
from tropism.control.networks import Floats
from tropism.control.ppo import Ppo, PpoSettings, whitened
from tropism.control.rollouts import RewardFunction, Steps, gae_of_columns
from tropism.engine.kernels.small_networks import STATS
from tropism.environments.stepping import Environments
from tropism.errors import ConfigError, DivergenceError
from tropism.runtime.seeding import derive
from tropism.settings.sections import Section

STEPS = ("observations", "actions", "successors", "rewards", "terminated", "truncated")
"""The arrays of ``Steps``."""


class ReinforceSettings(Section):
    """``[reinforce]`` of the control domain."""

    episodes: int = Field(16, ge=1)
    """Episodes that have to end before an update."""
    learning_rate: float = Field(3e-3, gt=0)
    gamma: float = Field(0.99, ge=0, le=1)
    baseline: bool = True
    """Subtract a learned value from the returns; it also stands for what follows a truncation."""
    value_coef: float = Field(0.5, ge=0)
    entropy_coef: float = Field(0.0, ge=0)
    clip_range: float = Field(0.2, gt=0)
    """Bounds the ratio of steps that an earlier policy took."""
    max_grad_norm: float = Field(0.5, ge=0)
    whiten: bool = True
    """Bring an update's advantages to mean 0 and deviation 1."""
    normalise_observations: bool = False
    hidden: tuple[int, ...] = (64, 64)
    activation: Literal["tanh", "relu"] = "tanh"
    log_std: float = 0.0

    def as_ppo(self, rows: int) -> PpoSettings:
        """One step on ``rows`` rows, as settings of PPO."""
        same = self.model_dump(exclude={"episodes", "baseline", "whiten", "value_coef"})
        coef = self.value_coef if self.baseline else 0.0
        return PpoSettings(**same, value_coef=coef, epochs=1, batch_size=max(rows, 1), whiten="none")


class Reinforce(Ppo):
    """An agent that learns from whole episodes. Acting, saving and stepping along a gradient are PPO's."""

    name = "reinforce"
    settings_class: Any = ReinforceSettings

    def __init__(self, environments: Environments, settings: ReinforceSettings, seed: int) -> None:
        if not environments.horizon:
            raise ConfigError(
                f"reinforce needs episodes that end, and those of {environments.spec.id} have no time limit",
                "set environment.steps",
            )
        super().__init__(environments, settings.as_ppo(0), seed)
        self.own = settings
        self.kept: dict[str, NDArray[Any]] = {}
        """Steps ``[T, N]`` that hold the beginnings of episodes under way: ``Steps``, inputs, logprobs; ``used``: the
        step was learned from."""

    def advance(self, reward: RewardFunction | None, done: float) -> tuple[Steps, dict[str, float]]:
        """1 act until enough episodes have ended, 2 pay, 3 returns, 4 one step, 5 keep what is under way. Errors:
        DivergenceError."""
        steps = self._act()
        b = self.kept
        take = ~b["used"] & _ended(b["terminated"] | b["truncated"])
        rewards = self._paid(reward)
        advantages, returns = self._returns(rewards)
        raw = advantages[take]
        batch = {
            "observations": b["inputs"][take],
            "actions": b["actions"][take],
            "logprobs": b["logprobs"][take],
            "advantages": whitened(raw) if self.own.whiten else raw,
            "returns": returns[take],
        }
        rows = len(raw)
        self.settings = self.own.as_ppo(rows)
        run = self._epoch if self.actor.compiled is None else self._compiled_epoch
        stats = dict(zip(STATS, run(batch, np.arange(rows), self.own.learning_rate)[0].tolist(), strict=True))
        if not torch.isfinite(self.actor.params).all():
            raise DivergenceError("reinforce's weights are not finite", "lower reinforce.learning_rate")
        self.normaliser.update(steps.observations)
        self.updates += 1
        self._keep(take)
        return steps, {
            "reinforce/return_mean": float(returns[take].mean()),
            "reinforce/value_loss": stats["value_loss"] / rows,
            "reinforce/entropy": stats["entropy"] / rows,
            "reinforce/ratio_mean": stats["ratio"] / rows,
            "reinforce/grad_norm": stats["grad_norm"],
            "reinforce/rows": float(rows),
            "reinforce/reward_mean": float(rewards[take].mean()),
        }

    def state(self) -> State:
        """See ``Agent``."""
        tensors, meta = super().state()
        return tensors | {f"kept.{name}": torch.from_numpy(array) for name, array in self.kept.items()}, meta

    def restore(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """See ``Agent``."""
        super().restore(tensors, meta)
        kept = {name: t for name, t in tensors.items() if name.startswith("kept.")}
        self.kept = {name.removeprefix("kept."): t.numpy().copy() for name, t in kept.items()}

    def _act(self) -> Steps:
        """Act until enough episodes have ended, and lay the steps behind those that were kept."""
        e, want = self.environments, self.own.episodes
        most = e.horizon * -(-want // e.count)  # by then every environment has ended its share
        steps = Steps.room(e, most)
        noise = self.actor.noise(derive(self.seed, "act", self.updates), (most, e.count))
        inputs, logprobs = np.empty_like(steps.observations), np.empty((most, e.count), np.float32)
        t, ended = 0, 0
        while ended < want:
            inputs[t] = self.normaliser(e.observations)
            actions, logprobs[t], _ = self.actor.act(inputs[t], noise[t])
            steps.take(t, e, actions)
            ended += int(steps.ends[t].sum())
            t += 1
        made = _steps({name: getattr(steps, name)[:t].copy() for name in STEPS}, steps.states)
        new = {name: getattr(made, name) for name in STEPS} | {"inputs": inputs[:t], "logprobs": logprobs[:t]}
        new["used"] = np.zeros((t, e.count), bool)
        self.kept = {name: np.concatenate([self.kept[name], a]) if self.kept else a for name, a in new.items()}
        return made

    def _paid(self, reward: RewardFunction | None) -> Floats:
        """Rewards ``[T, N]`` of all that is kept, by the reward that is in force now."""
        return _steps(self.kept, None).paid(reward)

    def _returns(self, rewards: Floats) -> tuple[Floats, Floats]:
        """Advantages and returns ``[T, N]``: GAE with λ = 1. Without a baseline a truncation is worth nothing more."""
        b, shape = self.kept, rewards.shape
        values, bootstrap = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        if self.own.baseline:
            values = self.actor.values(b["inputs"].reshape(-1, b["inputs"].shape[-1])).reshape(shape)
            if (cut := b["truncated"]).any():
                bootstrap[cut] = self.actor.values(self.normaliser(b["successors"][cut]))
        return gae_of_columns(rewards, values, b["terminated"] | b["truncated"], bootstrap, self.own.gamma, 1.0)

    def _keep(self, taken: NDArray[np.bool_]) -> None:
        """Forget the steps before all beginnings of episodes under way."""
        used = self.kept["used"] | taken
        under_way = ~used.all(1)
        first = int(under_way.argmax()) if under_way.any() else len(used)
        self.kept = {name: array[first:].copy() for name, array in (self.kept | {"used": used}).items()}


def _steps(arrays: Mapping[str, NDArray[Any]], states: list[list[Any]] | None) -> Steps:
    b = arrays
    return Steps(
        b["observations"], b["actions"], b["successors"], b["rewards"], b["terminated"], b["truncated"], states
    )  # fmt: skip


def _ended(ends: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """``[T, N]``: the step's episode has ended, there or later."""
    return np.logical_or.accumulate(ends[::-1])[::-1]
