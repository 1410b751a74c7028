"""Drift intervals against a simulation, and the clock of phases."""

from __future__ import annotations

import time

import pytest
from statsmodels.stats.proportion import proportion_confint

from tropism.monitoring.drift import accuracy_drift
from tropism.monitoring.phases import PhaseClock, peak_rss_mib, phase_costs, together
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


def test_phases_are_summed_over_steps_and_set_beside_their_floor() -> None:
    table = {
        "time/rollout_s": [(0, 2.0), (1, 3.0)], "cpu/rollout_s": [(0, 4.0), (1, 5.0)],
        "time/optimise_s": [(0, 10.0), (1, float("nan"))], "cpu/optimise_s": [(0, 18.0), (1, 3.0)],
        "time/reward_s": [(0, 0.5), (1, 0.5)], "cpu/reward_s": [(0, 0.0), (1, 0.0)],
        "tokens/prompt": [(0, 100.0), (1, 100.0)], "tokens/completion": [(0, 60.0), (1, 40.0)],
        "tokens/optimise": [(0, 700.0), (1, 300.0)],
        "work/rollout_gflop": [(0, 30.0), (1, 30.0)], "work/rollout_decode_gflop": [(0, 20.0), (1, 20.0)],
        "work/optimise_gflop": [(0, 300.0), (1, 120.0)], "work/reward_gflop": [(0, 0.0), (1, 0.0)],
        "kl/old": [(0, 1.0)],
    }  # fmt: skip
    optimise, rollout, reward = phase_costs(table)
    assert (optimise.phase, rollout.phase, reward.phase) == ("optimise", "rollout", "reward")
    assert (rollout.wall_s, rollout.cpu_s, rollout.share) == (5.0, 9.0, 0.3)
    assert (optimise.wall_s, optimise.cpu_s) == (10.0, 21.0)
    assert (rollout.tokens_per_s, optimise.tokens_per_s, reward.tokens_per_s) == (20.0, 100.0, 300.0)
    assert (rollout.gflop_per_cpu_s, optimise.gflop_per_cpu_s) == (60 / 9, 20.0)
    assert rollout.floor_cpu_s(wide=100, decode=20) == 20 / 100 + 40 / 20
    assert optimise.floor_cpu_s(wide=100, decode=20) == 4.2
    assert reward.floor_cpu_s(wide=100, decode=20) is None  # a Python function
    whole = together([optimise, rollout, reward])
    assert (whole.wall_s, whole.cpu_s, whole.tokens_per_s) == (16.0, 30.0, None)
    assert whole.floor_cpu_s(wide=100, decode=20) == pytest.approx(6.4)


def test_what_was_not_logged_is_not_made_up() -> None:
    (cost,) = phase_costs({"time/sft_step_s": [(0, 2.0)]})
    assert (cost.cpu_s, cost.share, cost.tokens, cost.gflop) == (None, None, None, None)
    assert cost.tokens_per_s is None
    assert cost.floor_cpu_s(100, 100) is None
    assert together([cost]).cpu_s is None
    assert phase_costs({}) == []
