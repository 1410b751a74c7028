"""Every supported family, through one suite: generation, scoring, the losses' invariances, plain folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast

from families import FAMILIES, KINDS, LORA, WINDOWED
from fixtures import EOS, PAD, VOCABULARY, scored_rollout, some_prompts, trainer_of, weights, word_tokenizer
from tropism.engine.batch import TokenBatch
from tropism.engine.generation import Generation, Sampling, check_sampling, generate
from tropism.engine.models import load_policy, save_policy
from tropism.engine.scoring import check_head, completion_scores, hidden_states
from tropism.errors import ModelError
from tropism.language.policy import LanguagePolicy
from tropism.language.ppo import PpoTrainer, Targets
from tropism.language.sft import Rows, batch_loss

ENDS = frozenset({EOS, 9, 21})
LONG = Sampling(16, ENDS)
family = pytest.mark.parametrize("name", FAMILIES)
full_or_lora = pytest.mark.parametrize("how", KINDS)


def drawn(model: nn.Module, sampling: Sampling = LONG, seed: int = 1) -> Generation:
    """Twenty-four sequences of 2 to 30 tokens: several times every window."""
    prompts = some_prompts(24, longest=14)
    return generate(model, prompts, sampling, seed=seed, sequence_ids=range(24), policy_version="v")


def scores(model: nn.Module, batch: TokenBatch) -> Tensor:
    with torch.no_grad():
        return completion_scores(model, batch, hidden_states(model, batch)).logprobs


def gradient(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@full_or_lora
@family
def test_greedy_agrees_with_generate(name: str, how: str) -> None:
    model, prompts = KINDS[how](name), some_prompts(24, longest=14)
    ours = drawn(model, Sampling(16, ENDS, temperature=0.0))
    width = max(map(len, prompts))
    ids = torch.tensor([[PAD] * (width - len(p)) + p for p in prompts])
    attention = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    config = GenerationConfig(max_new_tokens=16, do_sample=False, eos_token_id=sorted(ENDS), pad_token_id=PAD)
    theirs = model.generate(input_ids=ids, attention_mask=attention, generation_config=config)[:, width:].tolist()
    for mine, row in zip(ours.completions, theirs, strict=True):
        assert mine == row[: len(mine)]
        assert all(t == PAD for t in row[len(mine) :])
    assert max(len(p) + len(c) for p, c in zip(prompts, ours.completions, strict=True)) >= 20


@full_or_lora
@family
def test_rollout_and_scoring_equal_the_models_own_forward_row_by_row(name: str, how: str) -> None:
    model = KINDS[how](name)
    out = drawn(model)
    batch = out.batch()
    assert int(batch.lengths.max()) > 20
    assert {"eos", "length"} == set(out.stops)  # rows left the batch and others went on without them
    own = torch.zeros(batch.mask.shape)
    for i, (prompt, completion) in enumerate(zip(out.prompts, out.completions, strict=True)):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + completion])).logits[0].float().log_softmax(-1)
        own[i, : len(completion)] = logits[len(prompt) - 1 : -1].gather(1, torch.tensor(completion)[:, None])[:, 0]
    torch.testing.assert_close(scores(model, batch), own, atol=1e-4, rtol=0)
    torch.testing.assert_close(out.logprob_rows(), own, atol=1e-4, rtol=0)
    check_head(model)
    check_sampling(model)


@pytest.mark.parametrize("name", WINDOWED)
def test_the_window_is_honoured(name: str) -> None:
    """Without its window the same weights say something else: a dropped window could not pass unseen."""
    model, wide = FAMILIES[name](), FAMILIES[name](sliding_window=64)
    batch = drawn(model).batch()
    assert (scores(model, batch) - scores(wide, batch)).abs().max() > 0.05


@pytest.mark.parametrize("cap", ["attn_logit_softcapping", "final_logit_softcapping"])
def test_gemma_2_is_capped(cap: str) -> None:
    model, free = FAMILIES["gemma2"](), FAMILIES["gemma2"](**{cap: None})
    batch = drawn(model).batch()
    assert (scores(model, batch) - scores(free, batch)).abs().max() > 0.05


@family
def test_trap_11_dropout_is_off_while_sampling(name: str) -> None:
    model = FAMILIES[name]()
    assert drawn(model.train()).logprobs == drawn(model.eval()).logprobs


@full_or_lora
@family
def test_trap_18_padding_may_hold_anything(name: str, how: str) -> None:
    """Another id in the padding, one whose embedding is 1e9 too: no bit of a log-probability or gradient changes. The
    engine's own padding reads no embedding but the row's, so that of the pad token may be NaN."""
    found = []
    prompts = [p for p in some_prompts(12, longest=14) if VOCABULARY - 1 not in p]
    completions = [[5 + (i * 7 + j) % 50 for j in range(i)] for i in range(len(prompts))]
    for pad in (None, PAD, EOS, VOCABULARY - 1):
        model = KINDS[how](name, tie_word_embeddings=False)
        with torch.no_grad():
            model.get_input_embeddings().weight[VOCABULARY - 1] = 1e9
            if pad is None:
                model.get_input_embeddings().weight[[PAD, EOS, VOCABULARY - 1]] = float("nan")
        batch = TokenBatch.of(prompts, completions, pad)
        logprobs = completion_scores(model, batch, hidden_states(model, batch)).logprobs
        logprobs[batch.mask].sum().backward()
        found.append((logprobs.detach(), gradient(model)))
    assert float(found[0][0].abs().max()) > 1
    for logprobs, grad in found:
        assert torch.equal(logprobs, found[0][0])
        torch.testing.assert_close(grad, found[0][1], atol=1e-6 * float(found[0][1].abs().max()), rtol=0)


@family
def test_a_pad_token_without_a_usable_embedding_does_not_disturb_sampling(name: str) -> None:
    def sampled(row: float) -> Generation:
        model = FAMILIES[name](tie_word_embeddings=False, pad_token_id=None)
        with torch.no_grad():
            model.get_input_embeddings().weight[PAD] = row
        sampling = Sampling(1, ENDS)  # one token: what is sampled may be the pad token itself
        return generate(model, some_prompts(8), sampling, seed=0, sequence_ids=range(8), policy_version="v")

    assert sampled(float("nan")) == sampled(0.5)


def rows_of(out: Generation) -> Rows:
    tokens = [np.array(p + c) for p, c in zip(out.prompts, out.completions, strict=True)]
    trained = [np.arange(len(t)) >= len(p) for t, p in zip(tokens, out.prompts, strict=True)]
    return Rows(tokens, trained, 0, 0)


@full_or_lora
@family
def test_trap_17_the_sft_step_is_the_same_in_micro_batches(name: str, how: str) -> None:
    """Loss and gradient of a batch are those of its rows alone, weighed by their tokens."""
    model = KINDS[how](name)
    rows = rows_of(drawn(model))
    whole, count = batch_loss(model, rows, np.arange(24))
    whole.backward()
    together = gradient(model)
    model.zero_grad()
    total = 0.0
    for part in np.array_split(np.arange(24), 7):
        loss, tokens = batch_loss(model, rows, part)
        (loss * tokens / count).backward()
        total += float(loss.detach()) * tokens / count
    assert total == pytest.approx(float(whole.detach()), abs=5e-6)
    torch.testing.assert_close(gradient(model), together, atol=5e-6 * float(together.abs().max()), rtol=0)


def ppo(folder: Path, name: str, how: str, **over: Any) -> PpoTrainer:
    """PPO on prompts whose rollouts leave every window; with adapters, the reference is the model without them."""
    loss: dict[str, Any] = {"kl_ref_in": "loss", "kl_old_coef": 0.3, "entropy_coef": 0.05, "value_clip_range": 0.2}
    return trainer_of(
        folder, model=FAMILIES[name](), sampling=LONG, eos=ENDS, learning_rate=1e-4,
        lora=LORA if how == "lora" else None, **(loss | over),
    )  # fmt: skip


@full_or_lora
@family
def test_trap_17_the_ppo_step_is_the_same_in_micro_batches(name: str, how: str, tmp_path: Path) -> None:
    found = []
    for budget in (4096, 45):
        trainer = ppo(tmp_path / str(budget), name, how, micro_batch_tokens=budget)
        rollout = scored_rollout(trainer)
        targets, rows = trainer.targets(rollout), torch.arange(8)
        count = int(rollout.batch.completion_lengths[rows].sum())
        parts = list(trainer.forwards(rows, rollout.batch))
        assert (len(parts) == 1) == (budget == 4096)
        for part in parts:
            torch.stack(trainer.losses(rollout, targets, part, count)[0]).sum().backward()
        found.append(gradient(trainer.actor))
    torch.testing.assert_close(found[0], found[1], atol=5e-6 * float(found[0].abs().max()), rtol=0)


def poisoned(trainer: PpoTrainer, value: float) -> Tensor:
    """The gradient of a mini-batch whose padded entries hold ``value``, and its padded ids a word."""
    rollout = scored_rollout(trainer)
    targets = trainer.targets(rollout)
    hole = ~rollout.batch.mask
    if value != 0.0:
        rollout.batch.ids[torch.arange(rollout.batch.ids.shape[1])[None] >= rollout.batch.lengths[:, None]] = 11
        for rows in (rollout.old_logprobs, rollout.ref_logprobs, rollout.values):
            rows[hole] = value
        filled = [targets.advantages.masked_fill(hole, value), targets.returns.masked_fill(hole, value)]
        targets = Targets(*filled, targets.return_deviation)
    count = int(rollout.batch.completion_lengths.sum())
    torch.stack(trainer.losses(rollout, targets, torch.arange(len(rollout.batch)), count)[0]).sum().backward()
    return gradient(trainer.actor)


@full_or_lora
@family
def test_trap_18_nan_in_the_padding_of_a_rollout_changes_no_gradient(name: str, how: str, tmp_path: Path) -> None:
    clean = poisoned(ppo(tmp_path / "a", name, how), 0.0)
    assert torch.isfinite(clean).all()
    for value in (float("nan"), 1e9):
        torch.testing.assert_close(poisoned(ppo(tmp_path / str(value), name, how), value), clean, atol=1e-7, rtol=1e-5)


@full_or_lora
@family
@pytest.mark.parametrize("trunk", ["shared", "separate"])
def test_ppo_runs_within_its_contracts(name: str, how: str, trunk: str, tmp_path: Path) -> None:
    """Two steps: KL 0 and ratio 1 at the start are asserted by the run itself; weights move and stay finite."""
    trainer = ppo(tmp_path, name, how, value_trunk=trunk, steps=2, batch_size=8, mini_batch_size=4)
    before = weights(trainer)
    assert trainer.train()["ppo/rolled_back"] == 0
    after = weights(trainer)
    assert all(torch.isfinite(w).all() for w in after.values())
    moved = {k for k in after if not torch.equal(before[k], after[k])}
    assert any(k.startswith("lm.") for k in moved)
    assert how == "full" or all(".lora_" in k or k.startswith("value_head.") for k in moved)
    assert any(k.startswith("value_lm.") for k in moved) == (trunk == "separate")


@family
def test_a_saved_folder_is_plain_and_says_the_same(name: str, tmp_path: Path) -> None:
    model, tokenizer = FAMILIES[name](), word_tokenizer()
    save_policy(model, tokenizer, tmp_path / "m")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    ours, _ = load_policy(tmp_path / "m")
    assert type(plain) is type(ours) is type(model)
    ids = torch.tensor([[1, *range(5, 30)]])
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        assert torch.equal(ours(input_ids=ids).logits, expected)
        torch.testing.assert_close(plain.eval()(input_ids=ids).logits, expected, atol=1e-5, rtol=0)
    for key, tensor in model.state_dict().items():
        assert torch.equal(plain.state_dict()[key], tensor)
    # whatever tokenizer lies beside a Qwen 2, AutoTokenizer makes a Qwen2Tokenizer of it, and this is none
    loader = PreTrainedTokenizerFast if name == "qwen2" else AutoTokenizer
    assert loader.from_pretrained(tmp_path / "m")("w1 w2")["input_ids"] == [5, 6]
    policy = LanguagePolicy.load(tmp_path / "m")
    assert policy.eos == {EOS}
    assert policy.encode_prompt("w1 w2") == [5, 6]


@family
def test_weights_in_bf16_on_disk_train_in_fp32(name: str, tmp_path: Path) -> None:
    save_policy(FAMILIES[name]().to(torch.bfloat16), word_tokenizer(), tmp_path / "m")
    assert json.loads((tmp_path / "m" / "config.json").read_text())["dtype"] == "bfloat16"
    loaded, _ = load_policy(tmp_path / "m")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    rounded = FAMILIES[name]()
    with torch.no_grad():
        for parameter in rounded.parameters():
            parameter.copy_(parameter.to(torch.bfloat16))
    batch = drawn(rounded).batch()
    assert torch.equal(scores(loaded, batch), scores(rounded, batch))


SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 64, "eos_token_id": EOS,
    "bos_token_id": 1, "pad_token_id": PAD,
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "check", "said"),
    [
        ("cohere", check_head, "CohereForCausalLM: its logits differ"),
        ("jamba", check_head, "JambaForCausalLM: 0 of 2 layers attend through this engine"),
        ("rwkv", check_head, "RwkvForCausalLM: 0 of 2 layers attend through this engine"),
        ("qwen3_next", check_head, "Qwen3NextForCausalLM: 0 of 2 layers attend through this engine"),
        ("bloom", check_head, "BloomForCausalLM: 0 of 2 layers attend through this engine"),
        ("mpt", check_head, "MptForCausalLM cannot run on packed tokens"),
        ("falcon", check_head, "FalconForCausalLM takes no explicit positions"),
        ("gpt_oss", check_head, "the attention of GptOssAttention asks for s_aux"),
    ],
)
def test_what_the_engine_would_compute_wrongly_is_refused_by_name(
    kind: str, check: Callable[[Any], None], said: str, tmp_path: Path
) -> None:
    """Scaled logits; states and biases that are no attention of this engine; no positions; attention sinks."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SMALL)).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    with pytest.raises(ModelError, match=said) as caught:
        check(model)
    assert caught.value.fix
    save_policy(model, word_tokenizer(), tmp_path / "m")
    with pytest.raises(ModelError, match=said):
        LanguagePolicy.load(tmp_path / "m")


def test_the_check_of_sampling_sees_a_cache_that_forgets() -> None:
    """A model that reads one position too few while it samples, and only then, is refused."""
    model = FAMILIES["llama"]()
    forward = type(model.model).forward

    def shifted(self: Any, **kwargs: Any) -> Any:
        if kwargs["input_ids"].shape[1] <= 2:  # newest tokens alone
            kwargs["position_ids"] = kwargs["position_ids"] - 1
        return forward(self, **kwargs)

    check_head(model)
    check_sampling(model)
    model.model.forward = shifted.__get__(model.model)
    check_head(model)
    with pytest.raises(ModelError, match="sampling and a full forward differ"):
        check_sampling(model)


def test_sampling_is_the_same_in_any_company_beyond_the_windows() -> None:
    """Chunks of other sizes pad otherwise and drop rows at other times: the tokens stay."""
    for name in WINDOWED:
        model = FAMILIES[name]()
        whole = drawn(model)
        assert drawn(model, replace(LONG, max_rows=5)).completions == whole.completions
