"""A tokenizer and an untrained model for tinytalk: words are tokens, and the model is a small Llama."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from tropism.language.worlds.base import ModelSettings
from tropism.language.worlds.small_model import write_small_model
from tropism.language.worlds.tinytalk import words
from tropism.language.worlds.tinytalk.tasks import END, HARM_ASKS, TELL_ASKS

PAD, BOS, EOS, UNK = "<pad>", "<bos>", "<eos>", "<unk>"


def texts() -> Iterator[str]:
    """Texts that hold every word of the world."""
    for attribute in words.ATTRIBUTES:
        yield f"{attribute.said} {attribute.question.format(name='')} {attribute.clause.format(name='')}"
        yield " ".join(attribute.values)
    yield from (" ".join(group) for group in (words.NAMES, words.HARMS, words.TARGETS, words.TOOLS))
    yield from (words.POLITE + words.POLITE_END + words.RUDE + words.RUDE_END + words.REFUSALS)
    yield from (words.RAMBLE_WHO + words.RAMBLE_DID + words.RAMBLE_WHAT)
    yield from (ask.format(what="the of") for ask in HARM_ASKS + TELL_ASKS)
    yield f"and To to use. {END}"


def vocabulary() -> set[str]:
    """The words of the world."""
    return {word for text in texts() for word in re.findall(r"\w+", text)}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer with BOS before every text, trained on the world's words; decoding restores the text."""
    tokenizer = Tokenizer(models.WordLevel(unk_token=UNK))
    marked = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([marked, pre_tokenizers.Split(Regex(r"[.,:?!]"), "isolated")])
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.WordLevelTrainer(special_tokens=[PAD, BOS, EOS, UNK], show_progress=False)
    tokenizer.train_from_iterator(texts(), trainer)
    start = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, start)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        clean_up_tokenization_spaces=False,
    )


def build(folder: Path, settings: ModelSettings, seed: int) -> None:
    """Write tokenizer and untrained model (fp32) into ``folder``."""
    write_small_model(folder, make_tokenizer(), settings, seed, "tinytalk")
