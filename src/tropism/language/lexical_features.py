"""What a reader sees before he understands: surface features of a text, its character n-grams, what it is about.

``surface`` gives some eighty numbers (length, sentences, capitals, punctuation, slips, function words, words shared
with the prompt). Character n-grams are kept if they occur in several tasks: what occurs in one task alone says which
task it is, not how good the answer is. Their first singular vectors (latent semantic analysis, Deerwester et al. 1990)
say what the text is about. All of it is bounded, so that a policy gains nothing by going where no judgement was.

Left out: readable n-grams (they are kept as 64-bit hashes), stemming, and word lists of other languages than English
(there those features are 0 and all others still speak).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]
Hashes = NDArray[np.int64]

LONGEST_GRAM = 5
MOST_CHARACTERS = 20_000
"""A text is read up to here."""
MIN_TASKS = 10
"""Tasks in which an n-gram must occur, or half of all tasks where there are fewer than twice as many."""
MOST_GRAMS = 8192
MOST_TOPICS = 60
BOUND = 3.0
"""Deviations from the mean at which a feature stops growing."""
CHUNK = 256

_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")
_SENTENCE = re.compile(r"[^.!?\n]+")
_QUOTES = str.maketrans("’‘“”—–", "''\"\"--")
_MARKS = {
    "comma": ",", "period": ".", "exclamation": "!", "question": "?", "quote": '"', "apostrophe": "'", "colon": ":;",
    "bracket": "()", "dash": "-", "slash": "/", "digit": "0123456789", "line": "\n",
}  # fmt: skip
_SLIPS = {
    "repeated_mark": re.compile(r"[!?]{2,}"),
    "repeated_letter": re.compile(r"([^\W\d_])\1\1"),
    "no_space": re.compile(r"[.,!?][^\W\d_]"),
    "space_before": re.compile(r" [.,!?]"),
    "ellipsis": re.compile(r"\.{3,}"),
}
_WORDS = {
    name: frozenset(words.split())
    for name, words in {
        "i": "i me my mine i'm i've",
        "you": "you your yours you're",
        "we": "we our us ours",
        "they": "they them their theirs",
        "connective": "therefore however although though thus since hence while whereas moreover furthermore also then"
        " unless so but example instance",
        "because": "because",
        "if": "if",
        "not": "not no never don't can't isn't doesn't won't",
        "must": "should must ought",
        "might": "would could might may",
        "the": "the",
        "of": "of",
        "and": "and",
        "is": "is are",
        "opinion": "think believe opinion feel",
        "sloppy": "dont cant wont im isnt doesnt thats ive didnt wouldnt shouldnt u ur r y cuz coz bc lol gonna wanna",
    }.items()
}


def surface(text: str, prompt: str) -> dict[str, float]:
    """Surface features of a completion, by name; finite for any text, the empty one included."""
    text, prompt = text[:MOST_CHARACTERS].translate(_QUOTES), prompt[-MOST_CHARACTERS:].translate(_QUOTES)
    words = _WORD.findall(text)
    lower = [word.lower() for word in words]
    sentences = [s for s in _SENTENCE.findall(text) if s.strip()]
    n = max(1, len(words))
    made = _sizes(text, words, lower, sentences) | _capitals(text, words, sentences)
    for name, marks in _MARKS.items():
        count = sum(text.count(mark) for mark in marks)
        made |= {f"{name}_rate": count / n, f"{name}_count": math.log1p(count)}
    made |= {name: len(pattern.findall(text)) / n for name, pattern in _SLIPS.items()}
    counts = Counter(lower)
    for name, listed in _WORDS.items():
        count = sum(counts[word] for word in listed)
        made |= {f"{name}_rate": count / n, f"{name}_count": math.log1p(count)}
    return made | _shared(lower, prompt)


def _sizes(text: str, words: list[str], lower: list[str], sentences: list[str]) -> dict[str, float]:
    lengths = [len(word) for word in words]
    n = max(1, len(words))
    long, longer = sum(size >= 7 for size in lengths), sum(size >= 10 for size in lengths)
    return {
        "characters": math.log1p(len(text)),
        "root_characters": math.sqrt(len(text)),
        "words": math.log1p(len(words)),
        "sentences": math.log1p(len(sentences)),
        "distinct_words": math.log1p(len(set(lower))),
        "type_token_ratio": len(set(lower)) / n,
        "word_length": sum(lengths) / n,
        "long_rate": long / n,
        "long_count": math.log1p(long),
        "longer_rate": longer / n,
        "longer_count": math.log1p(longer),
        "sentence_length": math.log1p(len(words) / max(1, len(sentences))),
        "longest_sentence": math.log1p(max((len(s.split()) for s in sentences), default=0)),
        "blank": math.log1p(len(text) - len(" ".join(text.split()))),
        "link": float("http" in text or "www." in text),
    }


def _capitals(text: str, words: list[str], sentences: list[str]) -> dict[str, float]:
    letters = sum(c.isalpha() for c in text)
    shouted = sum(len(word) > 1 and word.isupper() for word in words)
    stripped = text.strip()
    return {
        "capitals": sum(c.isupper() for c in text) / max(1, letters),
        "shouted_rate": shouted / max(1, len(words)),
        "shouted_count": math.log1p(shouted),
        "low_sentence_starts": sum(s.lstrip()[0].islower() for s in sentences) / max(1, len(sentences)),
        "low_start": float(stripped[:1].islower()),
        "small_i": words.count("i") / max(1, len(words)),
        "ends_in_mark": float(stripped[-1:] in {".", "!", "?", '"', ")"}),
    }


def _shared(lower: list[str], prompt: str) -> dict[str, float]:
    """Words that share their first five letters with a longer word of the prompt."""
    asked = {word.lower()[:5] for word in _WORD.findall(prompt) if len(word) > 3}
    found = [word for word in lower if word[:5] in asked]
    return {
        "shared_rate": len(found) / max(1, len(lower)),
        "shared_count": math.log1p(len(found)),
        "prompt_covered": len({word[:5] for word in found}) / max(1, len(asked)),
    }


SURFACE = tuple(surface("", ""))
"""Names of the surface features, in their order."""


def gram_counts(text: str) -> tuple[Hashes, NDArray[np.int64]]:
    """Hashes of a text's character 1- to 5-grams (case and blanks count), sorted, and how often each occurs."""
    text = text[:MOST_CHARACTERS].translate(_QUOTES)
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    made, rolled = [], np.zeros(len(codes), dtype=np.uint64)
    for size in range(1, LONGEST_GRAM + 1):
        count = len(codes) - size + 1
        if count <= 0:
            break
        rolled = rolled[:count] * np.uint64(0x100000001B3) + codes[size - 1 :] + np.uint64(1)
        made.append(_mixed(rolled + np.uint64(size * 0x9E3779B97F4A7C15 % 2**64)))
    joined = np.concatenate(made).view(np.int64) if made else np.empty(0, dtype=np.int64)
    return np.unique(joined, return_counts=True)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser: neighbouring n-grams get unrelated hashes."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


@dataclass(frozen=True)
class Counted:
    """n texts with all that does not depend on other texts: surface features ``[n, S]`` and n-grams of each."""

    surface: Floats
    grams: list[tuple[Hashes, NDArray[np.int64]]]

    @classmethod
    def of(cls, prompts: Sequence[str], texts: Sequence[str]) -> Self:
        """Count texts ``[n]`` that answer ``prompts`` ``[n]``."""
        rows = [list(surface(text, prompt).values()) for prompt, text in zip(prompts, texts, strict=True)]
        table = np.array(rows, dtype=np.float64).reshape(len(rows), len(SURFACE))
        return cls(table, [gram_counts(text) for text in texts])

    def __len__(self) -> int:
        return len(self.grams)

    def take(self, rows: Sequence[int]) -> Self:
        """Some of the texts, by number."""
        return type(self)(self.surface[np.asarray(rows, dtype=np.int64)], [self.grams[i] for i in rows])


@dataclass(frozen=True)
class Read:
    """Features of n texts, fp64: ``surface`` ``[n, S]``, ``grams`` ``[n, V]``, ``topics`` ``[n, D]``."""

    surface: Tensor
    grams: Tensor
    topics: Tensor

    def __len__(self) -> int:
        return self.surface.shape[0]


@dataclass(frozen=True)
class LexicalFeatures:
    """Reads texts on the scale of those that a reward model was fitted on."""

    surface_mean: Tensor
    surface_std: Tensor
    vocabulary: Tensor
    """``[V]`` sorted hashes of n-grams, int64."""
    idf: Tensor
    gram_mean: Tensor
    gram_scale: Tensor
    """``[2]``: what centred rows are divided by, and the norm at which a row is cut."""
    projection: Tensor
    """``[V, D]`` from rows of unit length to topics."""
    topic_mean: Tensor
    topic_std: Tensor

    @classmethod
    def fit(cls, texts: Counted, tasks: Sequence[int], topic_rows: int) -> Self:
        """Learn vocabulary, means and topics from n texts (the topics from the first ``topic_rows``)."""
        raw = torch.from_numpy(texts.surface)
        vocabulary = _vocabulary([hashes for hashes, _ in texts.grams], tasks)
        found = _weights(texts.grams, vocabulary)
        idf = ((1 + len(texts)) / (1 + (found > 0).sum(0).double())).log() + 1
        weighted = found * idf
        mean = weighted.mean(0)
        norms = (weighted - mean).norm(dim=1)
        scale = norms.square().mean().sqrt().clamp(min=1e-9)
        limit = torch.quantile(norms / scale, 0.99).clamp(min=1e-9)
        projection = _projection(_unit(weighted[:topic_rows]))
        topics = _unit(weighted) @ projection
        return cls(
            surface_mean=raw.mean(0),
            surface_std=_deviation(raw),
            vocabulary=torch.from_numpy(vocabulary),
            idf=idf,
            gram_mean=mean,
            gram_scale=torch.stack([scale, limit]),
            projection=projection,
            topic_mean=topics.mean(0),
            topic_std=_deviation(topics),
        )

    def read(self, texts: Counted) -> Read:
        """Features of n texts; each row depends on its own text alone."""
        flat = (torch.from_numpy(texts.surface) - self.surface_mean) / self.surface_std
        weighted = _weights(texts.grams, self.vocabulary.numpy()) * self.idf
        centred = (weighted - self.gram_mean) / self.gram_scale[0]
        # a text that holds more n-grams than 99 % of those judged is paid for no more of them
        centred = centred * (self.gram_scale[1] / centred.norm(dim=1, keepdim=True).clamp(min=1e-9)).clamp(max=1)
        topics = (_unit(weighted) @ self.projection - self.topic_mean) / self.topic_std
        return Read(flat.clamp(-BOUND, BOUND), centred, topics.clamp(-BOUND, BOUND))

    def tensors(self) -> dict[str, Tensor]:
        """Everything, by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


def cut(text: str) -> bool:
    """Whether a text is longer than what is read of it."""
    return len(text) > MOST_CHARACTERS


def _vocabulary(hashes: Sequence[Hashes], tasks: Sequence[int]) -> Hashes:
    """The n-grams of enough tasks, at most ``MOST_GRAMS`` (those of the most tasks), sorted."""
    by_task: dict[int, list[Hashes]] = {}
    for row, task in zip(hashes, tasks, strict=True):
        by_task.setdefault(task, []).append(row)
    every = np.concatenate([np.unique(np.concatenate(rows)) for rows in by_task.values()])
    found, count = np.unique(every, return_counts=True)
    enough = count >= min(MIN_TASKS, max(1, len(by_task) // 2))
    found, count = found[enough], count[enough]
    return np.sort(found[np.argsort(-count, kind="stable")[:MOST_GRAMS]])


def _weights(counted: Sequence[tuple[Hashes, NDArray[np.int64]]], vocabulary: Hashes) -> Tensor:
    """1 + ln(count) of each n-gram of the vocabulary, 0 where it is absent, ``[n, V]``."""
    made = np.zeros((len(counted), len(vocabulary)))
    for row, (hashes, count) in zip(made, counted, strict=True):
        _, at, mine = np.intersect1d(vocabulary, hashes, assume_unique=True, return_indices=True)
        row[at] = 1 + np.log(count[mine])
    return torch.from_numpy(made)


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-9)


def _projection(rows: Tensor) -> Tensor:
    """The first right singular vectors of ``rows`` ``[n, V]``, as ``[V, D]``."""
    values, vectors = torch.linalg.eigh(rows @ rows.T)
    kept = (values > 1e-6 * values[-1:].clamp(min=1e-6)).nonzero().squeeze(1)[-MOST_TOPICS:]
    return rows.T @ (vectors[:, kept] / values[kept].sqrt())


def _deviation(rows: Tensor) -> Tensor:
    """Deviations per column; infinite, so that the feature is 0 for every text, where nothing was seen to vary."""
    std = rows.std(0, correction=0)
    return torch.where(std > 1e-9, std, torch.full_like(std, math.inf))
