"""One tiny model of every family that is supported, made from its configuration.

Two layers of width 32 over the 64 words of ``fixtures.word_tokenizer``; windows of 4 to 6 tokens, so that sequences of
20 leave them; tied and untied heads, grouped heads, biases, soft caps, norms in odd places, dropout that is on. Weights
are drawn wide enough that distributions are uneven.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    StableLmConfig,
    StableLmForCausalLM,
)

from fixtures import BOS, EOS, PAD, VOCABULARY
from tropism.engine.adapters import LoraSettings, add_lora

CONTEXT = 64
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": CONTEXT, "bos_token_id": BOS, "eos_token_id": EOS,
    "pad_token_id": PAD, "initializer_range": 0.3,
}  # fmt: skip


def _made(kind: type[PreTrainedModel], config: Any, seed: int) -> Any:
    torch.manual_seed(seed)
    model = kind(config).eval()
    with torch.no_grad():  # biases and norms start as zeros and ones, where leaving one out would not show
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def llama(seed: int = 0, **over: Any) -> nn.Module:
    """Grouped heads, an untied head."""
    return _made(
        LlamaForCausalLM, LlamaConfig(**(SHAPE | {"num_key_value_heads": 2, "tie_word_embeddings": False} | over)), seed
    )


def qwen2(seed: int = 0, **over: Any) -> nn.Module:
    """Biases on queries, keys and values; a window of 6 from the second layer on; a tied head."""
    window = {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}
    shape = SHAPE | {"num_key_value_heads": 2, "tie_word_embeddings": True} | window
    return _made(Qwen2ForCausalLM, Qwen2Config(**(shape | over)), seed)


def qwen3(seed: int = 0, **over: Any) -> nn.Module:
    """Normed queries and keys, heads wider than the model's share; a tied head."""
    shape = SHAPE | {"num_key_value_heads": 2, "head_dim": 12, "tie_word_embeddings": True}
    return _made(Qwen3ForCausalLM, Qwen3Config(**(shape | over)), seed)


def gpt2(seed: int = 0, **over: Any) -> nn.Module:
    """Learned positions, convolutions for matrices, a tied head, strong dropout."""
    shape: dict[str, Any] = {
        "vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT, "resid_pdrop": 0.3,
        "embd_pdrop": 0.3, "attn_pdrop": 0.3, "bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD,
        "initializer_range": 0.3,
    }  # fmt: skip
    return _made(GPT2LMHeadModel, GPT2Config(**(shape | over)), seed)


def gemma2(seed: int = 0, **over: Any) -> nn.Module:
    """Soft caps that bend attention and logits, a window of 4 in the first layer, scaled embeddings, a tied head."""
    shape = SHAPE | {
        "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 4, "attn_logit_softcapping": 3.0,
        "final_logit_softcapping": 2.0, "query_pre_attn_scalar": 8,
    }  # fmt: skip
    return _made(Gemma2ForCausalLM, Gemma2Config(**(shape | over)), seed)


def gemma3(seed: int = 0, **over: Any) -> nn.Module:
    """A window of 5 with rotations of its own beside a layer that sees everything; a tied head."""
    shape = SHAPE | {
        "num_key_value_heads": 1, "head_dim": 8, "sliding_window": 5, "query_pre_attn_scalar": 8,
        "layer_types": ["sliding_attention", "full_attention"],
    }  # fmt: skip
    return _made(Gemma3ForCausalLM, Gemma3TextConfig(**(shape | over)), seed)


def mistral(seed: int = 0, **over: Any) -> nn.Module:
    """A window of 4 in every layer; an untied head."""
    shape = SHAPE | {"num_key_value_heads": 2, "sliding_window": 4, "tie_word_embeddings": False}
    return _made(MistralForCausalLM, MistralConfig(**(shape | over)), seed)


def phi(seed: int = 0, **over: Any) -> nn.Module:
    """Parallel blocks, half-rotated heads, a head with a bias."""
    shape = SHAPE | {"partial_rotary_factor": 0.5, "resid_pdrop": 0.1, "embd_pdrop": 0.1}
    return _made(PhiForCausalLM, PhiConfig(**(shape | over)), seed)


def olmo2(seed: int = 0, **over: Any) -> nn.Module:
    """Norms behind the blocks and on queries and keys; an untied head."""
    return _made(Olmo2ForCausalLM, Olmo2Config(**(SHAPE | {"num_key_value_heads": 2} | over)), seed)


def stablelm(seed: int = 0, **over: Any) -> nn.Module:
    """Layer norms with biases, quarter-rotated heads, parallel blocks, biases on queries; a tied head."""
    shape = SHAPE | {
        "num_key_value_heads": 4, "use_qkv_bias": True, "use_parallel_residual": True, "tie_word_embeddings": True,
        "partial_rotary_factor": 0.25,
    }  # fmt: skip
    return _made(StableLmForCausalLM, StableLmConfig(**(shape | over)), seed)


FAMILIES: dict[str, Callable[..., Any]] = {
    f.__name__: f for f in (llama, qwen2, qwen3, gpt2, gemma2, gemma3, mistral, phi, olmo2, stablelm)
}
WINDOWED = ("qwen2", "gemma2", "gemma3", "mistral")
"""Those whose windows are shorter than the sequences of the tests."""


LORA = LoraSettings(rank=3, alpha=6.0)


def adapted(name: str, **over: Any) -> Any:
    """A family's model with adapters that say something."""
    model = FAMILIES[name](**over)
    add_lora(model, LORA, 7, base="a base")
    torch.manual_seed(8)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if ".lora_B." in key:
                parameter.normal_(std=0.05)
    return model


KINDS: dict[str, Callable[..., Any]] = {"full": lambda name, **over: FAMILIES[name](**over), "lora": adapted}
