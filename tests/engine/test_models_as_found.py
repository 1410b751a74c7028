"""Models and tokenizers as people have them: shards, half precision, spare rows, added tokens, odd special tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import AddedToken
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from families import FAMILIES
from fixtures import BOS, EOS, UNK, VOCABULARY, llama, word_tokenizer
from tropism.engine.cards import Card
from tropism.engine.generation import Sampling, generate
from tropism.engine.models import eos_ids, load_policy, save_policy
from tropism.errors import ModelError
from tropism.language.policy import LanguagePolicy

IDS = torch.tensor([[1, *range(5, 30)]])


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def edited(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_sharded_weights_load_as_one(name: str, tmp_path: Path) -> None:
    model = FAMILIES[name]()
    model.save_pretrained(tmp_path, max_shard_size="30KB")
    word_tokenizer().save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    loaded, _ = load_policy(tmp_path)
    assert torch.equal(logits(loaded), logits(model))
    missing = sorted(tmp_path.glob("*.safetensors"))[1]
    missing.unlink()
    with pytest.raises(ModelError, match="cannot load the weights"):
        load_policy(tmp_path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_half_precision_on_disk_is_full_in_memory_and_can_be_kept(name: str, dtype: Any, tmp_path: Path) -> None:
    """Loaded in fp32 to train; saved in fp32 by default, or in what is asked for, tied heads tied."""
    model = FAMILIES[name]()
    save_policy(model, word_tokenizer(), tmp_path / "half", dtype=dtype)
    assert {p.dtype for p in model.parameters()} == {torch.float32}  # what was given is as it was
    assert {t.dtype for t in load_file(tmp_path / "half" / "model.safetensors").values()} == {dtype}
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "half").dtype == dtype
    loaded, tokenizer = load_policy(tmp_path / "half")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert loaded.config.dtype == torch.float32
    for key, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor.to(dtype).float())
    save_policy(loaded, tokenizer, tmp_path / "full")
    save_policy(loaded, tokenizer, tmp_path / "again", dtype=dtype)
    assert {t.dtype for t in load_file(tmp_path / "full" / "model.safetensors").values()} == {torch.float32}
    for file in ("model.safetensors", "config.json"):  # nothing was lost on the way
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "half" / file).read_bytes()


def test_a_vocabulary_larger_than_the_tokenizer_is_no_fault(tmp_path: Path) -> None:
    """Rows are often padded to a multiple: a sampled id that means nothing is kept, scored, and decoded as nothing."""
    model = llama(vocab_size=VOCABULARY + 16)
    save_policy(model, word_tokenizer(), tmp_path)
    policy = LanguagePolicy.load(tmp_path)
    out = generate(
        policy.model, [[1, 5]] * 200, Sampling(4, policy.eos), seed=0, sequence_ids=range(200), policy_version="v"
    )
    odd = next(c for c in out.completions if max(c) >= VOCABULARY)
    assert policy.decode(odd) == policy.decode([t for t in odd if t < VOCABULARY])


def test_added_tokens_are_encoded_decoded_and_saved(tmp_path: Path) -> None:
    tokenizer = word_tokenizer()
    tokenizer.add_tokens(["new word", AddedToken("<think>", special=False)])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<tool>"]})
    save_policy(llama(vocab_size=VOCABULARY + 3), tokenizer, tmp_path)
    policy = LanguagePolicy.load(tmp_path)
    assert policy.encode_prompt("w1 new word <think> <tool> w2") == [5, 64, 65, 66, 6]
    assert policy.decode([5, 64, 65, 66, 6]) == "w1 new word <think> w2"  # the special one is not shown


def test_more_tokens_than_rows_is_refused_with_the_fix(tmp_path: Path) -> None:
    tokenizer = word_tokenizer()
    tokenizer.add_tokens(["new"])
    save_policy(llama(), tokenizer, tmp_path)
    with pytest.raises(ModelError, match="knows 65 tokens but the model embeds 64"):
        load_policy(tmp_path)


def test_a_tokenizer_without_pad_and_without_bos(tmp_path: Path) -> None:
    tokenizer = word_tokenizer()
    tokenizer.pad_token = tokenizer.bos_token = None
    save_policy(llama(pad_token_id=None, bos_token_id=None), tokenizer, tmp_path)
    edited(tmp_path / "tokenizer_config.json", pad_token=None, bos_token=None)
    policy = LanguagePolicy.load(tmp_path)
    assert policy.tokenizer.pad_token_id == policy.tokenizer.eos_token_id == EOS
    assert policy.encode_prompt("w1") == [5]
    assert policy.encode_prompt("") == [EOS]  # something to predict the first token from
    assert policy.encode_completion("w1") == [5, EOS]


def test_without_an_eos_of_its_own_the_tokenizer_takes_the_models(tmp_path: Path) -> None:
    tokenizer = word_tokenizer()
    tokenizer.eos_token = tokenizer.pad_token = None
    save_policy(llama(), tokenizer, tmp_path)
    edited(tmp_path / "tokenizer_config.json", eos_token=None, pad_token=None)
    policy = LanguagePolicy.load(tmp_path)
    assert policy.eos == {EOS}
    assert policy.encode_completion("w1") == [5, EOS]
    assert policy.tokenizer.pad_token_id == EOS


@pytest.mark.parametrize("wraps", ["<bos> $A", "<bos> $A <eos>", "$A <eos>", "$A"])
def test_a_tokenizer_that_wraps_texts_makes_one_start_and_one_end(wraps: str, tmp_path: Path) -> None:
    tokenizer = word_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=wraps, special_tokens=[("<bos>", BOS), ("<eos>", EOS)]
    )
    save_policy(llama(), tokenizer, tmp_path)
    policy = LanguagePolicy.load(tmp_path)
    begins = [BOS] if wraps.startswith("<bos>") else []
    assert policy.encode_prompt("w1 w2") == [*begins, 5, 6]
    assert policy.encode_completion("w1 w2") == [5, 6, EOS]
    asked, answered = policy.pair("w1", "w2")
    assert [*asked, *answered] == [*begins, 5, 6, EOS]


def test_every_eos_that_anything_names_ends_a_completion(tmp_path: Path) -> None:
    model = llama(eos_token_id=[7, 8])
    model.generation_config.eos_token_id = [8, 9]
    save_policy(model, word_tokenizer(), tmp_path)
    loaded, tokenizer = load_policy(tmp_path)
    assert eos_ids(loaded, tokenizer) == {EOS, 7, 8, 9}
    save_policy(loaded, tokenizer, tmp_path / "b")
    assert eos_ids(*load_policy(tmp_path / "b")) == {EOS, 7, 8, 9}


def test_generation_settings_that_clash_do_not_stop_a_save(tmp_path: Path) -> None:
    """Half the models people have name a temperature and no sampling, which transformers refuses to write."""
    save_policy(llama(), word_tokenizer(), tmp_path)
    edited(tmp_path / "generation_config.json", temperature=0.6, top_p=0.9, do_sample=False)
    save_policy(*load_policy(tmp_path), tmp_path / "b")
    assert torch.equal(logits(load_policy(tmp_path / "b")[0]), logits(llama()))


def test_a_tokenizer_of_ones_own_beside_a_qwen_2_is_taken_as_it_is(tmp_path: Path) -> None:
    save_policy(FAMILIES["qwen2"](), word_tokenizer(), tmp_path)
    _, tokenizer = load_policy(tmp_path)
    assert type(tokenizer) is PreTrainedTokenizerFast
    assert tokenizer("w1 unheard w2")["input_ids"] == [5, UNK, 6]


def test_a_card_and_what_was_done_stand_beside_the_weights(tmp_path: Path) -> None:
    card = Card("mine", "policy", "a base", "Made in a test.")
    save_policy(llama(), word_tokenizer(), tmp_path, {"steps": 3}, card)
    assert json.loads((tmp_path / "tropism.json").read_text()) == {"steps": 3}
    assert (tmp_path / "README.md").read_text().startswith("---\nlibrary_name")
