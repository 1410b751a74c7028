"""Pictures as observations: given or drawn, sized, stacked, skipped; kept as bytes; replayed; what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from segment_cases import chunks
from test_rendering import needs_gl

from pictures import DOT
from tropism.environments.clips import ClipCache
from tropism.environments.images import averaging, numbers, numbers_size
from tropism.environments.making import EnvironmentSpec, make
from tropism.environments.rendering import Painter, View
from tropism.environments.segments import Segment
from tropism.environments.stepping import Environments
from tropism.errors import ConfigError, ContractError

HIDDEN = EnvironmentSpec("HiddenDot-v0", pixels={"size": 12, "stack": 2})
CARTPOLE = EnvironmentSpec("CartPole-v1", horizon="fixed", steps=12, pixels={"size": 20, "stack": 2})


def test_pictures_are_rows_of_bytes() -> None:
    environments = Environments(DOT, 2, seed=0)
    assert environments.picture == (12, 12, 1)
    assert environments.observations.dtype == np.uint8
    assert environments.observations.shape == (2, 144)
    before = environments.observations.copy()
    step = environments.step(np.full(2, 2))
    assert step.successors.dtype == np.uint8
    shown = [rows.reshape(12, 12) for rows in (before[0], step.successors[0])]
    assert (shown[0] > 0).sum() == (shown[1] > 0).sum() == 4  # two by two, moved one to the right
    assert np.array_equal(np.roll(shown[0], 1, axis=1), shown[1]) or np.array_equal(*shown)
    assert not np.array_equal(before, step.successors)


def test_what_an_environment_draws_is_what_is_seen() -> None:
    """Sized from 48 to 12, red made grey; a reset fills the stack, and then the newest is last."""
    environments, bare = Environments(HIDDEN, 1, seed=0), make(EnvironmentSpec("HiddenDot-v0"), render=True).env
    assert environments.picture == (12, 12, 2)
    first = environments.observations[0].reshape(12, 12, 2)
    bare.reset(seed=environments._episode(0).reset_seed())
    drawn: Any = bare.render()
    assert np.array_equal(first[..., 0], np.rint(drawn[::4, ::4, 0] * np.float32(0.299)))
    assert first.max() == 76  # 0.299 · 255
    assert np.array_equal(first[..., 0], first[..., 1])
    second = environments.step(np.full(1, 2)).successors[0].reshape(12, 12, 2)
    third = environments.step(np.full(1, 0)).successors[0].reshape(12, 12, 2)
    assert np.array_equal(second[..., 0], first[..., 1])
    assert np.array_equal(third[..., 0], second[..., 1])
    assert not np.array_equal(second[..., 0], second[..., 1])


def test_skipped_steps() -> None:
    """Rewards are summed, of flickering pictures none is lost, and what ends ends."""
    made = make(EnvironmentSpec("Flicker-v0", pixels={"size": 12, "stack": 1, "skip": 2, "grey": False}))
    assert made.picture == (12, 12, 3)
    assert made.steps == 10  # of 20
    assert made.env.metadata["render_fps"] == 15
    made.env.reset(seed=0)
    for ended in (False, False, True):  # steps 2, 4 and 5, of which the last shows nothing
        seen, reward, terminated, _, _ = made.env.step(1)
        assert terminated == ended
        assert reward == (1.0 if ended else 2.0)
        assert seen[..., 0].max() == (0 if ended else 255)
        assert not seen[..., 1:].any()
    alone = make(EnvironmentSpec("Flicker-v0", pixels={"size": 12, "stack": 1})).env
    alone.reset(seed=0)
    assert not alone.step(1)[0].any()
    assert make(EnvironmentSpec("Flicker-v0", pixels={"size": 12, "skip": 3})).steps == 7


def test_every_pixel_counts_equally() -> None:
    for length, size in ((12, 4), (400, 84), (7, 9), (5, 5)):
        weights = averaging(length, size)
        assert np.allclose(weights.sum(1), 1, atol=1e-6)
        assert np.allclose(weights.sum(0), size / length, atol=1e-6)
    assert np.allclose(averaging(4, 2) @ [1, 3, 10, 20], [2, 15])
    assert np.allclose(averaging(3, 2) @ [3, 6, 9], [4, 8])  # half of the middle one goes to each


@pytest.mark.parametrize("spec", [DOT, HIDDEN, CARTPOLE])
def test_running_episodes_are_found_again(spec: EnvironmentSpec) -> None:
    environments, actions = Environments(spec, 2, seed=1), np.random.default_rng(0).integers(2, size=(15, 2))
    for row in actions:
        environments.step(row)
    position = json.loads(json.dumps(environments.position()))
    assert len(json.dumps(position)) < 2000  # pictures are not in it
    again = Environments(spec, 2, seed=1)
    again.restore(position)
    assert np.array_equal(again.observations, environments.observations)
    for row in actions[:8]:
        one, other = environments.step(row), again.step(row)
        assert np.array_equal(one.successors, other.successors)
    with pytest.raises(ContractError, match="another way"):
        Environments(spec, 2, seed=2).restore(position)


@pytest.mark.parametrize("spec", [HIDDEN, CARTPOLE])
def test_segments_of_pictures_are_kept_and_shown(spec: EnvironmentSpec, tmp_path: Path) -> None:
    environments = Environments(spec, 2, seed=2, record_states=True)
    (chunk,) = chunks(environments, 1, 10)
    segment = chunk.cut(3, 1, 4)
    assert (segment.states is None) == (spec is HIDDEN)
    segment.write(tmp_path)
    read = Segment.read(tmp_path)
    assert read.environment == spec
    assert read.observations.dtype == read.successors.dtype == np.uint8
    assert np.array_equal(read.observations, segment.observations)
    with Painter(spec, View(96, 96)) as painter:
        frames = painter.frames(read)
    assert frames.shape[0] == 4 // painter.stride
    assert frames.std() > 5
    if spec is HIDDEN:  # what is shown is what was seen, larger
        shown = frames[0, 4::8, 4::8, 0] > 127
        assert np.array_equal(shown, segment.observations[0].reshape(12, 12, 2)[..., 1] > 38)
        with ClipCache(tmp_path / "clips") as cache:
            assert cache.clip(read).frames == 4


@needs_gl
def test_mujoco_is_drawn_as_its_clips_are() -> None:
    spec = EnvironmentSpec("Reacher-v5", horizon="fixed", pixels={"size": 33, "stack": 1, "grey": False})
    environments = Environments(spec, 2, seed=0)
    assert environments.picture == (33, 33, 3)
    for _ in range(3):
        step = environments.step(np.array([[1.0, -1.0], [-1.0, 1.0]], np.float32))
    assert not np.array_equal(*step.successors)  # each draws itself
    assert step.successors.std() > 10
    again = Environments(spec, 2, seed=0)
    again.restore(environments.position())
    assert np.array_equal(again.observations, environments.observations)
    environments.close()
    again.close()


def test_the_users_reward_reads_the_environments_own_observation(tmp_path: Path) -> None:
    (tmp_path / "wanted.py").write_text("def angle(env, action, seen):\n    return float(seen[2])\n")
    spec = EnvironmentSpec("CartPole-v1", reward=f"{tmp_path / 'wanted.py'}:angle", pixels={"size": 16, "skip": 2})
    step = Environments(spec, 1, seed=0).step(np.zeros(1))
    plain = Environments(EnvironmentSpec("CartPole-v1"), 1, seed=0)
    angles = [plain.step(np.zeros(1)).successors[0, 2] for _ in range(2)]
    assert step.rewards[0] == pytest.approx(sum(angles))


@pytest.mark.parametrize(
    ("spec", "problem", "fix"),
    [
        (EnvironmentSpec("Shaped-v0", {"shape": [4, 84, 84]}), "channels first", "channels last"),
        (EnvironmentSpec("Shaped-v0", {"shape": [4, 84, 84]}, pixels={}), "channels first", "channels last"),
        (EnvironmentSpec("Shaped-v0", {"shape": [4, 20, 3]}), "4 x 20", "8 pixels"),
        (EnvironmentSpec("Shaped-v0", {"shape": [9, 9, 3, 3]}), "observation space Box", "uint8"),
        (EnvironmentSpec("Shaped-v0", {"shape": [9, 9, 3], "dtype": "float32"}), "observation space Box", "uint8"),
        (EnvironmentSpec("Shaped-v0", {"shape": [9, 9, 3], "dtype": "int16"}), "observation space Box", "uint8"),
        (EnvironmentSpec("Blind-v0", pixels={}), "observes no pictures", "rgb_array"),
        (EnvironmentSpec("HiddenDot-v0", pixels={"sise": 84}), "environment.pixels.sise", "size"),
        (EnvironmentSpec("HiddenDot-v0", pixels={"size": 4}), "environment.pixels.size = 4", "size"),
        (EnvironmentSpec("HiddenDot-v0", pixels={"stack": 0}), "environment.pixels.stack = 0", "stack"),
    ],
)  # fmt: skip
def test_pictures_that_cannot_be_had(spec: EnvironmentSpec, problem: str, fix: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(spec)
    assert problem in caught.value.problem
    assert fix in caught.value.fix


def test_pixels_stand_in_for_any_observation() -> None:
    """A dictionary is no observation here; a picture of the same world is."""
    made = make(EnvironmentSpec("Odd-v0", {"odd": "dictionary"}, pixels={"size": 20, "stack": 1}))
    assert made.picture == (20, 20, 1)
    assert made.env.reset(seed=0)[0].shape == (20, 20, 1)


def test_a_spec_without_pixels_is_written_as_ever() -> None:
    plain = EnvironmentSpec("CartPole-v1")
    assert set(plain.as_json()) == {"id", "arguments", "horizon", "steps", "penalty", "reward"}
    for spec in (plain, CARTPOLE):
        assert EnvironmentSpec(**json.loads(json.dumps(spec.as_json()))) == spec


def test_thumbnails() -> None:
    rows = np.random.default_rng(0).integers(256, size=(3, 300, 16 * 24 * 2), dtype=np.uint8)
    made = numbers(rows, (16, 24, 2))
    assert made.shape == (3, 300, numbers_size(16 * 24 * 2, (16, 24, 2))) == (3, 300, 128)
    means = rows.reshape(3, 300, 8, 2, 8, 3, 2).mean((3, 5)) / 255
    assert np.allclose(made.reshape(3, 300, 2, 8, 8).transpose(0, 1, 3, 4, 2), means, atol=1e-5)
    plain = np.ones((2, 5), np.float32)
    assert numbers(plain, None) is plain
