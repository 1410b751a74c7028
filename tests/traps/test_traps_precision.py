"""Traps of precision, each put back and seen caught: what runs is what was asked for, and the ratio begins at 1."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from families import FAMILIES, KINDS, LORA
from fixtures import AUTOCAST, BF16, EOS, PRECISIONS, VOCABULARY, llama, metrics, scored_rollout, trainer_of
from tropism.engine.generation import LocalGenerator, Sampling, check_sampling
from tropism.engine.scoring import check_head, completion_scores, hidden_states
from tropism.engine.working import Working
from tropism.errors import ContractError
from tropism.language import ppo_checks
from tropism.language.ppo import PpoTrainer
from tropism.runtime.precision import Precision

low = pytest.mark.parametrize("precision", [AUTOCAST, BF16], ids=lambda p: p.name)


@pytest.mark.parametrize("precision", PRECISIONS, ids=lambda p: p.name)
def test_trap_03_the_precision_asked_for_is_what_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Precision
) -> None:
    """Every linear layer in sampling, scoring and training, of policy and reference, computes in what was asked for.

    What learns, and what the optimiser keeps of it, is fp32 throughout. Put back: a context or weights that are not of
    that precision are caught before training.
    """
    trainer = trainer_of(tmp_path, precision=precision, steps=1)
    scored_rollout(trainer)  # the engine has looked at the models, and what comes now is what runs
    seen: dict[str, dict[torch.dtype, int]] = {"policy": {}, "reference": {}, "masters": {}}
    models = {"policy": trainer.actor.working.model, "reference": trainer.leashing.model}
    for name, model in models.items():
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.register_forward_hook(lambda m, i, out, name=name: seen[name].update({out.dtype: 1}))
    if precision.name == "bf16":
        for module in (*trainer.policy.model.modules(), *trainer.reference.model.modules()):
            module.register_forward_hook(lambda m, i, out: seen["masters"].update({torch.float32: 1}))
    trainer.train()
    wanted = torch.float32 if precision.name == "fp32" else torch.bfloat16
    assert seen == {"policy": {wanted: 1}, "reference": {wanted: 1}, "masters": {}}
    assert metrics(trainer)[0]["check/precision_bits"] == (32 if precision.name == "fp32" else 16)
    assert {p.dtype for p in trainer.actor.parameters()} == {torch.float32}
    assert {p.dtype for p in trainer.actor.parameters() if p.grad is not None} == {torch.float32}
    moments = [x for s in trainer.state.optimiser.state.values() for k, x in s.items() if k != "step"]
    assert {x.dtype for x in moments} == {torch.float32}
    monkeypatch.setattr(Precision, "autocast", lambda self: contextlib.nullcontext())
    monkeypatch.setattr(Precision, "weights", torch.float32)
    if precision.name != "fp32":
        with pytest.raises(ContractError, match=f"{precision.name} was asked for, but products run in 32 bits"):
            trainer_of(tmp_path / "back", precision=precision)


@low
def test_trap_21_rollout_logprobs_of_another_engine_are_not_old_logprobs(tmp_path: Path, precision: Precision) -> None:
    """Where sampler and trainer differ (here by precision), old_logprobs come from the trainer's own forward; both gaps
    are logged.

    Put back: old_logprobs taken from the rollout. The first mini-batch sees it and has them computed again.
    """
    wide = {"hidden_size": 128, "intermediate_size": 256}
    over: dict[str, Any] = {"precision": precision, "steps": 1, "sampling": Sampling(16, frozenset({EOS}))}
    trainer = trainer_of(tmp_path / "a", model=llama(scale=0.1, **wide), **over)
    trainer.sampler = LocalGenerator(Working(trainer.policy.model))
    rollout = scored_rollout(trainer)
    gap = (rollout.generation.logprob_rows() - rollout.old_logprobs).abs()[rollout.batch.mask]
    assert float(gap.mean()) > 1e-3
    trainer.train()
    row = metrics(trainer)[0]
    assert 1e-3 < row["check/mismatch_mean"] < row["check/mismatch_max"]
    assert row["check/ratio_mean"] < 1e-3
    assert row["check/old_recomputed"] == 0.0

    back = trainer_of(tmp_path / "b", model=llama(scale=0.1, **wide), **over)
    good, rollout.old_logprobs = rollout.old_logprobs, rollout.generation.logprob_rows()
    _, _, checked = back.first_gradient(rollout, back.targets(rollout), back.order(16, 0)[:8])
    assert checked["check/old_recomputed"] == 1.0
    assert checked["check/ratio_mean"] < 1e-3
    assert torch.equal(rollout.old_logprobs, good)


class RoundsByCompany(nn.Module):
    """As a processor may whose products are blocked by their shape: last bits depend on how many tokens go together."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (1 + 2**-7 * (x.shape[-2] % 5))


@low
def test_trap_21_rounding_by_batch_shape_is_no_broken_contract(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Precision
) -> None:
    """bf16 products may round by the shape of their batch, so old_logprobs are computed in the company of the first
    epoch.

    Put back: scored in another order, the first ratios are not 1.
    """
    eos = frozenset(range(2, VOCABULARY, 8))
    over: dict[str, Any] = {
        "precision": precision, "eos": eos, "sampling": Sampling(40, eos), "batch_size": 33, "mini_batch_size": 8,
        "micro_batch_tokens": 50, "epochs": 1, "steps": 1,
    }  # fmt: skip
    model = llama(scale=0.15)
    model.model.layers[0].mlp.act_fn = nn.Sequential(model.model.layers[0].mlp.act_fn, RoundsByCompany())
    trainer = trainer_of(tmp_path / "a", model=model, **over)
    rollout = trainer.sample([trainer.tasks[i] for i in range(33)])
    trainer.score(rollout)
    rollout.paid = trainer.rewards(rollout.tasks, rollout.generation, rollout.texts)
    targets = trainer.targets(rollout)
    in_company = [trainer.gradient(rollout, targets, rows)[1] for rows in trainer.order(33, 0).split(8)]
    assert float(torch.cat(in_company).max()) == 0.0
    trainer.train()
    assert metrics(trainer)[0]["check/old_recomputed"] == 0.0
    assert metrics(trainer)[0]["kl/ref_k1"] == 0.0

    own = PpoTrainer.order
    trainer.state.step = 0
    monkeypatch.setattr(PpoTrainer, "order", lambda self, count, epoch: own(self, count, epoch + 7))
    trainer.score(rollout)
    monkeypatch.undo()
    in_other = [trainer.gradient(rollout, targets, rows)[1] for rows in trainer.order(33, 0).split(8)]
    assert max(float(gap.mean()) for gap in in_other) > 1e-4


def test_trap_21_a_mismatch_beyond_the_limit_stops_loudly(tmp_path: Path) -> None:
    """Sampling from other weights than those that are scored is not recomputed away: the run stops."""
    trainer = trainer_of(tmp_path, model=llama(0, scale=0.3), precision=BF16)
    rollout = scored_rollout(trainer)
    stale = rollout.generation.batch()
    other = llama(1, scale=0.3)
    with torch.no_grad():
        rows = completion_scores(other, stale, hidden_states(other, stale)).logprobs
    wrong = [rows[i, : len(c)].tolist() for i, c in enumerate(rollout.generation.completions)]
    rollout.generation = dataclasses.replace(rollout.generation, logprobs=wrong)
    with pytest.raises(ContractError, match="nats a token in bf16"):
        ppo_checks.rollout_metrics(
            rollout, trainer.settings, trainer.state, trainer.actor, trainer.reference.model, trainer.precision
        )


@pytest.mark.parametrize("precision", PRECISIONS, ids=lambda p: p.name)
@pytest.mark.parametrize("how", KINDS)
@pytest.mark.parametrize("trunk", ["shared", "separate"])
@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3", "gpt2"])
def test_trap_12_the_kl_is_zero_and_the_ratio_one_whatever_ran_before(
    name: str, how: str, trunk: str, precision: Precision, tmp_path: Path
) -> None:
    """The policy was checked in fp32 when it was loaded, its reference is a copy that never ran: what stands in for
    parts of a model is the same for both."""
    model = FAMILIES[name]()
    check_head(model)
    check_sampling(model)
    lora = LORA if how == "lora" else None
    trainer = trainer_of(tmp_path, model=model, lora=lora, precision=precision, value_trunk=trunk, epochs=1, steps=1)
    trainer.train()
    row = metrics(trainer)[0]
    assert row["kl/ref_k1"] == row["kl/ref_k3"] == 0.0
    assert row["check/ratio_max"] <= (1e-4 if precision.name == "fp32" else 0.0)
    assert row["check/old_recomputed"] == 0.0
