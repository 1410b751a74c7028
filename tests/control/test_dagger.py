"""DAgger: who acts, who labels, what is kept, and that it learns where the learner itself goes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tropism.control.behaviour_cloning import CloningSettings
from tropism.control.dagger import Dagger, DaggerSettings
from tropism.control.demonstrations import PythonExpert
from tropism.control.evaluate import evaluate
from tropism.control.networks import Floats
from tropism.control.policy import load_policy, save_policy
from tropism.environments.making import EnvironmentSpec
from tropism.environments.stepping import Environments
from tropism.runtime.checkpoints import load_state, save_state

CARTPOLE, PENDULUM = EnvironmentSpec("CartPole-v1"), EnvironmentSpec("Pendulum-v1")
QUICK = CloningSettings(updates=50)


def balance(observations: Floats) -> Floats:
    return (observations @ np.array([0.1, 0.3, 1.0, 1.0], np.float32) > 0).astype(np.float32)


def made(settings: DaggerSettings, seed: int = 0, count: int = 4) -> Dagger:
    return Dagger(PythonExpert(balance), Environments(CARTPOLE, count, seed), settings, seed)


def test_the_first_iteration_is_the_experts_and_labels_are_always() -> None:
    dagger = made(DaggerSettings(steps_per_environment=50, cloning=QUICK))
    steps, metrics = dagger.advance()
    assert metrics["dagger/beta"] == 1
    assert np.array_equal(steps.flat("actions"), balance(steps.flat("observations")))
    steps, metrics = dagger.advance()
    assert metrics["dagger/beta"] == 0
    own = dagger.labels[200:] == steps.flat("actions")
    assert 0 < own.mean() < 1  # the learner acts
    assert metrics["dagger/disagreement"] == pytest.approx(1 - own.mean())
    assert np.array_equal(dagger.observations[200:], steps.flat("observations"))
    assert np.array_equal(dagger.labels, balance(dagger.observations))  # the expert labels
    assert metrics["dagger/labels"] == 400


def test_mixing_falls_geometrically_and_by_steps() -> None:
    dagger = made(DaggerSettings(steps_per_environment=300, mixing="geometric", decay=0.6, cloning=QUICK), count=8)
    shares = []
    for _ in range(3):
        learner = dagger.learner
        steps, _ = dagger.advance()
        seen = steps.flat("observations")
        differs = learner.act(seen) != balance(seen)
        shares.append((steps.flat("actions") == balance(seen))[differs].mean())
        assert differs.sum() > 50
    assert shares == pytest.approx([1, 0.6, 0.36], abs=0.12)


def test_resumed_it_is_the_same(tmp_path: Path) -> None:
    settings = DaggerSettings(steps_per_environment=30, mixing="geometric", cloning=QUICK)
    one = made(settings)
    one.advance()
    tensors, meta = one.state()
    save_state(tmp_path, tensors=tensors, meta=meta)
    other = made(settings)
    other.restore(*load_state(tmp_path))
    for dagger in (one, other):
        dagger.advance()
        dagger.advance()
    assert np.array_equal(one.observations, other.observations)
    assert np.array_equal(one.learner.actor.params.numpy(), other.learner.actor.params.numpy())
    assert one.environments.steps == other.environments.steps == 360


def test_few_labels_are_enough_where_the_learner_goes(tmp_path: Path) -> None:
    dagger = made(DaggerSettings(steps_per_environment=25, cloning=CloningSettings(updates=500)))
    for _ in range(6):
        dagger.advance()
    assert len(dagger.labels) == 600
    assert evaluate(dagger, CARTPOLE, 20, seed=1).mean >= 475
    save_policy(tmp_path, dagger.policy(), CARTPOLE, {})
    seen = dagger.observations[:50]
    assert np.array_equal(load_policy(tmp_path).actor.act(seen), dagger.act(seen))


def test_continuous_actions_are_labelled_within_bounds() -> None:
    expert = PythonExpert(lambda seen: 9 * seen[:, 1:2])
    dagger = Dagger(expert, Environments(PENDULUM, 2, 0), DaggerSettings(steps_per_environment=40, cloning=QUICK), 0)
    for _ in range(2):
        steps, metrics = dagger.advance()
    assert np.abs(dagger.labels).max() == 2
    assert dagger.labels.shape == (160, 1)
    assert metrics["dagger/disagreement"] > 0
    assert np.abs(steps.actions).max() <= 2
