"""Controlled sentiment on real text and real people's labels, after Rafailov et al. 2023 ("Direct Preference
Optimization", section 6): make continuations of film reviews positive without leaving the language.

A prompt is the opening of a review; held-out reviews give the test prompts. The language model is pretrained on the
train split of both corpora. Feedback is the labels people gave to sentences of ``sentence_polarity``: as pairs (the
positive sentence is preferred) and as ratings. The judge (``sentiment_judge.py``) is fitted on reviews of the train and
validation splits; the language model saw the text of those train reviews, never a label. Nobody saw the test reviews.

Left out: demonstrations (the pretrained model is the SFT model, as in the paper) and end-of-sequence tokens (every
completion has the full number of new tokens, so that length explains nothing).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from tropism.errors import ConfigError
from tropism.feedback.records import Answer, Candidate, Provenance, Query, Split, Task
from tropism.language.sft import Example, SftSettings
from tropism.language.worlds.base import ModelSettings, Phase
from tropism.language.worlds.sentiment_data import Labelled, SentimentCorpus, read_corpus
from tropism.language.worlds.sentiment_judge import SentimentJudge
from tropism.language.worlds.small_model import write_small_model
from tropism.runtime.seeding import derive, permutation

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
OPENING_WORDS = (4, 8)
WINDOW_WORDS = 50
"""Words of a pretraining row: about 67 tokens, a little more than a prompt with 48 new tokens."""
SENTENCE_REPEATS = 2
"""How often the sentences come for each time the reviews do: they are short, but say what their author thinks."""
PRETRAINING = SftSettings(
    steps=700,
    batch_size=28,
    weight_decay=0.01,
    max_grad_norm=1.0,
    optimizer="muon",
    learning_rate=3e-3,
    final_rate_fraction=0.02,
    warmup_steps=30,
    beta2=0.95,
    max_length=128,
    precision="auto",
    checkpoint_every=100,
)
SCALE = (0, 1)


class SentimentSettings(BaseModel):
    """``world.options`` of the sentiment world."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vocabulary: int = Field(4096, ge=300)
    """Tokens of the byte-level BPE."""
    pretraining_steps: int = Field(PRETRAINING.steps, ge=1)


FeedbackKind = Literal["comparison", "rating"]


@dataclass(frozen=True)
class RecordedFeedback:
    """One label that a person gave, as the feedback log takes it: task, candidates, query, answer."""

    task: Task
    candidates: tuple[Candidate, ...]
    query: Query
    answer: Answer


class SentimentWorld:
    """The sentiment world over a data folder (see ``read_corpus``); implements ``World``."""

    name = "sentiment"

    def __init__(self, data: Path | str | None, settings: SentimentSettings | None = None) -> None:
        if data is None:
            raise ConfigError(
                "the sentiment world needs world.data",
                "--set world.data=FOLDER with movie_reviews.zip and sentence_polarity.zip",
            )
        self.settings = settings or SentimentSettings()
        self.corpus: SentimentCorpus = read_corpus(Path(data))

    @cached_property
    def judge(self) -> SentimentJudge:
        """The judge, fitted on first use (a few seconds) on whole reviews that are not in the test split."""
        seen = [r for r in self.corpus.reviews if r.split != "test"]
        return SentimentJudge.fit([r.text for r in seen], [r.positive for r in seen])

    def tasks(self, split: Split, count: int, seed: int) -> list[Task]:
        """Openings of ``count`` reviews of a split (fewer if it has fewer), in an order drawn from ``seed``."""
        prompts = self._openings(split)
        order = permutation(len(prompts), derive(seed, "sentiment", split), 0)[:count]
        return [Task(split, {"prompt": prompts[int(i)], "kind": "opening"}) for i in order]

    def demonstrations(self, count: int, seed: int) -> list[tuple[str, str]]:
        """None: the pretrained model is the reference."""
        return []

    def curriculum(self, seed: int) -> list[Phase]:
        """One phase: windows of train reviews and train sentences, every token trained, no EOS."""
        windows = pretraining_windows(self.corpus, derive(seed, "sentiment", "windows"))
        settings = PRETRAINING.model_copy(update={"steps": self.settings.pretraining_steps})
        return [Phase("pretrain", [Example(((text, True),)) for text in windows], settings)]

    def build(self, folder: Path, settings: ModelSettings, seed: int) -> None:
        """Write a byte-level BPE tokenizer fitted on the train split and an untrained Llama-like model."""
        tokenizer = make_tokenizer(pretraining_texts(self.corpus), self.settings.vocabulary)
        write_small_model(folder, tokenizer, settings, seed, "sentiment")

    def aspects(self, task: Task, text: str) -> Mapping[str, float | None]:
        """``judged_positive`` by the judge as fitted, that is before its threshold is centred on a reference."""
        return {"judged_positive": float(self.judge.score([text])[0] > 0)}

    def gold(self, task: Task, text: str) -> float | None:
        """The judge's log odds of positive: no truth, but a measure that nothing here learns from."""
        return float(self.judge.score([text])[0])

    def recorded_feedback(self, kind: FeedbackKind, split: Split, count: int, seed: int) -> list[RecordedFeedback]:
        """Up to ``count`` of people's labels on sentences of a split (train or validation) as feedback.

        Every sentence is used at most once. It stands as the completion of an opening of the same split, so that a
        reward model reads it where it will read a policy's completions. ``comparison``: a positive and a negative
        sentence, the positive one chosen, in slots drawn from ``seed``; ``rating``: 1 or 0 on the scale [0, 1].
        """
        if kind not in ("comparison", "rating"):
            raise ConfigError(
                f"feedback.kind = {kind!r}, but people labelled single sentences", "choose 'comparison' or 'rating'"
            )
        if split == "test":
            raise ConfigError("feedback of the test split was asked for", "ask for train or validation feedback")
        sentences = _shuffled(self.corpus.sentences_of(split), derive(seed, "sentiment", "feedback", split))
        openings = self._openings(split)
        if kind == "rating":
            rows = [[s] for s in sentences[:count]]
        else:
            good = [s for s in sentences if s.positive]
            bad = [s for s in sentences if not s.positive]
            flips = permutation(len(sentences), derive(seed, "sentiment", "slots", split), 0) % 2
            rows = [[g, b] if flip else [b, g] for g, b, flip in zip(good, bad, flips, strict=False)][:count]
        return [_recorded(kind, Task(split, {"prompt": openings[i % len(openings)], "kind": "opening"}), row)
                for i, row in enumerate(rows)]  # fmt: skip

    def import_rows(self, split: Split, count: int, seed: int) -> Iterator[dict[str, str]]:
        """The pairs of :meth:`recorded_feedback` as rows of a preference file: prompt, chosen, rejected, split."""
        for made in self.recorded_feedback("comparison", split, count, seed):
            value = made.answer.value or {}
            a, b = (str(c.content["text"]) for c in made.candidates)
            chosen, rejected = (a, b) if value["choice"] == "a" else (b, a)
            yield {"prompt": str(made.task.payload["prompt"]), "chosen": chosen, "rejected": rejected, "split": split}

    def _openings(self, split: Split) -> list[str]:
        """The first 4 to 8 words of every review of a split (the number is drawn from the review), without doubles."""
        low, high = OPENING_WORDS
        made: dict[str, None] = {}
        for review in self.corpus.reviews_of(split):
            words = review.text.split()
            made[" ".join(words[: low + derive(0, "opening", review.text) % (high - low + 1)])] = None
        taken = set(self._openings("train")) if split != "train" else set()
        return [opening for opening in made if opening not in taken]


def pretraining_texts(corpus: SentimentCorpus) -> list[str]:
    """Train reviews and train sentences, without their labels."""
    return [t.text for t in (*corpus.reviews_of("train"), *corpus.sentences_of("train"))]


def pretraining_windows(corpus: SentimentCorpus, seed: int) -> list[str]:
    """All train text in windows of ``WINDOW_WORDS`` words, cut without regard to where a text begins or ends.

    Reviews and groups of four sentences are shuffled; the sentences come ``SENTENCE_REPEATS`` times in other orders.
    """
    sentences = [s.text for s in corpus.sentences_of("train")]
    documents = [r.text for r in corpus.reviews_of("train")]
    for repeat in range(SENTENCE_REPEATS):
        order = permutation(len(sentences), derive(seed, "sentences"), repeat)
        documents += [" ".join(sentences[int(i)] for i in order[j : j + 4]) for j in range(0, len(order), 4)]
    words = " ".join(documents[int(i)] for i in permutation(len(documents), derive(seed, "documents"), 0)).split()
    return [" ".join(words[i : i + WINDOW_WORDS]) for i in range(0, len(words), WINDOW_WORDS)]


def make_tokenizer(texts: Sequence[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE of ``vocabulary`` tokens, BOS before every text; nothing is unknown to it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    start = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, start)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, bos_token=BOS, eos_token=EOS, clean_up_tokenization_spaces=False
    )


def _shuffled(rows: Sequence[Labelled], seed: int) -> list[Labelled]:
    return [rows[int(i)] for i in permutation(len(rows), seed, 0)]


def _recorded(kind: FeedbackKind, task: Task, row: Sequence[Labelled]) -> RecordedFeedback:
    made_by = Provenance("people:sentence_polarity", engine="import")
    candidates = tuple(Candidate(task.id, "text", {"text": s.text, "stop": "length"}, made_by) for s in row)
    if kind == "rating":
        value = {"slot": "c1", "score": int(row[0].positive), "scale": list(SCALE), "aspect": "sentiment"}
    else:
        value = {"choice": "a" if row[0].positive else "b"}
    query = Query(task.id, kind, tuple(c.id for c in candidates), tuple(range(len(row))), round=0)
    return RecordedFeedback(task, candidates, query, Answer(value))
