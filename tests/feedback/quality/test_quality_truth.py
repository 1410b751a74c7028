"""Dawid-Skene against an EM written out in dictionaries and loops, and against the truth it was made from."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import numpy as np
import pytest

from tropism.errors import ContractError, DataError
from tropism.feedback.quality.truth import entropy, fit_truth


def votes(seed: int, items: int = 120, people: int = 7, classes: int = 3, each: int = 4) -> tuple[Any, ...]:
    """Truth, accuracies, and votes of ``each`` people per item."""
    random = np.random.default_rng(seed)
    truth = random.choice(classes, items, p=np.arange(1, classes + 1) / np.arange(1, classes + 1).sum())
    accuracy = np.linspace(0.35, 0.95, people)
    item = np.repeat(np.arange(items), each)
    annotator = np.concatenate([random.permutation(people)[:each] for _ in range(items)])
    wrong = (truth[item] + random.integers(1, classes, len(item))) % classes
    said = np.where(random.random(len(item)) < accuracy[annotator], truth[item], wrong)
    return truth, accuracy, item, annotator, said


def em_by_loops(item: Any, annotator: Any, said: Any, classes: int, account: str, steps: int) -> float:
    """The log-likelihood after ``steps`` steps from the shares of votes: Dawid and Skene's equations, one by one."""
    by_item: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for i, k, s in zip(item.tolist(), annotator.tolist(), said.tolist(), strict=True):
        by_item[i].append((k, s))
    belief = {i: [sum(s == c for _, s in row) / len(row) for c in range(classes)] for i, row in by_item.items()}
    people = sorted(set(annotator.tolist()))
    found = 0.0
    for _ in range(steps):
        prior = [math.fsum(belief[i][c] for i in belief) / len(belief) for c in range(classes)]
        counts = {k: [[0.0] * classes for _ in range(classes)] for k in people}
        for i, row in by_item.items():
            for k, s in row:
                for c in range(classes):
                    counts[k][c][s] += belief[i][c]
        chance = {}
        right = {k: sum(counts[k][c][c] for c in range(classes)) for k in people}
        every = {k: sum(map(sum, counts[k])) for k in people}
        for k in people:
            p = sum(right.values()) / sum(every.values()) if account == "shared" else right[k] / every[k]
            for c in range(classes):
                for s in range(classes):
                    if account == "full":
                        chance[k, c, s] = counts[k][c][s] / sum(counts[k][c])
                    else:
                        chance[k, c, s] = p if c == s else (1 - p) / (classes - 1)
        found = 0.0
        for i, row in by_item.items():
            joint = [prior[c] * math.prod(chance[k, c, s] for k, s in row) for c in range(classes)]
            belief[i] = [x / sum(joint) for x in joint]
            found += math.log(sum(joint))
    return found


@pytest.mark.parametrize("account", ["full", "one-coin", "shared"])
@pytest.mark.parametrize("seed", [0, 1])
def test_converged_log_likelihood_is_that_of_the_equations(account: Any, seed: int) -> None:
    _, _, item, annotator, said = votes(seed)
    found = fit_truth(item, annotator, said, 3, account=account, tolerance=1e-12)
    assert found.log_likelihood == pytest.approx(em_by_loops(item, annotator, said, 3, account, 1500), abs=1e-6)


@pytest.mark.parametrize("account", ["full", "one-coin"])
def test_the_truth_and_the_annotators_are_found(account: Any) -> None:
    truth, accuracy, item, annotator, said = votes(2, items=1500)
    found = fit_truth(item, annotator, said, 3, account=account)
    majority = np.stack([np.bincount(item, said == c) for c in range(3)], 1).argmax(1)
    right = float((found.posterior.argmax(1) == truth).mean())
    assert right > float((majority == truth).mean()) + 0.03
    diagonal = found.confusion[:, np.arange(3), np.arange(3)] @ found.prior
    np.testing.assert_allclose(diagonal, accuracy, atol=0.06)


def test_predicted_votes_are_calibrated() -> None:
    _, _, item, annotator, said = votes(3, items=1500)
    held = np.arange(len(item)) % 4 == 3
    found = fit_truth(item[~held], annotator[~held], said[~held], 3, account="one-coin")
    chance = found.predict(item[held], annotator[held])
    np.testing.assert_allclose(chance.sum(1), 1)
    sure = chance.max(1) > 0.7
    right = chance.argmax(1) == said[held]
    assert right[sure].mean() == pytest.approx(chance.max(1)[sure].mean(), abs=0.05)


def test_an_item_and_an_annotator_without_votes() -> None:
    found = fit_truth(np.array([0, 0, 2]), np.array([0, 1, 1]), np.array([0, 0, 1]), 2, smoothing=1.0, annotators=4)
    assert found.confusion.shape == (4, 2, 2)
    np.testing.assert_allclose(found.confusion[3], 0.5)
    np.testing.assert_allclose(found.posterior[1], found.prior)
    np.testing.assert_allclose(entropy(np.array([[0.5, 0.5], [1.0, 0.0]])), [math.log(2), 0.0])


def test_smoothing_keeps_three_votes_from_certainty() -> None:
    item, annotator, said = np.array([0, 1, 2]), np.array([0, 0, 0]), np.array([0, 0, 1])
    sure = fit_truth(item, annotator, said, 2, account="one-coin").confusion[0, 0, 0]
    smoothed = fit_truth(item, annotator, said, 2, account="one-coin", smoothing=1.0).confusion[0, 0, 0]
    assert sure == pytest.approx(1.0)
    assert 0.6 < smoothed < 0.9


def test_unusable_votes_are_errors() -> None:
    one = np.array([0])
    with pytest.raises(DataError, match="class 5 of 3"):
        fit_truth(one, one, np.array([5]), 3)
    with pytest.raises(DataError, match="0 votes"):
        fit_truth(one[:0], one[:0], one[:0], 3)
    _, _, item, annotator, said = votes(0)
    with pytest.raises(ContractError, match="after 2 steps"):
        fit_truth(item, annotator, said, 3, steps=2)
