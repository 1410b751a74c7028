"""What a PPO run carries from step to step: optimiser, schedules, KL coefficient, snapshots, checkpoints.

All of it is restored on resume; random numbers are counters and need no state.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tropism.errors import DivergenceError, StoreError
from tropism.language.config import PpoSection
from tropism.language.policy import ActorCritic
from tropism.objectives.kl import AdaptiveKL
from tropism.runtime.checkpoints import load_state, save_state
from tropism.runtime.stage import StageRun

log = logging.getLogger(__name__)


class PpoState:
    """Mutable state of one round of PPO on ``actor``."""

    def __init__(self, actor: ActorCritic, settings: PpoSection) -> None:
        self.actor, self.settings = actor, settings
        self.policy_parameters = [p for p in actor.lm.parameters() if p.requires_grad]
        critic = [actor.value_head, *([actor.value_lm.get_decoder()] if actor.value_lm is not None else [])]
        self.critic_parameters = [p for module in critic for p in module.parameters() if p.requires_grad]
        rate = settings.critic_learning_rate or settings.learning_rate
        self.rates = (settings.learning_rate, rate)
        self.optimiser = torch.optim.AdamW(
            [{"params": self.policy_parameters}, {"params": self.critic_parameters}],
            lr=settings.learning_rate, betas=(0.9, 0.95), weight_decay=settings.weight_decay,
            fused=True,
        )  # fmt: skip
        self.step, self.finished, self.rate_factor, self.rollbacks = 0, False, 1.0, 0
        self.last: dict[str, float] = {}
        self.history: list[list[float | None]] = []
        """(sequence KL, mean of the proxy, mean gold where it is known) of every step. The proxy is the learned score;
        where there is none, the whole score."""
        self.controller = (
            AdaptiveKL(settings.kl_target, settings.kl_ref_coef, settings.kl_rate) if settings.kl_target else None
        )
        self._snapshot: tuple[dict[str, torch.Tensor], dict[str, Any]] | None = None

    @property
    def kl_coef(self) -> float:
        """The present weight of the KL to the reference."""
        return self.controller.coef if self.controller else self.settings.kl_ref_coef

    @property
    def critic_only(self) -> bool:
        """Whether the critic still warms up."""
        return self.step < self.settings.critic_warmup_steps

    def warmup(self) -> float:
        """Share of the learning rate in this step, rising linearly after the critic's warm-up."""
        since = self.step - self.settings.critic_warmup_steps + 1
        return min(1.0, max(since, 1) / max(1, self.settings.warmup_steps))

    def zero_grad(self) -> None:
        self.optimiser.zero_grad(set_to_none=True)

    def optimiser_step(self) -> dict[str, float]:
        """Clip the gradient (its norm before clipping is logged) and step; a non-finite norm steps nothing."""
        parameters = [p for p in (*self.policy_parameters, *self.critic_parameters) if p.grad is not None]
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.settings.max_grad_norm))
        policy_rate = self.rates[0] * self.warmup() * self.rate_factor
        for group, rate in zip(
            self.optimiser.param_groups, (policy_rate, self.rates[1] * self.rate_factor), strict=True
        ):
            group["lr"] = rate
        if torch.isfinite(torch.tensor(norm)):
            self.optimiser.step()
            self.actor.refresh()
        return {"ppo/grad_norm": norm, "ppo/learning_rate": 0.0 if self.critic_only else policy_rate}

    def learned(self) -> dict[str, torch.Tensor]:
        """Everything that learns, by name: all weights, or adapters and critic alone. The rest never changes."""
        return {name: p.detach() for name, p in self.actor.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def restore(self, weights: Mapping[str, torch.Tensor], source: str) -> None:
        """Set what learns to ``weights``; StoreError naming ``source`` if they are not of these names."""
        mine = self.learned()
        if mine.keys() != weights.keys():
            odd = ", ".join(sorted(mine.keys() ^ weights.keys())[:3])
            raise StoreError(f"{source} is not of this model ({odd}, …)", "delete the stage's scratch folder")
        for name, parameter in mine.items():
            parameter.copy_(weights[name])
        self.actor.refresh()

    def snapshot(self) -> None:
        """Remember weights and optimiser as the last good state."""
        weights = {name: p.clone() for name, p in self.learned().items()}
        self._snapshot = (weights, copy.deepcopy(self.optimiser.state_dict()))

    def roll_back(self, terms: dict[str, float]) -> None:
        """Back to the last good state at half the learning rate; DivergenceError once the allowed times are spent."""
        assert self._snapshot is not None  # optimise() takes one before its first mini-batch
        shown = {k: terms[k] for k in ("ppo/policy_loss", "ppo/value_loss", "kl/old", "ppo/grad_norm") if k in terms}
        self.rollbacks += 1
        if self.rollbacks > self.settings.max_rollbacks:
            raise DivergenceError(
                f"PPO diverged at step {self.step} ({shown}) after {self.settings.max_rollbacks} roll-backs",
                "lower ppo.learning_rate, raise ppo.kl_ref_coef, or look at the rewards of this step's rollout",
            )
        self.restore(self._snapshot[0], "the snapshot")
        self.optimiser.load_state_dict(self._snapshot[1])
        self.rate_factor *= 0.5
        log.warning(
            "PPO step %d diverged (%s): rolled back, learning rate now x %g", self.step, shown, self.rate_factor
        )

    def update_kl_coef(self, sequence_kl: float) -> None:
        """Adapt the leash to the rollout's KL, where a target is set; not while only the critic learns, because the
        policy cannot answer and the coefficient would run away from the target."""
        if self.controller is not None and not self.critic_only:
            self.controller.update(sequence_kl)

    def advance(self, metrics: dict[str, float], kl_limit: float | None) -> None:
        """Count the step; the round ends early beyond the KL limit."""
        self.last = metrics
        proxy = metrics.get("reward/learned_mean", metrics["ppo/score_mean"])  # not what penalties add
        self.history.append([metrics["kl/ref_k1"], proxy, metrics.get("ppo/gold_mean")])
        self.step += 1
        if kl_limit is not None and metrics["kl/ref_k1"] > kl_limit:
            self.finished = True

    def checkpoint(self, run: StageRun) -> None:
        """Save everything atomically."""
        meta = {
            "step": self.step, "finished": self.finished, "rate_factor": self.rate_factor, "rollbacks": self.rollbacks,
            "controller": self.controller.state_dict() if self.controller else None, "last": self.last,
            "history": self.history,
        }  # fmt: skip

        def save(folder: Path) -> None:
            save_state(folder, tensors=self.learned(), optimizers={"adamw": self.optimiser})

        run.checkpoint("ppo", self.step, save, meta)

    def resume(self, run: StageRun) -> None:
        """Go on from the newest checkpoint, if there is one."""
        found = run.latest_checkpoint("ppo")
        if found is None:
            return
        _, folder, meta = found
        weights, _ = load_state(folder, optimizers={"adamw": self.optimiser})
        self.restore(weights, f"checkpoint {folder}")
        self.step, self.finished = meta["step"], meta["finished"]
        self.rate_factor, self.rollbacks, self.last = meta["rate_factor"], meta["rollbacks"], meta["last"]
        self.history = meta["history"]
        if self.controller is not None and meta["controller"] is not None:
            self.controller.load_state_dict(meta["controller"])
