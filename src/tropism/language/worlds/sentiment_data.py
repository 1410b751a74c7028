"""The people's text and labels behind the sentiment world, read straight from two zip files.

``movie_reviews`` holds 2,000 whole reviews with a label each (Pang & Lee 2004), ``sentence_polarity`` 10,662 sentences
of other reviews with a label each (Pang & Lee 2005); both are lower-cased, tokenised, CC BY 4.0. Splits are per review
and sentence, drawn from a hash of the text: no file order and no seed moves a text from one split to another.

Left out: the ``subjectivity`` corpus (its labels are no judgement of quality) and any cleaning beyond white space.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tropism.digests import digest
from tropism.errors import DataError
from tropism.feedback.records import Split

ARCHIVES = ("movie_reviews.zip", "sentence_polarity.zip")
SOURCE = "https://github.com/nltk/nltk_data (packages/corpora), CC BY 4.0"


@dataclass(frozen=True)
class Labelled:
    """One text with the label its author's stars (reviews) or the critics' site (sentences) gave it."""

    text: str
    positive: bool
    split: Split


@dataclass(frozen=True)
class SentimentCorpus:
    """Both corpora, de-duplicated, in file order. ``digest`` addresses their content."""

    reviews: tuple[Labelled, ...]
    sentences: tuple[Labelled, ...]
    digest: str

    def reviews_of(self, split: Split) -> list[Labelled]:
        """The whole reviews of a split."""
        return [r for r in self.reviews if r.split == split]

    def sentences_of(self, split: Split) -> list[Labelled]:
        """The labelled sentences of a split."""
        return [s for s in self.sentences if s.split == split]


def split_of(text: str) -> Split:
    """80 % train, 8 % validation, 12 % test, by a hash of the text."""
    share = int(digest(text)[:8], 16) / 0x1_0000_0000
    return "test" if share < 0.12 else "validation" if share < 0.20 else "train"


def read_corpus(data: Path) -> SentimentCorpus:
    """Read both zips from ``data``, ``data/sentiment`` or ``data/data/sentiment``.

    DataError if the folder or a zip is missing, is no zip, or lacks the files it should hold.
    """
    folder = _find(data)
    reviews = list(_labelled(_reviews(folder / ARCHIVES[0])))
    sentences = list(_labelled(_sentences(folder / ARCHIVES[1])))
    key = [[t.text, t.positive] for t in (*reviews, *sentences)]
    return SentimentCorpus(tuple(reviews), tuple(sentences), digest(key))


def _find(data: Path) -> Path:
    fix = f"put {' and '.join(ARCHIVES)} there ({SOURCE}), or set world.data to the folder that holds them"
    if not data.is_dir():
        raise DataError(f"the sentiment data folder {data} does not exist", fix)
    for folder in (data, data / "sentiment", data / "data" / "sentiment"):
        present = [name for name in ARCHIVES if (folder / name).is_file()]
        if len(present) == len(ARCHIVES):
            return folder
        if present:
            missing = next(name for name in ARCHIVES if name not in present)
            raise DataError(f"{folder / missing} does not exist", fix)
    raise DataError(f"neither {data} nor {data / 'sentiment'} holds {ARCHIVES[0]}", fix)


def _open(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{path} cannot be read as a zip file ({error})", f"get it again from {SOURCE}") from error


def _reviews(path: Path) -> Iterator[tuple[str, bool]]:
    with _open(path) as archive:
        names = sorted(n for n in archive.namelist() if n.endswith(".txt") and Path(n).parent.name in ("pos", "neg"))
        if not names:
            raise DataError(f"{path} holds no pos/*.txt or neg/*.txt", f"get movie_reviews.zip from {SOURCE}")
        for name in names:
            yield archive.read(name).decode("latin-1"), Path(name).parent.name == "pos"


def _sentences(path: Path) -> Iterator[tuple[str, bool]]:
    with _open(path) as archive:
        for label in ("neg", "pos"):
            name = f"sentence_polarity/rt-polarity.{label}"
            if name not in archive.namelist():
                raise DataError(f"{path} holds no {name}", f"get sentence_polarity.zip from {SOURCE}")
            for line in archive.read(name).decode("latin-1").split("\n"):
                yield line, label == "pos"


def _labelled(rows: Iterator[tuple[str, bool]]) -> Iterator[Labelled]:
    """Normalise white space, drop empty texts, and drop texts that occur twice (with either label)."""
    seen: set[str] = set()
    for raw, positive in rows:
        text = " ".join(raw.split())
        if text and text not in seen:
            seen.add(text)
            yield Labelled(text, positive, split_of(text))
