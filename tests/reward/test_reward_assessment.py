"""Accuracy, intervals, calibration and baselines against cases with known answers."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from reward_fixtures import candidate, judge, task, utilities_of, world
from scipy.special import expit
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from tropism.errors import RewardError
from tropism.reward.assessment import as_gold_judges, assess, assess_pairs, prefers_longer
from tropism.reward.calibration import calibration_noise, expected_calibration_error, fit_temperature, reliability
from tropism.reward.dataset import RewardData
from tropism.reward.pairs import Pairs, clustered_share, credits, pair_accuracy
from tropism.reward.share import weighted_share


def boltzmann_pairs(n: int, beta: float = 1.0, per_task: int = 1, seed: int = 0) -> tuple[np.ndarray, Pairs]:
    """Scores of 2n candidates and votes drawn from σ(β · gap)."""
    random = np.random.default_rng(seed)
    scores = random.normal(0, 1.5, 2 * n)
    first = np.arange(0, 2 * n, 2)
    votes = (random.random(n) < expit(beta * (scores[first] - scores[first + 1]))).astype(float)
    zeros = np.zeros(n, dtype=np.int64)
    return scores, Pairs(first, first + 1, votes, np.ones(n), np.arange(n) // per_task, zeros)


def test_pairs_of_every_kind():
    one = task(1)
    a, b, c = (candidate(one, text) for text in "abc")
    data = RewardData.from_judgements(
        [
            judge(one, (a, b), "comparison", {"choice": "tie"}),
            judge(one, (a, b, c), "best_of", {"best": "c2"}),
            judge(one, (a, b, c), "ranking", {"rank": [["c3"], ["c1", "c2"]]}),
        ]
    )
    pairs = Pairs.of(data)
    rows = list(zip(pairs.first, pairs.second, pairs.target, pairs.weight, strict=True))
    assert rows[0] == (0, 1, 0.5, 1.0)
    assert rows[1:3] == [(0, 1, 0.0, 0.5), (1, 2, 1.0, 0.5)]  # the two losers say nothing of each other
    assert rows[3:] == [(0, 1, 0.5, 1 / 3), (0, 2, 0.0, 1 / 3), (1, 2, 0.0, 1 / 3)]
    assert pairs.weight.sum() == pytest.approx(3)  # three judgements, three votes
    assert pairs.candidates().tolist() == [0, 1, 2]


def test_pairs_from_utilities():
    pairs = Pairs.from_utilities(np.array([[1.0, 0.0, 1.0], [0.0, 2.0, 1.0]]))
    assert pairs.first.tolist() == [0, 0, 1, 3, 3, 4]
    assert pairs.second.tolist() == [1, 2, 2, 4, 5, 5]
    assert pairs.target.tolist() == [1, 0.5, 0, 0, 0, 1]
    assert pair_accuracy(np.array([5, 1, 5, 0, 2, 1.0]), pairs) == pytest.approx(5.5 / 6)


def test_perfect_and_reversed_scores_on_gold():
    data = RewardData.from_judgements(world("comparison", 80))
    gold = utilities_of(data)
    pairs = as_gold_judges(Pairs.of(data), gold)
    assert pair_accuracy(gold, pairs) == 1
    assert pair_accuracy(-gold, pairs) == 0
    share = clustered_share(credits(gold, pairs), pairs)
    assert share.value == 1
    assert share.high == pytest.approx(1, abs=1e-12)
    assert 0.9 < share.low < 1


def test_interval_is_wilsons_without_clusters_and_wider_with_them():
    scores, pairs = boltzmann_pairs(400)
    credit = credits(scores, pairs)
    plain = clustered_share(credit, pairs)
    p, n, z = credit.mean(), 400 - 1, 1.959964
    centre, half = (
        (p + z * z / (2 * n)) / (1 + z * z / n),
        z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / 4 / n**2),
    )
    assert plain.low == pytest.approx(centre - half, abs=1e-6)
    assert plain.high == pytest.approx(centre + half, abs=1e-6)
    # every vote repeated four times under one task is no new evidence
    rows = np.repeat(np.arange(400), 4)
    repeated = Pairs(*(getattr(pairs, f)[rows] for f in ("first", "second", "target", "weight", "task", "stream")))
    again = clustered_share(credits(scores, repeated), repeated)
    assert (again.low, again.high) == pytest.approx((plain.low, plain.high), abs=1e-9)
    assert (again.pairs, again.tasks) == (1600, 400)


def test_interval_covers_the_truth_with_correlated_votes():
    covered = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        tasks = random.beta(2, 1, 60)  # a share per task; the mean is 2/3
        credit = (random.random((60, 8)) < tasks[:, None]).astype(float).reshape(-1)
        zeros = np.zeros(480, dtype=np.int64)
        pairs = Pairs(zeros, zeros, credit, np.ones(480), np.repeat(np.arange(60), 8), zeros)
        share = clustered_share(credit, pairs)
        covered += share.low <= 2 / 3 <= share.high
    assert 0.91 <= covered / 200 <= 0.985  # independent votes would cover 75 %


@pytest.mark.parametrize("beta", [0.3, 1.0, 4.0])
def test_temperature_is_found_and_mends_calibration(beta):
    scores, pairs = boltzmann_pairs(4000, beta)
    gap = scores[pairs.first] - scores[pairs.second]
    assert fit_temperature(gap, pairs) == pytest.approx(1 / beta, rel=0.1)
    found = assess_pairs(scores, pairs)
    assert found.ece_calibrated is not None
    assert found.ece_calibrated < 0.03
    assert found.log_likelihood_calibrated >= found.log_likelihood - 1e-3
    if beta != 1:
        assert found.ece > 0.05
        assert found.ece_calibrated < found.ece


def test_ece_by_hand():
    # ten pairs at confidence 0.75, of which six are right: |0.6 - 0.75|
    gap = np.full(10, math.log(3))
    zeros = np.zeros(10, dtype=np.int64)
    pairs = Pairs(zeros, zeros, np.array([1.0] * 6 + [0.0] * 4), np.ones(10), np.arange(10), zeros)
    assert expected_calibration_error(reliability(gap, pairs, bins=1)) == pytest.approx(0.15)
    # weights count as votes: the wrong ones doubled
    heavy = Pairs(zeros, zeros, pairs.target, np.array([1.0] * 6 + [2.0] * 4), np.arange(10), zeros)
    assert expected_calibration_error(reliability(gap, heavy, bins=1)) == pytest.approx(0.75 - 6 / 14)


def test_bins_have_equal_mass_and_shares_sum_to_one():
    scores, pairs = boltzmann_pairs(1000)
    points = reliability(scores[pairs.first] - scores[pairs.second], pairs)
    assert [p.share for p in points] == pytest.approx([0.1] * 10)
    assert [p.confidence for p in points] == sorted(p.confidence for p in points)


def test_ece_noise_is_what_a_perfect_model_shows():
    few, many = (
        calibration_noise(s[p.first] - s[p.second], p, 0) for s, p in (boltzmann_pairs(100), boltzmann_pairs(10000))
    )
    assert many < 0.02 < 0.05 < few
    scores, pairs = boltzmann_pairs(100, seed=3)
    found = assess_pairs(scores, pairs)
    assert found.ece == pytest.approx(found.ece_noise, abs=0.06)


def test_assessment_of_a_study_is_whole_and_json():
    data = RewardData.from_judgements(world("comparison", 400))
    gold = utilities_of(data)
    lengths = np.random.default_rng(0).integers(5, 30, len(gold))
    found = assess(gold + np.random.default_rng(1).normal(0, 0.3, len(gold)), data, lengths, "kind", gold)
    assert found.validation is not None
    assert found.gold is not None
    assert found.validation.accuracy.pairs == 100  # train pairs are not assessed
    assert found.gold.accuracy.value > found.validation.accuracy.value > 0.7  # votes are noisy, gold is not
    assert set(found.by_stream) == {"oracle"}
    assert set(found.by_group) == {"odd"}  # validation tasks have odd numbers in this world
    assert found.validation.length_only is not None
    assert 0.35 < found.validation.length_only.value < 0.65
    assert found.validation.over_length_only == found.validation.accuracy.value - found.validation.length_only.value
    json.dumps(found.as_json(), allow_nan=False)


def test_accuracy_without_ties_leaves_them_out():
    utilities = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, 2.0]])
    measured = assess_pairs(np.array([3.0, 1, 2, 5, 0, 1, 1, 0]), Pairs.from_utilities(utilities))
    assert measured.accuracy.value == pytest.approx(0.75)
    assert measured.accuracy_decided is not None
    assert measured.accuracy_decided.value == 1.0
    assert measured.accuracy_decided.pairs == 2


def test_length_direction_is_learned_on_train():
    scores, pairs = boltzmann_pairs(300)
    assert prefers_longer(scores, pairs) is True
    assert prefers_longer(-scores, pairs) is False
    assert prefers_longer(np.zeros(600), pairs) is None
    found = assess_pairs(scores, pairs, -scores, False)
    assert found.length_only == found.accuracy


def test_ratings_and_labels_against_scipy_and_sklearn():
    ratings, labels = (RewardData.from_judgements(world(kind, 200, 1)) for kind in ("rating", "label"))
    noisy = utilities_of(ratings) + np.random.default_rng(0).normal(0, 1, 200)
    found, held_out = assess(noisy, ratings), ratings.fold(False).ratings
    assert found.validation is None
    assert found.ratings["spearman"] == pytest.approx(spearmanr(noisy[held_out.index], held_out.score).statistic)
    assert found.ratings["n"] == 50
    noisy = np.round(utilities_of(labels))  # with equal scores among them
    target, index = labels.fold(False).labels.target.numpy(), labels.fold(False).labels.index.numpy()
    assert assess(noisy, labels).labels["auc"] == pytest.approx(roc_auc_score(target, noisy[index]))


def test_nothing_held_out_is_said_not_invented():
    data = RewardData.from_judgements([j for j in world("comparison", 20) if j.task.split == "train"])
    found = assess(utilities_of(data), data)
    assert found.validation is found.gold is found.ratings is found.labels is None
    assert found.by_stream == {}


def test_unusable_scores_are_named():
    data = RewardData.from_judgements(world("comparison", 20))
    scores = utilities_of(data)
    with pytest.raises(RewardError, match="39"):
        assess(scores[:-1], data)
    scores[7] = math.nan
    with pytest.raises(RewardError, match=data.candidates[7].id):
        assess(scores, data)


def test_a_share_of_one_cluster_has_a_wide_interval() -> None:
    credit = np.array([1.0, 0.0, 1.0, 1.0] * 100)
    one = weighted_share(credit, np.ones(400), np.zeros(400, dtype=np.int64))
    many = weighted_share(credit, np.ones(400), np.arange(400))
    assert one.high - one.low > 0.5
    assert many.high - many.low < 0.1
