"""Over-optimisation is found where it happens, and nowhere else."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tropism.errors import DataError
from tropism.monitoring.overoptimisation import detect


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


def test_unmeasured_steps_are_refused():
    kl, proxy, gold = run("falls")
    gold[3] = np.nan
    with pytest.raises(DataError, match="NaN"):
        detect(kl, proxy, gold)
