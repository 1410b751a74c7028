"""Repeats, cycles, gold questions and times: cases done by hand, and chance."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta

from tropism.errors import DataError
from tropism.feedback.quality.estimates import share
from tropism.feedback.quality.reliability import cycles, gold_accuracy, retest, time_outliers
from tropism.feedback.quality.simulation import simulate
from tropism.feedback.quality.votes import Votes


def test_repeats_by_hand() -> None:
    who = np.array([0, 0, 0, 0, 1, 1])
    first, second = np.array([0, 1, 2, 0, 0, 1]), np.array([0, 1, 0, 1, 1, 0])
    swapped = np.array([False, True, False, False, True, True])
    found = retest(who, first, second, swapped)
    assert (found.same.value, found.same.n) == (2 / 6, 6)
    assert (found.straight.value, found.swapped.value) == (1 / 3, 1 / 3)
    assert found.flipped_straight.value == pytest.approx(1 / 3)  # a tie that became a preference is no flip
    assert found.flipped_swapped.value == pytest.approx(2 / 3)
    assert {k: e.value for k, e in found.by_annotator.items()} == {0: 0.5, 1: 0.0}


def test_who_judges_the_place_flips_when_places_are_swapped() -> None:
    random = np.random.default_rng(0)
    swapped = random.random(400) < 0.5
    first = random.integers(0, 2, 400)
    second = np.where(swapped, 1 - first, first)  # always the same place
    found = retest(np.zeros(400, np.int64), first, second, swapped)
    assert (found.flipped_straight.value, found.flipped_swapped.value) == (0.0, 1.0)


def test_the_interval_of_a_share() -> None:
    found = share(7, 10)
    assert (found.low, found.high) == pytest.approx(tuple(beta.ppf([0.025, 0.975], 7.5, 3.5)))
    assert share(0, 10).low == 0.0
    assert share(10, 10).high == 1.0
    assert share(0, 0).n == 0
    with pytest.raises(DataError, match="11 hits of 10"):
        share(11, 10)


def tournament(beats: list[tuple[int, int]], n: int) -> Votes:
    a, b = (np.array(side) for side in zip(*beats, strict=True))
    zero = np.zeros(len(a), np.int64)
    names = tuple(str(i) for i in range(n))
    return Votes(names, ("k",), a, b, zero, zero, zero.astype(float), zero.astype(float))


def test_cycles_by_hand() -> None:
    # 0 > 1 > 2 > 0 is the one cycle of the four triples among 0, 1, 2, 3 (3 loses to all); 4 is compared once
    found = cycles(tournament([(0, 1), (1, 2), (2, 0), (0, 3), (1, 3), (2, 3), (4, 0)], 5))
    assert (found.triples, found.cyclic, found.share) == (4, 1, 0.25)
    order = [(i, j) for i in range(6) for j in range(i + 1, 6)]
    assert (cycles(tournament(order, 6)).cyclic, cycles(tournament(order, 6)).triples) == (0, 20)


def test_the_majority_of_a_pair_counts_and_a_split_pair_does_not() -> None:
    split = cycles(tournament([(0, 1), (1, 0), (1, 2), (2, 0)], 3))
    assert split.triples == 0
    assert np.isnan(split.share)
    won = cycles(tournament([(0, 1), (1, 0), (0, 1), (1, 2), (2, 0)], 3))
    assert (won.triples, won.cyclic) == (1, 1)


def test_coin_flips_are_inside_chance_and_good_annotators_below() -> None:
    flips = cycles(simulate(0, 3000, 25, ("random",)).votes)
    assert flips.chance_low <= flips.share <= flips.chance_high
    assert flips.chance_low < 0.25 < flips.chance_high
    ordered = cycles(simulate(0, 3000, 25, ("good",)).votes)
    assert ordered.share < ordered.chance_low


def test_gold_by_annotator() -> None:
    found = gold_accuracy(np.array([0, 0, 0, 2]), np.array([True, True, False, True]))
    assert found[0].value == pytest.approx(2 / 3)
    assert set(found) == {0, 2}
    assert found[2].low < 0.4 < found[2].high


def test_hasty_and_slow_votes_of_a_person_and_a_kind() -> None:
    random = np.random.default_rng(1)
    seconds = np.exp(random.normal(2.5, 0.4, 300))
    kind = ["comparison"] * 200 + ["rating"] * 100
    seconds[200:] *= 6  # ratings take longer: nothing unusual
    seconds[10], seconds[20] = 0.4, 3600
    who = np.arange(300) % 2
    seconds[50] = np.nan
    found = time_outliers(who, kind, seconds * 1000)
    assert found.hasty[10]
    assert found.slow[20]
    assert found.hasty.sum() + found.slow.sum() <= 5
    assert np.isnan(found.z[50])


def test_a_person_who_is_hasty_throughout() -> None:
    random = np.random.default_rng(2)
    who = np.repeat(np.arange(8), 30)
    seconds = np.exp(random.normal(2.5, 0.4, 240))
    seconds[who == 3] /= 20
    found = time_outliers(who, ["comparison"] * 240, seconds * 1000)
    assert found.person_z[3, "comparison"] < -3.5
    assert all(abs(z) < 3.5 for (k, _), z in found.person_z.items() if k != 3)
    assert not found.hasty[who == 3].all()  # by their own measure they are as always


def test_few_times_tell_nothing() -> None:
    found = time_outliers(np.zeros(5, np.int64), ["label"] * 5, np.array([1.0, 1, 1, 1, 9999]))
    assert np.isnan(found.z).all()
    with pytest.raises(DataError, match="positive times"):
        time_outliers(np.zeros(1, np.int64), ["label"], np.zeros(1))
