"""Gridworlds as arrays and as environments: both must be the same process."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest

from tropism.environments.gridworld import ID, MOVES, NAME, Gridworld, TabularMdp, gridworld
from tropism.environments.making import EnvironmentSpec
from tropism.environments.stepping import Environments
from tropism.errors import ConfigError

UP, RIGHT, DOWN, LEFT, STAY = range(5)


def test_moves_of_a_grid_without_slip() -> None:
    moved = gridworld(2, 3, horizon=4, slip=0).transitions.argmax(-1)
    # states   0 1 2
    #          3 4 5
    assert moved[0].tolist() == [0, 1, 3, 0, 0]
    assert moved[4].tolist() == [1, 5, 4, 3, 4]


def test_slip_spreads_over_all_moves() -> None:
    moved = gridworld(2, 2, horizon=1, slip=0.5).transitions
    # at 0 two of the five moves hit the border, and one stays: going right has 0.5 + 0.1 there, 0.1 down, 0.3 here
    assert moved[0, RIGHT] == pytest.approx([0.3, 0.6, 0.1, 0.0])
    assert moved[0, STAY] == pytest.approx([0.8, 0.1, 0.1, 0.0])


def test_walls_are_never_entered() -> None:
    mdp = gridworld(3, 3, horizon=1, slip=0.2, walls=[(1, 1)])
    assert mdp.transitions[[0, 1, 2, 3, 5, 6, 7, 8], :, 4].max() == 0
    assert mdp.start[4] == 0
    assert mdp.start.sum() == pytest.approx(1)
    assert mdp.transitions[1, DOWN, 1] >= 0.8


def test_the_environment_moves_as_the_arrays_say() -> None:
    env = Gridworld(3, 3, slip=0.4, walls=[(0, 1)], start=[(2, 2), (0, 0)], rewards=list(range(9)))
    env.reset(seed=3)
    counts, starts = np.zeros((9, 5, 9)), np.zeros(9)
    for _ in range(2000):
        env.reset()
        starts[env.state] += 1
    for number in range(40000):
        before = env.state
        after, paid, ended, cut, _ = env.step(number % 5)
        counts[before, number % 5, after] += 1
        assert paid == before
        assert not ended
        assert not cut
    total = counts.sum(-1, keepdims=True)
    seen = (total > 500)[..., 0]
    assert seen.sum() >= 30
    assert np.abs(counts / np.maximum(total, 1) - env.mdp.transitions)[seen].max() < 0.06
    assert np.abs(starts / 2000 - env.mdp.start).max() < 0.04


def test_played_by_its_id() -> None:
    environments = Environments(EnvironmentSpec(ID, {"rows": 2, "columns": 2, "slip": 0.0}, steps=3), 2, seed=0)
    assert environments.observations.shape == (2, 4)
    assert environments.observations.sum(1).tolist() == [1, 1]
    for t in range(3):
        step = environments.step(np.full(2, STAY, np.float32))
        assert step.truncated.all() == (t == 2)
    assert not step.terminated.any()
    assert NAME in gymnasium.registry


@pytest.mark.parametrize(
    "arguments",
    [
        {"rows": 0},
        {"slip": 1.5},
        {"walls": [(5, 5)]},
        {"start": [(0, 0)], "walls": [(0, 0)]},
        {"walls": [(0, 0), (0, 1), (1, 0), (1, 1)]},
        {"horizon": 0},
        {"discount": 0.0},
    ],
)
def test_bad_grids_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        gridworld(**({"rows": 2, "columns": 2, "horizon": 3} | arguments))


def test_tables_that_are_no_probabilities_are_refused() -> None:
    good = gridworld(2, 2, 3)
    with pytest.raises(ConfigError, match="transitions"):
        TabularMdp(good.transitions * 0.9, good.start, 3)
    with pytest.raises(ConfigError, match="start"):
        TabularMdp(good.transitions, good.start + 1, 3)
    with pytest.raises(ConfigError, match="transitions"):
        TabularMdp(good.transitions[:, :, :3], good.start, 3)
    with pytest.raises(ConfigError, match="4 states"):
        Gridworld(2, 2, rewards=[1.0])
    assert len(MOVES) == good.shape[1]
