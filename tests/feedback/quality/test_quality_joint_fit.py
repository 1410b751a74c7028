"""The joint fit: derivatives, the truth of simulated annotators, other fits it must equal, and its invariances."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from scipy.integrate import quad
from scipy.stats import norm

from tropism.errors import ContractError, DataError
from tropism.evaluation.bradley_terry import fit_bradley_terry
from tropism.feedback.quality.joint_fit import JointSettings, fit_jointly
from tropism.feedback.quality.joint_likelihood import JointLikelihood, Prior, Spreads, prior_penalty
from tropism.feedback.quality.kinds import kinds_of
from tropism.feedback.quality.pair_likelihood import PairLikelihood
from tropism.feedback.quality.simulation import TWENTY, simulate
from tropism.feedback.quality.uncertainty import marginal_errors
from tropism.feedback.quality.votes import TIE, Votes


@pytest.mark.parametrize("tie", [None, -0.5])
@pytest.mark.parametrize("likelihood", [JointLikelihood, PairLikelihood])
def test_gradient_and_curvature_are_those_of_differences(
    likelihood: type[JointLikelihood] | type[PairLikelihood], tie: float | None
) -> None:
    cast = simulate(0, 120, 6, ("good",) * 4, tie=tie).votes
    model = likelihood(cast, position=True, length=True)
    random = np.random.default_rng(0)
    at, step = random.normal(0, 0.6, model.blocks.size), 1e-5
    prior = Prior(0.9, *random.uniform(0.3, 1.2, (4, 4)))
    near = step * np.eye(len(at))
    by_value = [(model.objective(at + e, prior)[0] - model.objective(at - e, prior)[0]) / (2 * step) for e in near]
    np.testing.assert_allclose(model.objective(at, prior)[1], by_value, atol=1e-6)
    by_slope = [(model.objective(at + e, prior)[1] - model.objective(at - e, prior)[1]) / (2 * step) for e in near]
    hessian = model.hessian(at, prior).toarray()
    np.testing.assert_allclose(hessian, by_slope, atol=1e-6)
    if isinstance(model, JointLikelihood):
        np.testing.assert_allclose(np.diag(hessian), model.diagonal(at, prior), atol=1e-9)


def test_the_likelihood_of_a_pair_is_its_integral() -> None:
    cast = simulate(3, 3, 2, ("good",) * 3, per_pair=3).votes
    model = PairLikelihood(cast, position=True, length=False)
    at = np.array([1.1, 0.6, -0.4, 0.3, -0.2, 0.5, 0.1, np.log(1.4)])
    nothing = Prior(1.0, *np.full((4, 3), 1e9))
    away = prior_penalty(model.blocks, at, nothing)[0]

    def density(gap: float) -> float:
        delta = at[:3][cast.annotator] * gap + at[3:6][cast.annotator] * cast.first
        chance = 1 / (1 + np.exp(-np.where(cast.choice == 0, delta, -delta)))
        return float(norm.pdf(gap, 0, 1.4) * chance.prod())

    assert model.objective(at, nothing)[0] - away == pytest.approx(-np.log(quad(density, -12, 12)[0]), abs=1e-4)


@pytest.mark.parametrize("tie", [None, -0.5])
def test_kinds_are_found_where_every_candidate_has_three_votes(tie: float | None) -> None:
    made = simulate(0, 4500, kinds=TWENTY[::2], per_pair=3, tie=tie)
    fit = fit_jointly(made.votes)
    assert not fit.linked
    assert fit.marginal
    found = kinds_of(fit)
    assert sum(a == b for a, b in zip(found, made.kinds, strict=True)) >= 9
    assert all(said == "good" for truth, said in zip(made.kinds, found, strict=True) if truth == "good")
    scale = np.median(made.skill[made.skill > 0])
    for term, truth in ((fit.position, made.position), (fit.skill, made.skill / scale)):
        assert 0.5 < np.sqrt(np.mean(((term.value - truth) / term.error) ** 2)) < 1.6
    gaps = fit.utility.value[::2] - fit.utility.value[1::2]
    assert np.corrcoef(gaps, made.utility[::2] - made.utility[1::2])[0, 1] > 0.6


def test_one_maximum_of_all_runs_away_where_candidates_have_few_votes() -> None:
    cast = simulate(0, 1800, kinds=("good",) * 6, per_pair=3).votes
    apart, together = (fit_jointly(cast, JointSettings(linked=linked)) for linked in (False, True))
    assert 0.6 < apart.spreads.utility < 1.8  # 1.2 is the truth
    assert together.spreads.utility < 0.5
    assert set(kinds_of(apart)) == {"good"}


def test_one_vote_a_pair_tells_of_places_and_not_of_skill() -> None:
    made = simulate(1, 1500, kinds=("good", "good", "position-biased"), per_pair=1, position=2.0)
    fit = fit_jointly(made.votes)
    assert kinds_of(fit) == ["unclear", "unclear", "position-biased"]


@pytest.mark.parametrize(("seed", "tie"), [(0, None), (1, -0.5)])
def test_every_kind_of_annotator_and_the_ranking_are_found(seed: int, tie: float | None) -> None:
    made = simulate(seed, tie=tie)
    fit = fit_jointly(made.votes)
    assert np.corrcoef(fit.utility.value, made.utility)[0, 1] >= 0.97
    found = kinds_of(fit)
    assert sum(a == b for a, b in zip(found, made.kinds, strict=True)) >= 18
    for truth, said in zip(made.kinds, found, strict=True):
        assert truth != "good" or said == "good"  # nobody good is suspected
        assert said != "inverted" or truth == "inverted"


def test_standard_errors_are_the_size_of_the_errors() -> None:
    away = []
    for seed in range(6):
        made = simulate(seed, tie=-0.5)
        fit = fit_jointly(made.votes)
        scale = np.median(made.skill[made.skill > 0])
        away.append((fit.position.value - made.position) / fit.position.error)
        away.append((fit.skill.value - made.skill / scale) / fit.skill.error)
    for z in (np.concatenate(away[::2]), np.concatenate(away[1::2])):
        assert 0.75 < np.sqrt(np.mean(z**2)) < 1.3


@pytest.mark.parametrize("crowd", [False, True])
def test_errors_are_those_of_the_whole_inverse(crowd: bool) -> None:
    """Of pairs that share no item, and of more annotators than items."""
    made = simulate(1, 500, 60 if not crowd else 6, ("good",) * (4 if not crowd else 40), tie=-0.5).votes
    cast = made if crowd else replace(made, a=made.a // 2 * 2, b=made.a // 2 * 2 + 1)
    fit = fit_jointly(cast, JointSettings(rounds=0, linked=True))
    assert fit.marginal
    prior = Prior.alike(Spreads(), len(cast.annotators))
    whole = np.sqrt(np.diag(np.linalg.inv(fit.model.hessian(fit.vector, prior).toarray())))
    blocks = fit.model.blocks
    np.testing.assert_allclose(fit.position.error, whole[blocks.position][:-1], rtol=1e-8)
    np.testing.assert_allclose(fit.common_tie[1], whole[blocks.tie][-1], rtol=1e-8)
    scale = fit.utility_spread / Spreads().utility
    np.testing.assert_allclose(fit.skill.error * scale, whole[blocks.skill], rtol=1e-8)
    np.testing.assert_allclose(fit.utility.error / scale, whole[blocks.utility], rtol=1e-8)


def test_a_curvature_that_is_not_positive_is_refused() -> None:
    wrong = sparse.csc_matrix(np.array([[1.0, 2.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))
    for eliminated in ([True, False, False], [True, True, False], [False, False, True]):
        with pytest.raises(ContractError, match="saddle"):
            marginal_errors(wrong, np.array(eliminated), 10)


def test_without_annotator_terms_it_is_bradley_terry() -> None:
    cast = simulate(3, 600, 10, ("good",) * 5).votes
    plain = JointSettings(position=False, length=False, rounds=0, spreads=Spreads(utility=1.5, skill=1e-6))
    outcome = 1.0 - cast.choice
    games = [(int(a), int(b), float(o)) for a, b, o in zip(cast.a, cast.b, outcome, strict=True)]
    other = fit_bradley_terry(games, 10, prior=1.5**-2, resamples=2).ratings
    np.testing.assert_allclose(fit_jointly(cast, plain).utility.value, other - other.mean(), atol=2e-3)


@pytest.mark.parametrize("per_pair", [0, 3])
def test_the_names_of_the_sides_do_not_matter(per_pair: int) -> None:
    cast = simulate(4, 1500, 15, tie=-0.5, per_pair=per_pair).votes
    turned = replace(
        cast, a=cast.b, b=cast.a, first=-cast.first, length=-cast.length,
        choice=np.where(cast.choice == TIE, TIE, 1 - cast.choice),
    )  # fmt: skip
    one, other = fit_jointly(cast), fit_jointly(turned)
    for name in ("utility", "skill", "position", "length"):
        np.testing.assert_allclose(getattr(one, name).value, getattr(other, name).value, atol=5e-3)


def test_few_votes_swing_nobody() -> None:
    made = simulate(5, 3000, 30, ("good",) * 10)
    few = np.flatnonzero(made.votes.annotator == 0)[:3]
    rest = np.flatnonzero(made.votes.annotator != 0)
    cast = made.votes.take(np.concatenate([few, rest]))
    # the three were all for the place shown first
    choice = cast.choice.copy()
    choice[:3] = np.where(cast.first[:3] > 0, 0, 1)
    fit = fit_jointly(replace(cast, choice=choice))
    assert abs(fit.position.value[0] - fit.common_position[0]) < 0.3
    assert fit.position.error[0] > 1.5 * fit.position.error[1]
    assert fit.counts[0] == 3
    assert kinds_of(fit)[0] in ("unclear", "good")


def test_who_has_few_votes_is_unclear_not_random() -> None:
    made = simulate(6, 4000, 40, ("good",) * 9 + ("random",))
    rows = np.concatenate([np.flatnonzero(made.votes.annotator != 9), np.flatnonzero(made.votes.annotator == 9)[:8]])
    assert kinds_of(fit_jointly(made.votes.take(rows)))[9] == "unclear"


def test_terms_of_which_no_vote_tells_are_not_there() -> None:
    cast = simulate(7, 800, 10, ("good",) * 4).votes
    fit = fit_jointly(replace(cast, first=np.zeros(800), length=np.zeros(800)))
    for term in (fit.position, fit.length, fit.tie):
        assert np.isnan(term.value).all()
    assert np.isnan(fit.common_position).all()
    assert set(kinds_of(fit)) == {"good"}


def test_predictions_are_calibrated_on_votes_it_has_not_seen() -> None:
    cast = simulate(8, 6000, 30, tie=-0.5).votes
    held = np.arange(6000) % 3 == 0
    fit = fit_jointly(cast.take(~held))
    asked = cast.take(held)
    chance = fit.predict(asked)
    np.testing.assert_allclose(chance.sum(1), 1)
    for side in range(3):
        sure = chance[:, side] > np.quantile(chance[:, side], 0.7)
        said = asked.choice[sure] == side
        assert said.mean() == pytest.approx(chance[sure, side].mean(), abs=0.05)
    gain = np.log(chance[np.arange(len(asked)), asked.choice]).mean() - np.log(1 / 3)
    assert gain > 0.2


def test_evidence_gives_the_predictions_again() -> None:
    cast = simulate(12, 2000, 20, tie=-0.5).votes
    fit = fit_jointly(cast)
    found = fit.evidence(cast)
    delta = found.skill * (fit.utility.value[cast.a] - fit.utility.value[cast.b]) + found.pull
    chance = fit.predict(cast)
    np.testing.assert_allclose(np.log(chance[:, 0] / chance[:, 1]), delta, atol=1e-9)
    np.testing.assert_allclose(found.skill_error, fit.skill.error[cast.annotator])
    longest = np.abs(cast.length).argmax()
    assert found.pull_error[longest] > fit.position.error[cast.annotator[longest]]


def test_a_few_good_annotators_among_random_ones_set_the_scale() -> None:
    made = simulate(9, 3000, 20, ("random",) * 7 + ("good",) * 2)
    fit = fit_jointly(made.votes)
    assert fit.scaled
    assert kinds_of(fit).count("good") == 2
    assert fit.skill.value[7:].mean() == pytest.approx(1.0)
    assert np.corrcoef(fit.utility.value, made.utility)[0, 1] > 0.85


@pytest.mark.parametrize("seed", [11, 12, 13])
def test_where_all_answer_at_random_nobody_is_called_good(seed: int) -> None:
    fit = fit_jointly(simulate(seed, 3000, 20, ("random",) * 6).votes)
    assert not fit.scaled
    assert fit.reliability < 0.5
    assert set(kinds_of(fit)) == {"unclear"}  # alike items would look the same
    assert fit_jointly(simulate(seed, 300, 20, ("good",) * 6).votes).reliability > 0.7


def test_large_fits_say_that_their_errors_are_conditional(monkeypatch: pytest.MonkeyPatch) -> None:
    cast = simulate(10, 2000, 20).votes
    whole = fit_jointly(cast)
    monkeypatch.setattr("tropism.feedback.quality.joint_fit.DENSE", 5)
    fit = fit_jointly(cast)
    assert whole.marginal
    assert not fit.marginal
    assert (fit.position.error < whole.position.error).all()
    assert np.corrcoef(fit.utility.value, whole.utility.value)[0, 1] > 0.999


def test_unusable_votes_are_errors() -> None:
    none: Any = np.zeros(0, np.int64)
    with pytest.raises(DataError, match="no votes"):
        fit_jointly(Votes(("x", "y"), ("k",), none, none, none, none, none.astype(float), none.astype(float)))
    one, zero = np.ones(1, np.int64), np.zeros(1, np.int64)
    with pytest.raises(DataError, match="with itself"):
        Votes(("x", "y"), ("k",), one, one, zero, zero, zero.astype(float), zero.astype(float))
    with pytest.raises(DataError, match="choice 7"):
        Votes(("x", "y"), ("k",), zero, one, zero, zero + 7, zero.astype(float), zero.astype(float))
