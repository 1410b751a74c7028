"""Small Llama models with random weights, a tokenizer of their size, prompts of exact length, for speed.

Both sides of a comparison load the same folder: ``SIZE/lm`` (a causal language model), ``SIZE/rm`` (a classifier with
one output) and ``SIZE/prompts.jsonl`` (text and ids). What the texts say does not matter: without any, the project's
own files are read. Left out: models that can do anything.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

SHAPES: dict[str, dict[str, int]] = {
    "S": {
        "hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 8, "intermediate_size": 688,
        "vocab_size": 4096,
    },
    "M": {
        "hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "intermediate_size": 1376,
        "vocab_size": 8192,
    },
}  # fmt: skip
"""S: 5.8 million parameters, M: 29.5 million."""
PAD, BOS, EOS = 0, 1, 2
CONTEXT = 1024
PIECE_CHARACTERS = 600
"""Texts are cut into pieces at least this long, so that a prompt fits into each."""
OWN_TEXTS = ("*.md", "docs/**/*.md", "src/**/*.py", "tests/**/*.py")


def make(folder: Path, texts: Sequence[Path], size: str, prompts: int, length: int) -> Path:
    """Write ``folder/size`` unless it is there; ``prompts`` prompts of exactly ``length`` tokens. Returns it.

    ``texts``: files (``.txt``, ``.txt.xz``) that the tokenizer learns from and prompts begin; none: the project's own.
    """
    out = folder / size
    if (out / "prompts.jsonl").is_file():
        return out
    documents = [piece for path in texts or own_texts() for piece in _pieces(path)]
    tokenizer = _tokenizer(documents, SHAPES[size]["vocab_size"])
    shape: dict[str, Any] = SHAPES[size] | {
        "tie_word_embeddings": True, "max_position_embeddings": CONTEXT, "pad_token_id": PAD, "bos_token_id": BOS,
        "eos_token_id": EOS,
    }  # fmt: skip
    for name, kind, more in (("lm", LlamaForCausalLM, {}), ("rm", LlamaForSequenceClassification, {"num_labels": 1})):
        torch.manual_seed(0)
        kind(LlamaConfig(**shape, **more)).save_pretrained(out / name)
        tokenizer.save_pretrained(out / name)
    rows = list(_prompts(documents, tokenizer, prompts, length))
    (out / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return out


def own_texts() -> list[Path]:
    """The project's documentation and sources."""
    root = Path(__file__).resolve().parent.parent
    return sorted({path for pattern in OWN_TEXTS for path in root.glob(pattern)})


def read_prompts(folder: Path) -> list[dict[str, Any]]:
    """``text`` and ``ids`` of every prompt of a folder that :func:`make` wrote."""
    return [json.loads(line) for line in (folder / "prompts.jsonl").read_text("utf-8").splitlines()]


def _pieces(path: Path) -> Iterator[str]:
    """A file's lines, joined until they are long enough for a prompt."""
    text = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
    kept: list[str] = []
    for line in text.decode("utf-8").splitlines():
        if line.strip():
            kept.append(line.strip())
        if sum(map(len, kept)) >= PIECE_CHARACTERS:
            yield " ".join(kept)
            kept = []


def _tokenizer(documents: Sequence[str], vocabulary: int) -> PreTrainedTokenizerFast:
    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learned.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=["<pad>", "<bos>", "<eos>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    learned.train_from_iterator(documents, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=learned, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>")


def _prompts(
    documents: Sequence[str], tokenizer: PreTrainedTokenizerBase, count: int, length: int
) -> Iterator[dict[str, Any]]:
    """Beginnings of documents that are ``length`` tokens however often they are encoded."""
    for document in documents:
        text = tokenizer.decode(tokenizer.encode(document, add_special_tokens=False)[:length])
        ids = tokenizer.encode(text, add_special_tokens=False)
        if len(ids) == length:
            yield {"text": text, "ids": ids}
            count -= 1
            if not count:
                return
    raise ValueError(f"{len(documents)} documents have too few of {length} tokens: give more or longer texts")
