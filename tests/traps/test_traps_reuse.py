"""Trap 21 where the sampler's log-probabilities are used as old ones: only while it was seen to agree with the trainer,
measured at every step, and never in silence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from families import LORA
from fixtures import AUTOCAST, BF16, FP32, PRECISIONS, metrics, scored_rollout, trainer_of, weights
from tropism.engine.generation import Generation, Generator, LocalGenerator, Sampling
from tropism.engine.working import Working
from tropism.errors import ContractError
from tropism.runtime.precision import Precision


class Drifting:
    """An engine elsewhere whose log-probabilities are off by ``gap`` nats from the third step on."""

    def __init__(self, inner: Generator, gap: float) -> None:
        self.inner, self.gap = inner, gap

    @property
    def policy_version(self) -> str | None:
        return self.inner.policy_version

    def update_weights(self, policy_version: str) -> None:
        self.inner.update_weights(policy_version)

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, *, seed: int, sequence_ids: Sequence[int]
    ) -> Generation:
        made = self.inner.generate(prompts, sampling, seed=seed, sequence_ids=sequence_ids)
        if int(made.policy_version.rpartition(":")[2]) < 2:
            return made
        return replace(made, logprobs=[[x + self.gap for x in row] for row in made.logprobs])


@pytest.mark.parametrize("trunk", ["shared", "separate"])
@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_what_is_reused_is_what_would_be_scored(tmp_path: Path, trunk: str, lora: Any) -> None:
    """In fp32 a run that reuses and one that scores again go the same way, and the values are the critic's."""
    over: dict[str, Any] = {"value_trunk": trunk, "lora": lora, "steps": 4, "epochs": 1, "learning_rate": 1e-4}
    found = []
    for reuse in (True, False):
        trainer = trainer_of(tmp_path / str(reuse), reuse_logprobs=reuse, **over)
        trainer.train()
        rows = metrics(trainer)
        assert [rows[s]["check/logprobs_reused"] for s in range(4)] == ([0, 1, 1, 1] if reuse else [0] * 4)
        assert all(rows[s]["check/mismatch_max"] < 1e-4 for s in range(4))
        found.append(weights(trainer))
    assert max(float((found[0][k] - found[1][k]).abs().max()) for k in found[0]) < 1e-5
    nn.init.normal_(trainer.actor.value_head.weight)
    rollout = scored_rollout(trainer)
    old, values = rollout.old_logprobs.clone(), rollout.values.clone()
    trainer.score(rollout, reuse=True)
    torch.testing.assert_close(rollout.old_logprobs, old, atol=1e-5, rtol=0)
    torch.testing.assert_close(rollout.values, values, atol=1e-4, rtol=0)
    assert float(values.abs().max()) > 0.1
    assert (rollout.generation.values is None) == (trunk == "separate")


@pytest.mark.parametrize("precision", [AUTOCAST, BF16], ids=lambda p: p.name)
def test_a_sampler_that_differs_is_never_reused(tmp_path: Path, precision: Precision) -> None:
    trainer = trainer_of(tmp_path, precision=precision, steps=3)
    trainer.sampler = Drifting(LocalGenerator(Working(trainer.policy.model)), 0.0)
    trainer.state.last = {"check/mismatch_mean": 2e-3}
    trainer.train()
    rows = metrics(trainer)
    for step in range(3):
        before = 2e-3 if step == 0 else rows[step - 1]["check/mismatch_mean"]
        assert rows[step]["check/logprobs_reused"] == float(before < 1e-3)


@pytest.mark.parametrize("precision", PRECISIONS, ids=lambda p: p.name)
def test_a_gap_that_opens_is_scored_away_and_logged(tmp_path: Path, precision: Precision) -> None:
    """The step that finds it does not train on it; its metric is the gap, not what is left; the next one scores."""
    trainer = trainer_of(tmp_path, precision=precision, steps=4)
    trainer.sampler = Drifting(trainer.sampler, 0.005)
    trainer.train()
    rows = metrics(trainer)
    assert [rows[s]["check/logprobs_reused"] for s in range(4)] == [0, 1, 1, 0]
    assert [rows[s]["check/old_recomputed"] for s in range(4)] == [0, 0, 1, 0]
    for step in (2, 3):
        assert rows[step]["check/mismatch_mean"] == pytest.approx(0.005, rel=0.2)
        assert rows[step]["check/ratio_mean"] < 1e-4


@pytest.mark.parametrize("precision", [FP32, BF16], ids=lambda p: p.name)
def test_a_gap_beyond_the_limit_stops_a_run_that_reuses(tmp_path: Path, precision: Precision) -> None:
    trainer = trainer_of(tmp_path, precision=precision, steps=4)
    trainer.sampler = Drifting(trainer.sampler, 0.5)
    with pytest.raises(ContractError, match=r"differ by 0\.\d+ nats a token"):
        trainer.train()
    assert trainer.state.step == 2
