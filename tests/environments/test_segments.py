"""Segments: where they can be cut, what they keep, and that they come back from their folder."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from segment_cases import chunks

from tropism.digests import digest_folder
from tropism.environments.making import EnvironmentSpec, make
from tropism.environments.segments import Segment, check_length, draw, places
from tropism.environments.stepping import Environments, replay
from tropism.errors import ConfigError, DataError


def test_trap_32_segments_lie_within_one_episode() -> None:
    """All places that do, and no other one, by trying each. Put back (any window): segments of several numbers."""
    stream = np.random.default_rng(0)
    ends = stream.random((40, 3)) < 0.15
    for length in (1, 2, 5, 40, 41):
        found = {tuple(place) for place in places(ends, length).tolist()}
        expected = {
            (t, n) for t, n in product(range(40 - length + 1), range(3)) if not ends[t : t + length - 1, n].any()
        }
        assert found == expected
    environments = Environments(EnvironmentSpec("Tiny-v0", {"end": 7}), 2, seed=1)
    (chunk,) = chunks(environments, 1, 50)
    for t, n in chunk.places(5).tolist():
        segment = chunk.cut(t, n, 5)
        assert len(set(segment.observations[:, 0].tolist())) == 1
        assert (np.diff(segment.observations[:, 1]) == 1).all()
    with pytest.raises(DataError, match="spans two episodes"):
        chunk.cut(4, 0, 5)  # steps 5, 6, 7 and two of the next one
    with pytest.raises(DataError, match="leaves the chunk"):
        chunk.cut(48, 0, 5)


@pytest.mark.parametrize(
    ("spec", "record"),
    [
        (EnvironmentSpec("Tiny-v0", {"end": 7}), False),
        (EnvironmentSpec("Tiny-v0", {"end": 3}, horizon="fixed"), False),
        (EnvironmentSpec("Categories-v0"), False),
        (EnvironmentSpec("CartPole-v1", horizon="fixed", steps=45), False),
        (EnvironmentSpec("Pendulum-v1"), True),
        (EnvironmentSpec("HalfCheetah-v5", steps=30), False),
    ],
    ids=lambda value: f"{value.id}-{value.horizon}" if isinstance(value, EnvironmentSpec) else str(value),
)
def test_a_segment_says_how_it_came_about(spec: EnvironmentSpec, record: bool) -> None:
    """Wherever it is cut, in whichever chunk: replaying its episode, it is met again, bit for bit."""
    environments = Environments(spec, 2, seed=6, record_states=record)
    made, length = make(spec), 4
    for chunk in chunks(environments, 3, 33):
        for t, n in draw(chunk.places(length), 6, seed=1).tolist():
            segment = chunk.cut(t, n, length)
            assert len(segment) == length
            assert segment.policy == "policy-1"
            assert segment.step == chunk.before.steps + 2 * t
            assert segment.returned == pytest.approx(float(chunk.steps.rewards[t : t + length, n].sum()))
            if record:
                assert segment.states is not None
                assert segment.played is None
                assert segment.states.shape == (length, 2)
                continue
            assert segment.played is not None
            assert segment.episode is not None
            seen = list(replay(made, segment.episode, np.concatenate([segment.played, segment.actions])))
            assert np.array_equal(np.stack(seen[segment.start : -1]), segment.observations)
            assert np.array_equal(seen[-1], segment.successors[-1])


def test_a_simulator_without_states_is_replayed() -> None:
    """Though states were asked for."""
    (chunk,) = chunks(Environments(EnvironmentSpec("Tiny-v0"), 1, seed=1, record_states=True), 1, 10)
    segment = chunk.cut(3, 0, 5)
    assert segment.states is None
    assert segment.played is not None
    assert len(segment.played) == segment.start == 3


def test_segments_are_copies() -> None:
    environments = Environments(EnvironmentSpec("Tiny-v0"), 1, seed=1)
    (chunk,) = chunks(environments, 1, 10)
    segment = chunk.cut(0, 0, 5)
    chunk.steps.observations[:] = 7
    assert segment.observations[3, 1] == 3


@pytest.mark.parametrize("record", [True, False])
def test_a_segment_comes_back_from_its_folder(record: bool, tmp_path: Path) -> None:
    environments = Environments(EnvironmentSpec("Pendulum-v1", {"g": 9.0}), 2, seed=6, record_states=record)
    (chunk,) = chunks(environments, 1, 30)
    segment = chunk.cut(11, 1, 9)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        segment.write(tmp_path / name)
    assert digest_folder(tmp_path / "one") == digest_folder(tmp_path / "two")
    read = Segment.read(tmp_path / "one")
    assert read.environment == segment.environment
    assert (read.episode, read.start, read.policy, read.step) == (segment.episode, 11, "policy-1", 22)
    for name in ("observations", "actions", "successors", "rewards", "states", "played"):
        one, two = getattr(read, name), getattr(segment, name)
        assert (one is None) == (two is None)
        assert one is None or (one.dtype == two.dtype and np.array_equal(one, two))


def test_folders_that_are_no_segments_are_refused(tmp_path: Path) -> None:
    environments = Environments(EnvironmentSpec("Tiny-v0"), 1, seed=1)
    (chunk,) = chunks(environments, 1, 10)
    segment = chunk.cut(2, 0, 5)
    with pytest.raises(DataError, match="is no segment"):
        Segment.read(tmp_path)
    segment.write(tmp_path)
    about = json.loads((tmp_path / "segment.json").read_text())
    for broken in ({**about, "format": 99}, {**about, "episode": {"seed": 1}}, {**about, "start": 3}):
        (tmp_path / "segment.json").write_text(json.dumps(broken))
        with pytest.raises(DataError):
            Segment.read(tmp_path)
    (tmp_path / "segment.json").write_text(json.dumps(about))
    (tmp_path / "segment.safetensors").write_bytes(b"\x08")
    with pytest.raises(DataError, match="is no segment"):
        Segment.read(tmp_path)
    with pytest.raises(DataError, match="JSON"):
        replace(segment, environment=EnvironmentSpec("Tiny-v0", {"space": float("inf")})).write(tmp_path)


def test_arrays_that_do_not_belong_together_are_refused() -> None:
    environments = Environments(EnvironmentSpec("Tiny-v0"), 1, seed=1)
    (chunk,) = chunks(environments, 1, 10)
    segment = chunk.cut(2, 0, 5)
    for change in (
        {"actions": segment.actions[:4]},
        {"successors": segment.successors[:, :2]},
        {"states": np.zeros((4, 2))},
        {"played": None},
        {"played": segment.actions[:1]},
        {"episode": None},
    ):
        with pytest.raises(DataError):
            replace(segment, **change)  # type: ignore[arg-type]


def test_lengths_that_no_episode_has_are_refused() -> None:
    check_length(10, 10)
    check_length(10, 0)
    for length, horizon in ((11, 10), (0, 10), (0, 0)):
        with pytest.raises(ConfigError, match=f"segments of {length} steps"):
            check_length(length, horizon)
    with pytest.raises(ConfigError):
        places(np.zeros((5, 1), bool), 0)


def test_drawing_is_without_replacement_and_by_seed() -> None:
    found = places(np.zeros((30, 2), bool), 3)
    drawn = draw(found, 56, seed=1)
    assert len({tuple(place) for place in drawn.tolist()}) == 56 == len(found)
    assert np.array_equal(drawn, draw(found, 56, seed=1))
    assert not np.array_equal(drawn, draw(found, 56, seed=2))
    with pytest.raises(ConfigError, match="there are 56 places"):
        draw(found, 57, seed=1)
