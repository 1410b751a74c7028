"""Clips: files that a browser plays, made once for each content."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from segment_cases import chunks

from tropism.environments import clips as module
from tropism.environments.clips import ClipCache, write_clip, write_picture
from tropism.environments.making import EnvironmentSpec
from tropism.environments.rendering import Painter, View
from tropism.environments.segments import Segment
from tropism.environments.stepping import Environments
from tropism.errors import DataError, StoreError

TINY = EnvironmentSpec("Tiny-v0", {"end": 7}, horizon="fixed")


def segments(spec: EnvironmentSpec = TINY, record: bool = False) -> list[Segment]:
    """Two different ones, of nine steps."""
    (chunk,) = chunks(Environments(spec, 2, seed=2, record_states=record), 1, 10)
    return [chunk.cut(0, n, 9) for n in range(2)]


def moving(count: int = 12, height: int = 48, width: int = 64) -> np.ndarray:
    """A bright square that crosses the picture."""
    frames = np.full((count, height, width, 3), 40, np.uint8)
    for i in range(count):
        frames[i, 10:26, 4 * i : 4 * i + 16] = (230, 120, 20)
    return frames


def decoded(path: Path) -> tuple[np.ndarray, Any, float]:
    """Pictures, the stream's description, its rate."""
    import av

    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(stream)])
        return frames, (stream.codec_context.name, stream.codec_context.pix_fmt), float(stream.average_rate)


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "h264"), ("a.webm", "vp9")])
def test_clips_show_what_was_drawn(name: str, codec: str, tmp_path: Path) -> None:
    frames = moving()
    write_clip(frames, 31.25, tmp_path / name)
    shown, (used, form), rate = decoded(tmp_path / name)
    assert codec in used
    assert form == "yuv420p"  # what browsers' decoders take
    assert rate == pytest.approx(31.25, rel=0.01)
    assert shown.shape == frames.shape
    assert np.abs(shown.astype(int) - frames).mean() < 8
    for one, two in zip(shown, frames, strict=True):  # every picture in its place
        errors = [np.abs(one.astype(int) - frame).mean() for frame in frames]
        assert np.argmin(errors) == np.argmin([np.abs(two.astype(int) - frame).mean() for frame in frames])


@pytest.mark.parametrize("name", ["a.mp4", "a.webm"])
def test_equal_pictures_give_equal_bytes(name: str, tmp_path: Path) -> None:
    """Whatever lies in the memory that codecs are given. Put back (x264's defaults): other bytes every few times."""
    stream, found = np.random.default_rng(0), set()
    for _ in range(12):
        dirt = [stream.integers(0, 255, size, np.uint8) for size in stream.integers(50, 100_000, 200).tolist()]
        del dirt
        write_clip(moving(), 31.25, tmp_path / name)
        found.add((tmp_path / name).read_bytes())
    assert len(found) == 1


def test_an_mp4_can_be_played_while_it_loads(tmp_path: Path) -> None:
    write_clip(moving(), 30, tmp_path / "a.mp4")
    written = (tmp_path / "a.mp4").read_bytes()
    assert written.index(b"moov") < written.index(b"mdat")


def test_a_still_picture_is_exact(tmp_path: Path) -> None:
    import av

    write_picture(moving()[3], tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with av.open(str(tmp_path / "a.png")) as file:
        (frame,) = file.decode(video=0)
        assert np.array_equal(frame.to_ndarray(format="rgb24"), moving()[3])


@pytest.mark.parametrize(
    ("frames", "name"),
    [(moving(), "a.gif"), (moving()[:0], "a.mp4"), (moving()[:, :47], "a.mp4"), (moving()[..., 0], "a.webm")],
)
def test_what_no_codec_takes_is_refused(frames: np.ndarray, name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        write_clip(frames, 30, tmp_path / name)


def test_clips_are_made_once_and_only_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Segment] = []
    own = Painter.frames

    def counted(self: Painter, segment: Segment) -> np.ndarray:
        drawn.append(segment)
        return own(self, segment)

    monkeypatch.setattr(Painter, "frames", counted)
    one, two = segments()
    with ClipCache(tmp_path, View(40, 40)) as cache:
        assert cache.find(one) is None
        assert not list(tmp_path.iterdir())
        clip = cache.clip(one)
        assert (clip.frames, clip.width, clip.height, clip.rate) == (9, 40, 20, 10.0)
        assert len(decoded(clip.mp4)[0]) == len(decoded(clip.webm)[0]) == 9
        assert clip.still.is_file()
        assert cache.clip(one) == clip == cache.find(one)
        assert len(drawn) == 1
        assert cache.clip(two).key != clip.key
        assert len(drawn) == 2
    with ClipCache(tmp_path, View(40, 40)) as another:
        assert another.clip(one) == clip
        assert len(drawn) == 2
    assert not list((tmp_path / "tmp").iterdir())


def test_the_key_is_of_all_that_is_seen_and_of_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put back (a key without the view, the states or the renderer): an old picture is shown for a new one."""
    cache = ClipCache(tmp_path, View(40, 40))
    for record, spec in ((False, TINY), (True, EnvironmentSpec("Pendulum-v1"))):
        one, two = segments(spec, record)
        key = cache.key(one)
        same = [
            replace(one, rewards=one.rewards + 1, policy="other", step=1),
            replace(one, environment=replace(spec, penalty=9.0)),
        ]
        other = [two, *(replace(one, environment=replace(spec, arguments={"end": end})) for end in (8, np.inf))]
        if record:
            assert one.states is not None
            other.append(replace(one, states=np.nextafter(one.states, 9)))
            same.append(replace(one, observations=one.observations + 1))
        else:
            other.append(replace(one, actions=one.actions / 2))
        assert {cache.key(segment) for segment in same} == {key}
        assert key not in {cache.key(segment) for segment in other}
        for view in (View(42, 40), View(40, 40, camera="track"), View(40, 40, rate=5)):
            assert ClipCache(tmp_path, view).key(one) != key
        with monkeypatch.context() as patch:
            patch.setattr(module, "RENDERER", module.RENDERER + 1)
            assert cache.key(one) != key


def test_a_damaged_clip_is_told(tmp_path: Path) -> None:
    one, _ = segments()
    with ClipCache(tmp_path, View(40, 40)) as cache:
        clip = cache.clip(one)
        (clip.folder / "clip.json").write_text("{")
        with pytest.raises(StoreError, match="damaged"):
            cache.clip(one)


def test_a_clip_that_fails_leaves_nothing(tmp_path: Path) -> None:
    spec = EnvironmentSpec("Blind-v0")
    (chunk,) = chunks(Environments(spec, 1, seed=2), 1, 10)
    with ClipCache(tmp_path) as cache, pytest.raises(Exception, match="cannot draw itself"):
        cache.clip(chunk.cut(0, 0, 5))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
