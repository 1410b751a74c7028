"""Scores over tasks and seeds: by hand, and against what scipy trims."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import trim_mean

from tropism.errors import DataError
from tropism.evaluation.aggregate import interquartile_mean, stratified


def test_by_hand() -> None:
    assert interquartile_mean(np.array([0.0, 1.0, 3.0, 100.0])) == 2.0
    assert interquartile_mean(np.array([5.0])) == 5.0
    # of six, a quarter is one and a half: half of the second and of the fifth, all of the two between
    assert interquartile_mean(np.array([9.0, 1.0, 2.0, 3.0, 4.0, 0.0])) == pytest.approx(
        (0.5 * 1 + 2 + 3 + 0.5 * 4) / 3
    )


def test_against_a_trimmed_mean() -> None:
    x = np.random.default_rng(0).normal(size=40)
    assert interquartile_mean(x) == pytest.approx(trim_mean(x, 0.25))


def test_seeds_are_drawn_within_tasks() -> None:
    # without spread inside the tasks nothing is uncertain, however far apart the tasks are
    found = stratified([[0.0, 0.0], [10.0, 10.0]], np.mean)
    assert (found.value, found.low, found.high) == (5.0, 5.0, 5.0)
    wide = stratified([[0.0, 1.0, 2.0], [10.0, 12.0, 14.0]])
    assert wide.low < wide.value < wide.high
    assert wide == stratified([[0.0, 1.0, 2.0], [10.0, 12.0, 14.0]])


def test_what_cannot_be_aggregated() -> None:
    with pytest.raises(DataError, match="task 1"):
        stratified([[1.0], []])
    with pytest.raises(DataError, match="task 0"):
        stratified([[float("nan")]])
