"""The planner against brute force, what a vote is worth, and adaptive overlap against numerical integrals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import binom, binomtest, norm

from tropism.errors import DataError
from tropism.feedback.quality.joint_fit import Evidence, Term, fit_jointly
from tropism.feedback.quality.overlap import OverlapRules, decide, expected_difference, votes_wanted, wanted
from tropism.feedback.quality.planner import exact_power, plan, worth
from tropism.feedback.quality.simulation import simulate
from tropism.feedback.quality.votes import VotesRead


@pytest.mark.parametrize(("n", "rate"), [(5, 0.7), (20, 0.6), (21, 0.6), (150, 0.62)])
def test_exact_power_by_brute_force(n: int, rate: float) -> None:
    rejected = [k for k in range(n + 1) if binomtest(k, n, 0.5).pvalue <= 0.05]
    assert exact_power(n, rate) == pytest.approx(sum(binom.pmf(k, n, rate) for k in rejected), abs=1e-12)


@pytest.mark.parametrize(("difference", "power"), [(0.05, 0.8), (0.1, 0.8), (0.1, 0.95), (0.3, 0.9)])
def test_the_plan_has_its_power_and_few_votes_less_have_not(difference: float, power: float) -> None:
    found = plan(difference, power=power)
    assert found.votes == found.queries
    assert found.power >= power
    rate = 0.5 + difference
    textbook = (norm.ppf(0.975) / 2 + norm.ppf(power) * math.sqrt(rate * (1 - rate))) ** 2 / difference**2
    assert textbook <= found.votes <= 1.1 * textbook + 12
    assert all(exact_power(n, rate) >= power for n in range(found.votes, found.votes + 40))
    assert min(exact_power(n, rate) for n in range(found.votes - 4, found.votes)) < power


def test_less_skill_and_more_overlap_cost_votes() -> None:
    base = plan(0.1)
    poor = plan(0.1, skill=0.5)
    assert poor.votes > 3.5 * base.votes  # information goes with skill²
    assert poor.rate == pytest.approx(1 / (1 + math.sqrt(0.4 / 0.6)))
    thrice = plan(0.1, overlap=3, alike=0.5)
    assert thrice.queries == math.ceil(base.votes * 2 / 3)
    assert thrice.votes == 3 * thrice.queries
    assert plan(0.1, overlap=3, alike=1.0).queries == base.queries  # copies tell nothing new


@pytest.mark.parametrize(
    "wrong", [{"difference": 0.5}, {"difference": 0}, {"power": 1.0}, {"skill": 0}, {"skill": 1e-300}, {"overlap": 0}]
)
def test_impossible_plans_are_errors(wrong: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        plan(**{"difference": 0.1, **wrong})


def test_a_vote_is_worth_its_skill_squared() -> None:
    skill = Term(np.array([1.0, 0.5, 0.0, -1.0]), np.array([0.0, 0.1, 0.2, 0.0]))
    found = worth(skill, np.array([100, 100, 100, 50]), 0.2)
    np.testing.assert_allclose(found.effective, [100, 24, 0, 50])
    assert found.cost_per_effective == pytest.approx(0.2 * 350 / 174)
    assert worth(Term(np.zeros(1), np.zeros(1)), np.array([5]), 1.0).cost_per_effective == math.inf


def test_worth_of_simulated_annotators_is_near_the_truth() -> None:
    shares = []
    for seed in range(6):
        made = simulate(seed)
        fit = fit_jointly(made.votes)
        truth = (fit.counts * (made.skill / np.median(made.skill[made.skill > 0])) ** 2).sum()
        shares.append(worth(fit.skill, fit.counts, 1.0).total / truth)
    assert np.mean(shares) == pytest.approx(1.0, abs=0.15)


def integral(votes: list[tuple[int, float, float]], mean: float, spread: float, tie: float, doubt: float) -> float:
    """P(δ > 0) by adaptive quadrature; skills and pulls have the standard error ``doubt``, each vote on its own."""

    def chance(choice: int, delta: float) -> float:
        weights = [math.exp(delta / 2), math.exp(-delta / 2), math.exp(tie)]
        return weights[choice] / sum(weights)

    def density(d: float) -> float:
        total = norm.pdf(d, mean, spread)
        for choice, skill, pull in votes:
            wide = doubt * math.hypot(d, 1.0)
            points = [(-1.0, 1 / 6), (0.0, 2 / 3), (1.0, 1 / 6)]
            total *= sum(w * chance(choice, skill * d + pull + x * math.sqrt(3) * wide) for x, w in points)
        return float(total)

    low, high = mean - 9 * spread, mean + 9 * spread
    return float(quad(density, 0, high, limit=200)[0] / quad(density, low, high, limit=200, points=[0.0, mean])[0])


def known(skill: Any, pull: Any, doubt: float = 0.0) -> Evidence:
    """Annotators of these terms, all with one standard error."""
    skill, pull = np.asarray(skill, np.float64), np.asarray(pull, np.float64)
    return Evidence(skill, np.full_like(skill, doubt), pull, np.full_like(pull, doubt))


def state(votes: list[tuple[int, float, float]], rules: OverlapRules, mean: float = 0.0, doubt: float = 0.0) -> Any:
    choice, skill, pull = (np.array([v[i] for v in votes]) for i in range(3))
    zero = np.zeros(len(votes), np.int64)
    return decide(1, zero, choice.astype(np.int64), known(skill, pull, doubt), rules, np.array([mean]))


@pytest.mark.parametrize("doubt", [0.0, 0.5])
@pytest.mark.parametrize(
    ("votes", "mean"),
    [
        ([(0, 1.0, 0.0)], 0.0),
        ([(0, 1.0, 0.0), (1, 0.6, 0.8), (0, 1.3, -0.4)], 0.0),
        ([(2, 1.0, 0.2), (1, -0.9, 0.0)], 0.9),
        ([(1, 0.0, 1.0)], -1.4),
    ],
)
def test_the_posterior_is_its_integral(votes: list[tuple[int, float, float]], mean: float, doubt: float) -> None:
    rules = OverlapRules(tie=-0.7, spread=1.3)
    found = state(votes, rules, mean, doubt)
    assert found.a_better[0] == pytest.approx(integral(votes, mean, 1.3, -0.7, doubt), abs=2e-3)
    assert found.error[0] == pytest.approx(min(found.a_better[0], 1 - found.a_better[0]))


def test_the_vote_of_somebody_unknown_settles_less() -> None:
    rules = OverlapRules()
    sure, unsure = (state([(0, 1.0, 0.0)], rules, doubt=doubt).error[0] for doubt in (0.0, 1.0))
    assert sure < unsure < 0.5


def test_an_inverted_annotators_vote_counts_the_other_way() -> None:
    rules = OverlapRules()
    assert state([(0, -1.0, 0.0)], rules).a_better[0] == pytest.approx(state([(1, 1.0, 0.0)], rules).a_better[0])
    assert state([(0, 0.0, 0.0)], rules).a_better[0] == pytest.approx(0.5)


def test_a_vote_against_the_reward_model_asks_for_another() -> None:
    rules = OverlapRules(error=0.15, most=4)
    query, choice, sure = np.array([0, 1]), np.array([0, 1]), known(np.ones(2), np.zeros(2))
    prior = expected_difference(np.array([0.9, 0.9]))
    found = decide(2, query, choice, sure, rules, prior)
    np.testing.assert_array_equal(wanted(found, rules), [1, 2])  # the first agrees with the model, the second does not
    ignored = decide(2, query, choice, sure, rules, expected_difference(np.array([0.9, 0.9]), trust=0.0))
    assert ignored.error[0] == pytest.approx(ignored.error[1])


def test_least_and_most_hold() -> None:
    rules = OverlapRules(error=0.01, least=2, most=3)
    query = np.repeat(np.arange(4), [0, 1, 3, 4])
    choice = np.array([0, 0, 1, 0, 1, 0, 1, 0])
    found = decide(4, query, choice, known(np.ones(8), np.zeros(8)), rules)
    np.testing.assert_array_equal(wanted(found, rules), [2, 2, 3, 4])
    easy = OverlapRules(error=0.4, least=1, most=3)
    np.testing.assert_array_equal(
        wanted(decide(4, query, choice, known(np.ones(8), np.zeros(8)), easy), easy), [1, 1, 3, 4]
    )


def test_rules_of_a_fit_have_its_spread_and_ties() -> None:
    made = simulate(2, tie=-0.5)
    rules = OverlapRules.of(fit_jointly(made.votes), error=0.2)
    assert rules.error == 0.2
    truth = 1.2 * math.sqrt(2) * float(np.median(made.skill[made.skill > 0]))
    assert rules.spread == pytest.approx(truth, rel=0.2)
    assert rules.tie == pytest.approx(-0.5, abs=0.15)
    assert OverlapRules.of(fit_jointly(simulate(2).votes)).tie == -np.inf


def test_disputed_queries_get_votes_and_agreed_ones_do_not() -> None:
    made = simulate(3, 1200, kinds=("good",) * 6, per_pair=2)
    votes = made.votes
    queries = tuple(f"q{a // 2}" for a in votes.a)
    read = VotesRead(votes, tuple(str(i) for i in range(len(votes))), queries, {})
    found = votes_wanted(read, error=0.2, most=3)
    assert set(found.values()) == {2, 3}
    split = {queries[i] for i in range(0, len(votes), 2) if votes.choice[i] != votes.choice[i + 1]}
    assert sum(found[id] == 3 for id in split) > 0.95 * len(split)
    agreed = [found[id] for id in found if id not in split]
    assert agreed.count(2) > 0.6 * len(agreed)
    # where the model says the same as both votes, fewer are asked for; where it says the opposite, more
    says = {id: 0.9 if votes.choice[2 * i] == 0 else 0.1 for i, id in enumerate(found)}
    against = {id: 1 - p for id, p in says.items()}
    counts = [sum(votes_wanted(read, a_wins=a, error=0.2, most=3).values()) for a in (says, None, against)]
    assert counts[0] < counts[1] < counts[2]


def test_unusable_rules_and_votes_are_errors() -> None:
    for wrong in ({"error": 0.5}, {"least": 4, "most": 2}, {"spread": 0.0}):
        with pytest.raises(DataError):
            OverlapRules(**wrong)
    with pytest.raises(DataError, match="tie"):
        state([(2, 1.0, 0.0)], OverlapRules())
    with pytest.raises(DataError, match="trust"):
        expected_difference(np.array([0.5]), trust=2.0)
