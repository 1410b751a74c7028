"""Decoders and encoders as sequence classifiers: loaded, scored whatever the padding, saved for plain transformers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    MambaConfig,
    MambaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from encoders import ENCODERS, save_encoder
from families import FAMILIES as DECODERS
from families import LORA
from fixtures import EOS, PAD, llama, word_tokenizer
from tropism.engine.adapters import add_lora
from tropism.engine.batch import TokenBatch
from tropism.engine.classifiers import PAD as NEW_PAD
from tropism.engine.classifiers import Classifier, load_classifier
from tropism.engine.models import load_policy, save_policy
from tropism.engine.working import Working
from tropism.errors import ModelError
from tropism.runtime.precision import Precision

FAMILIES = pytest.mark.parametrize("family", [*DECODERS, *ENCODERS])


def folder_of(family: str, folder: Path, pad: str = "<pad>", dtype: torch.dtype = torch.float32) -> Path:
    """A base without a head."""
    if family in ENCODERS:
        return save_encoder(family, folder, dtype=dtype)
    save_policy(DECODERS[family]().to(dtype), word_tokenizer(pad), folder)
    return folder


def classifier_of(family: str, folder: Path, **options: Any) -> Classifier:
    return load_classifier(folder_of(family, folder), **options)


def rows(count: int = 7, longest: int = 30, seed: int = 0) -> tuple[list[list[int]], list[list[int]]]:
    """Prompts and completions of very different lengths; words only."""
    random = torch.Generator().manual_seed(seed)
    lengths = [(1 + (5 * i) % 9, 1 + (longest * i) // count) for i in range(count)]
    draw = [[torch.randint(4, 64, (n,), generator=random).tolist() for n in pair] for pair in lengths]
    return [[1, *p] for p, _ in draw], [[*c, EOS] for _, c in draw]


@torch.no_grad()
def scored(made: Classifier, prompts: list[list[int]], completions: list[list[int]]) -> torch.Tensor:
    return made.scores(TokenBatch.of(prompts, completions))


@torch.no_grad()
def plain(folder: Path, prompts: list[list[int]], completions: list[list[int]], side: str = "right") -> torch.Tensor:
    """Scores of plain transformers: its own classes, tokenizer padding and attention mask."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side=side)
    features: dict[str, list[list[int]]] = {"input_ids": [[*p, *c] for p, c in zip(prompts, completions, strict=True)]}
    if "token_type_ids" in tokenizer.model_input_names:
        pairs = zip(prompts, completions, strict=True)
        features["token_type_ids"] = [[0] * len(p) + [1] * len(c) for p, c in pairs]
    padded = tokenizer.pad(features, return_tensors="pt")
    return model(**padded).logits


@FAMILIES
def test_saved_folders_score_the_same_in_plain_transformers(family: str, tmp_path: Path) -> None:
    """Also in a padded batch, also read back here, and with weights that are not those of a fresh start."""
    made = classifier_of(family, tmp_path / "base", seed=3)
    with torch.no_grad():
        for parameter in made.model.parameters():
            parameter.add_(0.01 * torch.ones_like(parameter))
    save_policy(made.model, made.tokenizer, tmp_path / "reward")
    ours = scored(made, *rows())
    assert ours.shape == (7, 1)
    assert ours.std() > 1e-2
    torch.testing.assert_close(plain(tmp_path / "reward", *rows()), ours, atol=5e-6, rtol=5e-6)
    again = load_classifier(tmp_path / "reward")
    assert again.fresh == ()
    assert torch.equal(scored(again, *rows()), ours)


@pytest.mark.parametrize("family", DECODERS)
def test_pad_equal_to_eos_does_not_move_the_head(family: str, tmp_path: Path) -> None:
    """Put back: with pad = EOS, plain transformers reads the state before the end."""
    made = load_classifier(folder_of(family, tmp_path / "base", "<eos>"), seed=3)
    assert made.tokenizer.pad_token_id not in made.eos
    assert made.model.config.pad_token_id == made.tokenizer.pad_token_id
    save_policy(made.model, made.tokenizer, tmp_path / "reward")
    ours = scored(made, *rows())
    torch.testing.assert_close(plain(tmp_path / "reward", *rows()), ours, atol=5e-6, rtol=5e-6)
    config = json.loads((tmp_path / "reward" / "config.json").read_text())
    (tmp_path / "reward" / "config.json").write_text(json.dumps(config | {"pad_token_id": EOS}))
    wrong = plain(tmp_path / "reward", *rows())
    assert (wrong - ours).abs().max() > 1e-2


def test_a_pad_token_of_its_own_is_taken_before_one_is_added(tmp_path: Path) -> None:
    own = word_tokenizer("<pad>")
    own.pad_token = None
    own.add_special_tokens({"additional_special_tokens": ["<pad>"]})
    save_policy(llama(), own, tmp_path / "own")
    made = load_classifier(tmp_path / "own")
    assert (made.tokenizer.pad_token_id, made.model.config.vocab_size) == (PAD, 64)
    added = load_classifier(folder_of("llama", tmp_path / "added", "<eos>"))
    assert added.tokenizer.pad_token == NEW_PAD
    assert added.model.get_input_embeddings().weight.shape[0] == len(added.tokenizer) == 65


def test_a_spare_row_of_the_embeddings_holds_the_new_pad_token(tmp_path: Path) -> None:
    save_policy(llama(vocab_size=70), word_tokenizer("<eos>"), tmp_path)
    made = load_classifier(tmp_path)
    assert made.tokenizer.pad_token_id == 64
    assert made.model.get_input_embeddings().weight.shape[0] == 70


def test_the_end_of_text_embedding_learns_although_it_was_the_pad(tmp_path: Path) -> None:
    """torch keeps the gradient of an embedding's padding row at zero."""
    save_policy(llama(pad_token_id=EOS), word_tokenizer("<eos>"), tmp_path)
    made = load_classifier(tmp_path)
    made.scores(TokenBatch.of([[1, 5]], [[7, EOS]])).sum().backward()
    gradient = made.model.get_input_embeddings().weight.grad
    assert gradient is not None
    assert gradient[EOS].abs().max() > 0


@FAMILIES
def test_company_padding_and_what_is_in_it_change_nothing(family: str, tmp_path: Path) -> None:
    made = classifier_of(family, tmp_path)
    prompts, completions = rows()
    together = scored(made, prompts, completions)
    alone = torch.cat([scored(made, [p], [c]) for p, c in zip(prompts, completions, strict=True)])
    torch.testing.assert_close(alone, together, atol=5e-6, rtol=5e-6)
    batch = TokenBatch.of(prompts, completions)
    wild = torch.where(torch.arange(batch.ids.shape[1])[None, :] < batch.lengths[:, None], batch.ids, 10**9)
    wild = torch.cat([wild, torch.full((7, 5), -3)], 1)
    with torch.no_grad():
        padded = made.scores(TokenBatch(wild, batch.prompt_lengths, batch.completion_lengths))
    torch.testing.assert_close(padded, together, atol=5e-6, rtol=5e-6)


@pytest.mark.parametrize("family", ["llama", "gemma2", "mistral"])
def test_plain_transformers_padded_on_the_left_agrees(family: str, tmp_path: Path) -> None:
    made = classifier_of(family, tmp_path / "base")
    save_policy(made.model, made.tokenizer, tmp_path / "reward")
    torch.testing.assert_close(
        plain(tmp_path / "reward", *rows(), side="left"), scored(made, *rows()), atol=2e-5, rtol=2e-5
    )
    assert AutoTokenizer.from_pretrained(tmp_path / "reward").padding_side == "right"


@FAMILIES
def test_a_pad_id_in_the_text_is_a_token_like_any_other(family: str, tmp_path: Path) -> None:
    """A sampled pad id neither ends a row nor shifts positions: what stands behind it still counts."""
    made = classifier_of(family, tmp_path)
    scores = scored(made, [[1, 5]] * 3, [[7, PAD, 8, EOS], [7, PAD, 9, EOS], [7, 8, EOS]])[:, 0]
    assert (scores[0] - scores[1]).abs() > 1e-3
    assert (scores[0] - scores[2]).abs() > 1e-3


@FAMILIES
def test_the_second_sentence_and_the_end_count(family: str, tmp_path: Path) -> None:
    made = classifier_of(family, tmp_path)
    scores = scored(made, [[1, 5], [1, 5], [1, 5, 7]], [[7, 8, EOS], [7, 8], [8, EOS]])[:, 0]
    assert (scores[0] - scores[1]).abs() > 1e-3
    moved = float((scores[0] - scores[2]).abs())  # only BERT is told by token types where the second one begins
    assert moved > 1e-3 if family == "bert" else moved < 5e-6


@FAMILIES
def test_heads_come_from_the_seed(family: str, tmp_path: Path) -> None:
    folder = folder_of(family, tmp_path)
    torch.manual_seed(123)
    before = torch.random.get_rng_state()
    a, b, c = (load_classifier(folder, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert a.fresh == b.fresh
    assert any(name.endswith("weight") for name in a.fresh)
    assert torch.equal(scored(a, *rows()), scored(b, *rows()))
    assert not torch.allclose(scored(a, *rows()), scored(c, *rows()))
    assert {n for n in a.fresh if ".pooler." not in n} <= a.head


@FAMILIES
def test_bf16_weights_on_disk_become_fp32(family: str, tmp_path: Path) -> None:
    made = load_classifier(folder_of(family, tmp_path, dtype=torch.bfloat16))
    assert {p.dtype for p in made.model.parameters()} == {torch.float32}
    assert torch.isfinite(scored(made, *rows())).all()


@FAMILIES
@pytest.mark.parametrize("name", ["autocast", "bf16"])
def test_scores_in_low_precision_are_not_rounded_to_bf16(family: str, name: str, tmp_path: Path) -> None:
    made = classifier_of(family, tmp_path)
    exact = scored(made, *rows())
    if name == "bf16" and not made.is_decoder:
        pytest.skip("encoders run as transformers has them, under autocast")
    working = Working(made.model, Precision(name), exact=made.head)
    with working.running():
        scores = scored(replace(made, model=working.model), *rows())
    assert scores.dtype == torch.float32
    assert (scores != scores.to(torch.bfloat16).float()).any()
    assert (scores - exact).abs().max() < 0.15 * exact.abs().max().clamp(min=1)


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_dropout_is_off_after_loading(family: str, tmp_path: Path) -> None:
    made = classifier_of(family, tmp_path)
    assert torch.equal(scored(made, *rows()), scored(made, *rows()))
    made.model.train()
    assert not torch.equal(scored(made, *rows()), scored(made, *rows()))


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi"])
def test_a_policy_with_adapters_is_merged_first(family: str, tmp_path: Path) -> None:
    """Kept as adapters beside their base, or merged on saving: the same trunk under the same head."""
    save_policy(DECODERS[family](), word_tokenizer(), tmp_path / "base")
    policy, tokenizer = load_policy(tmp_path / "base")
    add_lora(policy, LORA, 7, base=str(tmp_path / "base"))
    with torch.no_grad():
        for key, parameter in policy.named_parameters():
            if ".lora_B." in key:
                parameter.add_(0.05)
    save_policy(policy, tokenizer, tmp_path / "adapter", adapters="adapter")
    save_policy(policy, tokenizer, tmp_path / "merged")
    plain, kept, merged = (scored(load_classifier(tmp_path / n), *rows()) for n in ("base", "adapter", "merged"))
    torch.testing.assert_close(kept, merged, atol=5e-6, rtol=5e-6)
    assert (kept - plain).abs().max() > 1e-3


def test_the_end_of_a_templates_turn_ends_a_text(tmp_path: Path) -> None:
    tokenizer = word_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["w9"]})
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} w9 {% endfor %}"
    save_policy(llama(), tokenizer, tmp_path)
    assert load_classifier(tmp_path).eos == {EOS, 13}


def test_several_ends_of_a_policy_are_kept(tmp_path: Path) -> None:
    model = llama()
    model.generation_config.eos_token_id = [EOS, 9]
    save_policy(model, word_tokenizer(), tmp_path / "policy")
    made = load_classifier(tmp_path / "policy")
    assert made.eos == {EOS, 9}
    save_policy(made.model, made.tokenizer, tmp_path / "reward")
    assert load_classifier(tmp_path / "reward").eos == {EOS, 9}


def test_positions_of_roberta_leave_room_for_its_offset(tmp_path: Path) -> None:
    made = classifier_of("roberta", tmp_path)
    assert (made.context, made.model.config.max_position_embeddings) == (64, 65)
    assert torch.isfinite(scored(made, [[1] * 32], [[7] * 32])).all()


def test_heads_of_other_sizes(tmp_path: Path) -> None:
    save_encoder("bert", tmp_path, labels=3)
    assert load_classifier(tmp_path).labels == 3
    with pytest.raises(ModelError, match="3 labels, not 1"):
        load_classifier(tmp_path, 1)
    replaced = load_classifier(tmp_path, 1, new_head=True)
    assert replaced.labels == 1
    assert replaced.fresh == ("classifier.bias", "classifier.weight")
    assert load_classifier(folder_of("llama", tmp_path / "base"), 4).labels == 4


def test_missing_trunk_weights_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder_of("llama", tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        load_classifier(tmp_path)


def test_trunk_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    folder_of("llama", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"intermediate_size": 40}))
    with pytest.raises(ModelError, match="do not fill the model"):
        load_classifier(tmp_path)


def test_families_without_a_classifier_are_refused_by_name(tmp_path: Path) -> None:
    mamba = MambaForCausalLM(MambaConfig(vocab_size=64, hidden_size=16, state_size=4, num_hidden_layers=1))
    mamba.save_pretrained(tmp_path / "mamba")
    t5 = T5ForConditionalGeneration(T5Config(vocab_size=64, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2))
    t5.save_pretrained(tmp_path / "t5")
    for name, why in (("mamba", "no sequence classifier"), ("t5", "encoder-decoder")):
        word_tokenizer().save_pretrained(tmp_path / name)
        with pytest.raises(ModelError, match=rf"{name}.*{why}"):
            load_classifier(tmp_path / name)


def test_a_model_whose_rows_depend_on_their_padding_is_refused(tmp_path: Path) -> None:
    """XLNet reads the last position of the batch, whatever stands there."""
    from transformers import XLNetConfig, XLNetForSequenceClassification

    config = XLNetConfig(vocab_size=64, d_model=16, n_layer=1, n_head=2, d_inner=16, num_labels=1)
    XLNetForSequenceClassification(config).save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"XLNetForSequenceClassification.*padded rows"):
        load_classifier(tmp_path)


def test_nothing_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no model folder"):
        load_classifier(tmp_path / "nowhere")
    folder_of("bert", tmp_path / "bert")
    (tmp_path / "bert" / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="no tokenizer"):
        load_classifier(tmp_path / "bert")
