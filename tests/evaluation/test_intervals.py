"""Intervals: coverage by simulation, Wilson against statsmodels, pairs and clusters."""

from __future__ import annotations

import math

import numpy as np
import pytest
from statsmodels.stats.proportion import proportion_confint

from tropism.errors import DataError
from tropism.evaluation.intervals import bootstrap_mean, bootstrap_paired, wilson


def test_wilson_against_statsmodels():
    for successes, n in ((0, 10), (3, 10), (10, 10), (812, 1000)):
        ours = wilson(successes, n)
        low, high = proportion_confint(successes, n, method="wilson")
        assert (ours.low, ours.high) == pytest.approx((low, high), abs=1e-12)
    assert wilson(1, 4, level=0.5).high < wilson(1, 4).high


def test_bootstrap_covers_the_mean():
    hits = 0
    for seed in range(200):
        x = np.random.default_rng(seed).exponential(1.0, 60)
        interval = bootstrap_mean(x, seed=seed, resamples=400)
        hits += interval.low <= 1.0 <= interval.high
    assert 0.87 <= hits / 200 <= 0.98  # skewed and small: a little under 95 %


def test_bootstrap_width_is_the_standard_error():
    x = np.random.default_rng(0).normal(3, 2, 2000)
    interval = bootstrap_mean(x)
    assert interval.value == pytest.approx(x.mean())
    assert (interval.high - interval.low) / 2 == pytest.approx(1.96 * x.std() / math.sqrt(2000), rel=0.08)


def test_bootstrap_is_deterministic_and_seeded():
    x = np.arange(50.0) ** 2
    assert bootstrap_mean(x) == bootstrap_mean(x)
    assert bootstrap_mean(x, seed=1) != bootstrap_mean(x, seed=2)


def test_pairing_removes_what_is_common():
    random = np.random.default_rng(0)
    prompt = random.normal(0, 10, 300)  # some prompts are hard for both
    a, b = prompt + 0.5 + random.normal(0, 1, 300), prompt + random.normal(0, 1, 300)
    paired = bootstrap_paired(a, b)
    assert paired.low > 0
    assert paired.high - paired.low < 0.6
    assert bootstrap_mean(a).high - bootstrap_mean(a).low > 2


def test_clusters_are_drawn_whole():
    random = np.random.default_rng(0)
    x = np.repeat(random.normal(0, 1, 40), 25)  # 40 prompts, each measured 25 times the same
    labels = [f"prompt {i}" for i in np.repeat(np.arange(40), 25)]
    clustered, naive = bootstrap_mean(x, clusters=labels), bootstrap_mean(x)
    assert clustered.n == 40
    assert (clustered.high - clustered.low) / (naive.high - naive.low) == pytest.approx(5, rel=0.15)  # √25


def test_unusable_values_are_named():
    with pytest.raises(DataError, match="at position 1"):
        bootstrap_mean([1.0, float("nan")])
    with pytest.raises(DataError, match="at least one"):
        bootstrap_mean([])
    with pytest.raises(DataError, match="pair the same items"):
        bootstrap_paired([1.0, 2.0], [1.0])
    with pytest.raises(DataError, match="5 successes of 3"):
        wilson(5, 3)
    with pytest.raises(DataError, match="cluster labels"):
        bootstrap_mean([1.0, 2.0], clusters=["a"])
