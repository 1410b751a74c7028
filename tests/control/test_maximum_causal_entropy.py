"""Maximum causal entropy: against enumeration, finite differences, and experts whose occupancy is known exactly."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tropism.control.demonstrations import demonstrate
from tropism.control.maximum_causal_entropy import (
    CausalEntropySettings,
    dual,
    expectations_of,
    infer,
    occupancy,
    one_hot,
    optimal_policy,
    soft_policy,
)
from tropism.control.networks import Floats
from tropism.environments.gridworld import ID, Doubles, TabularMdp, gridworld
from tropism.environments.making import EnvironmentSpec
from tropism.errors import DataError

SLOPPY = CausalEntropySettings(tolerance=1e-3, max_iterations=500)


def rewards_of(mdp: TabularMdp, seed: int, scale: float = 1.0) -> Doubles:
    """A reward for each state, for all actions alike."""
    values = np.random.default_rng(seed).normal(size=mdp.shape[0]) * scale
    return np.repeat(values[:, None], mdp.shape[1], 1)


def distance(mdp: TabularMdp, one: Doubles, other: Doubles) -> float:
    """L1 between the state distributions of two policies over an episode, in [0, 2]."""
    visits = [occupancy(mdp, policy).sum(1) for policy in (one, other)]
    return float(np.abs(visits[0] / visits[0].sum() - visits[1] / visits[1].sum()).sum())


def test_without_chance_a_trajectory_is_as_likely_as_its_exponential_return() -> None:
    """In a deterministic process P(τ) ∝ exp(Σ r) for a given start (Ziebart et al. 2008)."""
    mdp = gridworld(2, 2, horizon=3, slip=0, start=[(0, 1)])
    rewards = np.random.default_rng(0).normal(size=mdp.shape)
    weights, visits = [], []
    for actions in itertools.product(range(5), repeat=3):
        state, total, seen = 1, 0.0, np.zeros(mdp.shape)
        for action in actions:
            seen[state, action] += 1
            total += rewards[state, action]
            state = int(mdp.transitions[state, action].argmax())
        weights.append(np.exp(total))
        visits.append(seen)
    expected = np.einsum("n,nsa->sa", np.array(weights) / sum(weights), np.array(visits))
    policy, values = soft_policy(mdp, rewards)
    assert occupancy(mdp, policy) == pytest.approx(expected, abs=1e-12)
    assert values[1] == pytest.approx(np.log(sum(weights)))


def test_no_other_policy_has_more_return_and_entropy() -> None:
    mdp = gridworld(3, 3, horizon=5, slip=0.3, discount=0.9)
    rewards = rewards_of(mdp, 1)

    def objective(policy: Doubles) -> float:
        here, total = mdp.start, 0.0
        for t, step in enumerate(policy):
            gain = (step * (rewards - np.log(step))).sum(1)
            total += mdp.discount**t * here @ gain
            here = np.einsum("s,sa,sax->x", here, step, mdp.transitions)
        return float(total)

    best, values = soft_policy(mdp, rewards)
    assert objective(best) == pytest.approx(float(mdp.start @ values))
    for seed in range(5):
        other = best * np.exp(0.3 * np.random.default_rng(seed).normal(size=best.shape))
        assert objective(other / other.sum(-1, keepdims=True)) < objective(best) - 1e-3


def test_the_optimal_policy_shares_ties_and_beats_the_soft_one() -> None:
    mdp = gridworld(1, 2, horizon=2, slip=0, start=[(0, 0)])
    rewards = np.repeat([[0.0], [1.0]], 5, 1)
    policy, values = optimal_policy(mdp, rewards)
    assert policy[0, 0].tolist() == [0, 1, 0, 0, 0]  # right, towards the reward
    assert policy[1, 0] == pytest.approx([0.2] * 5)  # in the last step all are alike
    assert values.tolist() == [1, 2]
    assert (occupancy(mdp, policy) * rewards).sum() == 1


def test_visits_sum_to_the_horizon_or_to_its_discount() -> None:
    policy = soft_policy(mdp := gridworld(3, 2, horizon=7), rewards_of(mdp, 0))[0]
    assert occupancy(mdp, policy).sum() == pytest.approx(7)
    discounted = gridworld(3, 2, horizon=7, discount=0.5)
    assert occupancy(discounted, policy).sum() == pytest.approx((1 - 0.5**7) / 0.5)


@pytest.mark.parametrize(("discount", "l2", "by_action"), [(1.0, 0.0, False), (0.8, 0.3, True)])
def test_the_gradient_is_the_loss_of_the_dual(discount: float, l2: float, by_action: bool) -> None:
    chance = np.random.default_rng(2)
    mdp = gridworld(2, 3, horizon=6, slip=0.2, discount=discount)
    features = chance.normal(size=(*mdp.shape, 4) if by_action else (6, 4))
    expert, weights = chance.normal(size=4), chance.normal(size=4)
    _, gradient = dual(mdp, features, expert, weights, l2)
    for k in range(4):
        step = 1e-5 * np.eye(4)[k]
        rise = dual(mdp, features, expert, weights + step, l2)[0] - dual(mdp, features, expert, weights - step, l2)[0]
        assert gradient[k] == pytest.approx(rise / 2e-5, abs=1e-6)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_soft_expert_is_matched_exactly(seed: int) -> None:
    mdp = gridworld(5, 5, horizon=20, slip=0.1, walls=[(1, 1), (3, 2)])
    expert = soft_policy(mdp, rewards_of(mdp, seed))[0]
    found = infer(mdp, one_hot(mdp), occupancy(mdp, expert).sum(1))
    assert found.converged
    assert found.gap < 1e-6
    assert distance(mdp, found.policy, expert) < 1e-5
    assert occupancy(mdp, found.policy) == pytest.approx(occupancy(mdp, expert), abs=1e-4)  # its actions as well
    uniform = soft_policy(mdp, np.zeros(mdp.shape))[0]
    assert distance(mdp, uniform, expert) > 0.5  # what a method that learns nothing gets


def test_an_optimal_expert_is_approached() -> None:
    mdp = gridworld(5, 5, horizon=20, slip=0.1)
    expert = optimal_policy(mdp, rewards_of(mdp, 3))[0]
    found = infer(mdp, one_hot(mdp), occupancy(mdp, expert).sum(1), SLOPPY)
    assert distance(mdp, found.policy, expert) < 0.02
    assert distance(mdp, soft_policy(mdp, np.zeros(mdp.shape))[0], expert) > 0.5


def test_features_by_action_match_discounted_visits() -> None:
    mdp = gridworld(3, 3, horizon=10, slip=0.1, discount=0.9)
    rewards = np.random.default_rng(0).normal(size=mdp.shape)
    wide = np.eye(45).reshape(9, 5, 45)
    wanted = occupancy(mdp, soft_policy(mdp, rewards)[0])
    found = infer(mdp, wide, wanted.reshape(-1))
    assert found.converged
    assert found.expectations == pytest.approx(wanted.reshape(-1), abs=1e-6)


def test_episodes_are_enough_and_more_are_better() -> None:
    """From the policy's episodes, played in the environment of the same name, to its occupancy."""
    mdp = gridworld(3, 3, horizon=10, slip=0.1)
    expert = soft_policy(mdp, rewards_of(mdp, 5, 2.0))[0]
    spec = EnvironmentSpec(ID, {"rows": 3, "columns": 3, "slip": 0.1}, steps=10)

    class Expert:
        time = 0

        def act(self, observations: Floats, seed: int | None = None) -> Floats:
            chances = expert[self.time % 10, observations.argmax(1)].cumsum(-1)
            self.time += 1
            draws = np.random.default_rng(seed).random((len(observations), 1))
            return (draws >= chances[:, :-1]).sum(1).astype(np.float32)

    episodes = demonstrate(Expert(), spec, 800, seed=1, sample=True).episodes
    states = np.array([e.observations.argmax(1) for e in episodes])
    actions = np.array([e.actions for e in episodes]).astype(np.int64)
    found = []
    for n in (20, 800):
        expected = expectations_of(one_hot(mdp), states[:n], actions[:n])
        assert expected.sum() == pytest.approx(10)
        learned = infer(mdp, one_hot(mdp), expected, CausalEntropySettings(l2=1e-3, tolerance=1e-4))
        assert learned.converged
        found.append(distance(mdp, learned.policy, expert))
    assert found[1] < 0.06
    assert found[1] < found[0] / 2


def test_l2_keeps_the_weights_of_an_impossible_expert_finite() -> None:
    mdp = gridworld(2, 2, horizon=4, slip=0.5)
    expert = np.array([4.0, 0, 0, 0])  # no policy stays there with so much chance
    found = infer(mdp, one_hot(mdp), expert, CausalEntropySettings(l2=0.1))
    assert found.converged
    assert found.gap > 0.1
    assert np.abs(found.weights).max() == pytest.approx(found.gap / 0.1, rel=1e-3)


def test_what_has_not_converged_says_so() -> None:
    mdp = gridworld(3, 3, horizon=10)
    expert = occupancy(mdp, soft_policy(mdp, rewards_of(mdp, 0))[0]).sum(1)
    assert not infer(mdp, one_hot(mdp), expert, CausalEntropySettings(max_iterations=1)).converged


def test_counts_are_discounted_by_time() -> None:
    features = np.eye(3)
    states, actions = np.array([[0, 1], [0, 2]]), np.zeros((2, 2), np.int64)
    assert expectations_of(features, states, actions, 0.5) == pytest.approx([1, 0.25, 0.25])
    by_action = np.arange(6.0).reshape(3, 2, 1)
    assert expectations_of(by_action, states, np.array([[1, 0], [0, 1]])) == pytest.approx([(1 + 2 + 0 + 5) / 2])


def test_bad_input_is_refused() -> None:
    mdp = gridworld(2, 2, horizon=4)
    with pytest.raises(DataError, match="expectations"):
        infer(mdp, one_hot(mdp), np.ones(3))
    with pytest.raises(DataError, match="finite"):
        infer(mdp, one_hot(mdp), np.array([1, 1, 1, np.nan]))
    with pytest.raises(DataError, match="4 states"):
        infer(mdp, np.eye(5), np.ones(5))
    with pytest.raises(DataError, match="not empty"):
        expectations_of(one_hot(mdp), np.zeros((0, 4), np.int64), np.zeros((0, 4), np.int64))
