"""Drift intervals against a simulation, and the clock of phases."""

from __future__ import annotations

import time

import pytest
from statsmodels.stats.proportion import proportion_confint

from tropism.monitoring.drift import accuracy_drift
from tropism.monitoring.phases import PhaseClock, peak_rss_mib
from tropism.reward.share import Share


def share(right: int, n: int) -> Share:
    low, high = proportion_confint(right, n, method="wilson")
    return Share(right / n, low, high, n, n)


def test_newcombes_published_example():
    # Newcombe 1998, Table II, 56/70 against 48/80, method 10: 0.0524 to 0.3339
    found = accuracy_drift(share(56, 70), share(48, 80))
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert found.drifted


def test_a_fall_is_seen_and_noise_is_not():
    assert accuracy_drift(share(120, 200), share(170, 200)).high < 0
    assert not accuracy_drift(share(166, 200), share(170, 200)).drifted
    assert accuracy_drift(share(10, 10), share(10, 10)).high <= 1


def test_clock_separates_wall_from_cpu_and_adds_up():
    clock = PhaseClock()
    for _ in range(2):
        with clock("sleep"):
            time.sleep(0.05)
    with clock("work"):
        end = time.process_time() + 0.05
        while time.process_time() < end:
            pass
    found = clock.metrics()
    assert set(found) == {"time/sleep_s", "cpu/sleep_s", "time/work_s", "cpu/work_s"}
    assert found["time/sleep_s"] >= 0.1
    assert found["cpu/sleep_s"] < 0.05
    assert found["cpu/work_s"] >= 0.05
    assert found["time/work_s"] >= found["cpu/work_s"] * 0.9


def test_clock_counts_a_phase_that_raises():
    clock = PhaseClock()

    def fail() -> None:
        with clock("broken"):
            time.sleep(0.02)
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fail()
    assert clock.metrics()["time/broken_s"] >= 0.02


def test_peak_memory_is_in_mib():
    assert 20 < peak_rss_mib() < 100_000
