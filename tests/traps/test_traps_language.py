"""One test for each trap of PPO on language models; each one puts the trap back and sees it caught.

Traps of precision are in ``test_traps_precision.py``, of what reaches the reward model in ``test_traps_rewards.py``, of
the mathematics in ``test_traps_mathematics.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from fixtures import (
    EOS,
    PAD,
    equal,
    gpt2,
    llama,
    metrics,
    policy_of,
    scored_rollout,
    some_prompts,
    trainer_of,
    weights,
)
from tropism.engine.batch import TokenBatch
from tropism.engine.generation import Sampling, generate
from tropism.errors import ContractError, InterruptedRun
from tropism.feedback.records import Task
from tropism.language import ppo_checks
from tropism.language.config import SamplingSection
from tropism.language.policy import ActorCritic, LanguagePolicy, copy_of
from tropism.language.ppo import PpoTrainer
from tropism.language.ppo_state import PpoState
from tropism.language.rewards import CallableReward, RewardSum
from tropism.language.rollouts import Rollout

SEVERAL = frozenset({EOS, 9, 21})


def optimiser_steps(trainer: PpoTrainer) -> int:
    return int(trainer.state.optimiser.state[trainer.state.critic_parameters[0]]["step"])


def test_trap_01_a_mini_batch_is_what_the_optimiser_steps_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put back: the optimiser steps on every micro-batch. The ratio has moved before the mini-batch is through, and the
    run stops."""
    for budget in (4096, 50, 25):
        trainer = trainer_of(tmp_path / str(budget), steps=1, epochs=1, micro_batch_tokens=budget)
        trainer.train()
        assert optimiser_steps(trainer) == 2
        assert metrics(trainer)[0]["ppo/ratio_mean"] == pytest.approx(1, abs=0.1)  # and not 1/2 or 1/4

    own = PpoTrainer.gradient

    def step_on_micro_batches(self: PpoTrainer, rollout: Any, targets: Any, rows: Any) -> Any:
        *parts, last = self.forwards(rows, rollout.batch)
        for part in parts:
            own(self, rollout, targets, part)
            self.state.optimiser_step()
        return own(self, rollout, targets, last)

    monkeypatch.setattr(PpoTrainer, "gradient", step_on_micro_batches)
    trainer = trainer_of(tmp_path / "back", steps=1, epochs=1, micro_batch_tokens=25)
    with pytest.raises(ContractError, match=r"π_θ/π_old|differ by"):
        trainer.train()


def test_trap_02_statistics_are_not_diluted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put back: sums over the mini-batches made are divided by those planned (an early stop leaves empty slots)."""
    stop: dict[str, Any] = {"kl_old_stop": 1e-3, "learning_rate": 1e-2, "epochs": 4, "divergence_kl": 1e6, "steps": 1}

    def ratio(folder: Path) -> float:
        trainer = trainer_of(folder, **stop)
        trainer.train()
        assert optimiser_steps(trainer) == 2  # of 8 planned
        return metrics(trainer)[0]["ppo/ratio_mean"]

    assert ratio(tmp_path / "a") == pytest.approx(1, abs=0.15)
    monkeypatch.setattr(ppo_checks.Mean, "means", lambda self: {n: total / 8 for n, (total, _) in self._sums.items()})
    assert ratio(tmp_path / "b") < 0.3


def test_trap_02_token_means_are_masked(tmp_path: Path) -> None:
    """Put back: a mean over the padded rectangle. Entropy and values are means over valid tokens."""
    trainer = trainer_of(tmp_path, model=llama(scale=0.3), eos=frozenset(range(2, 20)))
    nn.init.normal_(trainer.actor.value_head.weight)
    rollout = scored_rollout(trainer)
    mask = rollout.batch.mask
    assert 0 < int(mask.sum()) < mask.numel()
    logged = ppo_checks.rollout_metrics(
        rollout, trainer.settings, trainer.state, trainer.actor, trainer.reference.model, trainer.precision
    )
    assert logged["ppo/value_mean"] == pytest.approx(float(rollout.values[mask].mean()), rel=1e-5)
    assert logged["ppo/value_mean"] != pytest.approx(float(rollout.values.mean()), rel=1e-2)
    entropy = trainer.actor.evaluate(rollout.batch).entropy.detach()
    terms, _ = trainer.gradient(rollout, trainer.targets(rollout), torch.arange(16))
    assert terms["ppo/entropy"] == pytest.approx(float(entropy[mask].mean()), rel=1e-5)
    assert terms["ppo/entropy"] != pytest.approx(float(entropy.mean()), rel=1e-2)


def test_trap_04_max_grad_norm_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put back: the norm is measured and logged, but nothing is clipped."""

    def applied(folder: Path) -> tuple[float, float]:
        trainer = trainer_of(folder, max_grad_norm=1e-3, epochs=1, steps=1, mini_batch_size=16)
        trainer.train()
        grads = [p.grad.flatten() for p in trainer.actor.parameters() if p.grad is not None]
        return float(torch.cat(grads).norm()), metrics(trainer)[0]["ppo/grad_norm"]

    norm, logged = applied(tmp_path / "a")
    assert norm == pytest.approx(1e-3, rel=1e-2)
    assert logged > 0.05  # the norm before clipping
    monkeypatch.setattr(
        torch.nn.utils, "clip_grad_norm_",
        lambda ps, limit: torch.stack([p.grad.norm() for p in ps]).norm(),
    )  # fmt: skip
    norm, logged = applied(tmp_path / "b")
    assert norm == pytest.approx(logged, rel=1e-4)


def loves(token: int) -> nn.Module:
    """A model that mostly says ``token``."""
    model = llama(scale=0.02)
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 50.0
        model.lm_head.weight[token, 0] = 0.8
    return model


def test_trap_06_masks_come_from_lengths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy that samples its pad id, several EOS ids, and a pad id that is EOS, through a whole PPO step.

    Put back: the mask is ``ids != pad``, and tokens that were sampled and paid for are lost.
    """

    def counted(folder: Path, model: nn.Module, eos: frozenset[int]) -> tuple[int, int, Rollout]:
        trainer = trainer_of(folder, model=model, eos=eos, steps=1)
        trainer.train()
        rollout = scored_rollout(trainer)
        return int(rollout.batch.mask.sum()), sum(map(len, rollout.generation.completions)), rollout

    valid, tokens, rollout = counted(tmp_path / "a", loves(PAD), frozenset({EOS}))
    assert valid == tokens
    assert sum(c.count(PAD) for c in rollout.generation.completions) > 0.3 * tokens
    assert max(len(c) for c in rollout.generation.completions if PAD in c) == 8
    for name, model, eos in (
        ("b", llama(scale=0.3), SEVERAL),
        ("c", llama(scale=0.3, pad_token_id=EOS), frozenset({EOS, 9})),
    ):
        valid, tokens, rollout = counted(tmp_path / name, model, eos)
        assert valid == tokens
        ends = {
            c[-1] for c, s in zip(rollout.generation.completions, rollout.generation.stops, strict=True) if s == "eos"
        }
        assert ends <= eos

    monkeypatch.setattr(TokenBatch, "mask", property(lambda self: self.completion_ids() != PAD))
    trainer = trainer_of(tmp_path / "back", model=loves(PAD))
    back = trainer.sample([trainer.tasks[i] for i in range(16)])
    assert int(back.batch.mask.sum()) < sum(map(len, back.generation.completions))


def test_trap_07_a_missing_end_is_told_by_the_stop_reason() -> None:
    """Put back: a search for the tokenizer's EOS calls answers that ended with another EOS id cut, and fines them."""
    model, tasks = llama(scale=0.3), [Task("train", {"prompt": "w1"})] * 60
    out = generate(
        model, some_prompts(60), Sampling(8, SEVERAL), seed=1, sequence_ids=range(60), policy_version="v"
    )  # fmt: skip
    free = CallableReward("free", lambda t, g, x: [0.0] * len(x))
    paid = RewardSum([free], missing_end_penalty=1.0)(tasks, out, [""] * 60).total
    cut = torch.tensor([len(c) == 8 and c[-1] not in SEVERAL for c in out.completions])
    assert torch.equal(paid, -cut.float())
    searched = torch.tensor([EOS not in c for c in out.completions])
    assert int((searched & ~cut).sum()) > 0


def test_trap_10_sampling_temperature_is_the_temperature_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At T = 0.6 rollout, old, new and reference logprobs are tempered. Put back: scoring at T = 1 stops the run."""
    sampling = Sampling(8, frozenset({EOS}), temperature=0.6)
    trainer = trainer_of(tmp_path / "a", model=llama(scale=0.3), sampling=sampling, steps=2)
    trainer.train()
    assert metrics(trainer)[0]["kl/ref_k1"] == 0.0
    assert max(m["check/mismatch_max"] for m in metrics(trainer).values()) < 1e-4
    assert max(m["check/ratio_max"] for m in metrics(trainer).values()) < 1e-4
    own = ActorCritic.evaluate
    monkeypatch.setattr(
        ActorCritic, "evaluate", lambda self, batch, **o: own(self, batch, **(o | {"temperature": 1.0}))
    )
    with pytest.raises(ContractError, match="KL to a reference of equal weights is"):
        trainer_of(tmp_path / "b", model=llama(scale=0.3), sampling=sampling).train()


@pytest.mark.parametrize("name", ["top_p", "top_k", "min_p", "repetition_penalty"])
def test_trap_10_truncated_sampling_is_refused(name: str) -> None:
    """What would bias the ratio cannot be asked for, in the configuration or in code."""
    with pytest.raises(ValidationError, match=name):
        SamplingSection(**{name: 0.9})
    with pytest.raises(TypeError, match=name):
        Sampling(8, frozenset({EOS}), **{name: 0.9})  # type: ignore[arg-type]


def test_trap_11_dropout_is_off_in_sampling_and_scoring(tmp_path: Path) -> None:
    """A model with dropout 0.5 that came in train mode. Put back: a model that cannot be switched to eval mode."""
    trainer = trainer_of(tmp_path / "a", model=gpt2(dropout=0.5).train(), steps=2)
    trainer.train()
    assert max(m["check/mismatch_max"] for m in metrics(trainer).values()) < 1e-4
    assert max(m["check/ratio_max"] for m in metrics(trainer).values()) < 1e-4
    assert metrics(trainer)[0]["kl/ref_k1"] == 0.0

    trainer = trainer_of(tmp_path / "b", model=gpt2(dropout=0.5))
    trainer.policy.model.train()
    trainer.policy.model.eval = lambda: trainer.policy.model  # type: ignore[method-assign]
    with pytest.raises(ContractError):
        trainer.train()


def test_trap_12_the_reference_is_the_model_given_not_its_files(tmp_path: Path) -> None:
    """Put back: the reference is read again from the folder the policy once came from; KL at step 0 is then not 0."""
    policy_of(llama(scale=0.1)).save(tmp_path / "m", {})
    policy = LanguagePolicy.load(tmp_path / "m")
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))

    def first_kl(folder: Path, reference: nn.Module) -> float:
        trainer = trainer_of(folder, model=copy_of(policy.model).requires_grad_(True), reference=reference, steps=1)
        trainer.train()
        return metrics(trainer)[0]["kl/ref_k1"]

    assert first_kl(tmp_path / "a", copy_of(policy.model)) == 0.0
    assert first_kl(tmp_path / "b", copy_of(LanguagePolicy.load(tmp_path / "m").model)) != 0.0


RESUMED: dict[str, Any] = {
    "steps": 4, "checkpoint_every": 2, "critic_warmup_steps": 1, "warmup_steps": 4, "kl_target": 0.2, "batch_size": 8,
    "mini_batch_size": 4,
}  # fmt: skip


def forget_moments(state: PpoState) -> None:
    state.optimiser.state.clear()


def forget_critic(state: PpoState) -> None:
    torch.nn.init.zeros_(state.actor.value_head.weight)


def forget_controller(state: PpoState) -> None:
    assert state.controller is not None
    state.controller.coef = 0.05


def forget_cursor(state: PpoState) -> None:
    state.step = 0


def keep_all(state: PpoState) -> None:
    """Nothing is forgotten."""


@pytest.mark.parametrize("forget", [keep_all, forget_moments, forget_critic, forget_controller, forget_cursor])
def test_trap_19_resume_restores_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forget: Callable[[PpoState], None]
) -> None:
    """Stopped at a checkpoint, the remaining steps are trained and end in the same bits.

    Put back, one at a time: moments, critic, KL controller or step (schedule, cursor, random numbers) are lost.
    """
    whole = trainer_of(tmp_path / "whole", **RESUMED)
    whole.train()
    asked: list[int] = []
    first = trainer_of(tmp_path / "parts", stop=lambda: asked.append(1) or len(asked) == 2, **RESUMED)
    with pytest.raises(InterruptedRun):
        first.train()
    own = PpoState.resume
    monkeypatch.setattr(PpoState, "resume", lambda self, run: own(self, run) or forget(self))
    resumed = trainer_of(tmp_path / "parts", **RESUMED)
    resumed.train()
    assert equal(weights(whole), weights(resumed)) == (forget is keep_all)
    assert (sorted(metrics(resumed)) == [2, 3]) == (forget is not forget_cursor)
