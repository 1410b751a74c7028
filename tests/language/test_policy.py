"""Policies on disk, prompts and completions as ids, the critic, copies in memory."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fixtures import BOS, EOS, gpt2, llama, policy_of, word_tokenizer
from tropism.engine.batch import TokenBatch
from tropism.errors import ModelError
from tropism.language.policy import ActorCritic, LanguagePolicy, copy_of, same_weights

BATCH = TokenBatch.of([[1, 5], [1, 5, 6]], [[7, 8, 2], [9]])


def saved(folder: Path, model: torch.nn.Module | None = None) -> Path:
    policy_of(llama() if model is None else model).save(folder, {"stage": "base"})
    return folder


def test_a_policy_saved_and_loaded_is_the_same_bit_for_bit(tmp_path: Path) -> None:
    policy = LanguagePolicy.load(saved(tmp_path / "a"))
    assert same_weights(policy.model, llama())
    assert policy.eos == {EOS}
    assert not policy.model.training
    policy.save(tmp_path / "b", {"stage": "base"})
    for name in ("model.safetensors", "tropism.json", "tokenizer.json", "config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_several_eos_ids_are_all_found(tmp_path: Path) -> None:
    """The generation config's list and the tokenizer's own id are joined."""
    folder = saved(tmp_path / "m")
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": [9, 21]}))
    assert LanguagePolicy.load(folder).eos == {EOS, 9, 21}


def test_a_pad_token_that_is_the_eos_loads(tmp_path: Path) -> None:
    LanguagePolicy(llama(pad_token_id=EOS), word_tokenizer("<eos>"), frozenset({EOS})).save(tmp_path / "m", {})
    policy = LanguagePolicy.load(tmp_path / "m")
    assert policy.tokenizer.pad_token_id == EOS
    assert policy.eos == {EOS}


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path / "m")
    with pytest.raises(ModelError, match="has no tokenizer"):
        LanguagePolicy.load(tmp_path / "m")


def test_prompts_and_completions_as_ids() -> None:
    policy = policy_of(llama())
    assert policy.encode_prompt("w1 w2") == [5, 6]
    assert policy.encode_prompt("") == [BOS]
    assert policy.encode_completion("w1 w2") == [5, 6, EOS]
    assert policy.encode_completion("w1 w2", ended=False) == [5, 6]
    assert policy.decode([5, 6, EOS]) == "w1 w2"


def test_a_tokenizer_that_ends_every_text_does_not_end_a_prompt() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = word_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", BOS), ("<eos>", EOS)]
    )
    policy = LanguagePolicy(llama(), tokenizer, frozenset({EOS}))
    assert policy.encode_prompt("w1") == [BOS, 5]
    assert policy.encode_completion("w1") == [5, EOS]


def test_values_start_at_zero_and_are_zero_in_the_padding() -> None:
    for trunk in ("shared", "separate"):
        actor = ActorCritic(llama(), trunk)  # type: ignore[arg-type]
        assert actor.evaluate(BATCH).values.abs().max() == 0
        torch.nn.init.normal_(actor.value_head.weight)
        values = actor.evaluate(BATCH).values
        assert values[BATCH.mask].abs().min() > 0
        assert values[~BATCH.mask].abs().max() == 0


def test_a_value_is_of_the_state_before_its_token() -> None:
    """Changing token j changes V from j + 1 on and nothing before."""
    actor = ActorCritic(llama(), "shared")
    torch.nn.init.normal_(actor.value_head.weight)
    a = actor.evaluate(TokenBatch.of([[1, 5]], [[7, 8, 2]])).values[0].detach()
    b = actor.evaluate(TokenBatch.of([[1, 5]], [[7, 9, 2]])).values[0].detach()
    assert torch.allclose(a[:2], b[:2], atol=1e-6)
    assert abs(float(a[2] - b[2])) > 1e-3


def test_a_detached_trunk_gets_no_gradient_from_the_value_loss() -> None:
    for detach in (True, False):
        actor = ActorCritic(llama(), "shared")
        torch.nn.init.normal_(actor.value_head.weight)
        actor.evaluate(BATCH, detach_value_trunk=detach).values.sum().backward()
        assert actor.value_head.weight.grad is not None
        moved = [p for p in actor.lm.parameters() if p.grad is not None and p.grad.abs().max() > 0]
        assert bool(moved) != detach


def test_a_copy_is_frozen_in_eval_mode_and_its_own() -> None:
    model = gpt2().train()
    copy = copy_of(model)
    assert same_weights(model, copy)
    assert not copy.training
    assert not any(p.requires_grad for p in copy.parameters())
    assert copy.transformer.wte.weight.data_ptr() == copy.lm_head.weight.data_ptr()  # tied weights stay tied
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    assert not same_weights(model, copy)


def test_a_prompt_limit_cuts_from_the_left_and_keeps_the_bos() -> None:
    policy = policy_of(llama())
    whole = policy.encode_task({"prompt": "w1 w2 w3 w4 w5"})
    limited = replace(policy, prompt_limit=3)
    assert limited.encode_task({"prompt": "w1 w2 w3 w4 w5"}) == whole[-3:]
    assert limited.encode_task({"prompt": "w1 w2"}) == policy.encode_task({"prompt": "w1 w2"})
    assert limited.encode_task({"prompt": "<bos> w1 w2 w3 w4 w5"}) == [BOS, *whole[-2:]]
