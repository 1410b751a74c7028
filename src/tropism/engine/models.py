"""Loading and saving causal language models as plain Hugging Face folders: safetensors and JSON, nothing else.

Weights are copied into freshly allocated memory on loading, so that results do not depend, in their last bits, on how a
mapped file happened to be aligned. Left out: quantised weights, several devices, pickled (``.bin``) weights.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.models.auto.tokenization_auto import get_tokenizer_config
from transformers.utils import logging

from tropism.engine.adapters import CONFIG as ADAPTER_CONFIG
from tropism.engine.adapters import base_of, has_adapters, load_adapters, merged_copy, save_adapters
from tropism.engine.cards import Card, write_card
from tropism.errors import ModelError

ABOUT = "tropism.json"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
_CAUSAL_MARKS = ("CausalLM", "LMHeadModel", "ForConditionalGeneration")


def load_policy(
    path_or_name: str | Path, dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model in eval mode and its tokenizer, from a local folder or a hub name.

    Parameters have ``dtype``, whatever they have on the disk, and are trainable. A folder of adapters (peft's) gives
    its base model with the adapters added; then only these are trainable. A tokenizer without a pad token pads with its
    EOS (masks never come from pad ids here, so nothing is lost). Raises ModelError naming the path and the fix: nothing
    there, no tokenizer, no safetensors weights, weights that do not fill the model, an encoder, custom code, adapters
    without their base.
    """
    folder = Path(path_or_name).expanduser()
    base = base_of(folder)
    if base is None:
        return _load_model(_source(path_or_name), dtype)
    try:
        model, tokenizer = load_policy(base, dtype)
    except ModelError as error:
        raise ModelError(
            f"{folder} holds adapters of the base model {base!r}, which cannot be loaded: {error.problem}",
            f"put the base model there, or set base_model_name_or_path in {folder / ADAPTER_CONFIG}",
        ) from error
    if has_adapters(model):
        raise ModelError(f"{folder} holds adapters of {base}, which has adapters itself", "merge those first")
    load_adapters(model, folder)
    if any((folder / name).is_file() for name in _TOKENIZER_FILES):
        tokenizer = load_tokenizer(str(folder))
        _check_tokenizer(str(folder), model, tokenizer)
    return model.eval(), tokenizer


def _load_model(source: str, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A whole model and its tokenizer."""
    config = _load(AutoConfig, source, "config")
    _check_causal(source, config)
    tokenizer = load_tokenizer(source)
    loaded = _load(
        AutoModelForCausalLM,
        source,
        "weights",
        config=config,
        dtype=dtype,
        use_safetensors=True,
        output_loading_info=True,
    )
    model, info = loaded
    for kind in ("missing_keys", "mismatched_keys"):
        if info.get(kind):
            names = ", ".join(sorted(str(k) for k in info[kind])[:3])
            raise ModelError(
                f"the weights of {source} do not fill the model ({kind.replace('_', ' ')}: {names}, …)",
                "point to a complete checkpoint of the architecture that config.json names",
            )
    _own_memory(model)
    _check_tokenizer(source, model, tokenizer)
    return model.eval(), tokenizer


def load_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub name. ModelError where there is none.

    For some model types transformers makes one of the type's own class, whatever lies there. A folder whose
    tokenizer_config.json names no class of its own means its tokenizer.json as it stands.
    """
    tokenizer = _load(AutoTokenizer, source, "tokenizer")
    declared = get_tokenizer_config(source).get("tokenizer_class")
    if declared in ("TokenizersBackend", "PreTrainedTokenizerFast") and type(tokenizer) is not PreTrainedTokenizerFast:
        tokenizer = _load(PreTrainedTokenizerFast, source, "tokenizer")
    return tokenizer


def save_policy(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    about: Mapping[str, Any] | None = None,
    card: Card | None = None,
    *,
    adapters: Literal["merged", "adapter"] = "merged",
    dtype: torch.dtype | None = None,
) -> None:
    """Write a plain Hugging Face folder (safetensors), with ``about`` as ``tropism.json`` and ``card`` as README.md
    beside it.

    The same weights and words give the same bytes wherever the model came from. Tied weights are stored once and are
    tied again on loading. A model with adapters is saved merged, or as a peft folder of the adapters alone. ``dtype``
    is that of the saved weights; None: the model's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not isinstance(model, PreTrainedModel):
        raise ModelError(
            f"a {type(model).__name__} is not a Hugging Face model", "save the wrapped causal language model"
        )
    if has_adapters(model) and adapters == "adapter":
        save_adapters(model, folder)
    else:
        saved = merged_copy(model) if has_adapters(model) else model
        if dtype is not None and dtype != saved.dtype:
            saved = (copy.deepcopy(saved) if saved is model else saved).to(dtype)
        with _no_bars():
            saved.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    for name in ("config.json", "tokenizer_config.json", "generation_config.json"):
        _forget_origin(folder / name)
    if about is not None:
        (folder / ABOUT).write_text(json.dumps(dict(about), indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    if card is not None:
        write_card(folder, card)


def hub_commit(path_or_name: str | Path) -> str | None:
    """The commit that a loaded hub name stood for: its snapshot in the hub's local cache. None for a folder."""
    found = (
        None if Path(path_or_name).expanduser().exists() else try_to_load_from_cache(str(path_or_name), "config.json")
    )
    return Path(found).parent.name if isinstance(found, str) else None


def eos_ids(model: Any, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Every id that ends a completion of a causal language model.

    Those of its generation config, of its config and of the tokenizer.
    """
    found: set[int] = set()
    configs = [getattr(model, "generation_config", None), getattr(model, "config", None)]
    for value in [*(getattr(c, "eos_token_id", None) for c in configs), tokenizer.eos_token_id]:
        if value is not None:
            found.update(int(v) for v in (value if isinstance(value, list | tuple) else [value]))
    found = {v for v in found if 0 <= v < int(model.config.get_text_config().vocab_size)}
    if not found:
        raise ModelError(
            "neither the model nor its tokenizer names an end-of-sequence token",
            'set "eos_token" in tokenizer_config.json or "eos_token_id" in generation_config.json',
        )
    return frozenset(found)


def context_length(model: Any) -> int:
    """The most positions (prompt and completion together) that the model takes."""
    config = model.config.get_text_config()
    for name in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length"):
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    raise ModelError(
        f"the config of {type(model).__name__} does not say how long a text may be",
        'add "max_position_embeddings" to its config.json',
    )


def _source(path_or_name: str | Path) -> str:
    """A checked local folder, or the hub name as it is."""
    path = Path(path_or_name).expanduser()
    text = str(path_or_name)
    named_like_hub = isinstance(path_or_name, str) and text.count("/") <= 1 and not text.startswith((".", "/", "~"))
    if not path.exists():
        if named_like_hub:
            return text
        raise ModelError(f"there is no model folder {path}", "check the path, or give a hub name such as owner/name")
    if not (path / "config.json").is_file():
        raise ModelError(f"{path} has no config.json", "point to a folder written by save_pretrained")
    if not any((path / name).is_file() for name in _TOKENIZER_FILES):
        raise ModelError(f"{path} has no tokenizer", "save one beside the model: tokenizer.save_pretrained(folder)")
    if not any(path.glob("*.safetensors")):
        pickled = any(path.glob("*.bin"))
        fix = "convert its .bin weights (pickle is never read): load once elsewhere and call save_pretrained"
        raise ModelError(
            f"{path} has no safetensors weights", fix if pickled else "save the model there with save_pretrained"
        )
    return str(path)


def _load(loader: Any, source: str, what: str, **options: Any) -> Any:
    """``from_pretrained`` without remote code; its many errors become one."""
    try:
        with _no_bars():
            return loader.from_pretrained(source, trust_remote_code=False, **options)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, TypeError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        here = "" if Path(source).exists() else " (which is no folder here, so it was looked for on the hub)"
        raise ModelError(
            f"cannot load the {what} of model {source!r}{here}: {first}",
            "give a folder or hub name with config.json, tokenizer.json and *.safetensors of a causal language model",
        ) from error


@contextmanager
def _no_bars() -> Iterator[None]:
    """Without transformers' own progress bars: a study shows its own."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _check_causal(source: str, config: Any) -> None:
    kind = str(config.model_type)
    names = [str(a) for a in config.architectures or []]
    causal = any(mark in name for name in names for mark in _CAUSAL_MARKS)
    unnamed = not names and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if config.is_encoder_decoder or kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or not (causal or unnamed):
        raise ModelError(
            f"{source} is a {', '.join(names) or kind}, not a causal language model",
            "choose a decoder that generates text from left to right (Llama, Qwen, GPT-2, …)",
        )


def _check_tokenizer(source: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise ModelError(
            f"the tokenizer of {source} knows {len(tokenizer)} tokens but the model embeds {rows}",
            "use the tokenizer that was saved with these weights",
        )
    if tokenizer.pad_token_id is None:  # an alias of a token that exists: the vocabulary stays as it is
        end = tokenizer.convert_ids_to_tokens(min(eos_ids(model, tokenizer)))
        tokenizer.pad_token = tokenizer.eos_token or end


def _own_memory(model: nn.Module) -> None:
    """Copy every tensor into memory of torch's own allocator (64-byte aligned); tied parameters stay tied."""
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.data = torch.empty_like(tensor, memory_format=torch.contiguous_format).copy_(tensor)


def _forget_origin(path: Path) -> None:
    """Drop the fields that name where a model was loaded from: equal models must have equal digests."""
    if path.is_file():
        content = json.loads(path.read_text())
        for key in ("_name_or_path", "name_or_path", "is_local", "local_files_only"):
            content.pop(key, None)
        path.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
