"""Loading and saving: plain folders, honest errors, weights in memory of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from tropism.digests import digest_folder
from tropism.engine.models import context_length, eos_ids, load_policy, save_policy
from tropism.errors import ModelError
from tropism.language.worlds.tinytalk.build import make_tokenizer

TOKENIZER = make_tokenizer()


def small_llama(tied: bool = True, seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(TOKENIZER),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        eos_token_id=TOKENIZER.eos_token_id,
        bos_token_id=TOKENIZER.bos_token_id,
        pad_token_id=TOKENIZER.pad_token_id,
    )
    return LlamaForCausalLM(config)


@pytest.mark.parametrize("tied", [True, False])
def test_a_saved_policy_loads_bit_for_bit(tmp_path: Path, tied: bool) -> None:
    model = small_llama(tied).eval()
    save_policy(model, TOKENIZER, tmp_path / "m", {"made_by": "test"})
    loaded, tokenizer = load_policy(tmp_path / "m")
    ids = torch.tensor([tokenizer("Mia likes plums.")["input_ids"]])
    assert torch.equal(model(ids).logits, loaded(ids).logits)
    assert not loaded.training
    assert json.loads((tmp_path / "m" / "tropism.json").read_text()) == {"made_by": "test"}
    same = loaded.get_input_embeddings().weight is loaded.get_output_embeddings().weight
    assert same == tied
    with torch.no_grad():  # the head follows the embedding exactly when they are tied
        loaded.get_input_embeddings().weight[5, 0] += 1.0
    assert (loaded.get_output_embeddings().weight[5, 0] == loaded.get_input_embeddings().weight[5, 0]) == tied


def test_weights_are_copied_into_aligned_memory(tmp_path: Path) -> None:
    save_policy(small_llama(), TOKENIZER, tmp_path / "m")
    model, _ = load_policy(tmp_path / "m")
    assert all(p.data_ptr() % 64 == 0 for p in model.parameters())
    before = load_file(tmp_path / "m" / "model.safetensors")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7.0)
    after = load_file(tmp_path / "m" / "model.safetensors")
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_equal_models_make_equal_folders_wherever_they_came_from(tmp_path: Path) -> None:
    save_policy(small_llama(), TOKENIZER, tmp_path / "a", {"x": 1})
    save_policy(*load_policy(tmp_path / "a"), tmp_path / "elsewhere" / "b", {"x": 1})
    save_policy(*load_policy(tmp_path / "elsewhere" / "b"), tmp_path / "c", {"x": 1})
    digests = {digest_folder(tmp_path / place) for place in ("elsewhere/b", "c")}
    assert len(digests) == 1
    text = "".join(p.read_text() for p in (tmp_path / "c").glob("*.json"))
    assert str(tmp_path) not in text


def test_dtype_is_an_argument(tmp_path: Path) -> None:
    save_policy(small_llama(), TOKENIZER, tmp_path / "m")
    assert {p.dtype for p in load_policy(tmp_path / "m")[0].parameters()} == {torch.float32}
    assert {p.dtype for p in load_policy(tmp_path / "m", torch.bfloat16)[0].parameters()} == {torch.bfloat16}


def test_every_eos_id_is_collected(tmp_path: Path) -> None:
    model = small_llama()
    model.generation_config.eos_token_id = [7, 9]
    model.config.eos_token_id = 8
    assert eos_ids(model, TOKENIZER) == frozenset({7, 8, 9, TOKENIZER.eos_token_id})
    save_policy(model, TOKENIZER, tmp_path / "m")
    assert {7, 9, TOKENIZER.eos_token_id} <= eos_ids(*load_policy(tmp_path / "m"))


def test_no_eos_at_all_is_an_error() -> None:
    model, tokenizer = small_llama(), make_tokenizer()
    model.generation_config.eos_token_id = model.config.eos_token_id = None
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="end-of-sequence"):
        eos_ids(model, tokenizer)


def test_a_tokenizer_without_pad_pads_with_eos_and_keeps_its_vocabulary(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.pad_token = None
    save_policy(small_llama(), tokenizer, tmp_path / "m")
    _, loaded = load_policy(tmp_path / "m")
    assert loaded.pad_token_id == loaded.eos_token_id
    assert len(loaded) == len(TOKENIZER)


def test_context_length_of_two_architectures() -> None:
    assert context_length(small_llama()) == 64
    assert (
        context_length(GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=20, n_positions=48))) == 48
    )


def _broken(folder: Path, how: str) -> None:
    save_policy(small_llama(), TOKENIZER, folder)
    if how == "no config":
        (folder / "config.json").unlink()
    elif how == "no tokenizer":
        (folder / "tokenizer.json").unlink()
    elif how == "no weights":
        (folder / "model.safetensors").unlink()
    elif how == "pickled weights":
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    elif how == "damaged weights":
        (folder / "model.safetensors").write_bytes(b"12345678not safetensors")
    elif how == "damaged config":
        (folder / "config.json").write_text("{")
    elif how == "missing tensors":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("no config", "no config.json"),
        ("no tokenizer", "no tokenizer"),
        ("no weights", "no safetensors weights"),
        ("pickled weights", "pickle is never read"),
        ("damaged weights", "cannot load the weights"),
        ("damaged config", "cannot load the config"),
        ("missing tensors", "do not fill the model"),
    ],
)
def test_a_broken_folder_is_named_with_its_fault(tmp_path: Path, how: str, said: str) -> None:
    _broken(tmp_path / "broken", how)
    with pytest.raises(ModelError, match=said) as caught:
        load_policy(tmp_path / "broken")
    assert "broken" in caught.value.problem
    assert caught.value.fix


def test_a_missing_folder_is_no_hub_name(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no model folder"):
        load_policy(tmp_path / "nowhere")


def test_an_encoder_is_refused(tmp_path: Path) -> None:
    config = BertConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=len(TOKENIZER)
    )
    save_policy(BertForMaskedLM(config), TOKENIZER, tmp_path / "bert")
    with pytest.raises(ModelError, match="not a causal language model"):
        load_policy(tmp_path / "bert")


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    model = small_llama()
    model.resize_token_embeddings(50)
    save_policy(model, TOKENIZER, tmp_path / "m")
    with pytest.raises(ModelError, match="the model embeds 50"):
        load_policy(tmp_path / "m")
