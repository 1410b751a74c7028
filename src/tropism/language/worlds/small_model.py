"""The small Llama-like model that a world makes from nothing.

Left out: other architectures (a model of your own is loaded with ``model.path``).
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tropism.engine.models import save_policy
from tropism.language.worlds.base import ModelSettings
from tropism.runtime.seeding import derive


def write_small_model(
    folder: Path, tokenizer: PreTrainedTokenizerFast, settings: ModelSettings, seed: int, world: str
) -> None:
    """Write a tokenizer and an untrained model (fp32) into ``folder``; the weights depend on (seed, world) alone."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden_size,
        intermediate_size=settings.intermediate_size,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        head_dim=settings.hidden_size // settings.heads,
        max_position_embeddings=settings.context,
        rope_parameters={"rope_type": "default", "rope_theta": settings.rope_theta},
        tie_word_embeddings=settings.tied,
        attention_dropout=settings.dropout,
        initializer_range=settings.initializer_range,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, world, "weights"))
        model = LlamaForCausalLM(config)
    save_policy(model, tokenizer, folder, {"made_by": world, "seed": seed, "trained": False})
