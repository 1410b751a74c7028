"""The replay buffer: n-step returns by hand, the place where the ring is written, relabelling, and resuming."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tropism.control.replay import Replay
from tropism.control.rollouts import Steps
from tropism.errors import ConfigError, RewardError


def ring(capacity: int, count: int = 2, discrete: bool = False) -> Replay:
    about: Any = SimpleNamespace(observations=np.zeros((count, 1), np.float32), discrete=discrete, actions=1)
    return Replay(about, capacity)


def steps_of(first: int, length: int, count: int = 2, ends: tuple[tuple[int, int], ...] = ()) -> Steps:
    """Steps number ``first`` and following: the observation is 100·environment + number, the reward the number."""
    number = np.arange(first, first + length, dtype=np.float32)
    seen = (number[:, None] + 100 * np.arange(count))[..., None].astype(np.float32)
    terminated = np.zeros((length, count), bool)
    for at, env in ends:
        terminated[at - first, env] = True
    rewards = np.repeat(number[:, None], count, 1)
    return Steps(seen, seen * 0.1, seen + 1, rewards, terminated, np.zeros_like(terminated), None)


def ahead(replay: Replay, number: int, env: int, n: int, gamma: float = 0.5) -> tuple[float, float, float]:
    """Rewards, the last observation's number and the discount of the n-step transition from a step in the ring."""
    row = int(np.flatnonzero(replay.observations[: replay.filled, env, 0] == number + 100 * env)[0])
    rewards, last, discounts = replay._ahead(np.array([row]), np.array([env]), gamma, n)
    place = int(last[0])
    return float(rewards[0]), float(replay.observations.reshape(-1)[place] - 100 * env), float(discounts[0])


def test_n_step_returns_by_hand() -> None:
    replay = ring(20)
    replay.add(steps_of(1, 5, ends=((3, 1),)), 0, 5, None)
    assert ahead(replay, 1, 0, 1) == (1.0, 1.0, 0.5)
    assert ahead(replay, 1, 0, 3) == (1 + 0.5 * 2 + 0.25 * 3, 3.0, 0.125)
    assert ahead(replay, 2, 1, 3) == (2 + 0.5 * 3, 3.0, 0.25)  # the episode ends with step 3
    assert ahead(replay, 3, 1, 3) == (3.0, 3.0, 0.5)
    assert ahead(replay, 4, 0, 3) == (4 + 0.5 * 5, 5.0, 0.25)  # nothing is known behind the latest step
    assert ahead(replay, 5, 0, 3) == (5.0, 5.0, 0.5)


def test_n_step_returns_run_on_across_the_rings_seam_and_stop_at_the_pen() -> None:
    replay = ring(8)  # four rows
    replay.add(steps_of(1, 6), 0, 6, None)  # holds 5 6 | 3 4: written next is the row of 3
    assert replay.observations[:, 0, 0].tolist() == [5, 6, 3, 4]
    assert ahead(replay, 4, 1, 3) == (4 + 0.5 * 5 + 0.25 * 6, 6.0, 0.125)
    assert ahead(replay, 6, 1, 3) == (6.0, 6.0, 0.5)  # not on into 3, the oldest
    assert ahead(replay, 5, 0, 4) == (5 + 0.5 * 6, 6.0, 0.25)


def test_a_draw_gives_whole_transitions_of_every_step() -> None:
    replay = ring(12)
    replay.add(steps_of(1, 9, ends=((8, 0),)), 0, 9, None)  # keeps 4 to 9
    drawn = replay.draw(np.random.default_rng(0), 4000, 0.9)
    number = drawn.observations[:, 0] % 100
    assert sorted(set(number.tolist())) == [4, 5, 6, 7, 8, 9]
    assert torch.equal(drawn.rewards, number)
    torch.testing.assert_close(drawn.successors, drawn.observations + 1)
    torch.testing.assert_close(drawn.actions, drawn.observations * 0.1)
    assert torch.equal(drawn.terminated, drawn.observations[:, 0] == 8)
    counts = np.unique(drawn.observations.numpy(), return_counts=True)[1]
    assert len(counts) == 12
    assert counts.min() > 4000 / 12 * 0.8


@pytest.mark.parametrize("before", [5, 10, 23, 400])
def test_a_new_reward_relabels_all_of_the_ring(before: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the ring is full, when it just is, and after it went round: no old reward is left (trap 27)."""
    monkeypatch.setattr("tropism.control.replay.RELABELLED", 6)  # several questions
    replay = ring(20)
    for first in range(0, before, 5):
        replay.add(
            steps_of(first, min(5, before - first)), 0, min(5, before - first), lambda o, a, s: -1000 + 0 * o[:, 0]
        )
    asked = []

    def better(observations: np.ndarray, actions: np.ndarray, successors: np.ndarray) -> np.ndarray:
        asked.append(len(observations))
        return observations[:, 0] * 2 + successors[:, 0] + actions[:, 0]

    replay.relabel(better)
    assert sum(asked) == len(replay) == min(2 * before, 20)
    held = replay.observations[: replay.filled, :, 0]
    np.testing.assert_allclose(replay.rewards[: replay.filled], held * 3 + 1 + held * 0.1, rtol=1e-6)


def test_more_steps_than_the_ring_holds_leave_the_latest() -> None:
    replay = ring(6)
    paid = replay.add(steps_of(1, 8), 0, 8, None)
    assert paid.shape == (8, 2)
    assert sorted(replay.observations[:, 1, 0].tolist()) == [106, 107, 108]
    assert ahead(replay, 6, 0, 3)[1] == 8


@pytest.mark.parametrize("written", [3, 5, 13])
def test_a_restored_ring_goes_on_as_the_first(written: int) -> None:
    one, other = ring(10), ring(10)
    one.add(steps_of(0, written), 0, written, None)
    tensors, meta = one.state()
    other.restore({name: tensor.clone() for name, tensor in tensors.items()}, meta)
    for replay in (one, other):
        replay.add(steps_of(50, 3), 0, 3, None)
    a, b = (r.draw(np.random.default_rng(1), 50, 0.9, 3) for r in (one, other))
    assert all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("observations", "rewards", "discounts"))


def test_rings_of_another_size_are_refused() -> None:
    one = ring(10)
    one.add(steps_of(0, 7), 0, 7, None)
    with pytest.raises(ConfigError, match="resume with the size"):
        ring(20).restore(*one.state())
    with pytest.raises(ConfigError, match="resume with the size"):
        ring(6).restore(*one.state())
    with pytest.raises(ConfigError, match="at least 2"):
        ring(1)


@pytest.mark.parametrize(
    ("reward", "says"),
    [(lambda o, a, s: np.full(len(o), np.nan), "finite"), (lambda o, a, s: o, "one number per step")],
)
def test_rewards_that_are_none(reward: Any, says: str) -> None:
    with pytest.raises(RewardError, match=says):
        ring(8).add(steps_of(0, 2), 0, 2, reward)
