"""Environments against hand-made ones whose every step is known: ends, restarts, counts, resuming."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import tiny_environments  # noqa: F401 - registers them

from tropism.environments.making import EnvironmentSpec
from tropism.environments.stepping import Environments, Finished, Step, replay
from tropism.errors import ConfigError, ContractError


def walk(environments: Environments, steps: int, seed: int = 0) -> list[tuple[Any, Any, Step]]:
    """(observations acted on, actions, what came) of so many steps with random actions."""
    stream, found = np.random.default_rng(seed), []
    for _ in range(steps):
        if environments.discrete:
            actions = stream.integers(environments.actions, size=environments.count)
        else:
            actions = stream.uniform(-2, 2, (environments.count, environments.actions)).astype(np.float32)
        before = environments.observations.copy()
        found.append((before, actions, environments.step(actions)))
    return found


def test_trap_32_no_step_is_made_up_at_an_episodes_end() -> None:
    """Put back (Gymnasium's next-step autoreset): a transition from the last observation to a first one appears, and
    ``t`` of a successor is not one more than that of its observation."""
    environments = Environments(EnvironmentSpec("Tiny-v0", {"end": 4}), 3, seed=1)
    for seen, _, step in walk(environments, 20):
        assert (step.successors[:, 1] == seen[:, 1] + 1).all()
        assert (step.successors[:, 0] == seen[:, 0]).all()  # never another episode's number
        assert (step.rewards == step.successors[:, 1]).all()
    assert environments.take_finished() == [Finished(10.0, 4)] * 15  # 1 + 2 + 3 + 4, five episodes in each
    assert environments.take_finished() == []


@pytest.mark.parametrize(
    ("arguments", "steps", "length", "terminated"),
    [
        ({"end": 4}, 0, 4, True),
        ({"cut": 4}, 0, 4, False),
        ({}, 0, 10, False),
        ({}, 6, 6, False),
        ({"end": 6}, 6, 6, True),
    ],
)
def test_trap_33_termination_and_truncation_are_told_apart(
    arguments: dict[str, Any], steps: int, length: int, terminated: bool
) -> None:
    """At the limit too: an episode that terminates there has terminated. Put back (one flag for both): fails."""
    environments = Environments(EnvironmentSpec("Tiny-v0", arguments, steps=steps), 2, seed=1)
    for number, (_, _, step) in enumerate(walk(environments, 24), start=1):
        last = number % length == 0
        assert (step.terminated == (last and terminated)).all()
        assert (step.truncated == (last and not terminated)).all()


def test_trap_34_a_fixed_horizon_restarts_within_the_episode_and_pays() -> None:
    spec = EnvironmentSpec("Tiny-v0", {"end": 4}, horizon="fixed", penalty=100.0)
    environments = Environments(spec, 2, seed=1)
    for number, (seen, _, step) in enumerate(walk(environments, 30), start=1):
        inside = (number - 1) % 10 + 1  # steps of this episode
        fell = inside % 4 == 0
        assert not step.terminated.any()
        assert (step.truncated == (inside == 10)).all()
        assert (step.rewards == (4.0 - 100.0 if fell else seen[:, 1] + 1)).all()
        assert (step.successors[:, 1] == (0 if fell else seen[:, 1] + 1)).all()
    assert environments.take_finished() == [Finished(10 * 2 + 3.0 - 200.0, 10)] * 6


def test_staggered_first_episodes_end_one_after_another() -> None:
    """Put back (all begin together for ever): whatever is learned from at once is of one phase of an episode. What a
    shortened episode returned is not told."""
    spec = EnvironmentSpec("Tiny-v0", {}, horizon="fixed", steps=8)
    environments = Environments(spec, 3, seed=1, staggered=True)
    cuts = np.array([step.truncated for _, _, step in walk(environments, 24)])
    assert [(np.flatnonzero(column) + 1).tolist() for column in cuts.T] == [[3, 11, 19], [6, 14, 22], [8, 16, 24]]
    assert {finished.length for finished in environments.take_finished()} == {8}
    together = Environments(EnvironmentSpec("Tiny-v0", {}, steps=8), 3, seed=1, staggered=True)
    assert (np.array([step.truncated for _, _, step in walk(together, 8)]).any(1) == [False] * 7 + [True]).all()


def test_a_fixed_horizon_outlasts_an_environments_own_limit() -> None:
    """An environment that cuts its own episodes is restarted too, and there is nothing to pay for."""
    environments = Environments(EnvironmentSpec("Tiny-v0", {"cut": 3}, horizon="fixed", penalty=100.0), 1, seed=1)
    steps = [step for *_, step in walk(environments, 10)]
    assert [bool(step.truncated[0]) for step in steps] == [False] * 9 + [True]
    assert environments.take_finished() == [Finished(3 * 6 + 1.0, 10)]


def test_trap_35_steps_are_counted_where_they_are_taken() -> None:
    environments = Environments(EnvironmentSpec("Tiny-v0", {"end": 3}, horizon="fixed"), 4, seed=1)
    walk(environments, 25)
    received = sum(len(env.unwrapped.received) for env in environments._envs)  # type: ignore[attr-defined]
    assert environments.steps == received == 100


def test_trap_36_observations_are_those_returned_last() -> None:
    """Put back (the successor of an episode's last step is acted on): ``t`` there would be 4, not 0."""
    environments = Environments(EnvironmentSpec("Tiny-v0", {"end": 4}), 2, seed=1)
    for _, _, step in walk(environments, 12):
        ended = step.terminated | step.truncated
        own = np.stack([env.unwrapped._seen() for env in environments._envs])  # type: ignore[attr-defined]
        assert (environments.observations == own).all()
        assert (environments.observations[ended, 1] == 0).all()


def test_actions_are_clipped_and_categories_are_shifted() -> None:
    environments = Environments(EnvironmentSpec("Tiny-v0"), 1, seed=1)
    environments.step(np.array([[3.5]], np.float32))
    environments.step(np.array([[-0.25]], np.float32))
    own: Any = environments._envs[0].unwrapped
    assert [a.tolist() for a in own.received] == [[1.0], [-0.25]]
    assert own.action_space.contains(own.received[0])

    environments = Environments(EnvironmentSpec("Categories-v0"), 1, seed=1)
    assert environments.observation_size == 4
    assert environments.observations.tolist() == [[1, 0, 0, 0]]
    step = environments.step(np.array([2.0], np.float32))  # as policies give them: numbers from 0
    assert environments._envs[0].unwrapped.received == [7]  # type: ignore[attr-defined]
    assert step.successors.tolist() == [[0, 1, 0, 0]]


def test_reset_seeds_are_counted() -> None:
    """Different for every environment and episode, the same for the same seed."""

    def seeds(seed: int) -> list[list[int]]:
        environments = Environments(EnvironmentSpec("Tiny-v0", {"end": 2}), 2, seed)
        walk(environments, 6)
        return [env.unwrapped.seeds for env in environments._envs]  # type: ignore[attr-defined]

    one, again, other = seeds(1), seeds(1), seeds(2)
    assert one == again
    assert len({s for column in (*one, *other) for s in column}) == 16  # four resets in each of four


@pytest.mark.parametrize(
    "spec",
    [
        EnvironmentSpec("Tiny-v0", {"end": 4}),
        EnvironmentSpec("Tiny-v0", {"end": 3}, horizon="fixed"),
        EnvironmentSpec("Categories-v0"),
        EnvironmentSpec("CartPole-v1", horizon="fixed", steps=40),
        EnvironmentSpec("HalfCheetah-v5"),
    ],
    ids=lambda spec: f"{spec.id}-{spec.horizon}",
)
def test_resumed_environments_go_on_bit_for_bit(spec: EnvironmentSpec) -> None:
    """In the middle of episodes, through JSON, restarts within episodes included."""
    straight = Environments(spec, 2, seed=3, record_states=True, staggered=True)
    walk(straight, 17)
    position = json.loads(json.dumps(straight.position()))
    resumed = Environments(spec, 2, seed=3, record_states=True, staggered=True)
    walk(resumed, 5, seed=9)  # wherever it was before
    resumed.restore(position)
    assert resumed.steps == straight.steps
    assert np.array_equal(np.array(resumed.states), np.array(straight.states)) or straight.states[0] is None
    for (seen, _, step), (seen_, _, step_) in zip(walk(straight, 30), walk(resumed, 30), strict=True):
        assert np.array_equal(seen, seen_)
        assert np.array_equal(step.successors, step_.successors)
        assert np.array_equal(step.rewards, step_.rewards)
        assert np.array_equal(step.truncated, step_.truncated)
    assert straight.take_finished() == resumed.take_finished()
    assert straight.position() == resumed.position()


def test_an_environment_that_cannot_be_resumed_is_told() -> None:
    spec = EnvironmentSpec("Tiny-v0", {"hidden": True})
    environments = Environments(spec, 1, seed=3)
    walk(environments, 5)
    with pytest.raises(ContractError, match=r"Tiny-v0 went another way"):
        Environments(spec, 1, seed=3).restore(environments.position())


def test_an_episode_is_replayed_from_where_it_began() -> None:
    environments = Environments(EnvironmentSpec("Tiny-v0", {"end": 4}, horizon="fixed", steps=7), 2, seed=3)
    walk(environments, 9)
    place = environments.place()
    assert place.steps == 18
    assert [episode.number for episode in place.episodes] == [2, 2]
    assert [len(played) for played in place.played] == environments.lengths.tolist() == [2, 2]
    made = environments._made[1]
    *_, last = replay(made, place.episodes[1], place.played[1])
    assert np.array_equal(last, environments.observations[1])
    assert environments.steps == 18  # what has been seen before costs nothing


def test_unusable_environments_are_refused() -> None:
    with pytest.raises(ConfigError, match="not finite"):
        Environments(EnvironmentSpec("Sick-v0"), 1, seed=0)
    with pytest.raises(ConfigError, match="0 environments"):
        Environments(EnvironmentSpec("Tiny-v0"), 0, seed=0)
