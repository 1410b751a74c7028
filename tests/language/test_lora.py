"""LoRA in SFT and PPO: only adapters and critic learn, the reference is the model without them, a resume is exact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM

from families import LORA, adapted
from fixtures import PRECISIONS, equal, llama, metrics, odd_tokens, policy_of, trainer_of, weights, word_tokenizer
from tropism.engine.adapters import LoraSettings, adds_nothing, has_adapters, merged_copy
from tropism.engine.models import load_policy, save_policy
from tropism.errors import ConfigError, ContractError, InterruptedRun
from tropism.language.leash import leashed, trainable
from tropism.language.policy import LanguagePolicy, copy_of, same_weights
from tropism.language.ppo import PpoTrainer
from tropism.language.sft import SftSettings, fine_tune
from tropism.runtime.precision import Precision
from tropism.runtime.stage import StageRun

WIDE = LoraSettings(rank=8, alpha=16)
RUN: dict[str, Any] = {
    "steps": 6, "checkpoint_every": 2, "critic_warmup_steps": 1, "warmup_steps": 3, "kl_target": 0.2, "lora": LORA,
    "ptx_coef": 0.1, "ptx_batch_size": 4, "demonstrations": [([1, 5], [7, 2]), ([1], [9, 11, 2])] * 3,
}  # fmt: skip


def base_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Everything but the adapters, copied."""
    return {
        k.replace(".base_layer.", "."): p.detach().clone() for k, p in model.named_parameters() if ".lora_" not in k
    }


def test_it_learns_a_toy_reward_and_the_base_stays_bit_for_bit(tmp_path: Path) -> None:
    start = llama(scale=0.2)  # the head stays, so its weights bound what adapters can say
    before = base_weights(start)
    trainer = trainer_of(
        tmp_path, model=start, lora=WIDE, penalty=0.0, steps=15, batch_size=64, mini_batch_size=16, warmup_steps=2,
        critic_warmup_steps=2, learning_rate=1e-2,
    )  # fmt: skip
    assert trainer.reference.model is trainer.actor.lm  # no second copy
    trainer.train()
    rows = metrics(trainer)
    assert rows[0]["kl/ref_k1"] == 0.0
    assert rows[0]["ppo/score_mean"] < 2.2
    assert sum(rows[s]["ppo/score_mean"] for s in (12, 13, 14)) / 3 > 2.7
    assert 0.1 < rows[14]["kl/ref_k1"] < 12
    assert equal(before, base_weights(trainer.policy.model))
    assert not adds_nothing(trainer.policy.model)


@pytest.mark.parametrize("precision", PRECISIONS, ids=lambda p: p.name)
@pytest.mark.parametrize("trunk", ["shared", "separate"])
def test_trap_12_the_kl_starts_at_exactly_zero(tmp_path: Path, precision: Precision, trunk: str) -> None:
    trainer = trainer_of(tmp_path, model=llama(), lora=LORA, precision=precision, value_trunk=trunk, steps=1)
    trainer.train()
    assert metrics(trainer)[0]["kl/ref_k1"] == metrics(trainer)[0]["kl/ref_k3"] == 0.0
    assert metrics(trainer)[0]["check/ratio_max"] < 1e-4


def test_the_leash_is_that_of_a_frozen_copy(tmp_path: Path) -> None:
    """Switching adapters off gives, at every step, the numbers that a separate copy of the start gives."""
    own = trainer_of(tmp_path / "own", lora=LORA, steps=3, learning_rate=1e-2)
    own.train()
    start = llama(scale=0.1)
    frozen = copy_of(start)
    frozen.lm_head.weight.data[5] += 0.0  # equal weights
    other = trainer_of(tmp_path / "other", model=start, lora=LORA, steps=3, learning_rate=1e-2)
    other.reference = LanguagePolicy(frozen, other.policy.tokenizer, other.policy.eos)
    other.__post_init__()
    assert other.leashing.model is frozen
    other.train()
    for step in range(3):
        assert metrics(own)[step]["kl/ref_k1"] == pytest.approx(metrics(other)[step]["kl/ref_k1"], abs=1e-6)
    assert metrics(own)[2]["kl/ref_k1"] > 0.01


def test_a_reference_that_is_the_model_itself_without_adapters_is_still_refused(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, lora=LORA)
    trainer.reference = LanguagePolicy(merged_copy(trainer.actor.lm), trainer.policy.tokenizer, trainer.policy.eos)
    with pytest.raises(ContractError, match="require gradients"):
        trainer.__post_init__()


def after(calls: int) -> Any:
    asked: list[int] = []
    return lambda: asked.append(1) or len(asked) >= calls


@pytest.mark.parametrize("precision", PRECISIONS, ids=lambda p: p.name)
@pytest.mark.parametrize("trunk", ["shared", "separate"])
def test_trap_19_resumed_equals_undisturbed_bit_for_bit(tmp_path: Path, precision: Precision, trunk: str) -> None:
    over = RUN | {"precision": precision, "value_trunk": trunk}
    whole = trainer_of(tmp_path / "whole", **over)
    whole.train()
    first = trainer_of(tmp_path / "parts", stop=after(3), **over)
    with pytest.raises(InterruptedRun):
        first.train()
    torch.rand(3)
    second = trainer_of(tmp_path / "parts", **over)
    second.train()
    assert equal(weights(whole), weights(second))
    assert whole.state.kl_coef == second.state.kl_coef


def test_a_checkpoint_and_a_snapshot_hold_only_what_learns(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, lora=LORA, steps=1, checkpoint_every=1, value_trunk="separate")
    trainer.train()
    state = load_file(tmp_path / "checkpoints" / "ppo-00000001" / "tensors.safetensors")
    assert all(".lora_" in k or k.startswith("value_head.") for k in state)
    assert {k.split(".")[0] for k in state} == {"lm", "value_lm", "value_head"}
    assert trainer.state._snapshot is not None
    assert trainer.state._snapshot[0].keys() == state.keys()


def test_divergence_rolls_adapters_back(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, lora=LORA, learning_rate=100.0, steps=1)
    before = weights(trainer)
    trainer.train()
    assert trainer.state.rollbacks == 1
    assert equal(before, weights(trainer))


def test_critic_and_value_trunk_learn_and_share_the_frozen_base(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, lora=LORA, value_trunk="separate", steps=3, critic_warmup_steps=2)
    assert trainer.actor.value_lm is not None
    own, value = dict(trainer.actor.lm.named_parameters()), dict(trainer.actor.value_lm.named_parameters())
    assert all((value[k] is own[k]) == (".lora_" not in k) for k in own)
    before = weights(trainer)
    trainer.step()
    trainer.step()
    moved = {k for k, w in weights(trainer).items() if not torch.equal(w, before[k])}
    assert any(k.startswith("value_lm.") for k in moved)
    assert "value_head.weight" in moved
    assert not any(k.startswith("lm.") for k in moved)  # the critic warms up alone
    trainer.step()
    assert any(not torch.equal(w, before[k]) for k, w in weights(trainer).items() if k.startswith("lm."))


def policy(model: nn.Module) -> LanguagePolicy:
    return policy_of(model)


def test_a_reference_of_other_weights_is_a_model_of_its_own(tmp_path: Path) -> None:
    """The second round of a loop: the start is the merged policy of the first, the leash still the base."""
    ready, leash = leashed(policy(llama(1)), policy(llama(0)), LORA, 3)
    assert leash.model is not ready.model
    assert same_weights(leash.model, llama(0))
    assert not any(p.requires_grad for p in leash.model.parameters())
    trainer = trainer_of(tmp_path, model=llama(1), reference=llama(0), lora=LORA, steps=1)
    trainer.train()
    assert metrics(trainer)[0]["kl/ref_k1"] != 0.0


def test_adapters_that_came_with_the_start_go_on(tmp_path: Path) -> None:
    ready, leash = leashed(policy(adapted("llama")), None, LORA, 3)
    assert leash.model is not ready.model  # off they would not say what the start says
    assert same_weights(leash.model, adapted("llama"))
    frozen = dict(leash.model.named_parameters())
    assert all((frozen[k] is p) == (".lora_" not in k) for k, p in ready.model.named_parameters())
    assert not any(p.requires_grad for p in leash.model.parameters())
    assert {k for k, p in ready.model.named_parameters() if p.requires_grad} == {k for k in frozen if ".lora_" in k}
    trainer = trainer_of(tmp_path, model=adapted("llama"), lora=LORA, steps=2)
    trainer.train()
    assert metrics(trainer)[0]["kl/ref_k1"] == 0.0


def test_the_base_of_continued_adapters_as_reference_costs_nothing() -> None:
    """Start: base and adapters; reference: that base. Adapters off are the reference, and its own copy is dropped."""
    from families import FAMILIES

    ready, leash = leashed(policy(adapted("llama")), policy(FAMILIES["llama"]()), LORA, 3)
    assert leash.model is ready.model


def test_without_lora_everything_learns_and_adapters_are_merged() -> None:
    ready, leash = leashed(policy(adapted("llama")), None, LoraSettings(), 3)
    assert not has_adapters(ready.model)
    assert all(p.requires_grad for p in ready.model.parameters())
    assert same_weights(ready.model, leash.model)
    assert leash.model is not ready.model
    given = policy(llama(1))
    assert leashed(policy(llama(0)), given, LoraSettings(), 3)[1].model is given.model  # frozen in place, not copied
    assert not any(p.requires_grad for p in given.model.parameters())
    same = policy(llama(0))
    ready, leash = leashed(same, same, LoraSettings(), 3)
    assert leash.model is not ready.model


def test_adapters_of_another_rank_are_not_taken_for_those_asked_for() -> None:
    with pytest.raises(ConfigError, match="comes with adapters of rank 3 and alpha 6") as caught:
        trainable(policy(adapted("llama")), LoraSettings(rank=8), 3)
    assert "lora.rank = 3" in caught.value.fix


PAIRS = [(f"w{i} w{i + 1}", f"w{i + 2}") for i in range(24)]
SFT = SftSettings(steps=12, batch_size=8, checkpoint_every=4, learning_rate=1e-2)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_sft_trains_adapters_alone_and_resumes_bit_for_bit(tmp_path: Path, dropout: float) -> None:
    lora = LoraSettings(rank=4, dropout=dropout)

    def run(folder: str, stop: Any = lambda: False) -> tuple[nn.Module, dict[str, float]]:
        ready = trainable(policy(llama(scale=0.1)), lora, 5)
        stage = StageRun("s", tmp_path / folder, 5, stop_requested=stop)
        return ready.model, fine_tune(ready.model, ready.tokenizer, PAIRS, SFT, stage)

    whole, summary = run("a")
    stops = iter([False] * 6 + [True])
    with pytest.raises(InterruptedRun):
        run("b", lambda: next(stops))
    torch.rand(3)
    resumed, again = run("b")
    assert again == summary
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert equal(base_weights(whole), base_weights(llama(scale=0.1)))
    assert not adds_nothing(whole)
    state = load_file(tmp_path / "b" / "checkpoints" / "sft-00000012" / "training.safetensors")
    assert all(".lora_" in k for k in state)


def test_what_is_saved_after_training_is_what_was_trained(tmp_path: Path) -> None:
    """Merged: a plain folder; kept: adapters that name the base they were trained on. Both say the same."""
    save_policy(llama(scale=0.1), word_tokenizer(), tmp_path / "base")
    start = LanguagePolicy.load(tmp_path / "base")
    ready = trainable(start, WIDE, 5)
    fine_tune(ready.model, ready.tokenizer, PAIRS, SFT, StageRun("s", tmp_path / "run", 5))
    ready.save(tmp_path / "merged", {}, adapters=WIDE)
    ready.save(tmp_path / "kept", {}, adapters=WIDE.model_copy(update={"save": "adapter"}))
    ids = torch.tensor([[1, *range(5, 30)]])
    with torch.no_grad():
        trained = ready.model(input_ids=ids).logits
        assert torch.equal(load_policy(tmp_path / "kept")[0](input_ids=ids).logits, trained)
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
        torch.testing.assert_close(plain(input_ids=ids).logits, trained, atol=1e-4, rtol=0)
        assert (trained - load_policy(tmp_path / "base")[0](input_ids=ids).logits).abs().max() > 0.1
    config = json.loads((tmp_path / "kept" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tmp_path / "base")
    loaded = LanguagePolicy.load(tmp_path / "kept")
    go_on: PpoTrainer = trainer_of(tmp_path / "ppo", model=loaded.model, lora=WIDE, steps=1, reward=odd_tokens)
    go_on.train()
    assert metrics(go_on)[0]["kl/ref_k1"] == 0.0
