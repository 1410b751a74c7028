"""Tiny encoders made from configurations, one function per family, and tokenizers that join pairs as theirs do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ModernBertConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    XLMRobertaConfig,
)

WORDS, CONTEXT = 64, 64
_SHAPE: dict[str, Any] = {
    "vocab_size": WORDS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "pad_token_id": 0, "initializer_range": 0.3,
}  # fmt: skip


def pair_tokenizer(style: str = "bert") -> PreTrainedTokenizerFast:
    """64 words [PAD] [CLS] [SEP] [UNK] v0 … v59. ``bert``: types 0 and 1; ``roberta``: two separators, no types;
    ``plain``: one separator, no types."""
    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *(f"v{i}" for i in range(WORDS - 4))]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    between = "[SEP] [SEP]" if style == "roberta" else "[SEP]"
    second = ":1" if style == "bert" else ":0"
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair=f"[CLS] $A {between} $B{second} [SEP]{second}",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    names = ["input_ids", *(["token_type_ids"] if style == "bert" else []), "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]", unk_token="[UNK]",
        model_max_length=CONTEXT, model_input_names=names,
    )  # fmt: skip


def bert() -> PretrainedConfig:
    return BertConfig(**_SHAPE, max_position_embeddings=CONTEXT)


def roberta() -> PretrainedConfig:
    return RobertaConfig(
        **_SHAPE, max_position_embeddings=CONTEXT + 1, type_vocab_size=1, bos_token_id=1, eos_token_id=2
    )


def xlm_roberta() -> PretrainedConfig:
    return XLMRobertaConfig(
        **_SHAPE, max_position_embeddings=CONTEXT + 1, type_vocab_size=1, bos_token_id=1, eos_token_id=2
    )


def distilbert() -> PretrainedConfig:
    return DistilBertConfig(
        vocab_size=WORDS, dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=CONTEXT,
        pad_token_id=0, initializer_range=0.3,
    )  # fmt: skip


def modernbert() -> PretrainedConfig:
    """A local window of 8 in two of three layers."""
    shape = _SHAPE | {"num_hidden_layers": 3}
    return ModernBertConfig(
        **shape, max_position_embeddings=CONTEXT, local_attention=8, global_attn_every_n_layers=2,
        classifier_pooling="mean", bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2,
    )  # fmt: skip


def deberta_v2() -> PretrainedConfig:
    return DebertaV2Config(
        **_SHAPE, max_position_embeddings=CONTEXT, type_vocab_size=0, relative_attention=True,
        position_biased_input=False, pos_att_type=["p2c", "c2p"], norm_rel_ebd="layer_norm", share_att_key=True,
        position_buckets=8,
    )  # fmt: skip


ENCODERS: dict[str, tuple[Callable[[], PretrainedConfig], str]] = {
    "bert": (bert, "bert"),
    "roberta": (roberta, "roberta"),
    "xlm-roberta": (xlm_roberta, "roberta"),
    "distilbert": (distilbert, "plain"),
    "modernbert": (modernbert, "plain"),
    "deberta-v2": (deberta_v2, "bert"),
}
"""Family name: its config, and how its tokenizer joins a pair."""


def save_encoder(family: str, folder: Path, labels: int | None = None, dtype: torch.dtype = torch.float32) -> Path:
    """A model folder: a masked language model, or with ``labels`` a finished classifier."""
    make, style = ENCODERS[family]
    config = make()
    torch.manual_seed(0)
    if labels is None:
        model = AutoModelForMaskedLM.from_config(config)
    else:
        config.num_labels = labels
        model = AutoModelForSequenceClassification.from_config(config)
    model.to(dtype).save_pretrained(folder)
    pair_tokenizer(style).save_pretrained(folder)
    return folder
