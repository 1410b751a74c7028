"""What a PPO step is said to have done, against a step counted by hand and against switching things on and off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fixtures import BF16, FP32, Recorder, llama, metrics, policy_of, trainer_of
from tropism.engine.adapters import LoraSettings
from tropism.engine.floor import Arithmetic
from tropism.engine.generation import Sampling
from tropism.language.frozen_reward import FrozenNetwork, TokenEnsemble
from tropism.language.ppo import PpoTrainer
from tropism.language.reward_network import LearnedReward
from tropism.language.rewards import RewardSource
from tropism.reward.ensemble import FrozenScale


def one_step(folder: Path, **over: Any) -> tuple[PpoTrainer, dict[str, float]]:
    """A trainer after its first step, and what that step logged."""
    trainer = trainer_of(folder, sampling=Sampling(6, frozenset()), **over)
    trainer.step()
    return trainer, metrics(trainer)[0]


def test_a_step_counted_by_hand(tmp_path: Path) -> None:
    """16 completions of 6 tokens, none ended early; two epochs of everything."""
    trainer, found = one_step(tmp_path)
    flat = Arithmetic.of(llama())
    tasks = [trainer.tasks[i] for i in range(40)]
    assert found["tokens/completion"] == 16 * 6
    assert found["tokens/optimise"] == 2 * (found["tokens/prompt"] + found["tokens/completion"])
    assert 16 <= found["tokens/prompt"] <= 16 * max(len(trainer.policy.encode_task(t.payload)) for t in tasks)
    assert found["work/decode_rows"] == 16
    assert found["work/reward_gflop"] == 0  # a Python function
    every = 2 * flat.base * (found["tokens/prompt"] + found["tokens/completion"]) + 2 * flat.head * 96
    score = found["work/score_gflop"] * 1e9
    assert 2 * every < score < 2.2 * every  # π_old and π_ref, and a little attention
    attention = score / 2 - every
    assert found["work/optimise_gflop"] * 1e9 == pytest.approx(2 * (3 * every + 3.5 * attention), rel=1e-9)
    decode = found["work/rollout_decode_gflop"] * 1e9
    products = 2 * flat.base * 16 * 5 + 2 * flat.head * 16 * 6  # the last token of each is drawn and not run
    assert products < decode < 1.1 * products
    assert found["work/rollout_gflop"] * 1e9 - decode < every / 3
    for phase, tokens in (("rollout", "tokens/completion"), ("optimise", "tokens/optimise")):
        rate = found[f"throughput/{phase}_tokens_per_s"]
        assert rate == pytest.approx(found[tokens] / found[f"time/{phase}_s"])


def test_every_step_is_counted_alone(tmp_path: Path) -> None:
    trainer, first = one_step(tmp_path, reuse_logprobs=False)
    trainer.step()
    second = metrics(trainer)[1]
    assert first["tokens/optimise"] / 2 == first["tokens/prompt"] + first["tokens/completion"]
    assert second["tokens/optimise"] / 2 == second["tokens/prompt"] + second["tokens/completion"]


def test_what_is_reused_is_not_scored(tmp_path: Path) -> None:
    trainer, first = one_step(tmp_path, batch_size=40, mini_batch_size=20)  # 40 tasks: the same prompts in every step
    trainer.step()
    second = metrics(trainer)[1]
    assert (first["check/logprobs_reused"], second["check/logprobs_reused"]) == (0, 1)
    assert second["work/score_gflop"] == pytest.approx(first["work/score_gflop"] / 2, rel=1e-9)
    assert second["work/optimise_gflop"] == pytest.approx(first["work/optimise_gflop"], rel=1e-9)


def test_a_trunk_of_its_own_doubles_the_trunk(tmp_path: Path) -> None:
    _, shared = one_step(tmp_path / "a")
    _, apart = one_step(tmp_path / "b", value_trunk="separate")
    assert 1.5 < apart["work/optimise_gflop"] / shared["work/optimise_gflop"] < 2
    assert 1.3 < apart["work/score_gflop"] / shared["work/score_gflop"] < 1.5
    assert apart["work/rollout_gflop"] == shared["work/rollout_gflop"]


def test_a_warm_up_of_the_critic_is_a_forward_for_a_shared_trunk(tmp_path: Path) -> None:
    _, whole = one_step(tmp_path / "a")
    _, warm = one_step(tmp_path / "b", critic_warmup_steps=1)
    assert whole["work/optimise_gflop"] / warm["work/optimise_gflop"] == pytest.approx(3, rel=0.05)


def test_adapters_train_for_less_and_cost_a_reference_nothing(tmp_path: Path) -> None:
    _, full = one_step(tmp_path / "a")
    _, lora = one_step(tmp_path / "b", lora=LoraSettings(rank=1))
    assert 0.65 < lora["work/optimise_gflop"] / full["work/optimise_gflop"] < 0.85
    ratio = lora["work/score_gflop"] / full["work/score_gflop"]
    assert 1 < ratio < 1.1  # the policy with its adapters, the reference without


def test_the_pretraining_mix_counts(tmp_path: Path) -> None:
    pairs = [([1, 5, 6], [7, 8, 2])] * 4
    _, without = one_step(tmp_path / "a")
    _, mixed = one_step(tmp_path / "b", demonstrations=pairs, ptx_coef=1.0, ptx_batch_size=4)
    assert mixed["tokens/optimise"] - without["tokens/optimise"] == 4 * 4 * 6  # four gradients of four pairs
    assert mixed["work/optimise_gflop"] > without["work/optimise_gflop"]


@pytest.mark.parametrize("precision", [FP32, BF16], ids=lambda p: p.name)
def test_a_learned_reward_is_a_forward_of_its_trunk(tmp_path: Path, precision: Any) -> None:
    trunk = policy_of(llama(seed=3))
    network = FrozenNetwork(trunk, TokenEnsemble(2 * 32 + 3, 2, 4, 0.0, 0), precision, 64)
    learned: list[RewardSource] = [
        LearnedReward(network, FrozenScale((0.0, 0.0), (1.0, 1.0), 1.0, 2, "by hand"), exact=True)
    ]
    trainer = trainer_of(tmp_path, sampling=Sampling(6, frozenset()), precision=precision)
    trainer.rewards.sources[:] = learned
    trainer.__post_init__()  # what is counted is settled when a trainer is made
    trainer.step()
    assert isinstance(trainer.run.metrics, Recorder)
    found = trainer.run.metrics.steps[0]
    small = 2.0 * 2 * 67 * 4 * 16 * 6
    assert found["work/reward_gflop"] * 1e9 == pytest.approx(found["work/score_gflop"] * 1e9 / 2 + small, rel=1e-9)
    assert torch.isfinite(torch.tensor(found["ppo/score_mean"]))
