"""Proximal policy optimisation for language models (Schulman et al. 2017; Ouyang et al. 2022), one readable step.

Maximises E[min(ρA, clip(ρ, 1−ε, 1+ε)A)] − β·KL(π_old‖π_θ) − c₁·(V−R)² + c₂·entropy, with a KL to the reference as
per-token reward or as loss, and InstructGPT's pretraining mix. Contracts (``ppo_checks.py``) are asserted in every run;
state, snapshots and checkpoints are in ``ppo_state.py``. Left out: several ranks (every loss already divides by the
global counts of its mini-batch), reward models that judge single steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tropism.engine.adapters import adapters_off
from tropism.engine.batch import TokenBatch, by_tokens, crop
from tropism.engine.floor import Arithmetic
from tropism.engine.generation import Generator, LocalGenerator, Sampling
from tropism.engine.scoring import predicting_states, scores_from
from tropism.engine.working import Working
from tropism.feedback.records import Task
from tropism.language import ppo_checks as checks
from tropism.language.config import PpoSection
from tropism.language.policy import ActorCritic, LanguagePolicy
from tropism.language.ppo_state import PpoState
from tropism.language.ppo_work import StepWork, throughput
from tropism.language.rewards import RewardSum
from tropism.language.rollouts import Rollout, tasks_of_step, write_rows
from tropism.monitoring.phases import PhaseClock, peak_rss_mib
from tropism.objectives import kl
from tropism.objectives.advantages import deviation, gae, terminal_rewards, whiten
from tropism.objectives.policy import clipped_surrogate, entropy_bonus, sft_loss, value_loss
from tropism.runtime.precision import Precision
from tropism.runtime.seeding import derive, permutation
from tropism.runtime.stage import StageRun

Probe = Callable[[Sequence[Task], Sequence[str]], Sequence[float]]
"""Something measured on every rollout but never optimised (gold utilities): (tasks, texts) -> one number each."""


@dataclass(frozen=True)
class Targets:
    """What one rollout asks of the networks, each ``[B, C]``; ``return_deviation`` is a scalar."""

    advantages: Tensor
    returns: Tensor
    return_deviation: Tensor


@dataclass
class PpoTrainer:
    """Improves ``policy.model`` in place against ``rewards``, leashed to ``reference``: a frozen copy in memory, or,
    where the reference's model is the policy's own, that model with its adapters off."""

    policy: LanguagePolicy
    reference: LanguagePolicy
    actor: ActorCritic
    rewards: RewardSum
    tasks: Sequence[Task]
    settings: PpoSection
    sampling: Sampling
    precision: Precision
    run: StageRun
    demonstrations: Sequence[tuple[list[int], list[int]]] = ()
    probe: Probe | None = None
    generator: Generator | None = None
    """What samples; None: this process, from the working weights of the actor."""

    def __post_init__(self) -> None:
        checks.before_training(self.settings, self.actor, self.reference.model, self.precision, self.demonstrations)
        self.actor.run_in(self.precision)
        own = self.reference.model is self.actor.lm
        self.leashing = self.actor.working if own else Working(self.reference.model, self.precision)
        shared = self.actor.value_lm is None
        value_head = self.actor.value_head if shared else None
        self.sampler = self.generator or LocalGenerator(self.actor.working, value_head)
        self.state = PpoState(self.actor, self.settings)
        leash = None if own else Arithmetic.of(self.leashing.model)
        self.work = StepWork(self.actor, leash, self.rewards.sources)

    def train(self) -> dict[str, float]:
        """All steps of a round, from the newest checkpoint on; returns the last step's metrics."""
        self.state.resume(self.run)
        while self.state.step < self.settings.steps and not self.state.finished:
            self.step()
            if self.state.step % self.settings.checkpoint_every == 0 or self.state.step == self.settings.steps:
                self.state.checkpoint(self.run)
            self.run.check_stop()
        return self.state.last

    def step(self) -> None:
        """One PPO step."""
        step, clock, settings = self.state.step, PhaseClock(), self.settings
        tasks = tasks_of_step(self.tasks, settings.batch_size // settings.completions_per_prompt, self.run.seed, step)
        with clock("rollout"):  # 1. sample completions from π_old
            rollout = self.sample([t for t in tasks for _ in range(settings.completions_per_prompt)])
        with clock("score"):  # 2. π_old, V and π_ref on them
            reused = checks.reusable(self.state, settings)
            self.score(rollout, reuse=reused)
        with clock("reward"):  # 3. what each completion is paid, by component
            rollout.paid = self.rewards(rollout.tasks, rollout.generation, rollout.texts)
        targets = self.targets(rollout)  # 4. per-token rewards, advantages, returns
        metrics = checks.rollout_metrics(
            rollout, settings, self.state, self.actor, self.reference.model, self.precision
        )
        with clock("optimise"):  # 5. epochs of clipped mini-batches, rolled back on divergence
            metrics |= self.optimise(rollout, targets)
        if reused and not metrics["check/old_recomputed"]:  # the sampler's gap is what the first mini-batch saw
            metrics |= {f"check/mismatch_{of}": metrics[f"check/ratio_{of}"] for of in ("mean", "max")}
        metrics["check/logprobs_reused"] = float(reused)
        self.state.update_kl_coef(metrics["kl/ref_k1"])  # 6. the leash
        extra = {"gold": self.probe(rollout.tasks, rollout.texts)} if self.probe else {}
        metrics |= {f"ppo/{name}_mean": sum(x) / len(x) for name, x in extra.items()}
        write_rows(self.run.folder / "rollouts" / f"step-{step:05d}.jsonl", rollout.rows(extra))
        self.state.advance(metrics, self.settings.kl_limit)  # 7. on to the next step
        counted, seconds = self.work.metrics(rollout, reused, self.sampling.max_rows), clock.metrics()
        # seconds and memory are no part of the state: they differ between equal runs
        seconds |= throughput(counted, seconds) | {"memory/peak_rss_mib": peak_rss_mib()}
        self.run.log(step, metrics | counted | seconds)
        note = f"score {metrics['ppo/score_mean']:+.2f}  KL {metrics['kl/ref_k1']:.2f}"
        self.run.progress.update("PPO", step + 1, settings.steps, note)

    def sample(self, tasks: list[Task]) -> Rollout:
        """Completions of π_old, one per task given."""
        prompts = [self.policy.encode_task(t.payload) for t in tasks]
        seed = derive(self.run.seed, "ppo-rollout", self.state.step)
        self.sampler.update_weights(f"{self.run.name}:{self.state.step}")
        generation = self.sampler.generate(prompts, self.sampling, seed=seed, sequence_ids=range(len(prompts)))
        texts = [self.policy.decode(c) for c in generation.completions]
        return Rollout.empty(self.state.step, tasks, generation, texts)

    @torch.no_grad()
    def score(self, rollout: Rollout, reuse: bool = False) -> None:
        """Fill in old_logprobs, values and ref_logprobs, by the forward that trains; with ``reuse`` the first two are
        what the sampler saw (a separate value trunk has seen nothing yet)."""
        batch, temperature = rollout.batch, self.sampling.temperature
        if reuse:
            rollout.old_logprobs = rollout.generation.logprob_rows()
            if rollout.generation.values is not None:
                rollout.values = rollout.generation.value_rows()
        # bf16 rounds by the shape of its batch, so rows are scored in the company they first train in; fp32 needs no
        # such care, and other company shows a model that mixes its rows
        order = torch.arange(len(batch)) if self.precision.name == "fp32" else self.order(len(batch), 0)
        for rows in self.forwards(order, batch):
            part = batch.select(rows)
            if not reuse:
                own = self.actor.evaluate(part, temperature=temperature)
                rollout.fill(rows, old_logprobs=own.logprobs, values=own.values)
            elif rollout.generation.values is None:
                rollout.fill(rows, values=self.actor.values(part))
            with self.leash() as reference, self.leashing.running():
                states = predicting_states(reference, part)
                ref = scores_from(reference, part, states, temperature=temperature)
            rollout.fill(rows, ref_logprobs=ref.logprobs)

    def leash(self) -> AbstractContextManager[PreTrainedModel]:
        """The reference, for the time of a block."""
        model = self.leashing.model
        return adapters_off(model) if model is self.actor.working.model else nullcontext(model)

    def targets(self, rollout: Rollout) -> Targets:
        """Terminal score on the last token, KL penalty on every token, GAE, advantages whitened over the rollout."""
        settings, mask = self.settings, rollout.batch.mask
        rewards = terminal_rewards(rollout.paid.total, mask)
        if settings.kl_ref_in == "reward":
            rewards = rewards + kl.kl_ref_reward(rollout.old_logprobs, rollout.ref_logprobs, mask, self.state.kl_coef)
        advantages, returns = gae(rewards, rollout.values, mask, settings.gamma, settings.lam)
        return Targets(whiten(advantages, mask), returns, deviation(returns, mask))

    def optimise(self, rollout: Rollout, targets: Targets) -> dict[str, float]:
        """Epochs of mini-batches; a mini-batch is what the optimiser steps on. Returns means over all of them."""
        total = checks.Mean()
        self.state.snapshot()
        for epoch in range(self.settings.epochs):
            order = self.order(len(rollout.batch), epoch)
            for number, rows in enumerate(self.chunks(order, self.settings.mini_batch_size)):
                if epoch == 0 and number == 0:
                    terms, targets, checked = self.first_gradient(rollout, targets, rows)
                    total.add(checked)  # known whatever becomes of the step
                else:
                    terms, _ = self.gradient(rollout, targets, rows)
                if self.settings.ptx_coef and not self.state.critic_only:
                    terms["ppo/ptx_loss"] = self.pretraining_mix(epoch, number)
                terms |= self.state.optimiser_step()
                if checks.diverged(terms, self.settings):  # its terms are in the warning, not in the means
                    self.state.roll_back(terms)
                    return total.means() | {"ppo/rolled_back": 1.0, "ppo/epochs_done": float(epoch)}
                total.add(terms)
                if self.settings.kl_old_stop is not None and terms["kl/old"] > self.settings.kl_old_stop:
                    return total.means() | {"ppo/rolled_back": 0.0, "ppo/epochs_done": float(epoch)}
        return total.means() | {"ppo/rolled_back": 0.0, "ppo/epochs_done": float(self.settings.epochs)}

    def first_gradient(
        self, rollout: Rollout, targets: Targets, rows: Tensor
    ) -> tuple[dict[str, float], Targets, dict[str, float]]:
        """The first mini-batch's gradient, where π_θ/π_old must be 1; if it is not, π_old is scored again, after which
        it must be. Returns what is logged, the targets that hold then, and what the check saw."""
        terms, gap = self.gradient(rollout, targets, rows)
        recomputed, seen = not checks.within(self.precision, gap), {}
        if recomputed:
            self.score(rollout)
            seen = checks.mismatch(rollout, self.precision)  # reused log-probabilities were not measured before
            targets = self.targets(rollout)
            terms, gap = self.gradient(rollout, targets, rows)
            checks.require_within(self.precision, gap, rollout.step)
        return terms, targets, checks.ratio_metrics(gap) | seen | {"check/old_recomputed": float(recomputed)}

    def gradient(self, rollout: Rollout, targets: Targets, rows: Tensor) -> tuple[dict[str, float], Tensor]:
        """Gradients of a mini-batch summed over its micro-batches, every loss over the mini-batch's own token count;
        what is logged, and |log π_θ/π_old| of every token."""
        count = int(rollout.batch.completion_lengths[rows].sum())
        terms: dict[str, float] = {}
        gaps = []
        self.state.zero_grad()
        for part in self.forwards(rows, rollout.batch):
            self.work.trains(rollout.batch, part, self.state.critic_only)
            losses, logged, gap = self.losses(rollout, targets, part, max(1, count))
            torch.stack(losses).sum().backward()
            gaps.append(gap)
            for name, value in logged.items():
                terms[name] = terms.get(name, 0.0) + value
        return terms, torch.cat(gaps)

    def losses(
        self, rollout: Rollout, targets: Targets, rows: Tensor, count: int
    ) -> tuple[list[Tensor], dict[str, float], Tensor]:
        """The weighted losses of some rows, to be summed, what is logged, and |log π_θ/π_old| of their tokens."""
        settings, batch = self.settings, rollout.batch.select(rows)
        mask, critic_only = batch.mask, self.state.critic_only
        old, ref = crop(rollout.old_logprobs[rows], batch), crop(rollout.ref_logprobs[rows], batch)
        shared = self.actor.value_lm is None
        now = self.actor.evaluate(
            batch, temperature=self.sampling.temperature, detach_value_trunk=critic_only and shared
        )
        surrogate = clipped_surrogate(
            now.logprobs, old, crop(targets.advantages[rows], batch), mask, settings.clip_range, count
        )
        value = value_loss(
            now.values, crop(rollout.values[rows], batch), crop(targets.returns[rows], batch), mask, count,
            settings.value_clip_range, targets.return_deviation,
        )  # fmt: skip
        kl_old = kl.kl_old_penalty(now.logprobs, old, mask, count)
        entropy = entropy_bonus(now.entropy, mask, count)
        losses = [settings.value_coef * value.loss]
        if not critic_only:
            losses += [surrogate.loss, settings.kl_old_coef * kl_old, -settings.entropy_coef * entropy]
            if settings.kl_ref_in == "loss":
                losses.append(self.state.kl_coef * kl.kl_ref_loss(now.logprobs, ref, mask, count, old))
        return (
            losses,
            {
                "ppo/policy_loss": float(surrogate.loss.detach()),
                "ppo/value_loss": float(value.loss.detach()),
                "ppo/clip_fraction": float(surrogate.clip_fraction_sum) / count,
                "ppo/value_clip_fraction": float(value.clip_fraction_sum) / count,
                "ppo/ratio_mean": float(surrogate.ratio_sum) / count,
                "ppo/entropy": float(entropy.detach()),
                "kl/old": float(kl_old.detach()),
            },
            (now.logprobs.detach() - old).abs()[mask],
        )

    def pretraining_mix(self, epoch: int, number: int) -> float:
        """PPO-ptx: adds the gradient of ptx_coef · SFT loss on a counter-chosen batch; returns the loss."""
        seed = derive(self.run.seed, "ptx", self.state.step, epoch, number)
        chosen = permutation(len(self.demonstrations), seed, 0)[: self.settings.ptx_batch_size]
        pairs = [self.demonstrations[int(i)] for i in chosen]
        batch = TokenBatch.of([p for p, _ in pairs], [c for _, c in pairs])
        self.work.mixes(batch)
        lm = self.actor.working.model
        with self.actor.working.running():
            scores = scores_from(lm, batch, predicting_states(lm, batch))
        loss = sft_loss(scores.logprobs, batch.mask, int(batch.completion_lengths.sum()))
        (self.settings.ptx_coef * loss).backward()
        return float(loss.detach())

    def order(self, count: int, epoch: int) -> Tensor:
        """The order of ``count`` rows in an epoch of the present step, int64 ``[count]``."""
        return torch.from_numpy(permutation(count, derive(self.run.seed, "minibatch", self.state.step), epoch))

    def forwards(self, rows: Tensor, batch: TokenBatch) -> Iterator[Tensor]:
        """Rows in the groups that go through the network together when they train: mini-batches in micro-batches of
        at most ``micro_batch_tokens`` (a longer row goes alone)."""
        for mini_batch in self.chunks(rows, self.settings.mini_batch_size):
            yield from by_tokens(mini_batch, batch.lengths, self.settings.micro_batch_tokens)

    @staticmethod
    def chunks(rows: Tensor, size: int) -> Iterator[Tensor]:
        """Consecutive groups of at most ``size`` rows."""
        yield from rows.split(size)
