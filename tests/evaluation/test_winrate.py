"""Win rates: ties, intervals, and what holding length equal does and does not take away."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.special import expit

from tropism.errors import DataError
from tropism.evaluation.winrate import length_controlled_win_rate, outcomes, win_rate


def test_ties_count_half():
    assert outcomes([1, 2, 3], [1, 1, 4]).tolist() == [0.5, 1, 0]
    assert win_rate([1, 2, 3, 3], [1, 1, 4, 0]).value == pytest.approx(2.5 / 4)
    assert win_rate([1.0] * 9, [1.0] * 9).value == 0.5


def test_win_rate_is_symmetric():
    a, b = np.random.default_rng(0).normal(0, 1, (2, 200)).round(1)
    ours, theirs = win_rate(a, b), win_rate(b, a)
    assert ours.value + theirs.value == pytest.approx(1)
    assert ours.low == pytest.approx(1 - theirs.high)


def duel(n: int, skill: float, length_effect: float, seed: int = 0):
    """Policy a writes 10 tokens more on average; the judge likes skill and length."""
    random = np.random.default_rng(seed)
    a_lengths, b_lengths = random.integers(20, 60, n), random.integers(10, 50, n)
    delta = a_lengths - b_lengths
    x = np.tanh(delta / np.sqrt((delta**2.0).mean()))
    outcome = (random.random(n) < expit(skill + length_effect * x)).astype(float)
    return outcome, a_lengths, b_lengths, x


def test_a_win_by_length_alone_is_taken_away():
    outcome, a, b, _ = duel(3000, 0.0, 3.0)
    assert outcome.mean() > 0.6
    controlled = length_controlled_win_rate(outcome, a, b, resamples=300)
    assert controlled.low < 0.5 < controlled.high
    assert controlled.high - controlled.low < 0.1


def test_a_win_by_skill_stays():
    outcome, a, b, _ = duel(3000, 1.0, 0.0)
    controlled = length_controlled_win_rate(outcome, a, b, resamples=300)
    assert controlled.low < expit(1.0) < controlled.high


def test_against_statsmodels():
    outcome, a, b, x = duel(2000, 0.4, 1.0, 2)
    fitted = sm.Logit(outcome, sm.add_constant(x)).fit(disp=0)
    ours = length_controlled_win_rate(outcome, a, b, resamples=200)
    assert ours.value == pytest.approx(expit(fitted.params[0]), abs=1e-3)  # the weak prior is all that differs
    low, high = expit(fitted.conf_int()[0])
    assert (ours.low, ours.high) == pytest.approx((low, high), abs=0.015)


def test_equal_lengths_leave_the_raw_win_rate():
    outcome = np.array([1.0] * 70 + [0.0] * 30)
    same = np.full(100, 12)
    controlled, raw = length_controlled_win_rate(outcome, same, same), win_rate(outcome, np.full(100, 0.5))
    assert controlled.value == pytest.approx(raw.value, abs=0.005)
    assert (controlled.low, controlled.high) == pytest.approx((raw.low, raw.high), abs=0.015)


def test_separable_outcomes_stay_finite():
    lengths = np.arange(1, 41)
    for outcome in (np.ones(40), (lengths > 20).astype(float)):
        found = length_controlled_win_rate(outcome, lengths, np.full(40, 20))
        assert 0 < found.low <= found.value <= found.high <= 1


def test_unusable_input_is_named():
    with pytest.raises(DataError, match="same prompts"):
        win_rate([1.0, 2.0], [1.0])
    with pytest.raises(DataError, match="NaN"):
        win_rate([1.0], [float("nan")])
    with pytest.raises(DataError, match=r"outside \[0, 1\]"):
        length_controlled_win_rate([2.0], [1], [1])
    with pytest.raises(DataError, match="lengths"):
        length_controlled_win_rate([1.0], [1, 2], [1, 2])
