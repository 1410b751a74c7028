"""Segments of agents as clips in the browser: drawn when asked for, in parts, for whoever was asked."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from studio_cases import Running, make_study, running

from tropism.environments.making import EnvironmentSpec
from tropism.environments.segments import Segment
from tropism.environments.stepping import Environments
from tropism.feedback.records import Candidate, Provenance, Query, Task
from tropism.studio.settings import StudioSettings


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("clips")
    with running(make_study(folder / "s"), StudioSettings(solo=True)) as studio:
        yield studio


def segment(push: float) -> Segment:
    """The first ten steps of a pendulum that is pushed one way, to be played again."""
    environments = Environments(EnvironmentSpec("Pendulum-v1"), 1, seed=4)
    episode, actions = environments.place().episodes[0], np.full((10, 1), push, np.float32)
    observations, successors, rewards = [], [], []
    for action in actions:
        observations.append(environments.observations[0].copy())
        step = environments.step(action[None])
        successors.append(step.successors[0])
        rewards.append(step.rewards[0])
    environments.close()
    return Segment(
        environments.spec, np.stack(observations), actions, np.stack(successors), np.array(rewards), None,
        np.zeros((0, 1), np.float32), episode, 0, "secret-policy", 0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def asked(here: Running, tmp_path_factory: pytest.TempPathFactory) -> Query:
    return compared(here, tmp_path_factory.mktemp("kept"))


def compared(here: Running, folder: Path) -> Query:
    """A question about two segments; ``folder`` is empty."""
    for row in range(2):
        (folder / f"{row:05d}").mkdir()
        segment(4.0 * row - 2.0).write(folder / f"{row:05d}")
    artifact = here.studio.artifacts.put(folder)
    task = Task("train", {"environment": {"id": "Pendulum-v1"}, "goal": "swing up", "number": 0})
    held = [
        Candidate(task.id, "segment", {"artifact": artifact, "row": row, "true_return": -5544332}, Provenance("secret"))
        for row in range(2)
    ]
    query = Query(task.id, "comparison", tuple(c.id for c in held), (0, 1), 1)
    here.studio.log.put([task], held, [query])
    return query


def test_clips_of_a_question(here: Running, asked: Query) -> None:
    me = here.nobody().enter()
    answer = me.post("queue/claim", json={})
    (item,) = answer.json()["items"]
    assert item["task"] == {"kind": "segment", "environment": "Pendulum-v1", "goal": "swing up"}
    for secret in ("secret", "true_return", "5544332", "artifact"):
        assert secret not in answer.text
    clips = [candidate["clip"] for candidate in item["candidates"]]
    about = me.get(f"{here.base}{clips[0]['about']}").json()
    assert about.get("frames", 0) >= 10, about
    whole = me.get(f"{here.base}{clips[0]['h264']}")
    assert (whole.status_code, whole.headers["content-type"]) == (200, "video/mp4")
    assert whole.headers["cache-control"] == "private, max-age=3600"
    part = me.get(f"{here.base}{clips[0]['h264']}", headers={"Range": "bytes=10-29"})
    assert (part.status_code, part.content) == (206, whole.content[10:30])
    assert me.get(f"{here.base}{clips[0]['h264']}", headers={"Range": "bytes=99999999-"}).status_code == 416
    assert me.get(f"{here.base}{clips[1]['poster']}").content.startswith(b"\x89PNG")
    assert me.get(f"{here.base}{clips[0]['h264']}").content != me.get(f"{here.base}{clips[1]['h264']}").content
    again = me.post("queue/claim", json={}).json()["items"][0]
    assert (again["candidates"][0]["clip"]["fps"], again["candidates"][0]["clip"]["frames"]) == (
        about["rate"],
        about["frames"],
    )


def test_clips_of_what_comes_next_are_drawn_before_anybody_asks(tmp_path: Path) -> None:
    study = make_study(tmp_path / "s")
    (tmp_path / "kept").mkdir()
    with running(study, StudioSettings(solo=True)) as here:
        compared(here, tmp_path / "kept")
        deadline = time.monotonic() + 60
        while len(list((study / "clips").rglob("clip.json"))) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_a_killed_drawing_process_costs_no_clip(tmp_path: Path) -> None:
    study = make_study(tmp_path / "s")
    (tmp_path / "kept").mkdir()
    with running(study, StudioSettings(solo=True)) as here:
        clips, query = here.studio.clips, compared(here, tmp_path / "kept")
        places = [place for place in here.studio.presenter.shown([query])[0].clips if place is not None]
        assert clips.file(places[0], "clip.mp4").exists()
        assert clips._pool is not None
        for process in list(clips._pool._processes.values()):
            process.kill()
            process.join()
        shutil.rmtree(study / "clips")
        for place in places:
            clips._forget(place)
        assert clips.file(places[1], "clip.mp4").exists()
        pool = clips._pool
        assert clips.file(places[0], "clip.mp4").exists()
        assert clips._pool is pool  # one that works is kept


def test_only_its_files_and_only_for_whom_it_was_asked(here: Running, asked: Query) -> None:
    me = here.nobody().enter()
    (item,) = me.claim()
    base = item["candidates"][0]["clip"]["h264"].rpartition("/")[0]
    for name in ("segment.json", "..%2f..%2fstudy.toml", "clip.avi", "clip.json%00.mp4"):
        assert me.get(f"{here.base}{base}/{name}").status_code == 404
    for key in ("0", "3", "99999999999999999999", "x", "-1", "１"):
        place = base.rpartition("/")[0]
        assert me.get(f"{here.base}{place}/{key}/clip.mp4").status_code == 404
    assert here.person("admin").get(f"{here.base}{base}/clip.mp4").status_code == 403
    assert here.nobody().get(f"{here.base}{base}/clip.mp4").status_code == 401


def test_what_cannot_be_drawn_is_said(here: Running) -> None:
    task = Task("train", {"environment": {"id": "Pendulum-v1"}, "number": 1})
    lost = Candidate(task.id, "segment", {"artifact": "0" * 64, "row": 0}, Provenance("p"))
    query = Query(task.id, "rating", (lost.id,), (0,), 1)
    here.studio.log.put([task], [lost], [query])
    me = here.nobody().enter()
    (item,) = me.claim(kinds=["rating"])
    refused = me.get(f"{here.base}{item['candidates'][0]['clip']['h264']}")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "no_clip")
    assert "is missing" in refused.json()["error"]["message"]
