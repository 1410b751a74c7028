"""Observation statistics, and simulators' states out and in."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny_environments  # noqa: F401 - registers them

from tropism.environments.making import EnvironmentSpec, make
from tropism.environments.normalising import Normaliser, ReturnScale
from tropism.environments.states import get_state, set_state
from tropism.errors import DataError


def test_statistics_are_those_of_all_observations_together() -> None:
    stream = np.random.default_rng(0)
    parts = [stream.normal(5, 3, (n, 2, 4)).astype(np.float32) for n in (7, 1, 200)]
    normaliser = Normaliser(4, active=True)
    assert normaliser(parts[0]) is parts[0]  # nothing is known yet
    for part in parts:
        normaliser.update(part)
    rows = np.concatenate([part.reshape(-1, 4) for part in parts]).astype(np.float64)
    expected = (rows - rows.mean(0)) / rows.std(0)
    assert np.allclose(normaliser(rows.astype(np.float32)), expected, atol=1e-5)


def test_faded_statistics_are_the_same_and_weigh_less() -> None:
    stream = np.random.default_rng(0)
    old, new = stream.normal(5, 3, (5000, 4)), stream.normal(-40, 1, (1000, 4))
    normaliser, kept = Normaliser(4, active=True), Normaliser(4, active=True)
    for each in (normaliser, kept):
        each.update(old)
    normaliser.fade(5000)
    assert normaliser.state() == kept.state()  # it was no more than that
    normaliser.fade(1000)
    assert normaliser.count == 1000
    np.testing.assert_allclose(normaliser.mean, old.mean(0))
    np.testing.assert_allclose(normaliser.deviation, old.std(0))
    normaliser.update(new)  # half of all, now
    np.testing.assert_allclose(normaliser.mean, (old.mean(0) + new.mean(0)) / 2)
    both = (old.var(0) + new.var(0)) / 2 + ((old.mean(0) - new.mean(0)) / 2) ** 2
    np.testing.assert_allclose(normaliser.deviation, np.sqrt(both))


def test_rewards_are_divided_by_the_deviation_of_discounted_returns() -> None:
    """By hand, over three parts in which episodes end within and between parts; what is found goes on where it was."""
    stream = np.random.default_rng(0)
    rewards = stream.normal(3, 5, (60, 2)).astype(np.float32)
    ends = stream.random((60, 2)) < 0.1
    ends[19, 0] = True
    seen, carry = [], np.zeros(2)
    for t in range(60):
        carry = carry * 0.9 + rewards[t]
        seen.append(carry.copy())
        carry = np.where(ends[t], 0, carry)
    scale = ReturnScale(2, 0.9, active=True)
    for start in (0, 20, 40):
        part = slice(start, start + 20)
        again = ReturnScale(2, 0.9, active=True)
        again.load(json.loads(json.dumps(scale.state())))
        found = scale(rewards[part], ends[part])
        assert np.array_equal(again(rewards[part], ends[part]), found)
        assert np.allclose(found, rewards[part] / np.std(seen[: part.stop]), rtol=1e-5)
    assert scale(rewards, ends).dtype == np.float32
    assert ReturnScale(2, 0.9, active=False)(rewards, ends) is rewards


def test_statistics_move_only_when_told_and_come_back_exactly() -> None:
    stream = np.random.default_rng(0)
    seen = stream.normal(size=(50, 3)).astype(np.float32)
    normaliser = Normaliser(3, active=True)
    normaliser.update(seen)
    first = normaliser(seen)
    assert np.array_equal(normaliser(seen), first)
    other = Normaliser(3, active=True)
    other.load(json.loads(json.dumps(normaliser.state())))
    assert np.array_equal(other(seen), first)
    other.update(seen + 1)
    normaliser.update(seen + 1)
    assert np.array_equal(other(seen), normaliser(seen))


def test_far_observations_are_clipped_and_an_inactive_one_does_nothing() -> None:
    seen = np.linspace(-1, 1, 11, dtype=np.float32)[:, None]
    normaliser = Normaliser(1, active=True, clip=2.0)
    normaliser.update(seen)
    assert normaliser(np.array([[1e6], [-1e6]], np.float32)).tolist() == [[2.0], [-2.0]]
    idle = Normaliser(1, active=False)
    idle.update(seen)
    assert idle(seen) is seen


@pytest.mark.parametrize("name", ["HalfCheetah-v5", "Reacher-v5", "CartPole-v1", "Pendulum-v1", "MountainCar-v0"])
def test_a_state_put_back_goes_on_the_same_way(name: str) -> None:
    one, two = make(EnvironmentSpec(name)).env, make(EnvironmentSpec(name)).env
    one.reset(seed=1)
    two.reset(seed=2)
    one.action_space.seed(0)
    for _ in range(5):
        one.step(one.action_space.sample())
    state = get_state(one)
    assert state is not None
    kept = state.copy()
    set_state(two, state)
    assert np.array_equal(get_state(two), kept)
    action = one.action_space.sample()
    seen, seen_ = one.step(action)[0], two.step(action)[0]
    assert np.array_equal(state, kept)  # a copy, not the simulator's own
    # MuJoCo's solver begins from where it was; the rest is the same bits
    assert np.allclose(seen, seen_, atol=1e-5)
    assert "CartPole" not in name or np.array_equal(seen, seen_)


def test_states_that_do_not_belong_are_refused() -> None:
    cheetah, tiny = make(EnvironmentSpec("HalfCheetah-v5")).env, make(EnvironmentSpec("Tiny-v0")).env
    tiny.reset(seed=0)
    assert get_state(tiny) is None
    with pytest.raises(DataError, match=r"\(3,\).* simulator"):
        set_state(cheetah, np.zeros(3))
    with pytest.raises(DataError, match="replay"):
        set_state(tiny, np.zeros(3))
