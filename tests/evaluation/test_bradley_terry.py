"""Bradley-Terry against choix and against known ratings."""

from __future__ import annotations

import choix
import numpy as np
import pytest
from scipy.special import expit

from tropism.errors import DataError
from tropism.evaluation.bradley_terry import fit_bradley_terry

TRUE = np.array([0.0, 0.5, 1.5, -1.0])


def games(n: int, seed: int = 0) -> list[tuple[int, int, float]]:
    random = np.random.default_rng(seed)
    played = []
    for _ in range(n):
        i, j = random.choice(4, 2, replace=False).tolist()
        played.append((i, j, float(random.random() < expit(TRUE[i] - TRUE[j]))))
    return played


def test_against_choix():
    played = games(400)
    wins = [(i, j) if o == 1 else (j, i) for i, j, o in played]
    ours = fit_bradley_terry(played, 4, prior=0.2, resamples=2).ratings
    theirs = choix.opt_pairwise(4, wins, alpha=0.1, tol=1e-10)  # choix penalises alpha · Σ rating²
    assert ours == pytest.approx(theirs - theirs.mean(), abs=1e-4)
    assert ours.sum() == pytest.approx(0, abs=1e-8)


def test_ratings_and_intervals_find_the_truth():
    found = fit_bradley_terry(games(4000), 4, resamples=200)
    for i in range(4):
        for j in range(i):
            between = found.difference(i, j)
            assert between.low - 0.1 < TRUE[i] - TRUE[j] < between.high + 0.1
            assert between.high - between.low < 0.5
    assert found.difference(2, 3).low > 2
    assert fit_bradley_terry(games(200), 4, resamples=50).difference(2, 3).high > found.difference(2, 3).high


def test_a_tie_is_half_a_win_each():
    tied = fit_bradley_terry([(0, 1, 0.5)] * 10, 2, resamples=2).ratings
    assert tied == pytest.approx([0, 0])
    a = fit_bradley_terry([(0, 1, 1.0), (0, 1, 0.5)], 2, prior=1e-6, resamples=2).ratings
    assert expit(a[0] - a[1]) == pytest.approx(0.75, abs=1e-4)


def test_an_unbeaten_item_stays_finite_and_an_unplayed_one_is_zero():
    found = fit_bradley_terry([(0, 1, 1.0)] * 50, 3, resamples=20)
    assert np.isfinite(found.ratings).all()
    assert found.ratings[0] > 3
    assert found.ratings[2] == pytest.approx(0)


def test_clusters_widen_the_interval():
    played = [g for g in games(150) for _ in range(8)]
    labels = np.repeat(np.arange(150), 8)
    naive, clustered = fit_bradley_terry(played, 4), fit_bradley_terry(played, 4, clusters=labels)
    widths = [f.difference(2, 3).high - f.difference(2, 3).low for f in (naive, clustered)]
    assert widths[1] / widths[0] == pytest.approx(np.sqrt(8), rel=0.35)


def test_unusable_outcomes_are_named():
    for bad in ((0, 0, 1.0), (0, 7, 1.0), (0, 1, 2.0), (-1, 1, 0.0)):
        with pytest.raises(DataError, match=str(bad[1])):
            fit_bradley_terry([(0, 1, 1.0), bad], 3)
    with pytest.raises(DataError, match="none"):
        fit_bradley_terry([], 3)
