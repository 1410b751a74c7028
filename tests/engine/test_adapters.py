"""LoRA on every family: nothing changes until it learns, off is off, merged and kept folders say the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from families import FAMILIES, LORA, adapted
from fixtures import llama, word_tokenizer
from tropism.engine.adapters import (
    LoraSettings,
    adapters_off,
    add_lora,
    adds_nothing,
    copy_sharing_frozen,
    has_adapters,
    merged_copy,
)
from tropism.engine.generation import check_sampling
from tropism.engine.models import load_policy, save_policy
from tropism.engine.scoring import check_head
from tropism.errors import ConfigError, ModelError
from tropism.settings.sections import check_section

family = pytest.mark.parametrize("name", FAMILIES)
IDS = torch.tensor([[1, *range(5, 30)]])


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def trained(model: nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def says_something(model: nn.Module) -> nn.Module:
    """The same adapters as after some training."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.05)
    return model


@family
def test_fresh_adapters_change_no_bit_and_alone_are_trainable(name: str) -> None:
    model, other = FAMILIES[name](), FAMILIES[name]()
    before = logits(model)
    add_lora(model, LORA, 7)
    assert type(model) is type(FAMILIES[name]())
    assert torch.equal(logits(model), before)
    assert has_adapters(model)
    assert adds_nothing(model)
    assert trained(model)
    assert all(".lora_" in key for key in trained(model))
    torch.rand(5)  # another process has another generator state
    add_lora(other, LORA, 7)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    another = FAMILIES[name]()
    add_lora(another, LORA, 8)
    assert not all(torch.equal(a, b) for a, b in zip(model.parameters(), another.parameters(), strict=True))


@family
def test_adapters_switched_off_leave_the_base_bit_for_bit(name: str) -> None:
    model = adapted(name)
    on, learns = logits(model), trained(model)
    assert not adds_nothing(model)
    with adapters_off(model) as off:
        assert torch.equal(logits(off), logits(FAMILIES[name]()))
    assert (on - logits(FAMILIES[name]())).abs().max() > 0.05
    assert torch.equal(logits(model), on)
    assert trained(model) == learns
    check_head(model)
    check_sampling(model)


def test_frozen_adapters_stay_frozen_and_an_error_switches_them_on_again() -> None:
    model = adapted("llama").requires_grad_(False)
    on = logits(model)
    with pytest.raises(ZeroDivisionError), adapters_off(model):
        _ = 1 / 0
    assert torch.equal(logits(model), on)
    assert not trained(model)


@family
def test_a_merged_copy_is_plain_and_says_the_same(name: str, tmp_path: Path) -> None:
    model = adapted(name)
    on = logits(model)
    merged = merged_copy(model)
    assert not has_adapters(merged)
    assert [key for key, _ in merged.named_parameters()] == [key for key, _ in FAMILIES[name]().named_parameters()]
    torch.testing.assert_close(logits(merged), on, atol=1e-4, rtol=0)
    assert torch.equal(logits(model), on)  # the original is as it was
    save_policy(model, word_tokenizer(), tmp_path / "m")  # a model with adapters is saved merged
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    assert type(plain) is type(model)
    for key, tensor in merged.state_dict().items():
        assert torch.equal(plain.state_dict()[key], tensor)
    assert torch.equal(logits(load_policy(tmp_path / "m")[0]), logits(merged))


@family
def test_kept_adapters_are_a_small_peft_folder_beside_their_base(name: str, tmp_path: Path) -> None:
    save_policy(FAMILIES[name](), word_tokenizer(), tmp_path / "base")
    model, tokenizer = load_policy(tmp_path / "base")
    add_lora(model, LORA, 7)
    says_something(model)
    for place in ("a", "b"):
        save_policy(model, tokenizer, tmp_path / place, {"x": 1}, adapters="adapter")
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    expected = ["adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert names == [*expected, "tropism.json"]
    assert all((tmp_path / "a" / n).read_bytes() == (tmp_path / "b" / n).read_bytes() for n in names)
    assert all(".lora_" in key for key in load_file(tmp_path / "a" / "adapter_model.safetensors"))
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "a")
    torch.testing.assert_close(logits(theirs), logits(model), atol=1e-5, rtol=0)
    ours, _ = load_policy(tmp_path / "a")
    assert torch.equal(logits(ours), logits(model))
    assert trained(ours) == trained(model)
    assert all(p.data_ptr() % 64 == 0 for p in ours.parameters())


def test_a_folder_that_peft_wrote_loads(tmp_path: Path) -> None:
    """As other trainers leave it: a checkpoint with adapters, its tokenizer only beside the base."""
    save_policy(llama(), word_tokenizer(), tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    config = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], use_rslora=True, task_type="CAUSAL_LM")
    theirs = says_something(get_peft_model(base, config))
    theirs.save_pretrained(tmp_path / "theirs")
    ours, tokenizer = load_policy(tmp_path / "theirs")
    torch.testing.assert_close(logits(ours), logits(theirs), atol=1e-5, rtol=0)
    assert tokenizer("w1")["input_ids"] == [5]


def test_the_base_may_stand_beside_its_adapters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept(tmp_path)
    path = tmp_path / "adapters" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "../base"}))
    monkeypatch.chdir(Path(path.anchor))
    assert has_adapters(load_policy(tmp_path / "adapters")[0])


def kept(folder: Path) -> Path:
    """A base and adapters on it, the latter's folder."""
    save_policy(llama(), word_tokenizer(), folder / "base")
    model, tokenizer = load_policy(folder / "base")
    add_lora(model, LORA, 7)
    save_policy(model, tokenizer, folder / "adapters", adapters="adapter")
    return folder / "adapters"


def test_a_missing_base_is_named(tmp_path: Path) -> None:
    folder = kept(tmp_path)
    (tmp_path / "base").rename(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match=r"adapters of the base model .*base', which cannot be loaded") as caught:
        load_policy(folder)
    assert "adapter_config.json" in caught.value.fix


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("no base named", "names no base model"),
        ("no object", "is no JSON object"),
        ("pickled", "has no adapter_model.safetensors"),
        ("another rank", "do not fit their base model"),
        ("a tensor less", "do not fill their base model"),
        ("a module more", "do not fill their base model"),
        ("whole modules", "LoRA with whole modules or biases"),
        ("damaged", "do not fit their base model"),
    ],
)
def test_broken_adapters_are_named_with_their_fault(tmp_path: Path, how: str, said: str) -> None:
    folder = kept(tmp_path)
    path, weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    config, state = json.loads(path.read_text()), load_file(weights)
    from safetensors.torch import save_file

    if how == "no base named":
        path.write_text(json.dumps(config | {"base_model_name_or_path": None}))
    elif how == "no object":
        path.write_text("[")
    elif how == "pickled":
        weights.rename(folder / "adapter_model.bin")
    elif how == "another rank":
        path.write_text(json.dumps(config | {"r": 5}))
    elif how == "a tensor less":
        save_file(dict(list(state.items())[1:]), weights)
    elif how == "a module more":
        save_file(state | {"base_model.model.model.layers.9.mlp.up_proj.lora_A.weight": torch.zeros(3, 32)}, weights)
    elif how == "whole modules":
        path.write_text(json.dumps(config | {"modules_to_save": ["lm_head"]}))
    elif how == "damaged":
        weights.write_bytes(b"12345678not safetensors")
    with pytest.raises(ModelError, match=said) as caught:
        load_policy(folder)
    assert caught.value.fix


def test_another_method_is_refused_by_name(tmp_path: Path) -> None:
    save_policy(llama(), word_tokenizer(), tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    config = IA3Config(target_modules=["k_proj"], feedforward_modules=[], task_type="CAUSAL_LM")
    get_peft_model(base, config).save_pretrained(tmp_path / "ia3")
    with pytest.raises(ModelError, match="IA3"):
        load_policy(tmp_path / "ia3")


def test_an_adapted_head_is_taken_unless_it_is_tied_to_the_embedding(tmp_path: Path) -> None:
    """Merged into tied weights, it would change the embedding too."""
    for tied in (False, True):
        save_policy(llama(tie_word_embeddings=tied), word_tokenizer(), tmp_path / f"base-{tied}")
        base = AutoModelForCausalLM.from_pretrained(tmp_path / f"base-{tied}")
        config = LoraConfig(r=2, target_modules=["q_proj", "lm_head"], task_type="CAUSAL_LM")
        theirs = says_something(get_peft_model(base, config))
        theirs.save_pretrained(tmp_path / f"head-{tied}")
        if tied:
            with pytest.raises(ModelError, match="tied to the embedding"):
                load_policy(tmp_path / "head-True")
        else:
            ours = load_policy(tmp_path / "head-False")[0]
            check_head(ours)
            torch.testing.assert_close(logits(ours), logits(theirs), atol=1e-5, rtol=0)
            torch.testing.assert_close(logits(merged_copy(ours)), logits(theirs), atol=1e-4, rtol=0)


def test_settings_are_read_as_toml_gives_them() -> None:
    given = {"rank": 4, "alpha": 8, "targets": ["q_proj", "v_proj"], "save": "adapter"}
    read = check_section(LoraSettings, "lora", given)
    assert read == LoraSettings(rank=4, alpha=8.0, targets=("q_proj", "v_proj"), save="adapter")
    with pytest.raises(ConfigError, match=r"lora\.rnk"):
        check_section(LoraSettings, "lora", {"rnk": 4})


def test_adapters_on_adapters_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has adapters already"):
        add_lora(adapted("llama"), LORA, 1)
    folder = kept(tmp_path)
    save_policy(load_policy(folder)[0], word_tokenizer(), tmp_path / "second", adapters="adapter")
    path = tmp_path / "second" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": str(folder)}))
    with pytest.raises(ModelError, match="has adapters itself"):
        load_policy(tmp_path / "second")


def test_adapters_without_a_base_cannot_be_kept_alone(tmp_path: Path) -> None:
    model = llama()
    add_lora(model, LORA, 1)
    with pytest.raises(ModelError, match="nothing says what their base model is"):
        save_policy(model, word_tokenizer(), tmp_path / "m", adapters="adapter")


def test_targets_are_chosen_by_name() -> None:
    model = llama()
    add_lora(model, LoraSettings(rank=2, targets=("q_proj", "v_proj")), 1)
    assert {key.split(".")[-4] for key in trained(model)} == {"q_proj", "v_proj"}
    with pytest.raises(ConfigError, match=r"'q_prj': no linear module's name\n  fix: did you mean 'q_proj'"):
        add_lora(llama(), LoraSettings(rank=2, targets=("q_prj",)), 1)
    for outer in ("lm_head", "embed_tokens"):
        with pytest.raises(ConfigError, match="the embedding or head"):
            add_lora(llama(), LoraSettings(rank=2, targets=(outer,)), 1)


def test_rank_zero_adds_nothing_at_all() -> None:
    model = llama()
    add_lora(model, LoraSettings(), 1)
    assert not has_adapters(model)
    assert all(p.requires_grad for p in model.parameters())


def test_a_module_may_train_whole_beside_the_adapters() -> None:
    """As a classifier's fresh head does: it is neither adapted nor frozen."""

    class Headed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.score = llama(), nn.Linear(32, 1)

    model: Any = Headed()
    add_lora(model, LORA, 1, train=("score",))
    whole = {key for key in trained(model) if ".lora_" not in key}
    assert whole == {"score.weight", "score.bias"}
    assert not any(key.startswith("score") and ".lora_" in key for key, _ in model.named_parameters())


def test_a_copy_shares_what_is_frozen_and_nothing_else() -> None:
    model = adapted("llama")
    copied = copy_sharing_frozen(model)
    theirs = dict(copied.named_parameters())
    for key, parameter in model.named_parameters():
        assert (parameter is theirs[key]) == (not parameter.requires_grad)
        assert theirs[key].requires_grad == parameter.requires_grad
    assert torch.equal(logits(copied), logits(model))
    assert copied.model.layers[0] is not model.model.layers[0]
