"""Real people's votes (UKPConvArg1, five a pair): fitted on three, the other two are predicted better than by shares.

The corpus is not part of the project: ``TROPISM_DATA`` names its folder (``../shared/data`` beside the repository by
default); without it these tests are skipped. Six topics here, all of them in ``benchmarks/annotators.py``.
"""

from __future__ import annotations

import csv
import gzip
import json
import lzma
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tropism.feedback.quality.agreement import krippendorff_alpha
from tropism.feedback.quality.joint_fit import fit_jointly
from tropism.feedback.quality.truth import fit_truth
from tropism.feedback.quality.votes import Votes
from tropism.runtime.seeding import uniform

DATA = Path(os.environ.get("TROPISM_DATA", Path(__file__).resolve().parents[3].parent / "shared" / "data"))
CORPUS = DATA / "ukp_convarg1"
CHOICES = {"a1": 0, "a2": 1, "equal": 2}


@pytest.fixture(scope="module")
def cast() -> Votes:
    """The votes on six topics; arguments are always shown in the order of the row."""
    if not CORPUS.exists():
        pytest.skip(f"there is no {CORPUS}")
    with gzip.open(CORPUS / "arguments.jsonl.gz", "rt") as file:
        texts = {row["id"]: row["text"] for row in map(json.loads, file)}
    with lzma.open(CORPUS / "judgements.csv.xz", "rt", newline="") as file:
        rows = list(csv.DictReader(file))
    kept = set(sorted({row["topic"] for row in rows})[:6])
    items: dict[str, int] = {}
    people: dict[str, int] = {}
    table: list[tuple[float, ...]] = []
    for row in rows:
        if row["topic"] in kept:
            a, b = (items.setdefault(row[name], len(items)) for name in ("arg1", "arg2"))
            longer = np.log(len(texts[row["arg1"]]) / len(texts[row["arg2"]]))
            table.append((a, b, people.setdefault(row["worker"], len(people)), CHOICES[row["value"]], longer))
    whole = np.array(table)
    a, b, who, choice = whole[:, :4].astype(np.int64).T
    return Votes(tuple(items), tuple(people), a, b, who, choice, np.ones(len(a)), whole[:, 4])


def split(cast: Votes, seed: int) -> tuple[Any, Any]:
    """Each vote's pair, and whether it is among three of its pair, drawn at random."""
    _, pair = np.unique(cast.a * len(cast.items) + cast.b, return_inverse=True)
    order = np.lexsort((uniform(seed, np.arange(len(cast)), 0), pair))
    starts = np.flatnonzero(np.diff(pair[order], prepend=-1))
    place = np.empty(len(cast), np.int64)
    place[order] = np.arange(len(cast)) - np.repeat(starts, np.diff(np.append(starts, len(cast))))
    return pair, place < 3


def score(chance: Any, said: Any) -> tuple[float, float]:
    return float((chance.argmax(1) == said).mean()), float(-np.log(chance[np.arange(len(said)), said]).mean())


@pytest.mark.parametrize("seed", [0, 1])
def test_votes_held_out_are_predicted_better_than_by_trusting_everybody_alike(cast: Votes, seed: int) -> None:
    pair, fitted = split(cast, seed)
    known, held = cast.take(fitted), cast.take(~fitted)
    people = len(cast.annotators)
    truth = fit_truth(pair[fitted], known.annotator, known.choice, 3, account="shared", annotators=people)
    accuracy, nats = score(truth.predict(pair[~fitted], held.annotator), held.choice)
    taken_for_votes = score(truth.posterior[pair[~fitted]], held.choice)
    assert taken_for_votes[1] > 1.2  # a posterior of the truth is no distribution of votes
    ours = score(fit_jointly(known).predict(held), held.choice)
    assert ours[0] > accuracy + 0.03
    assert ours[1] < nats - 0.06


def test_longer_arguments_convince_and_the_place_shown_does_not(cast: Votes) -> None:
    fit = fit_jointly(cast)
    assert fit.linked
    assert fit.marginal
    assert fit.common_length[0] > 10 * fit.common_length[1]
    assert abs(fit.common_position[0]) < 0.1
    assert fit.reliability > 0.9


def test_single_votes_agree_a_little(cast: Votes) -> None:
    pair, _ = split(cast, 0)
    table = np.full((int(pair.max()) + 1, len(cast.annotators)), np.nan)
    table[pair, cast.annotator] = cast.choice
    found = krippendorff_alpha(table, "nominal", draws=100)
    assert 0.1 < found.low < found.value < found.high < 0.4
