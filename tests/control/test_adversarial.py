"""Adversarial imitation: the discriminator against what it should be, the survival trap, resuming, and CartPole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tropism.control.adversarial import Adversarial, AdversarialSettings, Discriminator
from tropism.control.demonstrations import Demonstrations, PythonExpert, demonstrate
from tropism.control.networks import Floats
from tropism.control.ppo import Ppo, PpoSettings
from tropism.environments.making import EnvironmentSpec
from tropism.environments.stepping import Environments
from tropism.errors import ConfigError, DataError
from tropism.runtime.checkpoints import load_state, save_state

CARTPOLE, PENDULUM = EnvironmentSpec("CartPole-v1"), EnvironmentSpec("Pendulum-v1")
FIXED = replace(CARTPOLE, horizon="fixed")
SMALL = PpoSettings(steps_per_environment=32, epochs=2)
QUICK = AdversarialSettings(updates=2, batch_size=32, warm_up=64, warm_up_updates=3)


def balance(observations: Floats) -> Floats:
    return (observations @ np.array([0.1, 0.3, 1.0, 1.0], np.float32) > 0).astype(np.float32)


@pytest.fixture(scope="module")
def shown() -> Demonstrations:
    return demonstrate(PythonExpert(balance), CARTPOLE, 1, seed=2).subsampled(20)


def discriminator(settings: AdversarialSettings, spec: EnvironmentSpec = PENDULUM) -> Discriminator:
    return Discriminator(Environments(spec, 1, 0), settings, seed=0)


def test_the_loss_by_hand() -> None:
    """Weights 0 and last bias b: both logits are b, and nothing has a slope."""
    d = discriminator(AdversarialSettings(hidden=(8,)))
    d.params.zero_()
    d.network.layers(d.params)[-1][1].fill_(0.7)
    loss, ours, theirs = d.loss(d.params, torch.randn(5, 4), torch.randn(5, 4), torch.rand(5, 1))
    assert ours.tolist() == pytest.approx([0.7] * 5)
    assert theirs.tolist() == pytest.approx([0.7] * 5)
    assert float(loss.detach()) == pytest.approx(np.log(1 + np.exp(-0.7)) + np.log(1 + np.exp(0.7)), rel=1e-6)


def test_the_penalty_is_the_slope_between_the_sides() -> None:
    d = discriminator(AdversarialSettings(hidden=(8,), gradient_penalty=3.0))
    none = discriminator(AdversarialSettings(hidden=(8,), gradient_penalty=0.0))
    generator = torch.Generator().manual_seed(0)
    expert, learner = (torch.randn(5, 4, generator=generator) for _ in range(2))
    mix = torch.rand(5, 1, generator=generator)
    between = mix * expert + (1 - mix) * learner
    slopes = torch.zeros(5, 4)
    for k in range(4):
        step = 1e-2 * torch.eye(4)[k]
        up, down = (d.network(d.params, between + x)[:, 0] for x in (step, -step))
        slopes[:, k] = (up - down) / 2e-2
    losses = [x.loss(x.params, expert, learner, mix)[0].detach() for x in (d, none)]
    extra = float(losses[0] - losses[1])
    assert extra == pytest.approx(3 * float(slopes.square().sum(1).mean()), rel=1e-3)


def test_it_finds_the_odds_of_two_gaussians() -> None:
    """log p(x)/q(x) of N(1, 1) and N(0, 1) is x - 1/2; the action says nothing."""
    d = discriminator(AdversarialSettings(gradient_penalty=0.0, learning_rate=3e-3, batch_size=512))
    chance = np.random.default_rng(0)
    sides = [chance.normal(size=(20000, 4)).astype(np.float32) for _ in range(2)]
    sides[0][:, 0] += 1
    metrics = d.fit(*sides, updates=400, number=0)
    asked = np.zeros((5, 4), np.float32)
    asked[:, 0] = [-1, 0, 0.5, 1, 2]
    assert d.logits(asked) == pytest.approx(asked[:, 0] - 0.5, abs=0.3)
    assert metrics["discriminator/logit_expert"] > metrics["discriminator/logit_learner"]


@pytest.mark.parametrize("reward", ["logit", "softplus", "log"])
def test_rewards_are_what_they_are_called(reward: str, shown: Demonstrations) -> None:
    d = discriminator(AdversarialSettings(reward=reward), CARTPOLE)
    seen, acted = shown.joined("observations"), shown.joined("actions")
    chance = 1 / (1 + np.exp(-d.logits(d.pairs(seen, acted)).astype(np.float64)))
    wanted = {"logit": np.log(chance) - np.log(1 - chance), "softplus": -np.log(1 - chance), "log": np.log(chance)}
    paid = d(seen, acted, seen)
    assert paid == pytest.approx(wanted[reward], abs=1e-4)
    assert paid.dtype == np.float32


def test_pairs_are_one_hot_or_clipped() -> None:
    seen = np.zeros((2, 4), np.float32)
    pairs = discriminator(QUICK, CARTPOLE).pairs(seen, np.array([1, 0], np.float32))
    assert pairs[:, 4:].tolist() == [[0, 1], [1, 0]]
    wide = discriminator(QUICK).pairs(seen[:, :3], np.array([[9.0], [-0.5]], np.float32))
    assert wide[:, 3].tolist() == [2.0, -0.5]


def test_episodes_that_end_early_are_refused(shown: Demonstrations) -> None:
    for warm_up in (1, 512):  # in what the agent learns from, and before it
        settings = QUICK.model_copy(update={"warm_up": warm_up})
        agent = Ppo(Environments(CARTPOLE, 4, 0), PpoSettings(steps_per_environment=128, epochs=1), 0)
        trainer = Adversarial(shown, agent, settings, 0)
        with pytest.raises(ConfigError, match='horizon = "fixed"'):
            trainer.advance(0.0)
        meant = settings.model_copy(update={"variable_horizon": True})
        assert Adversarial(shown, agent, meant, 0).advance(0.0)[0].terminated.any()


def test_demonstrations_of_another_environment_are_refused(shown: Demonstrations) -> None:
    with pytest.raises(DataError, match="Pendulum"):
        Adversarial(shown, Ppo(Environments(PENDULUM, 2, 0), SMALL, 0), QUICK, 0)


def test_the_true_reward_is_read_by_nothing(shown: Demonstrations) -> None:
    """The same training where every fall costs a million: not a bit differs."""
    found = []
    for penalty in (1.0, 1e6):
        environments = Environments(replace(FIXED, penalty=penalty), 4, 0)
        trainer = Adversarial(shown, Ppo(environments, SMALL, 0), QUICK, 0)
        least = min(float(trainer.advance(0.0)[0].rewards.min()) for _ in range(4))
        assert least == 1 - penalty  # falls happened
        found.append((trainer.agent.actor.params.clone(), trainer.discriminator.params.clone()))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_the_scale_of_inputs_is_fixed_and_weighs_both_sides_alike(shown: Demonstrations) -> None:
    trainer = Adversarial(shown, Ppo(Environments(FIXED, 4, 0), SMALL, 0), QUICK, 0)
    trainer.advance(0.0)
    scale = trainer.discriminator.scale
    assert scale.count == 128
    mean = scale.mean.copy()
    trainer.advance(0.0)
    assert np.array_equal(scale.mean, mean)
    assert 0.5 * shown.joined("actions").mean() < mean[5] < 0.5 * shown.joined("actions").mean() + 0.5


def test_resumed_it_is_the_same(shown: Demonstrations, tmp_path: Path) -> None:
    def fresh() -> Adversarial:
        return Adversarial(shown, Ppo(Environments(FIXED, 4, 0), SMALL, 0), QUICK, 0)

    one, other = fresh(), fresh()
    one.advance(0.0)
    one.advance(0.1)
    tensors, meta = one.state()
    save_state(tmp_path, tensors=tensors, meta=meta)
    other.restore(*load_state(tmp_path))
    for done in (0.2, 0.3):
        first, second = (trainer.advance(done) for trainer in (one, other))
        assert np.array_equal(first[0].actions, second[0].actions)
        assert first[1] == second[1]
    for name, tensor in one.state()[0].items():
        assert torch.equal(tensor, other.state()[0][name]), name
