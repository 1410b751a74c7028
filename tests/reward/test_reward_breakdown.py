"""By annotator, by length, against majorities, on rankings of K, and for models that were not fitted here."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from reward_fixtures import candidate, judge, task, utilities_of, world

from tropism.errors import RewardError
from tropism.feedback.records import Judgement, Task
from tropism.reward.assessment import assess, assess_scores
from tropism.reward.breakdown import OTHERS, against_majority, by_length, by_teacher
from tropism.reward.dataset import RewardData
from tropism.reward.kway import Row, assess_rows, rank_agreement, rows_of, top_credit
from tropism.reward.pairs import Pairs


def pairs_of(rows: list[tuple[float, float]]) -> Pairs:
    """Pairs (2i, 2i + 1) with (target, weight), each of a task of its own."""
    count = np.arange(len(rows))
    target, weight = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    return Pairs(2 * count, 2 * count + 1, target, weight, count, np.zeros_like(count))


def several_teachers(tasks: int = 30) -> tuple[list[Judgement], np.ndarray]:
    """An honest annotator, one who always says the opposite, one who judged three pairs; and the honest scores."""
    votes = []
    for number in range(tasks):
        about = task(number, "validation")
        pair = tuple(candidate(about, f"{number}/{i}") for i in range(2))
        better = "ab"[number % 2]
        votes.append(judge(about, pair, "comparison", {"choice": better}, "honest"))
        votes.append(judge(about, pair, "comparison", {"choice": "ba"[number % 2]}, "contrary"))
        if number < 3:
            votes.append(judge(about, pair, "comparison", {"choice": better}, "rare"))
    data = RewardData.from_judgements(votes)
    named = [str(c.content["text"]).split("/") for c in data.candidates]
    return votes, np.array([float(int(number) % 2 == int(slot)) for number, slot in named])


def test_every_annotator_is_measured_on_the_own_votes() -> None:
    """Merged into soft targets, these votes would say ½ of everything."""
    votes, scores = several_teachers()
    data = RewardData.from_judgements(votes)
    found = assess(scores, data, judgements=votes)
    assert found.validation is not None
    assert found.validation.accuracy.value == pytest.approx((30 + 3) / 63)
    assert {name: (share.value, share.pairs) for name, share in found.by_teacher.items()} == {
        "contrary": (0.0, 30), "honest": (1.0, 30), OTHERS: (1.0, 3),
    }  # fmt: skip
    assert by_teacher(scores, data, [v for v in votes if v.teacher_id == "honest"]) == {}


def test_votes_on_train_tasks_are_not_held_out_for_annotators_either() -> None:
    votes, scores = several_teachers()
    few = {v.task.id for v in votes[:20]}
    trained = [replace(v, task=Task("train", v.task.payload, v.task.id)) if v.task.id in few else v for v in votes]
    data = RewardData.from_judgements(trained)
    found = assess(scores, data, judgements=trained).by_teacher
    assert found["honest"].pairs < 30
    assert sum(s.pairs for s in found.values()) == sum(v.task.split == "validation" for v in trained)


def test_a_model_of_length_alone_is_right_where_the_longer_one_was_chosen() -> None:
    random = np.random.default_rng(0)
    lengths = random.integers(1, 100, 400).astype(float)
    pairs = pairs_of([(float(random.random() < 0.5), 1.0) for _ in range(200)])
    found = by_length(lengths, pairs, lengths)
    assert found.shorter_chosen is not None
    assert found.longer_chosen is not None
    assert (found.shorter_chosen.value, found.longer_chosen.value) == (0.0, 1.0)
    assert found.shorter_chosen.pairs + found.longer_chosen.pairs == 200 - int((lengths[::2] == lengths[1::2]).sum())
    assert [b.low for b in found.quartiles] == sorted(b.low for b in found.quartiles)
    assert sum(b.accuracy.pairs for b in found.quartiles) == 200
    assert all(45 <= b.accuracy.pairs <= 55 for b in found.quartiles)
    for one, two in zip(found.quartiles, found.quartiles[1:], strict=False):
        assert one.high < two.low


def test_equal_lengths_are_one_bin_and_choose_neither_side() -> None:
    found = by_length(np.array([1.0, 0, 0, 1]), pairs_of([(1.0, 1.0), (1.0, 1.0)]), np.ones(4))
    assert [(b.low, b.high, b.accuracy.value) for b in found.quartiles] == [(0.0, 0.0, 0.5)]
    assert found.shorter_chosen is None
    assert found.longer_chosen is None


def test_majorities_count_every_pair_once() -> None:
    """Gaps of log 3, so that σ = ¾: right on 4:1, wrong on 2:3, right on 5:0; the tie is left out."""
    pairs = pairs_of([(0.8, 5), (0.4, 5), (1.0, 1), (0.5, 2)])
    scores = np.array([math.log(3), 0] * 4)
    found = against_majority(scores, pairs)
    assert found is not None
    assert found.accuracy.value == pytest.approx(2 / 3)
    assert found.accuracy.pairs == 3
    assert found.log_likelihood == pytest.approx((2 * math.log(0.75) + math.log(0.25)) / 3)
    assert found.split == pytest.approx(2 / 3)
    assert against_majority(scores, pairs_of([(1.0, 5), (0.0, 1), (0.5, 2)])) is None


def ranked(tiers: list[int], **over: object) -> Row:
    count = len(tiers)
    return replace(Row(np.arange(count), np.array(tiers), 1.0, 0, True), **over)  # type: ignore[arg-type]


def test_the_top_by_hand() -> None:
    scores = np.array([3.0, 1.0, 2.0, 3.0])
    assert top_credit(scores, ranked([0, 1, 2])) == 1
    assert top_credit(scores, ranked([1, 0, 2])) == 0
    assert top_credit(scores, ranked([0, 1, 2, 3])) == 0.5  # two share the highest score, one of them is best
    assert top_credit(scores, ranked([0, 1, 2, 0])) == 1


@pytest.mark.parametrize("seed", range(5))
def test_tau_against_counted_pairs(seed: int) -> None:
    """tau-b: (concordant − discordant) / √(pairs untied in scores · pairs untied in ranks)."""
    random = np.random.default_rng(seed)
    tiers, scores = random.integers(0, 4, 6), random.integers(0, 4, 6).astype(float)
    tiers[0], tiers[1], scores[0], scores[1] = 0, 3, 0, 3
    signs = [(np.sign(scores[i] - scores[j]), np.sign(tiers[j] - tiers[i])) for i, j in combinations(range(6), 2)]
    by_score, by_rank = (sum(s[side] != 0 for s in signs) for side in (0, 1))
    expected = sum(a * b for a, b in signs) / math.sqrt(by_score * by_rank)
    assert rank_agreement(scores, ranked(tiers.tolist())) == pytest.approx(expected)
    assert rank_agreement(np.ones(6), ranked(tiers.tolist())) == 0
    assert math.isnan(rank_agreement(scores, ranked([2] * 6)))


def test_rows_come_from_rankings_and_choices_of_more_than_two() -> None:
    one = task(1, "validation")
    a, b, c = (candidate(one, text) for text in "abc")
    data = RewardData.from_judgements(
        [
            judge(one, (a, b), "comparison", {"choice": "a"}),
            judge(one, (a, b, c), "best_of", {"best": "c2"}),
            judge(one, (a, b, c), "ranking", {"rank": [["c3"], ["c1"]]}),
        ]
    )
    rows = [(row.index.tolist(), row.tiers.tolist(), row.ordered) for row in rows_of(data)]
    assert rows == [([0, 2], [1, 0], True), ([0, 1, 2], [1, 0, 1], False)]


def test_rankings_beside_chance_and_length() -> None:
    data = RewardData.from_judgements(world("ranking", 200, 4))
    utilities = utilities_of(data)
    random = np.random.default_rng(0).normal(size=len(utilities))
    lengths = np.random.default_rng(1).integers(5, 30, len(utilities))
    good, guess = (assess(s, data, lengths).rankings for s in (utilities, random))
    assert good is not None
    assert guess is not None
    assert (good.rows, good.sizes, good.clusters, good.top1_chance) == (50, {"4": 50}, 50, 0.25)
    assert good.tau is not None
    assert guess.tau is not None
    assert good.tau_over_length_only is not None
    assert good.top1_over_length_only is not None
    assert good.top1_over_chance.low > 0.1
    assert good.tau.low > 0.3
    assert min(good.tau_over_length_only.low, good.top1_over_length_only.low) > 0.1
    assert guess.top1_over_chance.low < 0 < guess.top1_over_chance.high
    assert guess.tau.low < 0 < guess.tau.high
    assert good.top1_over_chance.value == pytest.approx(good.top1.value - 0.25)


def test_the_interval_counts_clusters_and_not_rows() -> None:
    """Every row twenty times under one cluster is no new evidence; without clusters it is the usual interval."""
    values = np.random.default_rng(0).random(60) < 0.6
    rows = [ranked([0, 1] if right else [1, 0], task=i) for i, right in enumerate(values)]
    scores = np.array([1.0, 0.0])
    alone = assess_rows(scores, rows, np.arange(60), None, None, 0)
    many = assess_rows(scores, [row for row in rows for _ in range(20)], np.arange(60), None, None, 0)
    assert alone is not None
    assert many is not None
    share = values.mean()
    half = 1.96 * math.sqrt(share * (1 - share) / 60)
    assert alone.top1.value == pytest.approx(share)
    assert (alone.top1.high - alone.top1.low) / 2 == pytest.approx(half, rel=0.1)
    assert (many.top1.low, many.top1.high) == pytest.approx((alone.top1.low, alone.top1.high))
    assert alone.top1_length_only is None
    assert assess_rows(scores, [], np.arange(60), None, None, 0) is None


def test_clusters_may_be_wider_than_tasks() -> None:
    votes = [replace(v, task=replace(v.task, payload={**v.task.payload, "group": f"g{n % 8}"}, id="")) for n, v in
             enumerate(world("comparison", 160))]  # fmt: skip
    data = RewardData.from_judgements(votes)
    scores = utilities_of(data)
    by_task, by_group = (assess(scores, data, cluster_by=c).validation for c in (None, "group"))
    assert by_task is not None
    assert by_group is not None
    assert (by_task.accuracy.tasks, by_group.accuracy.tasks) == (40, 2)
    assert by_task.accuracy.value == by_group.accuracy.value


def test_scores_of_a_model_that_was_not_fitted_here() -> None:
    """Whatever split the judgements are of; the baseline's direction is said, not learned."""
    votes = world("comparison", 60) + world("ranking", 30, 3, 1)
    votes = [replace(v, task=Task("test", v.task.payload, v.task.id)) if n % 3 else v for n, v in enumerate(votes)]
    table = {c.id: float(np.dot(c.content["features"], [1, -1, 0.5, 0, 2, 0])) for v in votes for c in v.candidates}
    lengths = {name: 5 + n % 7 for n, name in enumerate(table)}
    found = assess_scores(table, votes, lengths, "kind", rows_cut=2)
    assert found.validation is not None
    assert found.validation.accuracy.pairs == 60 + 30 * 3
    assert found.validation.accuracy.low > 0.6
    assert found.prefers_longer is True
    assert found.data["rows_cut"] == 2
    assert found.rankings is not None
    assert set(found.by_group) == {"even", "odd"}
    shorter = assess_scores(table, votes, lengths, longer=False).validation
    assert shorter is not None
    assert shorter.length_only is not None
    assert found.validation.length_only is not None
    assert shorter.length_only.value == pytest.approx(1 - found.validation.length_only.value)
    json.dumps(found.as_json(), allow_nan=False)
    missing = votes[0].candidates[0].id
    with pytest.raises(RewardError, match=f"{missing} has no score"):
        assess_scores({k: v for k, v in table.items() if k != missing}, votes)
