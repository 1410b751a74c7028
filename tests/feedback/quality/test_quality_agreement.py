"""Agreement: known tables, cases done by hand, the definitions as loops, and other people's implementations."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from tropism.errors import DataError
from tropism.feedback.quality.agreement import (
    cohen_kappa,
    fleiss_kappa,
    krippendorff_alpha,
    pairwise_agreement,
    percent_agreement,
)
from tropism.feedback.quality.estimates import bootstrap_weights

N = np.nan
# Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability", example C: 4 observers, 12 units
PUBLISHED = np.array([
    [1, 2, 3, 3, 2, 1, 4, 1, 2, N, N, N],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, N, 3],
    [N, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, N],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, N],
]).T  # fmt: skip


def random_table(seed: int, items: int = 60, annotators: int = 5, classes: int = 4, missing: float = 0.3) -> Any:
    random = np.random.default_rng(seed)
    truth = random.integers(0, classes, items)
    said = np.where(random.random((items, annotators)) < 0.6, truth[:, None], random.integers(0, classes, (items, 1)))
    table = said.astype(np.float64)
    table[random.random(table.shape) < missing] = np.nan
    return table


def alpha_by_loops(table: Any, level: str) -> float:
    """The definition, pair by pair."""
    units = [[x for x in row if not np.isnan(x)] for row in table]
    units = [unit for unit in units if len(unit) > 1]
    every = [x for unit in units for x in unit]
    names = sorted(set(every))

    def cost(c: float, k: float) -> float:
        if level == "nominal":
            return float(c != k)
        if level == "interval":
            return (c - k) ** 2
        low, high = min(c, k), max(c, k)
        between = sum(every.count(g) for g in names if low <= g <= high)
        return (between - (every.count(c) + every.count(k)) / 2) ** 2

    n = len(every)
    observed = sum(cost(a, b) / (len(unit) - 1) for unit in units for a, b in itertools.permutations(unit, 2)) / n
    expected = sum(cost(a, b) for a, b in itertools.permutations(every, 2)) / (n * (n - 1))
    return 1 - observed / expected


@pytest.mark.parametrize(("level", "alpha"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_the_published_example(level: Any, alpha: float) -> None:
    assert krippendorff_alpha(PUBLISHED, level).value == pytest.approx(alpha, abs=5e-4)


def test_alpha_of_three_items_by_hand() -> None:
    # six answers, three of each: 2 of 6 pairs disagree; by chance 2 * 3 * 3 of 6 * 5
    table = np.array([[1.0, 1], [1, 2], [2, 2]])
    assert krippendorff_alpha(table, "nominal").value == pytest.approx(1 - (2 / 6) / (18 / 30))


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_alpha_is_its_definition(level: Any, seed: int) -> None:
    table = random_table(seed) ** 1.5
    assert krippendorff_alpha(table, level).value == pytest.approx(alpha_by_loops(table, level), abs=1e-10)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_alpha_agrees_with_nltk(seed: int) -> None:
    agreement = pytest.importorskip("nltk.metrics.agreement")
    distance = pytest.importorskip("nltk.metrics.distance")
    table = random_table(seed, missing=0.2)
    said = [(str(k), str(i), table[i, k]) for i, k in np.argwhere(~np.isnan(table))]
    for level, apart in (("nominal", distance.binary_distance), ("interval", distance.interval_distance)):
        theirs = agreement.AnnotationTask(data=said, distance=apart).alpha()
        assert krippendorff_alpha(table, level).value == pytest.approx(theirs, abs=1e-6)


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
def test_each_bootstrap_draw_is_alpha_of_the_items_drawn(level: Any) -> None:
    table = random_table(3, items=25)
    kept = table[(~np.isnan(table)).sum(1) >= 2]
    drawn = [
        alpha_by_loops(np.repeat(kept, times.astype(int), 0), level) for times in bootstrap_weights(len(kept), 40, 7)
    ]
    found = krippendorff_alpha(table, level, draws=40, seed=7)
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-9), pytest.approx(high, abs=1e-9))
    assert found.n == len(kept)


def test_more_items_narrow_the_interval() -> None:
    few, many = (krippendorff_alpha(random_table(4, items=n), "nominal") for n in (40, 640))
    assert many.low < many.value < many.high
    assert (many.high - many.low) < 0.4 * (few.high - few.low)


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
def test_alpha_of_answers_that_are_all_alike_is_not_defined(level: Any) -> None:
    assert np.isnan(krippendorff_alpha(np.full((5, 3), 0.1), level).value)


def test_alpha_without_a_second_answer_is_an_error() -> None:
    with pytest.raises(DataError, match="two people"):
        krippendorff_alpha(np.array([[1, N], [N, 2]]), "nominal")


def test_cohen_by_hand() -> None:
    # 3 of 4 agree; by chance ¾·½ + ¼·½ = ½
    assert cohen_kappa(np.array([0.0, 0, 0, 1]), np.array([0.0, 0, 1, 1])) == pytest.approx(0.5)


@pytest.mark.parametrize("weights", ["none", "linear", "quadratic"])
def test_cohen_agrees_with_statsmodels(weights: Any) -> None:
    theirs = pytest.importorskip("statsmodels.stats.inter_rater")
    first, second = random_table(5, missing=0)[:, :2].T
    joint = np.zeros((4, 4))
    np.add.at(joint, (first.astype(int), second.astype(int)), 1)
    expected = theirs.cohens_kappa(joint, wt=None if weights == "none" else weights, return_results=False)
    assert cohen_kappa(first, second, weights) == pytest.approx(expected, abs=1e-6)


def test_fleiss_agrees_with_statsmodels() -> None:
    theirs = pytest.importorskip("statsmodels.stats.inter_rater")
    table = random_table(6, missing=0)
    counts = np.stack([(table == c).sum(1) for c in range(4)], 1)
    assert fleiss_kappa(table) == pytest.approx(theirs.fleiss_kappa(counts), abs=1e-6)


def test_fleiss_wants_one_number_of_answers() -> None:
    with pytest.raises(DataError, match="1 to 2 answers"):
        fleiss_kappa(np.array([[1.0, 2], [1, N]]))


def test_percent_and_pairwise_agreement_by_hand() -> None:
    table = np.array([[1.0, 1, 2], [3, 3, N], [1, 2, N]])
    assert percent_agreement(table) == pytest.approx((1 / 3 + 1 + 0) / 3)
    share, shared = pairwise_agreement(table)
    np.testing.assert_array_equal(shared, [[3, 3, 1], [3, 3, 1], [1, 1, 1]])
    np.testing.assert_allclose(share, [[1, 2 / 3, 0], [2 / 3, 1, 0], [0, 0, 1]])


def test_who_shares_no_item_has_no_agreement() -> None:
    share, shared = pairwise_agreement(np.array([[1.0, N], [N, 1.0]]))
    assert shared[0, 1] == 0
    assert np.isnan(share[0, 1])
