"""Behaviour cloning: maximum likelihood where it is known in closed form, and a task that it solves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tropism.control.behaviour_cloning import CloningSettings, behaviour_cloning, clone, negative_log_likelihood
from tropism.control.demonstrations import PythonExpert, demonstrate
from tropism.control.evaluate import evaluate
from tropism.control.networks import ActorCritic, Floats
from tropism.control.ppo import Ppo, PpoSettings
from tropism.environments.making import EnvironmentSpec
from tropism.environments.normalising import Normaliser
from tropism.environments.stepping import Environments
from tropism.errors import DataError

CARTPOLE, PENDULUM = EnvironmentSpec("CartPole-v1"), EnvironmentSpec("Pendulum-v1")


def balance(observations: Floats) -> Floats:
    return (observations @ np.array([0.1, 0.3, 1.0, 1.0], np.float32) > 0).astype(np.float32)


@pytest.mark.parametrize("discrete", [True, False])
def test_the_gradient_is_the_loss_and_spares_the_critic(discrete: bool) -> None:
    actor = ActorCritic(3, 2, discrete, hidden=(8,), seed=1)
    chance = np.random.default_rng(0)
    seen = torch.from_numpy(chance.normal(size=(5, 3)).astype(np.float32))
    acted = torch.tensor([0.0, 1, 1, 0, 1]) if discrete else torch.from_numpy(chance.normal(size=(5, 2))).float()
    _, gradient = negative_log_likelihood(actor, seen, acted)
    critic = actor.parts(gradient)[2]
    assert critic.abs().max() == 0
    assert gradient.abs().max() > 0.01
    kept = actor.params.clone()
    for at in gradient.abs().topk(6).indices:
        loss = []
        for step in (1e-2, -1e-2):
            actor.params.copy_(kept)
            actor.params[at] += step
            loss.append(negative_log_likelihood(actor, seen, acted)[0])
        assert float(gradient[at]) == pytest.approx((loss[0] - loss[1]) / 2e-2, rel=0.02, abs=1e-3)


def test_categories_get_their_frequencies() -> None:
    """At one observation the most likely policy has the frequencies of the actions there."""
    seen = np.repeat([[1.0, 0.0], [0.0, 1.0]], 10, 0).astype(np.float32)
    acted = np.array([0] * 7 + [1] * 3 + [2] * 10, np.float32)
    actor = ActorCritic(2, 3, discrete=True, hidden=(16,), seed=0)
    losses = clone(
        actor, Normaliser(2, False), seen, acted, CloningSettings(updates=1500, batch_size=20, learning_rate=3e-3), 0
    )
    logprobs = [actor.evaluate(actor.params, torch.eye(2), torch.full((2,), float(a))).logprobs for a in range(3)]
    chances = torch.stack(logprobs, 1).exp()
    assert chances[0].tolist() == pytest.approx([0.7, 0.3, 0.0], abs=0.02)
    assert chances[1].tolist() == pytest.approx([0, 0, 1], abs=0.02)
    entropy = -0.5 * (0.7 * np.log(0.7) + 0.3 * np.log(0.3))
    assert losses[-1] == pytest.approx(entropy, abs=0.02)


def test_gaussians_get_mean_and_deviation() -> None:
    chance = np.random.default_rng(1)
    seen = chance.normal(size=(2000, 2)).astype(np.float32) * 5 + 3
    acted = (seen @ [[0.5], [-0.2]] + 0.3 * chance.normal(size=(2000, 1))).astype(np.float32)
    actor = ActorCritic(2, 1, discrete=False, hidden=(32,), seed=0)
    normaliser = Normaliser(2, True)
    clone(actor, normaliser, seen, acted, CloningSettings(updates=2500, batch_size=256, learning_rate=3e-3), 0)
    assert normaliser.count == 2000
    deviation = actor.parts(actor.params)[1][0].exp()
    assert float(deviation) == pytest.approx(0.3, abs=0.03)
    mode = actor.act(normaliser(seen), None)[0]
    assert np.abs(mode - seen @ [[0.5], [-0.2]]).mean() < 0.06


def test_the_deviation_of_a_deterministic_expert_has_a_floor() -> None:
    seen = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)
    actor = ActorCritic(2, 1, discrete=False, hidden=(32,), seed=0)
    settings = CloningSettings(updates=1500, learning_rate=1e-2, log_std_min=-2.0)
    clone(actor, Normaliser(2, False), seen, seen[:, :1], settings, 0)
    assert float(actor.parts(actor.params)[1][0]) == pytest.approx(-2, abs=0.1)
    assert actor.params[actor.actor.size + 1 : actor.actor.size + 16].abs().max() == 0  # padding stays zero


def test_whole_episodes_clone_a_controller() -> None:
    shown = demonstrate(PythonExpert(balance), CARTPOLE, 2, seed=0)
    environments = Environments(CARTPOLE, 1, 0)
    cloned = behaviour_cloning(shown, environments, CloningSettings(updates=1000), seed=0)
    assert environments.steps == 0
    assert evaluate(cloned.policy, CARTPOLE, 20, seed=1).mean > 450
    assert np.array_equal(
        behaviour_cloning(shown, environments, CloningSettings(updates=1000), seed=0).losses, cloned.losses
    )
    with pytest.raises(DataError, match="Pendulum"):
        behaviour_cloning(shown, Environments(PENDULUM, 1, 0), CloningSettings(), 0)


def test_ppo_goes_on_from_a_clone() -> None:
    shown = demonstrate(PythonExpert(balance), CARTPOLE, 2, seed=0)
    agent = Ppo(Environments(CARTPOLE, 4, 0), PpoSettings(steps_per_environment=64, normalise_observations=True), 0)
    critic = agent.actor.parts(agent.actor.params)[2].clone()
    seen, acted = shown.joined("observations"), shown.joined("actions")
    clone(agent.actor, agent.normaliser, seen, acted, CloningSettings(updates=600), 0)
    assert torch.equal(agent.actor.parts(agent.actor.params)[2], critic)
    assert evaluate(agent, CARTPOLE, 10, seed=0).mean > 300  # an untrained one falls within 10
    _, metrics = agent.advance(None, 0.0)  # its contract holds: the policy that acts is the one that learns
    assert metrics["ppo/entropy"] < 0.5


def test_no_rows_are_refused() -> None:
    actor = ActorCritic(2, 2, discrete=True)
    with pytest.raises(DataError, match="0 observations"):
        clone(actor, Normaliser(2, False), np.empty((0, 2), np.float32), np.empty(0, np.float32), CloningSettings(), 0)


def test_weight_decay_is_of_the_actors_layers_alone() -> None:
    """With a rate at which nothing else moves: layers and their biases shrink by the rate times the decay, deviations
    and the critic stay."""
    actor, decay, rate = ActorCritic(3, 2, False, (8,), log_std=-0.5, seed=1), 1e9, 1e-10
    before = [part.clone() for part in actor.parts(actor.params.clone())]
    seen = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    settings = CloningSettings(updates=1, batch_size=4, learning_rate=rate, weight_decay=decay)
    clone(actor, Normaliser(3, False), seen, seen[:, :2].copy(), settings, 0)
    layers, deviations, critic = actor.parts(actor.params)
    np.testing.assert_allclose(layers, before[0] * (1 - rate * decay), atol=1e-8)
    torch.testing.assert_close(deviations, before[1], atol=1e-8, rtol=0)
    torch.testing.assert_close(critic, before[2], atol=0, rtol=0)
