"""Agents and rewards that see pictures: that they learn, keep bytes, go on bit for bit, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from pictures import DOT, PUSHED_DOT, SMALL_DOT, best
from tropism.control.algorithms import make_agent
from tropism.control.behaviour_cloning import CloningSettings, behaviour_cloning
from tropism.control.coverage import coverage
from tropism.control.demonstrations import PythonExpert, demonstrate, load_demonstrations, save_demonstrations
from tropism.control.evaluate import evaluate, random_returns
from tropism.control.fit_reward import RewardSection
from tropism.control.footage import film
from tropism.control.policy import load_policy, save_policy
from tropism.control.ppo import Ppo, PpoSettings
from tropism.control.preferences import Asking, PreferenceLearner, PreferenceSection
from tropism.control.queries import Chosen
from tropism.control.reward_network import load_reward
from tropism.control.reward_wrapper import LearnedRewardWrapper
from tropism.environments.making import EnvironmentSpec
from tropism.environments.stepping import Environments
from tropism.errors import ConfigError, ModelError
from tropism.feedback.asking import MemoryAsker
from tropism.feedback.oracles import Oracle
from tropism.runtime.checkpoints import load_state, save_state

AGENT = {"steps_per_environment": 32, "gamma": 0.9, "epochs": 4, "learning_rate": 1e-3, "hidden": [32]}
SMALL: dict[str, dict[str, Any]] = {
    "ppo": AGENT,
    "a2c": {"hidden": [16]},
    "reinforce": {"episodes": 3, "hidden": [16]},
    "dqn": {
        "steps_per_environment": 30, "learning_starts": 40, "buffer": 120, "target_every": 50, "n_steps": 3,
        "hidden": [16], "batch_size": 16,
    },
}  # fmt: skip
every_algorithm = pytest.mark.parametrize("name", SMALL)


def share(actor: Any, spec: EnvironmentSpec = DOT) -> float:
    """0: as random actions; 1: straight to where the dot shall be."""
    chance, most = random_returns(spec, 20, 1).mean, evaluate(PythonExpert(best), spec, 20, 1).mean
    return (evaluate(actor, spec, 20, 1).mean - chance) / (most - chance)


def trained(name: str, settings: dict[str, Any], steps: int) -> Any:
    agent = make_agent(name, Environments(DOT, 8, 0), settings, 0)
    while agent.environments.steps < steps:
        agent.advance(None, agent.environments.steps / steps)
    return agent


def test_ppo_learns_where_the_dot_shall_go() -> None:
    agent = Ppo(Environments(DOT, 8, 0), PpoSettings(**AGENT), 0)
    assert share(agent) < 0.5
    assert share(trained("ppo", AGENT, 4000)) > 0.9


@pytest.mark.parametrize(("name", "steps", "settings"), [
    ("a2c", 6000, {"gamma": 0.9, "learning_rate": 1e-3, "hidden": [32]}),
    ("reinforce", 10_000, {"gamma": 0.9, "hidden": [32], "episodes": 8}),
    ("dqn", 6000, {"gamma": 0.9, "hidden": [32], "learning_starts": 500, "target_every": 200, "train_every": 2,
                   "buffer": 6000, "batch_size": 32}),
])  # fmt: skip
def test_others_learn_it_too(name: str, steps: int, settings: dict[str, Any]) -> None:
    assert share(trained(name, settings, steps)) > 0.7  # one that sees nothing gets to 0


@every_algorithm
def test_an_agent_of_pictures_goes_on_bit_for_bit_and_comes_back(name: str, tmp_path: Path) -> None:
    def made(seed: int = 0) -> Any:
        return make_agent(name, Environments(DOT, 2, seed), SMALL[name], seed)

    straight, first = made(), made()
    for agent, updates in ((straight, 4), (first, 2)):
        for update in range(updates):
            steps, _ = agent.advance(None, update / 4)
            assert steps.observations.dtype == steps.successors.dtype == np.uint8
    tensors, meta = first.state()
    kept = {key: t.dtype for key, t in tensors.items() if key.endswith(("observations", "inputs", "successors"))}
    assert set(kept.values()) <= {torch.uint8}
    assert bool(kept) == (name in ("reinforce", "dqn"))
    save_state(tmp_path, tensors=tensors, meta=meta)
    second = made()
    second.restore(*load_state(tmp_path))
    for update in (2, 3):
        second.advance(None, update / 4)
    wanted, got = straight.state(), second.state()
    assert all(torch.equal(wanted[0][key], got[0][key]) for key in wanted[0])
    assert wanted[1] == got[1]

    (tmp_path / "policy").mkdir()
    save_policy(tmp_path / "policy", second.policy(), DOT, {})
    read, rows = load_policy(tmp_path / "policy"), second.environments.observations
    assert read.environment == DOT
    for seed in (None, 3):
        assert np.array_equal(read.actor.act(rows, seed), second.act(rows, seed))
    other = made(5)
    other.begin_with(*read.description)
    assert all(torch.equal(t, second.policy()[0][key]) for key, t in other.policy()[0].items())
    plain = make_agent(name, Environments(EnvironmentSpec("CartPole-v1"), 2, 0), {"hidden": SMALL[name]["hidden"]}, 0)
    with pytest.raises(ModelError, match="picture"):
        plain.begin_with(*read.description)


def test_clips_of_what_was_evaluated(tmp_path: Path) -> None:
    agent = make_agent("ppo", Environments(DOT, 2, 0), AGENT, 0)
    assert not film({"policy": agent}, DOT, 3, 0, 2, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["policy-1.mp4", "policy-2.mp4"]


def learner(
    total: int = 6000, spec: EnvironmentSpec = SMALL_DOT, asker: Any = None, asking: Asking | None = None, **reward: Any
) -> PreferenceLearner:
    agent = Ppo(Environments(spec, 8, 1), PpoSettings(**AGENT), 1)
    asked = PreferenceSection(segment_length=3, sessions=4, pretrain_steps=300)
    fitted = RewardSection(hidden=(32,), **reward)
    asking = asking or Asking(60, validation_share=0.125)
    return PreferenceLearner(agent, asking, asked, fitted, asker or MemoryAsker(Oracle(seed=1)), total, 1)


@pytest.fixture(scope="module")
def taught() -> PreferenceLearner:
    made = learner()
    while not made.finished:
        made.step()
    return made


def test_sixty_comparisons_of_pictures_teach_it(taught: PreferenceLearner) -> None:
    assert taught.answered == 60
    assert share(taught.agent, SMALL_DOT) > 0.75
    assert taught.questions.steps().dtype == torch.uint8
    found = coverage(taught.visited, taught.questions.judged())
    assert found["visited_covered"] > 0.5


def test_a_reward_of_pictures_comes_back_and_is_paid_elsewhere(taught: PreferenceLearner, tmp_path: Path) -> None:
    reward = taught.reward
    assert reward is not None
    reward.save(tmp_path)
    again, env = load_reward(tmp_path), gymnasium.make("Dot-v0", side=8, rows=[1, 5])
    steps = taught.pool.chunks[-1].steps
    rows = [steps.flat(name) for name in ("observations", "actions", "successors")]
    assert np.array_equal(reward(*rows), again(*rows))
    wrapped = LearnedRewardWrapper(env, again)
    before, _ = wrapped.reset(seed=0)
    after, paid, *_ = wrapped.step(2)
    assert paid == pytest.approx(
        float(reward(before.reshape(1, -1), np.full(1, 2, np.float32), after.reshape(1, -1))[0]), abs=1e-6
    )


@pytest.mark.parametrize("selection", ["disagreement", "k_centre"])
@pytest.mark.parametrize("spec", [DOT, PUSHED_DOT])
def test_it_goes_on_bit_for_bit(selection: str, spec: EnvironmentSpec, tmp_path: Path) -> None:
    """With actions of either kind, chosen questions, both forms fitted and successors read."""
    settings: dict[str, Any] = {"form": "auto", "successors": True, "fit_steps": 8, "members": 2}

    def made(asker: Any = None) -> PreferenceLearner:
        return learner(2600, spec, asker, Asking(24, "comparison", selection, 0.125), **settings)  # type: ignore[arg-type]

    whole, half = made(), made()
    while half.reward is None:
        half.step()
    tensors, meta = half.state()
    save_state(tmp_path, tensors=tensors, meta=meta)
    resumed = made(half.asker)
    resumed.restore(*load_state(tmp_path))
    for one in (whole, resumed):
        while not one.finished:
            one.step()
    assert torch.equal(whole.agent.actor.params, resumed.agent.actor.params)  # type: ignore[attr-defined]
    assert whole.questions.known().digest == resumed.questions.known().digest
    assert np.array_equal(whole.visited, resumed.visited)


def test_equal_segments_are_no_question() -> None:
    """A world of seven places shows the same steps over and over; a pair of them is passed over. Put back: the fit
    refuses a query that shows one candidate twice."""
    made = learner()
    while not made.sessions:
        made.step()
    places, before = made.pool.places(range(8)), len(made.questions.queries)
    rows = made.pool.rows(places)
    looks = [a.tobytes() + b.tobytes() for a, b in zip(rows.observations, rows.actions, strict=True)]
    twice = [looks.index(look) for look in looks]
    at = next(i for i, first in enumerate(twice) if first != i)
    equal = Chosen(made.pool, (places[[at]], places[[twice[at]]]))
    assert made.questions.put(equal, "comparison", "train", 0) == 0
    assert made.questions.put(Chosen(made.pool, (places[[at]], places[[at + 40]])), "comparison", "train", 0) == 1
    assert len(made.questions.queries) == before + 1


def test_demonstrations_of_pictures_are_cloned(tmp_path: Path) -> None:
    shown = demonstrate(PythonExpert(best), DOT, 20, 0)
    save_demonstrations(tmp_path, shown)
    assert load_demonstrations(tmp_path).joined("observations").dtype == np.uint8
    cloned = behaviour_cloning(shown, Environments(DOT, 1, 0), CloningSettings(updates=150, hidden=(16,)), 0)
    assert share(cloned.policy) > 0.7


def test_what_cannot_learn_from_pictures() -> None:
    with pytest.raises(ConfigError, match=r"sac cannot learn from the pictures of Dot-v0") as caught:
        make_agent("sac", Environments(PUSHED_DOT, 1, 0), {}, 0)
    assert "dqn" in caught.value.fix
    with pytest.raises(ConfigError, match="normalise_observations with the pictures") as caught:
        make_agent("ppo", Environments(DOT, 1, 0), {"normalise_observations": True}, 0)
    assert "255" in caught.value.fix
    with pytest.raises(ConfigError, match=r"a replay buffer of .* with pictures takes .* GiB") as caught:
        make_agent("dqn", Environments(DOT, 1, 0), {"buffer": 10**12}, 0)
    assert "set buffer to" in caught.value.fix
