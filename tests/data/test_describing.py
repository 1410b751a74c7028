"""A source in numbers: agreement between annotators against statsmodels and by hand, lengths, counts."""

from __future__ import annotations

import numpy as np
import pytest
from record_cases import CHAT, pair, ranking, single
from statsmodels.stats.inter_rater import aggregate_raters, fleiss_kappa

from tropism.data.describing import describe
from tropism.data.records import Record


def votes(table: list[str], swap: bool = False) -> list[Record]:
    """One pair for each word; its letters are the choices of as many annotators. ``swap``: every other one saw the
    pair the other way round, and chose the same text."""
    other = {"a": "b", "b": "a", "t": "t"}
    made = []
    for i, row in enumerate(table):
        for j, letter in enumerate(row):
            turned = swap and j % 2
            said = {"a": "a", "b": "b", "t": "tie"}[other[letter] if turned else letter]
            texts = ("y", "x") if turned else ("x", "y")
            made.append(pair(f"p{i}", *texts, choice=said, teacher=f"t{j}"))
    return made


TABLE = ["aab", "abb", "ttt", "aaa", "bbt", "tab", "bbb", "aat"]


def test_agreement_is_that_of_the_literature() -> None:
    found = describe(votes(TABLE)).agreement()
    assert found is not None
    # the sides of a pair are categories in the order of the texts' digests: fixed, but not those of the letters
    counts, _ = aggregate_raters(np.array([list(row) for row in TABLE]))
    pairs = sum((row * (row - 1)).sum() for row in counts)
    assert found.share == pytest.approx(pairs / (len(TABLE) * 6))
    kappa = fleiss_kappa(counts)
    n = counts.sum()
    # Krippendorff's alpha is Fleiss' kappa corrected for a finite sample, where every item has as many answers
    assert found.alpha == pytest.approx(1 - (1 - kappa) * (n - 1) / n)
    assert (found.items, found.annotators) == (8, 3)


def test_agreement_does_not_hang_on_who_saw_which_side() -> None:
    assert describe(votes(TABLE, swap=True)).agreement() == describe(votes(TABLE)).agreement()


def test_agreement_of_all_and_of_nobody() -> None:
    every = describe(votes(["aa", "aa"])).agreement()
    assert every is not None
    assert every.share == 1
    assert describe(votes(["a", "b"])).agreement() is None
    assert describe([pair("p"), pair("p", choice="b")]).agreement() is None  # nobody is named


def test_rankings_agree_by_pairs_and_labels_by_name() -> None:
    rows = [
        ranking("p", ["x", "y", "z"], [["c1"], ["c2"], ["c3"]], teacher="Ada"),
        ranking("p", ["z", "y", "x"], [["c3"], ["c1", "c2"]], teacher="Bob"),
        single("q", "x", {"kind": "label", "name": "safe", "good": True}, teacher="Ada"),
        single("q", "x", {"kind": "label", "name": "safe", "good": False}, teacher="Bob"),
        single("q", "x", {"kind": "label", "name": "good", "good": False}, teacher="Bob"),
    ]
    found = describe(rows).agreement()
    assert found is not None
    assert found.items == 4  # three pairs of the ranking, one label
    assert found.share == pytest.approx(2 / 4)


def test_counts_and_lengths() -> None:
    rows = [pair("ab", "x", "yy", teacher="Ada", text="why", split="test", group="g"), pair("ab", "x", "zzz"),
            Record(CHAT), Record("p", ({"ref": "A"}, {"ref": "B"}), candidate_kind="reference")]  # fmt: skip
    made = describe(rows)
    assert made.records == 4
    assert made.kinds == {"comparison": 2, "prompt": 2}
    assert (len(made.prompts), len(made.answers), made.chats, made.nameless) == (3, 5, 1, 3)
    assert made.quartiles()["answer"] == [1, 1, 1, 2, 2, 3]
    assert made.quartiles()["text"] == [3] * 6
    assert (made.splits, made.groups) == ({"none": 3, "test": 1}, {"g": 1})
