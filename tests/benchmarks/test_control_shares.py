"""Shares of the true reward's return: their two ends, an interval that knows that both are measured, and its guard."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def bench() -> Iterator[SimpleNamespace]:
    sys.path.insert(0, str(BENCHMARKS))
    import christiano
    import control_feedback
    import control_preferences
    import control_shares

    yield SimpleNamespace(
        christiano=christiano, feedback=control_feedback, preferences=control_preferences, shares=control_shares
    )
    sys.path.remove(str(BENCHMARKS))


def arm(bench: SimpleNamespace, returns: list[float], true: list[float], chance: float = 0.0) -> Any:
    return bench.shares.Arm("a task", np.array(returns), np.array(true), chance)


def test_random_actions_are_0_and_the_true_reward_is_1(bench: SimpleNamespace) -> None:
    one = arm(bench, [-10.0, 30.0, 50.0], [20.0, 40.0], chance=-10.0)
    assert one.shares.tolist() == pytest.approx([0.0, 1.0, 1.5])


def test_the_true_rewards_runs_are_drawn_anew(bench: SimpleNamespace) -> None:
    """Runs that all reach the same are no exact share of a yardstick that was itself measured three times."""
    exact = bench.shares.share([arm(bench, [50.0] * 3, [100.0] * 3)], bench.shares.mean)
    assert (exact.value, exact.low, exact.high) == pytest.approx((0.5, 0.5, 0.5))
    unsure = bench.shares.share([arm(bench, [50.0] * 3, [60.0, 100.0, 140.0])], bench.shares.mean)
    assert unsure.value == pytest.approx(0.5)
    assert unsure.low < 0.4 < 0.7 < unsure.high


def test_interval_is_that_of_a_quotient_of_means(bench: SimpleNamespace) -> None:
    """By the delta method, where there are many runs."""
    draw = np.random.default_rng(0)
    own, true = draw.normal(80, 10, 60), draw.normal(100, 15, 60)
    found = bench.shares.share([arm(bench, own.tolist(), true.tolist())], bench.shares.mean)
    value = own.mean() / true.mean()
    error = value * np.sqrt((own.var() / own.mean() ** 2 + true.var() / true.mean() ** 2) / 60)
    assert found.value == pytest.approx(value)
    assert (value - found.low, found.high - value) == pytest.approx((1.96 * error, 1.96 * error), rel=0.15)


@pytest.mark.parametrize("true", [[5.0, 7.0, 1.0], [1.0, 0.0, -3.0]])
def test_a_yardstick_no_better_than_random_is_none(bench: SimpleNamespace, true: list[float]) -> None:
    with pytest.raises(ValueError, match="no better than random"):
        arm(bench, [3.0], true, chance=1.0)


def test_difference_of_independent_runs_is_welchs(bench: SimpleNamespace) -> None:
    """Against scipy, and whatever the order of the runs: nothing pairs them."""
    from scipy.stats import ttest_ind

    a, b = [3.0, 9.0, 6.5], [1.0, 2.5, 1.5, 0.5]
    wanted = ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    for one in (a, a[::-1]):
        found = bench.shares.difference(one, b)
        assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))
    assert bench.shares.difference([2.0, 2.0], [1.0, 1.0]).low == 1.0
    with pytest.raises(ValueError, match="two or more"):
        bench.shares.difference([2.0], [1.0, 1.0])


def christianos(bench: SimpleNamespace, **returns: list[float]) -> dict[str, dict[str, Any]]:
    """Runs of every cell: on the true reward 100, and as ``returns`` says of an arm."""
    made = {}
    for task in bench.christiano.TASKS:
        for name in task.arms:
            for seed, value in enumerate(returns.get(f"arm_{name}", [100.0] * 3)):
                cell = task.cell(name, seed)
                made[cell.name] = {"true_return": value, "random_return": 0.0, "cpu_s": 1.0}
    return made


def test_christianos_bounds_know_of_the_true_reward_spread(bench: SimpleNamespace) -> None:
    claims, table = bench.christiano.claims_of(christianos(bench, arm_700=[80.0] * 3))
    assert [(c.value, c.low, c.holds) for c in claims[:2]] == [(0.8, 0.8, False), (0.8, 0.8, True)]
    assert table["Hopper-v5"]["700"]["normalised"] == [0.8] * 3
    claims, _ = bench.christiano.claims_of(christianos(bench, arm_700=[80.0] * 3, arm_true=[40.0, 100.0, 160.0]))
    assert claims[0].value == pytest.approx(0.8)
    assert not claims[1].holds
    assert claims[1].value < 0.75
    listed = {c.name: c for c in claims[4:]}
    assert len(listed) == 2 * len(bench.christiano.TASKS) + 1
    assert listed["Pendulum-v1, 700 labels"].low < 0.8 < listed["Pendulum-v1, 700 labels"].high


def test_ahead_is_a_matter_of_the_lower_bound(bench: SimpleNamespace) -> None:
    assert bench.preferences.ahead("a task", [300.0, 320.0, 310.0], [100.0, 130.0, 120.0]).holds
    lucky = bench.preferences.ahead("a task", [900.0, 100.0, 110.0], [100.0, 130.0, 120.0])
    assert lucky.value > 200
    assert not lucky.holds


def test_both_sides_have_what_their_search_found(bench: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put back (a lucky run of ours decides about its settings): seed 0 is not among those it is tuned on."""
    taken, written, p = [], {}, bench.preferences
    assert not set(p.TUNING_SEEDS) & {seed for seeds in p.SEEDS.values() for seed in seeds}

    def theirs(_: Any, task: str, seed: int, **settings: int) -> dict[str, Any]:
        taken.append((task, seed, settings))
        good = settings == {"normalise": 0, "fragment": 50, "members": 3, "decay": 1}
        return {"true_return": 50.0 * good + 10.0 * settings["members"] - seed, "taken_steps": 1000 + seed}

    def of_ours(_: str, steps: int, seed: int, decay: int) -> dict[str, Any]:
        taken.append((steps, seed, decay))
        return {"true_return": 900.0 if seed == 0 and not decay else 100.0 + 10 * decay + seed % 3}

    monkeypatch.setattr(p, "theirs", theirs)
    monkeypatch.setattr(p, "of_ours", of_ours)
    monkeypatch.setattr(p, "SEARCH", [row for row in p.SEARCH if row["normalise"] == 0])
    monkeypatch.setattr(p, "SEEDS", {"a task": (0, 1, 2), "another": (0, 1, 2, 3)})
    monkeypatch.setattr(p, "TASKS", {"a task": {}, "another": {}})
    monkeypatch.setattr(p, "REWARDS", {"a task": {}, "another": {}})
    monkeypatch.setattr(p, "write_result", lambda name, claims, extra, quick: written.update(claims=claims, **extra))
    p.learning(SimpleNamespace(folder=None))
    for task, seeds in p.SEEDS.items():
        of = written["tasks"][task]
        assert of["best"] == {"imitation": {"normalise": 0, "fragment": 50, "members": 3, "decay": 1},
                              "tropism": {"decay": 1}}  # fmt: skip
        assert of["imitation"] == [80.0 - seed for seed in seeds]
        assert of["tropism"] == [110.0 + seed % 3 for seed in seeds]
        assert {(1000 + seed, seed, 1) for seed in seeds} <= {row for row in taken if isinstance(row[0], int)}
    assert all(claim.holds for claim in written["claims"])


def selections(bench: SimpleNamespace, random: list[list[float]], disagreement: list[list[float]]) -> dict[str, Any]:
    """Runs of every budget ``[seed][budget]`` on both tasks; random actions give 0."""
    made = {}
    for cell in bench.feedback.selection_cells():
        returns = {"random": random, "disagreement": disagreement}[cell.selection]
        value = returns[cell.seed][bench.feedback.BUDGETS.index(cell.labels)]
        made[cell.name] = {
            "true_return": value, "random_return": 0.0, "cell": {"environment": cell.environment}
        }  # fmt: skip
    return made


SLOW = [[10.0, 30.0, 60.0, 80.0, 100.0], [10.0, 30.0, 60.0, 82.0, 100.0], [10.0, 30.0, 60.0, 81.0, 100.0]]
QUICK = [[10.0, 50.0, 95.0, 100.0, 100.0], [10.0, 50.0, 97.0, 100.0, 100.0], [10.0, 50.0, 99.0, 100.0, 100.0]]


def test_labels_are_saved_where_both_ways_are_known(bench: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.feedback, "DEFAULT", "disagreement")
    claims, about = bench.feedback.selection_claims(selections(bench, SLOW, QUICK))
    assert all(c.holds for c in claims)
    assert len(claims) == 2
    needed = about["tasks"]["Pendulum-v1"]["needed"]
    assert needed["random"][0] == {"labels": pytest.approx(500 + 900 / 2), "bound": ""}
    assert claims[0].value == pytest.approx(
        np.mean([n["labels"] for n in needed["random"]]) - np.mean([n["labels"] for n in needed["disagreement"]])
    )
    assert about["tasks"]["Pendulum-v1"]["never"] == {"random": 0, "disagreement": 0}
    assert "never" not in claims[0].name


def test_the_default_is_what_saves_labels_for_certain_and_nothing_else(
    bench: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for default, found in (("disagreement", [True, False]), ("random", [False, True])):
        monkeypatch.setattr(bench.feedback, "DEFAULT", default)
        for disagreement, holds in zip((QUICK, SLOW), found, strict=True):
            claims, _ = bench.feedback.selection_claims(selections(bench, SLOW, disagreement))
            assert {c.holds for c in claims} == {holds}


def test_runs_that_never_get_there_are_told(bench: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,400 labels that were not enough are no 1,400 labels: two such runs look as if nothing had been saved."""
    monkeypatch.setattr(bench.feedback, "DEFAULT", "disagreement")
    never = [QUICK[0], QUICK[1], [10.0] * 5]
    claims, about = bench.feedback.selection_claims(selections(bench, SLOW, never))
    assert about["tasks"]["HalfCheetah-v5"]["never"] == {"random": 0, "disagreement": 1}
    assert "0 random and 1 such runs never got there" in claims[0].name
    assert not any(c.holds for c in claims)
    assert bench.feedback.labels_to(50.0, [0.0] * 5).bound == ">"
    assert bench.feedback.labels_to(50.0, [0.0] * 4 + [60.0]).bound == ""
    assert bench.feedback.labels_to(0.0, [0.0] * 5).bound == "<"


def test_which_run_is_named_by_which_seed_says_nothing(bench: SimpleNamespace) -> None:
    """Runs of two ways have a number in common, and nothing else."""
    wide = [SLOW[0], QUICK[1], SLOW[2]]
    one, other = (
        bench.feedback.selection_claims(selections(bench, wide, disagreement))[0][0]
        for disagreement in ([SLOW[1], QUICK[0], QUICK[2]], [QUICK[0], QUICK[2], SLOW[1]])
    )
    assert (one.low, one.high) == pytest.approx((other.low, other.high))


def turned(bench: SimpleNamespace, after: list[float], right: list[float]) -> list[Any]:
    runs = {f"turn-right-{s}": {"true_return": r, "random_return": -100.0} for s, r in enumerate(right)}
    for seed, value in enumerate(after):
        runs[f"turn-turned-{seed}"] = {"true_return": value, "random_return": -100.0, "start_return": -2000.0}
    return bench.feedback.turned_claims(runs)[0]


def test_a_policy_that_only_stops_running_backwards_is_not_turned(
    bench: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.feedback, "TURNED_SEEDS", (0, 1, 2))
    stopped = turned(bench, [0.0, 10.0, -10.0], [2000.0, 2100.0, 2200.0])
    assert stopped[0].holds
    assert not stopped[1].holds
    assert all(c.holds for c in turned(bench, [1900.0, 2000.0, 2100.0], [2000.0, 2100.0, 2200.0]))
    assert not turned(bench, [1900.0, 2000.0, 300.0], [2000.0, 2100.0, 2200.0])[1].holds


def test_the_policy_that_is_turned_is_judged_by_its_mode_before(bench: SimpleNamespace, tmp_path: Path) -> None:
    """A run says what the policy was worth that it began with, by its own reward and on the starts of its end."""
    from control_runs import Cell, play

    first = Cell("first", "Pendulum-v1", 2048, 0, {"steps_per_environment": 64, "epochs": 1})
    wanted = play(first, tmp_path)
    later = Cell("later", "Pendulum-v1", 512, 1, {"steps_per_environment": 64, "epochs": 1}, start="first")
    assert play(later, tmp_path)["start_return"] == wanted["true_return"]
    assert "start_return" not in wanted
