"""Over-optimisation is found where it happens, and nowhere else."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tropism.errors import DataError
from tropism.monitoring.overoptimisation import detect, fit_gold_curve, gap_table, kl_axis


def run(gold_shape: str, steps: int = 40, noise: float = 0.1, seed: int = 0):
    """KL grows by 0.3 a step and the proxy rises; gold follows, peaks and falls, or stays."""
    random = np.random.default_rng(seed)
    kl = 0.3 * np.arange(steps)
    d = np.sqrt(kl)
    gold = {"follows": 0.5 * d, "falls": 1.5 * d - 0.45 * d**2, "flat": 0 * d}[gold_shape]
    return kl, d + random.normal(0, noise, steps), gold + random.normal(0, noise, steps)


def test_hacking_is_detected_and_dated():
    found = detect(*run("falls"))
    assert found is not None
    assert found.detected
    assert found.gold_change < -0.3
    assert found.proxy_change > 0.5
    assert 1.0 < found.peak_kl < 5.0  # the peak lies at d = 1.67, KL 2.8


@pytest.mark.parametrize("shape", ["follows", "flat"])
def test_false_alarms_are_rare(shape):
    alarms = [detect(*run(shape, seed=seed)) for seed in range(200)]
    assert sum(a.detected for a in alarms if a is not None) <= 4


def test_most_real_falls_are_found():
    found = [detect(*run("falls", noise=0.2, seed=seed)) for seed in range(50)]
    assert sum(f.detected for f in found if f is not None) >= 45


def test_a_change_without_scatter_is_json():
    """A reward function that is 1 for everything, then 0 for everything, has no standard error to divide by."""
    gold = np.repeat([1.0, 0.0], 10)
    found = detect(np.arange(20.0), 1 - gold, gold)
    assert found is not None
    assert found.detected
    assert found.gold_z == -np.inf
    assert found.as_json()["gold_z"] is None
    json.dumps(found.as_json(), allow_nan=False)


def test_both_falling_is_not_over_optimisation():
    kl, proxy, gold = run("falls")
    found = detect(kl, -proxy, gold)
    assert found is not None
    assert not found.detected
    assert found.gold_z < -found.threshold


def test_too_short_a_run_gives_no_verdict():
    kl, proxy, gold = run("falls", steps=15)
    assert detect(kl, proxy, gold) is None
    with pytest.raises(DataError, match="window of 2"):
        detect(kl, proxy, gold, window=2)


def test_gold_curve_is_recovered():
    kl = np.linspace(0.1, 60, 80)
    d = np.sqrt(kl)
    curve = fit_gold_curve(kl, d * (0.8 - 0.4 * np.log(d)))
    assert (curve.alpha, curve.beta) == (pytest.approx(0.8), pytest.approx(0.4))
    assert curve.peak_kl == pytest.approx(np.exp(2))  # d = e^(α/β − 1) = e
    assert kl[np.argmax(curve.at(kl))] == pytest.approx(np.exp(2), abs=0.5)
    assert fit_gold_curve(kl, 0.5 * d + 0.1 * d * np.log(d)).peak_kl is None
    with pytest.raises(DataError, match="at least three"):
        fit_gold_curve([0.0, 1.0, 1.0], [0.0, 1.0, 1.0])


def test_axis_and_table():
    assert kl_axis([-0.1, 0.0, 4.0]).tolist() == [0, 0, 2]
    table = gap_table([0.0, 4.0], [1.0, 3.0], [0.5, 1.0])
    assert table[1] == {"sqrt_kl": 2, "proxy": 2, "gold": 0.5, "gap": 1.5}
    with pytest.raises(DataError, match="NaN"):
        gap_table([0.0, float("nan")], [1.0, 3.0], [0.5, 1.0])
