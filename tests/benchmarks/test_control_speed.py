"""What the comparison of agents rests on: its bootstrap, equal settings on both sides, and that no work is unknown."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tropism.control.algorithms import ALGORITHMS
from tropism.settings.sections import check_section

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def bench() -> Iterator[SimpleNamespace]:
    sys.path.insert(0, str(BENCHMARKS))
    import control_speed
    import control_work

    yield SimpleNamespace(speed=control_speed, works=control_work.WORKS)
    sys.path.remove(str(BENCHMARKS))


def test_difference_is_a_share_of_what_sb3_gained(bench: SimpleNamespace) -> None:
    found = {"tropism": {"a": [110.0] * 3, "b": [1.0] * 3}, "sb3": {"a": [100.0] * 3, "b": [2.0] * 3}}
    found["random"] = {"a": [20.0], "b": [-2.0]}
    assert bench.speed.compared(found, ["a"]) == pytest.approx((0.125,) * 3)
    assert bench.speed.compared(found, ["a", "b"]) == pytest.approx(((0.125 - 0.25) / 2,) * 3)


def test_interval_is_that_of_a_difference_of_means(bench: SimpleNamespace) -> None:
    draw = np.random.default_rng(0)
    ours, theirs = draw.normal(100, 10, 40), draw.normal(100, 10, 40)
    found = {"tropism": {"a": ours.tolist()}, "sb3": {"a": theirs.tolist()}, "random": {"a": [0.0]}}
    value, low, high = bench.speed.compared(found, ["a"])
    half = 1.96 * np.sqrt((ours.var() + theirs.var()) / 40) / theirs.mean()
    assert value == pytest.approx((ours.mean() - theirs.mean()) / theirs.mean())
    assert (value - low, high - value) == pytest.approx((half, half), rel=0.1)


def test_a_peer_that_learned_nothing_is_no_yardstick(bench: SimpleNamespace) -> None:
    found = {"tropism": {"a": [5.0]}, "sb3": {"a": [1.0]}, "random": {"a": [1.0]}}
    with pytest.raises(ValueError, match="no better than random"):
        bench.speed.compared(found, ["a"])


def test_returns_are_claimed_of_all_tasks_and_of_each_algorithm(
    bench: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One algorithm that falls short is not hidden by the others; what is not claimed is shown."""
    works = [w for w in bench.works if w.learning_steps and w.environment in ("CartPole-v1", "HalfCheetah-v5")]
    assert [(w.algorithm, w.claimed) for w in works] == [
        ("ppo", True), ("ppo", True), ("sac", True), ("dqn", False), ("dqn", True),
    ]  # fmt: skip

    def kept(side: str, work: SimpleNamespace, seed: int, more: list[str], given: object) -> dict[str, list[float]]:
        ours = (60.0 if work.claimed else 0.0) if work.algorithm == "dqn" else 110.0
        return {"returns": [{"tropism": ours, "sb3": 100.0, "random": 0.0}[side]]}

    written: list[tuple[Any, ...]] = []
    monkeypatch.setattr(bench.speed, "kept", kept)
    monkeypatch.setattr(bench.speed, "write_result", lambda *told: written.append(told))
    bench.speed.learning(works, SimpleNamespace(quick=False))
    [(name, claims, extra, partial)] = written
    assert (name, partial) == ("control_learning", True)  # not all works: no result file
    assert [(c.name.split(":")[0], round(c.low, 3), c.holds) for c in claims] == [
        ("all tasks", -0.025, True), ("ppo", 0.1, True), ("sac", 0.1, True), ("dqn", -0.4, False),
    ]  # fmt: skip
    assert [t["low"] for n, t in extra["returns"].items() if not extra["works"][n]["claimed"]] == [-1.0]
    assert {n: len(t["sb3"]) for n, t in extra["returns"].items()} == {w.name: w.seeds for w in works}


def test_every_work_can_be_asked_of_both_sides(bench: SimpleNamespace) -> None:
    given = SimpleNamespace(sb3_python=Path("python"))
    for work in bench.works:
        ours = bench.speed.command("tropism", work, given, ["--steps", "1"])
        settings = json.loads(ours[ours.index("--settings") + 1])
        section = check_section(ALGORITHMS[work.algorithm].settings, work.algorithm, settings)
        for name, value in work.settings.items():
            kept = getattr(section, name)
            assert (list(kept) if isinstance(kept, tuple) else kept) == value
        own = {"ppo": {"whiten": "mini_batch"}, "dqn": {"double": False}}.get(work.algorithm, {})
        assert settings == {**work.settings, **own}  # what SB3 does without being told
        theirs = bench.speed.command("sb3", work, given, ["--steps", "1"])
        assert json.loads(theirs[theirs.index("--settings") + 1]) == work.settings
        assert work.skip < work.speed_steps or not work.speed_steps


def test_settings_tuned_for_sb3_are_those_its_search_found(bench: SimpleNamespace) -> None:
    """On seeds that are not compared: else the yardstick would be chosen by the runs that it measures."""
    found = json.loads((BENCHMARKS / "results" / "control_tuning.json").read_text())
    [work] = [w for w in bench.works if w.name == "dqn CartPole-v1 tuned"]
    assert dict(work.settings) == {**found["zoo"], **found["chosen"]}
    assert set(found["seeds"]).isdisjoint(range(work.seeds))
    complete = {json.dumps(t["differs"]): np.mean(t["returns"]) for t in found["tried"] if len(t["returns"]) == 10}
    assert max(complete, key=lambda differs: complete[differs]) == json.dumps(found["chosen"])
    assert found["claims"][0]["value"] == pytest.approx(max(complete.values()))
